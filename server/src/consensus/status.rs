//! How a server stands in its Raft group.

use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::{CatalogIndex, ServerMember};

/// Is what a server does in its Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It belongs to no cluster yet and looks for the servers to make one with.
    Joining,
    /// It follows a leader, or waits for one.
    Follower,
    /// It stands for election.
    Candidate,
    /// It leads.
    Leader,
}

/// Is what the Raft thread last said about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) role: Role,
    /// The leader's Raft id, where one is known.
    pub(crate) leader: Option<u64>,
    pub(crate) term: u64,
    /// When a leader was heard last; none if never since the start.
    pub(crate) heard: Option<Instant>,
    /// Whether the disk is so full that nothing enters the log.
    pub(crate) is_read_only: bool,
}

impl Standing {
    /// Returns how a server stands that belongs to no cluster yet.
    pub(crate) fn joining() -> Self {
        Self { role: Role::Joining, leader: None, term: 0, heard: None, is_read_only: false }
    }

    /// Returns how long ago a leader was heard; a leader always hears itself.
    pub(crate) fn last_contact(&self) -> Option<Duration> {
        match self.role {
            Role::Leader => Some(Duration::ZERO),
            _ => self.heard.map(|heard| heard.elapsed()),
        }
    }
}

/// Is a server's view of its Raft group at one moment.
#[derive(Debug, Clone)]
pub(crate) struct RaftStatus {
    /// What this server is.
    pub(crate) role: Role,
    /// Who leads, where this server knows it.
    pub(crate) leader: Option<ServerMember>,
    /// The current term.
    pub(crate) term: u64,
    /// All members at the addresses where they were last heard, by Raft id; empty before the cluster is bootstrapped.
    pub(crate) members: Arc<[ServerMember]>,
    /// How long ago a leader was heard; zero on the leader itself, none if never since the start.
    pub(crate) last_contact: Option<Duration>,
    /// The log index that the catalog stands at.
    pub(crate) applied: CatalogIndex,
}

impl RaftStatus {
    /// Says in one line what the server does.
    pub(crate) fn in_words(&self) -> String {
        match (self.role, &self.leader) {
            (Role::Joining, _) => "looking for the other servers".to_owned(),
            (Role::Leader, _) => format!("leading {} servers", self.members.len()),
            (Role::Follower | Role::Candidate, Some(leader)) => format!("following {}", leader.id),
            (Role::Follower | Role::Candidate, None) => "waiting for a leader".to_owned(),
        }
    }
}
