//! Config entries: documents whose kind says what they hold.

use super::service_intentions::{SERVICE_INTENTIONS, ServiceIntentions};
use super::{MeshConfigEntry, mesh_entry::MESH};
use crate::decode::{DecodeError, Fields, Shape};

/// The kinds that something carries out.
pub const CONFIG_KINDS: [&str; 2] = [MESH, SERVICE_INTENTIONS];

/// Writes a config entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigEntry {
    /// Of kind `mesh`.
    Mesh(MeshConfigEntry),
    /// Of kind `service-intentions`.
    ServiceIntentions(ServiceIntentions),
}

impl Shape for ConfigEntry {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        // The kind decides what everything else means, so it comes first.
        let kind: String = fields.required("Kind")?;
        match kind.as_str() {
            MESH => MeshConfigEntry::read_rest(fields).map(Self::Mesh),
            SERVICE_INTENTIONS => ServiceIntentions::read_rest(fields).map(Self::ServiceIntentions),
            _ => {
                let reason = format!(
                    "weft carries out no entries of kind `{}` yet; those there are: {}",
                    kind.escape_debug(),
                    CONFIG_KINDS.join(", ")
                );
                Err(fields.refuse("Kind", reason))
            }
        }
    }
}
