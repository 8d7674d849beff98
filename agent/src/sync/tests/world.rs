//! A machine, the cluster that it talks to, and everything that can go wrong in between.

use std::collections::{BTreeMap, VecDeque};

use catalog::{
    CatalogIndex, Check, CheckKey, CheckStatus, Event, Instance, InstanceKey, Item, Node, Owner, Platform, ServiceKey,
    Weights,
};
use wire::agent_protocol::WriteRequest;

use super::super::model::{Cluster, topics};
use super::super::*;

/// A machine, the cluster that it talks to, and everything that can go wrong in between.
pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) sync: Sync,
    pub(super) now: Duration,
    /// The connection: its number, the server, and whether frames flow.
    pub(super) connected: Option<(u64, usize)>,
    pub(super) said: VecDeque<ClientFrame>,
    pub(super) writes: VecDeque<WriteRequest>,
    pub(super) published: View,
    pub(super) seen: Vec<Output>,
    pub(super) lose_write: bool,
    pub(super) lose_answer: bool,
    pub(super) poison: bool,
    /// The network keeps the frames back that say what is settled.
    pub(super) loses_settled: bool,
    pub(super) refuse_connections: bool,
    pub(super) highest: BTreeMap<Topic, CatalogIndex>,
    pub(super) left: bool,
    /// Something is to be written to disk.
    pub(super) saves: bool,
    pub(super) disk_is_stuck: bool,
}

pub(super) fn services() -> Vec<ServiceKey> {
    ["api", "web"].iter().map(|name| name.parse().unwrap()).collect()
}

impl World {
    pub(super) fn new(servers: usize, seed: u64) -> Self {
        let cluster = Cluster::new(servers, &services());
        let start = Start {
            servers: (0..servers).map(|number| format!("server-{number}:8300")).collect(),
            known: Some(Known::default()),
            seed,
            ..Start::default()
        };
        Self::with(cluster, start)
    }

    pub(super) fn with(cluster: Cluster, start: Start) -> Self {
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
            loses_settled: false,
            refuse_connections: false,
            highest: BTreeMap::new(),
            left: false,
            saves: false,
            disk_is_stuck: false,
        };
        world.published = world.sync.view().clone();
        world.feed(Input::Needs(topics().into_iter().collect()));
        world
    }

    pub(super) fn feed(&mut self, input: Input) {
        let mut outputs = Vec::new();
        self.sync.step(input, self.now, &mut |output| outputs.push(output));
        for output in outputs {
            self.take(output);
        }
    }

    pub(super) fn take(&mut self, output: Output) {
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
                    if !topics().contains(topic) {
                        continue;
                    }
                    let truth = self.cluster.history.get(&(topic.clone(), state.index));
                    assert_eq!(Some(&state.items), truth, "{topic} at {} never held this", state.index);
                }
                self.is_one_state(&view);
                self.published = view;
            }
            Output::Left => self.left = true,
            Output::Persist => self.saves = true,
            Output::Opened { .. } | Output::Dropped { .. } | Output::Refused { .. } => {}
        }
        self.seen.push(output);
    }

    /// What decides calls is what the cluster committed at one index.
    fn is_one_state(&self, view: &View) {
        let Some(at) = self.sync.settled_at() else { return };
        for (topic, state) in view.iter().filter(|(topic, _)| topic.decides_calls() && topics().contains(topic)) {
            let truth = &self.cluster.states[&at][topic];
            assert_eq!(&state.items, truth, "{topic} at {} is in force as if it were of {at}", state.index);
        }
    }

    /// Ends the connection without telling the machine.
    pub(super) fn cut(&mut self) {
        self.connected = None;
        self.cluster.disconnect();
        self.said.clear();
        self.writes.clear();
    }

    /// Lets everything happen that can happen now.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            self.feed(Input::Tick);
            if !self.happen() {
                return;
            }
        }
        panic!("the world never comes to rest: {:#?}", &self.seen[self.seen.len() - 20..]);
    }

    pub(super) fn happen(&mut self) -> bool {
        if !self.disk_is_stuck && std::mem::take(&mut self.saves) {
            self.feed(Input::Saved { version: self.sync.known_version() });
            return true;
        }
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
            if self.loses_settled && matches!(frame, ServerFrame::Settled { .. }) {
                return true;
            }
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

    pub(super) fn pass(&mut self, time: Duration) {
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

    pub(super) fn desire(&mut self, desired: Desired) {
        self.feed(Input::Desired(Box::new(desired)));
    }

    /// Whether what the agent holds is what the leader holds.
    pub(super) fn assert_in_step(&self) {
        for topic in topics() {
            let held = self.sync.view().get(&topic).unwrap_or_else(|| panic!("{topic} was never received"));
            assert_eq!(held.items, self.cluster.leader().view(&topic), "{topic}");
            assert_eq!(held.items, self.published[&topic].items, "{topic} was not published");
        }
    }

    /// Whether the catalog says of the node exactly what is wanted.
    pub(super) fn assert_registered(&self, desired: &Desired) {
        let leader = self.cluster.leader();
        let name = &desired.node.name;
        let there: BTreeMap<_, _> = leader.instances_on(name).map(|it| (it.key.clone(), plain(it))).collect();
        assert_eq!(there, desired.instances);
        let status = |check: &Check| (check.key.clone(), (check.status, check.name.clone()));
        let there: BTreeMap<_, _> = leader.checks_on(name).map(status).collect();
        assert_eq!(there, desired.checks.values().map(status).collect());
    }

    pub(super) fn count(&self, wanted: impl Fn(&Output) -> bool) -> usize {
        self.seen.iter().filter(|output| wanted(output)).count()
    }
}

pub(super) fn plain(instance: &Instance) -> Instance {
    Instance { created: CatalogIndex(0), modified: CatalogIndex(0), ..instance.clone() }
}

/// Makes an event impossible.
pub(super) fn poison(event: &mut Event) {
    let root = Item::Root { certificate_pem: "not a certificate".to_owned(), active: true, signer: None };
    match event {
        Event::Snapshot { items, .. } => drop(items.insert("poison".to_owned(), root)),
        Event::Delta { upserts, .. } => drop(upserts.insert("poison".to_owned(), root)),
        Event::UpToDate { .. } => {}
    }
}

pub(super) fn node(cluster: &Cluster) -> Node {
    Node {
        name: "vm-1".parse().unwrap(),
        id: None,
        address: "10.0.0.1".to_owned(),
        platform: Platform::Vm,
        zone: None,
        network: String::new(),
        gateway_port: None,
        owner: Owner::Agent(cluster.record.id.clone()),
        incarnation: None,
        meta: BTreeMap::new(),
        tagged_addresses: BTreeMap::new(),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

pub(super) fn instance(service: &str, id: &str, port: u16) -> Instance {
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

pub(super) fn check(of: Option<&str>, id: &str, status: CheckStatus) -> Check {
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

pub(super) fn desired(cluster: &Cluster, instances: Vec<Instance>, checks: Vec<Check>) -> Desired {
    Desired {
        node: node(cluster),
        instances: instances.into_iter().map(|it| (it.key.clone(), it)).collect(),
        checks: checks.into_iter().map(|it| (it.key.clone(), it)).collect(),
    }
}

/// A running agent with one service, `web`, that has one check.
pub(super) fn serving(servers: usize) -> (World, Desired) {
    let mut world = World::new(servers, 42);
    let checks = vec![check(Some("web"), "alive", CheckStatus::Passing)];
    let wanted = desired(&world.cluster, vec![instance("web", "web", 8080)], checks);
    world.desire(wanted.clone());
    world.pass(Duration::from_secs(1));
    world.assert_registered(&wanted);
    world.assert_in_step();
    (world, wanted)
}
