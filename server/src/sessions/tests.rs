//! When sessions are reported, nodes removed and revocations forgotten.

use catalog::{
    AccessorId, Action, Actor, Admission, CatalogIndex, DeregisterTarget, Envelope, Intention, JoinToken,
    KeyFingerprint, LoginChange, Node, NodeName, Outcome, Owner, Platform, SecretHash, WriteMode,
};
use wire::mesh_status::MeshStatus;

use super::*;

const GRACE: Duration = Duration::from_secs(10);
const REAP: Duration = Duration::from_secs(100);
const TTL: Duration = Duration::from_secs(3600);

struct World {
    catalog: Catalog,
    machine: Sessions,
    open: BTreeMap<AgentId, Incarnation>,
    heard: Option<BTreeSet<ServerId>>,
    clock: Timestamp,
    now: Duration,
}

fn server(name: &str) -> ServerId {
    name.parse().unwrap()
}

fn node(number: usize) -> NodeName {
    format!("n{number}").parse().unwrap()
}

impl World {
    fn new() -> Self {
        let periods = Periods { grace: GRACE, reap: REAP, leaf_ttl: TTL };
        let machine = Sessions::new(server("a"), periods);
        let (open, heard) = (BTreeMap::new(), Some(BTreeSet::from([server("a"), server("b")])));
        Self { catalog: Catalog::default(), machine, open, heard, clock: Timestamp(1), now: Duration::ZERO }
    }

    fn apply(&mut self, command: Command) -> Outcome {
        let index = CatalogIndex(self.catalog.index().0 + 1);
        let envelope = Envelope {
            version: command.reads_from(),
            request_id: format!("r{index}").parse().unwrap(),
            actor: Actor::Server(server("a")),
            source_address: None,
            proposed_at: self.clock,
            command,
        };
        let outcome = self.catalog.apply(index, &envelope, wire::crypto::sha256).outcome;
        assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        outcome
    }

    /// Enrols an agent that registers its node in a session of `server`.
    fn agent(&mut self, number: usize, holder: &str) -> AgentId {
        let accessor: AccessorId = format!("00000000-0000-4000-8000-{number:012}").parse().unwrap();
        let services = vec!["web".parse().unwrap()];
        let token = JoinToken::new(accessor, SecretHash(number.to_string()), services, Timestamp(u64::MAX));
        self.apply(Command::CreateJoinToken { token });
        let outcome = self.apply(Command::Enrol {
            secret: SecretHash(number.to_string()),
            key: KeyFingerprint(number.to_string()),
            node: node(number),
            platform: Platform::Vm,
        });
        let Outcome::Enrolled { record } = outcome else { panic!("not enrolled: {outcome:?}") };
        self.opens(&record.id, holder);
        record.id
    }

    /// Lets an agent in that its platform vouches for, and that registers its node.
    fn admitted(&mut self, number: usize) -> AgentId {
        let agent = self.logs_in(number);
        self.opens(&agent, "a");
        agent
    }

    /// Lets an agent in that its platform vouches for.
    fn logs_in(&mut self, number: usize) -> AgentId {
        let method = Box::new(crate::login::testing::method(&crate::login::testing::Issuer::new()));
        self.apply(Command::Login { change: LoginChange::WriteMethod { method, replace: false } });
        let admission = Admission {
            method: "jwt".parse().unwrap(),
            subject: "web-7".to_owned(),
            judged_at: self.catalog.index(),
            services: vec!["web".parse().unwrap()],
            gateway: None,
            nodes: Vec::new(),
            bearer: SecretHash("bearer".to_owned()),
            provisional: None,
            bearer_ends: Timestamp(u64::MAX),
            is_of_one_key: false,
            key: KeyFingerprint(number.to_string()),
            node: node(number),
            platform: Platform::Vm,
        };
        let outcome = self.apply(Command::Login { change: LoginChange::Admit { admission: Box::new(admission) } });
        let Outcome::Enrolled { record } = outcome else { panic!("not admitted: {outcome:?}") };
        record.id
    }

    /// Puts this server's clock and the one in the log forward.
    fn set_clock(&mut self, to: Timestamp) {
        self.clock = to;
        while self.catalog.clock() < to {
            let pair = (format!("a{}", self.catalog.index()).parse().unwrap(), "web".parse().unwrap());
            let intention = Box::new(Intention::new(pair.0, pair.1, Action::Allow));
            self.apply(Command::WriteIntention { intention, mode: WriteMode::Upsert });
        }
    }

    fn opens(&mut self, agent: &AgentId, holder: &str) {
        let outcome = self.apply(Command::OpenSession { agent: agent.clone(), server: server(holder) });
        let Outcome::SessionOpened { incarnation } = outcome else { panic!("not opened: {outcome:?}") };
        if holder == "a" {
            self.open.insert(agent.clone(), incarnation);
        }
        let name = self.catalog.agent_record(agent).unwrap().node.clone();
        let node = Node {
            name,
            id: None,
            address: "10.0.0.1".to_owned(),
            platform: Platform::Vm,
            zone: None,
            network: String::new(),
            gateway_port: None,
            owner: Owner::Agent(agent.clone()),
            incarnation: Some(incarnation),
            meta: BTreeMap::new(),
            tagged_addresses: BTreeMap::new(),
            created: CatalogIndex(0),
            modified: CatalogIndex(0),
        };
        self.apply(Command::Register {
            node: Box::new(node),
            instances: Vec::new(),
            checks: Vec::new(),
            skip_node_update: false,
            incarnation: Some(incarnation),
        });
    }

    /// Lets time pass and returns what is proposed then.
    fn after(&mut self, time: Duration) -> Vec<Command> {
        self.now += time;
        let seen = Seen { catalog: &self.catalog, open: &self.open, heard: self.heard.as_ref(), clock: self.clock };
        self.machine.step(&seen, self.now)
    }

    /// Lets time pass in a look a second, carries out what is proposed, and returns how much that was.
    fn run(&mut self, time: Duration) -> usize {
        let mut count = 0;
        for _ in 0..time.as_secs() {
            let commands = self.after(Duration::from_secs(1));
            count += commands.len();
            for command in commands {
                command.validate().unwrap();
                self.apply(command);
            }
        }
        count
    }

    fn is_lost(&self, agent: &AgentId) -> bool {
        self.catalog.agent_record(agent).unwrap().presence.lost_at.is_some()
    }

    /// Names the nodes whose sessions `weft status` shows as lost.
    fn shown_as_lost(&self) -> Vec<String> {
        MeshStatus::new(server("a"), None, &self.catalog, self.clock).sessions_lost
    }

    fn has_node(&self, number: usize) -> bool {
        self.catalog.node(&node(number)).is_some()
    }
}

#[test]
fn fault_26_a_servers_own_session_is_lost_after_the_grace_period_and_its_node_goes_after_the_second() {
    let mut world = World::new();
    let agent = world.agent(1, "a");
    assert_eq!(world.run(GRACE * 3), 0, "it is open");
    world.open.clear();
    assert_eq!(world.run(GRACE), 0);
    assert_eq!(world.shown_as_lost(), Vec::<String>::new());
    assert_eq!(world.run(GRACE), 1);
    assert!(world.is_lost(&agent) && world.has_node(1));
    assert_eq!(world.shown_as_lost(), ["n1"]);
    assert_eq!(world.run(REAP), 1);
    assert!(!world.has_node(1));
    assert_eq!(world.shown_as_lost(), Vec::<String>::new(), "what is gone is nobody's loss");
    assert_eq!(world.run(REAP), 0, "it is gone, and stays so");
}

#[test]
fn an_agent_that_comes_back_within_the_grace_period_was_never_away() {
    let mut world = World::new();
    let agent = world.agent(1, "a");
    for _ in 0..5 {
        world.open.clear();
        assert_eq!(world.run(GRACE - Duration::from_secs(2)), 0);
        world.opens(&agent, "a");
        assert_eq!(world.run(Duration::from_secs(2)), 0);
    }
    // It may come back elsewhere, too: that server speaks for it then.
    world.open.clear();
    world.opens(&agent, "b");
    assert_eq!(world.run(GRACE * 3), 0);
}

#[test]
fn the_leader_speaks_for_the_sessions_of_a_server_that_it_does_not_hear() {
    let mut world = World::new();
    let (here, there) = (world.agent(1, "a"), world.agent(2, "b"));
    assert_eq!(world.run(GRACE * 3), 0);
    world.heard = Some(BTreeSet::from([server("a")]));
    world.run(GRACE * 2);
    assert!(!world.is_lost(&here) && world.is_lost(&there));
    world.opens(&there, "a");
    assert!(!world.is_lost(&there));
    // Whoever does not lead says nothing of others, and removes nothing.
    world.opens(&there, "b");
    world.heard = None;
    assert_eq!(world.run(REAP * 2), 0);
}

#[test]
fn a_leader_that_is_new_waits_as_if_it_had_just_noticed() {
    let mut world = World::new();
    let agent = world.agent(1, "b");
    world.heard = Some(BTreeSet::from([server("a")]));
    assert_eq!(world.run(GRACE - Duration::from_secs(1)), 0);
    world.heard = None;
    assert_eq!(world.run(GRACE), 0);
    world.heard = Some(BTreeSet::from([server("a")]));
    assert_eq!(world.run(GRACE), 0);
    world.run(Duration::from_secs(2));
    assert!(world.is_lost(&agent));
}

#[test]
fn many_agents_that_seem_gone_at_once_keep_their_nodes() {
    let mut world = World::new();
    let agents: Vec<AgentId> = (0..30).map(|number| world.agent(number, "a")).collect();
    for agent in &agents[..20] {
        world.open.remove(agent);
    }
    world.run(GRACE * 2 + REAP * 2);
    assert!(world.machine.is_holding());
    assert!((0..30).all(|number| world.has_node(number)) && world.is_lost(&agents[0]));
    for agent in &agents[..10] {
        world.opens(agent, "a");
    }
    world.run(Duration::from_secs(2));
    assert!(!world.machine.is_holding());
    assert!((0..30).all(|number| world.has_node(number) != (10..20).contains(&number)));
}

#[test]
fn a_revocation_is_forgotten_when_no_certificate_is_left_for_it_by_either_clock() {
    let mut world = World::new();
    let agent = world.agent(1, "a");
    // The log notes when somebody was revoked from the first command on that the first release does not know.
    world.apply(Command::Revoke { change: RevocationChange::Service { service: "web".parse().unwrap() } });
    world.apply(Command::RevokeAgent { agent: agent.clone() });
    let end = Timestamp(1).saturating_add(TTL + FORGET_AFTER + Duration::from_secs(1));
    // This server's clock alone is ahead.
    world.clock = end;
    assert_eq!(world.after(Duration::from_secs(1)), []);
    // The time in the log follows, a little with every command.
    world.set_clock(end);
    world.clock = Timestamp(1);
    assert_eq!(world.after(Duration::from_secs(1)), [], "the log alone is ahead");
    world.clock = end;
    assert_eq!(world.run(Duration::from_secs(2)), 1);
    assert!(!world.catalog.is_revoked(agent.index()) && world.catalog.revoked_services().next().is_none());
}

#[test]
fn c14_a_revoked_service_stays_so_for_as_long_as_a_record_of_then_lives() {
    let mut world = World::new();
    let (gone, stays) = (world.agent(1, "a"), world.agent(2, "a"));
    let web = "web".parse().unwrap();
    world.apply(Command::Revoke { change: RevocationChange::Service { service: "web".parse().unwrap() } });
    world.apply(Command::RevokeAgent { agent: gone.clone() });
    let later = world.agent(3, "a");
    world.set_clock(Timestamp(1).saturating_add(2 * (TTL + FORGET_AFTER)));
    assert_eq!(world.run(Duration::from_secs(5)), 1, "of the agent that is gone no certificate is left");
    assert!(!world.catalog.is_revoked(gone.index()));
    assert!(world.catalog.is_service_revoked(&web, stays.index()), "it would be signed new ones");
    assert!(!world.catalog.is_service_revoked(&web, later.index()));
    world.apply(Command::RevokeAgent { agent: stays });
    assert_eq!(world.run(Duration::from_secs(5)), 1);
    assert!(world.catalog.revoked_services().next().is_none(), "who came later holds nothing back");
}

#[test]
fn a_node_that_was_deregistered_already_is_not_removed_again() {
    let mut world = World::new();
    let agent = world.agent(1, "a");
    let incarnation = world.catalog.agent_record(&agent).unwrap().incarnation;
    world.apply(Command::Deregister { node: node(1), target: DeregisterTarget::Node, incarnation });
    world.open.clear();
    assert_eq!(world.run(GRACE * 2 + REAP * 2), 1, "its loss is noted, and there is nothing to remove");
}

#[test]
fn a_record_that_came_of_a_login_ends_when_none_of_its_certificates_is_left_and_another_does_not() {
    let mut world = World::new();
    let (enrolled, admitted) = (world.agent(1, "a"), world.admitted(2));
    world.open.clear();
    world.run(GRACE * 2 + REAP * 2);
    assert!(!world.has_node(1) && !world.has_node(2));
    world.set_clock(Timestamp(2).saturating_add(REAP + TTL / 2));
    assert_eq!(world.run(Duration::from_secs(2)), 0, "its certificates still live");
    world.set_clock(Timestamp(2).saturating_add(REAP + TTL));
    assert_eq!(world.run(Duration::from_secs(2)), 1);
    assert!(world.catalog.agent_record(&enrolled).is_some(), "what an operator let in stays");
    assert!(world.catalog.agent_record(&admitted).is_none());
}

#[test]
fn a_record_of_a_login_that_never_opened_a_session_ends_when_its_certificate_has() {
    let mut world = World::new();
    let unused = world.logs_in(2);
    assert_eq!(world.run(REAP + TTL), 0, "its certificate still lives");
    assert_eq!(world.run(Duration::from_secs(2)), 1);
    assert!(world.catalog.agent_record(&unused).is_none() && world.catalog.is_revoked(unused.index()));

    // One that opens its session late, but in time, is like any other.
    let mut world = World::new();
    let late = world.logs_in(2);
    assert_eq!(world.run(REAP), 0);
    world.opens(&late, "a");
    assert_eq!(world.run(REAP + TTL + TTL), 0);
    assert!(world.catalog.agent_record(&late).is_some());
}
