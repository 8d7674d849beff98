//! Starts servers and waits for what they come to.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::{
    AccessorId, AclChange, Actor, Catalog, CatalogIndex, Command, ENVELOPE_VERSION, Envelope, Mesh, Node, NodeName,
    Outcome, Owner, Platform, Rights, ServerId, Token, WatchKey,
};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};
use wire::cluster_key::{ClusterKey, ClusterKeys};
use wire::crypto::{self, Secret};

use crate::agent_port::Bounds;
use crate::consensus::{Asker, Committed, Consensus, ProposeError, Role};
use crate::{Config, RaftTiming, Server, start_within};

/// Longer than anything may take on a machine that does ten other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Servers by name, each with its data directory, that share a cluster key.
pub(super) struct Cluster {
    pub(super) keys: ClusterKeys,
    pub(super) directories: BTreeMap<String, TempDir>,
    pub(super) servers: BTreeMap<String, Server>,
}

impl Cluster {
    pub(super) fn new() -> Self {
        let keys = ClusterKeys::single(ClusterKey::generate());
        Self { keys, directories: BTreeMap::new(), servers: BTreeMap::new() }
    }

    /// Starts three servers and waits until one leads and the mesh is established.
    pub(super) async fn of_three() -> Self {
        let mut cluster = Self::new();
        for name in ["a", "b", "c"] {
            cluster.start(name, |config| config.bootstrap_expect = 3).await;
        }
        cluster.established().await;
        cluster
    }

    /// Returns the configuration of a server that joins those which run.
    pub(super) fn config(&mut self, name: &str) -> Config {
        let directory = self.directories.entry(name.to_owned()).or_insert_with(|| tempfile::tempdir().unwrap());
        let mut config = Config::new(name.parse().unwrap(), self.keys.clone());
        config.data_dir = Some(directory.path().join("data"));
        config.timing = RaftTiming { read_deadline: PATIENCE, write_deadline: PATIENCE, ..RaftTiming::fast() };
        config.retry_join = self.servers.values().map(|server| server.raft_address().to_string()).collect();
        config
    }

    pub(super) async fn start(&mut self, name: &str, change: impl FnOnce(&mut Config)) {
        self.start_within(name, change, Bounds::default()).await;
    }

    /// Starts a server that does no more than this for its agents.
    pub(super) async fn start_within(&mut self, name: &str, change: impl FnOnce(&mut Config), bounds: Bounds) {
        let mut config = self.config(name);
        change(&mut config);
        let server = start_within(config, bounds).await.unwrap();
        self.servers.insert(name.to_owned(), server);
    }

    pub(super) async fn stop(&mut self, name: &str) {
        self.servers.remove(name).unwrap().stop().await;
    }

    pub(super) fn consensus(&self, name: &str) -> Consensus {
        self.servers[name].running.consensus.clone()
    }

    /// Waits until every server has the mesh's facts and a certificate authority.
    pub(super) async fn established(&self) {
        let deadline = Instant::now() + PATIENCE;
        for name in self.servers.keys() {
            let catalog = self.consensus(name).changed(&[WatchKey::Roots], CatalogIndex(1), deadline).await;
            assert!(catalog.mesh().is_some() && catalog.active_root().is_some(), "server {name} is not established");
        }
    }

    /// Waits until every server knows the same leader among those that run, and returns its name.
    pub(super) async fn leader(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leaders: Vec<Option<ServerId>> =
                self.servers.keys().map(|name| self.consensus(name).status().leader.map(|leader| leader.id)).collect();
            if let Some(Some(leader)) = leaders.first()
                && leaders.iter().all(|known| known.as_ref() == Some(leader))
                && self.servers.get(leader.as_str()).is_some_and(|_| self.role(leader.as_str()) == Role::Leader)
            {
                return leader.to_string();
            }
            assert!(Instant::now() < deadline, "no common leader: {leaders:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn role(&self, name: &str) -> Role {
        self.consensus(name).status().role
    }

    /// Returns the name of a server that does not lead.
    pub(super) async fn follower(&self) -> String {
        let leader = self.leader().await;
        self.servers.keys().find(|name| **name != leader).unwrap().clone()
    }

    /// Waits until a server is a member of a cluster, and returns it; none once the server says that it has met more
    /// servers than it expects.
    pub(super) async fn cluster_or_crowd(&self, name: &str) -> Option<Mesh> {
        let running = &self.servers[name].running;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let cluster = running.cluster_for_tests();
            if cluster.is_some() || !running.crowd_for_tests().is_empty() {
                return cluster;
            }
            assert!(Instant::now() < deadline, "server {name} came to nothing");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a server counted a refusal on its Raft port for this reason.
    pub(super) async fn counted(&self, name: &str, reason: &str) {
        self.counts(name, &format!("weft_raft_peers_refused_total{{reason=\"{reason}\"}}")).await;
    }

    /// Waits until a server's metrics have this.
    pub(super) async fn counts(&self, name: &str, want: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.consensus(name).metrics_text();
            if text.contains(want) {
                return;
            }
            assert!(Instant::now() < deadline, "server {name} never counted {want}:\n{text}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Awaits something that must happen.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it did not happen in time")
}

/// Makes a token that may do everything, and says who holds it.
pub(super) async fn operator(consensus: &Consensus) -> Asker {
    let accessor: AccessorId = crypto::uuid_v4().parse().unwrap();
    let secret = crypto::secret_hash(&Secret::new(crypto::random_hex(32)));
    let token = Token::new(accessor.clone(), secret, Rights::Management, crypto::now());
    let command = Command::Acl { change: AclChange::CreateToken { token: Box::new(token) } };
    assert_eq!(consensus.propose(envelope(command)).await.unwrap().outcome, Outcome::Done);
    Asker { accessor, source: Some("192.0.2.9:1".to_owned()) }
}

/// Registers a node through `consensus`.
pub(crate) async fn register(consensus: &Consensus, name: &str) -> Result<Committed, ProposeError> {
    let node = Node {
        name: node(name),
        id: None,
        address: "192.0.2.1".to_owned(),
        platform: Platform::Vm,
        zone: None,
        network: String::new(),
        gateway_port: None,
        owner: Owner::External,
        incarnation: None,
        meta: BTreeMap::new(),
        tagged_addresses: BTreeMap::new(),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    };
    let command = Command::Register {
        node: Box::new(node),
        instances: Vec::new(),
        checks: Vec::new(),
        skip_node_update: false,
        incarnation: None,
    };
    command.validate().unwrap();
    consensus.propose(envelope(command)).await
}

/// Registers an instance with some 24 KiB of facts, other ones each round.
pub(crate) fn big_instance(node: &str, service: &str, round: usize) -> Command {
    let meta: BTreeMap<String, String> = (0..48).map(|key| (format!("k{key}"), format!("{round:0500}"))).collect();
    let command = serde_json::json!({
        "kind": "register", "incarnation": null, "skip_node_update": false, "checks": [],
        "node": {"name": node, "address": "192.0.2.1", "platform": "vm", "owner": "external"},
        "instances": [{
            "key": {"node": node, "namespace": "default", "id": service}, "service": service, "port": 80, "meta": meta,
        }],
    });
    let command: Command = serde_json::from_value(command).unwrap();
    command.validate().unwrap();
    command
}

pub(crate) fn envelope(command: Command) -> Envelope {
    Envelope {
        version: ENVELOPE_VERSION,
        request_id: crypto::uuid_v4().parse().unwrap(),
        actor: Actor::Server("test".parse().unwrap()),
        source_address: None,
        proposed_at: crypto::now(),
        command,
    }
}

pub(super) fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

pub(super) fn has(catalog: &Catalog, name: &str) -> bool {
    catalog.node(&node(name)).is_some()
}
