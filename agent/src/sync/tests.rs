use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use catalog::{
    Action, CatalogIndex, Check, CheckKey, CheckStatus, Command, Event, Instance, InstanceKey, Item, Node, Owner,
    Platform, ServiceKey, Weights,
};
use proptest::prelude::*;
use wire::agent_protocol::AgentWrite;

use super::model::{Cluster, intend, topics};
use super::*;

/// A machine, the cluster that it talks to, and everything that can go wrong in between.
struct World {
    cluster: Cluster,
    sync: Sync,
    now: Duration,
    /// The connection: its number, the server, and whether frames flow.
    connected: Option<(u64, usize)>,
    said: VecDeque<ClientFrame>,
    writes: VecDeque<WriteRequest>,
    published: View,
    seen: Vec<Output>,
    lose_write: bool,
    lose_answer: bool,
    poison: bool,
    refuse_connections: bool,
    highest: BTreeMap<Topic, CatalogIndex>,
    left: bool,
}

fn services() -> Vec<ServiceKey> {
    ["api", "web"].iter().map(|name| name.parse().unwrap()).collect()
}

impl World {
    fn new(servers: usize, seed: u64) -> Self {
        let cluster = Cluster::new(servers, &services());
        let start = Start {
            servers: (0..servers).map(|number| format!("server-{number}:8300")).collect(),
            known: Some(Known::default()),
            seed,
            ..Start::default()
        };
        Self::with(cluster, start)
    }

    fn with(cluster: Cluster, start: Start) -> Self {
        let mut world = Self {
            cluster,
            sync: Sync::new(start),
            now: Duration::ZERO,
            connected: None,
            said: VecDeque::new(),
            writes: VecDeque::new(),
            published: View::new(),
            seen: Vec::new(),
            lose_write: false,
            lose_answer: false,
            poison: false,
            refuse_connections: false,
            highest: BTreeMap::new(),
            left: false,
        };
        world.published = world.sync.view().clone();
        world.feed(Input::Needs(topics().into_iter().collect()));
        world
    }

    fn feed(&mut self, input: Input) {
        let mut outputs = Vec::new();
        self.sync.step(input, self.now, &mut |output| outputs.push(output));
        for output in outputs {
            self.take(output);
        }
    }

    fn take(&mut self, output: Output) {
        match output.clone() {
            Output::Connect { attempt, server } => {
                self.cluster.disconnect();
                self.said.clear();
                self.writes.clear();
                let number = server.trim_start_matches("server-").trim_end_matches(":8300").parse().unwrap();
                self.connected = Some((attempt, number));
            }
            Output::Disconnect { attempt, .. } => {
                if self.connected.is_some_and(|(current, _)| current == attempt) {
                    self.cut();
                }
            }
            Output::Send { attempt, frame } => {
                assert_eq!(self.connected.map(|(current, _)| current), Some(attempt));
                self.said.push_back(frame);
            }
            Output::Write { request, .. } => self.writes.push_back(*request),
            Output::Publish(view) => {
                for (topic, state) in &view {
                    let highest = self.highest.entry(topic.clone()).or_insert(state.index);
                    assert!(state.index >= *highest, "{topic} went back from {highest} to {}", state.index);
                    *highest = state.index;
                    let truth = self.cluster.history.get(&(topic.clone(), state.index));
                    assert_eq!(Some(&state.items), truth, "{topic} at {} never held this", state.index);
                }
                self.published = view;
            }
            Output::Left => self.left = true,
            Output::Opened { .. } | Output::Persist | Output::Dropped { .. } | Output::Refused { .. } => {}
        }
        self.seen.push(output);
    }

    /// Ends the connection without telling the machine.
    fn cut(&mut self) {
        self.connected = None;
        self.cluster.disconnect();
        self.said.clear();
        self.writes.clear();
    }

    /// Lets everything happen that can happen now.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.feed(Input::Tick);
            if !self.happen() {
                return;
            }
        }
        panic!("the world never comes to rest: {:#?}", &self.seen[self.seen.len() - 20..]);
    }

    fn happen(&mut self) -> bool {
        let Some((attempt, server)) = self.connected else { return false };
        if self.refuse_connections {
            self.cut();
            self.feed(Input::Closed { attempt });
            return true;
        }
        if matches!(self.sync.link, Link::Connecting { .. }) {
            self.feed(Input::Connected { attempt });
            return true;
        }
        if let Some(frame) = self.said.pop_front() {
            self.cluster.receive(server, frame);
            return true;
        }
        if let Some(request) = self.writes.pop_front() {
            let request_id = request.request_id.clone();
            let lost = std::mem::take(&mut self.lose_write);
            let outcome = (!lost).then(|| self.cluster.write(&request));
            let result = match outcome {
                Some(outcome) if !std::mem::take(&mut self.lose_answer) => WriteResult::Answered(outcome),
                _ => WriteResult::Unavailable { retry_after: None },
            };
            self.feed(Input::Written { request_id, result });
            return true;
        }
        if let Some(mut frame) = self.cluster.next_frame(server) {
            if self.poison
                && let ServerFrame::Event(event) = &mut frame
            {
                self.poison = false;
                poison(event);
            }
            self.feed(Input::Frame { attempt, frame });
            return true;
        }
        false
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while let Some(at) = self.sync.wake_at().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            // A server that is there pings.
            if let Some((attempt, _)) = self.connected {
                self.feed(Input::Frame { attempt, frame: ServerFrame::Ping });
            }
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    fn desire(&mut self, desired: Desired) {
        self.feed(Input::Desired(Box::new(desired)));
    }

    /// Whether what the agent holds is what the leader holds.
    fn assert_in_step(&self) {
        for topic in topics() {
            let held = self.sync.view().get(&topic).unwrap_or_else(|| panic!("{topic} was never received"));
            assert_eq!(held.items, self.cluster.leader().view(&topic), "{topic}");
            assert_eq!(held.items, self.published[&topic].items, "{topic} was not published");
        }
    }

    /// Whether the catalog says of the node exactly what is wanted.
    fn assert_registered(&self, desired: &Desired) {
        let leader = self.cluster.leader();
        let name = &desired.node.name;
        let there: BTreeMap<_, _> = leader.instances_on(name).map(|it| (it.key.clone(), plain(it))).collect();
        assert_eq!(there, desired.instances);
        let status = |check: &Check| (check.key.clone(), (check.status, check.name.clone()));
        let there: BTreeMap<_, _> = leader.checks_on(name).map(status).collect();
        assert_eq!(there, desired.checks.values().map(status).collect());
    }

    fn count(&self, wanted: impl Fn(&Output) -> bool) -> usize {
        self.seen.iter().filter(|output| wanted(output)).count()
    }
}

fn plain(instance: &Instance) -> Instance {
    Instance { created: CatalogIndex(0), modified: CatalogIndex(0), ..instance.clone() }
}

/// Makes an event impossible.
fn poison(event: &mut Event) {
    let root = Item::Root { certificate_pem: "not a certificate".to_owned(), active: true };
    match event {
        Event::Snapshot { items, .. } => drop(items.insert("poison".to_owned(), root)),
        Event::Delta { upserts, .. } => drop(upserts.insert("poison".to_owned(), root)),
        Event::UpToDate { .. } => {}
    }
}

fn node(cluster: &Cluster) -> Node {
    Node {
        name: "vm-1".parse().unwrap(),
        id: None,
        address: "10.0.0.1".to_owned(),
        platform: Platform::Vm,
        zone: None,
        network: String::new(),
        owner: Owner::Agent(cluster.record.id.clone()),
        incarnation: None,
        meta: BTreeMap::new(),
        tagged_addresses: BTreeMap::new(),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

fn instance(service: &str, id: &str, port: u16) -> Instance {
    let service: ServiceKey = service.parse().unwrap();
    Instance {
        key: InstanceKey { node: "vm-1".parse().unwrap(), namespace: service.namespace, id: id.parse().unwrap() },
        service: service.name,
        address: None,
        port,
        ports: BTreeMap::new(),
        mesh_port: Some(20000),
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

fn check(of: Option<&str>, id: &str, status: CheckStatus) -> Check {
    Check {
        key: CheckKey { node: "vm-1".parse().unwrap(), namespace: Default::default(), id: id.parse().unwrap() },
        name: id.to_owned(),
        status,
        notes: String::new(),
        output: String::new(),
        instance: of.map(|id| id.parse().unwrap()),
        kind: "ttl".to_owned(),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

fn desired(cluster: &Cluster, instances: Vec<Instance>, checks: Vec<Check>) -> Desired {
    Desired {
        node: node(cluster),
        instances: instances.into_iter().map(|it| (it.key.clone(), it)).collect(),
        checks: checks.into_iter().map(|it| (it.key.clone(), it)).collect(),
    }
}

/// A running agent with one service, `web`, that has one check.
fn serving(servers: usize) -> (World, Desired) {
    let mut world = World::new(servers, 42);
    let checks = vec![check(Some("web"), "alive", CheckStatus::Passing)];
    let wanted = desired(&world.cluster, vec![instance("web", "web", 8080)], checks);
    world.desire(wanted.clone());
    world.pass(Duration::from_secs(1));
    world.assert_registered(&wanted);
    world.assert_in_step();
    (world, wanted)
}

#[test]
fn a_fresh_agent_gets_every_topic_and_registers_in_one_write() {
    let (world, _) = serving(1);
    assert_eq!(world.count(|output| matches!(output, Output::Write { .. })), 1);
}

#[test]
fn a_change_reaches_the_agent_as_a_delta() {
    let (mut world, _) = serving(1);
    world.cluster.commit(intend("shop", "web", Action::Allow));
    world.settle();
    world.assert_in_step();
    assert_eq!(world.published[&Topic::Intentions("web".parse().unwrap())].items.len(), 1);
}

#[test]
fn a_lost_connection_is_resumed_from_the_last_index_at_another_server() {
    let (mut world, _) = serving(3);
    let before = world.connected.unwrap();
    world.cut();
    world.cluster.commit(intend("shop", "web", Action::Allow));
    world.feed(Input::Closed { attempt: before.0 });
    world.seen.clear();
    world.pass(Duration::from_secs(1));
    assert_ne!(world.connected.unwrap().1, before.1);
    world.assert_in_step();
    let resumed = |output: &Output| {
        matches!(output, Output::Send { frame: ClientFrame::Subscribe { from: Some(_), .. }, .. })
    };
    assert_eq!(world.count(resumed), topics().len());
    let published = world.count(|output| matches!(output, Output::Publish(_)));
    assert_eq!(published, 1, "only the topic that changed is news");
}

#[test]
fn a_new_session_registers_everything_again_with_the_new_incarnation() {
    let (mut world, wanted) = serving(1);
    let attempt = world.connected.unwrap().0;
    world.cut();
    world.feed(Input::Closed { attempt });
    world.seen.clear();
    world.pass(Duration::from_secs(1));
    let incarnations: Vec<_> = world
        .seen
        .iter()
        .filter_map(|output| match output {
            Output::Write { request, .. } => Some(request.command.incarnation()),
            _ => None,
        })
        .collect();
    assert_eq!(incarnations, [world.cluster.leader().agent_on(&wanted.node.name).unwrap().incarnation.unwrap()]);
    world.assert_registered(&wanted);
}

#[test]
fn only_transitions_of_a_check_are_written() {
    let (mut world, mut wanted) = serving(1);
    world.seen.clear();
    let alive = wanted.checks.values_mut().next().unwrap();
    alive.output = "still fine".to_owned();
    world.desire(wanted.clone());
    world.settle();
    assert_eq!(world.count(|output| matches!(output, Output::Write { .. })), 0);
    wanted.checks.values_mut().next().unwrap().status = CheckStatus::Critical;
    world.desire(wanted.clone());
    world.settle();
    let updates = |output: &Output| match output {
        Output::Write { request, .. } => matches!(request.command, AgentWrite::UpdateChecks { .. }),
        _ => false,
    };
    assert_eq!(world.count(updates), 1);
    world.assert_registered(&wanted);
}

#[test]
fn a13_a_write_whose_answer_is_lost_is_repeated_under_its_id_and_counts_once() {
    let (mut world, mut wanted) = serving(1);
    world.seen.clear();
    world.lose_answer = true;
    wanted.instances.insert(instance("api", "api", 9).key.clone(), instance("api", "api", 9));
    world.desire(wanted.clone());
    world.pass(Duration::from_secs(10));
    let ids: BTreeSet<_> = world
        .seen
        .iter()
        .filter_map(|output| match output {
            Output::Write { request, .. } => Some(request.request_id.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(world.count(|output| matches!(output, Output::Write { .. })), 2);
    world.assert_registered(&wanted);
}

#[test]
fn what_an_earlier_life_registered_and_nobody_wants_is_removed() {
    let (world, _) = serving(1);
    let World { cluster, sync, .. } = world;
    let known = sync.known();
    assert_eq!(known.as_ref().unwrap().instances.len(), 1);
    let start = Start { servers: vec!["server-0:8300".to_owned()], known, seed: 7, ..Start::default() };
    let mut world = World::with(cluster, start);
    let wanted = desired(&world.cluster, vec![instance("api", "api", 9)], Vec::new());
    world.desire(wanted.clone());
    world.pass(Duration::from_secs(1));
    world.assert_registered(&wanted);
}

#[test]
fn an_agent_that_forgot_what_it_registered_empties_its_node_first() {
    let (World { cluster, .. }, _) = serving(1);
    let start = Start { servers: vec!["server-0:8300".to_owned()], known: None, seed: 7, ..Start::default() };
    let mut world = World::with(cluster, start);
    let wanted = desired(&world.cluster, vec![instance("api", "api", 9)], Vec::new());
    world.desire(wanted.clone());
    world.pass(Duration::from_secs(1));
    world.assert_registered(&wanted);
}

#[test]
fn one_refused_service_does_not_keep_the_others_out() {
    let mut world = World::new(1, 42);
    let instances = vec![instance("api", "api", 1), instance("db", "not-ours", 2), instance("web", "web", 3)];
    let mut wanted = desired(&world.cluster, instances, vec![check(None, "disk", CheckStatus::Passing)]);
    world.desire(wanted.clone());
    world.pass(Duration::from_secs(5));
    assert_eq!(world.count(|output| matches!(output, Output::Refused { .. })), 1);
    wanted.instances.remove(&instance("db", "not-ours", 2).key);
    world.assert_registered(&wanted);
}

#[test]
fn many_instances_are_registered_in_few_writes() {
    let mut world = World::new(1, 42);
    let instances = (1..=200).map(|n| instance("web", &format!("web-{n}"), n)).collect();
    let checks = (1..=200).map(|n| check(Some(&format!("web-{n}")), &format!("alive-{n}"), CheckStatus::Passing));
    let wanted = desired(&world.cluster, instances, checks.collect());
    world.desire(wanted.clone());
    world.pass(Duration::from_secs(5));
    world.assert_registered(&wanted);
    assert!(world.count(|output| matches!(output, Output::Write { .. })) <= 8);
}

#[test]
fn leaving_takes_the_node_out_and_says_so() {
    let (mut world, wanted) = serving(1);
    world.feed(Input::Leave);
    world.settle();
    assert!(world.left);
    assert!(world.cluster.leader().node(&wanted.node.name).is_none());
    assert_eq!(world.sync.known(), Some(Known::default()));
}

#[test]
fn a_poisoned_update_keeps_the_last_good_state_and_is_asked_for_again() {
    let (mut world, _) = serving(1);
    let before = world.published.clone();
    world.poison = true;
    world.cluster.commit(intend("shop", "web", Action::Allow));
    world.settle();
    assert_eq!(world.count(|output| matches!(output, Output::Dropped { .. })), 1);
    assert_eq!(world.published, before);
    world.pass(Duration::from_secs(31));
    world.assert_in_step();
}

#[test]
fn a_server_that_is_behind_is_left_for_another() {
    let (mut world, _) = serving(2);
    world.cluster.lag(1, true);
    world.cluster.commit(intend("shop", "web", Action::Allow));
    world.pass(Duration::from_secs(1));
    for _ in 0..20 {
        if let Some((attempt, _)) = world.connected {
            world.cut();
            world.feed(Input::Closed { attempt });
        }
        world.pass(Duration::from_secs(20));
        if world.count(|output| matches!(output, Output::Disconnect { reason: Lost::Behind(_), .. })) > 0 {
            world.assert_in_step();
            return;
        }
    }
    panic!("the server that is behind was never met");
}

#[test]
fn a_silent_server_is_given_up_in_time() {
    let (mut world, _) = serving(2);
    let server = world.connected.unwrap().1;
    world.now += SILENCE_MAX;
    world.feed(Input::Tick);
    assert_eq!(world.count(|output| matches!(output, Output::Disconnect { reason: Lost::Silent, .. })), 1);
    world.pass(Duration::from_secs(1));
    assert_ne!(world.connected.unwrap().1, server);
    world.assert_in_step();
}

#[test]
fn without_any_server_the_last_good_state_stays_and_retries_are_spread() {
    let (mut world, _) = serving(3);
    let before = world.sync.view().clone();
    world.refuse_connections = true;
    let attempt = world.connected.unwrap().0;
    world.cut();
    world.feed(Input::Closed { attempt });
    world.seen.clear();
    world.pass(Duration::from_secs(3600));
    let attempts = world.count(|output| matches!(output, Output::Connect { .. }));
    assert!((360..2000).contains(&attempts), "{attempts} attempts in an hour");
    assert_eq!(world.sync.view(), &before);
    world.refuse_connections = false;
    world.pass(Duration::from_secs(30));
    world.assert_in_step();
}

#[test]
fn p5_a_restarted_agent_starts_with_what_was_kept() {
    let (World { cluster, sync, .. }, _) = serving(1);
    let view = sync.view().clone();
    let start = Start { servers: vec!["server-0:8300".to_owned()], view: view.clone(), seed: 9, ..Start::default() };
    let restarted = World::with(cluster, start);
    assert_eq!(restarted.sync.view(), &view);
}

#[test]
fn p5_what_was_kept_and_cannot_be_true_is_dropped() {
    let (World { sync, .. }, _) = serving(1);
    let mut view = sync.view().clone();
    let bad = TopicState { index: CatalogIndex(9), items: BTreeMap::new() };
    view.insert(Topic::Roots, Arc::new(bad));
    let restarted = Sync::new(Start { view, ..Start::default() });
    assert!(!restarted.view().contains_key(&Topic::Roots));
    assert!(restarted.view().contains_key(&Topic::Mesh));
}

#[test]
fn equal_seeds_and_inputs_give_equal_outputs() {
    let run = || {
        let (mut world, _) = serving(3);
        world.refuse_connections = true;
        world.pass(Duration::from_secs(100));
        format!("{:?}", world.seen.iter().filter(|it| matches!(it, Output::Connect { .. })).collect::<Vec<_>>())
    };
    assert_eq!(run(), run());
}

#[derive(Clone, Debug)]
enum Chance {
    Allow(u8),
    Deny(u8),
    Forget(u8),
    Database(u8),
    Wish { web: bool, api: bool, critical: bool },
    Cut,
    Goodbye,
    LoseWrite,
    LoseAnswer,
    Poison,
    Lag(usize, bool),
    Refuse(bool),
    Pass(u16),
}

fn chance() -> impl Strategy<Value = Chance> {
    prop_oneof![
        3 => (0..4_u8).prop_map(Chance::Allow),
        2 => (0..4_u8).prop_map(Chance::Deny),
        2 => (0..4_u8).prop_map(Chance::Forget),
        2 => (0..4_u8).prop_map(Chance::Database),
        3 => any::<(bool, bool, bool)>().prop_map(|(web, api, critical)| Chance::Wish { web, api, critical }),
        2 => Just(Chance::Cut),
        1 => Just(Chance::Goodbye),
        1 => Just(Chance::LoseWrite),
        1 => Just(Chance::LoseAnswer),
        1 => Just(Chance::Poison),
        2 => (0..3_usize, any::<bool>()).prop_map(|(server, lags)| Chance::Lag(server, lags)),
        1 => any::<bool>().prop_map(Chance::Refuse),
        3 => (0..20_000_u16).prop_map(Chance::Pass),
    ]
}

impl World {
    fn befall(&mut self, chance: Chance, wanted: &mut Desired) {
        let source = |number: u8| format!("caller-{number}");
        match chance {
            Chance::Allow(number) => drop(self.cluster.commit(intend(&source(number), "web", Action::Allow))),
            Chance::Deny(number) => drop(self.cluster.commit(intend(&source(number), "*", Action::Deny))),
            Chance::Forget(number) => {
                let Command::WriteIntention { intention, .. } = intend(&source(number), "web", Action::Allow) else {
                    return;
                };
                self.cluster.commit(Command::DeleteIntention { key: intention.key(), compare: None });
            }
            Chance::Database(number) => {
                let mut database = instance("db", &format!("db-{number}"), 5432);
                database.key.node = format!("external-{number}").parse().unwrap();
                let node = Node { name: database.key.node.clone(), owner: Owner::External, ..node(&self.cluster) };
                self.cluster.commit(Command::Register {
                    node: Box::new(node),
                    instances: vec![database],
                    checks: Vec::new(),
                    skip_node_update: false,
                    incarnation: None,
                });
            }
            Chance::Wish { web, api, critical } => {
                let status = if critical { CheckStatus::Critical } else { CheckStatus::Passing };
                let mut instances = Vec::new();
                let mut checks = vec![check(None, "disk", status)];
                if web {
                    instances.push(instance("web", "web", 8080));
                    checks.push(check(Some("web"), "alive", status));
                }
                if api {
                    instances.push(instance("api", "api", 9090));
                }
                *wanted = desired(&self.cluster, instances, checks);
                self.desire(wanted.clone());
            }
            Chance::Cut => {
                if let Some((attempt, _)) = self.connected {
                    self.cut();
                    self.feed(Input::Closed { attempt });
                }
            }
            Chance::Goodbye => self.cluster.say_goodbye(),
            Chance::LoseWrite => self.lose_write = true,
            Chance::LoseAnswer => self.lose_answer = true,
            Chance::Poison => self.poison = true,
            Chance::Lag(server, lags) => self.cluster.lag(server, lags),
            Chance::Refuse(refuse) => self.refuse_connections = refuse,
            Chance::Pass(milliseconds) => self.pass(Duration::from_millis(milliseconds.into())),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_befalls_it_the_agent_ends_equal_to_the_servers(
        seed in any::<u64>(),
        chances in proptest::collection::vec(chance(), 0..40),
    ) {
        let mut world = World::new(3, seed);
        let mut wanted = desired(&world.cluster, Vec::new(), Vec::new());
        world.desire(wanted.clone());
        for chance in chances {
            world.befall(chance, &mut wanted);
        }
        world.refuse_connections = false;
        (world.lose_write, world.lose_answer, world.poison) = (false, false, false);
        for server in 0..3 {
            world.cluster.lag(server, false);
        }
        world.pass(Duration::from_secs(180));
        world.assert_in_step();
        world.assert_registered(&wanted);
    }
}
