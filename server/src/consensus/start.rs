//! Starting consensus, and ending it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use arc_swap::{ArcSwap, ArcSwapOption};
use catalog::{Catalog, CatalogIndex, ENVELOPE_VERSION, Mesh, ServerId};
use tokio::net::TcpListener;
use tokio::sync::watch as latest;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;
use wire::cluster_key::{AuthorityError, ClusterKey};
use wire::crypto;
use wire::tls::RaftIdentity;

use super::bootstrap::{Candidate, Settings};
use super::identity::{self, Identity, IdentityError};
use super::inbox::{Inbox, Request};
use super::io::IoRuntime;
use super::join::Joiner;
use super::members::Members;
use super::states::States;
use super::status::{Role, Standing};
use super::steward::shell::Shell;
use super::transport::links::Links;
use super::transport::{Context, incoming};
use super::{Consensus, Forwarder, Shared, Watches, clock, establish, reap, thread};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::raft::{Disk, Fatal, FileDisk, FileDiskError, MemoryDisk, OpenError, Room, RoomConfig};
use crate::reports::Reports;

/// Where the log is within the data directory.
pub(super) const LOG_DIRECTORY: &str = "raft";
/// How long a leader that stops waits for another one, in election timeouts.
const HANDOVER_TIMEOUTS: u32 = 2;

/// Explains why consensus did not start.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// The data directory cannot be made.
    #[error("cannot create data directory `{}`", path.display())]
    DataDirectory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The log's directory cannot be used.
    #[error("cannot use the Raft log")]
    Disk(#[source] FileDiskError),
    /// The log's directory cannot be listed.
    #[error("cannot list the Raft log")]
    List(#[source] io::Error),
    /// What the server remembers of itself does not fit.
    #[error("cannot take up the server's identity")]
    Identity(#[source] IdentityError),
    /// The log cannot be read.
    #[error("cannot read the Raft log back")]
    Open(#[source] OpenError),
    /// A setting that is fixed since the bootstrap was changed.
    #[error("{setting} is `{configured}`, and the cluster was bootstrapped with `{fixed}`: it cannot be changed")]
    Fixed {
        /// The setting.
        setting: &'static str,
        /// What the cluster has.
        fixed: String,
        /// What the server was started with.
        configured: String,
    },
    /// The certificate for other servers cannot be made.
    #[error("cannot certify this server to others")]
    Certificate(#[source] AuthorityError),
    /// The Raft port cannot be handed over to the threads that serve it.
    #[error("cannot serve the Raft port")]
    Listener(#[source] io::Error),
    /// There is no thread to be had.
    #[error("cannot start the Raft threads")]
    Thread(#[source] io::Error),
}

/// Explains why a running server ended: its process must end, too.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FatalError {
    /// Raft cannot go on; what is on disk decides what the server knows after a restart.
    #[error("raft halted")]
    Raft(#[source] Arc<Fatal>),
    /// A thread panicked.
    #[error("the {thread} thread panicked: {message}")]
    Panicked {
        /// Which thread.
        thread: &'static str,
        /// What it said.
        message: String,
    },
    /// The server could not begin to take part in its new cluster.
    #[error("cannot take part in the new cluster")]
    Begin(#[source] Arc<ConsensusError>),
    /// What the server is bound to cannot be remembered.
    #[error("cannot remember what this server is bound to")]
    Identity(#[source] Arc<IdentityError>),
    /// This server's state differs from that of the others: what it serves cannot be trusted.
    #[error(
        "at index {index} the state here is {own}, and a majority of the servers has {agreed}: take this server out and let its machine join again with an empty data directory"
    )]
    Diverged {
        /// The index at which they were compared.
        index: CatalogIndex,
        /// What this server found.
        own: String,
        /// What the majority found.
        agreed: String,
    },
    /// The server was taken out of the cluster because it was asked to leave: there is nothing left to do.
    #[error("the server has left the cluster")]
    Left,
    /// The cluster refuses this server for good.
    #[error("refused by server `{by}`: {reason}")]
    Refused {
        /// Who refused it.
        by: ServerId,
        /// Why, and what to do.
        reason: String,
    },
}

/// Holds the first failure that ends the server.
#[derive(Debug, Clone)]
pub(crate) struct Failure(Arc<latest::Sender<Option<FatalError>>>);

impl Failure {
    pub(super) fn new() -> Self {
        Self(Arc::new(latest::Sender::new(None)))
    }

    /// Ends the server, unless it is ending already.
    pub(crate) fn set(&self, error: FatalError) {
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(error);
            }
            is_first
        });
    }

    /// Waits for the failure; for ever where there is none.
    pub(crate) async fn happened(&self) -> FatalError {
        let mut failure = self.0.subscribe();
        loop {
            if let Some(error) = failure.borrow_and_update().clone() {
                return error;
            }
            if failure.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Is consensus as it runs.
pub(crate) struct Running {
    pub(crate) consensus: Consensus,
    pub(crate) failure: Failure,
    context: Arc<Context>,
    thread: RunningThread,
    tasks: TaskTracker,
    io: IoRuntime,
}

/// The Raft thread, once there is one, and what it sends by.
type RunningThread = Arc<Mutex<Option<(JoinHandle<()>, Arc<Links>)>>>;

/// Starts consensus on `listener`, under the addresses that others reach this server at.
///
/// A member goes on where it stopped. Anybody else looks for the servers to make a cluster with, in the background.
///
/// # Errors
/// [`ConsensusError`]
pub(crate) async fn start(
    config: &Config,
    listener: TcpListener,
    raft_address: String,
    agent_address: String,
    metrics: Metrics,
) -> Result<Running, ConsensusError> {
    let (storage, identity) = open(config.data_dir.clone(), config.node.clone()).await?;
    if let Some(mesh) = identity.commitment().membership() {
        check_fixed(config, mesh)?;
    }
    let raft_identity =
        RaftIdentity::new(&config.cluster_keys, config.node.clone()).map_err(ConsensusError::Certificate)?;
    let (inbox, requests) = Inbox::new();
    let consensus = new_consensus(config, agent_address.clone(), inbox, metrics);
    let failure = Failure::new();
    let own = candidate(config, &identity, raft_address);
    let joiner = Arc::new(Joiner::new(own, agent_address, identity, consensus.clone(), failure.clone()));
    let stop = CancellationToken::new();
    let io = IoRuntime::new()?;
    let runtime = io.handle();
    let context = Arc::new(Context { consensus: consensus.clone(), joiner, identity: raft_identity, runtime, stop });
    consensus.shared.forwarder.connect(Arc::clone(&context));

    let running =
        Running { consensus, failure, context, thread: RunningThread::default(), tasks: TaskTracker::new(), io };
    let beginning = Beginning {
        context: Arc::clone(&running.context),
        storage,
        requests,
        config: config.clone(),
        failure: running.failure.clone(),
        thread: Arc::clone(&running.thread),
    };
    if running.context.joiner.about().commitment.membership().is_some() {
        // What is wrong with a member's log is told at once, not in the background.
        beginning.begin(&running.tasks).await?;
    } else {
        let (failure, tasks) = (running.failure.clone(), running.tasks.clone());
        let runtime = running.io.handle();
        running.tasks.spawn_on(
            async move {
                if let Err(error) = beginning.begin(&tasks).await {
                    failure.set(FatalError::Begin(Arc::new(error)));
                }
            },
            &runtime,
        );
    }
    let listener = running.io.adopt(listener).map_err(ConsensusError::Listener)?;
    running.tasks.spawn_on(incoming::serve(listener, Arc::clone(&running.context)), &running.io.handle());
    running.spawn(Joiner::run(Arc::clone(&running.context), config.retry_join.clone()));
    Ok(running)
}

impl Running {
    /// Spawns what is cut when consensus stops.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        spawn_until(&self.tasks, &self.context, task);
    }

    /// Hands leadership over, if this server has it and somebody is there to take it.
    pub(crate) async fn hand_over(&self) {
        let shared = &self.consensus.shared;
        let mut standing = shared.standing.subscribe();
        let (Some(to), Role::Leader) = (self.connected_peer(), standing.borrow_and_update().role) else { return };
        shared.inbox.tell(Request::TransferLeader { to });
        let patience = shared.timing.election_timeout().saturating_mul(HANDOVER_TIMEOUTS);
        let handed_over = tokio::time::timeout(patience, standing.wait_for(|standing| standing.role != Role::Leader));
        if handed_over.await.is_ok() {
            info!("leadership handed over");
        }
    }

    /// Cuts the connections to other servers and ends the Raft thread.
    pub(crate) async fn stop(&self) {
        self.context.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((thread, _links)) = thread {
            let inbox = self.consensus.shared.inbox.clone();
            let ending = tokio::task::spawn_blocking(move || {
                inbox.tell_surely(Request::Stop);
                // A panic in it was reported already.
                let _ = thread.join();
            });
            // It only fails where the runtime is shutting down.
            let _ = ending.await;
        }
    }

    #[cfg(test)]
    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    fn connected_peer(&self) -> Option<u64> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, links) = thread.as_ref()?;
        let connected = links.connected();
        // A learner cannot take over.
        let group = self.consensus.shared.group.borrow().clone();
        connected.into_iter().find(|peer| group.as_ref().is_none_or(|status| status.group.voters.contains(peer)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a stop there is nobody left to hear it.
        self.context.stop.cancel();
        self.consensus.shared.inbox.tell(Request::Stop);
    }
}

fn spawn_until(tasks: &TaskTracker, context: &Context, task: impl Future<Output = ()> + Send + 'static) {
    let stop = context.stop.clone();
    let task = async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = task => {}
        }
    };
    tasks.spawn_on(task, &context.runtime);
}

pub(super) fn new_consensus(config: &Config, agent_address: String, inbox: Inbox, metrics: Metrics) -> Consensus {
    let shared = Shared {
        server: config.node.clone(),
        timing: config.timing,
        catalog: ArcSwap::from_pointee(Catalog::default()),
        watches: Watches::default(),
        standing: latest::Sender::new(Standing::joining()),
        applied: latest::Sender::new(CatalogIndex::default()),
        members: Members::new(config.node.clone(), agent_address),
        group: latest::Sender::new(None),
        health: ArcSwapOption::empty(),
        seen: ArcSwapOption::empty(),
        states: States::default(),
        inbox,
        forwarder: Forwarder::default(),
        reports: Reports::default(),
        taps: Arc::default(),
        clock: Default::default(),
        disk: Default::default(),
        #[cfg(test)]
        looks_slow: Default::default(),
        metrics,
    };
    Consensus { shared: Arc::new(shared) }
}

fn candidate(config: &Config, identity: &Identity, raft_address: String) -> Candidate {
    let settings = Settings {
        bootstrap_expect: config.bootstrap_expect,
        datacenter: config.datacenter.clone(),
        trust_domain: config.trust_domain.clone(),
        path_template: config.path_template.clone(),
    };
    Candidate {
        server: config.node.clone(),
        disk_id: identity.disk_id().to_owned(),
        raft_address,
        reads: ENVELOPE_VERSION,
        settings,
    }
}

/// Checks that a member was started with what its cluster was bootstrapped with.
fn check_fixed(config: &Config, mesh: &Mesh) -> Result<(), ConsensusError> {
    let trust_domain = config.trust_domain.as_ref().unwrap_or(&mesh.trust_domain);
    let rows = [
        ("datacenter", mesh.datacenter.clone(), config.datacenter.clone()),
        ("trust_domain", mesh.trust_domain.to_string(), trust_domain.to_string()),
        ("path_template", mesh.template.to_string(), config.path_template.to_string()),
    ];
    match rows.into_iter().find(|(_, fixed, configured)| fixed != configured) {
        Some((setting, fixed, configured)) => Err(ConsensusError::Fixed { setting, fixed, configured }),
        None => Ok(()),
    }
}

/// What the log is written to.
enum Storage {
    File(FileDisk),
    Memory(MemoryDisk),
}

/// Opens the data directory, which locks it, and reads what the server remembers of itself.
async fn open(data_dir: Option<PathBuf>, node: ServerId) -> Result<(Storage, Identity), ConsensusError> {
    let Some(data_dir) = data_dir else {
        return Ok((Storage::Memory(MemoryDisk::new()), Identity::in_memory(node)));
    };
    let opening = tokio::task::spawn_blocking(move || open_directory(&data_dir, &node));
    opening.await.map_err(|error| ConsensusError::Thread(io::Error::other(error)))?
}

fn open_directory(data_dir: &Path, node: &ServerId) -> Result<(Storage, Identity), ConsensusError> {
    identity::create_directory(data_dir)
        .map_err(|source| ConsensusError::DataDirectory { path: data_dir.to_owned(), source })?;
    let disk = FileDisk::open(&data_dir.join(LOG_DIRECTORY)).map_err(ConsensusError::Disk)?;
    let is_log_empty = disk.list().map_err(ConsensusError::List)?.is_empty();
    let identity = Identity::open(data_dir, node, is_log_empty).map_err(ConsensusError::Identity)?;
    Ok((Storage::File(disk), identity))
}

/// What it takes to begin to take part in Raft, once this server is a member.
struct Beginning {
    context: Arc<Context>,
    storage: Storage,
    requests: Receiver<Request>,
    config: Config,
    failure: Failure,
    thread: RunningThread,
}

impl Beginning {
    /// Waits until this server is a member, opens the log and starts the Raft thread.
    async fn begin(self, tasks: &TaskTracker) -> Result<(), ConsensusError> {
        let context = Arc::clone(&self.context);
        // Not cut later on: a log that is being opened is opened, so that its thread can be told to stop.
        let mesh = tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            mesh = context.joiner.activated() => mesh,
        };
        let links = Arc::new(Links::start(&context));
        let consensus = context.consensus.clone();
        let (server, cluster_keys) = (self.config.node.clone(), self.config.cluster_keys.clone());
        let room = room_config(&self.config, &mesh, context.joiner.is_admitted());
        let about = context.joiner.about();
        let addresses = (about.candidate.raft_address.clone(), about.agent_address.clone());
        let keys = cluster_keys.all().map(ClusterKey::key_id).collect();
        let steward = Shell::new(consensus.clone(), self.failure.clone(), addresses, keys);
        let opening = tokio::task::spawn_blocking(move || self.open_and_spawn(room, links));
        opening.await.map_err(|error| ConsensusError::Thread(io::Error::other(error)))??;
        spawn_until(tasks, &context, steward.run());
        spawn_until(tasks, &context, reap::run(consensus.clone()));
        spawn_until(tasks, &context, clock::run(consensus.clone(), clock::BEHIND_MAX));
        spawn_until(tasks, &context, establish::run(consensus, mesh, server, cluster_keys));
        Ok(())
    }

    fn open_and_spawn(self, config: RoomConfig, links: Arc<Links>) -> Result<(), ConsensusError> {
        let Self { context, storage, requests, failure, thread, .. } = self;
        let shared = Arc::clone(&context.consensus.shared);
        let handle = match storage {
            Storage::File(disk) => {
                let room = Room::open(disk, config).map_err(ConsensusError::Open)?;
                shared.catalog.store(Arc::new(room.catalog().clone()));
                shared.members.follow(room.catalog().membership());
                context.joiner.log_begun().map_err(ConsensusError::Identity)?;
                thread::spawn(room, requests, shared, Arc::clone(&links), failure)
            }
            Storage::Memory(disk) => {
                let room = Room::open(disk, config).map_err(ConsensusError::Open)?;
                shared.catalog.store(Arc::new(room.catalog().clone()));
                shared.members.follow(room.catalog().membership());
                thread::spawn(room, requests, shared, Arc::clone(&links), failure)
            }
        };
        let handle = handle.map_err(ConsensusError::Thread)?;
        *thread.lock().unwrap_or_else(PoisonError::into_inner) = Some((handle, links));
        Ok(())
    }
}

fn room_config(config: &Config, mesh: &Mesh, is_admitted: bool) -> RoomConfig {
    let own = mesh.servers.iter().find(|member| member.id == config.node);
    let raft_id = own.map(|member| member.raft_id).expect("a server joins only what names it");
    // Who was taken in by others is told by them who votes.
    let founders = || mesh.servers.iter().map(|member| member.raft_id).collect();
    let voters = if is_admitted { Vec::new() } else { founders() };
    let seed = u64::from_be_bytes(crypto::random());
    let mut room = RoomConfig::new(raft_id, voters, seed);
    room.election_tick = config.timing.election_ticks;
    room.heartbeat_tick = config.timing.heartbeat_ticks;
    room.limits.snapshot_entries = config.snapshot_entries;
    room.limits.retained_entries = config.snapshot_entries / 2;
    // Reads that lost their round are repeated here; their clock is the wall's.
    room.limits.read_ticks_max = u64::try_from(config.timing.election_ticks * 2).unwrap_or(u64::MAX);
    room
}
