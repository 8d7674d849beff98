use catalog::{
    Action, Actor, Attestation, CheckStatus, Command, DeregisterTarget, Effect, Envelope, Instance, Intention, Item,
    JoinToken, KeyFingerprint, Node, Owner, Platform, SecretHash, ServicePattern, SourcePattern, Timestamp, Weights,
    WriteMode,
};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::*;

const TINY: Limits = Limits {
    waiting_bytes_max: 4096,
    topics_max: 3,
    ping_interval: Duration::from_secs(10),
    stall_max: Duration::from_secs(30),
    behind_max: Duration::from_secs(10),
};

/// A log, and the catalog that it leads to.
#[derive(Default)]
struct Log {
    catalog: Catalog,
    touched: BTreeSet<WatchKey>,
}

impl Log {
    fn write(&mut self, command: Command) -> catalog::Outcome {
        let index = CatalogIndex(self.catalog.index().0 + 1);
        let envelope = Envelope {
            version: catalog::ENVELOPE_VERSION,
            request_id: format!("r{index}").parse().unwrap(),
            actor: Actor::ClusterKey,
            source_address: None,
            proposed_at: Timestamp(1),
            command,
        };
        let applied = self.catalog.apply(index, &envelope);
        self.touched.extend(applied.touched);
        applied.outcome
    }

    fn register(&mut self, node: &str, service: &str) {
        self.write(register(node, service, &[]));
    }

    /// Returns what a server's hub is told of all writes since the last call.
    fn applied(&mut self) -> Input {
        Input::Applied { catalog: Arc::new(self.catalog.clone()), touched: std::mem::take(&mut self.touched) }
    }

    /// Enrols an agent that may stand before `services`.
    fn enrol(&mut self, node: &str, services: &[&str]) -> AgentId {
        let secret = SecretHash(format!("secret of {node}"));
        let mut services: Vec<ServiceKey> = services.iter().map(|name| name.parse().unwrap()).collect();
        services.sort();
        let accessor = wire::crypto::uuid_v4().parse().unwrap();
        let token = JoinToken {
            accessor,
            secret: secret.clone(),
            services,
            node: None,
            platform: None,
            replace_node: false,
            expires_at: Timestamp(1000),
            used_by: None,
            record: None,
            created: CatalogIndex(0),
            modified: CatalogIndex(0),
        };
        self.write(Command::CreateJoinToken { token });
        let key = KeyFingerprint(format!("key of {node}"));
        let enrolled =
            self.write(Command::Enrol { secret, key, node: node.parse().unwrap(), platform: Platform::Vm });
        let catalog::Outcome::Enrolled { record } = enrolled else { panic!("{enrolled:?}") };
        assert!(matches!(record.attestation, Attestation::JoinToken(_)));
        record.id
    }

    fn open_session(&mut self, agent: &AgentId) -> Incarnation {
        let opened = self.write(Command::OpenSession { agent: agent.clone(), server: "s1".parse().unwrap() });
        let catalog::Outcome::SessionOpened { incarnation } = opened else { panic!("{opened:?}") };
        incarnation
    }
}

fn register(node: &str, service: &str, tags: &[String]) -> Command {
    let node: catalog::NodeName = node.parse().unwrap();
    let instance = Instance {
        key: catalog::InstanceKey {
            node: node.clone(),
            namespace: catalog::Namespace::default(),
            id: service.parse().unwrap(),
        },
        service: service.parse().unwrap(),
        address: None,
        port: 80,
        ports: BTreeMap::new(),
        mesh_port: None,
        tags: tags.to_vec(),
        meta: tags.iter().map(|tag| (tag.clone(), tag.clone())).collect(),
        tagged_addresses: BTreeMap::new(),
        weights: Weights::default(),
        enable_tag_override: false,
        upstreams: Vec::new(),
        bypassable: None,
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    };
    let node = Node {
        name: node,
        id: None,
        address: "192.0.2.1".to_owned(),
        platform: Platform::Vm,
        zone: None,
        network: String::new(),
        owner: Owner::External,
        incarnation: None,
        meta: BTreeMap::new(),
        tagged_addresses: BTreeMap::new(),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    };
    Command::Register {
        node: Box::new(node),
        instances: vec![instance],
        checks: Vec::new(),
        skip_node_update: false,
        incarnation: None,
    }
}

fn deregister(node: &str) -> Command {
    Command::Deregister { node: node.parse().unwrap(), target: DeregisterTarget::Node, incarnation: None }
}

fn intention(source: &str, destination: &str, action: Action) -> Intention {
    let parse = |text: &str| text.parse::<ServicePattern>().unwrap();
    Intention {
        destination: parse(destination),
        source: SourcePattern::Service(parse(source)),
        effect: Effect::Action(action),
        description: String::new(),
        meta: BTreeMap::new(),
        jwt: None,
        expires_at: None,
        audit: false,
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

fn endpoints(service: &str) -> Topic {
    Topic::Endpoints(service.parse().unwrap())
}

fn step(hub: &mut Hub, input: Input, now_s: u64) -> Vec<Output> {
    let mut outputs = Vec::new();
    hub.step(input, Duration::from_secs(now_s), &mut |output| outputs.push(output));
    outputs
}

fn event(output: &Output) -> &Event {
    match output {
        Output::Send { frame, .. } => match frame.content() {
            ServerFrame::Event(event) => event,
            other => panic!("no event: {other:?}"),
        },
        Output::Close { .. } => panic!("no event: {output:?}"),
    }
}

fn closing(outputs: &[Output]) -> &CloseReason {
    match outputs.last() {
        Some(Output::Close { reason, .. }) => reason,
        other => panic!("not closed: {other:?}"),
    }
}

/// A hub with one session, and the log behind it.
fn with_session(limits: Limits, services: &[&str]) -> (Hub, Log, SessionId, AgentId) {
    let mut log = Log::default();
    let agent = log.enrol("vm-1", services);
    let incarnation = log.open_session(&agent);
    let mut hub = Hub::new(limits, Arc::new(log.catalog.clone()));
    let session = SessionId(1);
    let services = services.iter().map(|name| name.parse().unwrap()).collect();
    let opened = step(&mut hub, Input::Connected { session, agent: agent.clone(), incarnation, services }, 0);
    assert!(opened.is_empty(), "{opened:?}");
    log.touched.clear();
    (hub, log, session, agent)
}

fn subscribe(session: SessionId, topic: &Topic, from: Option<CatalogIndex>) -> Input {
    Input::Subscribe { session, topic: topic.clone(), from }
}

#[test]
fn a_subscriber_gets_a_snapshot_then_deltas_of_what_it_follows_only() {
    let (mut hub, mut log, session, _) = with_session(TINY, &["web"]);
    let topic = endpoints("api");
    let sent = step(&mut hub, subscribe(session, &topic, None), 0);
    assert!(matches!(event(&sent[0]), Event::Snapshot { items, .. } if items.is_empty()), "{sent:?}");
    let start = event(&sent[0]).index();

    log.register("vm-2", "db");
    assert!(step(&mut hub, log.applied(), 1).is_empty());

    log.register("vm-2", "api");
    let sent = step(&mut hub, log.applied(), 2);
    let [Output::Send { .. }] = sent.as_slice() else { panic!("{sent:?}") };
    let Event::Delta { from, index, upserts, removes, .. } = event(&sent[0]) else { panic!("{sent:?}") };
    assert_eq!((*from, *index), (start, log.catalog.index()));
    assert_eq!((upserts, removes.len()), (&log.catalog.view(&topic), 0));

    log.write(deregister("vm-2"));
    let sent = step(&mut hub, log.applied(), 3);
    assert!(matches!(event(&sent[0]), Event::Delta { upserts, removes, .. } if upserts.is_empty() && removes.len() == 1));

    step(&mut hub, Input::Unsubscribe { session, topic }, 4);
    log.register("vm-2", "api");
    assert!(step(&mut hub, log.applied(), 4).is_empty());
    assert!(hub.feeds.is_empty() && hub.readers.is_empty());
}

#[test]
fn a_touched_key_that_leaves_the_view_as_it_was_sends_nothing() {
    let (mut hub, mut log, session, _) = with_session(TINY, &["web"]);
    let topic = endpoints("api");
    log.register("vm-2", "api");
    step(&mut hub, log.applied(), 0);
    let start = event(&step(&mut hub, subscribe(session, &topic, None), 0)[0]).index();
    // Tags are part of the instance, and not of what a caller is told of it.
    log.write(register("vm-3", "api", &[]));
    log.write(deregister("vm-3"));
    assert!(step(&mut hub, log.applied(), 1).is_empty());
    log.write(register("vm-4", "api", &[]));
    let sent = step(&mut hub, log.applied(), 2);
    assert!(matches!(event(&sent[0]), Event::Delta { from, .. } if *from == start), "{sent:?}");
}

#[test]
fn resuming_at_the_current_index_sends_no_items_and_anywhere_else_starts_over() {
    let (mut hub, mut log, session, _) = with_session(TINY, &["web"]);
    let topic = endpoints("api");
    log.register("vm-2", "api");
    step(&mut hub, log.applied(), 0);
    let index = log.catalog.index();
    let sent = step(&mut hub, subscribe(session, &topic, Some(index)), 0);
    assert_eq!(event(&sent[0]), &Event::UpToDate { topic: topic.clone(), index });
    step(&mut hub, Input::Unsubscribe { session, topic: topic.clone() }, 0);
    let sent = step(&mut hub, subscribe(session, &topic, Some(CatalogIndex(index.0 - 1))), 0);
    assert!(matches!(event(&sent[0]), Event::Snapshot { index: at, .. } if *at == index), "{sent:?}");
}

#[test]
fn a_server_that_is_behind_answers_when_it_has_caught_up_and_gives_up_after_a_while() {
    let (mut hub, mut log, session, _) = with_session(TINY, &["web"]);
    let topic = endpoints("api");
    let ahead = CatalogIndex(log.catalog.index().0 + 1);
    assert!(step(&mut hub, subscribe(session, &topic, Some(ahead)), 0).is_empty());
    assert!(step(&mut hub, Input::Tick, 5).is_empty());
    log.register("vm-2", "api");
    let sent = step(&mut hub, log.applied(), 6);
    assert_eq!(event(&sent[0]), &Event::UpToDate { topic: topic.clone(), index: ahead });

    let further = CatalogIndex(ahead.0 + 1);
    step(&mut hub, subscribe(session, &endpoints("db"), Some(further)), 7);
    let closed = step(&mut hub, Input::Tick, 18);
    assert_eq!(closing(&closed), &CloseReason::ServerBehind { wanted: further, applied: ahead });
    assert!(hub.sessions.is_empty() && hub.behind.is_empty() && hub.feeds.is_empty());
}

#[test]
fn an_agent_follows_the_policy_of_its_own_services_only() {
    let (mut hub, _, session, _) = with_session(TINY, &["api", "web"]);
    for name in ["api", "web"] {
        let sent = step(&mut hub, subscribe(session, &Topic::Intentions(name.parse().unwrap()), None), 0);
        assert!(matches!(event(&sent[0]), Event::Snapshot { .. }), "{name}");
    }
    let foreign = Topic::Intentions("billing".parse().unwrap());
    let closed = step(&mut hub, subscribe(session, &foreign, None), 0);
    assert_eq!(closing(&closed), &CloseReason::NotEntitled(foreign));
    assert_eq!(hub.sessions(), 0);
}

#[test]
fn a_slow_reader_is_cut_and_holds_no_more_than_its_bound() {
    let (mut hub, mut log, session, _) = with_session(TINY, &["web"]);
    let topic = endpoints("api");
    step(&mut hub, subscribe(session, &topic, None), 0);
    for round in 0.. {
        let tags: Vec<String> = (0..4).map(|tag| format!("{round}-{tag}-{}", "x".repeat(100))).collect();
        log.write(register("vm-2", "api", &tags));
        let outputs = step(&mut hub, log.applied(), 1);
        assert!(hub.waiting_bytes(session) <= TINY.waiting_bytes_max);
        if let Some(Output::Close { reason, .. }) = outputs.last() {
            assert_eq!((reason, outputs.len()), (&CloseReason::SlowReader, 1));
            assert!(round > 2, "cut before the bound was reached");
            break;
        }
    }
    assert_eq!((hub.sessions(), hub.waiting_bytes(session)), (0, 0));
}

#[test]
fn a_reader_that_keeps_up_is_never_cut_and_one_that_stops_is() {
    let (mut hub, mut log, session, _) = with_session(TINY, &["web"]);
    let topic = endpoints("api");
    step(&mut hub, subscribe(session, &topic, None), 0);
    for round in 0..100 {
        let bytes = hub.waiting_bytes(session);
        step(&mut hub, Input::Written { session, bytes }, 1);
        log.write(register("vm-2", "api", &[round.to_string()]));
        let outputs = step(&mut hub, log.applied(), 1);
        assert!(matches!(outputs.as_slice(), [Output::Send { .. }]), "{outputs:?}");
    }
    assert!(step(&mut hub, Input::Tick, 5).is_empty());
    let pinged = step(&mut hub, Input::Tick, 11);
    assert!(matches!(pinged.as_slice(), [Output::Send { frame, .. }] if matches!(frame.content(), ServerFrame::Ping)));
    assert_eq!(closing(&step(&mut hub, Input::Tick, 32)), &CloseReason::SlowReader);
}

#[test]
fn a_session_follows_a_bounded_number_of_topics() {
    let (mut hub, _, session, _) = with_session(TINY, &["web"]);
    for name in ["a", "b", "c", "a"] {
        assert!(matches!(step(&mut hub, subscribe(session, &endpoints(name), None), 0).as_slice(), [Output::Send { .. }]));
    }
    assert_eq!(closing(&step(&mut hub, subscribe(session, &endpoints("d"), None), 0)), &CloseReason::TooManyTopics(3));
}

#[test]
fn c14_revoking_an_agent_cuts_its_session() {
    let (mut hub, mut log, session, agent) = with_session(TINY, &["web"]);
    step(&mut hub, subscribe(session, &Topic::Roots, None), 0);
    log.write(Command::RevokeAgent { agent });
    assert_eq!(closing(&step(&mut hub, log.applied(), 1)), &CloseReason::Revoked);
    assert!(hub.by_agent.is_empty() && hub.feeds.is_empty());
}

#[test]
fn a_newer_session_ends_the_older_one_here_and_elsewhere() {
    let (mut hub, mut log, session, agent) = with_session(TINY, &["web"]);
    let incarnation = log.open_session(&agent);
    let newer = SessionId(2);
    let connected = Input::Connected { session: newer, agent: agent.clone(), incarnation, services: Vec::new() };
    let closed = step(&mut hub, connected, 0);
    assert!(matches!(&closed[..], [Output::Close { session: of, reason: CloseReason::Superseded }] if *of == session));
    // What the older connection still says changes nothing, not even its end.
    assert!(step(&mut hub, subscribe(session, &Topic::Roots, None), 0).is_empty());
    assert!(step(&mut hub, Input::Closed { session }, 0).is_empty());
    assert_eq!(hub.sessions(), 1);
    step(&mut hub, log.applied(), 0);
    assert_eq!(hub.sessions(), 1);

    // The agent went to another server, which this one learns from the log.
    log.open_session(&agent);
    assert_eq!(closing(&step(&mut hub, log.applied(), 0)), &CloseReason::Superseded);
    assert_eq!(hub.sessions(), 0);
}

#[test]
fn a_catalog_that_went_back_is_announced_by_a_snapshot() {
    let (mut hub, mut log, session, _) = with_session(TINY, &["web"]);
    let topic = endpoints("api");
    let earlier = Arc::new(log.catalog.clone());
    log.register("vm-2", "api");
    step(&mut hub, log.applied(), 0);
    step(&mut hub, subscribe(session, &topic, None), 0);
    let touched = BTreeSet::from([WatchKey::Service("api".parse().unwrap())]);
    let sent = step(&mut hub, Input::Applied { catalog: earlier, touched }, 1);
    assert!(matches!(event(&sent[0]), Event::Snapshot { items, .. } if items.is_empty()), "{sent:?}");
}

/// What one agent holds of its topics, applied as agents apply it.
#[derive(Default)]
struct Subscriber {
    held: BTreeMap<Topic, (CatalogIndex, BTreeMap<String, Item>)>,
}

impl Subscriber {
    fn take(&mut self, event: &Event) -> TestCaseResult {
        match event {
            Event::Snapshot { topic, index, items } => {
                if let Some((held, _)) = self.held.get(topic) {
                    prop_assert!(index >= held, "{topic} went back from {held} to {index}");
                }
                self.held.insert(topic.clone(), (*index, items.clone()));
            }
            Event::Delta { topic, from, index, upserts, removes } => {
                let Some((held, items)) = self.held.get_mut(topic) else {
                    return Err(TestCaseError::fail(format!("a delta of {topic} came before its snapshot")));
                };
                prop_assert_eq!(&*held, from, "gap or duplicate of {}", topic);
                prop_assert!(index > from, "{} does not move on", topic);
                *held = *index;
                for name in removes {
                    prop_assert!(items.remove(name).is_some(), "{} removed twice", name);
                }
                items.extend(upserts.clone());
            }
            Event::UpToDate { topic, index } => {
                prop_assert_eq!(self.held.get(topic).map(|(held, _)| held), Some(index));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Act {
    Write(Write),
    /// A server catches up with the log.
    CatchUp(usize),
    Subscribe(usize),
    Unsubscribe(usize),
    Read,
    /// The agent goes to a server, where it asks for all that it followed.
    Move(usize),
}

#[derive(Debug, Clone)]
enum Write {
    Register(usize, usize, u8),
    Deregister(usize),
    Check(usize, usize, CheckStatus),
    Intend(usize, usize, bool),
    Forget(usize, usize),
}

const NODES: [&str; 3] = ["n0", "n1", "n2"];
const SERVICES: [&str; 3] = ["api", "db", "web"];
const PATTERNS: [&str; 4] = ["api", "web", "*", "*/*"];

fn topics() -> [Topic; 5] {
    let [api, db, web] = SERVICES.map(|name| name.parse().unwrap());
    [endpoints("api"), endpoints("web"), Topic::Endpoints(db), Topic::Intentions(api), Topic::Intentions(web)]
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        3 => (0..3usize, 0..3usize, 0..3u8).prop_map(|(node, service, tag)| Write::Register(node, service, tag)),
        1 => (0..3usize).prop_map(Write::Deregister),
        2 => (0..3usize, 0..3usize, prop_oneof![Just(CheckStatus::Passing), Just(CheckStatus::Critical)])
            .prop_map(|(node, service, status)| Write::Check(node, service, status)),
        3 => (0..4usize, 0..4usize, any::<bool>()).prop_map(|(from, to, allow)| Write::Intend(from, to, allow)),
        2 => (0..4usize, 0..4usize).prop_map(|(from, to)| Write::Forget(from, to)),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => write().prop_map(Act::Write),
        4 => (0..2usize).prop_map(Act::CatchUp),
        3 => (0..5usize).prop_map(Act::Subscribe),
        1 => (0..5usize).prop_map(Act::Unsubscribe),
        2 => Just(Act::Read),
        1 => (0..2usize).prop_map(Act::Move),
    ]
}

fn command(write: &Write) -> Command {
    match *write {
        Write::Register(node, service, tag) => register(NODES[node], SERVICES[service], &[tag.to_string()]),
        Write::Deregister(node) => deregister(NODES[node]),
        Write::Check(node, service, status) => {
            let Command::Register { node, instances, incarnation, .. } = register(NODES[node], SERVICES[service], &[])
            else {
                unreachable!("it is what was built")
            };
            let key = catalog::CheckKey {
                node: node.name.clone(),
                namespace: catalog::Namespace::default(),
                id: SERVICES[service].parse().unwrap(),
            };
            let check = catalog::Check {
                key,
                name: "ready".to_owned(),
                status,
                notes: String::new(),
                output: String::new(),
                instance: Some(instances[0].key.id.clone()),
                kind: String::new(),
                created: CatalogIndex(0),
                modified: CatalogIndex(0),
            };
            Command::Register { node, instances, checks: vec![check], skip_node_update: true, incarnation }
        }
        Write::Intend(source, destination, allow) => {
            let action = if allow { Action::Allow } else { Action::Deny };
            let intention = Box::new(intention(PATTERNS[source], PATTERNS[destination], action));
            Command::WriteIntention { intention, mode: WriteMode::Upsert }
        }
        Write::Forget(source, destination) => {
            let key = intention(PATTERNS[source], PATTERNS[destination], Action::Allow).key();
            Command::DeleteIntention { key, compare: None }
        }
    }
}

/// Two servers at different places of one log, and one agent that moves between them.
struct World {
    log: Log,
    hubs: [Hub; 2],
    behind: [BTreeSet<WatchKey>; 2],
    agent: AgentId,
    at: usize,
    session: SessionId,
    subscriber: Subscriber,
    followed: BTreeSet<Topic>,
}

impl World {
    fn new() -> World {
        let mut log = Log::default();
        let agent = log.enrol("agent", &SERVICES);
        let start = Arc::new(log.catalog.clone());
        let limits = Limits { topics_max: 100, ..Limits::default() };
        let mut world = World {
            log,
            hubs: [Hub::new(limits, Arc::clone(&start)), Hub::new(limits, start)],
            behind: Default::default(),
            agent,
            at: 0,
            session: SessionId(0),
            subscriber: Subscriber::default(),
            followed: BTreeSet::new(),
        };
        world.connect(0).unwrap();
        world
    }

    fn act(&mut self, act: &Act) -> TestCaseResult {
        match act {
            Act::Write(write) => {
                let command = command(write);
                prop_assert!(command.validate().is_ok(), "{:?}", command.validate());
                self.log.write(command);
                self.spread();
                Ok(())
            }
            Act::CatchUp(server) => self.catch_up(*server),
            Act::Subscribe(topic) => {
                let topic = topics()[*topic].clone();
                if !self.followed.insert(topic.clone()) {
                    return Ok(());
                }
                let from = self.subscriber.held.get(&topic).map(|(index, _)| *index);
                self.step(self.at, Input::Subscribe { session: self.session, topic, from })
            }
            Act::Unsubscribe(topic) => {
                let topic = topics()[*topic].clone();
                self.followed.remove(&topic);
                self.step(self.at, Input::Unsubscribe { session: self.session, topic })
            }
            Act::Read => {
                let bytes = self.hubs[self.at].waiting_bytes(self.session);
                self.step(self.at, Input::Written { session: self.session, bytes })
            }
            Act::Move(server) => self.connect(*server),
        }
    }

    fn spread(&mut self) {
        let touched = std::mem::take(&mut self.log.touched);
        self.behind.iter_mut().for_each(|behind| behind.extend(touched.clone()));
    }

    fn catch_up(&mut self, server: usize) -> TestCaseResult {
        let catalog = Arc::new(self.log.catalog.clone());
        let touched = std::mem::take(&mut self.behind[server]);
        self.step(server, Input::Applied { catalog, touched })
    }

    fn connect(&mut self, server: usize) -> TestCaseResult {
        let incarnation = self.log.open_session(&self.agent);
        self.spread();
        // The old connection's end is noticed after the new one's start.
        let (old_server, old_session) = (self.at, self.session);
        self.at = server;
        self.session = SessionId(old_session.0 + 1);
        let services = SERVICES.iter().map(|name| name.parse().unwrap()).collect();
        let connected = Input::Connected { session: self.session, agent: self.agent.clone(), incarnation, services };
        self.step(server, connected)?;
        self.step(old_server, Input::Closed { session: old_session })?;
        for topic in self.followed.clone() {
            let from = self.subscriber.held.get(&topic).map(|(index, _)| *index);
            self.step(server, Input::Subscribe { session: self.session, topic, from })?;
        }
        Ok(())
    }

    fn step(&mut self, server: usize, input: Input) -> TestCaseResult {
        for output in step(&mut self.hubs[server], input, 0) {
            match &output {
                Output::Send { session, .. } if *session == self.session => self.subscriber.take(event(&output))?,
                Output::Send { .. } => {}
                Output::Close { session, reason } => {
                    prop_assert_ne!(*session, self.session, "closed: {}", reason);
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn p3_a_subscriber_ends_with_exactly_the_view_without_gap_duplicate_or_going_back(
        acts in prop::collection::vec(act(), 1..80),
    ) {
        let mut world = World::new();
        for act in &acts {
            world.act(act)?;
        }
        world.catch_up(0)?;
        world.catch_up(1)?;
        for topic in &world.followed {
            let held = world.subscriber.held.get(topic).map(|(_, items)| items);
            prop_assert_eq!(held, Some(&world.log.catalog.view(topic)), "{}", topic);
        }
        // Every trace of a session goes with it.
        let (server, session) = (world.at, world.session);
        step(&mut world.hubs[server], Input::Closed { session }, 0);
        for hub in &world.hubs {
            prop_assert!(hub.feeds.is_empty() && hub.readers.is_empty() && hub.behind.is_empty());
            prop_assert!(hub.by_agent.is_empty() && hub.sessions.is_empty());
        }
    }
}
