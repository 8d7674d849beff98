//! What becomes of a server whose disk fails.

use std::io;

use catalog::{Command, ServerId};
use tokio_util::sync::CancellationToken;
use wire::cluster_key::{ClusterKey, ClusterKeys};
use wire::tls::RaftIdentity;

use super::*;
use crate::config::{Config, RaftTiming};
use crate::consensus::bootstrap::{
    Bootstrap, Candidate, Commitment, Input as BootstrapInput, Output as BootstrapOutput, Settings,
};
use crate::consensus::identity::Identity;
use crate::consensus::join::Joiner;
use crate::consensus::start::new_consensus;
use crate::consensus::transport::Context;
use crate::consensus::{Consensus, ProposeError};
use crate::metrics::Metrics;
use crate::raft::{MemoryDisk, RoomConfig};
use crate::tests::harness::{register, soon};

/// What a disk does once it is told to fail.
#[derive(Clone, Copy)]
enum Fault {
    Error,
    Panic,
    /// It says of every sync that it took as long as a slow one does.
    Slow,
}

/// A disk that works until `fault` is set.
struct FailingDisk {
    disk: MemoryDisk,
    fault: Switch,
    /// Syncs that were not told of yet.
    syncs: usize,
}

type Switch = Arc<std::sync::Mutex<Option<Fault>>>;

impl FailingDisk {
    fn try_writing(&self) -> io::Result<()> {
        match *self.fault.lock().unwrap() {
            None | Some(Fault::Slow) => Ok(()),
            Some(Fault::Error) => Err(io::Error::other("the disk is on fire")),
            Some(Fault::Panic) => panic!("the disk is on fire"),
        }
    }
}

impl Disk for FailingDisk {
    fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.disk.append(file, bytes)
    }

    fn sync(&mut self, file: &str) -> io::Result<()> {
        self.try_writing()?;
        self.syncs += 1;
        self.disk.sync(file)
    }

    fn take_sync_times(&mut self) -> Vec<Duration> {
        let is_slow = matches!(*self.fault.lock().unwrap(), Some(Fault::Slow));
        let took = Duration::from_millis(if is_slow { 400 } else { 1 });
        vec![took; std::mem::take(&mut self.syncs)]
    }

    fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        self.disk.read(file)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&mut self, file: &str) -> io::Result<()> {
        self.disk.remove(file)
    }

    fn truncate(&mut self, file: &str, length: u64) -> io::Result<()> {
        self.disk.truncate(file, length)
    }
}

/// Is one server on a disk of its own.
struct Running {
    consensus: Consensus,
    failure: Failure,
    thread: std::thread::JoinHandle<()>,
    switch: Switch,
}

/// Starts it, and has it carry out a write.
async fn start() -> Running {
    let server: ServerId = "a".parse().unwrap();
    let keys = ClusterKeys::single(ClusterKey::generate());
    let mut config = Config::new(server.clone(), keys.clone());
    config.timing = RaftTiming { write_deadline: Duration::from_secs(2), ..RaftTiming::fast() };
    let (inbox, requests) = Inbox::new();
    let consensus = new_consensus(&config, "127.0.0.1:1".to_owned(), inbox, Metrics::new());
    let failure = Failure::new();
    let links = Arc::new(Links::start(&context(&config, &consensus, &failure)));

    let switch = Switch::default();
    let disk = FailingDisk { disk: MemoryDisk::new(), fault: Arc::clone(&switch), syncs: 0 };
    let room = Room::open(disk, RoomConfig::new(1, vec![1], 7)).unwrap();
    let thread = spawn(room, requests, Arc::clone(&consensus.shared), links, failure.clone()).unwrap();
    // The deadline is of the writes that fail; a first election may take longer on a busy machine.
    soon(async { while register(&consensus, "before").await.is_err() {} }).await;
    Running { consensus, failure, thread, switch }
}

impl Running {
    /// Lets the disk fail under a write.
    async fn fail(self, fault: Fault) -> (FatalError, Result<Committed, ProposeError>) {
        *self.switch.lock().unwrap() = Some(fault);
        let (fatal, written) = tokio::join!(soon(self.failure.happened()), register(&self.consensus, "after"));
        self.thread.join().unwrap();
        (fatal, written)
    }
}

/// A member of a cluster of one that has no port.
fn context(config: &Config, consensus: &Consensus, failure: &Failure) -> Arc<Context> {
    let settings = Settings {
        bootstrap_expect: 1,
        datacenter: config.datacenter.clone(),
        trust_domain: None,
        path_template: config.path_template.clone(),
    };
    let mut identity = Identity::in_memory(config.node.clone());
    let own = Candidate {
        server: config.node.clone(),
        disk_id: identity.disk_id().to_owned(),
        raft_address: "127.0.0.1:2".to_owned(),
        reads: 2,
        settings,
    };
    let mut machine = Bootstrap::new(own.clone(), Commitment::None);
    machine.step(BootstrapInput::Tick { cluster_id: "one".to_owned() }, Duration::ZERO, &mut |output| {
        if let BootstrapOutput::Persist(commitment) = output {
            identity.bind(commitment).unwrap();
        }
    });
    let joiner = Joiner::new(own, "127.0.0.1:1".to_owned(), identity, consensus.clone(), failure.clone());
    Arc::new(Context {
        consensus: consensus.clone(),
        joiner: Arc::new(joiner),
        identity: RaftIdentity::new(&config.cluster_keys, config.node.clone()).unwrap(),
        runtime: tokio::runtime::Handle::current(),
        stop: CancellationToken::new(),
    })
}

#[tokio::test]
async fn fault_15_a_failed_sync_ends_the_server_and_the_write_is_not_acknowledged() {
    let (fatal, written) = start().await.fail(Fault::Error).await;
    assert!(matches!(fatal, FatalError::Raft(_)), "{fatal}");
    assert!(wire::one_line(&fatal).ends_with("the disk is on fire"), "{fatal}");
    assert!(matches!(written, Err(ProposeError::Unknown { .. })), "{written:?}");
}

#[tokio::test]
async fn fault_12_a_disk_that_is_slow_is_told_and_whoever_is_alone_leads_on() {
    let running = start().await;
    let says = |text: &str| running.consensus.metrics_text().contains(text);
    assert!(says("weft_raft_disk_slow 0"));
    *running.switch.lock().unwrap() = Some(Fault::Slow);
    soon(async {
        while !says("weft_raft_disk_slow 1") {
            register(&running.consensus, "slowly").await.unwrap();
        }
    })
    .await;
    register(&running.consensus, "still").await.unwrap();
    let (fatal, _unknown) = running.fail(Fault::Error).await;
    assert!(matches!(fatal, FatalError::Raft(_)), "{fatal}");
}

#[tokio::test]
async fn a_panic_on_the_raft_thread_ends_the_server() {
    let (fatal, written) = start().await.fail(Fault::Panic).await;
    let FatalError::Panicked { thread: "raft", message } = &fatal else { panic!("{fatal}") };
    assert_eq!(message, "the disk is on fire");
    assert!(matches!(written, Err(ProposeError::Unknown { .. })), "{written:?}");
}

#[tokio::test]
async fn a_write_that_no_server_could_read_is_refused_at_once() {
    let alone = crate::consensus::testing::Alone::start().await;
    let result = alone.consensus.shared.inbox.propose(b"{\"version\":1}".to_vec()).await;
    assert!(matches!(result, Err(Unanswered::Malformed { .. })), "{result:?}");
    let mut envelope = crate::tests::harness::envelope(Command::DeleteToken {
        accessor: serde_json::from_str("\"00000000-0000-4000-8000-000000000000\"").unwrap(),
    });
    envelope.source_address = Some("x".repeat(5 << 20));
    let error = alone.consensus.propose(envelope).await.unwrap_err();
    assert!(matches!(error, ProposeError::TooLarge { .. }), "{error}");
}

#[test]
fn an_encoder_that_fails_tells_the_raft_thread() {
    let (inbox, requests) = Inbox::new();
    encode(7, inbox.clone(), || panic!("out of memory")).unwrap();
    assert!(matches!(requests.recv(), Ok(Request::SnapshotFailed { index: 7 })));
    encode(8, inbox.clone(), || Ok(Request::SnapshotWritten { index: 8 })).unwrap();
    assert!(matches!(requests.recv(), Ok(Request::SnapshotWritten { index: 8 })));
    encode(9, inbox.clone(), || Err(io::ErrorKind::StorageFull.into())).unwrap();
    assert!(matches!(requests.recv(), Ok(Request::SnapshotFailed { index: 9 })), "a full disk can wait for space");
    encode(10, inbox, || Err(io::Error::other("the disk is on fire"))).unwrap();
    assert!(matches!(requests.recv(), Ok(Request::SnapshotBroken { .. })), "a broken one is not trusted");
}
