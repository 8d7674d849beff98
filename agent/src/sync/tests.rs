//! What the machine promises, told against a model of servers.

mod chances;
mod settling;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use catalog::{Action, CatalogIndex, CheckStatus, Incarnation, Outcome, Refusal};
use wire::agent_protocol::AgentWrite;

use self::world::{World, check, desired, instance, services, serving};
use super::model::{Cluster, intend, topics};
use super::*;

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
    let resumed =
        |output: &Output| matches!(output, Output::Send { frame: ClientFrame::Subscribe { from: Some(_), .. }, .. });
    assert_eq!(world.count(resumed), topics().len());
    let published = world.count(|output| matches!(output, Output::Publish(_)));
    assert_eq!(published, 1, "only the topic that changed is news");
}

#[test]
fn c13_whoever_is_sent_away_turns_to_another_server_and_comes_back_when_told() {
    let (mut world, wanted) = serving(2);
    let (attempt, busy) = world.connected.unwrap();
    world.cut();
    world.feed(Input::SentAway { attempt, retry_after: Duration::from_secs(8) });
    world.pass(Duration::from_secs(1));
    let (attempt, other) = world.connected.unwrap();
    assert_ne!(other, busy, "there is another server");
    world.assert_registered(&wanted);

    world.seen.clear();
    let sent_away = world.now;
    world.cut();
    world.feed(Input::SentAway { attempt, retry_after: Duration::from_secs(20) });
    while world.connected.is_none() {
        world.pass(Duration::from_millis(100));
    }
    let waited = world.now - sent_away;
    assert_eq!(world.connected.unwrap().1, busy, "its time is over first");
    assert!(waited >= Duration::from_secs(6) && waited <= Duration::from_secs(11), "{waited:?}");
    assert_eq!(world.count(|output| matches!(output, Output::Connect { .. })), 1, "nobody was tried before");
}

#[test]
fn fault_11_an_agent_that_knows_more_than_a_recovered_group_starts_over_and_agrees() {
    let (mut world, mut wanted) = serving(2);
    world.cluster.commit(intend("kept", "web", Action::Allow));
    let gone = instance("api", "old", 9);
    wanted.instances.insert(gone.key.clone(), gone.clone());
    world.desire(wanted.clone());
    world.pass(Duration::from_secs(2));
    world.assert_registered(&wanted);
    let survivor_knows = world.cluster.leader().index();
    // The survivor hears of none of this: what was allowed, what went and what came.
    world.cluster.commit(intend("lost", "web", Action::Allow));
    wanted.instances.remove(&gone.key);
    let new = instance("api", "new", 10);
    wanted.instances.insert(new.key.clone(), new);
    world.desire(wanted.clone());
    for number in 0..20 {
        world.cluster.commit(intend(&format!("lost-{number}"), "web", Action::Allow));
    }
    world.pass(Duration::from_secs(2));
    world.assert_registered(&wanted);
    let rules = |world: &World| world.published[&Topic::Intentions("web".parse().unwrap())].items.len();
    assert_eq!(rules(&world), 22);

    let attempt = world.connected.unwrap().0;
    world.cut();
    world.cluster.recover(survivor_knows);
    world.highest.clear();
    world.seen.clear();
    world.feed(Input::Closed { attempt });
    assert_eq!(rules(&world), 22, "what is held stays in force until it is told anew");
    world.pass(Duration::from_secs(3));
    world.assert_in_step();
    assert_eq!(rules(&world), 1);
    world.assert_registered(&wanted);
    assert_eq!(world.count(|output| matches!(output, Output::Connect { .. })), 1, "it goes to and fro");
    let removes_node = |output: &Output| match output {
        Output::Write { request, .. } => {
            matches!(&request.command, AgentWrite::Deregister { target: catalog::DeregisterTarget::Node, .. })
        }
        _ => false,
    };
    assert_eq!(world.count(removes_node), 0, "the node was gone for a moment");
    // From now on it goes on as ever.
    world.cluster.commit(intend("later", "web", Action::Allow));
    world.settle();
    world.assert_in_step();
}

#[test]
fn fault_11_a_server_of_an_older_epoch_or_another_cluster_is_left_and_a_restart_on_the_way_loses_nothing() {
    let (mut world, _) = serving(1);
    let before = world.sync.group().cloned().unwrap();
    let newer = GroupEpoch { epoch: before.epoch + 1, ..before.clone() };
    let welcome = |group: &GroupEpoch| ServerFrame::Welcome {
        incarnation: Incarnation(9),
        server: "server-0".parse().unwrap(),
        servers: Vec::new(),
        group: Some(group.clone()),
        knows: Capabilities::ours(),
    };
    let attempt = world.connected.unwrap().0;
    world.said.clear();
    world.feed(Input::Frame { attempt, frame: welcome(&newer) });
    assert_eq!(world.said.len(), topics().len(), "every topic is asked for again");
    // Nothing of it is there yet: whoever starts from what is kept now must start over, too.
    assert_eq!(world.sync.group(), Some(&before));
    let elsewhere = GroupEpoch { cluster_id: "other".to_owned(), ..newer.clone() };
    for wrong in [&before, &elsewhere] {
        if world.connected.is_none() {
            world.now += Duration::from_secs(20);
            world.feed(Input::Tick);
        }
        world.seen.clear();
        let attempt = world.connected.unwrap().0;
        world.feed(Input::Connected { attempt });
        world.feed(Input::Frame { attempt, frame: welcome(wrong) });
        let left = |output: &Output| {
            let Output::Disconnect { reason, .. } = output else { return false };
            matches!(reason, Lost::OldGroup { .. } | Lost::OtherGroup { .. })
        };
        assert_eq!(world.count(left), 1, "{wrong:?} is followed");
        world.feed(Input::Closed { attempt });
    }
}

#[test]
fn servers_that_come_and_go_are_learned_during_a_session() {
    let (mut world, _) = serving(1);
    world.seen.clear();
    let attempt = world.connected.unwrap().0;
    let servers = vec!["server-0:8300".to_owned(), "server-7:8300".to_owned()];
    for _ in 0..2 {
        world.feed(Input::Frame { attempt, frame: ServerFrame::Servers { servers: servers.clone() } });
    }
    assert_eq!(world.sync.servers(), servers);
    assert_eq!(world.count(|output| matches!(output, Output::Persist)), 1, "the same list is no news");
    assert_eq!(world.count(|output| matches!(output, Output::Disconnect { .. })), 0);
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
fn what_may_be_registered_is_on_disk_before_it_is_sent() {
    let (mut world, mut wanted) = serving(1);
    world.seen.clear();
    let more = instance("api", "api", 9);
    wanted.instances.insert(more.key.clone(), more.clone());
    world.disk_is_stuck = true;
    world.desire(wanted.clone());
    world.pass(Duration::from_secs(60));
    assert_eq!(world.count(|output| matches!(output, Output::Write { .. })), 0);
    assert!(world.sync.known().unwrap().instances.contains(&more.key), "it is what the disk is given");
    assert!(world.cluster.leader().instance(&more.key).is_none());
    world.disk_is_stuck = false;
    world.pass(Duration::from_secs(1));
    world.assert_registered(&wanted);
    // What it only says anew is there already.
    world.disk_is_stuck = true;
    wanted.instances.get_mut(&more.key).unwrap().tags.push("v2".to_owned());
    world.desire(wanted.clone());
    world.pass(Duration::from_secs(1));
    world.assert_registered(&wanted);
}

#[test]
fn fault_32_a_check_that_flaps_every_second_costs_few_writes() {
    let (mut world, mut wanted) = serving(1);
    world.seen.clear();
    for second in 0..120 {
        let status = if second % 2 == 0 { CheckStatus::Critical } else { CheckStatus::Passing };
        wanted.checks.values_mut().next().unwrap().status = status;
        world.desire(wanted.clone());
        world.pass(Duration::from_secs(1));
    }
    let writes = world.count(|output| matches!(output, Output::Write { .. }));
    assert!((2..=8).contains(&writes), "{writes} writes in two minutes");
    world.pass(Duration::from_secs(11));
    world.assert_registered(&wanted);
}

#[test]
fn fault_32_a_thousand_checks_that_flap_every_second_cost_few_writes() {
    let (mut world, _) = serving(1);
    let checks = (0..1_000).map(|number| check(Some("web"), &format!("alive-{number}"), CheckStatus::Passing));
    let mut wanted = desired(&world.cluster, vec![instance("web", "web", 8080)], checks.collect());
    world.desire(wanted.clone());
    world.pass(Duration::from_secs(10));
    world.assert_registered(&wanted);
    world.seen.clear();
    for second in 0..120 {
        for (place, check) in wanted.checks.values_mut().enumerate() {
            let is_ill = (second + place).is_multiple_of(2);
            check.status = if is_ill { CheckStatus::Critical } else { CheckStatus::Passing };
        }
        world.desire(wanted.clone());
        world.pass(Duration::from_secs(1));
    }
    // A write tells of some hundreds; each check costs what it costs alone.
    let writes = world.count(|output| matches!(output, Output::Write { .. }));
    assert!((2..=40).contains(&writes), "{writes} writes in two minutes");
    world.pass(Duration::from_secs(15));
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

fn invalid() -> Outcome {
    Outcome::Refused(Refusal::Invalid { field: "output".to_owned(), problem: "it is bad".to_owned() })
}

/// Makes every write that there is to make, and returns how long the longest is.
fn write_all(registrations: &mut Registrations) -> usize {
    let mut longest = 0;
    let mut now = Duration::ZERO;
    while let Some(write) = {
        now += Duration::from_secs(1);
        registrations.next(Incarnation(1), now)
    } {
        longest = longest.max(serde_json::to_vec(&write).unwrap().len());
        assert_eq!(registrations.answer(&Outcome::Done), Settled::Done);
    }
    longest
}

#[test]
fn only_a_session_that_is_over_is_taken_for_one() {
    let cluster = model::Cluster::new(1, &world::services());
    let checks = vec![check(Some("web"), "alive", CheckStatus::Passing)];
    let mut wanted = desired(&cluster, vec![instance("web", "web", 8080)], checks);
    let mut registrations = Registrations::new(Some(Known::default()));
    registrations.desire(wanted.clone(), Duration::ZERO);
    write_all(&mut registrations);
    wanted.checks.values_mut().next().unwrap().status = CheckStatus::Critical;
    registrations.desire(wanted.clone(), Duration::ZERO);
    assert!(matches!(registrations.next(Incarnation(1), Duration::ZERO), Some(AgentWrite::UpdateChecks { .. })));
    assert!(matches!(registrations.answer(&invalid()), Settled::Refused(_)));
    assert!(
        matches!(registrations.next(Incarnation(1), Duration::ZERO), Some(AgentWrite::Register { checks, .. }) if checks.len() == 1)
    );
    assert_eq!(registrations.answer(&Outcome::Done), Settled::Done);

    wanted.checks.clear();
    registrations.desire(wanted, Duration::ZERO);
    assert!(matches!(registrations.next(Incarnation(1), Duration::ZERO), Some(AgentWrite::Deregister { .. })));
    assert!(matches!(registrations.reject("no".to_owned()), Settled::Refused(_)));
    assert_eq!(registrations.next(Incarnation(1), Duration::ZERO), None, "it is not asked for at once again");
    registrations.forgive();
    assert!(matches!(registrations.next(Incarnation(1), Duration::ZERO), Some(AgentWrite::Deregister { .. })));
    let stale =
        Refusal::StaleIncarnation { node: "vm-1".parse().unwrap(), found: Incarnation(1), current: Incarnation(2) };
    assert_eq!(registrations.answer(&Outcome::Refused(stale)), Settled::Fenced);
}

#[test]
fn no_write_is_longer_than_servers_take() {
    let cluster = model::Cluster::new(1, &world::services());
    let instances = (1..=64).map(|n| {
        let mut instance = instance("web", &format!("web-{n}"), n);
        instance.meta = (0..64).map(|m| (format!("meta-{m}"), "m".repeat(512))).collect();
        instance
    });
    let checks = (1..=300).map(|n| {
        let mut check = check(None, &format!("check-{n}"), CheckStatus::Passing);
        check.output = "o".repeat(4096);
        check
    });
    let mut wanted = desired(&cluster, instances.collect(), checks.collect());
    let mut registrations = Registrations::new(Some(Known::default()));
    registrations.desire(wanted.clone(), Duration::ZERO);
    let longest = write_all(&mut registrations);
    assert!((256 * 1024..640 * 1024).contains(&longest), "{longest}");
    wanted.checks.values_mut().for_each(|check| check.status = CheckStatus::Critical);
    registrations.desire(wanted.clone(), Duration::ZERO);
    let longest = write_all(&mut registrations);
    assert!((256 * 1024..640 * 1024).contains(&longest), "{longest}");
    let known = registrations.known().unwrap();
    assert_eq!((known.instances.len(), known.checks.len()), (64, 300));
}

#[test]
fn leaving_takes_the_node_out_and_says_so() {
    let (mut world, wanted) = serving(1);
    world.seen.clear();
    world.feed(Input::Leave);
    world.settle();
    assert!(world.left);
    let written = world.seen.iter().filter_map(|output| match output {
        Output::Write { request, .. } => Some(matches!(request.command, AgentWrite::Drain { .. })),
        _ => None,
    });
    assert_eq!(written.collect::<Vec<_>>(), [true, false], "it is critical before it is gone");
    let draining = world.cluster.leader().agent_on(&wanted.node.name).unwrap().presence.draining;
    assert!(draining.is_some(), "what this session still had on its way registers nothing");
    assert!(world.cluster.leader().node(&wanted.node.name).is_none());
    assert_eq!(world.sync.known(), Some(Known::default()));
}

#[test]
fn fault_31_a_poisoned_update_keeps_the_last_good_state_and_is_asked_for_again() {
    let (mut world, _) = serving(1);
    let before = world.published.clone();
    world.poison = true;
    world.cluster.commit(intend("shop", "web", Action::Allow));
    world.settle();
    assert_eq!(world.count(|output| matches!(output, Output::Dropped { .. })), 1);
    let tells = |output: &Output| matches!(output, Output::Send { frame: ClientFrame::Rejected { .. }, .. });
    assert_eq!(world.count(tells), 1, "the server hears of it at once");
    assert_eq!(world.published, before);
    world.pass(Duration::from_secs(31));
    world.assert_in_step();
}

#[test]
fn fault_22_a_server_one_release_behind_is_told_nothing_that_it_does_not_know() {
    let mut cluster = Cluster::new(1, &services());
    cluster.knows = Capabilities::default();
    let start = Start { servers: vec!["server-0:8300".to_owned()], seed: 3, ..Start::default() };
    let mut world = World::with(cluster, start);
    let web: catalog::ServiceKey = "web".parse().unwrap();
    let later = [Topic::Config(web), Topic::Network("eu".to_owned())];
    let needs = |later: &[Topic]| Input::Needs(topics().into_iter().chain(later.iter().cloned()).collect());
    world.feed(needs(&later));
    world.pass(Duration::from_secs(1));
    world.poison = true;
    world.cluster.commit(intend("shop", "web", Action::Allow));
    world.settle();
    assert_eq!(world.count(|output| matches!(output, Output::Dropped { .. })), 1);
    world.feed(needs(&[]));
    let is_later = |output: &Output| match output {
        Output::Send { frame: ClientFrame::Rejected { .. }, .. } => true,
        Output::Send { frame: ClientFrame::Subscribe { topic, .. } | ClientFrame::Unsubscribe { topic }, .. } => {
            later.contains(topic)
        }
        _ => false,
    };
    assert_eq!(world.count(is_later), 0, "{:#?}", world.seen);
    world.pass(Duration::from_secs(31));
    world.assert_in_step();

    // The server was upgraded in the meantime: it is asked for everything, each once.
    world.cluster.knows = Capabilities::ours();
    world.feed(needs(&later));
    let (attempt, _) = world.connected.unwrap();
    world.cut();
    world.feed(Input::Closed { attempt });
    world.pass(Duration::from_secs(3));
    assert_eq!(world.count(is_later), later.len());
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

#[test]
fn p6_what_is_in_force_is_acknowledged_once_on_each_connection() {
    let (mut world, _) = serving(1);
    let roots = world.sync.view()[&Topic::Roots].index;
    let acknowledged = |output: &Output| matches!(output, Output::Send { frame: ClientFrame::Acknowledge { .. }, .. });
    assert_eq!(world.cluster.acknowledged, None, "what was only received is not in force");
    world.feed(Input::Enforced { renewed: false });
    world.feed(Input::Enforced { renewed: false });
    world.settle();
    assert_eq!(world.count(acknowledged), 1);
    assert_eq!(world.cluster.acknowledged, Some(RootsAck { roots, renewed: false }));
    world.feed(Input::Enforced { renewed: true });
    world.settle();
    assert_eq!(world.cluster.acknowledged, Some(RootsAck { roots, renewed: true }));
    let attempt = world.connected.unwrap().0;
    world.cut();
    world.cluster.acknowledged = None;
    world.feed(Input::Closed { attempt });
    world.pass(Duration::from_secs(1));
    world.settle();
    assert_eq!(world.cluster.acknowledged, Some(RootsAck { roots, renewed: true }), "another server is told, too");
}
