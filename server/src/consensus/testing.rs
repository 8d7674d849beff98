//! Consensus for tests of what uses it: one server in memory.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use catalog::{Mesh, ServerId, WatchKey};
use tokio::net::TcpListener;
use wire::cluster_key::{ClusterKey, ClusterKeys};
use wire::one_line;

use super::transport::hello::Purpose;
use super::{Consensus, Running, Shared};
use crate::config::{Config, RaftTiming};
use crate::metrics::Metrics;

/// One server in memory that leads, with the mesh's facts and a certificate authority in place.
pub(crate) struct Alone {
    pub(crate) consensus: Consensus,
    pub(crate) server: ServerId,
    pub(crate) cluster_keys: ClusterKeys,
    /// Dropping it ends the consensus.
    _running: Running,
}

impl Alone {
    /// Starts one, and waits until it is ready.
    pub(crate) async fn start() -> Self {
        Self::start_in(None, ClusterKeys::single(ClusterKey::generate())).await
    }

    /// Starts one with these keys, in a given trust domain, and waits until it is ready.
    pub(crate) async fn start_in(trust_domain: Option<&str>, cluster_keys: ClusterKeys) -> Self {
        let alone = Self::newborn_in(trust_domain, cluster_keys).await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        alone.consensus.changed(&[WatchKey::Roots], catalog::CatalogIndex(1), deadline).await;
        assert!(alone.consensus.catalog().active_root().is_some(), "no certificate authority after 20 seconds");
        alone
    }

    /// Starts one that leads; it has hardly begun to establish its mesh.
    pub(crate) async fn newborn() -> Self {
        let alone = Self::newborn_in(None, ClusterKeys::single(ClusterKey::generate())).await;
        let mut standing = alone.consensus.shared.standing.subscribe();
        let _ = standing.wait_for(|standing| standing.role == super::status::Role::Leader).await;
        alone
    }

    async fn newborn_in(trust_domain: Option<&str>, cluster_keys: ClusterKeys) -> Self {
        wire::crypto::install_provider();
        let server: ServerId = "a".parse().unwrap();
        let mut config = Config::new(server.clone(), cluster_keys.clone());
        config.trust_domain = trust_domain.map(|domain| domain.parse().unwrap());
        config.timing = RaftTiming::fast();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let running = super::start(&config, listener, address, "127.0.0.1:1".to_owned(), Metrics::new()).await.unwrap();
        let consensus = running.consensus.clone();
        Self { consensus, server, cluster_keys, _running: running }
    }
}

impl Consensus {
    /// Waits until this server knows no leader.
    pub(crate) async fn leaderless_for_tests(&self) {
        let mut standing = self.shared.standing.subscribe();
        let _ = standing.wait_for(|standing| standing.leader.is_none()).await;
    }

    /// Returns what this server has counted.
    pub(crate) fn metrics_text(&self) -> String {
        self.shared.metrics.text()
    }
}

impl Running {
    /// Dials an address as this server would dial a peer, and returns who answered or why nobody did.
    pub(crate) async fn dial_for_tests(&self, address: &str, expected: Option<&ServerId>) -> Result<ServerId, String> {
        let dialled = self.context().dial(address, expected, Purpose::Meet).await;
        dialled.map(|dialled| dialled.peer).map_err(|error| one_line(&error))
    }

    /// Returns the cluster that this server is a member of.
    pub(crate) fn cluster_for_tests(&self) -> Option<Mesh> {
        self.context().joiner.about().commitment.membership().cloned()
    }

    /// Returns the servers of which this one last said that they are too many; empty if it never did.
    pub(crate) fn crowd_for_tests(&self) -> BTreeSet<ServerId> {
        self.context().joiner.crowd()
    }
}

impl Consensus {
    /// Returns the group as Raft has it here; none before this server takes part.
    pub(crate) fn group_for_tests(&self) -> Option<crate::raft::Group> {
        self.shared.group.borrow().as_ref().map(|status| status.group.clone())
    }

    /// Has this server take its disk for one whose syncs last long.
    pub(crate) fn disk_looks_slow_for_tests(&self) {
        self.shared.looks_slow.store(true, Ordering::SeqCst);
    }

    /// Has this server believe that its state was this at an index.
    pub(crate) fn found_for_tests(&self, index: catalog::CatalogIndex, digest: &str) {
        self.shared.states.found(index, digest.to_owned());
    }
}

impl Shared {
    /// Returns how long a sync took, by what tests want.
    pub(super) fn as_it_looks(&self, sync: Duration) -> Duration {
        if self.looks_slow.load(Ordering::SeqCst) { sync.max(Duration::from_millis(400)) } else { sync }
    }
}
