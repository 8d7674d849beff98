//! Health checks: asking local applications how they are, and noticing when they fall silent.
//!
//! Nothing is ever executed: there are HTTP, TCP and TTL checks, and no others.

mod address;
mod application;
mod http;
mod tcp;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Method, Uri};
use catalog::{CheckKey, CheckStatus};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use wire::random::Seeded;

pub use application::{ApplicationProbe, ApplicationProbeError};

/// Of what a check says, this much is kept.
pub(crate) const OUTPUT_BYTES_MAX: usize = 4096;
/// Checks are not made more often.
pub(crate) const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// How a check is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// One HTTP request: 2xx is passing, 429 warning, anything else critical.
    Http(Box<HttpProbe>),
    /// One connection.
    Tcp {
        /// `host:port`.
        address: String,
        /// How often.
        interval: Duration,
        /// How long one may take.
        timeout: Duration,
    },
    /// The application reports by itself; it is critical when it has not for this long.
    Ttl(Duration),
    /// Nothing is done: what the check says is set from outside.
    Fixed,
}

/// An HTTP check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpProbe {
    /// What is asked for; always an `http` URL with a host.
    pub(crate) url: Uri,
    /// By which method.
    pub(crate) method: Method,
    /// With which headers.
    pub(crate) headers: HeaderMap,
    /// With which body.
    pub(crate) body: String,
    /// How often.
    pub(crate) interval: Duration,
    /// How long one request may take.
    pub(crate) timeout: Duration,
}

/// Tells at which addresses the agent takes calls of local services, to carry them on.
pub(crate) type LeadsOn = Arc<dyn Fn(SocketAddr) -> bool + Send + Sync>;

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckResult {
    pub(crate) key: CheckKey,
    pub(crate) status: CheckStatus,
    pub(crate) output: String,
}

/// Why a check may not be made, or why one failed before it could say anything.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("`{url}` is not a URL that can be checked: {reason}")]
    Url { url: String, reason: &'static str },
    #[error("`{address}` is not an address that can be checked: use `host:port`")]
    Address { address: String },
    #[error("{address} may not be checked: {reason}")]
    Forbidden { address: SocketAddr, reason: &'static str },
    #[error("cannot find `{host}`")]
    Resolve {
        host: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no address is known for `{host}`")]
    Unresolved { host: String },
    #[error("cannot connect to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("{url} gave no answer")]
    Http {
        url: Uri,
        #[source]
        source: hyper::Error,
    },
    #[error("the request for {url} cannot be made")]
    Request {
        url: Uri,
        #[source]
        source: ::http::Error,
    },
    #[error("no answer within {timeout:?}")]
    Timeout { timeout: Duration },
}

impl Probe {
    /// Returns the word by which the catalog shows how the check is made.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Tcp { .. } => "tcp",
            Self::Ttl(_) => "ttl",
            Self::Fixed => "",
        }
    }

    /// Looks for what would make every attempt fail, so that a registration is refused rather than the check.
    pub(crate) fn validate(&self) -> Result<(), ProbeError> {
        match self {
            Self::Http(probe) => http::target(&probe.url).and_then(|(host, port)| literal(&host, port)),
            Self::Tcp { address, .. } => tcp::target(address).and_then(|(host, port)| literal(&host, port)),
            Self::Ttl(_) | Self::Fixed => Ok(()),
        }
    }
}

fn literal(host: &str, port: u16) -> Result<(), ProbeError> {
    match host.parse() {
        Ok(address) => permitted(SocketAddr::new(address, port)).map(drop),
        Err(_) => Ok(()),
    }
}

fn permitted(address: SocketAddr) -> Result<SocketAddr, ProbeError> {
    match address::forbidden(address.ip()) {
        Some(reason) => Err(ProbeError::Forbidden { address, reason }),
        None => Ok(address),
    }
}

/// Finds `host` and connects to the first of its addresses that answers.
///
/// The address that was judged is the address that is dialled: asking for the name again could bring another one. Where the
/// agent takes the calls of a service, it would make one in that service's name for whoever registered the check.
pub(crate) async fn connect(host: &str, port: u16, leads_on: &LeadsOn) -> Result<tokio::net::TcpStream, ProbeError> {
    let found = tokio::net::lookup_host((host, port))
        .await
        .map_err(|source| ProbeError::Resolve { host: host.to_owned(), source })?;
    let mut failure = ProbeError::Unresolved { host: host.to_owned() };
    for address in found {
        let address = permitted(address)?;
        if leads_on(address) {
            let reason = "it is the agent's own, and leads on in the name of a service";
            return Err(ProbeError::Forbidden { address, reason });
        }
        match tokio::net::TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(source) => failure = ProbeError::Connect { address, source },
        }
    }
    Err(failure)
}

/// Returns `text` without what is beyond the bound.
pub(crate) fn truncated(mut text: String) -> String {
    if text.len() > OUTPUT_BYTES_MAX {
        let end = (0..=OUTPUT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// A check that is being made.
#[derive(Debug)]
struct Running {
    probe: Probe,
    /// Tells a TTL check that its application has reported.
    reported: Arc<Notify>,
    _task: Option<AbortOnDropHandle<()>>,
}

/// The checks of one agent, each in a task of its own that ends with it.
pub(crate) struct Checks {
    running: BTreeMap<CheckKey, Running>,
    results: mpsc::Sender<CheckResult>,
    jitter: Seeded,
    leads_on: LeadsOn,
}

impl fmt::Debug for Checks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Checks").field("running", &self.running).finish_non_exhaustive()
    }
}

impl Checks {
    pub(crate) fn new(results: mpsc::Sender<CheckResult>, jitter: Seeded, leads_on: LeadsOn) -> Self {
        Self { running: BTreeMap::new(), results, jitter, leads_on }
    }

    /// Makes exactly these checks from now on; one that is made already goes on undisturbed.
    pub(crate) fn set(&mut self, wanted: &BTreeMap<CheckKey, Probe>) {
        self.running.retain(|key, running| wanted.get(key) == Some(&running.probe));
        for (key, probe) in wanted {
            if !self.running.contains_key(key) {
                let running = self.start(key.clone(), probe.clone());
                self.running.insert(key.clone(), running);
            }
        }
    }

    /// Notes that the application behind a TTL check has reported.
    pub(crate) fn reported(&self, key: &CheckKey) {
        if let Some(running) = self.running.get(key) {
            running.reported.notify_one();
        }
    }

    fn start(&mut self, key: CheckKey, probe: Probe) -> Running {
        let reported = Arc::new(Notify::new());
        let results = self.results.clone();
        let task = match probe.clone() {
            Probe::Fixed => None,
            Probe::Ttl(ttl) => Some(tokio::spawn(watch_silence(key, ttl, Arc::clone(&reported), results))),
            Probe::Http(check) => Some(self.repeat(key, &probe, check.interval, results)),
            Probe::Tcp { interval, .. } => Some(self.repeat(key, &probe, interval, results)),
        };
        Running { probe, reported, _task: task.map(AbortOnDropHandle::new) }
    }

    /// Starts to make a check again and again; the first time within `interval`, so that many agents do not check at once.
    fn repeat(
        &mut self,
        key: CheckKey,
        probe: &Probe,
        interval: Duration,
        results: mpsc::Sender<CheckResult>,
    ) -> JoinHandle<()> {
        let initial = self.jitter.up_to(interval);
        tokio::spawn(repeat(key, probe.clone(), initial, interval, results, Arc::clone(&self.leads_on)))
    }
}

/// Makes a check again and again, the first time after `initial`.
async fn repeat(
    key: CheckKey,
    probe: Probe,
    initial: Duration,
    interval: Duration,
    results: mpsc::Sender<CheckResult>,
    leads_on: LeadsOn,
) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + initial, interval.max(INTERVAL_MIN));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (status, output) = match &probe {
            Probe::Http(check) => http::probe(check, &leads_on).await,
            Probe::Tcp { address, timeout, .. } => tcp::probe(address, *timeout, &leads_on).await,
            Probe::Ttl(_) | Probe::Fixed => return,
        };
        let result = CheckResult { key: key.clone(), status, output: truncated(output) };
        if results.send(result).await.is_err() {
            return;
        }
    }
}

/// Says that a TTL check is critical each time its application has not reported for `ttl`.
async fn watch_silence(key: CheckKey, ttl: Duration, reported: Arc<Notify>, results: mpsc::Sender<CheckResult>) {
    loop {
        if tokio::time::timeout(ttl, reported.notified()).await.is_ok() {
            continue;
        }
        let output = format!("TTL expired: nothing was reported for {ttl:?}");
        let result = CheckResult { key: key.clone(), status: CheckStatus::Critical, output };
        if results.send(result).await.is_err() {
            return;
        }
        reported.notified().await;
    }
}

#[cfg(test)]
mod tests;
