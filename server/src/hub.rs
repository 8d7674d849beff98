//! The stream hub: what each agent's session is told of the catalog, as a `step(input, now)` machine.
//!
//! An agent subscribes to topics and is sent a snapshot of each, then the deltas. The hub keeps one view per topic,
//! shared by everybody who subscribes to it, and recomputes it only when a key was touched that the topic reads. The
//! promise to a subscriber: applying what it is sent in order gives exactly `Catalog::view` of the topic, with no gap, no
//! duplicate and no going back; whoever reads too slowly is cut, so that one session holds a bounded amount of memory. After
//! news of what decides calls it says when that was all of it, as of one index.

mod feed;
mod messages;
mod older;
mod session_body;
mod settling;
pub(crate) mod shell;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use catalog::{AgentId, Catalog, CatalogIndex, Event, Incarnation, ServiceKey, Topic, WatchKey};
use wire::agent_protocol::{Capabilities, Capability, ServerFrame};
use wire::tap::TapOrder;

use feed::Feed;
pub use feed::Frame;
pub use messages::{CloseReason, Input, Limits, Output, SessionId};

/// The number of a session that this server holds without a quorum: the hub does not close it for one that the log has.
pub(crate) const HELD_ALONE: Incarnation = Incarnation(u64::MAX);
/// Agents of one server that send what they see of a service's requests.
const TAPPED_MAX: usize = 100;

/// One agent's session, as the hub sees it.
#[derive(Debug)]
struct Session {
    agent: AgentId,
    incarnation: Incarnation,
    services: Vec<ServiceKey>,
    gateway: Option<String>,
    knows: Capabilities,
    topics: BTreeMap<Topic, Subscription>,
    waiting_bytes: usize,
    /// Since when nothing of what waits was read.
    stalled_since: Duration,
    last_sent: Duration,
}

/// How far one subscription is.
#[derive(Clone, Copy, Debug)]
enum Subscription {
    /// The agent has seen an index that this server has not applied yet; answering now could go back in time.
    Behind { from: CatalogIndex, since: Duration },
    /// The agent was sent the topic's view as of this index.
    Live { sent: CatalogIndex },
}

/// The machine. Feed it [`Input`]s in order; it answers each with its [`Output`]s.
#[derive(Debug)]
pub struct Hub {
    limits: Limits,
    catalog: Arc<Catalog>,
    sessions: BTreeMap<SessionId, Session>,
    by_agent: BTreeMap<AgentId, SessionId>,
    feeds: BTreeMap<Topic, Feed>,
    /// Which followed topics read a key.
    readers: BTreeMap<WatchKey, BTreeSet<Topic>>,
    /// Subscriptions that wait for this server to catch up.
    behind: BTreeSet<(SessionId, Topic)>,
    /// Sessions that were sent news of what decides calls, and were not told that this is all of it.
    unsettled: BTreeSet<SessionId>,
    /// What waits for all sessions together.
    waiting_bytes: usize,
}

impl Hub {
    /// Returns a hub without sessions that starts from `catalog`.
    pub fn new(limits: Limits, catalog: Arc<Catalog>) -> Hub {
        Hub {
            limits,
            catalog,
            sessions: BTreeMap::new(),
            by_agent: BTreeMap::new(),
            feeds: BTreeMap::new(),
            readers: BTreeMap::new(),
            behind: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            waiting_bytes: 0,
        }
    }

    /// Returns how many sessions are open.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Returns the open sessions.
    pub fn open_sessions(&self) -> BTreeMap<AgentId, Incarnation> {
        self.sessions.values().map(|open| (open.agent.clone(), open.incarnation)).collect()
    }

    /// Returns how many bytes wait for all agents together; what waits for several is held once and counted for each.
    pub fn all_waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Returns how many bytes wait for the agent of `session`; 0 when there is no such session.
    pub fn waiting_bytes(&self, session: SessionId) -> usize {
        self.sessions.get(&session).map_or(0, |open| open.waiting_bytes)
    }

    /// Reacts to one input. `now` is the time since any fixed start and never goes back.
    ///
    /// An input that names a session which the hub has closed or never knew changes nothing: the shell may be one step
    /// behind.
    pub fn step(&mut self, input: Input, now: Duration, out: &mut dyn FnMut(Output)) {
        match input {
            Input::Connected { session, agent, incarnation, services, gateway, knows } => {
                let opened = Session {
                    agent,
                    incarnation,
                    services,
                    gateway,
                    knows,
                    topics: BTreeMap::new(),
                    waiting_bytes: 0,
                    stalled_since: now,
                    last_sent: now,
                };
                self.connect(session, opened, out);
            }
            Input::Subscribe { session, topic, from } => self.subscribe(session, topic, from, now, out),
            Input::Unsubscribe { session, topic } => self.unsubscribe(session, &topic),
            Input::Applied { catalog, touched } => self.apply(catalog, &touched, now, out),
            Input::Written { session, bytes } => self.written(session, bytes, now),
            Input::Closed { session } => self.forget(session),
            Input::Servers { only, servers } => self.tell_servers(only, servers, now, out),
            Input::Tap(order) => self.order_tap(&order, now, out),
            Input::Tick => self.tick(now, out),
        }
        self.settle(now, out);
    }

    fn connect(&mut self, session: SessionId, opened: Session, out: &mut dyn FnMut(Output)) {
        if let Some(other) = self.by_agent.get(&opened.agent).copied() {
            // Two connections of one agent may arrive in either order: the higher incarnation is the newer session. One that is
            // held without a quorum gives way to one that the mesh has heard of.
            let is_newer = |open: &Session| open.incarnation > opened.incarnation && open.incarnation != HELD_ALONE;
            if self.sessions.get(&other).is_some_and(is_newer) {
                out(Output::Close { session, reason: CloseReason::Superseded });
                return;
            }
            self.close(other, CloseReason::Superseded, out);
        }
        self.by_agent.insert(opened.agent.clone(), session);
        self.sessions.insert(session, opened);
        // The record may have gone, or moved on, between the proposal that opened the session and this input.
        self.check_record(session, out);
    }

    fn subscribe(
        &mut self,
        session: SessionId,
        topic: Topic,
        from: Option<CatalogIndex>,
        now: Duration,
        out: &mut dyn FnMut(Output),
    ) {
        let Some(open) = self.sessions.get(&session) else { return };
        if !self.is_entitled(open, &topic) {
            return self.close(session, CloseReason::NotEntitled(topic), out);
        }
        // A gateway follows every service of its network.
        let topics_max = if open.gateway.is_some() { self.limits.gateway_topics_max } else { self.limits.topics_max };
        if !open.topics.contains_key(&topic) && open.topics.len() >= topics_max {
            return self.close(session, CloseReason::TooManyTopics(topics_max), out);
        }
        self.follow(session, &topic);
        match from {
            Some(from) if from > self.catalog.index() => {
                self.behind.insert((session, topic.clone()));
                self.set_subscription(session, topic, Subscription::Behind { from, since: now });
            }
            from => self.answer(session, topic, from, now, out),
        }
    }

    /// Answers a subscription for which this server is recent enough: nothing new, or the view from the start.
    fn answer(
        &mut self,
        session: SessionId,
        topic: Topic,
        from: Option<CatalogIndex>,
        now: Duration,
        out: &mut dyn FnMut(Output),
    ) {
        self.behind.remove(&(session, topic.clone()));
        // The index of a topic may have moved on without any of its keys being touched: when the last trace of something
        // is dropped, the index of whatever is not there rises. Another server may have told the agent that index.
        self.publish(&topic, now, out);
        let Some(feed) = self.feeds.get_mut(&topic) else { return };
        let index = feed.index();
        // Only the very index is a place to resume from: what lies between two indexes differs from server to server.
        let frame = if from == Some(index) {
            Frame::new(ServerFrame::Event(Event::UpToDate { topic: topic.clone(), index })).map(Arc::new)
        } else {
            feed.snapshot(&topic)
        };
        match frame {
            Ok(frame) => {
                self.unsettle(session, &topic);
                self.set_subscription(session, topic, Subscription::Live { sent: index });
                self.send(session, frame, now, out);
            }
            Err(_) => {
                // The session need not hold the topic yet, and closing it leaves only what it holds.
                self.unfollow(session, &topic);
                self.close(session, CloseReason::TooLarge(topic), out);
            }
        }
    }

    fn apply(
        &mut self,
        catalog: Arc<Catalog>,
        touched: &BTreeSet<WatchKey>,
        now: Duration,
        out: &mut dyn FnMut(Output),
    ) {
        self.catalog = catalog;
        for key in touched {
            if let WatchKey::Agent(agent) = key
                && let Some(session) = self.by_agent.get(agent).copied()
            {
                self.check_record(session, out);
            }
        }
        let topics: BTreeSet<Topic> =
            touched.iter().filter_map(|key| self.readers.get(key)).flatten().cloned().collect();
        for topic in topics {
            self.publish(&topic, now, out);
        }
        self.answer_those_behind(now, out);
    }

    /// Recomputes one topic and sends what changed to everybody who follows it.
    fn publish(&mut self, topic: &Topic, now: Duration, out: &mut dyn FnMut(Output)) {
        let Some(feed) = self.feeds.get_mut(topic) else { return };
        let Some(change) = feed.advance(topic, &self.catalog) else { return };
        let index = feed.index();
        // One frame for all who were sent the same index before; nearly always that is everybody.
        let mut frames: BTreeMap<CatalogIndex, Arc<Frame>> = BTreeMap::new();
        for session in feed.subscribers() {
            let subscription = self.sessions.get(&session).and_then(|open| open.topics.get(topic)).copied();
            let Some(Subscription::Live { sent }) = subscription else { continue };
            let frame = match (frames.get(&sent), self.feeds.get_mut(topic)) {
                (Some(frame), _) => Ok(Arc::clone(frame)),
                (None, Some(feed)) => feed.change_since(topic, sent, &change),
                // Cutting a slow reader just now left nobody who follows the topic.
                (None, None) => return,
            };
            match frame {
                Ok(frame) => {
                    frames.insert(sent, Arc::clone(&frame));
                    self.unsettle(session, topic);
                    self.set_subscription(session, topic.clone(), Subscription::Live { sent: index });
                    self.send(session, frame, now, out);
                }
                Err(_) => self.close(session, CloseReason::TooLarge(topic.clone()), out),
            }
        }
    }

    fn answer_those_behind(&mut self, now: Duration, out: &mut dyn FnMut(Output)) {
        for (session, topic) in self.behind.iter().cloned().collect::<Vec<_>>() {
            let subscription = self.sessions.get(&session).and_then(|open| open.topics.get(&topic)).copied();
            if let Some(Subscription::Behind { from, .. }) = subscription
                && from <= self.catalog.index()
            {
                self.answer(session, topic, Some(from), now, out);
            }
        }
    }

    fn tell_servers(
        &mut self,
        only: Option<SessionId>,
        servers: Vec<String>,
        now: Duration,
        out: &mut dyn FnMut(Output),
    ) {
        // A list that fits no frame is not told; agents keep the one that they have.
        let Ok(frame) = Frame::new(ServerFrame::Servers { servers }).map(Arc::new) else { return };
        let told = self
            .sessions
            .iter()
            .filter(|(session, open)| only.is_none_or(|only| only == **session) && open.knows.has(Capability::Servers));
        let told: Vec<SessionId> = told.map(|(session, _)| *session).collect();
        for session in told {
            self.send(session, Arc::clone(&frame), now, out);
        }
    }

    /// Tells agents that stand before a service that somebody watches its requests; some of them, where they are many.
    fn order_tap(&mut self, order: &TapOrder, now: Duration, out: &mut dyn FnMut(Output)) {
        let Ok(frame) = Frame::new(ServerFrame::Tap(Box::new(order.clone()))).map(Arc::new) else { return };
        let told = self
            .sessions
            .iter()
            .filter(|(_, open)| open.knows.has(Capability::Tap) && open.services.contains(&order.service));
        let told: Vec<SessionId> = told.map(|(session, _)| *session).take(TAPPED_MAX).collect();
        for session in told {
            self.send(session, Arc::clone(&frame), now, out);
        }
    }

    fn tick(&mut self, now: Duration, out: &mut dyn FnMut(Output)) {
        let applied = self.catalog.index();
        for (session, topic) in self.behind.iter().cloned().collect::<Vec<_>>() {
            let subscription = self.sessions.get(&session).and_then(|open| open.topics.get(&topic)).copied();
            if let Some(Subscription::Behind { from, since }) = subscription
                && now.saturating_sub(since) > self.limits.behind_max
            {
                self.close(session, CloseReason::ServerBehind { wanted: from, applied }, out);
            }
        }
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            let Some(open) = self.sessions.get(&session) else { continue };
            if open.waiting_bytes > 0 && now.saturating_sub(open.stalled_since) > self.limits.stall_max {
                self.close(session, CloseReason::SlowReader, out);
            } else if now.saturating_sub(open.last_sent) >= self.limits.ping_interval
                && let Ok(ping) = Frame::new(ServerFrame::Ping)
            {
                self.send(session, Arc::new(ping), now, out);
            }
        }
    }

    /// Sends a frame, or cuts the session when too much waits for it already.
    fn send(&mut self, session: SessionId, frame: Arc<Frame>, now: Duration, out: &mut dyn FnMut(Output)) {
        let Some(open) = self.sessions.get_mut(&session) else { return };
        let frame = older::readable(frame, &open.knows);
        let waiting = open.waiting_bytes + frame.encoded().len();
        if open.waiting_bytes > 0 && waiting > self.limits.waiting_bytes_max {
            return self.close(session, CloseReason::SlowReader, out);
        }
        if open.waiting_bytes == 0 {
            open.stalled_since = now;
        }
        open.waiting_bytes = waiting;
        self.waiting_bytes += frame.encoded().len();
        open.last_sent = now;
        out(Output::Send { session, frame });
    }

    fn written(&mut self, session: SessionId, bytes: usize, now: Duration) {
        if let Some(open) = self.sessions.get_mut(&session) {
            let read = bytes.min(open.waiting_bytes);
            open.waiting_bytes -= read;
            self.waiting_bytes -= read;
            open.stalled_since = now;
        }
    }

    /// Ends a session whose record is gone or whose agent has opened a newer session elsewhere.
    fn check_record(&mut self, session: SessionId, out: &mut dyn FnMut(Output)) {
        let Some(open) = self.sessions.get(&session) else { return };
        // A catalog older than the session's own opening says nothing about it yet. Sessions are numbered as records are, and
        // numbers run ahead of the log's indexes once a group was rebuilt or a backup restored.
        if self.catalog.number_at(self.catalog.index()).0 < open.incarnation.0 {
            return;
        }
        match self.catalog.agent_record(&open.agent) {
            None => self.close(session, CloseReason::Revoked, out),
            Some(record) if record.incarnation.is_some_and(|newest| newest > open.incarnation) => {
                self.close(session, CloseReason::Superseded, out);
            }
            // The servers gave it up while this one was cut off from them: nothing that the agent writes in it counts.
            Some(record) if record.presence.lost_at.is_some() => self.close(session, CloseReason::GivenUp, out),
            Some(_) => {}
        }
    }

    /// Says whether a session may follow a topic: policy of its agent's own services only, but endpoints of any service and
    /// how calls to it go, since any may become an upstream.
    fn is_entitled(&self, open: &Session, topic: &Topic) -> bool {
        match topic {
            Topic::Mesh | Topic::Roots | Topic::Revocations | Topic::Gateways => true,
            Topic::Endpoints(_) | Topic::Config(_) | Topic::Node(_) => true,
            Topic::Network(network) => match self.catalog.agent_record(&open.agent) {
                Some(record) => record.entitles_gateway(network),
                None => open.gateway.as_ref() == Some(network),
            },
            Topic::Intentions(destination) => match self.catalog.agent_record(&open.agent) {
                Some(record) => record.entitles(destination),
                None => open.services.contains(destination),
            },
        }
    }

    fn follow(&mut self, session: SessionId, topic: &Topic) {
        let feed = self.feeds.entry(topic.clone()).or_insert_with(|| {
            let feed = Feed::new(topic, &self.catalog);
            for key in feed.reads() {
                self.readers.entry(key.clone()).or_default().insert(topic.clone());
            }
            feed
        });
        feed.add(session);
    }

    fn set_subscription(&mut self, session: SessionId, topic: Topic, subscription: Subscription) {
        if let Some(open) = self.sessions.get_mut(&session) {
            open.topics.insert(topic, subscription);
        }
    }

    fn unsubscribe(&mut self, session: SessionId, topic: &Topic) {
        if self.sessions.get_mut(&session).is_some_and(|open| open.topics.remove(topic).is_some()) {
            self.unfollow(session, topic);
        }
    }

    fn unfollow(&mut self, session: SessionId, topic: &Topic) {
        self.behind.remove(&(session, topic.clone()));
        let Some(feed) = self.feeds.get_mut(topic) else { return };
        if feed.remove(session) {
            return;
        }
        let Some(feed) = self.feeds.remove(topic) else { return };
        for key in feed.reads() {
            if let Some(topics) = self.readers.get_mut(key) {
                topics.remove(topic);
                if topics.is_empty() {
                    self.readers.remove(key);
                }
            }
        }
    }

    fn close(&mut self, session: SessionId, reason: CloseReason, out: &mut dyn FnMut(Output)) {
        self.forget(session);
        out(Output::Close { session, reason });
    }

    fn forget(&mut self, session: SessionId) {
        let Some(open) = self.sessions.remove(&session) else { return };
        self.waiting_bytes -= open.waiting_bytes;
        self.unsettled.remove(&session);
        for topic in open.topics.keys() {
            self.unfollow(session, topic);
        }
        if self.by_agent.get(&open.agent) == Some(&session) {
            self.by_agent.remove(&open.agent);
        }
    }
}
