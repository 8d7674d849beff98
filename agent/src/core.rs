//! The agent's one task: everything that changes goes through it, so nothing is locked and nothing races.
//!
//! It feeds the sync machine, the leaves, the checks and the local registrations, and carries out what they ask for.
//! After each round it publishes, once, what follows: the proxy's snapshot, the desired registrations and the status
//! that the APIs show.

mod desired;
mod link;
mod login;
mod placing;
mod publish;
mod registering;
mod requests;
mod restraint;
mod routing;
mod saving;
mod sought;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::{CheckKey, CheckStatus, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::info;
use wire::agent_protocol::Subject;
use wire::pki::LeafKey;

use crate::bypass::Bypassable;
use crate::checks::{CheckResult, Checks, LeadsOn};
use crate::config::Config;
use crate::leaf::HeldLeaf;
use crate::leaf::renewal::Leaves;
use crate::local::Local;
use crate::metrics::ControlMetrics;
use crate::proxy::Proxy;
use crate::state::{Identity, Saved, Store};
use crate::sync::connection::{CallError, Connection};
use crate::sync::{Input, Start, Sync, View, WriteResult};
use wire::random::Seeded;

use link::{Link, LinkEvent};
use publish::Publisher;
pub(crate) use publish::{Status, config_entries, endpoints, number_of};
pub(crate) use requests::Request;
use saving::{Saver, Written};
pub(crate) use sought::Sought;
use sought::SoughtAfter;

/// Events that may wait for the core; whoever has more waits.
const EVENTS_MAX: usize = 256;
/// Rounds are not published before this many waiting events are taken in.
const BATCH_MAX: usize = 256;
/// The core looks up this often, and then tries upstream listeners again that could not be opened.
const LOOK_UP: Duration = Duration::from_secs(10);
/// How long after a lost connection, or the start, the next one is waited for.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// Agents whose leaves were renewed together do not connect anew together.
const RECONNECT_SPREAD: Duration = Duration::from_secs(10);

/// Something that happened outside the core.
#[derive(Debug)]
enum Event {
    /// A connection did something.
    Link { attempt: u64, event: LinkEvent },
    /// A write came back.
    Written { request_id: catalog::RequestId, result: WriteResult },
    /// A request for a leaf came back.
    Signed { subject: Subject, result: Result<Box<HeldLeaf>, SignFailed> },
    /// A check found something.
    Check(CheckResult),
    /// Somebody asks for something.
    Request(Request),
    /// A step of a change of what is registered has ended.
    Registering(registering::Done),
    /// A login after the record was gone has ended.
    LoggedIn(Result<Box<Identity>, String>),
    /// Files were written, or not.
    Saved(Written),
}

/// Why a leaf was not signed.
#[derive(Debug)]
struct SignFailed {
    error: String,
    retry_after: Option<Duration>,
}

impl From<CallError> for SignFailed {
    fn from(error: CallError) -> Self {
        let retry_after = match &error {
            CallError::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        };
        Self { error: wire::one_line(&error), retry_after }
    }
}

/// What the core works with from the start.
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) key: LeafKey,
    pub(crate) store: Store,
    pub(crate) saved: Option<Saved>,
    pub(crate) leaves: BTreeMap<Subject, HeldLeaf>,
    pub(crate) local: Local,
    pub(crate) advertise: IpAddr,
    pub(crate) mesh_port: u16,
    /// Where tunnels of other networks arrive, of an agent that is a gateway.
    pub(crate) gateway_port: Option<u16>,
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) metrics: ControlMetrics,
}

/// What the rest of the agent reaches the core by.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    events: mpsc::Sender<Event>,
    status: watch::Receiver<Arc<Status>>,
    server: watch::Receiver<Reach>,
}

/// Whether servers can be asked something.
#[derive(Clone, Debug)]
pub(crate) enum Reach {
    /// Over this connection.
    Connected(Connection),
    /// Not since then.
    Away(Instant),
}

impl Handle {
    /// Returns what the agent knows and does now.
    pub(crate) fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status.borrow())
    }

    /// Returns what sees every change of what the agent knows and does.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Status>> {
        self.status.clone()
    }

    /// Returns the connection to a server.
    ///
    /// Where there was one a moment ago, or the agent has just started, the next one is waited for: going from one server
    /// to another is nothing that a caller should notice.
    pub(crate) async fn connection(&self) -> Option<Connection> {
        let mut server = self.server.clone();
        loop {
            let until = match &*server.borrow_and_update() {
                Reach::Connected(connection) if connection.is_open() => return Some(connection.clone()),
                // It has ended and the core has not heard of it yet.
                Reach::Connected(_) => Instant::now() + RECONNECT_PATIENCE,
                Reach::Away(since) => *since + RECONNECT_PATIENCE,
            };
            tokio::time::timeout_at(until.into(), server.changed()).await.ok()?.ok()?;
        }
    }

    /// Waits for a connection to a server, however long that takes.
    pub(crate) async fn connected(&self) -> Connection {
        let mut server = self.server.clone();
        loop {
            if let Reach::Connected(connection) = &*server.borrow_and_update()
                && connection.is_open()
            {
                return connection.clone();
            }
            if server.changed().await.is_err() {
                // The core has stopped, and whoever waits is stopped with it.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until `connection` is no longer the one to the server.
    pub(crate) async fn disconnected(&self, connection: &Connection) {
        let mut server = self.server.clone();
        let is_over = |reach: &Reach| !matches!(reach, Reach::Connected(other) if other.is_same(connection));
        if server.wait_for(is_over).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Tells the core something.
    pub(crate) async fn send(&self, request: Request) {
        // A core that has stopped hears nothing any more.
        let _ = self.events.send(Event::Request(request)).await;
    }

    /// Asks the core for something; nothing comes back when it has stopped.
    pub(crate) async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.events.send(Event::Request(request(reply))).await.ok()?;
        answer.await.ok()
    }
}

struct Core {
    config: Config,
    identity: Identity,
    key: LeafKey,
    store: Store,
    advertise: IpAddr,
    mesh_port: u16,
    gateway_port: Option<u16>,
    started: Instant,
    events: mpsc::Sender<Event>,
    sync: Sync,
    leaves: Leaves<HeldLeaf>,
    /// How many roots were distrusted on purpose, as of what is in force.
    distrusted_roots: usize,
    local: Local,
    /// Which instances can be called past the agent.
    bypassable: Bypassable,
    registering: registering::Registering,
    checks: Checks,
    jitter: Seeded,
    statuses: BTreeMap<CheckKey, (CheckStatus, String)>,
    link: Option<Link>,
    publisher: Publisher,
    saver: Saver,
    /// When to connect anew with a renewed leaf: servers take nothing over a connection whose leaf has expired since.
    reconnect_at: Option<Instant>,
    /// What people see, or what the catalog should say, may be something else now.
    changed: bool,
    /// What the proxy decides by is something else now.
    rules_changed: bool,
    /// Where calls of local services go.
    routing: routing::Routing,
    sought: SoughtAfter,
    /// What was in force when it was looked at last.
    followed: View,
    upstreams_looked_at: Instant,
    last_failure: Option<String>,
    login: login::Standing,
    metrics: ControlMetrics,
    leavers: Vec<oneshot::Sender<()>>,
    has_left: bool,
}

/// Starts the core; it ends when the returned task is aborted.
pub(crate) fn start(setup: Setup) -> (Handle, JoinHandle<()>) {
    let (events, inbox) = mpsc::channel(EVENTS_MAX);
    let (results, found) = mpsc::channel(EVENTS_MAX);
    let mut jitter = Seeded::from_entropy();
    let mut saver = Saver::new(setup.store.clone(), setup.identity.record.id.clone());
    let saved = setup.saved;
    saver.found(setup.leaves.keys(), saved.as_ref());
    let configured = setup.config.servers.clone();
    let (start, statuses) = match saved {
        Some(Saved { servers, group, view, restraint, known, statuses, .. }) => {
            let seed = jitter.next();
            (Start { servers: configured, learned: servers, group, view, restraint, known, seed }, statuses)
        }
        None => {
            let learned = setup.identity.servers.clone();
            (Start { servers: configured, learned, seed: jitter.next(), ..Start::default() }, BTreeMap::new())
        }
    };
    let sync = Sync::new(start);
    let sought = SoughtAfter::kept(sync.view(), Instant::now());
    let first = Status::initial(&setup.identity, setup.advertise, setup.mesh_port);
    let proxy = Arc::clone(&setup.proxy);
    let leads_on: LeadsOn = Arc::new(move |address| proxy.leads_on(address));
    let (publisher, (status, server)) = Publisher::new(setup.proxy, first);
    let mut core = Core {
        config: setup.config,
        identity: setup.identity,
        key: setup.key,
        store: setup.store,
        advertise: setup.advertise,
        mesh_port: setup.mesh_port,
        gateway_port: setup.gateway_port,
        started: Instant::now(),
        events: events.clone(),
        sync,
        leaves: Leaves::new(setup.leaves, jitter.next()),
        distrusted_roots: 0,
        local: setup.local,
        bypassable: Bypassable::new(),
        registering: registering::Registering::default(),
        checks: Checks::new(results, Seeded::new(jitter.next()), leads_on),
        jitter,
        statuses,
        link: None,
        publisher,
        saver,
        reconnect_at: None,
        changed: false,
        rules_changed: true,
        routing: routing::Routing::default(),
        sought,
        followed: View::new(),
        upstreams_looked_at: Instant::now(),
        last_failure: None,
        login: login::Standing::default(),
        metrics: setup.metrics,
        leavers: Vec::new(),
        has_left: false,
    };
    core.follow_local();
    // What was kept is in force before anybody is let in.
    core.publish();
    let task = tokio::spawn(core.run(inbox, found));
    (Handle { events, status, server }, task)
}

impl Core {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>, mut found: mpsc::Receiver<CheckResult>) {
        self.settle();
        loop {
            let wake = tokio::time::Instant::from_std(Instant::now() + self.wake_in());
            let event = tokio::select! {
                event = inbox.recv() => match event {
                    Some(event) => Some(event),
                    None => return,
                },
                Some(result) = found.recv() => Some(Event::Check(result)),
                () = tokio::time::sleep_until(wake) => None,
            };
            if let Some(event) = event {
                self.take(event);
            }
            // What waits already is taken in before anything is published, so that a burst is published once.
            for _ in 0..BATCH_MAX {
                match inbox.try_recv() {
                    Ok(event) => self.take(event),
                    Err(_) => break,
                }
            }
            while let Ok(result) = found.try_recv() {
                self.take(Event::Check(result));
            }
            self.settle();
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn wake_in(&self) -> Duration {
        let now = self.now();
        let sync = self.sync.wake_at().map(|at| at.saturating_sub(now));
        let leaf =
            self.link.as_ref().filter(|link| link.is_up()).and_then(|_| self.leaves.next_in(wire::crypto::now(), now));
        let save = self.saver.due_in();
        // The wall clock may be set and a port become free, so nothing is slept for without looking up at times.
        let reconnect = self.reconnect_at.map(|at| at.saturating_duration_since(Instant::now()));
        [sync, leaf, save, reconnect].into_iter().flatten().min().unwrap_or(Duration::MAX).min(LOOK_UP)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Link { attempt, event } => self.link_event(attempt, event),
            Event::Written { request_id, result } => self.step(Input::Written { request_id, result }),
            Event::Signed { subject, result } => self.signed(&subject, result),
            Event::Check(result) => self.check_result(result),
            Event::Request(request) => self.request(request),
            Event::Registering(done) => self.registering(done),
            Event::LoggedIn(result) => self.logged_in(result),
            Event::Saved(written) => {
                if let Some(version) = self.saver.written(written) {
                    self.step(Input::Saved { version });
                }
                self.metrics.state_unsaved(self.saver.is_state_unsaved());
                self.changed = true;
            }
        }
    }

    fn check_result(&mut self, result: CheckResult) {
        let news = (result.status, result.output);
        match self.statuses.get(&result.key) {
            Some(known) if *known == news => return,
            Some((known, _)) if *known != news.0 => {
                info!(check = %result.key, status = %news.0, "check changed");
                self.saver.state_changed();
            }
            _ => {}
        }
        self.statuses.insert(result.key, news);
        self.changed = true;
    }

    fn signed(&mut self, subject: &Subject, result: Result<Box<HeldLeaf>, SignFailed>) {
        match result {
            Ok(leaf) if !self.is_vouched_for(subject, &leaf) => {
                self.metrics.signing_failed();
                tracing::warn!(subject = ?subject, "a leaf came before the root that vouches for it; it is asked for again");
                self.leaves.unvouched(subject, self.now());
            }
            Ok(leaf) => {
                info!(subject = ?subject, not_after = leaf.not_after().0, "leaf signed");
                if *subject == Subject::Agent {
                    self.plan_reconnect();
                }
                self.leaves.signed(subject, *leaf, wire::crypto::now());
                self.saver.leaves_changed();
                self.rules_changed = true;
            }
            Err(failed) => {
                self.metrics.signing_failed();
                tracing::warn!(subject = ?subject, error = failed.error, "leaf not signed; it is asked for again");
                self.leaves.failed(subject, failed.retry_after, self.now());
            }
        }
    }

    /// Reports whether a leaf is under a root that is in force here. One that an agent brings from a server before it heard of
    /// the root would be good for nothing but to be refused with; the agent's own is for servers, which know all roots.
    fn is_vouched_for(&mut self, subject: &Subject, leaf: &HeldLeaf) -> bool {
        if *subject == Subject::Agent {
            return true;
        }
        let anchors = self.publisher.anchors(&self.identity.mesh.trust_domain, self.sync.view());
        anchors.is_none_or(|anchors| leaf.is_vouched_for(&anchors, wire::crypto::now()))
    }

    /// Plans to show the agent's new leaf to a server while the one that it replaces still lives.
    fn plan_reconnect(&mut self) {
        let shown = self.leaves.held().get(&Subject::Agent).map_or(Timestamp(0), |leaf| leaf.not_after());
        let left = shown.since(wire::crypto::now());
        self.reconnect_at = Some(Instant::now() + self.jitter.up_to(RECONNECT_SPREAD.min(left / 2)));
    }

    /// Carries out whatever follows from what was taken in.
    fn settle(&mut self) {
        if self.reconnect_at.is_some_and(|at| Instant::now() >= at) {
            self.reconnect_at = None;
            self.reconnect();
        }
        self.step(Input::Tick);
        if self.rules_changed && self.gateway_port.is_some() {
            // Which services are in the network may be something else now.
            self.follow_topics();
        }
        self.look_at_upstreams();
        if self.changed || self.rules_changed {
            self.publish();
        }
        self.ask_for_leaf();
        self.save();
    }

    /// Has the proxy try listeners again that it could not open: whoever had the port may have gone.
    fn look_at_upstreams(&mut self) {
        if self.upstreams_looked_at.elapsed() >= LOOK_UP {
            self.upstreams_looked_at = Instant::now();
            self.rules_changed |= self.publisher.has_failed_upstreams();
        }
    }
}
