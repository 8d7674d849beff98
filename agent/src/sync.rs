//! How an agent keeps in step with its servers, as a `step(input, now)` machine.
//!
//! The machine decides which server to talk to and when, what to subscribe to and from where to resume, whether what
//! comes can be taken, and which writes make the catalog say of this node what it should. It does no I/O: a shell
//! carries out its outputs, a simulator can too.
//!
//! It keeps the last good state of every topic. Nothing that a server sends, and no absence of servers, makes it forget
//! that state or go back to an earlier one. What decides calls comes into force together, see [`settling`].

mod accept;
pub(crate) mod connection;
mod damping;
mod dial;
mod exchange;
#[cfg(test)]
pub(crate) mod model;
mod registrations;
mod settling;
mod topics;
mod writes;

use std::collections::BTreeSet;
use std::time::Duration;

use catalog::{CatalogIndex, Incarnation, RequestId, RootsAck, Topic};
use wire::agent_protocol::{Capabilities, Capability, ClientFrame, GroupEpoch, ServerFrame};

use dial::{Choice, Dialler};
pub use exchange::{Input, Lost, Output, WriteResult};
pub use registrations::{Desired, Known};
use registrations::{Registrations, Settled};
use settling::{Settling, Standing};
use topics::{Taken, Topics, acceptable};
pub use topics::{TopicState, View};
use wire::random::Seeded;
use writes::Writes;

/// A connection that is not there after this long is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that says nothing for this long is taken for dead; it pings after ten seconds of silence.
const SILENCE_MAX: Duration = Duration::from_secs(25);
/// The wait before a topic that was sent something impossible is asked for again, and up to half as much more.
const POISON_PAUSE: Duration = Duration::from_secs(20);
/// What a server refused to register is tried again this often.
const FORGIVE_AFTER: Duration = Duration::from_secs(60);

/// How the machine stands with its servers.
#[derive(Debug)]
enum Link {
    Down { retry_at: Duration },
    Connecting { attempt: u64, since: Duration },
    Up { attempt: u64, since: Duration, heard: Duration, incarnation: Option<Incarnation> },
}

/// What became of the history that a server named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Followed {
    /// It is the one that is held, or the server did not name one.
    GoesOn,
    /// It is a newer one: every topic was asked for anew.
    StartedOver,
    /// The server was left.
    Left,
}

/// What an agent starts its synchronisation with.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Configured servers as `host:port`.
    pub servers: Vec<String>,
    /// Servers that an earlier run learned of.
    pub learned: Vec<String>,
    /// The history of the servers that `view` is of, where that is known.
    pub group: Option<GroupEpoch>,
    /// What an earlier run had in force.
    pub view: View,
    /// What restrained it.
    pub restraint: View,
    /// What an earlier run registered; nothing if that is not known, which empties the node first.
    pub known: Option<Known>,
    /// Decides every random choice. No two runs of an agent share one, for it also numbers requests.
    pub seed: u64,
}

/// The machine. Feed it inputs in order; it answers each with its outputs.
#[derive(Debug)]
pub struct Sync {
    jitter: Seeded,
    dialler: Dialler,
    topics: Topics,
    settling: Settling,
    registrations: Registrations,
    writes: Writes,
    /// The newest history that any server told of.
    group: Option<GroupEpoch>,
    /// The history before, until nothing that is held is of it.
    former: Option<GroupEpoch>,
    link: Link,
    /// What the server of the present session understands; nothing before its welcome.
    server_knows: Capabilities,
    attempts: u64,
    forgive_at: Option<Duration>,
    /// What is in force, and what of it the present connection was told.
    enforced: Option<RootsAck>,
    acknowledged: Option<RootsAck>,
    /// The version of what may be registered that is on disk.
    saved: u64,
    leaving: bool,
}

impl Sync {
    /// Returns a machine that has not connected yet and connects at its first step.
    pub fn new(start: Start) -> Self {
        let mut jitter = Seeded::new(start.seed);
        let topics = Topics::new(start.view);
        Self {
            dialler: Dialler::new(start.servers, start.learned, &mut jitter),
            settling: Settling::new(topics.view().clone(), acceptable(start.restraint)),
            topics,
            registrations: Registrations::new(start.known),
            writes: Writes::new(start.seed),
            group: start.group,
            former: None,
            link: Link::Down { retry_at: Duration::ZERO },
            server_knows: Capabilities::default(),
            attempts: 0,
            forgive_at: None,
            enforced: None,
            acknowledged: None,
            saved: 0,
            leaving: false,
            jitter,
        }
    }

    /// Returns what is in force of every needed topic that was ever received: what decides calls is of one state of one
    /// server.
    pub fn view(&self) -> &View {
        self.settling.view()
    }

    /// Returns the index of that state, where a server told it.
    pub fn settled_at(&self) -> Option<CatalogIndex> {
        self.settling.at()
    }

    /// Returns what was told since, of what decides calls: a call that is allowed must be so by this, too. Empty where
    /// nothing was, or only just.
    pub fn restraint(&self) -> &View {
        self.settling.restraint()
    }

    /// Returns what may be registered of this node; nothing while that is unknown.
    pub fn known(&self) -> Option<Known> {
        self.registrations.known()
    }

    /// Returns the version of [`Sync::known`]: it grows with every thing that may be registered from now on.
    pub fn known_version(&self) -> u64 {
        self.registrations.version()
    }

    /// Returns the history of the servers that [`Sync::view`] is of; an older one while any of it is.
    pub fn group(&self) -> Option<&GroupEpoch> {
        let is_foreign = self.topics.has_foreign() || self.settling.is_foreign();
        if is_foreign { self.former.as_ref() } else { self.group.as_ref() }
    }

    /// Returns the servers that a server told of.
    pub fn servers(&self) -> &[String] {
        self.dialler.learned()
    }

    /// Returns when the machine next wants a [`Input::Tick`], if nothing else happens before.
    pub fn wake_at(&self) -> Option<Duration> {
        // Writes and poisoned topics wait for a connection; their times mean nothing without one.
        let (link, topics, writes) = match &self.link {
            Link::Down { retry_at } => (*retry_at, None, None),
            Link::Connecting { since, .. } => (*since + CONNECT_TIMEOUT, None, None),
            Link::Up { heard, incarnation, .. } => {
                let writes = incarnation.and_then(|_| self.write_due());
                (*heard + SILENCE_MAX, self.topics.next_due(), writes)
            }
        };
        [Some(link), topics, writes, self.forgive_at, self.settling.due()].into_iter().flatten().min()
    }

    /// Reacts to one input. `now` is the time since any fixed start and never goes back.
    pub fn step(&mut self, input: Input, now: Duration, out: &mut dyn FnMut(Output)) {
        match input {
            Input::Tick => {}
            Input::Connected { attempt } => self.connected(attempt, now, out),
            Input::Closed { attempt } => self.closed(attempt, now),
            Input::SentAway { attempt, retry_after } => {
                if self.is_current(attempt) {
                    self.dialler.sent_away(retry_after, now, &mut self.jitter);
                    self.closed(attempt, now);
                }
            }
            Input::Frame { attempt, frame } => self.frame(attempt, frame, now, out),
            Input::Written { request_id, result } => self.written(&request_id, result, now, out),
            Input::Needs(topics) => self.need(&topics, out),
            Input::Readmitted => {
                self.registrations = Registrations::new(None).counting_from(self.registrations.version());
                if self.leaving {
                    self.registrations.leave();
                }
            }
            Input::Desired(desired) => self.registrations.desire(*desired, now),
            Input::Saved { version } => self.saved = self.saved.max(version),
            Input::Enforced { renewed } => {
                // What is told of them is in force only once it is settled.
                let told = self.topics.index_of(&Topic::Roots);
                let held = told.and_then(|_| self.settling.index_of(&Topic::Roots));
                self.enforced = held.map(|roots| RootsAck { roots, renewed });
                self.acknowledge(out);
            }
            Input::Retry => {
                if let Link::Down { retry_at } = &mut self.link {
                    *retry_at = (*retry_at).min(now);
                }
            }
            Input::Leave => {
                self.leaving = true;
                self.registrations.leave();
            }
        }
        self.keep_time(now, out);
        self.write_next(now, out);
        if self.leaving && self.registrations.has_left() {
            self.leaving = false;
            out(Output::Left);
        }
    }

    fn keep_time(&mut self, now: Duration, out: &mut dyn FnMut(Output)) {
        match &self.link {
            Link::Connecting { since, .. } if now >= *since + CONNECT_TIMEOUT => {
                self.hang_up(Lost::ConnectTimeout, now, out);
            }
            Link::Up { heard, .. } if now >= *heard + SILENCE_MAX => self.hang_up(Lost::Silent, now, out),
            Link::Up { attempt, .. } => {
                let attempt = *attempt;
                for topic in self.topics.due(now) {
                    self.subscribe_from_scratch(attempt, &topic, out);
                }
            }
            Link::Down { .. } | Link::Connecting { .. } => {}
        }
        if self.forgive_at.is_some_and(|at| now >= at) {
            self.forgive_at = None;
            self.registrations.forgive();
        }
        let standing = self.settling.pass(&self.topics, now);
        self.put_in_force(standing, out);
        if let Link::Down { retry_at } = &self.link
            && now >= *retry_at
        {
            self.dial(now, out);
        }
    }

    /// Says what became of what is in force.
    fn put_in_force(&self, standing: Standing, out: &mut dyn FnMut(Output)) {
        if standing == Standing::Changed {
            out(Output::Publish(self.view().clone()));
        }
        if standing != Standing::Same {
            out(Output::Persist);
        }
    }

    fn dial(&mut self, now: Duration, out: &mut dyn FnMut(Output)) {
        match self.dialler.next(now) {
            Choice::Dial(server) => {
                self.attempts += 1;
                self.link = Link::Connecting { attempt: self.attempts, since: now };
                out(Output::Connect { attempt: self.attempts, server });
            }
            Choice::NotBefore(retry_at) => self.link = Link::Down { retry_at },
            Choice::Nobody => self.link = Link::Down { retry_at: now + CONNECT_TIMEOUT },
        }
    }

    fn connected(&mut self, attempt: u64, now: Duration, out: &mut dyn FnMut(Output)) {
        match &self.link {
            Link::Connecting { attempt: current, .. } if *current == attempt => {}
            _ => return,
        }
        self.link = Link::Up { attempt, since: now, heard: now, incarnation: None };
        self.server_knows = Capabilities::default();
        out(Output::Send { attempt, frame: ClientFrame::hello() });
        for (topic, from) in self.topics.subscriptions() {
            self.subscribe(attempt, topic, from, out);
        }
        self.acknowledged = None;
        self.acknowledge(out);
    }

    /// Tells the server which roots are in force, if it does not know: a rotation of the CA waits for it.
    fn acknowledge(&mut self, out: &mut dyn FnMut(Output)) {
        let Link::Up { attempt, .. } = &self.link else { return };
        if let Some(ack) = self.enforced.filter(|ack| self.acknowledged != Some(*ack)) {
            self.acknowledged = Some(ack);
            let frame = ClientFrame::Acknowledge { roots: ack.roots, renewed: ack.renewed };
            out(Output::Send { attempt: *attempt, frame });
        }
    }

    /// Whether a connection is the one that was asked for last.
    fn is_current(&self, attempt: u64) -> bool {
        match &self.link {
            Link::Connecting { attempt: current, .. } | Link::Up { attempt: current, .. } => *current == attempt,
            Link::Down { .. } => false,
        }
    }

    fn closed(&mut self, attempt: u64, now: Duration) {
        match &self.link {
            Link::Connecting { attempt: current, .. } if *current == attempt => self.down(Duration::ZERO, now),
            Link::Up { attempt: current, since, .. } if *current == attempt => {
                let lasted = now.saturating_sub(*since);
                self.down(lasted, now);
            }
            Link::Down { .. } | Link::Connecting { .. } | Link::Up { .. } => {}
        }
    }

    fn hang_up(&mut self, reason: Lost, now: Duration, out: &mut dyn FnMut(Output)) {
        let (attempt, lasted) = match &self.link {
            Link::Down { .. } => return,
            Link::Connecting { attempt, .. } => (*attempt, Duration::ZERO),
            Link::Up { attempt, since, .. } => (*attempt, now.saturating_sub(*since)),
        };
        out(Output::Disconnect { attempt, reason });
        self.down(lasted, now);
    }

    fn down(&mut self, lasted: Duration, now: Duration) {
        let wait = self.dialler.lost(lasted, &mut self.jitter);
        self.link = Link::Down { retry_at: now + wait };
    }

    fn frame(&mut self, attempt: u64, frame: ServerFrame, now: Duration, out: &mut dyn FnMut(Output)) {
        match &mut self.link {
            Link::Up { attempt: current, heard, .. } if *current == attempt => *heard = now,
            _ => return,
        }
        match frame {
            ServerFrame::Welcome { incarnation, server, servers, group, knows } => {
                self.server_knows = knows;
                match self.follow_group(attempt, group, now, out) {
                    Followed::Left => return,
                    Followed::StartedOver => {}
                    Followed::GoesOn => self.subscribe_to_later_topics(attempt, out),
                }
                if let Link::Up { incarnation: held, .. } = &mut self.link {
                    *held = Some(incarnation);
                }
                self.registrations.new_session();
                self.writes.clear();
                if self.dialler.learn(servers, &mut self.jitter) {
                    out(Output::Persist);
                }
                out(Output::Opened { server, incarnation });
            }
            ServerFrame::Servers { servers } => {
                if self.dialler.learn(servers, &mut self.jitter) {
                    out(Output::Persist);
                }
            }
            ServerFrame::Event(event) => self.event(attempt, event, now, out),
            ServerFrame::Settled { index } => {
                let standing = self.settling.settle(&self.topics, Some(index));
                self.put_in_force(standing, out);
            }
            // Not the machine's: its shell sees to it.
            ServerFrame::Tap(_) => {}
            ServerFrame::Ping => {}
            ServerFrame::Goodbye { reason } => self.hang_up(Lost::Goodbye(reason), now, out),
        }
    }

    /// Follows the servers into the history that they are in, unless this one was left behind, or is of other servers.
    ///
    /// A group that was rebuilt from a survivor may know less than it told before, under indexes that mean something else
    /// now. What is held stays in force until it is told anew.
    fn follow_group(
        &mut self,
        attempt: u64,
        told: Option<GroupEpoch>,
        now: Duration,
        out: &mut dyn FnMut(Output),
    ) -> Followed {
        let Some(told) = told else { return Followed::GoesOn };
        match &self.group {
            Some(known) if known.cluster_id != told.cluster_id => {
                self.hang_up(Lost::OtherGroup { known: known.cluster_id.clone(), told: told.cluster_id }, now, out);
                return Followed::Left;
            }
            Some(known) if told.epoch < known.epoch => {
                self.hang_up(Lost::OldGroup { known: known.epoch, told: told.epoch }, now, out);
                return Followed::Left;
            }
            Some(known) if told.epoch > known.epoch => {
                let former = self.group().cloned();
                self.topics.start_over();
                self.settling.start_over();
                self.registrations.start_over();
                self.enforced = None;
                self.former = former;
                self.group = Some(told);
                for topic in self.topics.needed() {
                    self.subscribe_from_scratch(attempt, &topic, out);
                }
                out(Output::Persist);
                return Followed::StartedOver;
            }
            Some(_) => {}
            None => {
                self.group = Some(told);
                out(Output::Persist);
            }
        }
        Followed::GoesOn
    }

    fn event(&mut self, attempt: u64, event: catalog::Event, now: Duration, out: &mut dyn FnMut(Output)) {
        let topic = event.topic().clone();
        match self.topics.take(event) {
            Taken::Changed => {
                let standing = if self.server_knows.has(Capability::Settled) {
                    self.settling.changed(&self.topics, &topic, now)
                } else {
                    self.settling.settle(&self.topics, None)
                };
                self.put_in_force(standing, out);
            }
            Taken::Current | Taken::Ignored => {}
            Taken::Gap => self.subscribe_from_scratch(attempt, &topic, out),
            Taken::Behind => self.hang_up(Lost::Behind(topic), now, out),
            Taken::Invalid(error) => {
                if self.server_knows.has(Capability::Rejected) {
                    let rejected = ClientFrame::Rejected { topic: topic.clone(), error: error.clone() };
                    out(Output::Send { attempt, frame: rejected });
                }
                let pause = POISON_PAUSE + self.jitter.up_to(POISON_PAUSE / 2);
                self.topics.poison(&topic, now + pause);
                out(Output::Dropped { topic, error });
            }
        }
    }

    fn subscribe_from_scratch(&mut self, attempt: u64, topic: &Topic, out: &mut dyn FnMut(Output)) {
        self.topics.restart(topic);
        self.subscribe(attempt, topic.clone(), None, out);
    }

    /// Asks for a topic, of a server that knows what it is: another would end the stream. What is held of it stays.
    fn subscribe(&self, attempt: u64, topic: Topic, from: Option<CatalogIndex>, out: &mut dyn FnMut(Output)) {
        if self.server_knows.has_topic(&topic) {
            out(Output::Send { attempt, frame: ClientFrame::Subscribe { topic, from } });
        }
    }

    /// Asks for what could not be asked for before the server had said that it knows it.
    fn subscribe_to_later_topics(&self, attempt: u64, out: &mut dyn FnMut(Output)) {
        let later = self.topics.needed().into_iter().filter(|topic| Capability::of_topic(topic).is_some());
        for topic in later {
            let from = self.topics.index_of(&topic);
            self.subscribe(attempt, topic, from, out);
        }
    }

    fn need(&mut self, topics: &BTreeSet<Topic>, out: &mut dyn FnMut(Output)) {
        let (added, dropped) = self.topics.need(topics);
        let standing = self.settling.need(&self.topics);
        self.put_in_force(standing, out);
        let Link::Up { attempt, .. } = &self.link else { return };
        let attempt = *attempt;
        for topic in dropped.into_iter().filter(|topic| self.server_knows.has_topic(topic)) {
            out(Output::Send { attempt, frame: ClientFrame::Unsubscribe { topic } });
        }
        for topic in added {
            let from = self.topics.index_of(&topic);
            self.subscribe(attempt, topic, from, out);
        }
    }

    fn write_next(&mut self, now: Duration, out: &mut dyn FnMut(Output)) {
        let Link::Up { attempt, incarnation: Some(incarnation), .. } = &self.link else { return };
        let (attempt, incarnation) = (*attempt, *incarnation);
        if self.writes.is_idle()
            && let Some(command) = self.registrations.next(incarnation, now)
        {
            self.writes.start(command, now);
            out(Output::Persist);
        }
        // It may be committed, and the answer or this process be lost: it is on disk before it is sent.
        if !self.is_saved() {
            return;
        }
        if let Some(request) = self.writes.send(now) {
            out(Output::Write { attempt, request: Box::new(request) });
        }
    }

    /// Whether everything that may be registered is on disk.
    fn is_saved(&self) -> bool {
        self.registrations.version() <= self.saved
    }

    /// Returns when there is something to write, as far as time decides.
    fn write_due(&self) -> Option<Duration> {
        if self.writes.is_idle() {
            return self.registrations.due();
        }
        self.writes.due().filter(|_| self.is_saved())
    }

    fn written(&mut self, request_id: &RequestId, result: WriteResult, now: Duration, out: &mut dyn FnMut(Output)) {
        if !self.writes.is_under_way(request_id) {
            return;
        }
        let settled = match result {
            WriteResult::Unavailable { retry_after } => {
                self.writes.retry(retry_after, now, &mut self.jitter);
                return;
            }
            WriteResult::Answered(outcome) => self.registrations.answer(&outcome),
            WriteResult::Rejected { error } => self.registrations.reject(error),
        };
        self.writes.clear();
        match settled {
            Settled::Done => {}
            Settled::Refused(error) => {
                self.forgive_at = Some(now + FORGIVE_AFTER + self.jitter.up_to(FORGIVE_AFTER / 4));
                out(Output::Refused { error });
            }
            Settled::Fenced => self.hang_up(Lost::Fenced, now, out),
        }
    }
}

#[cfg(test)]
mod tests;
