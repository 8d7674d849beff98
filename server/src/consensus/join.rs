//! The shell around the bootstrap machine: meets other servers, keeps what this one is bound to on disk, and lets the
//! rest know once there is a cluster.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use catalog::{MemberRole, Mesh, ServerId};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch as latest;
use tracing::{debug, error, info, warn};
use wire::crypto;
use wire::one_line;

use super::bootstrap::{Bootstrap, Candidate, Commitment, Input, Output, PledgeAnswer, describe};
use super::identity::{Identity, IdentityError};
use super::start::{Failure, FatalError};
use super::transport::dial::{DialError, Dialled};
use super::transport::frame::Frame;
use super::transport::hello::{About, Purpose, Refusal};
use super::transport::{Context, jittered, read_alive, write_alive};
use super::{Consensus, admit};

/// Addresses that are dialled besides those that were configured.
const HEARD_OF_MAX: usize = 32;
/// A member looks for peers that it cannot reach at the configured addresses this many times more seldom.
const SEARCH_FACTOR: u32 = 10;

/// Is what this server is bound to, and how it comes to be a member.
pub(crate) struct Joiner {
    state: Mutex<State>,
    /// What this server tells others; replaced after every change is on disk.
    about: ArcSwap<About>,
    activated: latest::Sender<Option<Arc<Mesh>>>,
    consensus: Consensus,
    failure: Failure,
    started: Instant,
}

struct State {
    machine: Bootstrap,
    identity: Identity,
    /// Where servers are reached that others have met.
    heard_of: BTreeSet<String>,
}

impl Joiner {
    /// Returns the joiner of a server with that memory of itself.
    pub(crate) fn new(
        own: Candidate,
        agent_address: String,
        identity: Identity,
        consensus: Consensus,
        failure: Failure,
    ) -> Self {
        let commitment = identity.commitment().clone();
        let about = About {
            candidate: own.clone(),
            agent_address,
            commitment: commitment.clone(),
            known: Vec::new(),
            raft_id: None,
            epoch: identity.epoch(),
        };
        let activated = commitment.membership().map(|mesh| Arc::new(mesh.clone()));
        if let Some(mesh) = &activated {
            consensus.shared.members.activate(mesh, &own.raft_address);
        }
        Self {
            state: Mutex::new(State { machine: Bootstrap::new(own, commitment), identity, heard_of: BTreeSet::new() }),
            about: ArcSwap::from_pointee(about),
            activated: latest::Sender::new(activated),
            consensus,
            failure,
            started: Instant::now(),
        }
    }

    /// Returns what this server tells others about itself.
    pub(crate) fn about(&self) -> Arc<About> {
        self.about.load_full()
    }

    /// Waits until this server is a member of a cluster, and returns it.
    pub(crate) async fn activated(&self) -> Arc<Mesh> {
        let mut activated = self.activated.subscribe();
        loop {
            if let Some(mesh) = activated.borrow_and_update().clone() {
                return mesh;
            }
            if activated.changed().await.is_err() {
                // The sender is this joiner's own.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Remembers that this server has a Raft log; durable on return.
    ///
    /// # Errors
    /// [`IdentityError`]
    pub(crate) fn log_begun(&self) -> Result<(), IdentityError> {
        self.lock().identity.log_begun()
    }

    /// Reports whether this server was taken into a cluster that existed.
    pub(crate) fn is_admitted(&self) -> bool {
        self.lock().identity.is_admitted()
    }

    /// Makes this server a member of a cluster whose members have taken it in.
    pub(super) async fn admitted(self: &Arc<Self>, mesh: Mesh, epoch: u64) {
        if self.about().commitment == Commitment::None {
            self.lock().identity.admit(epoch);
            self.step_off_thread(Input::Admitted { mesh }, Vec::new()).await;
        }
    }

    /// Ends this server because a member says that it cannot be taken in as it is.
    pub(super) fn refused(&self, by: &ServerId, reason: String) {
        error!(peer = %by, error = reason, "this server is not taken in");
        self.failure.set(FatalError::Refused { by: by.clone(), reason });
    }

    /// Ends this server because `refusal` says that it can never be of use.
    pub(crate) fn end(&self, by: &ServerId, refusal: &Refusal) {
        if matches!(refusal, Refusal::Removed { .. }) && self.is_leaving() {
            info!(peer = %by, "this server has left the cluster");
            return self.failure.set(FatalError::Left);
        }
        error!(peer = %by, error = %refusal, "this server is refused by the cluster");
        self.failure.set(FatalError::Refused { by: by.clone(), reason: refusal.to_string() });
    }

    /// Takes note of a server that presented itself. Returns the cluster that it should be asked to pledge to, if any.
    pub(crate) async fn met(self: &Arc<Self>, about: &About, asked_with: Option<Commitment>) -> Option<Mesh> {
        if self.about().commitment.membership().is_some() {
            return None;
        }
        let (candidate, commitment) = (about.candidate.clone(), about.commitment.clone());
        let known = about.known.clone();
        let outputs = self.step_off_thread(Input::Met { candidate, commitment, asked_with }, known).await;
        outputs.into_iter().find_map(|output| match output {
            Output::AskPledge { mesh, .. } => Some(mesh),
            _ => None,
        })
    }

    /// Answers a coordinator that asks for this server's pledge; what is given is on disk.
    pub(crate) async fn pledge_asked(self: &Arc<Self>, from: ServerId, mesh: Mesh) -> PledgeAnswer {
        let outputs = self.step_off_thread(Input::PledgeAsked { from, mesh }, Vec::new()).await;
        let answer = outputs.into_iter().find_map(|output| match output {
            Output::Answer(answer) => Some(answer),
            _ => None,
        });
        answer.unwrap_or(PledgeAnswer::Refused { reason: "the server is stopping".to_owned() })
    }

    /// Meets other servers until this one is a member, then goes on looking for peers that it lost.
    pub(crate) async fn run(context: Arc<Context>, addresses: Vec<String>) {
        let joiner = Arc::clone(&context.joiner);
        let pause = context.consensus.shared.timing.join_retry;
        let mut complaints = BTreeSet::new();
        while joiner.about().commitment.membership().is_none() {
            joiner.step_off_thread(Input::Tick { cluster_id: crypto::uuid_v4() }, Vec::new()).await;
            if joiner.about().commitment.membership().is_some() {
                break;
            }
            complaints = meet_all(&context, joiner.addresses(&addresses), complaints).await;
            tokio::time::sleep(jittered(pause)).await;
        }
        // Where every member has moved, the configured names are the only way to find them again.
        loop {
            tokio::time::sleep(jittered(pause.saturating_mul(SEARCH_FACTOR))).await;
            if context.consensus.shared.standing.borrow().leader.is_none() {
                complaints = meet_all(&context, addresses.iter().cloned().collect(), complaints).await;
            }
        }
    }

    /// Returns the servers of which this one last said that they are too many.
    #[cfg(test)]
    pub(crate) fn crowd(&self) -> BTreeSet<ServerId> {
        self.lock().machine.too_many().clone()
    }

    /// Reports whether the log told this server that it is being taken out.
    fn is_leaving(&self) -> bool {
        let own = self.consensus.shared.members.own_raft_id();
        let catalog = self.consensus.catalog();
        let member = own.and_then(|raft_id| catalog.membership().member(raft_id));
        member.is_some_and(|member| member.role == MemberRole::Leaving)
            || catalog.membership().is_retired(&self.about().candidate.disk_id)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked with it has ended the server.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns where other servers may be: at the configured addresses, and where they were met or heard of.
    fn addresses(&self, configured: &[String]) -> BTreeSet<String> {
        let state = self.lock();
        let own = &state.machine.own().raft_address;
        let met = state.machine.addresses().map(ToOwned::to_owned);
        let all = configured.iter().cloned().chain(met).chain(state.heard_of.iter().cloned());
        all.filter(|address| address != own).collect()
    }

    /// Steps the machine on a thread that may wait for the disk.
    async fn step_off_thread(self: &Arc<Self>, input: Input, known: Vec<String>) -> Vec<Output> {
        let joiner = Arc::clone(self);
        match tokio::task::spawn_blocking(move || joiner.step(input, known)).await {
            Ok(outputs) => outputs,
            Err(error) => {
                self.failure.set(FatalError::Panicked { thread: "join", message: error.to_string() });
                Vec::new()
            }
        }
    }

    /// Steps the machine and makes durable what it decides. What is returned may be told to others.
    fn step(&self, input: Input, known: Vec<String>) -> Vec<Output> {
        let mut state = self.lock();
        let now = self.started.elapsed();
        let mut outputs = Vec::new();
        state.machine.step(input, now, &mut |output| outputs.push(output));
        for output in &outputs {
            match output {
                Output::Persist(commitment) => {
                    if let Err(error) = state.identity.bind(commitment.clone()) {
                        self.failure.set(FatalError::Identity(Arc::new(error)));
                        return Vec::new();
                    }
                }
                Output::Activate(mesh) => {
                    let own_address = &state.machine.own().raft_address;
                    self.consensus.shared.members.activate(mesh, own_address);
                    info!(cluster = %describe(mesh), "cluster joined");
                }
                Output::GaveUp { refused_by, reason } => {
                    warn!(peer = %refused_by, error = reason, "new cluster given up");
                }
                Output::TooMany { servers } => {
                    warn!(
                        servers = ?servers,
                        expected = state.machine.own().settings.bootstrap_expect,
                        "more servers than bootstrap_expect: stop the others, or start all with their number"
                    );
                }
                Output::AskPledge { .. } | Output::Answer(_) => {}
            }
        }
        let room = HEARD_OF_MAX.saturating_sub(state.heard_of.len());
        state.heard_of.extend(known.into_iter().take(room));
        let commitment = state.machine.commitment().clone();
        let activated = commitment.membership().map(|mesh| Arc::new(mesh.clone()));
        let known = state.machine.addresses().map(ToOwned::to_owned).take(HEARD_OF_MAX).collect();
        let epoch = state.identity.epoch();
        let about = About { commitment, known, epoch, ..About::clone(&self.about()) };
        self.about.store(Arc::new(about));
        if activated.is_some() {
            self.activated.send_if_modified(|known| {
                let is_news = known.is_none();
                if is_news {
                    *known = activated;
                }
                is_news
            });
        }
        outputs
    }
}

/// Meets whoever lives at `addresses`, and returns what there is to complain about. What was complained about `before` is
/// not said again.
async fn meet_all(context: &Arc<Context>, addresses: BTreeSet<String>, before: BTreeSet<String>) -> BTreeSet<String> {
    let mut meetings: FuturesUnordered<_> = addresses.iter().map(|address| meet(context, address)).collect();
    let mut complaints = BTreeSet::new();
    while let Some(met) = meetings.next().await {
        match met {
            Ok(()) | Err(DialError::ThisServer { .. }) => {}
            Err(error) => {
                let text = one_line(&error);
                if before.contains(&text) {
                    debug!(error = text, "server not met");
                } else {
                    warn!(error = text, "server not met");
                }
                complaints.insert(text);
            }
        }
    }
    complaints
}

/// Meets whoever lives at an address, and asks it for a pledge where that is due.
async fn meet(context: &Context, address: &str) -> Result<(), DialError> {
    let dialled = match context.dial(address, None, Purpose::Meet).await {
        Ok(dialled) => dialled,
        Err(error) => {
            // A member of another cluster will never pledge to this one.
            if let DialError::Refused { peer, refusal, .. } = &error
                && let Refusal::OtherCluster { theirs, .. } = refusal
            {
                let answer = PledgeAnswer::Refused { reason: refusal.to_string() };
                pledge_answered(context, peer.clone(), theirs.clone(), answer).await;
            }
            return Err(error);
        }
    };
    let Dialled { mut stream, peer, about, asked_with } = dialled;
    let pledge = context.joiner.met(&about, Some(asked_with)).await;
    if about.commitment.membership().is_some() {
        return admit::ask(context, stream, &peer, address).await;
    }
    let Some(mesh) = pledge else { return Ok(()) };
    let greeting = |source| DialError::Greeting { address: address.to_owned(), source };
    let cluster_id = mesh.cluster_id.clone();
    write_alive(&mut stream, &Frame::Pledge(Box::new(mesh))).await.map_err(greeting)?;
    match read_alive(&mut stream).await.map_err(greeting)?.0 {
        Frame::Pledged(answer) => pledge_answered(context, peer, cluster_id, *answer).await,
        other => return Err(greeting(other.unexpected())),
    }
    Ok(())
}

async fn pledge_answered(context: &Context, from: ServerId, cluster_id: String, answer: PledgeAnswer) {
    context.joiner.step_off_thread(Input::PledgeAnswered { from, cluster_id, answer }, Vec::new()).await;
}
