//! A small model of servers, over the real catalog: what the machine is tested against.
//!
//! One log, several servers that have applied a prefix of it each, sessions and subscriptions as the stream hub keeps
//! them. No sockets and no Raft: what is proposed is committed at once.

use std::collections::{BTreeMap, VecDeque};

use catalog::{
    Action, Actor, AgentRecord, CaChange, CaIntermediate, CaRoot, Catalog, CatalogIndex, Command, Envelope, Event,
    Incarnation, Item, JoinToken, KeyFingerprint, Mesh, Outcome, PathTemplate, Platform, RequestId, RootsAck,
    SealedSecret, SecretHash, ServerId, ServiceKey, Timestamp, Topic,
};
use wire::agent_protocol::{Capabilities, Capability, ClientFrame, GroupEpoch, ServerFrame, WriteRequest};

use crate::testing::{TestMesh, accessor};

/// What one server has sent of a topic.
struct Sent {
    index: CatalogIndex,
    items: BTreeMap<String, Item>,
}

struct Session {
    incarnation: Incarnation,
    subscriptions: BTreeMap<Topic, Option<Sent>>,
    /// Something was sent since the agent was told that this is all.
    is_unsettled: bool,
    outbox: VecDeque<ServerFrame>,
}

struct Server {
    catalog: Catalog,
    applied: usize,
    lags: bool,
    session: Option<Session>,
}

pub(crate) struct Cluster {
    pub(crate) mesh: TestMesh,
    log: Vec<Envelope>,
    servers: Vec<Server>,
    /// What each topic held at each index that it ever had.
    pub(crate) history: BTreeMap<(Topic, CatalogIndex), BTreeMap<String, Item>>,
    /// What every topic held as of each index of the log.
    pub(crate) states: BTreeMap<CatalogIndex, BTreeMap<Topic, BTreeMap<String, Item>>>,
    pub(crate) record: AgentRecord,
    /// What agents are told of where the servers are.
    pub(crate) addresses: Vec<String>,
    /// What agents are told that the servers understand.
    pub(crate) knows: Capabilities,
    next_request: u64,
    next_accessor: u64,
    /// What the agent last said of the roots that it has in force.
    pub(crate) acknowledged: Option<RootsAck>,
}

fn sealed() -> SealedSecret {
    SealedSecret { key_id: String::new(), nonce: String::new(), ciphertext: String::new() }
}

/// Returns an authority as the catalog keeps it.
fn records(mesh: &TestMesh, active: bool) -> (CaRoot, CaIntermediate) {
    let (root, intermediate) = (&mesh.root, &mesh.signer);
    let root_record = CaRoot {
        id: root.id(),
        certificate_pem: root.certificate_pem().to_owned(),
        sealed_key: Some(sealed()),
        active,
        cross: None,
        replaced_at: None,
        retired: false,
        not_before: root.not_before(),
        not_after: root.not_after(),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    };
    let intermediate = CaIntermediate {
        id: intermediate.id(),
        root_id: root.id(),
        certificate_pem: intermediate.certificate_pem().to_owned(),
        sealed_key: Some(sealed()),
        active,
        not_before: intermediate.not_before(),
        not_after: intermediate.not_after(),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    };
    (root_record, intermediate)
}

impl Cluster {
    /// Brings a second root into the bundle, which is to take over.
    pub(crate) fn start_rotation(&mut self, successor: &TestMesh) {
        let (root, intermediate) = records(successor, false);
        let (root, intermediate) = (Box::new(root), Box::new(intermediate));
        let replaces = self.mesh.root.id();
        let change = CaChange::StartRotation { root, intermediate, replaces, distrust_replaced: false };
        self.commit(Command::Ca { change, not_before: None });
        let bundle = self.leader().view(&Topic::Roots);
        assert!(bundle.len() >= 2, "{bundle:?}");
    }

    /// Returns a bootstrapped cluster in which the node `vm-1` is enrolled for `services`.
    pub(crate) fn new(servers: usize, services: &[ServiceKey]) -> Self {
        let empty = || Server { catalog: Catalog::default(), applied: 0, lags: false, session: None };
        let mut cluster = Self {
            mesh: TestMesh::new(),
            log: Vec::new(),
            servers: (0..servers).map(|_| empty()).collect(),
            history: BTreeMap::new(),
            states: BTreeMap::new(),
            record: AgentRecord {
                id: catalog::AgentId::enrolled_at(CatalogIndex(0)),
                node: "vm-1".parse().unwrap(),
                platform: Platform::Vm,
                key: KeyFingerprint("key".to_owned()),
                services: services.to_vec(),
                attestation: catalog::Attestation::JoinToken(accessor()),
                earlier: Vec::new(),
                gateway: None,
                enrolled: CatalogIndex(0),
                incarnation: None,
                server: None,
                presence: Default::default(),
                modified: CatalogIndex(0),
            },
            addresses: (0..servers).map(|number| format!("server-{number}:8300")).collect(),
            knows: Capabilities::ours(),
            next_request: 0,
            next_accessor: 0,
            acknowledged: None,
        };
        cluster.bootstrap(services);
        cluster
    }

    /// Makes a join token and lets the agent with `key` use it.
    pub(crate) fn enrol(&mut self, secret: &SecretHash, key: &KeyFingerprint) -> AgentRecord {
        let enrol = Command::Enrol {
            secret: secret.clone(),
            key: key.clone(),
            node: "vm-1".parse().unwrap(),
            platform: Platform::Vm,
        };
        match self.commit(enrol) {
            Outcome::Enrolled { record } => {
                self.record = *record;
                self.record.clone()
            }
            other => panic!("not enrolled: {other:?}"),
        }
    }

    /// Makes a join token that replaces whoever has the node's name.
    pub(crate) fn join_token(&mut self, secret: &SecretHash, services: &[ServiceKey]) {
        self.next_accessor += 1;
        let token = JoinToken {
            replace_node: true,
            ..JoinToken::new(
                format!("00000000-0000-4000-8000-{:012}", self.next_accessor).parse().unwrap(),
                secret.clone(),
                services.to_vec(),
                Timestamp(u64::MAX),
            )
        };
        self.commit(Command::CreateJoinToken { token });
    }

    fn bootstrap(&mut self, services: &[ServiceKey]) {
        let mesh = Mesh {
            cluster_id: self.mesh.item.cluster_id.clone(),
            datacenter: self.mesh.item.datacenter.clone(),
            trust_domain: self.mesh.item.trust_domain.clone(),
            template: PathTemplate::default(),
            servers: Vec::new(),
        };
        self.commit(Command::Bootstrap { mesh });
        let (root, intermediate) = records(&self.mesh, true);
        self.commit(Command::InstallCa { root: Box::new(root), intermediate: Box::new(intermediate) });
        let secret = SecretHash("0".repeat(64));
        self.join_token(&secret, services);
        self.enrol(&secret, &KeyFingerprint("key".to_owned()));
    }

    /// Commits a command of somebody else's.
    pub(crate) fn commit(&mut self, command: Command) -> Outcome {
        self.next_request += 1;
        let request_id = format!("model-{}", self.next_request).parse().unwrap();
        self.commit_as(request_id, command)
    }

    fn commit_as(&mut self, request_id: RequestId, command: Command) -> Outcome {
        let envelope = Envelope {
            version: catalog::ENVELOPE_VERSION,
            request_id,
            actor: Actor::Server("server-0".parse().unwrap()),
            source_address: None,
            proposed_at: Timestamp(1),
            command,
        };
        self.log.push(envelope.clone());
        let index = CatalogIndex(u64::try_from(self.log.len()).unwrap());
        // The first server stands for the leader: it has always applied everything.
        let outcome = self.servers[0].catalog.apply(index, &envelope, wire::crypto::sha256).outcome;
        self.servers[0].applied = self.log.len();
        for topic in topics() {
            let leader = &self.servers[0].catalog;
            self.history.insert((topic.clone(), leader.index_of(&Catalog::reads(&topic))), leader.view(&topic));
        }
        self.remember();
        outcome
    }

    fn remember(&mut self) {
        let leader = &self.servers[0].catalog;
        let state = topics().into_iter().map(|topic| (topic.clone(), leader.view(&topic))).collect();
        self.states.insert(leader.index(), state);
    }

    pub(crate) fn leader(&self) -> &Catalog {
        &self.servers[0].catalog
    }

    /// Lets a follower fall behind, or catch up.
    pub(crate) fn lag(&mut self, server: usize, lags: bool) {
        if server > 0 {
            self.servers[server].lags = lags;
        }
    }

    /// Rebuilds the cluster from a survivor that knows the log up to `index` only.
    pub(crate) fn recover(&mut self, index: CatalogIndex) {
        let known = usize::try_from(index.0).unwrap();
        self.history.retain(|(_, at), _| *at <= index);
        let mut catalog = Catalog::default();
        self.log.truncate(known);
        for (at, envelope) in (1..).zip(&self.log) {
            catalog.apply(CatalogIndex(at), envelope, wire::crypto::sha256);
        }
        catalog.recover_membership(CatalogIndex(index.0 + 1), 1, wire::crypto::sha256);
        // What stands in the log there is never applied: every server has it as part of its state.
        self.log.extend(self.log.last().cloned());
        for server in &mut self.servers {
            *server = Server { catalog: catalog.clone(), applied: self.log.len(), lags: false, session: None };
        }
        self.remember();
    }

    pub(crate) fn disconnect(&mut self) {
        for server in &mut self.servers {
            server.session = None;
        }
    }

    pub(crate) fn say_goodbye(&mut self) {
        for session in self.servers.iter_mut().filter_map(|server| server.session.as_mut()) {
            session.outbox.push_back(ServerFrame::Goodbye { reason: "restarting".to_owned() });
        }
    }

    pub(crate) fn receive(&mut self, server: usize, frame: ClientFrame) {
        match frame {
            ClientFrame::Hello { .. } => {
                let command = Command::OpenSession { agent: self.record.id.clone(), server: name(server) };
                let Outcome::SessionOpened { incarnation } = self.commit(command) else { panic!("no session") };
                let servers = self.addresses.clone();
                let group = GroupEpoch::of(&self.servers[server].catalog);
                let knows = self.knows.clone();
                let welcome = ServerFrame::Welcome { incarnation, server: name(server), servers, group, knows };
                let outbox = VecDeque::from([welcome]);
                let subscriptions = BTreeMap::new();
                let session = Session { incarnation, subscriptions, is_unsettled: false, outbox };
                self.servers[server].session = Some(session);
            }
            ClientFrame::Subscribe { topic, from } => {
                let here = &mut self.servers[server];
                let (index, items) = (here.catalog.index_of(&Catalog::reads(&topic)), here.catalog.view(&topic));
                let Some(session) = &mut here.session else { return };
                let event = if from == Some(index) {
                    Event::UpToDate { topic: topic.clone(), index }
                } else {
                    Event::Snapshot { topic: topic.clone(), index, items: items.clone() }
                };
                session.outbox.push_back(ServerFrame::Event(event));
                session.is_unsettled = true;
                session.subscriptions.insert(topic, Some(Sent { index, items }));
            }
            ClientFrame::Rejected { .. } => {}
            ClientFrame::Acknowledge { roots, renewed } => self.acknowledged = Some(RootsAck { roots, renewed }),
            ClientFrame::Unsubscribe { topic } => {
                if let Some(session) = &mut self.servers[server].session {
                    session.subscriptions.remove(&topic);
                }
            }
        }
    }

    pub(crate) fn write(&mut self, request: &WriteRequest) -> Outcome {
        self.commit_as(request.request_id.clone(), request.command.clone().into_command())
    }

    /// Lets servers apply what they may, and returns the next frame of the session at `server`.
    pub(crate) fn next_frame(&mut self, server: usize) -> Option<ServerFrame> {
        for server in &mut self.servers {
            while !server.lags && server.applied < self.log.len() {
                server.applied += 1;
                let index = CatalogIndex(u64::try_from(server.applied).unwrap());
                server.catalog.apply(index, &self.log[server.applied - 1], wire::crypto::sha256);
            }
        }
        let Server { catalog, session, .. } = &mut self.servers[server];
        let session = session.as_mut()?;
        if catalog.agent_record(&self.record.id)?.incarnation > Some(session.incarnation) {
            session.outbox.push_back(ServerFrame::Goodbye { reason: "superseded".to_owned() });
        }
        for (topic, sent) in &mut session.subscriptions {
            let Some(sent) = sent else { continue };
            let (index, items) = (catalog.index_of(&Catalog::reads(topic)), catalog.view(topic));
            if index > sent.index && items != sent.items {
                let upserts = items.iter().filter(|(key, item)| sent.items.get(*key) != Some(*item));
                let delta = Event::Delta {
                    topic: topic.clone(),
                    from: sent.index,
                    index,
                    upserts: upserts.map(|(key, item)| (key.clone(), item.clone())).collect(),
                    removes: sent.items.keys().filter(|key| !items.contains_key(*key)).cloned().collect(),
                };
                session.outbox.push_back(ServerFrame::Event(delta));
                session.is_unsettled = true;
                *sent = Sent { index, items };
            }
        }
        if self.knows.has(Capability::Settled) && std::mem::take(&mut session.is_unsettled) {
            session.outbox.push_back(ServerFrame::Settled { index: catalog.index() });
        }
        session.outbox.pop_front()
    }
}

/// Every topic that the tests look at.
pub(crate) fn topics() -> Vec<Topic> {
    let service = |name: &str| name.parse::<ServiceKey>().unwrap();
    vec![
        Topic::Mesh,
        Topic::Roots,
        Topic::Revocations,
        Topic::Intentions(service("web")),
        Topic::Intentions(service("api")),
        Topic::Endpoints(service("db")),
    ]
}

/// Writes an intention toward `destination`.
pub(crate) fn intend(source: &str, destination: &str, action: Action) -> Command {
    let namespace = catalog::Namespace::default();
    let source = catalog::SourcePattern::parse(source, &namespace).unwrap();
    let destination = catalog::ServicePattern::parse(destination, &namespace).unwrap();
    let intention = Box::new(catalog::Intention::new(source, destination, action));
    Command::WriteIntention { intention, mode: catalog::WriteMode::Upsert }
}

fn name(server: usize) -> ServerId {
    format!("server-{server}").parse().unwrap()
}
