//! Writes that a follower carries to the leader.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use catalog::{CatalogIndex, Command, Envelope, LoginChange, Outcome, ServerMember, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_rustls::client::TlsStream;
use tracing::debug;
use wire::{crypto, one_line};

use super::budget::{ByteBudget, HeldBytes};
use super::inbox::Unanswered;
use super::transport::frame::{Frame, FrameError};
use super::transport::hello::Purpose;
use super::transport::{ALIVE_INTERVAL, Context, read_alive, write_alive};
use super::{Committed, Consensus};

/// Writes that may wait for one leader's answer, on either side of the connection.
const WAITING_MAX: usize = 4096;
/// Bytes of writes that may wait to be written to the connection.
const QUEUED_BYTES_MAX: usize = 64 << 20;

/// Is the leader's answer to a forwarded write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ForwardAnswer {
    id: u64,
    result: ForwardResult,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ForwardResult {
    Committed { index: CatalogIndex, outcome: Outcome },
    NotTaken,
    DiskFull,
    Overloaded,
    Lost,
    TooLarge { bytes: usize, bytes_max: usize },
    Malformed { reason: String },
}

impl From<Result<Committed, Unanswered>> for ForwardResult {
    fn from(result: Result<Committed, Unanswered>) -> Self {
        match result {
            Ok(Committed { index, outcome }) => Self::Committed { index, outcome },
            Err(Unanswered::NotTaken) => Self::NotTaken,
            Err(Unanswered::DiskFull) => Self::DiskFull,
            Err(Unanswered::Overloaded) => Self::Overloaded,
            Err(Unanswered::Lost) => Self::Lost,
            Err(Unanswered::TooLarge { bytes, bytes_max }) => Self::TooLarge { bytes, bytes_max },
            Err(Unanswered::Malformed { reason }) => Self::Malformed { reason },
        }
    }
}

impl From<ForwardResult> for Result<Committed, Unanswered> {
    fn from(result: ForwardResult) -> Self {
        match result {
            ForwardResult::Committed { index, outcome } => Ok(Committed { index, outcome }),
            ForwardResult::NotTaken => Err(Unanswered::NotTaken),
            ForwardResult::DiskFull => Err(Unanswered::DiskFull),
            ForwardResult::Overloaded => Err(Unanswered::Overloaded),
            ForwardResult::Lost => Err(Unanswered::Lost),
            ForwardResult::TooLarge { bytes, bytes_max } => Err(Unanswered::TooLarge { bytes, bytes_max }),
            ForwardResult::Malformed { reason } => Err(Unanswered::Malformed { reason }),
        }
    }
}

/// Is one write on its way to the leader.
struct Job {
    data: Bytes,
    _held: HeldBytes,
    answer: oneshot::Sender<Result<Committed, Unanswered>>,
}

/// Carries writes to the leader, over one connection that is dialled when the first comes.
pub(crate) struct Forwarder {
    context: OnceLock<Arc<Context>>,
    /// The way to the leader that was forwarded to last.
    route: Mutex<Option<(u64, mpsc::Sender<Job>)>>,
    budget: ByteBudget,
}

impl Default for Forwarder {
    fn default() -> Self {
        Self { context: OnceLock::new(), route: Mutex::default(), budget: ByteBudget::new(QUEUED_BYTES_MAX) }
    }
}

impl Forwarder {
    /// Tells how servers are dialled; before that nothing can be forwarded.
    pub(crate) fn connect(&self, context: Arc<Context>) {
        // The first one stays; there is never a second.
        let _ = self.context.set(context);
    }

    /// Returns how servers are dialled, once that is known.
    pub(crate) fn context(&self) -> Option<Arc<Context>> {
        self.context.get().cloned()
    }

    /// Carries an encoded envelope to the leader and returns what became of it there.
    pub(crate) async fn propose(&self, leader: &ServerMember, data: Vec<u8>) -> Result<Committed, Unanswered> {
        let (answer, answered) = oneshot::channel();
        let held = self.budget.hold(data.len()).ok_or(Unanswered::Overloaded)?;
        let route = self.route_to(leader).ok_or(Unanswered::NotTaken)?;
        route.try_send(Job { data: data.into(), _held: held, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unanswered::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Unanswered::NotTaken,
        })?;
        answered.await.unwrap_or(Err(Unanswered::Lost))
    }

    fn route_to(&self, leader: &ServerMember) -> Option<mpsc::Sender<Job>> {
        let context = self.context.get()?;
        let mut route = self.route.lock().unwrap_or_else(PoisonError::into_inner);
        match route.as_ref() {
            Some((raft_id, jobs)) if *raft_id == leader.raft_id && !jobs.is_closed() => Some(jobs.clone()),
            _ => {
                let (jobs, receiver) = mpsc::channel(WAITING_MAX);
                *route = Some((leader.raft_id, jobs.clone()));
                context.runtime.spawn(carry(Arc::clone(context), leader.clone(), receiver));
                Some(jobs)
            }
        }
    }
}

/// Who waits for the answer to which forwarded write.
type Waiting = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Result<Committed, Unanswered>>>>>;

fn lock(waiting: &Waiting) -> MutexGuard<'_, BTreeMap<u64, oneshot::Sender<Result<Committed, Unanswered>>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries writes to one leader until its connection breaks or nobody forwards to it any more.
async fn carry(context: Arc<Context>, leader: ServerMember, mut jobs: mpsc::Receiver<Job>) {
    let dialled = tokio::select! {
        () = context.stop.cancelled() => return,
        dialled = context.dial(&leader.raft_address, Some(&leader.id), Purpose::Forward) => dialled,
    };
    let ended = match dialled {
        Ok(dialled) => tokio::select! {
            () = context.stop.cancelled() => return,
            ended = exchange(dialled.stream, &mut jobs) => one_line(&ended),
        },
        Err(error) => one_line(&error),
    };
    debug!(peer = %leader.id, error = ended, "forwarding ended");
    jobs.close();
    // These were not written to the connection, so they cannot have happened.
    while let Ok(job) = jobs.try_recv() {
        let _ = job.answer.send(Err(Unanswered::NotTaken));
    }
}

/// Writes jobs and reads answers. Whoever still waits when it returns learns that the outcome is lost.
async fn exchange(stream: TlsStream<TcpStream>, jobs: &mut mpsc::Receiver<Job>) -> FrameError {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let waiting = Waiting::default();
    tokio::select! {
        error = read_answers(&mut reader, &waiting) => error,
        error = write_jobs(&mut writer, jobs, &waiting) => error,
    }
}

async fn write_jobs<W: AsyncWrite + Unpin>(
    writer: &mut W,
    jobs: &mut mpsc::Receiver<Job>,
    waiting: &Waiting,
) -> FrameError {
    let next = AtomicU64::new(1);
    loop {
        let frame = match tokio::time::timeout(ALIVE_INTERVAL, jobs.recv()).await {
            Err(_) => Frame::Alive,
            Ok(None) => return FrameError::Io(std::io::ErrorKind::NotConnected.into()),
            Ok(Some(job)) => {
                let id = next.fetch_add(1, Ordering::Relaxed);
                let mut waiting = lock(waiting);
                if waiting.len() >= WAITING_MAX {
                    waiting.retain(|_, answer| !answer.is_closed());
                }
                if waiting.len() >= WAITING_MAX {
                    let _ = job.answer.send(Err(Unanswered::Overloaded));
                    continue;
                }
                waiting.insert(id, job.answer);
                Frame::Forward { id, data: job.data }
            }
        };
        if let Err(error) = write_alive(writer, &frame).await {
            return error;
        }
    }
}

async fn read_answers<R: AsyncRead + Unpin>(reader: &mut R, waiting: &Waiting) -> FrameError {
    loop {
        match read_alive(reader).await {
            Ok((Frame::Alive, _)) => {}
            Ok((Frame::Forwarded(answer), _)) => {
                if let Some(waiter) = lock(waiting).remove(&answer.id) {
                    // Whoever gave up does not need the answer.
                    let _ = waiter.send(answer.result.into());
                }
            }
            Ok((other, _)) => return other.unexpected(),
            Err(error) => return error,
        }
    }
}

/// Puts the leader's own time on a follower's write: one server whose clock is wrong must not move everybody's.
///
/// An admission that was given while there was no leader keeps the time at which its credential was good, unless that lies
/// ahead. What is no write is left to the Raft thread to refuse.
fn stamped(data: Vec<u8>, now: Timestamp) -> Vec<u8> {
    let Ok(mut envelope) = Envelope::decode(&data) else { return data };
    envelope.proposed_at = match envelope.command {
        Command::Login { change: LoginChange::Admit { .. } } => envelope.proposed_at.min(now),
        _ => now,
    };
    envelope.encode()
}

/// Proposes what a follower forwards, and answers in the order in which the outcomes are known.
pub(crate) async fn serve<R, W>(consensus: &Consensus, mut reader: R, mut writer: W) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (answers, mut answered) = mpsc::channel::<ForwardAnswer>(WAITING_MAX);
    let room = Arc::new(Semaphore::new(WAITING_MAX));
    let reading = async {
        loop {
            match read_alive(&mut reader).await?.0 {
                Frame::Alive => {}
                Frame::Forward { id, data } => {
                    let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
                    let (inbox, answers) = (consensus.shared.inbox.clone(), answers.clone());
                    tokio::spawn(async move {
                        let result = inbox.propose(stamped(data.into(), crypto::now())).await.into();
                        // The follower is gone if nobody takes the answer; it knows that it does not know.
                        let _ = answers.send(ForwardAnswer { id, result }).await;
                        drop(permit);
                    });
                }
                other => return Err(other.unexpected()),
            }
        }
    };
    let writing = async {
        loop {
            let frame = match tokio::time::timeout(ALIVE_INTERVAL, answered.recv()).await {
                Err(_) => Frame::Alive,
                Ok(None) => return Ok(()),
                Ok(Some(answer)) => Frame::Forwarded(Box::new(answer)),
            };
            write_alive(&mut writer, &frame).await?;
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}

#[cfg(test)]
mod tests {
    use catalog::{Actor, Admission, Platform, SecretHash};

    use super::*;

    fn write(proposed_at: u64, command: Command) -> Vec<u8> {
        let envelope = Envelope {
            version: command.reads_from(),
            request_id: "r-1".parse().unwrap(),
            actor: Actor::Server("s2".parse().unwrap()),
            source_address: None,
            proposed_at: Timestamp(proposed_at),
            command,
        };
        envelope.encode()
    }

    fn admission() -> Command {
        let admission = Admission {
            method: "cluster".parse().unwrap(),
            subject: "pod".to_owned(),
            judged_at: CatalogIndex(1),
            services: Vec::new(),
            provisional: None,
            gateway: None,
            nodes: Vec::new(),
            bearer: SecretHash(String::new()),
            bearer_ends: Timestamp(9_000),
            is_of_one_key: false,
            key: catalog::KeyFingerprint(String::new()),
            node: "n1".parse().unwrap(),
            platform: Platform::Vm,
        };
        Command::Login { change: LoginChange::Admit { admission: Box::new(admission) } }
    }

    #[track_caller]
    fn check(data: Vec<u8>, want: u64) {
        let before = Envelope::decode(&data).unwrap();
        let after = Envelope::decode(&stamped(data, Timestamp(5_000))).unwrap();
        assert_eq!(after.proposed_at, Timestamp(want));
        assert_eq!(Envelope { proposed_at: before.proposed_at, ..after }, before);
    }

    #[test]
    fn r6_a_followers_write_bears_the_leaders_time() {
        let deletion = || Command::DeleteMesh { compare: None };
        check(write(1_000, deletion()), 5_000);
        check(write(900_000, deletion()), 5_000);
        // A credential that was good while there was no leader does not end by the wait for one.
        check(write(1_000, admission()), 1_000);
        check(write(900_000, admission()), 5_000);
        assert_eq!(stamped(b"no write".to_vec(), Timestamp(5_000)), b"no write");
    }
}
