//! The simulator: real rooms, one thread, a virtual clock, and a seed that decides everything that goes wrong.
//!
//! `SEED=7 cargo test --test it sim::` replays one seed and prints what happens; `WEFT_TEST_SCALE=full` runs many more.

mod agents;
mod authority;
mod backups;
mod checks;
mod clients;
mod connections;
mod disk;
mod errands;
mod faults;
mod group;
mod history;
mod hours;
mod hubs;
mod lasting;
mod leaves;
mod logins;
mod machines;
mod mesh;
mod network;
mod operator;
mod plan;
mod policy;
mod random;
mod rebuilt;
mod recovery;
mod schedule;
mod servers;
mod sessions;
mod streams;
mod trace;
mod views;

use std::panic::{AssertUnwindSafe, catch_unwind};

use checks::Violation;
use mesh::Mesh;
use plan::{Lasting, Plan, Planted, Summary};
use views::Counts;

/// How many seeds a run tries: few enough for every build, or as many as somebody is willing to wait for.
fn seeds(few: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("SEED") {
        Some(seed) => vec![seed],
        None if std::env::var("WEFT_TEST_SCALE").as_deref() == Ok("full") => (0..few * 20).collect(),
        None => (0..few).collect(),
    }
}

/// Runs one seed; a panic of a room is a violation like any other.
fn run(seed: u64, plan: Plan) -> Result<Summary, Violation> {
    let outcome = catch_unwind(AssertUnwindSafe(|| Mesh::new(seed, plan).run()));
    outcome.unwrap_or_else(|_| Err(Violation("a room panicked; its message stands above".to_owned())))
}

#[track_caller]
fn holds(seed: u64, plan: Plan) -> Summary {
    match run(seed, plan) {
        Ok(summary) => summary,
        Err(violation) => {
            panic!("seed {seed}: {violation}\nreplay it with SEED={seed} cargo test --test it sim:: -- --nocapture")
        }
    }
}

#[test]
fn p1_p2_fault_10_three_servers_agree_whatever_fails() {
    let mut total = Summary::default();
    let seeds = seeds(200);
    for &seed in &seeds {
        let summary = holds(seed, Plan { servers: 3, ..Plan::default() });
        if seed % 100 == 0 {
            assert_eq!(summary, holds(seed, Plan { servers: 3, ..Plan::default() }), "seed {seed} is not repeatable");
        }
        total.add(&summary);
    }
    // What never happens is not tested; one replayed seed may well do without.
    let Summary { acknowledged, reads, leaders, crashes, restored, .. } = total;
    let happened = [acknowledged, reads, leaders, crashes, restored].iter().all(|count| *count > 0);
    assert!(happened || seeds.len() == 1, "{total:?}");
}

#[test]
fn p1_p2_fault_8_five_servers_agree_whatever_fails() {
    for seed in seeds(40) {
        holds(seed, Plan { servers: 5, ..Plan::default() });
    }
}

/// Servers that join, leave, lose their disks and are replaced.
const CHANGING: Plan = Plan { has_membership: true, trouble: std::time::Duration::from_secs(60), ..Plan::DEFAULT };

#[test]
fn r9_p1_p2_a_group_whose_servers_come_and_go_agrees_whatever_fails() {
    let mut total = Summary::default();
    for seed in seeds(12) {
        let summary = holds(seed, CHANGING);
        if seed % 100 == 0 {
            assert_eq!(summary, holds(seed, CHANGING), "seed {seed} is not repeatable");
        }
        total.add(&summary);
    }
    let seen = ["a server joins", "a learner votes", "a server is taken out", "a leader gives way"];
    let happened = seen.iter().all(|step| total.steps.contains_key(step));
    assert!(std::env::var_os("SEED").is_some() || happened, "{:?} {:?}", total.steps, total.faults);
}

#[test]
fn a_server_alone_keeps_what_it_acknowledged() {
    for seed in seeds(20) {
        holds(seed, Plan { servers: 1, ..Plan::default() });
    }
}

#[test]
fn without_faults_everything_is_acknowledged_under_one_leader() {
    for seed in seeds(4) {
        let summary = holds(seed, Plan { servers: 3, has_faults: false, ..Plan::default() });
        assert_eq!(summary.leaders, 1, "seed {seed}: nothing made a leader lose its office");
        assert!(summary.acknowledged > 50, "seed {seed}: {summary:?}");
    }
}

/// A plan in which nothing goes wrong but this, for so many seconds.
fn lasting(lasting: Lasting, seconds: u64) -> Plan {
    Plan { has_faults: false, lasting, trouble: std::time::Duration::from_secs(seconds), ..Plan::default() }
}

#[test]
fn fault_9_a_flapping_link_makes_no_leader_after_the_other() {
    for seed in seeds(1) {
        let summary = holds(seed, lasting(Lasting::FlappingLink, 120));
        // One to begin with, and one a minute.
        assert!(summary.leaders <= 3 && summary.term <= 5, "seed {seed}: {summary:?}");
        assert!(summary.acknowledged > 500, "seed {seed}: {summary:?}");
    }
}

#[test]
fn fault_13_a_follower_with_a_slow_disk_slows_no_commit_and_never_leads() {
    for seed in seeds(1) {
        let quick = holds(seed, lasting(Lasting::Nothing, 40));
        let slow = holds(seed, lasting(Lasting::SlowFollower, 40));
        // The leader and the quick follower are a majority, and the leader waits for nobody else.
        assert!(
            slow.acknowledged * 10 >= quick.acknowledged * 9,
            "seed {seed}: {slow:?} where nobody is slow {quick:?}"
        );
        assert_eq!((slow.leaders, slow.late), (1, 0), "seed {seed}: {slow:?}");
    }
}

#[test]
fn fault_21_servers_that_restart_one_after_the_other_lose_nothing_and_fail_few_writes() {
    // An hour of it in the long run of the tests.
    let seconds = if std::env::var("WEFT_TEST_SCALE").as_deref() == Ok("full") { 3600 } else { 120 };
    let summary = holds(1, lasting(Lasting::RollingRestarts, seconds));
    assert!(summary.crashes >= seconds / 20 - 1, "{summary:?}");
    assert!(summary.late * 100 <= summary.acknowledged, "more than one write in a hundred was late: {summary:?}");
}

/// Counts the seeds of a plan with a bug in which one of these sentences is what a run ends with: a bug is caught by the check
/// that is there for it, not by some other.
fn caught(seeds: u64, plan: Plan, sentences: &[&str]) -> usize {
    let says = |violation: &Violation| sentences.iter().any(|sentence| violation.0.contains(sentence));
    (0..seeds).filter(|seed| run(*seed, plan).is_err_and(|violation| says(&violation))).count()
}

#[test]
fn a_disk_that_does_not_sync_is_caught() {
    let plan = Plan { servers: 3, has_honest_disks: false, ..Plan::default() };
    // What is lost may be so much that a server does not start, or a file that nobody was answered by.
    let caught = caught(20, plan, &["forgot what it had answered"]);
    assert!(caught >= 3, "only {caught} of 20 seeds saw that a server came back with less than it had answered");
    let seen = (0..10).filter(|seed| run(*seed, plan).is_err()).count();
    assert!(seen >= 8, "only {seen} of 10 seeds saw that synced data were lost");
}

#[test]
fn reads_that_do_not_ask_the_leader_are_caught() {
    let plan = Plan { planted: Planted::ReadsStale, ..Plan::default() };
    let caught = caught(20, plan, &["the history of"]);
    assert!(caught >= 5, "only {caught} of 20 seeds saw a stale read");
}

#[test]
fn writes_that_are_answered_before_they_are_committed_are_caught() {
    let plan = Plan { planted: Planted::AnswersBeforeCommit, ..Plan::default() };
    let caught = caught(20, plan, &["is lost on server", "the history of"]);
    assert!(caught >= 10, "only {caught} of 20 seeds saw that an answered write was lost");
}

/// Agents beside servers, and few other clients.
const AGENTS: Plan = Plan { agents: 4, clients: 2, ..Plan::DEFAULT };

#[test]
fn p3_c14_agents_hold_what_the_servers_hold_whatever_fails() {
    let mut total = Summary::default();
    for seed in seeds(20) {
        let summary = holds(seed, AGENTS);
        if seed % 100 == 0 {
            assert_eq!(summary, holds(seed, AGENTS), "seed {seed} is not repeatable");
        }
        total.add(&summary);
    }
    if std::env::var_os("SEED").is_none() {
        let Counts { resumed, written, fenced, superseded, revoked, agent_crashes, left, .. } = total.streams;
        let seen = [resumed, written, fenced, superseded, revoked, agent_crashes, left];
        let certificates = [true, false].map(|is_signed| total.certificates.contains_key(&is_signed));
        assert!(seen.iter().all(|count| *count > 0) && certificates == [true; 2], "{total:?}");
    }
}

#[test]
fn an_event_that_is_lost_on_the_way_is_missed_and_asked_for_again() {
    let mut total = Summary::default();
    for seed in seeds(6) {
        total.add(&holds(seed, Plan { planted: Planted::LosesAnEvent, ..AGENTS }));
    }
    let Counts { lost, noticed, .. } = total.streams;
    assert!(std::env::var_os("SEED").is_some() || (lost > 0 && noticed > 0), "{total:?}");
}

#[test]
fn a_last_event_that_is_lost_on_the_way_is_caught() {
    for seed in seeds(2) {
        let plan = Plan { planted: Planted::LosesTheLastEvent, ..AGENTS };
        let violation = run(seed, plan).expect_err("an agent holds something else than the servers");
        assert!(violation.0.contains("and servers hold"), "seed {seed}: {violation}");
    }
}

#[test]
fn servers_that_let_older_sessions_write_are_caught() {
    let plan = Plan { planted: Planted::ForgetsFences, ..AGENTS };
    let is_its_own =
        |violation: Violation| ["overwrote node", "went from version"].iter().any(|says| violation.0.contains(says));
    let is_caught = (0..100).any(|seed| run(seed, plan).is_err_and(is_its_own));
    assert!(is_caught, "no seed saw that an older session overwrote a newer one");
}

/// As before, with certificates that live for seconds and an authority that is rotated again and again.
const ROTATING: Plan = Plan { rotates: true, trouble: std::time::Duration::from_secs(45), ..AGENTS };

#[test]
fn p6_fault_23_rotations_fail_no_handshake_whichever_leader_dies() {
    let mut total = Summary::default();
    for seed in seeds(8) {
        let summary = holds(seed, ROTATING);
        if seed % 100 == 0 {
            assert_eq!(summary, holds(seed, ROTATING), "seed {seed} is not repeatable");
        }
        total.add(&summary);
    }
    let steps = ["a new root is distributed", "a new root signs", "a rotation ends", "a root is retired"];
    let deaths = ["the leader dies while a new root is distributed", "the leader dies while leaves are signed anew"];
    let happened = steps.iter().all(|step| total.steps.contains_key(step))
        && deaths.iter().all(|death| total.faults.contains_key(death))
        && total.streams.handshakes > 0;
    assert!(std::env::var_os("SEED").is_some() || happened, "{total:?}");
}

#[test]
fn rotations_that_wait_for_nobody_are_caught() {
    let plan = Plan { planted: Planted::HurriesRotations, ..ROTATING };
    let caught =
        (0..12).filter(|seed| run(*seed, plan).is_err_and(|violation| violation.0.contains("recognise"))).count();
    assert!(caught >= 2, "only {caught} of 12 seeds saw that agents did not recognise each other");
}

/// As before, with sessions that are given up, nodes that leave, guardrails, relaxations and revoked services.
const EVERYTHING: Plan = Plan { gives_up: true, has_policy: true, ..ROTATING };

#[test]
fn p5_p7_c14_policy_is_never_wider_and_every_leaf_is_entitled_whatever_fails() {
    let mut total = Summary::default();
    for seed in seeds(6) {
        let summary = holds(seed, EVERYTHING);
        if seed % 100 == 0 {
            assert_eq!(summary, holds(seed, EVERYTHING), "seed {seed} is not repeatable");
        }
        total.add(&summary);
    }
    let steps = [
        "sessions are given up",
        "nodes leave whose agents stay away",
        "an agent says that it shuts down",
        "a rotation ends",
    ];
    let happened = steps.iter().all(|step| total.steps.contains_key(step)) && total.streams.decided > 0;
    assert!(std::env::var_os("SEED").is_some() || happened, "{total:?}");
}

/// As before, with agents that their platform vouches for.
const LOGGING_IN: Plan = Plan { logs_in: true, ..EVERYTHING };

#[test]
fn agents_that_their_platform_vouches_for_log_in_again_whatever_fails() {
    let mut total = Summary::default();
    for seed in seeds(2) {
        let summary = holds(seed, LOGGING_IN);
        if seed % 100 == 0 {
            assert_eq!(summary, holds(seed, LOGGING_IN), "seed {seed} is not repeatable");
        }
        total.add(&summary);
    }
    let steps = ["records end whose agents stay away", "an agent logs in again"];
    let happened = steps.iter().all(|step| total.steps.contains_key(step));
    assert!(std::env::var_os("SEED").is_some() || happened, "{total:?}");
}

/// All of it at once: agents, rotations and policy, over servers that join, leave and are replaced.
const TOGETHER: Plan = Plan { has_membership: true, trouble: std::time::Duration::from_secs(60), ..EVERYTHING };

#[test]
fn r9_p5_p6_agents_follow_a_group_whose_servers_come_and_go_whatever_fails() {
    let mut total = Summary::default();
    for seed in seeds(1) {
        total.add(&holds(seed, TOGETHER));
    }
    let happened = total.steps.contains_key("a server joins") && total.streams.decided > 0;
    assert!(std::env::var_os("SEED").is_some() || happened, "{total:?}");
}

#[test]
fn p5_agents_that_go_by_each_topic_as_it_comes_are_caught() {
    let plan = Plan { planted: Planted::SettlesNothing, ..EVERYTHING };
    let is_caught = |seed: u64| run(seed, plan).is_err_and(|violation| violation.0.contains("lets"));
    // It is rare: an agent must come back after several changes, and hear of some of them late.
    let mut seeds = std::iter::once(24).chain(0..40);
    assert!(seeds.any(is_caught), "no seed saw that agents let through what was never committed");
}

#[test]
fn without_faults_no_session_is_given_up() {
    // The operator replaces agents, and each leaves its session to the next one.
    for seed in seeds(1) {
        let summary = holds(seed, Plan { gives_up: true, has_faults: false, ..AGENTS });
        // One agent goes for good in the end.
        assert!(
            summary.steps.get("sessions are given up").is_some_and(|count| *count <= 2),
            "seed {seed}: {summary:?}"
        );
    }
}

#[test]
fn sessions_that_are_given_up_too_soon_or_never_are_caught() {
    for planted in [Planted::GivesUpOpenSessions, Planted::GivesNobodyUp] {
        let plan =
            Plan { planted, has_faults: false, gives_up: true, trouble: std::time::Duration::from_secs(10), ..AGENTS };
        let violation = run(1, plan).expect_err("sessions are given up too soon, or never");
        let says = ["without faults", "is still there", "without any cause"];
        assert!(says.iter().any(|says| violation.0.contains(says)), "{planted:?}: {violation}");
    }
}

#[test]
fn agents_that_decide_by_less_than_they_were_told_are_caught() {
    let plan = Plan { planted: Planted::ForgetsGuardrails, has_policy: true, ..AGENTS };
    let caught = (0..6).filter(|seed| run(*seed, plan).is_err_and(|violation| violation.0.contains("lets"))).count();
    assert!(caught >= 3, "only {caught} of 6 seeds saw that agents let through what a guardrail refuses");
}
