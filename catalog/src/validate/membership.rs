//! The form of changes of the list of servers.

use super::{META_TEXT_MAX, bounded};
use crate::{Autopilot, MEMBERS_MAX, MemberFacts, MembershipChange, Refusal, StateDigest};

/// Longer than any digest in hexadecimal, and than any release's name.
const WORD_MAX: usize = 128;
/// A silence that long is no health, and a pause that long no caution.
const PAUSE_MS_MAX: u64 = 24 * 60 * 60 * 1000;

pub(super) fn check(change: &MembershipChange) -> Result<(), Refusal> {
    match change {
        MembershipChange::Add { disk_id, facts, .. } => {
            bounded("disk_id", disk_id, WORD_MAX)?;
            check_facts(facts)
        }
        MembershipChange::Describe { facts, .. } => check_facts(facts),
        MembershipChange::SetAutopilot { autopilot, .. } => check_autopilot(autopilot),
        MembershipChange::Witness { found: StateDigest { release, digest }, .. } => {
            bounded("release", release, WORD_MAX)?;
            bounded("digest", digest, WORD_MAX)
        }
        MembershipChange::Promote { .. }
        | MembershipChange::Remove { .. }
        | MembershipChange::Retire { .. }
        | MembershipChange::HandOver { .. } => Ok(()),
    }
}

fn check_facts(facts: &MemberFacts) -> Result<(), Refusal> {
    bounded("release", &facts.release, WORD_MAX)?;
    bounded("raft_address", &facts.raft_address, META_TEXT_MAX)?;
    bounded("agent_address", &facts.agent_address, META_TEXT_MAX)
}

fn check_autopilot(autopilot: &Autopilot) -> Result<(), Refusal> {
    for (field, pause) in [
        ("LastContactThreshold", autopilot.last_contact_threshold_ms),
        ("ServerStabilizationTime", autopilot.server_stabilization_time_ms),
    ] {
        if !(1..=PAUSE_MS_MAX).contains(&pause) {
            return Err(Refusal::invalid(field, format!("it is {pause} ms: use 1ms to 24h")));
        }
    }
    if autopilot.min_quorum > MEMBERS_MAX as u64 {
        let problem = format!("it is {}, and a group has at most {MEMBERS_MAX} servers", autopilot.min_quorum);
        return Err(Refusal::invalid("MinQuorum", problem));
    }
    Ok(())
}
