//! The form of what is said of sessions, and of revocations.

use super::{bounded, few};
use crate::{AGENT_CHECK, CheckId, FORGOTTEN_MAX, Refusal, RevocationChange, SESSIONS_MAX, SessionChange};

const SUBJECT_BYTES_MAX: usize = 512;

pub(super) fn check(change: &SessionChange) -> Result<(), Refusal> {
    match change {
        SessionChange::Lost { sessions } | SessionChange::Reaped { sessions } | SessionChange::Ended { sessions } => {
            if sessions.is_empty() {
                return Err(Refusal::invalid("sessions", "there are none: name at least one"));
            }
            few("sessions", sessions.len(), SESSIONS_MAX)
        }
        SessionChange::Unused { agents } => {
            if agents.is_empty() {
                return Err(Refusal::invalid("agents", "there are none: name at least one"));
            }
            few("agents", agents.len(), SESSIONS_MAX)
        }
        SessionChange::Drain { .. } => Ok(()),
    }
}

pub(super) fn check_revocation(change: &RevocationChange) -> Result<(), Refusal> {
    match change {
        RevocationChange::Login { subject, .. } => {
            bounded("subject", subject.as_deref().unwrap_or_default(), SUBJECT_BYTES_MAX)
        }
        RevocationChange::LiftAgent { named } => bounded("agent", named, SUBJECT_BYTES_MAX),
        RevocationChange::Forget { agents, services } => few("forgotten", agents.len() + services.len(), FORGOTTEN_MAX),
        RevocationChange::Service { .. } | RevocationChange::JoinToken { .. } | RevocationChange::Lift { .. } => Ok(()),
    }
}

/// Refuses the check by which the servers themselves say how a node's agent stands.
pub(super) fn not_reserved(id: &CheckId) -> Result<(), Refusal> {
    if id.as_str() == AGENT_CHECK {
        return Err(Refusal::invalid(
            format!("check `{id}`"),
            "only the servers say so, of a node whose agent is away: choose another id",
        ));
    }
    Ok(())
}
