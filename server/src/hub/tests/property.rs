//! The hub against a model: two servers at different places of one log, and an agent that moves between them.

use catalog::{Action, CheckStatus, Effect, Follower, Intention, ServicePattern, SourcePattern, WriteMode};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::*;

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
        owner: None,
        audit: false,
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
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
    subscriber: Follower,
    followed: BTreeSet<Topic>,
    /// What the present session asked for.
    asked: BTreeSet<Topic>,
    /// The catalog at each index.
    history: BTreeMap<CatalogIndex, Catalog>,
    settled: usize,
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
            subscriber: Follower::default(),
            followed: BTreeSet::new(),
            asked: BTreeSet::new(),
            history: BTreeMap::new(),
            settled: 0,
        };
        world.history.insert(world.log.catalog.index(), world.log.catalog.clone());
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
                let from = self.subscriber.subscribe(&topic);
                self.asked.insert(topic.clone());
                self.step(self.at, Input::Subscribe { session: self.session, topic, from })
            }
            Act::Unsubscribe(topic) => {
                let topic = topics()[*topic].clone();
                self.followed.remove(&topic);
                self.subscriber.unsubscribe(&topic);
                self.asked.remove(&topic);
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
        self.history.insert(self.log.catalog.index(), self.log.catalog.clone());
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
        self.asked.clear();
        let services = SERVICES.iter().map(|name| name.parse().unwrap()).collect();
        let (session, agent, gateway) = (self.session, self.agent.clone(), None);
        let knows = Capabilities::ours();
        let connected = Input::Connected { session, agent, incarnation, services, gateway, knows };
        self.step(server, connected)?;
        self.step(old_server, Input::Closed { session: old_session })?;
        for topic in self.followed.clone() {
            let from = self.subscriber.subscribe(&topic);
            self.asked.insert(topic.clone());
            self.step(server, Input::Subscribe { session: self.session, topic, from })?;
        }
        Ok(())
    }

    fn step(&mut self, server: usize, input: Input) -> TestCaseResult {
        for output in step(&mut self.hubs[server], input, 0) {
            match &output {
                Output::Send { session, frame } if *session == self.session => {
                    if let ServerFrame::Settled { index } = frame.content() {
                        self.is_of(*index)?;
                        continue;
                    }
                    let taken = self.subscriber.take(event(&output));
                    prop_assert!(taken.is_ok(), "{:?}", taken);
                }
                Output::Send { .. } => {}
                Output::Close { session, reason } => {
                    prop_assert_ne!(*session, self.session, "closed: {}", reason);
                }
            }
        }
        Ok(())
    }

    /// All that decides calls is held as it was at one index.
    fn is_of(&mut self, index: CatalogIndex) -> TestCaseResult {
        self.settled += 1;
        for topic in self.asked.iter().filter(|topic| topic.decides_calls()) {
            let held = self.subscriber.items(topic);
            prop_assert_eq!(held, Some(&self.history[&index].view(topic)), "{} as of {}", topic, index);
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
            let held = world.subscriber.items(topic);
            prop_assert_eq!(held, Some(&world.log.catalog.view(topic)), "{}", topic);
        }
        // Every trace of a session goes with it.
        let (server, session) = (world.at, world.session);
        step(&mut world.hubs[server], Input::Closed { session }, 0);
        for hub in &world.hubs {
            prop_assert!(hub.feeds.is_empty() && hub.readers.is_empty() && hub.behind.is_empty());
            prop_assert!(hub.by_agent.is_empty() && hub.sessions.is_empty() && hub.all_waiting_bytes() == 0);
        }
    }
}
