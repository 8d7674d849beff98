//! What goes into the hub and what comes out of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use catalog::{AgentId, Catalog, CatalogIndex, Incarnation, ServiceKey, Topic, WatchKey};
use wire::agent_protocol::Capabilities;
use wire::tap::TapOrder;

use super::Frame;

/// Names one session of an agent on this server, unique while the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Bounds what one session may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes that may wait to be read by one agent; a single frame is always let in when nothing waits.
    pub waiting_bytes_max: usize,
    /// Topics that one agent may subscribe to at once.
    pub topics_max: usize,
    /// Topics that one gateway may subscribe to at once.
    pub gateway_topics_max: usize,
    /// Silence after which a session is sent a ping.
    pub ping_interval: Duration,
    /// Time without reading anything of what waits, after which a session is cut.
    pub stall_max: Duration,
    /// Time that this server may take to reach an index that the agent has already seen elsewhere.
    pub behind_max: Duration,
    /// Time that an agent has to read what waits once its session has ended; what it does not read is held for it.
    pub goodbye_max: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            waiting_bytes_max: 16 << 20,
            topics_max: 4096,
            gateway_topics_max: 65_536,
            ping_interval: Duration::from_secs(10),
            stall_max: Duration::from_secs(30),
            behind_max: Duration::from_secs(10),
            goodbye_max: Duration::from_secs(5),
        }
    }
}

/// What the hub reacts to.
#[derive(Clone, Debug)]
pub enum Input {
    /// An agent opened a session; an older session of the same agent ends.
    Connected {
        /// The new session.
        session: SessionId,
        /// Whose it is.
        agent: AgentId,
        /// The number under which the session was opened.
        incarnation: Incarnation,
        /// The services that its record entitled it to then: this server may not have applied that record yet.
        services: Vec<ServiceKey>,
        /// The network that it may be a gateway into by that record.
        gateway: Option<String>,
        /// What the agent understands.
        knows: Capabilities,
    },
    /// The agent wants to follow a topic.
    Subscribe {
        /// The session that asks.
        session: SessionId,
        /// What it wants to follow.
        topic: Topic,
        /// The index of the topic that the agent already holds, if any.
        from: Option<CatalogIndex>,
    },
    /// The agent no longer follows a topic.
    Unsubscribe {
        /// The session that asks.
        session: SessionId,
        /// What it leaves.
        topic: Topic,
    },
    /// This server's catalog moved on, or was replaced as a whole by a snapshot.
    Applied {
        /// The catalog as it is now.
        catalog: Arc<Catalog>,
        /// Every key that changed since the last such input.
        touched: BTreeSet<WatchKey>,
    },
    /// The agent's connection took bytes that waited.
    Written {
        /// The session that reads.
        session: SessionId,
        /// How many bytes it took.
        bytes: usize,
    },
    /// The agent's connection ended.
    Closed {
        /// The session that ended.
        session: SessionId,
    },
    /// Agents are told where the servers are by now.
    Servers {
        /// The only session that is told; all of them where there is none.
        only: Option<SessionId>,
        /// Where servers serve agents, as `host:port`.
        servers: Vec<String>,
    },
    /// Somebody watches the requests to a service.
    Tap(Arc<TapOrder>),
    /// Time passed.
    Tick,
}

/// What the hub wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send this frame, after everything sent to the session before.
    Send {
        /// To whom.
        session: SessionId,
        /// What, encoded once for all who receive it.
        frame: Arc<Frame>,
    },
    /// Say why and end the session; the hub has forgotten it.
    Close {
        /// Which session.
        session: SessionId,
        /// Why.
        reason: CloseReason,
    },
}

/// Why the hub ends a session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// More waits for the agent than one session may hold, or it has stopped reading.
    #[error("the agent reads its stream too slowly")]
    SlowReader,
    /// The agent opened a newer session, here or on another server.
    #[error("the agent opened a newer session")]
    Superseded,
    /// The servers gave the session up.
    #[error("the servers gave the session up while this one did not reach them: connect again")]
    GivenUp,
    /// The agent's record no longer exists.
    #[error("the agent's record is gone: connect again, or enrol again with a new join token or by a login")]
    Revoked,
    /// The agent asked for a topic that its record does not entitle it to.
    #[error("the agent's record does not entitle it to follow {0}")]
    NotEntitled(Topic),
    /// The agent follows more topics than one session may.
    #[error("a session follows at most {0} topics")]
    TooManyTopics(usize),
    /// This server did not reach, in time, the index that the agent has already seen.
    #[error("this server has applied index {applied} and the agent has seen {wanted}: use another server")]
    ServerBehind {
        /// The index that the agent named.
        wanted: CatalogIndex,
        /// The index that this server has applied.
        applied: CatalogIndex,
    },
    /// A view does not fit into one frame.
    #[error("the view of {0} does not fit into one frame")]
    TooLarge(Topic),
}

impl CloseReason {
    /// Returns the metric label of the reason, from a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            CloseReason::SlowReader => "slow_reader",
            CloseReason::Superseded => "superseded",
            CloseReason::GivenUp => "given_up",
            CloseReason::Revoked => "revoked",
            CloseReason::NotEntitled(_) => "topic_not_entitled",
            CloseReason::TooManyTopics(_) => "too_many_topics",
            CloseReason::ServerBehind { .. } => "server_behind",
            CloseReason::TooLarge(_) => "view_too_large",
        }
    }
}
