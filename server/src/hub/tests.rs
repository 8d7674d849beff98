mod property;
mod settling;

use catalog::{
    Actor, Attestation, Command, DeregisterTarget, Envelope, Instance, JoinToken, KeyFingerprint, Node, Owner,
    Platform, SecretHash, SessionChange, SessionRef, Timestamp, Weights,
};

use super::*;

const TINY: Limits = Limits {
    waiting_bytes_max: 4096,
    topics_max: 3,
    gateway_topics_max: 5,
    ping_interval: Duration::from_secs(10),
    stall_max: Duration::from_secs(30),
    behind_max: Duration::from_secs(10),
    goodbye_max: Duration::from_secs(5),
};

/// A log, and the catalog that it leads to.
#[derive(Default)]
struct Log {
    catalog: Catalog,
    touched: BTreeSet<WatchKey>,
}

impl Log {
    fn write(&mut self, command: Command) -> catalog::Outcome {
        self.write_as(Actor::ClusterKey, command)
    }

    fn write_as_server(&mut self, command: Command) -> catalog::Outcome {
        self.write_as(Actor::Server("s1".parse().unwrap()), command)
    }

    fn write_as(&mut self, actor: Actor, command: Command) -> catalog::Outcome {
        let index = CatalogIndex(self.catalog.index().0 + 1);
        let envelope = Envelope {
            version: catalog::ENVELOPE_VERSION,
            request_id: format!("r{index}").parse().unwrap(),
            actor,
            source_address: None,
            proposed_at: Timestamp(1),
            command,
        };
        let applied = self.catalog.apply(index, &envelope, wire::crypto::sha256);
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
        self.enrol_as(node, services, None)
    }

    fn enrol_as(&mut self, node: &str, services: &[&str], gateway: Option<String>) -> AgentId {
        let secret = SecretHash(format!("secret of {node}"));
        let mut services: Vec<ServiceKey> = services.iter().map(|name| name.parse().unwrap()).collect();
        services.sort();
        let accessor = wire::crypto::uuid_v4().parse().unwrap();
        let token = JoinToken { gateway, ..JoinToken::new(accessor, secret.clone(), services, Timestamp(1000)) };
        self.write(Command::CreateJoinToken { token });
        let key = KeyFingerprint(format!("key of {node}"));
        let enrolled = self.write(Command::Enrol { secret, key, node: node.parse().unwrap(), platform: Platform::Vm });
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
        gateway_port: None,
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
    with_session_as(limits, services, None)
}

/// The same, of an agent that may be a gateway.
fn with_session_as(limits: Limits, services: &[&str], gateway: Option<&str>) -> (Hub, Log, SessionId, AgentId) {
    with_session_in(Log::default(), limits, services, gateway)
}

/// The same, in a log that has a past.
fn with_session_in(
    mut log: Log,
    limits: Limits,
    services: &[&str],
    gateway: Option<&str>,
) -> (Hub, Log, SessionId, AgentId) {
    let agent = log.enrol_as("vm-1", services, gateway.map(str::to_owned));
    let incarnation = log.open_session(&agent);
    let mut hub = Hub::new(limits, Arc::new(log.catalog.clone()));
    let session = SessionId(1);
    let services = services.iter().map(|name| name.parse().unwrap()).collect();
    let gateway = log.catalog.agent_record(&agent).and_then(|record| record.gateway.clone());
    let knows = Capabilities::ours();
    let connected = Input::Connected { session, agent: agent.clone(), incarnation, services, gateway, knows };
    let opened = step(&mut hub, connected, 0);
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
    assert!(
        matches!(event(&sent[0]), Event::Delta { upserts, removes, .. } if upserts.is_empty() && removes.len() == 1)
    );

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
    // It comes and goes between two looks at the catalog.
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
fn a_gateway_follows_the_services_of_its_own_network_only_and_more_of_them_than_others() {
    let network = |name: &str| Topic::Network(name.to_owned());
    let (mut hub, mut log, session, _) = with_session_as(TINY, &["web"], Some("aws"));
    step(&mut hub, subscribe(session, &network("aws"), None), 0);
    log.write(register("n1", "db", &[]));
    assert!(step(&mut hub, log.applied(), 1).is_empty(), "that is in another network");
    for name in ["a", "b", "c", "d"] {
        step(&mut hub, subscribe(session, &Topic::Endpoints(name.parse().unwrap()), None), 1);
    }
    assert_eq!(hub.sessions(), 1);
    let closed = step(&mut hub, subscribe(session, &Topic::Endpoints("e".parse().unwrap()), None), 1);
    assert_eq!(closing(&closed), &CloseReason::TooManyTopics(5));

    for (gateway, asked) in [(Some("aws"), ""), (Some(""), "aws"), (None, "")] {
        let (mut hub, _, session, _) = with_session_as(TINY, &["web"], gateway);
        let closed = step(&mut hub, subscribe(session, &network(asked), None), 0);
        assert_eq!(closing(&closed), &CloseReason::NotEntitled(network(asked)), "{gateway:?}");
    }
}

#[test]
fn a_slow_reader_is_cut_and_holds_no_more_than_its_bound() {
    let (mut hub, mut log, session, _) = with_session(TINY, &["web"]);
    let topic = endpoints("api");
    step(&mut hub, subscribe(session, &topic, None), 0);
    for round in 0.. {
        let tags: Vec<String> = (0..4).map(|tag| format!("{round}-{tag}-{}", "x".repeat(40))).collect();
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
        assert!(matches!(
            step(&mut hub, subscribe(session, &endpoints(name), None), 0).as_slice(),
            [Output::Send { .. }]
        ));
    }
    assert_eq!(closing(&step(&mut hub, subscribe(session, &endpoints("d"), None), 0)), &CloseReason::TooManyTopics(3));
}

#[test]
fn a_view_that_fits_no_frame_ends_the_session_and_leaves_nothing_behind() {
    let (mut hub, mut log, session, _) = with_session(Limits::default(), &["web"]);
    let tags: Vec<String> = (0..64).map(|number| format!("{number:0500}")).collect();
    for node in 0..150 {
        log.write(register(&format!("vm-{node}"), "api", &tags));
    }
    step(&mut hub, log.applied(), 0);
    let closed = step(&mut hub, subscribe(session, &endpoints("api"), None), 0);
    assert_eq!(closing(&closed), &CloseReason::TooLarge(endpoints("api")));
    assert!(hub.feeds.is_empty() && hub.readers.is_empty() && hub.by_agent.is_empty());
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
fn c14_sessions_end_as_ever_where_numbers_run_ahead_of_indexes() {
    let ended_by = |what: &dyn Fn(&mut Log, AgentId)| {
        let mut log = Log::default();
        log.catalog.recover_membership(CatalogIndex(1), 1, wire::crypto::sha256);
        let (mut hub, mut log, _, agent) = with_session_in(log, TINY, &["web"], None);
        let opened = log.catalog.agent_record(&agent).unwrap().incarnation.unwrap();
        assert!(opened.0 > log.catalog.index().0 + 1_000_000, "numbers run ahead");
        what(&mut log, agent);
        closing(&step(&mut hub, log.applied(), 1)).clone()
    };
    let revoked = ended_by(&|log, agent| drop(log.write(Command::RevokeAgent { agent })));
    let superseded = ended_by(&|log, agent| {
        log.open_session(&agent);
    });
    let given_up = ended_by(&|log, agent| {
        let incarnation = log.catalog.agent_record(&agent).unwrap().incarnation.unwrap();
        let sessions = vec![SessionRef { agent, incarnation }];
        log.write_as_server(Command::Sessions { change: SessionChange::Lost { sessions } });
    });
    assert_eq!([revoked, superseded, given_up], [CloseReason::Revoked, CloseReason::Superseded, CloseReason::GivenUp]);
}

#[test]
fn a_newer_session_ends_the_older_one_here_and_elsewhere() {
    let (mut hub, mut log, session, agent) = with_session(TINY, &["web"]);
    let incarnation = log.open_session(&agent);
    let newer = SessionId(2);
    let (agent, services) = (agent.clone(), Vec::new());
    let (gateway, knows) = (None, Capabilities::ours());
    let connected = Input::Connected { session: newer, agent: agent.clone(), incarnation, services, gateway, knows };
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
fn a_session_that_was_held_without_a_quorum_gives_way_to_one_that_the_mesh_has_heard_of() {
    let mut log = Log::default();
    let mut hub = Hub::new(TINY, Arc::new(log.catalog.clone()));
    let agent = log.enrol("vm-1", &["web"]);
    let connect = |hub: &mut Hub, session: u64, incarnation| {
        let (session, agent, services) = (SessionId(session), agent.clone(), Vec::new());
        let (gateway, knows) = (None, Capabilities::ours());
        let connected = Input::Connected { session, agent, incarnation, services, gateway, knows };
        let closed = step(hub, connected, 0).into_iter().filter_map(|output| match output {
            Output::Close { session, .. } => Some(session.0),
            Output::Send { .. } => None,
        });
        closed.collect::<Vec<_>>()
    };
    assert!(connect(&mut hub, 1, HELD_ALONE).is_empty());
    // The agent comes again before anybody has noticed that its connection broke, with a quorum and without.
    assert_eq!(connect(&mut hub, 2, HELD_ALONE), [1]);
    assert_eq!(connect(&mut hub, 3, Incarnation(7)), [2]);
    assert_eq!(connect(&mut hub, 4, Incarnation(6)), [4], "an older one comes too late");
    assert_eq!(connect(&mut hub, 5, HELD_ALONE), [3]);
    assert_eq!(hub.sessions(), 1);
}

#[test]
fn fault_22_an_agent_one_release_behind_is_not_told_where_the_servers_are() {
    let mut log = Log::default();
    let mut hub = Hub::new(TINY, Arc::new(log.catalog.clone()));
    let sessions = [(SessionId(1), Capabilities::default()), (SessionId(2), Capabilities::ours())];
    for (session, knows) in sessions.clone() {
        let agent = log.enrol(&format!("vm-{}", session.0), &["web"]);
        let incarnation = log.open_session(&agent);
        step(&mut hub, log.applied(), 0);
        let (services, gateway) = (Vec::new(), None);
        step(&mut hub, Input::Connected { session, agent, incarnation, services, gateway, knows }, 0);
    }
    let mut told = Vec::new();
    for only in [None, Some(SessionId(1)), Some(SessionId(2))] {
        let servers = vec!["10.0.0.1:8300".to_owned()];
        let sent = step(&mut hub, Input::Servers { only, servers }, 1);
        told.extend(sent.iter().map(|output| match output {
            Output::Send { session, .. } => *session,
            Output::Close { .. } => panic!("{output:?}"),
        }));
    }
    assert_eq!(told, [SessionId(2), SessionId(2)]);
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

#[test]
fn fault_28_ten_thousand_sessions_are_told_of_a_change_with_one_frame() {
    let mut log = Log::default();
    log.register("vm-2", "api");
    let mut hub = Hub::new(Limits::default(), Arc::new(log.catalog.clone()));
    log.touched.clear();
    let topic = endpoints("api");
    let mut snapshot: Option<Arc<Frame>> = None;
    for number in 1..=10_000 {
        let session = SessionId(number);
        let agent = AgentId::enrolled_at(CatalogIndex(number));
        // Opened through other servers: this one has not heard of any of the records yet.
        let incarnation = Incarnation(1_000_000 + number);
        let (services, gateway, knows) = (Vec::new(), None, Capabilities::ours());
        step(&mut hub, Input::Connected { session, agent, incarnation, services, gateway, knows }, 0);
        let sent = step(&mut hub, subscribe(session, &topic, None), 0);
        let [Output::Send { frame, .. }] = sent.as_slice() else { panic!("{sent:?}") };
        assert!(Arc::ptr_eq(snapshot.get_or_insert_with(|| Arc::clone(frame)), frame), "encoded again");
        step(&mut hub, Input::Written { session, bytes: frame.encoded().len() }, 0);
    }
    assert_eq!(hub.all_waiting_bytes(), 0);
    log.register("vm-3", "api");
    let sent = step(&mut hub, log.applied(), 1);
    assert_eq!(sent.len(), 10_000);
    let Some(Output::Send { frame: first, .. }) = sent.first() else { panic!("nothing is sent") };
    assert!(sent.iter().all(|output| matches!(output, Output::Send { frame, .. } if Arc::ptr_eq(frame, first))));
    assert_eq!(hub.all_waiting_bytes(), 10_000 * first.encoded().len());
    for number in 1..=10_000 {
        step(&mut hub, Input::Closed { session: SessionId(number) }, 2);
    }
    assert_eq!((hub.sessions(), hub.all_waiting_bytes(), hub.feeds.len()), (0, 0, 0));
}
