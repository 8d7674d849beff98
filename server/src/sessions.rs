//! Watches over agents' sessions, as a `step(seen, now)` machine: what was lost is reported, what stays away leaves the
//! catalog, and revocations that neither a certificate nor a record is left for are forgotten.
//!
//! It compares the catalog with what this server sees, anew at every step, so that nothing has to be handed on when a server
//! starts or another one leads. Each server speaks for the sessions that it holds; the leader speaks for those of servers
//! that it cannot hear, and it alone removes and forgets.

pub(crate) mod shell;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use catalog::{
    AgentId, AgentRecord, Attestation, Catalog, Command, FORGOTTEN_MAX, Incarnation, RevocationChange, RevokedService,
    SESSIONS_ENDED_MAX, SESSIONS_MAX, ServerId, SessionChange, SessionRef, Timestamp,
};

/// How long a revocation is kept after the last certificate that it is for has expired: clocks differ.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

/// From this many lost sessions on, nothing is removed while they are more than half of all: servers that cannot be reached
/// are likelier than so many agents that are gone.
const HOLD_MIN: usize = 10;

/// Is how long what is patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periods {
    /// How long an agent may be without a session before its node turns critical.
    pub grace: Duration,
    /// How long after that its node leaves the catalog.
    pub reap: Duration,
    /// How long a leaf lives.
    pub leaf_ttl: Duration,
}

/// Is what a server sees at one moment.
#[derive(Debug)]
pub struct Seen<'a> {
    /// What this server has applied.
    pub catalog: &'a Catalog,
    /// The sessions that this server holds.
    pub open: &'a BTreeMap<AgentId, Incarnation>,
    /// The servers that this one hears; none where it does not lead.
    pub heard: Option<&'a BTreeSet<ServerId>>,
    /// The wall clock.
    pub clock: Timestamp,
}

/// Is the machine. Show it what the server sees; it answers with what to propose.
#[derive(Debug)]
pub struct Sessions {
    server: ServerId,
    periods: Periods,
    /// Sessions that nobody seems to hold, and since when.
    absent: Waiting,
    /// Lost sessions whose agents still have their nodes, and since when.
    lost: Waiting,
    /// Records of logins whose agents have opened no session, and since when.
    unused: Waiting,
    is_holding: bool,
}

/// Sessions that something is waited for with, each since when.
#[derive(Debug, Default)]
struct Waiting {
    since: BTreeMap<AgentId, (Incarnation, Duration)>,
}

impl Waiting {
    /// Takes in who waits now, and returns those who have waited for `period`.
    fn over(&mut self, now: Duration, period: Duration, current: &BTreeMap<AgentId, Incarnation>) -> Vec<SessionRef> {
        self.since.retain(|agent, (incarnation, _)| current.get(agent) == Some(incarnation));
        let mut over = Vec::new();
        for (agent, incarnation) in current {
            let (_, since) = self.since.entry(agent.clone()).or_insert((*incarnation, now));
            if now.saturating_sub(*since) >= period {
                over.push(SessionRef { agent: agent.clone(), incarnation: *incarnation });
            }
        }
        over
    }
}

impl Sessions {
    /// Returns the machine of a server.
    pub fn new(server: ServerId, periods: Periods) -> Self {
        let (absent, lost, unused) = (Waiting::default(), Waiting::default(), Waiting::default());
        Self { server, periods, absent, lost, unused, is_holding: false }
    }

    /// Reports whether nodes stay in the catalog because too many agents seem to be gone at once.
    pub fn is_holding(&self) -> bool {
        self.is_holding
    }

    /// Looks at what the server sees. `now` is the time since any fixed start and never goes back.
    ///
    /// What is proposed and not carried out is proposed again at the next look.
    pub fn step(&mut self, seen: &Seen<'_>, now: Duration) -> Vec<Command> {
        let absent = self.absent(seen);
        let mut commands = batches(self.absent.over(now, self.periods.grace, &absent), |sessions| Command::Sessions {
            change: SessionChange::Lost { sessions },
        });
        if seen.heard.is_some() {
            commands.extend(self.reap(seen.catalog, now));
            commands.extend(self.end(seen));
            commands.extend(self.end_unused(seen.catalog, now));
            commands.extend(self.forget(seen));
        } else {
            self.lost = Waiting::default();
            self.unused = Waiting::default();
            self.is_holding = false;
        }
        commands
    }

    /// Returns the sessions that should be open and that nobody holds, as far as this server is the one to say.
    fn absent(&self, seen: &Seen<'_>) -> BTreeMap<AgentId, Incarnation> {
        let is_absent = |record: &AgentRecord, incarnation: Incarnation| match &record.server {
            Some(server) if *server == self.server => seen.open.get(&record.id) != Some(&incarnation),
            Some(server) => seen.heard.is_some_and(|heard| !heard.contains(server)),
            None => false,
        };
        let records = seen.catalog.agent_records().filter(|record| record.presence.lost_at.is_none());
        records
            .filter_map(|record| Some((record, record.incarnation?)))
            .filter(|(record, incarnation)| is_absent(record, *incarnation))
            .map(|(record, incarnation)| (record.id.clone(), incarnation))
            .collect()
    }

    fn reap(&mut self, catalog: &Catalog, now: Duration) -> Vec<Command> {
        let (mut all, mut away, mut lost) = (0, 0, BTreeMap::new());
        for (record, incarnation) in catalog.agent_records().filter_map(|record| Some((record, record.incarnation?))) {
            let holds_node = catalog.holds_node(record);
            all += usize::from(holds_node);
            if holds_node && record.presence.lost_at.is_some() {
                away += 1;
                lost.insert(record.id.clone(), incarnation);
            }
        }
        let over = self.lost.over(now, self.periods.reap, &lost);
        self.is_holding = away >= HOLD_MIN && away * 2 > all;
        if self.is_holding {
            return Vec::new();
        }
        batches(over, |sessions| Command::Sessions { change: SessionChange::Reaped { sessions } })
    }

    /// Ends the records of agents that a platform vouched for and that have been away for so long that none of their
    /// certificates is left; of those that said goodbye, sooner. Every task that ever ran would stay in the state otherwise.
    fn end(&self, seen: &Seen<'_>) -> Vec<Command> {
        let is_over = |record: &AgentRecord| {
            let kept = match record.presence.draining {
                Some(_) => self.periods.reap,
                None => self.periods.reap + self.leaf_ttl(seen.catalog),
            };
            record.presence.lost_at.is_some_and(|at| {
                let end = at.saturating_add(kept);
                end < seen.clock && end < seen.catalog.clock()
            })
        };
        let vouched_for = |record: &&AgentRecord| matches!(record.attestation, Attestation::Login { .. });
        let over = seen.catalog.agent_records().filter(vouched_for).filter(|record| !seen.catalog.holds_node(record));
        let over = over
            .filter(|record| is_over(record))
            .filter_map(|record| Some(SessionRef { agent: record.id.clone(), incarnation: record.incarnation? }));
        let over: Vec<SessionRef> = over.collect();
        over.chunks(SESSIONS_ENDED_MAX)
            .map(|sessions| Command::Sessions { change: SessionChange::Ended { sessions: sessions.to_vec() } })
            .collect()
    }

    /// Ends the records of agents that logged in and never opened a session, once none of their certificates is left. Nothing
    /// says when they logged in: the time counts from when this leader first saw them.
    fn end_unused(&mut self, catalog: &Catalog, now: Duration) -> Vec<Command> {
        let is_unused = |record: &&AgentRecord| {
            record.incarnation.is_none() && matches!(record.attestation, Attestation::Login { .. })
        };
        let unused =
            catalog.agent_records().filter(is_unused).map(|record| (record.id.clone(), Incarnation(0))).collect();
        let over = self.unused.over(now, self.periods.reap + self.leaf_ttl(catalog), &unused);
        let over: Vec<AgentId> = over.into_iter().map(|session| session.agent).collect();
        over.chunks(SESSIONS_ENDED_MAX)
            .map(|agents| Command::Sessions { change: SessionChange::Unused { agents: agents.to_vec() } })
            .collect()
    }

    /// Returns how long the longest certificate lives that may be about.
    fn leaf_ttl(&self, catalog: &Catalog) -> Duration {
        let unset = self.periods.leaf_ttl;
        catalog.roots().map(|root| catalog.longest_leaf_ttl(&root.id, unset)).fold(unset, Duration::max)
    }

    /// Forgets what is long over by the time in the log and by this server's clock: one that is wrong forgets nothing.
    fn forget(&self, seen: &Seen<'_>) -> Option<Command> {
        let kept = self.leaf_ttl(seen.catalog) + FORGET_AFTER;
        let is_over = |at: Timestamp| {
            let end = at.saturating_add(kept);
            end < seen.clock && end < seen.catalog.clock()
        };
        let agents = seen.catalog.revoked_agents().filter(|(_, at)| at.is_some_and(is_over));
        let agents: Vec<AgentId> = agents.map(|(id, _)| id.clone()).take(FORGOTTEN_MAX).collect();
        // A record of then would be signed new certificates for the service: it is kept out for as long as it lives. No record
        // that comes later is of then, so that nothing overtakes this look.
        let is_of_then = |record: &AgentRecord, revoked: &RevokedService| {
            record.enrolled < revoked.below && record.entitles(&revoked.service)
        };
        let services = seen.catalog.revoked_services().filter(|revoked| is_over(revoked.revoked_at));
        let services =
            services.filter(|revoked| !seen.catalog.agent_records().any(|record| is_of_then(record, revoked)));
        let services: Vec<RevokedService> = services.take(FORGOTTEN_MAX - agents.len()).cloned().collect();
        let is_any = !agents.is_empty() || !services.is_empty();
        is_any.then_some(Command::Revoke { change: RevocationChange::Forget { agents, services } })
    }
}

fn batches(sessions: Vec<SessionRef>, command: impl Fn(Vec<SessionRef>) -> Command) -> Vec<Command> {
    sessions.chunks(SESSIONS_MAX).map(|batch| command(batch.to_vec())).collect()
}
