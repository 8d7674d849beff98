//! The agent's one task: everything that changes goes through it, so nothing is locked and nothing races.
//!
//! It feeds the sync machine, the leaves, the checks and the local registrations, and carries out what they ask for.
//! After each round it publishes, once, what follows: the proxy's snapshot, the desired registrations and the status
//! that the APIs show.

mod desired;
mod link;
mod publish;
mod requests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::{CheckKey, CheckStatus};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{error, info};
use wire::agent_protocol::Subject;
use wire::pki::LeafKey;

use crate::checks::{CheckResult, Checks, chain};
use crate::config::Config;
use crate::jitter::Jitter;
use crate::leaf::{HeldLeaf, Leaves};
use crate::local::Local;
use crate::proxy::Proxy;
use crate::state::{DataDirError, Identity, Saved, Store};
use crate::sync::connection::{CallError, Connection};
use crate::sync::{Input, Start, Sync, WriteResult};

use link::{Link, LinkEvent};
use publish::Publisher;
pub(crate) use publish::Status;
pub(crate) use requests::Request;

/// Events that may wait for the core; whoever has more waits.
const EVENTS_MAX: usize = 1024;
/// Rounds are not published before this many waiting events are taken in.
const BATCH_MAX: usize = 256;
/// The state file is not written more often.
const SAVE_PAUSE: Duration = Duration::from_millis(100);
/// Agents whose leaves were renewed together do not connect anew together.
const RECONNECT_SPREAD: Duration = Duration::from_secs(10);
/// The state is not tried to be written again sooner after a failure.
const SAVE_RETRY: Duration = Duration::from_secs(10);

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
    /// The state file was written, or not.
    Saved(Result<(), DataDirError>),
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
        Self { error: chain(&error), retry_after }
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
    pub(crate) proxy: Arc<Proxy>,
}

/// What the rest of the agent reaches the core by.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    events: mpsc::Sender<Event>,
    status: watch::Receiver<Arc<Status>>,
    connection: watch::Receiver<Option<Connection>>,
}

impl Handle {
    /// Returns what the agent knows and does now.
    pub(crate) fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status.borrow())
    }

    /// Returns the connection to a server, if there is one.
    pub(crate) fn connection(&self) -> Option<Connection> {
        self.connection.borrow().clone().filter(Connection::is_open)
    }

    /// Asks the core for something; nothing comes back when it has stopped.
    pub(crate) async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.events.send(Event::Request(request(reply))).await.ok()?;
        answer.await.ok()
    }
}

/// How the state file is kept up to date.
enum Saving {
    Idle { not_before: Instant },
    Writing,
}

struct Core {
    config: Config,
    identity: Identity,
    key: LeafKey,
    store: Store,
    advertise: IpAddr,
    mesh_port: u16,
    started: Instant,
    events: mpsc::Sender<Event>,
    sync: Sync,
    leaves: Leaves,
    local: Local,
    checks: Checks,
    jitter: Jitter,
    statuses: BTreeMap<CheckKey, (CheckStatus, String)>,
    link: Option<Link>,
    publisher: Publisher,
    saving: Saving,
    unsaved: bool,
    unsaved_leaves: bool,
    /// When to connect anew with a renewed leaf: servers take nothing over a connection whose leaf has expired since.
    reconnect_at: Option<Instant>,
    changed: bool,
    leavers: Vec<oneshot::Sender<()>>,
    has_left: bool,
}

/// Starts the core; it ends when the returned task is aborted.
pub(crate) fn start(setup: Setup) -> (Handle, JoinHandle<()>) {
    let (events, inbox) = mpsc::channel(EVENTS_MAX);
    let (results, found) = mpsc::channel(EVENTS_MAX);
    let mut jitter = Jitter::from_entropy();
    let saved = setup.saved;
    let (learned, view, known, statuses) = match saved {
        Some(saved) => (saved.servers, saved.view, saved.known, saved.statuses),
        None => (setup.identity.servers.clone(), BTreeMap::new(), None, BTreeMap::new()),
    };
    let sync = Sync::new(Start { servers: setup.config.servers.clone(), learned, view, known, seed: jitter.next() });
    let first = Status::initial(&setup.identity, setup.advertise, setup.mesh_port);
    let (publisher, (status, connection)) = Publisher::new(setup.proxy, first);
    let mut core = Core {
        config: setup.config,
        identity: setup.identity,
        key: setup.key,
        store: setup.store,
        advertise: setup.advertise,
        mesh_port: setup.mesh_port,
        started: Instant::now(),
        events: events.clone(),
        sync,
        leaves: Leaves::new(setup.leaves, Jitter::new(jitter.next())),
        local: setup.local,
        checks: Checks::new(results, Jitter::new(jitter.next())),
        jitter,
        statuses,
        link: None,
        publisher,
        saving: Saving::Idle { not_before: Instant::now() },
        unsaved: true,
        unsaved_leaves: false,
        reconnect_at: None,
        changed: false,
        leavers: Vec::new(),
        has_left: false,
    };
    core.follow_local();
    // What was kept is in force before anybody is let in.
    core.publish();
    let task = tokio::spawn(core.run(inbox, found));
    (Handle { events, status, connection }, task)
}

impl Core {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>, mut found: mpsc::Receiver<CheckResult>) {
        self.settle().await;
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
                self.take(event).await;
            }
            // What waits already is taken in before anything is published, so that a burst is published once.
            for _ in 0..BATCH_MAX {
                match inbox.try_recv() {
                    Ok(event) => self.take(event).await,
                    Err(_) => break,
                }
            }
            while let Ok(result) = found.try_recv() {
                self.take(Event::Check(result)).await;
            }
            self.settle().await;
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn wake_in(&self) -> Duration {
        let now = self.now();
        let sync = self.sync.wake_at().map(|at| at.saturating_sub(now));
        let leaf = self.link.as_ref().filter(|link| link.is_up()).and_then(|_| self.leaves.next_in(wire::crypto::now(), now));
        let save = match &self.saving {
            Saving::Idle { not_before } if self.unsaved || self.unsaved_leaves => Some(not_before.saturating_duration_since(Instant::now())),
            Saving::Idle { .. } | Saving::Writing => None,
        };
        // The wall clock may be set, so nothing is slept for without looking up from time to time.
        let reconnect = self.reconnect_at.map(|at| at.saturating_duration_since(Instant::now()));
        [sync, leaf, save, reconnect].into_iter().flatten().min().unwrap_or(Duration::MAX).min(Duration::from_secs(30))
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Link { attempt, event } => self.link_event(attempt, event),
            Event::Written { request_id, result } => self.step(Input::Written { request_id, result }),
            Event::Signed { subject, result } => self.signed(&subject, result),
            Event::Check(result) => self.check_result(result),
            Event::Request(request) => self.request(request).await,
            Event::Saved(result) => self.saved(result),
        }
    }

    fn check_result(&mut self, result: CheckResult) {
        let news = (result.status, result.output);
        match self.statuses.get(&result.key) {
            Some(known) if *known == news => return,
            Some((known, _)) if *known != news.0 => {
                info!(check = %result.key, status = %news.0, "check changed");
                self.unsaved = true;
            }
            _ => {}
        }
        self.statuses.insert(result.key, news);
        self.changed = true;
    }

    fn signed(&mut self, subject: &Subject, result: Result<Box<HeldLeaf>, SignFailed>) {
        match result {
            Ok(leaf) => {
                info!(subject = ?subject, not_after = leaf.not_after().0, "leaf signed");
                if *subject == Subject::Agent {
                    self.reconnect_at = Some(Instant::now() + self.jitter.up_to(RECONNECT_SPREAD));
                }
                self.leaves.signed(subject, *leaf);
                self.unsaved_leaves = true;
                self.changed = true;
            }
            Err(failed) => {
                tracing::warn!(subject = ?subject, error = failed.error, "leaf not signed; it is asked for again");
                self.leaves.failed(subject, failed.retry_after, self.now());
            }
        }
    }

    /// Carries out whatever follows from what was taken in.
    async fn settle(&mut self) {
        if self.reconnect_at.is_some_and(|at| Instant::now() >= at) {
            self.reconnect_at = None;
            self.reconnect();
        }
        self.step(Input::Tick);
        if self.changed {
            self.changed = false;
            self.publish();
        }
        self.ask_for_leaf();
        self.save();
    }

    /// Writes what changed to disk, in the background and one write at a time: nobody waits for the disk, and an older
    /// state never overtakes a newer one.
    fn save(&mut self) {
        let due = matches!(&self.saving, Saving::Idle { not_before } if Instant::now() >= *not_before);
        if !due || !(self.unsaved || self.unsaved_leaves) {
            return;
        }
        let saved = std::mem::take(&mut self.unsaved).then(|| Saved {
            servers: self.sync.servers().to_vec(),
            view: self.sync.view().clone(),
            known: self.sync.known(),
            statuses: self.statuses.clone(),
            mesh_port: self.mesh_port,
        });
        let leaves = std::mem::take(&mut self.unsaved_leaves).then(|| {
            let held = self.leaves.held().iter();
            held.map(|(subject, leaf)| (subject.clone(), leaf.stored().clone())).collect::<Vec<_>>()
        });
        let (store, agent, events) = (self.store.clone(), self.identity.record.id.clone(), self.events.clone());
        let write = move || {
            leaves.map_or(Ok(()), |leaves| store.keep_leaves(&agent, &leaves))?;
            saved.map_or(Ok(()), |saved| store.save(&agent, &saved))
        };
        self.saving = Saving::Writing;
        tokio::spawn(async move {
            // A panic while writing is reported by the runtime; the next change tries again.
            let written = tokio::task::spawn_blocking(write).await.unwrap_or(Ok(()));
            let _ = events.send(Event::Saved(written)).await;
        });
    }

    fn saved(&mut self, result: Result<(), DataDirError>) {
        let pause = match result {
            Ok(()) => SAVE_PAUSE,
            Err(error) => {
                error!(error = chain(&error), "state and leaves are not kept; a restart without servers would start from older ones");
                self.unsaved = true;
                self.unsaved_leaves = true;
                SAVE_RETRY
            }
        };
        self.saving = Saving::Idle { not_before: Instant::now() + pause };
    }
}
