//! Many agents at once: a leader that is lost under them, a herd that comes back, and readers that do not read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use catalog::{CatalogIndex, Topic};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::crowd::{self, Crowd, Enrolled, Opened, Standing, lock};
use super::harness::{Cluster, PATIENCE, big_instance, register};
use crate::RaftTiming;
use crate::agent_port::Bounds;
use crate::consensus::Consensus;
use crate::hub::Limits;
use crate::pace::Pace;

/// Returns how many agents a test has: `few`, or `many` in the long run.
fn agents(few: usize, many: usize) -> usize {
    if std::env::var("WEFT_TEST_SCALE").as_deref() == Ok("full") { many } else { few }
}

fn topics() -> Vec<Topic> {
    let web = || "web".parse().unwrap();
    vec![Topic::Mesh, Topic::Roots, Topic::Endpoints(web()), Topic::Intentions(web())]
}

/// Writes something every few milliseconds until it is asked how that went.
struct Writer {
    task: AbortOnDropHandle<()>,
    longest: Arc<std::sync::Mutex<(usize, Duration)>>,
}

impl Writer {
    fn start(consensus: Consensus) -> Self {
        let longest = Arc::new(std::sync::Mutex::new((0, Duration::ZERO)));
        let noted = Arc::clone(&longest);
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let started = Instant::now();
                register(&consensus, "writer").await.unwrap();
                {
                    let mut noted = noted.lock().unwrap();
                    *noted = (noted.0 + 1, noted.1.max(started.elapsed()));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }));
        Self { task, longest }
    }

    /// Returns how many writes were made and how long the slowest took.
    fn stop(self) -> (usize, Duration) {
        assert!(!self.task.is_finished(), "a write failed");
        *self.longest.lock().unwrap()
    }
}

fn is_open(standing: &Standing) -> bool {
    standing.session.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_28_agents_of_a_lost_leader_are_back_in_step_elsewhere_and_no_other_leader_is_lost() {
    let mut cluster = Cluster::new();
    for name in ["a", "b", "c"] {
        let slower = |config: &mut crate::Config| {
            // In memory: a slow disk has a leader hand over, and that is not what is tried here.
            (config.bootstrap_expect, config.data_dir) = (3, None);
            config.timing.tick = 15 * RaftTiming::fast().tick;
        };
        cluster.start(name, slower).await;
    }
    cluster.established().await;
    let enrolled = crowd::enrol(&cluster.consensus("a"), &cluster.keys, agents(150, 1000)).await;
    let servers: Vec<SocketAddr> = cluster.servers.values().map(crate::Server::agent_address).collect();
    let crowd = Crowd::start(&enrolled, &servers, &topics());
    crowd.all("connected", is_open).await;
    crowd.holds(&cluster.consensus("a").catalog(), &topics()).await;

    let lost = cluster.leader().await;
    let bereft = crowd.agents.iter().filter(|one| matches!(&lock(one).session, Some((at, _)) if at.as_str() == lost));
    assert!(bereft.count() >= enrolled.len() / 4, "agents spread over the servers");
    // Without a goodbye.
    drop(cluster.servers.remove(&lost).unwrap());
    let survivor = cluster.servers.keys().next().unwrap().clone();
    let leader = cluster.leader().await;
    let consensus = cluster.consensus(&survivor);
    let term = consensus.status().term;
    let writer = Writer::start(consensus.clone());
    crowd
        .all("connected elsewhere", |standing| matches!(&standing.session, Some((at, _)) if at.as_str() != lost))
        .await;
    consensus.propose(super::harness::envelope(big_instance("news", "web", 1))).await.unwrap();
    let (written, slowest) = writer.stop();
    crowd.holds(&consensus.catalog(), &topics()).await;
    assert!(written > 0 && slowest < PATIENCE / 3, "{written} writes, the slowest took {slowest:?}");
    assert_eq!((cluster.leader().await, consensus.status().term), (leader, term), "the crowd cost a leader");
    assert!(crowd.agents.iter().all(|one| lock(one).opened <= 3), "somebody went to and fro");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_fault_29_a_herd_is_served_in_turns_while_writes_go_on_and_the_leader_stays() {
    // Slow enough for a slow machine's herd to be more than is served, too.
    let pace = || Pace::new(agents(5, 20).try_into().unwrap(), agents(6, 40).try_into().unwrap());
    let mut cluster = Cluster::new();
    for name in ["a", "b", "c"] {
        let bounds = Bounds { signing: pace(), sessions: pace(), ..Bounds::default() };
        let slower = |config: &mut crate::Config| {
            // In memory: a slow disk has a leader hand over, and that is not what is tried here.
            (config.bootstrap_expect, config.data_dir) = (3, None);
            config.timing.tick = 15 * RaftTiming::fast().tick;
        };
        cluster.start_within(name, slower, bounds).await;
    }
    cluster.established().await;
    let leader = cluster.leader().await;
    let consensus = cluster.consensus(&leader);
    let term = consensus.status().term;
    let enrolled = crowd::enrol(&consensus, &cluster.keys, agents(60, 600)).await;
    let at = cluster.servers[&leader].agent_address();
    let writer = Writer::start(consensus.clone());

    // All of them want a session and a leaf of the one server at once.
    let crowd = Crowd::start(&enrolled, &[at], &topics());
    let renewals = enrolled.iter().map(|agent| agent.renew(at));
    let waits = tokio::time::timeout(2 * PATIENCE, futures_util::future::join_all(renewals)).await.unwrap();
    crowd.all("connected", is_open).await;
    let (written, slowest) = writer.stop();
    crowd.holds(&consensus.catalog(), &topics()).await;

    let signing: Vec<Duration> = waits.into_iter().flatten().collect();
    let opening: Vec<Duration> = crowd.agents.iter().flat_map(|one| lock(one).sent_away.clone()).collect();
    for (what, waits) in [("signing", signing), ("opening", opening)] {
        let spread = (waits.iter().min().copied(), waits.iter().max().copied());
        assert!(waits.len() >= 10, "{what}: only {} were sent away", waits.len());
        assert!(spread.0 >= Some(Duration::from_secs(1)) && spread.0 < spread.1, "{what}: {spread:?}");
        assert!(waits.len() < 3 * enrolled.len(), "{what}: {} times somebody was sent away", waits.len());
    }
    assert!(written > 0 && slowest < PATIENCE / 3, "{written} writes, the slowest took {slowest:?}");
    assert_eq!((cluster.leader().await, consensus.status().term), (leader, term), "the herd cost a leader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_30_a_hundred_readers_that_hardly_read_are_cut_and_nobody_else_notices() {
    const WAITING_MAX: usize = 256 << 10;
    /// Less than one event, so that a reader that reads nothing takes nothing.
    const WINDOW: u32 = 16 << 10;
    let mut cluster = Cluster::new();
    let stream = Limits { waiting_bytes_max: WAITING_MAX, stall_max: Duration::from_secs(10), ..Limits::default() };
    cluster.start_within("a", |config| config.data_dir = None, Bounds { stream, ..Bounds::default() }).await;
    cluster.established().await;
    let consensus = cluster.consensus("a");
    let at = [cluster.servers["a"].agent_address()];
    let enrolled = crowd::enrol(&consensus, &cluster.keys, 130).await;
    let (slow, brisk) = enrolled.split_at(100);
    let topic = [Topic::Endpoints("web".parse().unwrap())];
    let crowd = Crowd::start(brisk, &at, &topic);
    let mut held = Vec::new();
    for (number, agent) in slow.iter().enumerate() {
        held.push(AbortOnDropHandle::new(tokio::spawn(read_slowly(
            Arc::clone(agent),
            at[0],
            topic[0].clone(),
            number,
        ))));
    }
    crowd.all("connected", is_open).await;
    cluster.counts("a", "weft_stream_sessions 130").await;

    let mut most = 0;
    for round in 0.. {
        consensus.propose(super::harness::envelope(big_instance("big", "web", round))).await.unwrap();
        let metrics = consensus.metrics_text();
        most = most.max(gauge(&metrics, "weft_stream_waiting_bytes"));
        if gauge(&metrics, "weft_stream_sessions") == brisk.len() {
            break;
        }
        assert!(round < 2000, "nobody is cut: {} sessions", gauge(&metrics, "weft_stream_sessions"));
        // Whoever reads has read all of it before there is more, however slow the machine is.
        crowd.holds(&consensus.catalog(), &topic).await;
    }
    cluster.counts("a", "weft_agent_port_refused_total{reason=\"slow_reader\"} 100").await;
    crowd.holds(&consensus.catalog(), &topic).await;
    assert!(crowd.agents.iter().all(|one| lock(one).opened == 1), "somebody who reads was cut");
    assert!(most > 2 * WAITING_MAX && most <= 100 * WAITING_MAX + brisk.len() * WAITING_MAX, "{most} bytes waited");
    cluster.counts("a", "weft_stream_waiting_bytes 0").await;

    /// Opens a session and reads nothing more than what says so, or a piece now and then.
    async fn read_slowly(agent: Arc<Enrolled>, server: SocketAddr, topic: Topic, number: usize) {
        // A hundred and thirty handshakes at once may take some of them longer than a server waits.
        let mut stream = loop {
            let opened = agent.open(server, &[(topic.clone(), None::<CatalogIndex>)], Some(WINDOW)).await;
            if let Some(Opened::Stream(stream)) = opened {
                break stream;
            }
        };
        while number.is_multiple_of(2) && stream.next().await.is_some() {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        std::future::pending::<()>().await;
    }
}

/// Returns the value of a gauge in the text of the metrics.
fn gauge(metrics: &str, name: &str) -> usize {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
}
