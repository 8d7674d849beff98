//! Whatever happens, in whatever order, the agent ends equal to the servers.

use catalog::{Action, CheckStatus, Command, Node, Owner};
use proptest::prelude::*;

use super::super::model::intend;
use super::super::*;
use super::world::{World, check, desired, instance, node};

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
