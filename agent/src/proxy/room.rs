//! What all tasks of the data plane share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use catalog::Timestamp;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::jwt::KeptKeys;

use super::current::Current;
use super::forbidden::Forbidden;
use super::forwarded::Forwarded;
use super::http::application::Applications;
use super::http::mirror::MIRRORED_MAX;
use super::http::provider::Providers;
use super::http::request_id::RequestIds;
use super::http::server::Server;
use super::limits::Limits;
use super::observers::Observers;
use super::open_streams::OpenStreams;
use super::outbound::endpoints::Endpoints;
use super::outbound::pool::Pool;
use crate::metrics::ProxyMetrics;

/// Tells the wall-clock time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Is the state that connections of both directions work on.
pub(crate) struct Room {
    pub(crate) current: ArcSwapOption<Current>,
    /// The generation in force; changes after `current` did.
    pub(crate) generation: watch::Sender<u64>,
    pub(crate) streams: Arc<OpenStreams>,
    pub(crate) pool: Pool,
    pub(crate) endpoints: Endpoints,
    pub(crate) applications: Applications,
    pub(crate) server: Server,
    pub(crate) providers: Providers,
    pub(crate) request_ids: RequestIds,
    pub(crate) forbidden: Forbidden,
    /// What the forward proxy has dialled.
    pub(crate) forwarded: Arc<Forwarded>,
    /// How the listeners for redirected connections stand, by port.
    pub(crate) redirected: Mutex<BTreeMap<u16, Result<(), String>>>,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    pub(crate) metrics: ProxyMetrics,
    pub(crate) observers: Observers,
    pub(crate) connection_permits: Arc<Semaphore>,
    pub(crate) stream_permits: Arc<Semaphore>,
    pub(crate) outbound_permits: Arc<Semaphore>,
    pub(crate) mirror_permits: Arc<Semaphore>,
    pub(crate) inbound: Stage,
    pub(crate) outbound: Stage,
    pub(crate) gateway: Stage,
    pub(crate) gateway_permits: Arc<Semaphore>,
    turn: AtomicUsize,
}

/// Is one direction's work, and how it is brought to an end.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    /// No new connections; what is open goes on.
    pub(crate) stopping: CancellationToken,
    /// Nothing goes on.
    pub(crate) cut: CancellationToken,
    /// Every task of this direction.
    pub(crate) tasks: TaskTracker,
}

impl fmt::Debug for Room {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Room").finish_non_exhaustive()
    }
}

impl Room {
    /// Makes the state of a proxy that has no snapshot yet.
    pub(crate) fn new(
        forbidden: Forbidden,
        limits: Limits,
        clock: Clock,
        metrics: ProxyMetrics,
        observers: Observers,
        kept_keys: Option<Arc<dyn KeptKeys>>,
    ) -> Self {
        Self {
            current: ArcSwapOption::empty(),
            generation: watch::Sender::new(0),
            streams: Arc::default(),
            pool: Pool::default(),
            endpoints: Endpoints::default(),
            applications: Applications::default(),
            server: Server::new(&limits),
            providers: Providers::new(limits.keys_reach, metrics.clone(), kept_keys),
            request_ids: RequestIds::default(),
            forbidden,
            forwarded: Arc::default(),
            redirected: Mutex::default(),
            connection_permits: Arc::new(Semaphore::new(limits.connections_max)),
            stream_permits: Arc::new(Semaphore::new(limits.streams_max)),
            gateway_permits: Arc::new(Semaphore::new(limits.connections_max)),
            mirror_permits: Arc::new(Semaphore::new(MIRRORED_MAX)),
            outbound_permits: Arc::new(Semaphore::new(limits.connections_max)),
            limits,
            clock,
            metrics,
            observers,
            inbound: Stage::default(),
            outbound: Stage::default(),
            gateway: Stage::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Returns the wall-clock time.
    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Counts up, to take equal things in turn.
    pub(crate) fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

impl Stage {
    /// Lets what is open go on until `deadline`, then cuts it. Returns whether everything ended by itself.
    pub(crate) async fn drain(&self, deadline: tokio::time::Instant, cut: impl FnOnce()) -> bool {
        self.stopping.cancel();
        self.tasks.close();
        let in_time = tokio::time::timeout_at(deadline, self.tasks.wait()).await.is_ok();
        cut();
        self.cut.cancel();
        // What is cut ends without waiting for anybody; the bound is for the day on which that is not so.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.tasks.wait()).await;
        in_time
    }
}
