//! What a run is made of, and what it came to.

use std::collections::BTreeMap;
use std::time::Duration;

use super::views::Counts;

/// The bug that is put in, for the checks to find or the machines to mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    Nothing,
    /// The network swallows one event, with others after it, although the connection lives on.
    LosesAnEvent,
    /// The network swallows the very last event.
    LosesTheLastEvent,
    /// Servers answer reads from what they have, without asking the leader.
    ReadsStale,
    /// A leader answers writes before they are committed.
    AnswersBeforeCommit,
    /// Servers let writes of any session pass as writes of the newest.
    ForgetsFences,
    /// A leader takes the next step of a rotation without waiting for agents.
    HurriesRotations,
    /// Servers do not know the sessions that they hold.
    GivesUpOpenSessions,
    /// Servers report no lost session.
    GivesNobodyUp,
    /// Agents decide without the guardrails that they were told of.
    ForgetsGuardrails,
    /// Servers do not say when they have told all of what they committed, and agents go by each topic as it comes.
    SettlesNothing,
}

/// One trouble that goes on and on, where nothing else goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasting {
    Nothing,
    /// The link between the leader and another server is down every other fifth of a second.
    FlappingLink,
    /// Every twenty seconds the next server loses power, and comes back.
    RollingRestarts,
    /// The disk of a follower takes more than half a second for whatever is asked of it; clients ask the others.
    SlowFollower,
}

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) servers: u64,
    pub(crate) clients: u64,
    pub(crate) agents: u64,
    pub(crate) planted: Planted,
    pub(crate) has_faults: bool,
    /// Whether servers join, leave and are replaced.
    pub(crate) has_membership: bool,
    /// Whether the authority's certificates are short-lived, and rotated.
    pub(crate) rotates: bool,
    /// Whether sessions are given up that nobody holds, and nodes leave whose agents stay away.
    pub(crate) gives_up: bool,
    /// Whether policy is more than intentions: guardrails, relaxations and revoked services.
    pub(crate) has_policy: bool,
    /// Whether platforms vouch for some agents: these log in, and again once their records have ended.
    pub(crate) logs_in: bool,
    pub(crate) has_honest_disks: bool,
    pub(crate) lasting: Lasting,
    /// How long things go wrong.
    pub(crate) trouble: Duration,
    /// How many entries lie between two snapshots at least and at most: few, so that many are sent, or more, where hours are
    /// to pass.
    pub(crate) snapshot_entries: (u64, u64),
    /// How often the states of servers are compared, beside the times when they begin with a snapshot, and the end.
    pub(crate) compared_every: u64,
}

impl Plan {
    pub(crate) const DEFAULT: Plan = Plan {
        servers: 3,
        clients: 5,
        agents: 0,
        planted: Planted::Nothing,
        has_faults: true,
        has_membership: false,
        rotates: false,
        gives_up: false,
        has_policy: false,
        logs_in: false,
        has_honest_disks: true,
        lasting: Lasting::Nothing,
        trouble: Duration::from_secs(20),
        snapshot_entries: (3, 40),
        compared_every: 16,
    };
}

impl Default for Plan {
    fn default() -> Plan {
        Plan::DEFAULT
    }
}

/// What a run came to. Equal for equal seeds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) acknowledged: u64,
    /// How many writes were answered only after a client's patience with them would have ended.
    pub(crate) late: u64,
    pub(crate) reads: u64,
    /// How many deeds the history has that was checked.
    pub(crate) deeds: u64,
    pub(crate) leaders: u64,
    /// The highest term in which anybody led.
    pub(crate) term: u64,
    pub(crate) crashes: u64,
    /// How often a server was sent a snapshot.
    pub(crate) restored: u64,
    /// Certificates asked for, by whether they were signed.
    pub(crate) certificates: BTreeMap<bool, u64>,
    pub(crate) streams: Counts,
    /// What went wrong, and how often.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// What stewards and operators did to the group, and how often.
    pub(crate) steps: BTreeMap<&'static str, u64>,
    /// How long the cluster ran, by its own clock.
    pub(crate) simulated: Duration,
    /// How long of that things went wrong.
    pub(crate) troubled: Duration,
    pub(crate) trace: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Summary) {
        self.acknowledged += other.acknowledged;
        self.late += other.late;
        self.reads += other.reads;
        self.deeds += other.deeds;
        self.leaders += other.leaders;
        self.term = self.term.max(other.term);
        self.crashes += other.crashes;
        self.restored += other.restored;
        self.streams.add(&other.streams);
        for (is_signed, count) in &other.certificates {
            *self.certificates.entry(*is_signed).or_default() += count;
        }
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for (kind, count) in &other.steps {
            *self.steps.entry(kind).or_default() += count;
        }
        self.simulated += other.simulated;
        self.troubled += other.troubled;
        self.trace ^= other.trace;
    }
}
