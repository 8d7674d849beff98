//! The hub's shell: one task that feeds the machine and hands its frames to the sessions' connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use catalog::{AgentId, CatalogIndex, Incarnation, ServiceKey, Topic, WatchKey};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wire::agent_protocol::{Capabilities, ServerFrame};

use super::session_body::{Progress, SessionBody};
use super::{CloseReason, Frame, Hub, Input, Limits, Output, SessionId};
use crate::consensus::{Consensus, TouchedReceiver};
use crate::metrics::{GaugeGuard, Metrics};

/// Requests of sessions that may wait for the hub; a session beyond that waits itself.
const REQUESTS_MAX: usize = 1024;

/// Inputs taken in one go before the task looks at the catalog again.
const BATCH_MAX: usize = 256;

const TICK: Duration = Duration::from_secs(1);

/// What a session asks of the hub's task.
enum Request {
    Open {
        session: SessionId,
        opening: Opening,
        frames: mpsc::UnboundedSender<Bytes>,
        ended: CancellationToken,
        counted: GaugeGuard,
    },
    Step(Input),
    OpenSessions(oneshot::Sender<BTreeMap<AgentId, Incarnation>>),
}

/// What a session is opened with.
#[derive(Debug)]
pub(crate) struct Opening {
    /// The agent.
    pub(crate) agent: AgentId,
    /// The number of the session.
    pub(crate) incarnation: Incarnation,
    /// The services that the agent's record names.
    pub(crate) services: Vec<ServiceKey>,
    /// The network that the record lets the agent be a gateway into.
    pub(crate) gateway: Option<String>,
    /// What the agent understands.
    pub(crate) knows: Capabilities,
    /// What the agent is told first.
    pub(crate) welcome: Frame,
    /// Where it was told that the servers are.
    pub(crate) servers: Vec<String>,
    /// What ends the connection under the session.
    pub(crate) cut: CancellationToken,
}

/// The hub's task has ended, because the server stops.
#[derive(Debug, thiserror::Error)]
#[error("this server is stopping: use another one")]
pub(crate) struct HubStopped;

/// Reaches the hub's task; a clone reaches the same one.
#[derive(Clone, Debug)]
pub(crate) struct HubClient {
    requests: mpsc::Sender<Request>,
    progress: mpsc::UnboundedSender<Progress>,
    next_session: Arc<AtomicU64>,
    metrics: Metrics,
}

/// One open session, from the side of the agent that speaks.
#[derive(Debug)]
pub(crate) struct Session {
    id: SessionId,
    client: HubClient,
    ended: CancellationToken,
}

impl HubClient {
    /// Opens a session, and returns it with the body that carries its frames to the agent.
    pub(crate) async fn open(&self, opening: Opening) -> Result<(Session, SessionBody), HubStopped> {
        let session = SessionId(self.next_session.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = mpsc::unbounded_channel();
        let ended = CancellationToken::new();
        let body = SessionBody::new(session, receiver, self.progress.clone(), ended.clone());
        let counted = self.metrics.stream_session();
        let open = Request::Open { session, opening, frames: sender, ended: ended.clone(), counted };
        self.requests.send(open).await.map_err(|_| HubStopped)?;
        Ok((Session { id: session, client: self.clone(), ended }, body))
    }
}

impl HubClient {
    /// Returns the sessions that are open here.
    pub(crate) async fn open_sessions(&self) -> Result<BTreeMap<AgentId, Incarnation>, HubStopped> {
        let (answer, open) = oneshot::channel();
        self.requests.send(Request::OpenSessions(answer)).await.map_err(|_| HubStopped)?;
        open.await.map_err(|_| HubStopped)
    }
}

impl Session {
    /// Starts following a topic, from what the agent already holds of it.
    pub(crate) async fn subscribe(&self, topic: Topic, from: Option<CatalogIndex>) -> Result<(), HubStopped> {
        self.step(Input::Subscribe { session: self.id, topic, from }).await
    }

    /// Stops following a topic.
    pub(crate) async fn unsubscribe(&self, topic: Topic) -> Result<(), HubStopped> {
        self.step(Input::Unsubscribe { session: self.id, topic }).await
    }

    /// Waits until nothing is sent to the agent any more.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    async fn step(&self, input: Input) -> Result<(), HubStopped> {
        self.client.requests.send(Request::Step(input)).await.map_err(|_| HubStopped)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The agent has said its last word: what still waits is sent, then the body ends. A hub that is gone knows.
        let _ = self.client.progress.send(Progress::Closed { session: self.id });
    }
}

/// Starts the hub's task; it ends when `stop` is cancelled, with a goodbye to every agent.
pub(crate) fn start(consensus: Consensus, metrics: Metrics, limits: Limits, stop: CancellationToken) -> HubClient {
    let (requests, requests_receiver) = mpsc::channel(REQUESTS_MAX);
    let (progress, progress_receiver) = mpsc::unbounded_channel();
    // Registered before the catalog is looked at, or a change in between would be missed.
    let touched = consensus.touched();
    let task = Task {
        hub: Hub::new(limits, consensus.catalog()),
        sessions: BTreeMap::new(),
        started: Instant::now(),
        metrics: metrics.clone(),
        servers: consensus.agent_addresses(),
        goodbye_max: limits.goodbye_max,
        consensus,
    };
    tokio::spawn(task.run(touched, requests_receiver, progress_receiver, stop));
    HubClient { requests, progress, next_session: Arc::new(AtomicU64::new(1)), metrics }
}

/// Where a session's frames go, counted as open for as long as it is here.
struct Outlet {
    agent: AgentId,
    frames: mpsc::UnboundedSender<Bytes>,
    /// The connection has taken all there was, or has ended.
    ended: CancellationToken,
    cut: CancellationToken,
    _counted: GaugeGuard,
}

impl Outlet {
    /// Lets go of a session that has ended: what waits for its agent still lies in its connection, which is cut where the agent
    /// does not read it in time. Nothing counts it any more, and pings alone would keep it for ever.
    fn let_go(self, goodbye_max: Duration) {
        let Outlet { ended, cut, .. } = self;
        if ended.is_cancelled() {
            return;
        }
        tokio::spawn(async move {
            if tokio::time::timeout(goodbye_max, ended.cancelled()).await.is_err() {
                cut.cancel();
            }
        });
    }
}

struct Task {
    hub: Hub,
    sessions: BTreeMap<SessionId, Outlet>,
    started: Instant,
    metrics: Metrics,
    consensus: Consensus,
    /// Where agents were told last that the servers are.
    servers: Vec<String>,
    goodbye_max: Duration,
}

impl Task {
    async fn run(
        mut self,
        mut touched: TouchedReceiver,
        mut requests: mpsc::Receiver<Request>,
        mut progress: mpsc::UnboundedReceiver<Progress>,
        stop: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut orders = self.consensus.taps().orders();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                report = progress.recv() => self.report(report, &mut progress),
                (catalog, touched) = touched.next() => {
                    // What was read is counted before anything more is sent, or a reader that keeps up could look slow.
                    self.report(None, &mut progress);
                    let members_changed = touched.contains(&WatchKey::Members);
                    self.step(Input::Applied { catalog, touched });
                    if members_changed {
                        self.tell_servers();
                    }
                }
                Ok(order) = orders.recv() => self.step(Input::Tap(order)),
                _ = ticks.tick() => {
                    self.report(None, &mut progress);
                    self.step(Input::Tick);
                    // Servers also learn from each other where they are, before the log says so.
                    self.tell_servers();
                }
                taken = requests.recv_many(&mut batch, BATCH_MAX) => {
                    if taken == 0 {
                        break;
                    }
                    for request in batch.drain(..) {
                        self.take(request);
                    }
                }
            }
        }
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.say_goodbye(session, &HubStopped.to_string());
        }
    }

    /// Passes on what connections report: `first`, and all that waits behind it.
    fn report(&mut self, first: Option<Progress>, waiting: &mut mpsc::UnboundedReceiver<Progress>) {
        let mut next = first.or_else(|| waiting.try_recv().ok());
        while let Some(report) = next {
            self.step(match report {
                Progress::Written { session, bytes } => Input::Written { session, bytes },
                Progress::Closed { session } => Input::Closed { session },
            });
            next = waiting.try_recv().ok();
        }
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Step(input) => self.step(input),
            // Whoever asked may have stopped waiting.
            Request::OpenSessions(answer) => drop(answer.send(self.hub.open_sessions())),
            // The connection ended first, and its `Closed` came before this: nobody would ever end the session.
            Request::Open { frames, .. } if frames.is_closed() => {}
            Request::Open { session, opening, frames, ended, counted } => {
                let Opening { agent, incarnation, services, gateway, knows, welcome, servers, cut } = opening;
                // Not counted as waiting: the machine learns of the session only now.
                let _ = frames.send(welcome.encoded().clone());
                let outlet = Outlet { agent: agent.clone(), frames, ended, cut, _counted: counted };
                self.sessions.insert(session, outlet);
                self.step(Input::Connected { session, agent, incarnation, services, gateway, knows });
                if servers != self.servers {
                    self.step(Input::Servers { only: Some(session), servers: self.servers.clone() });
                }
            }
        }
    }

    /// Tells all agents where the servers are, if that is news.
    fn tell_servers(&mut self) {
        let servers = self.consensus.agent_addresses();
        if servers != self.servers {
            self.servers.clone_from(&servers);
            self.step(Input::Servers { only: None, servers });
        }
    }

    fn step(&mut self, input: Input) {
        if let Input::Closed { session } = input
            && let Some(outlet) = self.sessions.remove(&session)
        {
            outlet.let_go(self.goodbye_max);
        }
        let now = self.started.elapsed();
        let mut outputs = Vec::new();
        self.hub.step(input, now, &mut |output| outputs.push(output));
        self.metrics.stream_waiting(self.hub.all_waiting_bytes());
        for output in outputs {
            match output {
                Output::Send { session, frame } => {
                    if let Some(outlet) = self.sessions.get(&session) {
                        // A receiver that is gone reports itself closed.
                        let _ = outlet.frames.send(frame.encoded().clone());
                    }
                }
                Output::Close { session, reason } => self.close(session, &reason),
            }
        }
    }

    fn close(&mut self, session: SessionId, reason: &CloseReason) {
        if let Some(outlet) = self.sessions.get(&session) {
            if *reason == CloseReason::Superseded {
                info!(agent = %outlet.agent, reason = reason.label(), "agent session ended");
            } else {
                self.metrics.agent_port_refused(reason.label());
                warn!(agent = %outlet.agent, reason = reason.label(), error = %reason, "agent session cut");
            }
        }
        // What lies there unread is why the session ends: nothing more is said into it.
        if *reason == CloseReason::SlowReader
            && let Some(outlet) = self.sessions.remove(&session)
        {
            return outlet.cut.cancel();
        }
        self.say_goodbye(session, &reason.to_string());
    }

    /// Sends the last frame of a session and ends its body.
    fn say_goodbye(&mut self, session: SessionId, reason: &str) {
        let Some(outlet) = self.sessions.remove(&session) else { return };
        if let Ok(goodbye) = Frame::new(ServerFrame::Goodbye { reason: reason.to_owned() }) {
            let _ = outlet.frames.send(goodbye.encoded().clone());
        }
        outlet.let_go(self.goodbye_max);
    }
}
