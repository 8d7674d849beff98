//! Who is still vouched for, once a root was distrusted on purpose.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use wire::crypto;
use wire::tls::{ExpectedPeer, ExpiredLeaf, PeerIdentity, SpiffeVerifier, TrustAnchors};

/// How many different chains of signers are remembered; a mesh has a handful.
const VERDICTS_MAX: usize = 1024;

/// Judges what peers showed by the roots that are not distrusted. A peer that another root vouches for as well may stay.
#[derive(Debug)]
pub struct Distrust {
    verifier: SpiffeVerifier,
    /// By what followed the leaf: all leaves of one signer fare alike, and each was found good when it was shown.
    verdicts: Mutex<BTreeMap<[u8; 32], bool>>,
}

impl Distrust {
    /// Returns what judges by `anchors`, the roots that are left.
    pub fn new(anchors: TrustAnchors) -> Self {
        // Expiry alone closes nothing, so that a leaf is judged as it was while it lived.
        let verifier = SpiffeVerifier::new(Arc::new(anchors), ExpectedPeer::Anyone).with_expired(ExpiredLeaf::Marked);
        Self { verifier, verdicts: Mutex::default() }
    }

    /// Reports whether a root that is left vouches for what the peer showed when it connected. An identity of no connection
    /// was judged by whoever asks about it.
    pub fn vouches_for(&self, peer: &PeerIdentity) -> bool {
        let Some((_, signers)) = peer.chain.split_first() else { return true };
        let key = crypto::sha256(&signers.iter().flat_map(|signer| signer.iter().copied()).collect::<Vec<u8>>());
        let known = self.lock().get(&key).copied();
        if let Some(verdict) = known {
            return verdict;
        }
        let verdict = self.verifier.verify_client(&peer.chain, crypto::now()).is_ok();
        let mut verdicts = self.lock();
        if verdicts.len() >= VERDICTS_MAX {
            verdicts.clear();
        }
        verdicts.insert(key, verdict);
        verdict
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<[u8; 32], bool>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
