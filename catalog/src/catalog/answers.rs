//! What requests were answered, remembered for their repeats.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Catalog;
use crate::{CatalogIndex, Envelope, Outcome, Refusal, Timestamp};

/// How many answers are remembered for repeats of their requests.
pub(super) const ANSWERS_MAX: usize = 16_384;
/// How many of the newest answers are remembered however old they look: one server or client whose clock is wrong moves the
/// time inside the commands by minutes within a second, and a retry must be known again all the same.
pub(super) const ANSWERS_MIN: usize = 4_096;
/// How long answers are remembered, by the time inside the commands.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(600);

/// Is what a request was answered, kept for its repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) index: CatalogIndex,
    pub(crate) proposed_at: Timestamp,
    /// What was asked, and by whom.
    pub(crate) fingerprint: u64,
    pub(crate) outcome: Outcome,
}

impl Catalog {
    /// Returns what a request is answered that stands under the id of one that was answered before, and whether it is that
    /// one's repeat; none where there was none.
    pub(super) fn answer_again(&self, envelope: &Envelope, fingerprint: u64) -> Option<(Outcome, bool)> {
        let answer = self.answers.get(&envelope.request_id)?;
        // The id is the caller's choice. Under one that marks something else, nothing may be swallowed.
        let is_repeat = answer.fingerprint == fingerprint;
        let reused = || Outcome::Refused(Refusal::RequestIdReused { request_id: envelope.request_id.clone() });
        Some((if is_repeat { answer.outcome.clone() } else { reused() }, is_repeat))
    }

    /// Keeps the answer for repeats of its request, and forgets those that are too many or too old.
    pub(super) fn remember(&mut self, index: CatalogIndex, envelope: &Envelope, fingerprint: u64, outcome: &Outcome) {
        let answer = Answer { index, proposed_at: self.clock, fingerprint, outcome: outcome.clone() };
        self.answers.insert(envelope.request_id.clone(), std::sync::Arc::new(answer));
        self.answer_order.insert(index, envelope.request_id.clone());
        while let Some((oldest, request_id)) = self.answer_order.get_min().cloned() {
            let too_old = self
                .answers
                .get(&request_id)
                .is_none_or(|answer| self.clock.since(answer.proposed_at) > ANSWER_AGE_MAX);
            let kept = self.answer_order.len();
            if kept <= ANSWERS_MIN || (kept <= ANSWERS_MAX && !too_old) {
                break;
            }
            self.answers.remove(&request_id);
            self.answer_order.remove(&oldest);
        }
    }
}

/// Tells what an envelope asks, and who does, from any other, alike on every server (64-bit FNV-1a over the JSON of actor
/// and command). When it was first proposed does not count: a retry may say another time.
pub(super) fn fingerprint(envelope: &Envelope) -> u64 {
    /// Takes what is written into one number.
    struct Hash(u64);
    impl std::io::Write for Hash {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut hash = Hash(0xcbf2_9ce4_8422_2325);
    serde_json::to_writer(&mut hash, &(&envelope.actor, &envelope.command))
        .expect("a command has only what JSON can hold");
    hash.0
}
