//! The machine by cases, then many machines under a random network with crashes.

use proptest::prelude::*;

use super::*;

fn settings(bootstrap_expect: usize) -> Settings {
    Settings {
        bootstrap_expect,
        datacenter: "dc1".to_owned(),
        trust_domain: None,
        path_template: PathTemplate::default(),
    }
}

fn candidate(name: &str, bootstrap_expect: usize) -> Candidate {
    Candidate {
        server: name.parse().unwrap(),
        disk_id: format!("disk-of-{name}"),
        raft_address: format!("{name}:8301"),
        reads: 2,
        settings: settings(bootstrap_expect),
    }
}

fn machine(name: &str, bootstrap_expect: usize) -> Bootstrap {
    Bootstrap::new(candidate(name, bootstrap_expect), Commitment::None)
}

fn step(machine: &mut Bootstrap, input: Input) -> Vec<Output> {
    let mut outputs = Vec::new();
    machine.step(input, Duration::ZERO, &mut |output| outputs.push(output));
    outputs
}

fn tick(machine: &mut Bootstrap, cluster_id: &str) -> Vec<Output> {
    step(machine, Input::Tick { cluster_id: cluster_id.to_owned() })
}

/// `machine` dials `other` and reads its answer.
fn meet(machine: &mut Bootstrap, other: &Bootstrap) -> Vec<Output> {
    let asked_with = Some(machine.commitment().clone());
    step(machine, Input::Met { candidate: other.own().clone(), commitment: other.commitment().clone(), asked_with })
}

#[test]
fn a_server_that_expects_nobody_starts_alone_at_once() {
    let mut alone = machine("a", 1);
    let outputs = tick(&mut alone, "one");
    let [Output::Persist(Commitment::Member(mesh)), Output::Activate(active)] = outputs.as_slice() else {
        panic!("{outputs:?}")
    };
    assert_eq!(mesh, active);
    assert_eq!((mesh.cluster_id.as_str(), mesh.trust_domain.to_string().as_str()), ("one", "one.weft"));
    assert_eq!((mesh.servers.len(), mesh.servers[0].raft_id), (1, 1));
}

#[test]
fn the_lowest_name_coordinates_and_waits_for_every_pledge() {
    let (mut a, mut b, mut c) = (machine("a", 3), machine("b", 3), machine("c", 3));
    meet(&mut b, &a);
    meet(&mut b, &c);
    assert_eq!(tick(&mut b, "of-b"), [], "b is not the lowest");
    meet(&mut a, &b);
    assert_eq!(tick(&mut a, "of-a"), [], "a has met one only");
    meet(&mut a, &c);
    let outputs = tick(&mut a, "of-a");
    assert!(matches!(outputs.as_slice(), [Output::Persist(Commitment::Pledged(_))]), "{outputs:?}");

    let mut given = Vec::new();
    for other in [&mut b, &mut c] {
        let outputs = meet(&mut a, other);
        let [Output::AskPledge { mesh, .. }] = outputs.as_slice() else { panic!("{outputs:?}") };
        assert_eq!(mesh.servers.iter().map(|member| member.raft_id).collect::<Vec<_>>(), [1, 2, 3]);
        let outputs = step(other, Input::PledgeAsked { from: "a".parse().unwrap(), mesh: mesh.clone() });
        let [Output::Persist(Commitment::Pledged(_)), Output::Answer(PledgeAnswer::Given)] = outputs.as_slice() else {
            panic!("the pledge must be on disk before it is given: {outputs:?}")
        };
        let (from, answer) = (other.own().server.clone(), PledgeAnswer::Given);
        given.push(step(&mut a, Input::PledgeAnswered { from, cluster_id: "of-a".to_owned(), answer }));
    }
    assert_eq!(given[0], [], "one pledge is missing");
    assert!(matches!(given[1].as_slice(), [Output::Persist(Commitment::Member(_)), Output::Activate(_)]));
    let outputs = meet(&mut b, &a);
    assert!(matches!(outputs.as_slice(), [Output::Persist(Commitment::Member(_)), Output::Activate(_)]), "{outputs:?}");
}

#[test]
fn a_second_pledge_is_refused_naming_the_first() {
    let mut c = machine("c", 3);
    let all: Vec<Candidate> = ["a", "b", "c", "d"].iter().map(|name| candidate(name, 3)).collect();
    let first = draw_up("one".to_owned(), &settings(3), [&all[0], &all[1], &all[2]].into_iter());
    let second = draw_up("two".to_owned(), &settings(3), [&all[1], &all[2], &all[3]].into_iter());
    step(&mut c, Input::PledgeAsked { from: "a".parse().unwrap(), mesh: first.clone() });
    let outputs = step(&mut c, Input::PledgeAsked { from: "b".parse().unwrap(), mesh: second });
    let [Output::Answer(PledgeAnswer::Refused { reason })] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert_eq!(reason, "server `c` is bound to cluster one of the servers a, b, c");
    let outputs = step(&mut c, Input::PledgeAsked { from: "a".parse().unwrap(), mesh: first });
    assert_eq!(outputs, [Output::Answer(PledgeAnswer::Given)], "a repeat of the first is answered as before");
}

#[test]
fn a_pledge_is_asked_for_by_the_coordinator_and_for_this_disk_only() {
    let all: Vec<Candidate> = ["a", "b", "c"].iter().map(|name| candidate(name, 3)).collect();
    let mesh = draw_up("one".to_owned(), &settings(3), all.iter());
    let refused = |mut machine: Bootstrap, from: &str, mesh: &Mesh| {
        let outputs = step(&mut machine, Input::PledgeAsked { from: from.parse().unwrap(), mesh: mesh.clone() });
        matches!(outputs.as_slice(), [Output::Answer(PledgeAnswer::Refused { .. })])
    };
    assert!(refused(machine("b", 3), "c", &mesh), "c does not coordinate");
    assert!(refused(machine("b", 2), "a", &mesh), "b expects another number");
    assert!(refused(machine("d", 3), "a", &mesh), "d is not named");
    let mut other_disk = mesh.clone();
    other_disk.servers[1].disk_id = "another".to_owned();
    assert!(refused(machine("b", 3), "a", &other_disk));
    assert!(!refused(machine("b", 3), "a", &mesh));
}

#[test]
fn a_refused_coordinator_gives_up_and_its_followers_are_free_again() {
    let (mut a, mut b, c) = (machine("a", 3), machine("b", 3), machine("c", 3));
    meet(&mut a, &b);
    meet(&mut a, &c);
    tick(&mut a, "of-a");
    let crossing = Input::Met { candidate: a.own().clone(), commitment: Commitment::None, asked_with: None };
    let mesh = a.commitment().mesh().unwrap().clone();
    step(&mut b, Input::PledgeAsked { from: "a".parse().unwrap(), mesh });
    assert_eq!(step(&mut b, crossing), [], "a greeting from before the pledge proves nothing");

    let answer = PledgeAnswer::Refused { reason: "bound elsewhere".to_owned() };
    let refused = Input::PledgeAnswered { from: "c".parse().unwrap(), cluster_id: "of-a".to_owned(), answer };
    let outputs = step(&mut a, refused);
    assert!(matches!(outputs.as_slice(), [Output::Persist(Commitment::None), Output::GaveUp { .. }]), "{outputs:?}");
    assert_eq!(meet(&mut b, &a), [Output::Persist(Commitment::None)]);
}

#[test]
fn more_servers_than_expected_make_nothing_and_are_named_once() {
    let mut a = machine("a", 3);
    for name in ["b", "c", "d"] {
        meet(&mut a, &machine(name, 3));
    }
    let outputs = tick(&mut a, "one");
    assert!(matches!(outputs.as_slice(), [Output::TooMany { servers }] if servers.len() == 4), "{outputs:?}");
    assert_eq!(tick(&mut a, "one"), []);
}

#[test]
fn a_server_that_is_gone_does_not_count_any_more() {
    let mut a = machine("a", 2);
    meet(&mut a, &machine("b", 2));
    let later = MET_AGE_MAX + Duration::from_secs(1);
    let mut outputs = Vec::new();
    a.step(Input::Tick { cluster_id: "one".to_owned() }, later, &mut |output| outputs.push(output));
    assert_eq!(outputs, []);
}

/// Machines, their disks, and what is on the way between them.
struct World {
    servers: Vec<Bootstrap>,
    disks: Vec<Commitment>,
    /// Greetings and requests that have not arrived yet: by whom they are read, and what they are.
    on_the_way: Vec<(usize, Input)>,
    drawn: u32,
}

impl World {
    fn new(count: usize, bootstrap_expect: usize) -> Self {
        let servers = (0..count).map(|n| machine(&format!("s{n}"), bootstrap_expect)).collect();
        Self { servers, disks: vec![Commitment::None; count], on_the_way: Vec::new(), drawn: 0 }
    }

    fn index_of(&self, server: &ServerId) -> usize {
        self.servers.iter().position(|machine| machine.own().server == *server).unwrap()
    }

    fn feed(&mut self, at: usize, input: Input) {
        let answers_to = match &input {
            Input::PledgeAsked { from, mesh } => Some((self.index_of(from), mesh.cluster_id.clone())),
            _ => None,
        };
        for output in step(&mut self.servers[at], input) {
            match output {
                Output::Persist(commitment) => self.disks[at] = commitment,
                Output::AskPledge { to, mesh } => {
                    let from = self.servers[at].own().server.clone();
                    self.on_the_way.push((self.index_of(&to), Input::PledgeAsked { from, mesh }));
                }
                Output::Answer(answer) => {
                    let (to, cluster_id) = answers_to.clone().unwrap();
                    let from = self.servers[at].own().server.clone();
                    self.on_the_way.push((to, Input::PledgeAnswered { from, cluster_id, answer }));
                }
                Output::Activate(_) | Output::GaveUp { .. } | Output::TooMany { .. } => {}
            }
        }
        self.check();
    }

    /// Lets one of the things happen that `choice` picks from.
    fn happen(&mut self, choice: (u8, usize, usize)) {
        let (what, first, second) = choice;
        let (one, other) = (first % self.servers.len(), second % self.servers.len());
        match what {
            0 | 1 => {
                self.drawn += 1;
                self.feed(one, Input::Tick { cluster_id: format!("cluster-{}", self.drawn) });
            }
            // One dials, the other answers at once, and either side may read what it got much later.
            2..=4 if one != other => {
                let asked_with = self.servers[one].commitment().clone();
                let greeting = Input::Met {
                    candidate: self.servers[one].own().clone(),
                    commitment: asked_with.clone(),
                    asked_with: None,
                };
                let answer = Input::Met {
                    candidate: self.servers[other].own().clone(),
                    commitment: self.servers[other].commitment().clone(),
                    asked_with: Some(asked_with),
                };
                self.on_the_way.extend([(other, greeting), (one, answer)]);
            }
            5..=8 if !self.on_the_way.is_empty() => {
                let (at, input) = self.on_the_way.remove(first % self.on_the_way.len());
                self.feed(at, input);
            }
            9 if !self.on_the_way.is_empty() => {
                self.on_the_way.remove(first % self.on_the_way.len());
            }
            10 => {
                // A crash: what was on the way to or from its connections is lost with them.
                self.on_the_way.retain(|(at, _)| *at != one);
                let own = self.servers[one].own().clone();
                self.servers[one] = Bootstrap::new(own, self.disks[one].clone());
            }
            _ => {}
        }
    }

    /// Every member of a real cluster is bound to it: so no two clusters share a server, now or ever.
    fn check(&self) {
        let real = self.disks.iter().filter_map(Commitment::membership);
        for mesh in real {
            for member in &mesh.servers {
                let bound = self.disks[self.index_of(&member.id)].mesh();
                assert_eq!(bound, Some(mesh), "server {} is not bound to the cluster that counts on it", member.id);
            }
        }
    }

    fn clusters(&self) -> BTreeSet<&str> {
        self.disks.iter().filter_map(Commitment::membership).map(|mesh| mesh.cluster_id.as_str()).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn four_servers_that_expect_three_never_make_two_clusters(
        events in proptest::collection::vec((0_u8..11, any::<usize>(), any::<usize>()), 0..600),
    ) {
        let mut world = World::new(4, 3);
        for event in events {
            world.happen(event);
        }
        prop_assert!(world.clusters().len() <= 1);
    }

    #[test]
    fn three_servers_that_expect_three_make_one_cluster_once_the_network_is_calm(
        events in proptest::collection::vec((0_u8..11, any::<usize>(), any::<usize>()), 0..300),
    ) {
        let mut world = World::new(3, 3);
        for event in events {
            world.happen(event);
        }
        world.on_the_way.clear();
        for _ in 0..8 {
            for one in 0..3 {
                world.happen((0, one, 0));
                for other in (0..3).filter(|other| *other != one) {
                    world.happen((2, one, other));
                    while !world.on_the_way.is_empty() {
                        world.happen((5, 0, 0));
                    }
                }
            }
        }
        prop_assert_eq!(world.clusters().len(), 1);
        prop_assert!(world.disks.iter().all(|disk| disk.membership().is_some()));
    }
}
