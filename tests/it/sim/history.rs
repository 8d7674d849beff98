//! What clients did to a few registers, held against what one register at a time could have answered (Herlihy and Wing's
//! linearizability), judged by the checker of `porcupine-rs`.

use std::time::Duration;

use catalog::{
    Action, Actor, CatalogIndex, Command, Envelope, Intention, Outcome, Refusal, ServicePattern, SourcePattern,
    Timestamp, WriteMode,
};
use porcupine_rs::{CheckResult, Model, Operation, check_operations_timeout};

use super::checks::{Checked, check};

/// How many registers clients share: few, so that they get into each other's way.
pub(crate) const REGISTERS: u64 = 3;
/// How long the checker may think about one run. A history that it cannot judge counts as a violation.
const JUDGED_WITHIN: Duration = Duration::from_secs(300);

/// What a register held when it was read: the value, and the index under which it can be compared and set.
pub(crate) type Held = Option<(u64, CatalogIndex)>;

/// What a client does to a register, and what it was answered.
#[derive(Debug, Clone)]
pub(crate) enum Deed {
    /// It read this.
    Get(Option<u64>),
    /// It wrote this, or perhaps did.
    Put(u64),
    /// It meant to replace one value by another; whether that was done is known, or is not.
    Swap { expected: Option<u64>, value: u64, is_done: Option<bool> },
}

/// A register and a deed.
#[derive(Debug, Clone)]
pub(crate) struct Act {
    pub(crate) register: u64,
    pub(crate) deed: Deed,
}

/// The model: what one register does when nothing happens at the same time.
#[derive(Debug, Clone)]
struct Register;

impl Model for Register {
    type State = Option<u64>;
    type Op = Act;
    type Metadata = ();

    fn partition_operations(history: &[Operation<Self>]) -> Vec<Vec<Operation<Self>>> {
        (0..REGISTERS)
            .map(|register| history.iter().filter(|act| act.op.register == register).cloned().collect())
            .collect()
    }

    fn init() -> Option<u64> {
        None
    }

    fn step(state: &Option<u64>, act: &Act) -> (bool, Option<u64>) {
        match &act.deed {
            Deed::Get(value) => (value == state, *state),
            Deed::Put(value) => (true, Some(*value)),
            Deed::Swap { expected, value, is_done } => {
                let fits = expected == state;
                let after = if fits { Some(*value) } else { *state };
                (is_done.is_none_or(|is_done| is_done == fits), after)
            }
        }
    }
}

/// Everything that clients did to registers in one run.
#[derive(Debug, Default)]
pub(crate) struct History(Vec<Operation<Register>>);

impl History {
    /// Notes a deed that was answered.
    pub(crate) fn done(&mut self, client: u64, act: Act, called: Duration, returned: Duration) {
        self.note(client, act, called, returned.as_micros() as i64);
    }

    /// Notes a write whose answer never came: it may take effect at any time, or never.
    pub(crate) fn open(&mut self, client: u64, act: Act, called: Duration) {
        self.note(client, act, called, i64::MAX);
    }

    fn note(&mut self, client: u64, op: Act, called: Duration, return_time: i64) {
        let call_time = called.as_micros() as i64;
        self.0.push(Operation { client_id: Some(client as u32), call_time, return_time, op, metadata: None });
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// There is an order of all deeds, each between its call and its answer, in which one register answers as they were.
    pub(crate) fn is_linearizable(&self) -> Checked {
        let verdict = check_operations_timeout(&self.0, JUDGED_WITHIN);
        check!(verdict == CheckResult::Ok, "the history of {} deeds is {verdict:?}: {}", self.0.len(), self.tail());
        Ok(())
    }

    fn tail(&self) -> String {
        let last = self.0.iter().rev().take(40).rev();
        last.map(|act| format!("\n  {:?} {}..{} {:?}", act.client_id, act.call_time, act.return_time, act.op)).collect()
    }
}

/// Returns the name under which a register is in the catalog: an intention, whose description is the value.
pub(crate) fn place_of(register: u64) -> (SourcePattern, ServicePattern) {
    let destination = format!("register-{register}").parse().expect("the name is a service's");
    (SourcePattern::Service(ServicePattern::Any), destination)
}

/// Reads a register out of a catalog.
pub(crate) fn read(catalog: &catalog::Catalog, register: u64) -> Held {
    let (source, destination) = place_of(register);
    let intention = catalog.intention(&catalog::IntentionKey { destination, source })?;
    Some((intention.description.parse().ok()?, intention.modified))
}

/// Returns the write that sets a register, under what a client read before if it compares.
pub(crate) fn set(register: u64, value: u64, compare: Option<Held>, request_id: &str, now: Timestamp) -> Vec<u8> {
    let (source, destination) = place_of(register);
    let mut intention = Intention::new(source, destination, Action::Allow);
    intention.description = value.to_string();
    let mode = match compare {
        None => WriteMode::Upsert,
        Some(held) => WriteMode::CompareAndSet(held.map_or(CatalogIndex(0), |(_, index)| index)),
    };
    let envelope = Envelope {
        version: 1,
        request_id: request_id.parse().expect("the id is a request's"),
        actor: Actor::ClusterKey,
        source_address: None,
        proposed_at: now,
        command: Command::WriteIntention { intention: Box::new(intention), mode },
    };
    envelope.encode()
}

/// Says whether a write to a register was done, or refused because it had changed; anything else is wrong.
pub(crate) fn is_done(outcome: &Outcome) -> Checked<bool> {
    match outcome {
        Outcome::Done => Ok(true),
        Outcome::Refused(Refusal::IntentionChanged { .. }) => Ok(false),
        outcome => {
            check!(false, "a write to a register was answered with {outcome:?}");
            Ok(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(deeds: &[(Deed, i64, i64)]) -> History {
        let operation = |(deed, call_time, return_time): &(Deed, i64, i64)| Operation {
            client_id: None,
            call_time: *call_time,
            return_time: *return_time,
            op: Act { register: 0, deed: deed.clone() },
            metadata: None,
        };
        History(deeds.iter().map(operation).collect())
    }

    #[test]
    fn a_read_of_what_was_overwritten_before_it_began_is_caught() {
        let stale = [(Deed::Put(1), 0, 1), (Deed::Put(2), 2, 3), (Deed::Get(Some(1)), 4, 5)];
        history(&stale).is_linearizable().unwrap_err();
        let at_once = [(Deed::Put(1), 0, 1), (Deed::Put(2), 2, 5), (Deed::Get(Some(1)), 4, 6)];
        history(&at_once).is_linearizable().unwrap();
    }

    #[test]
    fn a_write_without_an_answer_may_happen_late_or_never() {
        let swap = |is_done| Deed::Swap { expected: Some(1), value: 2, is_done };
        let late = [(Deed::Put(1), 0, 1), (swap(None), 2, i64::MAX), (Deed::Get(Some(2)), 8, 9)];
        history(&late).is_linearizable().unwrap();
        let never = [(Deed::Put(1), 0, 1), (swap(None), 2, i64::MAX), (Deed::Get(Some(1)), 8, 9)];
        history(&never).is_linearizable().unwrap();
        let lost = [(Deed::Put(1), 0, 1), (swap(Some(true)), 2, 3), (Deed::Get(Some(1)), 8, 9)];
        history(&lost).is_linearizable().unwrap_err();
    }
}
