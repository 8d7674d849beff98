//! What the port does for its peers at most.

use std::fmt;

use crate::ca::{Pace, Shares};
use crate::hub::Limits;

/// Leaves signed for agents at once and per second: ten thousand agents are re-admitted within a minute, and Raft's own
/// thread keeps its share of the processor.
const SIGNED_BURST: u32 = 500;
const SIGNED_PER_SECOND: u32 = 250;
/// Agents that join at once and per second. They have turns of their own: no crowd of newcomers keeps the agents that
/// there are from renewing their certificates.
const JOINED_BURST: u32 = 100;
const JOINED_PER_SECOND: u32 = 50;
/// Sessions opened at once and per second. Each is a write to the log, and then a view of every topic: ten thousand agents
/// are back within a minute, and what operators write goes on meanwhile.
const OPENED_BURST: u32 = 500;
const OPENED_PER_SECOND: u32 = 250;
/// Sessions that one agent opens at once and per second: one that comes and goes takes nobody else's turns.
const OPENED_BY_ONE_BURST: u32 = 10;
const OPENED_BY_ONE_PER_SECOND: f64 = 0.5;
/// Connections without an agent's certificate that one address may hold at once.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 200;
/// Connections that one agent may hold at once. It needs one or two; those that broke count until they are noticed.
const CONNECTIONS_PER_AGENT_MAX: usize = 32;

/// What agents take turns at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A leaf for an agent that there is.
    Signing,
    /// An agent that is new.
    Joining,
    /// A session of an agent that there is.
    Session,
}

impl fmt::Display for Turn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Turn::Signing => "signs too many certificates",
            Turn::Joining => "takes in too many agents",
            Turn::Session => "opens too many sessions",
        })
    }
}

/// Bounds what the port does for its peers.
#[derive(Debug)]
pub(crate) struct Bounds {
    /// Turns at signing for agents that there are.
    pub(crate) signing: Pace,
    /// Turns at joining.
    pub(crate) joining: Pace,
    /// Turns at opening a session.
    pub(crate) sessions: Pace,
    /// Turns of each agent at opening a session.
    pub(crate) sessions_of_one: Shares,
    /// What one session may cost.
    pub(crate) stream: Limits,
    /// Connections without an agent's certificate from one address.
    pub(crate) connections_per_address_max: usize,
    /// Connections of one agent, wherever they come from.
    pub(crate) connections_per_agent_max: usize,
}

impl Bounds {
    /// Returns the pace of what agents take turns at.
    pub(super) fn pace(&self, turn: Turn) -> &Pace {
        match turn {
            Turn::Signing => &self.signing,
            Turn::Joining => &self.joining,
            Turn::Session => &self.sessions,
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            signing: Pace::new(SIGNED_BURST, SIGNED_PER_SECOND),
            joining: Pace::new(JOINED_BURST, JOINED_PER_SECOND),
            sessions: Pace::new(OPENED_BURST, OPENED_PER_SECOND),
            sessions_of_one: Shares::new(OPENED_BY_ONE_BURST, OPENED_BY_ONE_PER_SECOND),
            stream: Limits::default(),
            connections_per_address_max: CONNECTIONS_PER_ADDRESS_MAX,
            connections_per_agent_max: CONNECTIONS_PER_AGENT_MAX,
        }
    }
}
