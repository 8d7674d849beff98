//! What the machine is told, and what it wants done.

use std::collections::BTreeSet;
use std::time::Duration;

use catalog::{Incarnation, Outcome, RequestId, ServerId, Topic};
use wire::agent_protocol::{ClientFrame, ServerFrame, WriteRequest};

use super::registrations::Desired;
use super::topics::View;
use super::{CONNECT_TIMEOUT, SILENCE_MAX};

/// What the machine reacts to.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed.
    Tick,
    /// The connection asked for is there; its stream is open in both directions.
    Connected {
        /// The number under which it was asked for.
        attempt: u64,
    },
    /// The connection could not be made, or was lost.
    Closed {
        /// The number under which it was asked for.
        attempt: u64,
    },
    /// The server has too much to do to open a session; the connection is over.
    SentAway {
        /// The number under which it was asked for.
        attempt: u64,
        /// How long the server wants to be left alone.
        retry_after: Duration,
    },
    /// The server sent a frame.
    Frame {
        /// The connection that it came over.
        attempt: u64,
        /// What it said.
        frame: ServerFrame,
    },
    /// A write was answered, or was not.
    Written {
        /// The write.
        request_id: RequestId,
        /// What became of it.
        result: WriteResult,
    },
    /// The topics that the agent needs from now on.
    Needs(BTreeSet<Topic>),
    /// What the catalog should say of this node from now on.
    Desired(Box<Desired>),
    /// The agent has another record: nothing that it registered is its own any more.
    Readmitted,
    /// What was published last is what the proxy decides by now.
    Enforced {
        /// Whether every leaf that the agent holds was signed by the intermediate that signs now.
        renewed: bool,
    },
    /// What may be registered is on disk, as [`Sync::known`] had it when [`Sync::known_version`] was this.
    Saved {
        /// The version.
        version: u64,
    },
    /// What a connection may have failed for has changed: the next one is not waited for.
    Retry,
    /// The agent is about to stop: the node is to leave the catalog.
    Leave,
}

/// What became of a write.
#[derive(Clone, Debug)]
pub enum WriteResult {
    /// It was committed, with this outcome.
    Answered(Outcome),
    /// Nobody can tell whether it was committed: it is sent again under the same request id.
    Unavailable {
        /// How long the server wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The server does not take it, whatever the state of the catalog.
    Rejected {
        /// What the server said.
        error: String,
    },
}

/// What the machine wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Connect to this server and open the stream; any older connection is gone.
    Connect {
        /// The number of the connection, never used twice.
        attempt: u64,
        /// The server's agent port as `host:port`.
        server: String,
    },
    /// Drop this connection, or stop making it.
    Disconnect {
        /// The number of the connection.
        attempt: u64,
        /// Why.
        reason: Lost,
    },
    /// Send a frame, after all frames sent before.
    Send {
        /// The connection.
        attempt: u64,
        /// What to say.
        frame: ClientFrame,
    },
    /// Send a write; a repeat carries the same request id.
    Write {
        /// The connection.
        attempt: u64,
        /// The write.
        request: Box<WriteRequest>,
    },
    /// A session is open.
    Opened {
        /// The server that holds it.
        server: ServerId,
        /// The agent's number in it.
        incarnation: Incarnation,
    },
    /// What is in force changed: [`Sync::view`], or what restrains it, [`Sync::restraint`].
    Publish(View),
    /// What outlives the process changed: [`Sync::view`], [`Sync::restraint`], [`Sync::known`] or [`Sync::servers`].
    Persist,
    /// An event could not be true; the last good state stays.
    Dropped {
        /// The topic.
        topic: Topic,
        /// What is wrong with the event.
        error: String,
    },
    /// A server refused to register something; the rest goes on.
    Refused {
        /// What the server said.
        error: String,
    },
    /// The node has left the catalog.
    Left,
}

/// Why a connection was given up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It took too long to make.
    #[error("the server did not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    ConnectTimeout,
    /// The server fell silent.
    #[error("the server said nothing for {} s", SILENCE_MAX.as_secs())]
    Silent,
    /// The server ended the session.
    #[error("the server ended the session: {0}")]
    Goodbye(String),
    /// The server does not know what this agent has already been told.
    #[error("the server is behind on {0}")]
    Behind(Topic),
    /// The server was left behind when the others were rebuilt from a survivor.
    #[error("the server is of epoch {told}, and its group is in epoch {known}")]
    OldGroup {
        /// The newest epoch that any server told of.
        known: u64,
        /// The server's.
        told: u64,
    },
    /// The server is of another group.
    #[error("the server is of cluster {told}, and this agent of {known}")]
    OtherGroup {
        /// The cluster of every server so far.
        known: String,
        /// The server's.
        told: String,
    },
    /// A newer session of this agent has taken over.
    #[error("another session of this agent is newer")]
    Fenced,
}
