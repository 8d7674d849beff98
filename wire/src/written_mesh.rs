//! A mesh as documents write it: what servers would hold if somebody wrote these config entries and nothing else.

use catalog::{
    Actor, Catalog, CatalogIndex, Command, ConfigChange, ENVELOPE_VERSION, Envelope, Namespace, Outcome, Refusal,
    RequestId, Timestamp,
};

use crate::consul::ConfigEntry;
use crate::crypto;
use crate::decode::DecodeError;

/// Explains why a document cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WrittenMeshError {
    /// A name in it is none.
    #[error("`{document}` cannot be read")]
    Read {
        /// Which document.
        document: String,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// Servers would refuse it.
    #[error("`{document}` would be refused: {refusal}")]
    Refused {
        /// Which document.
        document: String,
        /// Why.
        refusal: Box<Refusal>,
    },
}

impl ConfigEntry {
    /// Returns the command that writes the entry. Names without a namespace are of `current`.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if a name is none.
    pub fn into_command(self, current: &Namespace, compare: Option<CatalogIndex>) -> Result<Command, DecodeError> {
        Ok(match self {
            Self::Mesh(entry) => Command::WriteMesh { entry: entry.into_entry()?, compare },
            Self::ServiceIntentions(entry) => Command::Policy { change: entry.into_change(current, compare)? },
            Self::Traffic(entry) => {
                let entry = Box::new(entry.into_entry(current)?);
                Command::Config { change: ConfigChange::Write { entry, compare } }
            }
        })
    }
}

/// Writes documents, each with a name for errors, into an empty catalog: the mesh first, then what shapes traffic, then rules.
///
/// # Errors
///
/// [`WrittenMeshError`] names the first document that servers would refuse.
pub fn written_mesh(
    documents: impl IntoIterator<Item = (String, ConfigEntry)>,
    namespace: &Namespace,
    now: Timestamp,
) -> Result<Catalog, WrittenMeshError> {
    let mut documents: Vec<(String, ConfigEntry)> = documents.into_iter().collect();
    documents.sort_by_key(|(_, entry)| match entry {
        ConfigEntry::Mesh(_) => 0,
        ConfigEntry::Traffic(_) => 1,
        ConfigEntry::ServiceIntentions(_) => 2,
    });
    let mut catalog = Catalog::default();
    for ((document, entry), number) in documents.into_iter().zip(1..) {
        let command = match entry.into_command(namespace, None) {
            Ok(command) => command,
            Err(source) => return Err(WrittenMeshError::Read { document, source }),
        };
        if let Err(refusal) = command.validate() {
            return Err(WrittenMeshError::Refused { document, refusal: Box::new(refusal) });
        }
        let envelope = Envelope {
            version: ENVELOPE_VERSION,
            request_id: RequestId::try_from(format!("document-{number}")).expect("a word and a number"),
            actor: Actor::ClusterKey,
            source_address: None,
            proposed_at: now,
            command,
        };
        if let Outcome::Refused(refusal) = catalog.apply(CatalogIndex(number), &envelope, crypto::sha256).outcome {
            return Err(WrittenMeshError::Refused { document, refusal: Box::new(refusal) });
        }
    }
    Ok(catalog)
}
