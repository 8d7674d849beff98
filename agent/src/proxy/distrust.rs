//! Who is still vouched for, once a root was distrusted on purpose.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wire::crypto;
use wire::tls::{ExpectedPeer, ExpiredLeaf, PeerIdentity, SpiffeVerifier, TrustAnchors};

/// Of how many peers the verdict is remembered; the oldest is forgotten for the next, and judged anew when it is asked for.
const VERDICTS_MAX: usize = 16_384;

/// Judges what peers showed by the roots that are not distrusted. A peer that another root vouches for as well may stay.
#[derive(Debug)]
pub struct Distrust {
    verifier: SpiffeVerifier,
    verdicts: Mutex<Verdicts>,
}

/// Remembers verdicts by all that the peer showed. Its leaf is part of that: what comes after it the peer chooses, and may be
/// somebody else's.
#[derive(Debug, Default)]
struct Verdicts {
    known: BTreeMap<[u8; 32], bool>,
    /// In the order in which they were made.
    order: VecDeque<[u8; 32]>,
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
        if peer.chain.is_empty() {
            return true;
        }
        let shown: Vec<u8> = peer.chain.iter().flat_map(|certificate| certificate.iter().copied()).collect();
        let key = crypto::sha256(&shown);
        let known = self.lock().known.get(&key).copied();
        known.unwrap_or_else(|| {
            // The time was judged when it connected; a clock that was set back since makes nobody a stranger.
            let at = crypto::now().max(peer.not_before);
            let verdict = self.verifier.verify_client(&peer.chain, at).is_ok();
            self.lock().remember(key, verdict);
            verdict
        })
    }

    fn lock(&self) -> MutexGuard<'_, Verdicts> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Verdicts {
    fn remember(&mut self, key: [u8; 32], verdict: bool) {
        if self.known.insert(key, verdict).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > VERDICTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}
