//! Sessions of agents: how the servers note that one was lost, or that its agent is shutting down.

use serde::{Deserialize, Serialize};

use crate::{AgentId, Incarnation, Timestamp};

/// The id of the check by which a node shows that its agent is away or shutting down. Nobody but the servers writes it.
pub const AGENT_CHECK: &str = "weft-agent";

/// The most sessions that one command names.
pub const SESSIONS_MAX: usize = 1024;

/// The most agents whose records one command should end: the audit trail names each of them.
pub const SESSIONS_ENDED_MAX: usize = 24;

/// Names one session of one agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionRef {
    /// Whose session.
    pub agent: AgentId,
    /// The session's number.
    pub incarnation: Incarnation,
}

/// Says how an agent's latest session stands, where it is not simply open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// When the servers gave the latest session up; none while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_at: Option<Timestamp>,
    /// The session in which the agent said that it is shutting down. What it registered is critical until a later session
    /// registers something, and that session and older ones register nothing any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<Incarnation>,
}

impl Presence {
    /// Reports whether there is nothing to say.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// Is one change of how sessions stand. What names a session that is not its agent's latest one does nothing: the agent has
/// come back since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SessionChange {
    /// The sessions ended, and their agents have not come back within the grace period: their nodes turn critical.
    Lost {
        /// Which.
        sessions: Vec<SessionRef>,
    },
    /// The agents of lost sessions have stayed away for the second period, too: their nodes leave the catalog.
    Reaped {
        /// Which.
        sessions: Vec<SessionRef>,
    },
    /// Ends the records of agents whose platform vouched for them and that stayed away, with their certificates: should one come
    /// back, it logs in again.
    Ended {
        /// Their latest sessions.
        sessions: Vec<SessionRef>,
    },
    /// Ends the records of agents whose platform vouched for them and that never opened a session, with their certificates.
    Unused {
        /// Whose.
        agents: Vec<AgentId>,
    },
    /// An agent is shutting down: its node turns critical, and stays so whatever that session still says.
    Drain {
        /// Which session.
        session: SessionRef,
    },
}
