//! Leaf certificates: one for the agent itself and one for each local service.
//!
//! Keys are made here and never leave.

pub mod renewal;

use std::sync::Arc;

use catalog::{SpiffeId, Timestamp};
use serde::{Deserialize, Serialize};
use wire::agent_protocol::{Leaf, Subject};
use wire::crypto::Secret;
use wire::pki::LeafKey;
use wire::tls::{ExpectedPeer, PeerRejected, SpiffeVerifier, TlsIdentity, TlsIdentityError, TrustAnchors};

use crate::state::Identity;
use renewal::Renewable;

/// How many certificates of a chain lead to the root that a leaf is under: its own and its issuer's.
const OWN_CHAIN: usize = 2;

/// A leaf as it is kept on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredLeaf {
    key_pem: Secret,
    chain_pem: Vec<String>,
    /// By this machine's clock; the certificate's own start is dated back.
    obtained: Timestamp,
}

/// A leaf with its key, ready to be used.
#[derive(Clone, Debug)]
pub(crate) struct HeldLeaf {
    stored: StoredLeaf,
    /// One value for as long as the leaf is held, so that whoever sees another knows that it was renewed.
    tls: Arc<TlsIdentity>,
    /// The id of the intermediate that signed it: the SHA-256 of what follows it in the chain.
    signer: String,
}

/// Why a leaf cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// Certificate or key cannot be read, or do not belong together.
    #[error("the certificate cannot be used")]
    Identity(#[source] TlsIdentityError),
    /// The certificate is somebody else's.
    #[error("the certificate is of `{found}`, not of `{wanted}`")]
    Other {
        /// Whom it names.
        found: SpiffeId,
        /// Whom it should name.
        wanted: SpiffeId,
    },
}

impl StoredLeaf {
    /// Returns the leaf, its issuer, and while a rotation is young its root as certified by the one before.
    pub(crate) fn chain_pem(&self) -> &[String] {
        &self.chain_pem
    }

    /// Returns the key that the agent made for the leaf.
    pub(crate) fn key_pem(&self) -> &Secret {
        &self.key_pem
    }

    /// Returns when it was obtained, by this machine's clock.
    pub(crate) fn obtained(&self) -> Timestamp {
        self.obtained
    }
}

impl HeldLeaf {
    /// Joins a key with what a server signed for it; `wanted` is whom the leaf must name.
    pub(crate) fn new(key: &LeafKey, leaf: &Leaf, wanted: &SpiffeId, obtained: Timestamp) -> Result<Self, LeafError> {
        let stored = StoredLeaf { key_pem: key.to_pem(), chain_pem: leaf.chain_pem.clone(), obtained };
        Self::load(stored, wanted)
    }

    /// Reads a leaf that was kept on disk; it may have expired.
    pub(crate) fn load(stored: StoredLeaf, wanted: &SpiffeId) -> Result<Self, LeafError> {
        let tls = TlsIdentity::from_pem(&stored.chain_pem, &stored.key_pem).map_err(LeafError::Identity)?;
        if tls.id() != wanted {
            return Err(LeafError::Other { found: tls.id().clone(), wanted: wanted.clone() });
        }
        let signer = tls.certified_key().cert.get(1).map(|signer| wire::crypto::sha256_hex(signer));
        Ok(Self { stored, tls: Arc::new(tls), signer: signer.unwrap_or_default() })
    }

    /// Reports whether one of these is the root that it is under: an agent that shows a leaf of another root recognises nobody
    /// who has one. That an older root certified this one does not count, for it may be retired while the leaf lives; nor does
    /// what clocks make of its dates.
    pub(crate) fn is_vouched_for(&self, anchors: &Arc<TrustAnchors>, now: Timestamp) -> bool {
        let verifier = SpiffeVerifier::new(Arc::clone(anchors), ExpectedPeer::Anyone);
        let chain = &self.tls.certified_key().cert;
        let own = chain.get(..OWN_CHAIN).unwrap_or(chain);
        let verdict = verifier.verify_client(own, now);
        !matches!(verdict, Err(PeerRejected::UnknownAuthority { .. } | PeerRejected::ForeignTrustDomain { .. }))
    }

    pub(crate) fn stored(&self) -> &StoredLeaf {
        &self.stored
    }

    pub(crate) fn tls(&self) -> &Arc<TlsIdentity> {
        &self.tls
    }

    pub(crate) fn not_after(&self) -> Timestamp {
        self.tls.not_after()
    }
}

impl Renewable for HeldLeaf {
    fn obtained(&self) -> Timestamp {
        self.stored.obtained
    }

    fn not_after(&self) -> Timestamp {
        self.tls.not_after()
    }

    fn signer(&self) -> &str {
        &self.signer
    }
}

/// Returns whom a leaf of `subject` must name.
pub(crate) fn named(subject: &Subject, identity: &Identity) -> SpiffeId {
    let scheme = identity.scheme();
    match subject {
        Subject::Agent => scheme.agent(identity.record.platform, &identity.record.node),
        Subject::Service(service) => scheme.workload(service),
    }
}

/// Returns the key that a request for `subject` is about.
///
/// The agent keeps its key, because its record names it. A service gets a fresh one each time, so that a key that
/// leaked once is worth something only until the next renewal.
pub(crate) fn key_for(subject: &Subject, agent: &LeafKey) -> LeafKey {
    match subject {
        Subject::Agent => agent.clone(),
        Subject::Service(_) => LeafKey::generate(),
    }
}

#[cfg(test)]
mod tests;
