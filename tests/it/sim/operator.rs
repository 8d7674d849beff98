//! The operator: founds the mesh, enrols agents, and keeps changing what they are told of.

use std::collections::{BTreeMap, VecDeque};

use catalog::{
    AccessorId, Action, Actor, CaIntermediate, CaRoot, CatalogIndex, Command, ConfigChange, ConfigContent, ConfigEntry,
    DeregisterTarget, Instance, InstanceKey, Intention, JoinToken, KeyFingerprint, MeshEntry, Namespace, Node,
    NodeName, Outcome, Owner, PathTemplate, Platform, Protocol, ProxyDefaults, SealedSecret, SecretHash,
    ServiceDefaults, ServiceKey, ServicePattern, SourcePattern, Timestamp, Topic, Weights, WriteMode,
};

use super::agents::node_name;
use super::errands::Purpose;
use super::logins;
use super::mesh::Mesh;
use super::network::Place;
use super::streams::StreamEvent;

/// A root certificate of the trust domain `mesh.test`. Fixed, for a seed decides everything about a run.
pub(super) const ROOT: &str = "-----BEGIN CERTIFICATE-----
MIIBsDCCAVagAwIBAgIUJMoY/a9vHR7bw6zSaZERmhgQxawwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbWVzaC50ZXN0MCAXDTI2MTEyMTA0MjAzMloYDzIxMjYxMDI4
MDQyMDMyWjAUMRIwEAYDVQQDDAltZXNoLnRlc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAT02SKDkF0/aVc71QOl+ue/Ctqn7L6j4JDOYVEFrdfNLCkQx/GgAaSN
OynIlihN4RkcLF0ZtkPZupUb0oVznfNgo4GDMIGAMB0GA1UdDgQWBBT3qOiz88tN
RnVDLYO1mMFihbz5ATAfBgNVHSMEGDAWgBT3qOiz88tNRnVDLYO1mMFihbz5ATAP
BgNVHRMBAf8EBTADAQH/MB0GA1UdEQQWMBSGEnNwaWZmZTovL21lc2gudGVzdDAO
BgNVHQ8BAf8EBAMCAQYwCgYIKoZIzj0EAwIDSAAwRQIhAKoVJNjNNSqCPoGMALO6
A8GyR/6aDO5Y4aLzbI2p3lgdAiACw8IOqsNwKJZGu6/la6M4/vwThmjoVqS/QZB+
HEeR4w==
-----END CERTIFICATE-----
";

pub(super) const SERVICES: [&str; 3] = ["api", "db", "web"];
/// Who calls in the intention that is written last.
pub(super) const LAST_CALLER: &str = "last-caller";

pub(super) fn service(name: &str) -> ServiceKey {
    name.parse().expect("the name is a service's")
}

/// Returns everything that agents can follow.
pub(super) fn topics() -> Vec<Topic> {
    let of = |name: &&str| {
        let service = service(name);
        [Topic::Intentions(service.clone()), Topic::Endpoints(service.clone()), Topic::Config(service)]
    };
    let services = SERVICES.iter().flat_map(of);
    [Topic::Mesh, Topic::Roots, Topic::Revocations].into_iter().chain(services).collect()
}

/// What the operator is about to do.
#[derive(Debug)]
pub(crate) struct Operator {
    queue: VecDeque<Command>,
    is_busy: bool,
    /// Whether nothing more comes to the operator's mind.
    pub(super) is_done: bool,
    errands: u64,
    enrolments: u64,
    /// Whether platforms vouch for some agents.
    logs_in: bool,
}

impl Operator {
    pub(super) fn new(servers: u64, agents: u64, logs_in: bool) -> Operator {
        let mut operator =
            Operator { queue: VecDeque::new(), is_busy: false, is_done: false, errands: 0, enrolments: 0, logs_in };
        operator.queue.extend(founding(servers));
        operator.queue.extend(logs_in.then(logins::write_method));
        for agent in 1..=agents {
            operator.enrol(agent);
        }
        operator
    }

    pub(super) fn rests(&self) -> bool {
        self.queue.is_empty() && !self.is_busy
    }

    /// Means to enrol an agent's node with a new key, whoever holds it now.
    pub(super) fn enrol(&mut self, agent: u64) {
        self.enrolments += 1;
        let number = self.enrolments;
        if self.logs_in && logins::is_vouched_for(agent) {
            return self.queue.push_back(logins::log_in(agent, number));
        }
        let secret = SecretHash(format!("{number:064x}"));
        let token = JoinToken {
            replace_node: true,
            ..JoinToken::new(
                format!("00000000-0000-4000-8000-{number:012}").parse::<AccessorId>().expect("it is an accessor"),
                secret.clone(),
                super::agents::services_of(agent),
                Timestamp(u64::MAX),
            )
        };
        let key = KeyFingerprint(format!("{number:064x}"));
        let (node, platform) = (node_name(agent), Platform::Vm);
        self.queue.extend([Command::CreateJoinToken { token }, Command::Enrol { secret, key, node, platform }]);
    }

    pub(super) fn push(&mut self, command: Command) {
        self.queue.push_back(command);
    }

    /// Means to change every topic once more, after a last rotation where there are any.
    pub(super) fn finish(&mut self, rotation: Option<Command>) {
        self.is_done = true;
        self.queue.extend(rotation);
        self.queue.extend(SERVICES.iter().map(|name| register(&format!("last-{name}"), name)));
        self.queue.extend(SERVICES.iter().map(|name| configure(Some(name), Some(Protocol::Http2), "last")));
        let entry = MeshEntry { guardrails: Vec::new(), ..mesh_entry(Action::Allow) };
        self.queue.push_back(Command::WriteMesh { entry, compare: None });
        self.queue.push_back(intend(LAST_CALLER, "*/*", Action::Allow));
    }
}

fn founding(servers: u64) -> [Command; 2] {
    let mesh = catalog::Mesh {
        cluster_id: "cluster-1".to_owned(),
        datacenter: "dc1".to_owned(),
        trust_domain: "mesh.test".parse().expect("it is a trust domain"),
        template: PathTemplate::default(),
        servers: super::group::founders(servers),
    };
    let sealed = || SealedSecret { key_id: String::new(), nonce: String::new(), ciphertext: String::new() };
    let (not_before, not_after) = (Timestamp(0), Timestamp(u64::MAX));
    let root = CaRoot {
        id: "root".to_owned(),
        certificate_pem: ROOT.to_owned(),
        sealed_key: Some(sealed()),
        active: true,
        cross: None,
        replaced_at: None,
        retired: false,
        not_before,
        not_after,
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    };
    let intermediate = CaIntermediate {
        id: "intermediate".to_owned(),
        root_id: root.id.clone(),
        certificate_pem: ROOT.to_owned(),
        sealed_key: Some(sealed()),
        active: true,
        not_before,
        not_after,
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    };
    [Command::Bootstrap { mesh }, Command::InstallCa { root: Box::new(root), intermediate: Box::new(intermediate) }]
}

fn mesh_entry(default_action: Action) -> MeshEntry {
    MeshEntry { default_action, ..MeshEntry::default() }
}

pub(super) fn intend(source: &str, destination: &str, action: Action) -> Command {
    let namespace = Namespace::default();
    let source = SourcePattern::parse(source, &namespace).expect("it is a source");
    let destination = ServicePattern::parse(destination, &namespace).expect("it is a destination");
    let intention = Box::new(Intention::new(source, destination, action));
    Command::WriteIntention { intention, mode: WriteMode::Upsert }
}

/// Writes how calls to a service are read, or to all that say nothing of their own; nothing takes what is written back.
fn configure(name: Option<&str>, protocol: Option<Protocol>, mark: &str) -> Command {
    let of = |name| ConfigContent::ServiceDefaults(ServiceDefaults { protocol, ..ServiceDefaults::new(service(name)) });
    let of_all = || ConfigContent::ProxyDefaults(ProxyDefaults { protocol, ..ProxyDefaults::default() });
    let mut entry = ConfigEntry::new(name.map_or_else(of_all, of));
    entry.meta.insert("mark".to_owned(), mark.to_owned());
    let change = match protocol {
        Some(_) => ConfigChange::Write { entry: Box::new(entry), compare: None },
        None => ConfigChange::Delete { key: entry.key(), compare: None },
    };
    Command::Config { change }
}

/// Registers an instance of a service on a node where no agent runs.
fn register(node: &str, service: &str) -> Command {
    let node: NodeName = node.parse().expect("it is a node's name");
    let mut instance = instance(&node, service, &format!("{service}-0"));
    instance.mesh_port = None;
    Command::Register {
        node: Box::new(plain_node(&node, Owner::External)),
        instances: vec![instance],
        checks: Vec::new(),
        skip_node_update: false,
        incarnation: None,
    }
}

pub(super) fn plain_node(name: &NodeName, owner: Owner) -> Node {
    Node {
        name: name.clone(),
        id: None,
        address: "10.0.0.1".to_owned(),
        platform: Platform::Vm,
        zone: None,
        network: String::new(),
        gateway_port: None,
        owner,
        incarnation: None,
        meta: BTreeMap::new(),
        tagged_addresses: BTreeMap::new(),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

pub(super) fn instance(node: &NodeName, service: &str, id: &str) -> Instance {
    let ServiceKey { namespace, name } = self::service(service);
    Instance {
        key: InstanceKey { node: node.clone(), namespace, id: id.parse().expect("it is an instance's id") },
        service: name,
        address: None,
        port: 8080,
        ports: BTreeMap::new(),
        mesh_port: Some(20_000),
        tags: Vec::new(),
        meta: BTreeMap::new(),
        tagged_addresses: BTreeMap::new(),
        weights: Weights::default(),
        enable_tag_override: false,
        upstreams: Vec::new(),
        bypassable: None,
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

impl Mesh {
    /// Does the next thing, unless the last one is not done yet.
    pub(super) fn operator_acts(&mut self) {
        if self.streams.operator.is_busy {
            return;
        }
        if self.streams.operator.queue.is_empty() && !self.streams.operator.is_done {
            self.operator_thinks();
        }
        let operator = &mut self.streams.operator;
        let Some(command) = operator.queue.pop_front() else { return };
        operator.is_busy = true;
        operator.errands += 1;
        let name = format!("operator-{}", operator.errands);
        self.run_errand(Place::Operator, name, Actor::ClusterKey, command, Purpose::Operator);
    }

    fn operator_thinks(&mut self) {
        if self.plan.has_policy && self.random.happens(30) {
            let command = self.operator_thinks_of_policy();
            self.streams.operator.queue.extend(command);
            return;
        }
        if self.plan.rotates && self.random.happens(20) {
            let command = self.operator_thinks_of_authority();
            self.streams.operator.queue.extend(command);
            return;
        }
        let caller = format!("caller-{}", self.random.within(0..4));
        let destination = self.random.choose(&["api", "db", "web", "*", "*/*"]);
        let name = self.random.choose(&SERVICES);
        let node = format!("external-{}", self.random.within(0..3));
        let action = if self.random.happens(50) { Action::Allow } else { Action::Deny };
        let command = match self.random.within(0..24) {
            20.. => {
                let protocol = self.random.choose(&[Some(Protocol::Tcp), Some(Protocol::Http), None]);
                let mark = self.random.within(0..100).to_string();
                configure(self.random.choose(&[Some(name), Some(name), None]), protocol, &mark)
            }
            0..7 => intend(&caller, destination, action),
            7..11 => match intend(&caller, destination, action) {
                Command::WriteIntention { intention, .. } => {
                    Command::DeleteIntention { key: intention.key(), compare: None }
                }
                other => other,
            },
            11..15 => register(&node, name),
            15..17 => Command::Deregister {
                node: node.parse().expect("it is a node's name"),
                target: DeregisterTarget::Node,
                incarnation: None,
            },
            17 | 18 => Command::WriteMesh { entry: mesh_entry(action), compare: None },
            _ => return self.replace_an_agent(),
        };
        self.streams.operator.queue.push_back(command);
    }

    /// Gives an agent's node to another key, and at times revokes the old one first.
    fn replace_an_agent(&mut self) {
        let agents: Vec<u64> = self.streams.agents.keys().copied().collect();
        let id = self.random.choose(&agents);
        let agent = self.streams.agents.get_mut(&id).expect("the agent exists");
        if let Some(record) = &agent.record {
            agent.is_replaced = true;
            if self.random.happens(50) {
                self.streams.operator.queue.push_back(Command::RevokeAgent { agent: record.clone() });
            }
            self.streams.operator.enrol(id);
        }
    }

    /// What the operator did last is in the log.
    pub(super) fn operator_hears(&mut self, outcome: Option<Outcome>) {
        self.streams.operator.is_busy = false;
        if let Some(Outcome::Enrolled { record }) = outcome {
            self.checks.enrolled(&record.id);
            self.agent_is_enrolled(*record);
        }
        let after = self.random.millis(1..150);
        self.plan_stream(after, StreamEvent::Operator);
    }
}
