//! Keeps the catalog in step with what a connector sees: who may write, what is written next, and what is told of it.
//!
//! A machine without clock, socket or task. It has one question to the servers under way at a time; whatever is answered,
//! it knows what to ask next.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use catalog::{
    CONNECTOR_WRITES_MAX, ConnectorChange, ConnectorName, ConnectorNode, ConnectorProblem, ConnectorStatus,
    ConnectorWrite, Incarnation, NodeName, ProblemKind, RefusedWrite, ServicePattern, Timestamp,
};

use crate::plan::{Caution, Plan, Sight, plan, settle};

/// How long a refused write rests before it is tried again.
const REFUSED_REST: Duration = Duration::from_secs(30);
/// How long checks rest that were refused: an agent's node comes a moment after its pod, and nobody is to call the pod before it is
/// known to be ready.
const CHECKS_REST: Duration = Duration::from_secs(2);
/// After so many that were refused one after the other, and nothing between them that was not, the keeper rests.
const REFUSALS_MAX: u32 = 32;
/// For so long.
const REFUSALS_REST: Duration = Duration::from_secs(5);
/// How long what was read of the catalog is taken for what is there.
const READ_AGE_MAX: Duration = Duration::from_secs(300);
/// How long after a failure the next question is asked, doubled with each failure in a row up to the longest.
const REST_MIN: Duration = Duration::from_millis(250);
const REST_MAX: Duration = Duration::from_secs(10);
/// How soon news of how the connector fares is told.
const STATUS_REST: Duration = Duration::from_secs(2);
/// How many problems are told one by one.
const PROBLEMS_MAX: usize = 32;
/// How long a problem's text is at most.
const PROBLEM_BYTES_MAX: usize = 480;

/// Says how a connector keeps the catalog.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The connector.
    pub name: ConnectorName,
    /// What it looks at, such as `aws`.
    pub kind: String,
    /// This process, told from all others.
    pub holder: String,
    /// How long its lease lasts.
    pub lease: Duration,
    /// The services to which it may add instances although others serve them.
    pub shares: Vec<ServicePattern>,
    /// When so much goes at once that it is held.
    pub caution: Caution,
}

/// Is what happened.
#[derive(Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// The platform looks like this now.
    Seen(Sight),
    /// The servers have answered the question that was under way.
    Answered(Answer),
    /// The process is to end.
    Stop,
}

/// Is what the servers answered.
#[derive(Debug)]
pub enum Answer {
    /// The lease is this process's, under this term.
    Granted(Incarnation),
    /// This is what the connector keeps, and how many removals an operator confirmed.
    Kept(Vec<ConnectorNode>, Option<u64>),
    /// It was written, but for this.
    Written(Vec<RefusedWrite>),
    /// The lease was given back.
    Released,
    /// Another process runs the connector.
    Elsewhere(String),
    /// The servers refused it for good.
    Refused(String),
    /// Nobody knows whether it was done, or it was not.
    Failed(String),
}

/// Is what to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Ask the servers to carry this out.
    Change(ConnectorChange),
    /// Ask the servers what the connector keeps.
    Read,
    /// Say to whoever looks at the platform whether this process runs the connector.
    Active(bool),
    /// The lease is given back, or there was none: end.
    Done,
}

/// Is the question under way.
#[derive(Debug, Clone, PartialEq)]
enum Asked {
    Acquire,
    Renew(Option<ConnectorStatus>),
    Read,
    Write(Vec<ConnectorWrite>),
    Release,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    term: Incarnation,
    renew_at: Instant,
    ends_at: Instant,
}

/// Keeps the catalog in step with one connector's sight.
#[derive(Debug)]
pub struct Keeper {
    settings: Settings,
    lease: Option<Lease>,
    asked: Option<(Asked, Instant)>,
    rest_until: Option<Instant>,
    failures: u32,
    sight: Option<Sight>,
    kept: Option<(BTreeMap<NodeName, ConnectorNode>, Instant)>,
    confirmed: Option<u64>,
    refused: BTreeMap<NodeName, (RefusedWrite, Instant)>,
    /// How many writes go together. Those that are refused together are divided until each has its own answer.
    together: usize,
    /// How many writes were refused in a row, each by itself.
    refusals: u32,
    told: Option<ConnectorStatus>,
    told_at: Option<Instant>,
    synced_at: Option<Timestamp>,
    problem: Option<String>,
    is_stopping: bool,
}

impl Keeper {
    /// Begins without a lease and without having seen anything.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            lease: None,
            asked: None,
            rest_until: None,
            failures: 0,
            sight: None,
            kept: None,
            confirmed: None,
            refused: BTreeMap::new(),
            together: CONNECTOR_WRITES_MAX,
            refusals: 0,
            told: None,
            told_at: None,
            synced_at: None,
            problem: None,
            is_stopping: false,
        }
    }

    /// Takes in what happened, and says what to do. `wall` is what other people's clocks say, for the status alone.
    pub fn step(&mut self, input: Input, now: Instant, wall: Timestamp) -> Vec<Output> {
        let mut outputs = Vec::new();
        match input {
            Input::Tick => {}
            Input::Seen(sight) => self.sight = Some(sight),
            Input::Stop => self.is_stopping = true,
            Input::Answered(answer) => self.take(answer, now, &mut outputs),
        }
        if self.lease.is_some_and(|lease| now >= lease.ends_at) {
            // Nobody has to have taken over, but somebody may have.
            self.lose(&mut outputs, "the lease has ended and could not be renewed".to_owned());
        }
        let rests = self.rest_until.is_some_and(|until| now < until) && !self.is_stopping;
        if self.asked.is_none() && !rests {
            self.ask(now, wall, &mut outputs);
        }
        outputs
    }

    /// Returns the connector.
    #[must_use]
    pub fn name(&self) -> &ConnectorName {
        &self.settings.name
    }

    /// Reports whether this process runs the connector.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.lease.is_some()
    }

    /// Returns when something is to be done although nothing happens.
    #[must_use]
    pub fn wakes_at(&self, now: Instant) -> Instant {
        let lease = self.lease.iter().flat_map(|lease| [lease.renew_at, lease.ends_at]);
        let refused = self.refused.values().map(|(_, until)| *until);
        let read = self.kept.iter().map(|(_, at)| *at + READ_AGE_MAX);
        let told = self.told_at.map(|at| at + STATUS_REST);
        let next = lease.chain(refused).chain(read).chain(self.rest_until).chain(told).filter(|at| *at > now).min();
        next.unwrap_or(now + REST_MAX).min(now + REST_MAX)
    }

    /// Returns how the connector fares.
    #[must_use]
    pub fn status(&self) -> ConnectorStatus {
        let plan = self.plan();
        let held = plan.as_ref().map(|plan| plan.problems(&self.settings.name)).unwrap_or_default();
        let seen = self.sight.iter().flat_map(|sight| sight.problems.iter().cloned());
        let refused = self.refused.values().map(|(refused, _)| ConnectorProblem {
            kind: if refused.conflict { ProblemKind::Conflict } else { ProblemKind::Refused },
            subject: format!("node {}", refused.node),
            reason: refused.reason.clone(),
        });
        let own = self.problem.iter().map(|reason| ConnectorProblem {
            kind: ProblemKind::Degraded,
            subject: "servers".to_owned(),
            reason: reason.clone(),
        });
        let mut problems: Vec<ConnectorProblem> = own.chain(held).chain(seen).chain(refused).map(bounded).collect();
        problems.sort();
        problems.dedup();
        let beyond = problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        ConnectorStatus {
            synced_at: self.synced_at,
            nodes: self.kept.as_ref().map_or(0, |(kept, _)| kept.len() as u64),
            problems,
            problems_beyond: beyond as u64,
        }
    }

    /// Returns what would be written now, with what the catalog was last seen to hold; none before either was seen.
    #[must_use]
    pub fn plan(&self) -> Option<Plan> {
        let ((kept, _), sight) = (self.kept.as_ref()?, self.sight.as_ref()?);
        let caution = Caution { confirmed: self.confirmed, ..self.settings.caution };
        Some(plan(&self.settings.name, sight, kept, caution))
    }

    fn ask(&mut self, now: Instant, wall: Timestamp, outputs: &mut Vec<Output>) {
        let name = self.settings.name.clone();
        let lasts_ms = u64::try_from(self.settings.lease.as_millis()).unwrap_or(u64::MAX);
        let Some(lease) = self.lease else {
            if self.is_stopping {
                return outputs.push(Output::Done);
            }
            let (kind, holder) = (self.settings.kind.clone(), self.settings.holder.clone());
            let change = ConnectorChange::Acquire { name, kind, holder, lasts_ms };
            return self.send(Asked::Acquire, Some(change), now, outputs);
        };
        let term = lease.term;
        if self.is_stopping {
            return self.send(Asked::Release, Some(ConnectorChange::Release { name, term }), now, outputs);
        }
        if now >= lease.renew_at {
            return self.renew(now, outputs);
        }
        if self.kept.as_ref().is_none_or(|(_, at)| now.duration_since(*at) >= READ_AGE_MAX) {
            return self.send(Asked::Read, None, now, outputs);
        }
        let Some(plan) = self.plan() else { return };
        let most = self.together;
        let planned: BTreeSet<&NodeName> = plan.writes.iter().map(ConnectorWrite::node).collect();
        self.refused.retain(|node, _| planned.contains(node));
        // What was refused has its next turn after all that was not.
        let is_refused = |write: &ConnectorWrite| self.refused.contains_key(write.node());
        let (mut again, mut writes): (Vec<_>, Vec<_>) = plan.writes.into_iter().partition(is_refused);
        if writes.is_empty() {
            again.retain(|write| self.refused.get(write.node()).is_none_or(|(_, until)| now >= *until));
            writes = again;
        }
        // What goes waits until all that comes is there, or a service that moves would be without instances.
        let comes = writes.iter().filter(|write| !matches!(write, ConnectorWrite::Remove { .. })).count();
        writes.truncate(if comes > 0 { comes.min(most) } else { most });
        if !writes.is_empty() {
            let shares = self.settings.shares.clone();
            let change = ConnectorChange::Write { name, term, shares, writes: writes.clone() };
            return self.send(Asked::Write(writes), Some(change), now, outputs);
        }
        (self.together, self.refusals) = (CONNECTOR_WRITES_MAX, 0);
        if self.sight.as_ref().is_some_and(|sight| sight.is_complete) && plan.held == 0 {
            self.synced_at = Some(wall);
        }
        let status = self.status();
        let is_due = self.told_at.is_none_or(|at| now.duration_since(at) >= STATUS_REST);
        if is_due && self.told.as_ref().is_none_or(|told| is_news(told, &status)) {
            self.renew(now, outputs);
        }
    }

    fn renew(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        let Some(lease) = self.lease else { return };
        let (name, term) = (self.settings.name.clone(), lease.term);
        // What is not known of the catalog just now is no news.
        let status = Some(self.status()).filter(|status| self.kept.is_some() && self.told.as_ref() != Some(status));
        let lasts_ms = u64::try_from(self.settings.lease.as_millis()).unwrap_or(u64::MAX);
        let change = ConnectorChange::Renew { name, term, lasts_ms, status: status.clone().map(Box::new) };
        self.send(Asked::Renew(status), Some(change), now, outputs);
    }

    fn send(&mut self, asked: Asked, change: Option<ConnectorChange>, now: Instant, outputs: &mut Vec<Output>) {
        self.asked = Some((asked, now));
        outputs.push(change.map_or(Output::Read, Output::Change));
    }

    fn take(&mut self, answer: Answer, now: Instant, outputs: &mut Vec<Output>) {
        let Some((asked, asked_at)) = self.asked.take() else { return };
        if !matches!(answer, Answer::Failed(_) | Answer::Refused(_) | Answer::Elsewhere(_)) {
            (self.failures, self.rest_until, self.problem) = (0, None, None);
        }
        match (answer, asked) {
            (Answer::Granted(term), Asked::Acquire) => self.hold(term, asked_at, outputs),
            (Answer::Granted(term), Asked::Renew(status)) => {
                self.hold(term, asked_at, outputs);
                self.told_at = Some(now);
                let held = status.iter().flat_map(|status| &status.problems).any(|one| one.kind == ProblemKind::Held);
                if let Some(status) = status {
                    self.told = Some(status);
                }
                // Whether an operator has confirmed it stands beside what is kept.
                if held || self.holds() {
                    self.kept = None;
                }
            }
            (Answer::Kept(nodes, confirmed), Asked::Read) => {
                self.kept = Some((nodes.into_iter().map(|node| (node.node.name.clone(), node)).collect(), now));
                self.confirmed = confirmed;
            }
            (Answer::Written(refused), Asked::Write(writes)) => self.written(refused, &writes, now),
            (Answer::Released, _) => self.lose(outputs, String::new()),
            (Answer::Elsewhere(reason), Asked::Acquire) => {
                self.problem = Some(reason);
                self.rest_until = Some(now + (self.settings.lease / 6).max(REST_MIN));
            }
            (Answer::Elsewhere(reason), _) => self.lose(outputs, reason),
            // One of them is the reason, and the others need not wait for it; unless the token may do nothing at all, which
            // the lease's renewal tells.
            (Answer::Refused(_), Asked::Write(writes)) if writes.len() > 1 => {
                self.together = writes.len() / 2;
                self.renew_next(now);
            }
            (Answer::Refused(reason), Asked::Write(writes)) => self.refuse(&reason, &writes, now),
            (Answer::Refused(reason) | Answer::Failed(reason), asked) => {
                if matches!(asked, Asked::Write(_)) {
                    // Nobody knows what of it is there.
                    self.kept = None;
                }
                self.failed(reason, now);
            }
            // An answer to something else than what was asked is none.
            (_, _) => self.failed("the servers answered something else than what was asked".to_owned(), now),
        }
        if self.is_stopping && self.problem.is_some() {
            self.lose(outputs, String::new());
        }
    }

    /// Takes up the lease. It counts from when it was asked for: the servers' answer may have taken its time.
    fn hold(&mut self, term: Incarnation, asked_at: Instant, outputs: &mut Vec<Output>) {
        let (renew_at, ends_at) = (asked_at + self.settings.lease / 3, asked_at + self.settings.lease);
        if self.lease.replace(Lease { term, renew_at, ends_at }).is_none() {
            (self.kept, self.told) = (None, None);
            outputs.push(Output::Active(true));
        }
    }

    /// Notes what was written, and that more may go together next.
    fn written(&mut self, refused: Vec<RefusedWrite>, writes: &[ConnectorWrite], now: Instant) {
        (self.together, self.refusals) = ((writes.len() * 2).clamp(self.together, CONNECTOR_WRITES_MAX), 0);
        for write in writes {
            self.refused.remove(write.node());
        }
        for one in refused {
            let is_of_checks = |write: &ConnectorWrite| {
                matches!(write, ConnectorWrite::Checks { node, .. } if *node == one.node) && !one.conflict
            };
            let rest = if writes.iter().any(is_of_checks) { CHECKS_REST } else { REFUSED_REST };
            self.refused.insert(one.node.clone(), (one, now + rest));
        }
        if let Some((kept, _)) = &mut self.kept {
            let done = writes.iter().filter(|write| !self.refused.contains_key(write.node()));
            done.for_each(|write| settle(kept, write));
        }
    }

    /// Lets a write rest that was refused by itself; after many in a row, everything does.
    fn refuse(&mut self, reason: &str, writes: &[ConnectorWrite], now: Instant) {
        let until = now + REFUSED_REST;
        for node in writes.iter().map(ConnectorWrite::node) {
            let refused = RefusedWrite { node: node.clone(), reason: reason.to_owned(), conflict: false };
            self.refused.insert(node.clone(), (refused, until));
        }
        self.refusals = self.refusals.saturating_add(1);
        if self.refusals.is_multiple_of(REFUSALS_MAX) {
            self.rest_until = Some(now + REFUSALS_REST);
            self.renew_next(now);
        }
    }

    /// Renews the lease before anything else is asked.
    fn renew_next(&mut self, now: Instant) {
        if let Some(lease) = &mut self.lease {
            lease.renew_at = lease.renew_at.min(now);
        }
    }

    fn holds(&self) -> bool {
        self.plan().is_some_and(|plan| plan.held > 0)
    }

    fn failed(&mut self, reason: String, now: Instant) {
        let rest = REST_MIN.saturating_mul(1 << self.failures.min(6)).min(REST_MAX);
        self.failures = self.failures.saturating_add(1);
        self.rest_until = Some(now + rest);
        self.problem = Some(reason);
    }

    fn lose(&mut self, outputs: &mut Vec<Output>, reason: String) {
        if self.lease.take().is_some() {
            outputs.push(Output::Active(false));
        }
        (self.kept, self.told) = (None, None);
        self.problem = Some(reason).filter(|reason| !reason.is_empty());
    }
}

/// Reports whether there is more to tell than that time has passed.
fn is_news(told: &ConnectorStatus, status: &ConnectorStatus) -> bool {
    ConnectorStatus { synced_at: told.synced_at, ..status.clone() } != *told || told.synced_at.is_none()
}

fn bounded(problem: ConnectorProblem) -> ConnectorProblem {
    let cut = |text: String| {
        let end = (0..=PROBLEM_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text[..end].to_owned()
    };
    ConnectorProblem { kind: problem.kind, subject: cut(problem.subject), reason: cut(problem.reason) }
}

#[cfg(test)]
mod tests;
