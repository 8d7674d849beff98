//! Which cluster key seals the authority's secrets, and sealing them anew with the first configured one.

use std::collections::BTreeMap;

use catalog::{Catalog, Resealed};
use wire::cluster_key::{ClusterKeys, SealError};

use super::SealedPart;

/// Says which cluster keys the secrets of the mesh are sealed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealing {
    /// The key that this server seals with.
    pub(crate) primary: String,
    /// The other key that this server opens with.
    pub(crate) previous: Option<String>,
    /// How many secrets each key seals.
    pub(crate) sealed_with: BTreeMap<String, usize>,
}

impl Sealing {
    /// Returns how many secrets are sealed with another key than the primary one.
    pub(crate) fn left(&self) -> usize {
        self.sealed_with.iter().filter(|(key, _)| **key != self.primary).map(|(_, count)| count).sum()
    }
}

/// Counts the secrets by the key that sealed them.
pub(crate) fn sealing(cluster_keys: &ClusterKeys, catalog: &Catalog) -> Sealing {
    let mut sealed_with = BTreeMap::new();
    for (_, _, sealed) in catalog.sealed_secrets() {
        *sealed_with.entry(sealed.key_id.clone()).or_insert(0) += 1;
    }
    Sealing {
        primary: cluster_keys.primary.key_id(),
        previous: cluster_keys.previous.as_ref().map(wire::cluster_key::ClusterKey::key_id),
        sealed_with,
    }
}

/// Seals anew, with the primary key, whatever is sealed with another one.
///
/// # Errors
///
/// [`SealError`] for the first secret that no configured key opens; then none is sealed anew.
pub(crate) fn resealed(cluster_keys: &ClusterKeys, catalog: &Catalog) -> Result<Vec<Resealed>, SealError> {
    let Some(mesh) = catalog.mesh() else { return Ok(Vec::new()) };
    let primary = cluster_keys.primary.key_id();
    let stale = catalog.sealed_secrets().filter(|(_, _, sealed)| sealed.key_id != primary);
    stale
        .map(|(of, id, sealed)| {
            let context = SealedPart::of(of).context(&mesh.cluster_id, id);
            let opened = cluster_keys.open(&context, sealed)?;
            Ok(Resealed {
                of,
                id: id.to_owned(),
                replaces_nonce: sealed.nonce.clone(),
                sealed: cluster_keys.seal(&context, &opened),
            })
        })
        .collect()
}
