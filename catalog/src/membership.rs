//! Who the servers are: members with their roles, those that were taken out, and how the group looks after itself.
//!
//! The list says what is wanted. Raft's own membership follows it: the leader changes it step by step until both agree.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{CatalogIndex, Mesh, ServerId};

/// Most servers that one group has; more voters make every write slower and hardly safer.
pub const MEMBERS_MAX: usize = 15;

/// How many servers that were taken out are remembered by their disks, so that they can be told to stop.
pub(crate) const RETIRED_MAX: usize = 256;

/// Is what a member is meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberRole {
    /// It receives the log and does not vote yet.
    Learner,
    /// It votes.
    Voter,
    /// It is being taken out.
    Leaving,
}

/// Is what a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberFacts {
    /// Where it is reached for Raft.
    pub raft_address: String,
    /// Where agents reach it.
    pub agent_address: String,
    /// The release that it runs.
    pub release: String,
    /// The highest version of an [`Envelope`](crate::Envelope) that it reads.
    pub reads: u16,
    /// The ids of the cluster keys that it was started with, the first one first; none where it does not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

/// Is a server of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The server's name.
    pub id: ServerId,
    /// Its number in Raft; never used again for another disk.
    pub raft_id: u64,
    /// The random mark of its data directory.
    pub disk_id: String,
    /// What it is meant to be.
    pub role: MemberRole,
    /// What it said of itself last.
    pub facts: MemberFacts,
    /// The index at which it became a member.
    pub created: CatalogIndex,
    /// The index of the last change.
    pub modified: CatalogIndex,
}

/// Is a server that was taken out for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetiredMember {
    /// The name that it had.
    pub id: ServerId,
    /// The mark of its data directory.
    pub disk_id: String,
    /// When it was taken out.
    pub retired: CatalogIndex,
}

/// Says how the group looks after its own servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Autopilot {
    /// Whether voters that are gone for long are taken out where that makes the group survive more.
    pub cleanup_dead_servers: bool,
    /// How long a server may be silent and still count as healthy, in milliseconds.
    pub last_contact_threshold_ms: u64,
    /// How many entries a server may be behind and still count as healthy.
    pub max_trailing_logs: u64,
    /// How many voters are left at least when dead ones are taken out.
    pub min_quorum: u64,
    /// How long a newcomer must be healthy before it votes, in milliseconds.
    pub server_stabilization_time_ms: u64,
    /// The index at which it was first written; 0 while nobody has.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

impl Default for Autopilot {
    fn default() -> Self {
        Self {
            cleanup_dead_servers: true,
            last_contact_threshold_ms: 1_000,
            max_trailing_logs: 250,
            min_quorum: 0,
            server_stabilization_time_ms: 10_000,
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        }
    }
}

impl Autopilot {
    /// Returns how long a server may be silent and still count as healthy.
    #[must_use]
    pub fn last_contact_threshold(&self) -> Duration {
        Duration::from_millis(self.last_contact_threshold_ms)
    }

    /// Returns how long a newcomer must be healthy before it votes.
    #[must_use]
    pub fn server_stabilization_time(&self) -> Duration {
        Duration::from_millis(self.server_stabilization_time_ms)
    }

    /// Returns how long a voter must be silent before it counts as dead: sixty times as long as a newcomer must be stable.
    #[must_use]
    pub fn dead_after(&self) -> Duration {
        self.server_stabilization_time().saturating_mul(60)
    }
}

/// Is what one server found its state to be at some index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateDigest {
    /// The release that computed it: others may write the same state in another form.
    pub release: String,
    /// The digest of the state's bytes, in hexadecimal.
    pub digest: String,
}

/// Gathers what the servers found their states to be at one index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// The index.
    pub index: CatalogIndex,
    /// By Raft id.
    pub digests: BTreeMap<u64, StateDigest>,
}

impl Witness {
    /// Returns what a majority of `voters` found, where they run the same release and agree.
    #[must_use]
    pub fn majority(&self, voters: usize, release: &str) -> Option<&str> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for one in self.digests.values().filter(|one| one.release == release) {
            *counts.entry(&one.digest).or_default() += 1;
        }
        counts.into_iter().find(|(_, count)| *count > voters / 2).map(|(digest, _)| digest)
    }
}

/// Is the list of servers, and what the group knows of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// Counts how often the group was rebuilt by force from one survivor; servers of an older epoch are refused.
    #[serde(default)]
    pub epoch: u64,
    /// The number that the next newcomer gets.
    pub next_raft_id: u64,
    /// The members by Raft id.
    pub members: BTreeMap<u64, Arc<Member>>,
    /// Those that were taken out, by the Raft id that they had.
    #[serde(default)]
    pub retired: BTreeMap<u64, Arc<RetiredMember>>,
    /// How the group looks after itself.
    #[serde(default)]
    pub autopilot: Autopilot,
    /// What the servers found their states to be last.
    #[serde(default)]
    pub witness: Witness,
}

impl Membership {
    /// Returns the membership with which a group begins: the servers that founded it, all of them voters.
    #[must_use]
    pub fn founded_by(mesh: &Mesh) -> Self {
        let members = mesh.servers.iter().map(|server| {
            let facts = MemberFacts {
                raft_address: server.raft_address.clone(),
                agent_address: String::new(),
                release: String::new(),
                reads: server.reads,
                keys: Vec::new(),
            };
            let member = Member {
                id: server.id.clone(),
                raft_id: server.raft_id,
                disk_id: server.disk_id.clone(),
                role: MemberRole::Voter,
                facts,
                // Not the index of the bootstrap: what an older release wrote does not have it.
                created: CatalogIndex(0),
                modified: CatalogIndex(0),
            };
            (server.raft_id, Arc::new(member))
        });
        let members: BTreeMap<u64, Arc<Member>> = members.collect();
        let next_raft_id = members.keys().last().map_or(1, |last| last + 1);
        Self { next_raft_id, members, ..Self::default() }
    }

    /// Returns the member with a Raft id.
    #[must_use]
    pub fn member(&self, raft_id: u64) -> Option<&Member> {
        self.members.get(&raft_id).map(|member| &**member)
    }

    /// Returns the member of a name.
    #[must_use]
    pub fn member_named(&self, id: &ServerId) -> Option<&Member> {
        self.members.values().map(|member| &**member).find(|member| member.id == *id)
    }

    /// Reports whether the server on this disk was taken out.
    #[must_use]
    pub fn is_retired(&self, disk_id: &str) -> bool {
        self.retired.values().any(|retired| retired.disk_id == disk_id)
    }

    /// Returns the Raft ids of those that are meant to vote.
    pub fn voters(&self) -> impl Iterator<Item = u64> {
        self.members.values().filter(|member| member.role == MemberRole::Voter).map(|member| member.raft_id)
    }
}

/// Is one change of the list of servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum MembershipChange {
    /// Takes a server in, as a learner; of a server that is in already it takes what it says of itself.
    Add {
        /// Its name.
        id: ServerId,
        /// The mark of its data directory.
        disk_id: String,
        /// What it says of itself.
        facts: MemberFacts,
    },
    /// Takes what a member says of itself.
    Describe {
        /// Which member.
        raft_id: u64,
        /// What it says.
        facts: MemberFacts,
    },
    /// Lets a learner vote.
    Promote {
        /// Which member.
        raft_id: u64,
    },
    /// Begins to take a member out.
    Remove {
        /// Which member.
        raft_id: u64,
    },
    /// Forgets a leaving member that Raft does not count any more.
    Retire {
        /// Which member.
        raft_id: u64,
    },
    /// Notes that the leader is asked to hand over: it changes nothing, and stands in the audit trail.
    HandOver {
        /// To which server, by Raft id; to whichever has most of the log where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<u64>,
    },
    /// Says how the group looks after itself.
    SetAutopilot {
        /// How.
        autopilot: Autopilot,
        /// Only if it was last changed at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compare: Option<CatalogIndex>,
    },
    /// Says what a server found its state to be at an index.
    Witness {
        /// Which member.
        raft_id: u64,
        /// At which index.
        index: CatalogIndex,
        /// What it found.
        found: StateDigest,
    },
}
