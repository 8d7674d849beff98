//! Runs a connector: carries out what its [`Keeper`] says, tells the platform's side whether it is active, and serves the
//! admin listener.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use catalog::{ConnectorChange, ConnectorName, ConnectorStatus};
use tokio::{net::TcpListener, sync::watch};
use wire::crypto;

use crate::{
    admin,
    keeper::{Answer, Input, Keeper, Output, Settings},
    metrics::Metrics,
    plan::Sight,
    servers::{Access, AccessError, Servers},
};

/// How long a stopping connector waits for its lease to be given back.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Says how to run a connector.
#[derive(Debug, Clone)]
pub struct Config {
    /// How it keeps the catalog.
    pub settings: Settings,
    /// Where the servers' API is, and as whom to call it.
    pub access: Access,
    /// Where the admin listener binds; none for no such listener.
    pub admin: Option<SocketAddr>,
}

/// Explains why a connector cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// The API cannot be called.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The admin listener cannot be bound.
    #[error("cannot bind the admin listener to {address}: choose another with --admin")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The platform's side has ended, which it should not.
    #[error("the connector no longer watches its platform: {reason}")]
    Platform {
        /// Why.
        reason: String,
    },
}

/// Is what the side of a connector that looks at its platform is given.
#[derive(Clone, Debug)]
pub struct Post {
    /// The connector.
    pub name: ConnectorName,
    /// The servers, for what else it asks of them.
    pub servers: Servers,
    /// What it counts.
    pub metrics: Metrics,
    active: watch::Receiver<bool>,
    sight: Arc<watch::Sender<Option<Sight>>>,
}

impl Post {
    /// Reports whether this process runs the connector; what it does on its platform it does only then.
    #[must_use]
    pub fn is_active(&self) -> bool {
        *self.active.borrow()
    }

    /// Waits until this process runs the connector.
    pub async fn until_active(&mut self) {
        // The sender outlives every post: the shell drops the platform's side first.
        let _ = self.active.wait_for(|active| *active).await;
    }

    /// Waits until another process may run the connector.
    pub async fn until_inactive(&mut self) {
        let _ = self.active.wait_for(|active| !*active).await;
    }

    /// Says what the platform looks like now; what was said before does not count any more.
    pub fn see(&self, sight: Sight) {
        self.sight.send_replace(Some(sight));
    }
}

/// Runs a connector until `stop` is done, and gives its lease back. `watch` looks at the platform for as long as it runs.
///
/// # Errors
/// [`ShellError`] where it cannot begin, or `watch` ends by itself.
pub async fn run<W, F, E>(config: Config, watch: W, stop: impl Future<Output = ()>) -> Result<(), ShellError>
where
    W: FnOnce(Post) -> F,
    F: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let servers = Servers::new(config.access)?;
    let metrics = Metrics::new();
    let shown = Arc::new(Mutex::new(Shown::default()));
    let listener = match config.admin {
        Some(address) => {
            Some(TcpListener::bind(address).await.map_err(|source| ShellError::Admin { address, source })?)
        }
        None => None,
    };
    let (active, is_active) = watch::channel(false);
    let (sight, seen) = watch::channel(None);
    let post = Post {
        name: config.settings.name.clone(),
        servers: servers.clone(),
        metrics: metrics.clone(),
        active: is_active,
        sight: Arc::new(sight),
    };
    let admin = {
        let (metrics, shown) = (metrics.clone(), Arc::clone(&shown));
        async move {
            match listener {
                Some(listener) => admin::serve(listener, metrics, move || lock(&shown).missing()).await,
                None => std::future::pending().await,
            }
        }
    };
    let keeping = Keeping { timeout: config.settings.lease / 3, servers, metrics, shown, active };
    let platform = async {
        let reason = match watch(post).await {
            Ok(()) => "it has ended".to_owned(),
            Err(error) => error.to_string(),
        };
        ShellError::Platform { reason }
    };
    tokio::select! {
        () = keeping.keep(Keeper::new(config.settings), seen, stop) => Ok(()),
        error = platform => Err(error),
        () = admin => Ok(()),
    }
}

/// Is what the admin listener tells.
#[derive(Debug, Default)]
struct Shown {
    has_asked: bool,
    is_active: bool,
    status: ConnectorStatus,
}

impl Shown {
    /// A process that stands by is ready, too: it takes over when it has to.
    fn missing(&self) -> Vec<String> {
        if !self.has_asked {
            return vec!["the servers have not answered yet".to_owned()];
        }
        let degraded = self.status.problems.iter().filter(|_| self.is_active);
        degraded
            .filter(|problem| problem.kind == catalog::ProblemKind::Degraded)
            .map(|problem| format!("{}: {}", problem.subject, problem.reason))
            .collect()
    }
}

fn lock(shown: &Mutex<Shown>) -> std::sync::MutexGuard<'_, Shown> {
    // It is replaced whole, so that a panic elsewhere does not spoil it.
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Keeping {
    timeout: Duration,
    servers: Servers,
    metrics: Metrics,
    shown: Arc<Mutex<Shown>>,
    active: watch::Sender<bool>,
}

impl Keeping {
    async fn keep(self, mut keeper: Keeper, mut seen: watch::Receiver<Option<Sight>>, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let (answers, mut answered) = tokio::sync::mpsc::channel::<Answer>(1);
        let mut input = Input::Tick;
        let mut stopping: Option<Instant> = None;
        loop {
            let is_answer = matches!(&input, Input::Answered(answer) if !matches!(answer, Answer::Failed(_)));
            for output in keeper.step(input, Instant::now(), crypto::now()) {
                match output {
                    Output::Done => return,
                    Output::Active(is_active) => {
                        tracing::info!(active = is_active, "whether this process runs the connector");
                        self.metrics.active(is_active);
                        self.active.send_replace(is_active);
                    }
                    Output::Change(change) => self.ask(Some(change), keeper.name().clone(), answers.clone()),
                    Output::Read => self.ask(None, keeper.name().clone(), answers.clone()),
                }
            }
            self.show(&keeper, is_answer);
            let wake = tokio::time::Instant::from_std(keeper.wakes_at(Instant::now()));
            input = tokio::select! {
                biased;
                Some(answer) = answered.recv() => Input::Answered(answer),
                Ok(()) = seen.changed() => match seen.borrow_and_update().clone() {
                    Some(sight) => Input::Seen(sight),
                    None => Input::Tick,
                },
                () = &mut stop, if stopping.is_none() => {
                    stopping = Some(Instant::now());
                    Input::Stop
                }
                () = tokio::time::sleep_until(wake) => Input::Tick,
            };
            if stopping.is_some_and(|since| since.elapsed() > STOP_MAX) {
                return tracing::warn!("the lease was not given back: it ends by itself");
            }
        }
    }

    /// Asks the servers on a task of its own; the answer comes back as an input.
    fn ask(&self, change: Option<ConnectorChange>, name: ConnectorName, answers: tokio::sync::mpsc::Sender<Answer>) {
        let (servers, metrics, timeout) = (self.servers.clone(), self.metrics.clone(), self.timeout);
        tokio::spawn(async move {
            let answer = match &change {
                Some(change) => servers.change(change, timeout).await,
                None => servers.kept(&name, timeout).await,
            };
            if let Some(ConnectorChange::Write { writes, .. }) = &change {
                for write in writes {
                    let outcome = match &answer {
                        Answer::Written(refused) if refused.iter().any(|one| one.node == *write.node()) => "refused",
                        Answer::Written(_) => "done",
                        _ => "failed",
                    };
                    metrics.write(write, outcome);
                }
            }
            match &answer {
                Answer::Failed(reason) | Answer::Refused(reason) => tracing::warn!(reason, "the servers did not do it"),
                Answer::Written(refused) => {
                    for one in refused {
                        tracing::warn!(node = %one.node, reason = one.reason, "a write was refused");
                    }
                }
                Answer::Granted(_) | Answer::Kept(..) | Answer::Released | Answer::Elsewhere(_) => {}
            }
            // Nobody listens any more where the connector has stopped.
            let _ = answers.send(answer).await;
        });
    }

    fn show(&self, keeper: &Keeper, is_answer: bool) {
        let status = keeper.status();
        self.metrics.status(&status);
        let mut shown = lock(&self.shown);
        let has_asked = shown.has_asked || is_answer;
        *shown = Shown { has_asked, is_active: keeper.is_active(), status };
    }
}
