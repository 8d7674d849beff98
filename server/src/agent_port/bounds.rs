//! What the port does for its peers at most.

use std::fmt;
use std::sync::Arc;

use catalog::{AgentRecord, NodeName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::consensus::ByteBudget;
use crate::hub::Limits;
use crate::pace::{Pace, Shares};
use crate::places::{Holder, Place, Places};

/// Leaves signed for agents at once and per second: ten thousand agents are re-admitted within a minute, and Raft's own
/// thread keeps its share of the processor.
const SIGNED_BURST: u32 = 500;
const SIGNED_PER_SECOND: u32 = 250;
/// Leaves that one agent gets at once, twice each that it may have and at least so many, and per second: one that asks with a
/// new key each time takes nobody else's turns.
const SIGNED_FOR_ONE_BURST_MIN: u32 = 20;
const SIGNED_FOR_ONE_PER_SECOND: f64 = 1.0;
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
/// Topics that one agent is told of at once, four times as many as it may follow, and per second; beyond that it waits. Each may
/// be a view of the whole catalog, and one task tells all agents.
const TOLD_ONE_BURST: u32 = 4 * 4096;
const TOLD_ONE_PER_SECOND: f64 = 50.0;
/// The same of a gateway, which follows every service of its network.
const TOLD_GATEWAY_BURST: u32 = 4 * 65_536;
const TOLD_GATEWAY_PER_SECOND: f64 = 500.0;
/// Bytes of requests of callers without a certificate that are read at once: nobody has shown anything yet.
const UNPROVEN_IN_ALL_MAX: usize = 64 << 20;
/// Writes of agents taken at once and per second: ten thousand agents that come back have said what is on their nodes within
/// half a minute, and the log has room for what operators write.
const WRITTEN_BURST: u32 = 1000;
const WRITTEN_PER_SECOND: u32 = 500;
/// Writes that one agent has taken at once and per second. It writes one thing at a time, and changes of health are damped.
const WRITTEN_BY_ONE_BURST: u32 = 100;
const WRITTEN_BY_ONE_PER_SECOND: f64 = 20.0;
/// Writes of one agent that may be under way: one, and those that it has given up.
const UNDER_WAY_OF_ONE_MAX: usize = 4;
/// Writes of all agents that may be under way: half of what may wait for Raft, so that others always find room there.
const UNDER_WAY_MAX: usize = 2048;
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
    /// What an agent says of its node.
    Write,
}

impl fmt::Display for Turn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Turn::Signing => "signs too many certificates",
            Turn::Joining => "takes in too many agents",
            Turn::Session => "opens too many sessions",
            Turn::Write => "takes too many writes",
        })
    }
}

/// Bounds what the port does for its peers.
#[derive(Debug)]
pub(crate) struct Bounds {
    /// Turns at signing for agents that there are.
    pub(crate) signing: Pace,
    /// Turns of each agent at having its leaves signed.
    pub(crate) signing_of_one: Shares,
    /// Turns at joining.
    pub(crate) joining: Pace,
    /// Turns at opening a session.
    pub(crate) sessions: Pace,
    /// Turns of each agent at opening a session.
    pub(crate) sessions_of_one: Shares,
    /// Turns of each agent at being told of a topic.
    pub(crate) topics_of_one: Shares,
    /// The same of gateways.
    pub(crate) topics_of_gateway: Shares,
    /// Bytes of requests of callers without a certificate.
    pub(crate) unproven: ByteBudget,
    /// Turns at writing.
    pub(crate) writes: Pace,
    /// Turns of each agent at writing.
    pub(crate) writes_of_one: Shares,
    /// Room for the writes that are under way.
    pub(crate) writes_under_way: WriteRoom,
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
            Turn::Write => &self.writes,
        }
    }

    /// Returns the leaves that an agent is signed at once: on a restart it asks for all that it may have, and soon again.
    pub(super) fn signing_burst(record: &AgentRecord) -> u32 {
        // Its own, and a gateway's.
        let may_have = record.services.len().saturating_add(2);
        u32::try_from(2 * may_have).unwrap_or(u32::MAX).max(SIGNED_FOR_ONE_BURST_MIN)
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            signing: Pace::new(SIGNED_BURST, SIGNED_PER_SECOND),
            signing_of_one: Shares::new(SIGNED_FOR_ONE_BURST_MIN, SIGNED_FOR_ONE_PER_SECOND),
            joining: Pace::new(JOINED_BURST, JOINED_PER_SECOND),
            sessions: Pace::new(OPENED_BURST, OPENED_PER_SECOND),
            sessions_of_one: Shares::new(OPENED_BY_ONE_BURST, OPENED_BY_ONE_PER_SECOND),
            topics_of_one: Shares::new(TOLD_ONE_BURST, TOLD_ONE_PER_SECOND),
            topics_of_gateway: Shares::new(TOLD_GATEWAY_BURST, TOLD_GATEWAY_PER_SECOND),
            unproven: ByteBudget::new(UNPROVEN_IN_ALL_MAX),
            writes: Pace::new(WRITTEN_BURST, WRITTEN_PER_SECOND),
            writes_of_one: Shares::new(WRITTEN_BY_ONE_BURST, WRITTEN_BY_ONE_PER_SECOND),
            writes_under_way: WriteRoom::new(UNDER_WAY_OF_ONE_MAX, UNDER_WAY_MAX),
            stream: Limits::default(),
            connections_per_address_max: CONNECTIONS_PER_ADDRESS_MAX,
            connections_per_agent_max: CONNECTIONS_PER_AGENT_MAX,
        }
    }
}

/// Bounds the writes that are under way, of one agent and of all: none of them can fill what others wait in, too.
#[derive(Debug)]
pub(crate) struct WriteRoom {
    of_one: Places,
    of_all: Arc<Semaphore>,
}

/// One write that is under way; dropping it gives its room back.
#[derive(Debug)]
pub(super) struct WriteUnderWay {
    _place: Place,
    _permit: OwnedSemaphorePermit,
}

impl WriteRoom {
    /// Returns room for so many writes of each agent, and for so many of all.
    pub(crate) fn new(of_one_max: usize, of_all_max: usize) -> Self {
        Self { of_one: Places::new(0, of_one_max), of_all: Arc::new(Semaphore::new(of_all_max)) }
    }

    /// Takes the room for one write of the agent on `node`; none where it, or all together, have as many as they may.
    pub(super) fn take(&self, node: &NodeName) -> Option<WriteUnderWay> {
        let place = self.of_one.take(Holder::Agent(node.clone()))?;
        let permit = Arc::clone(&self.of_all).try_acquire_owned().ok()?;
        Some(WriteUnderWay { _place: place, _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c13_no_agent_and_not_all_of_them_have_more_writes_under_way_than_they_may() {
        let room = WriteRoom::new(2, 3);
        let node = |name: &str| name.parse::<NodeName>().unwrap();
        let mut held: Vec<_> = (0..5).filter_map(|_| room.take(&node("vm-1"))).collect();
        assert_eq!(held.len(), 2);
        held.push(room.take(&node("vm-2")).unwrap());
        assert!(room.take(&node("vm-2")).is_none(), "all together have three");
        held.clear();
        held.extend((0..5).filter_map(|_| room.take(&node("vm-2"))));
        assert_eq!(held.len(), 2, "one that was refused keeps nothing");
    }
}
