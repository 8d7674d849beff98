//! The simulator: real rooms, one thread, a virtual clock, and a seed that decides everything that goes wrong.
//!
//! `SEED=7 cargo test --test it sim::` replays one seed and prints what happens; `WEFT_TEST_SCALE=full` runs many more.

mod checks;
mod clients;
mod disk;
mod faults;
mod mesh;
mod network;
mod random;
mod schedule;
mod servers;
mod trace;

use std::panic::{AssertUnwindSafe, catch_unwind};

use checks::Violation;
use mesh::{Mesh, Plan, Summary};

/// How many seeds a run tries: few enough for every build, or as many as somebody is willing to wait for.
fn seeds(few: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("SEED") {
        Some(seed) => vec![seed],
        None if std::env::var("WEFT_TEST_SCALE").as_deref() == Ok("full") => (0..few * 50).collect(),
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
    for seed in seeds(200) {
        let summary = holds(seed, Plan { servers: 3, ..Plan::default() });
        if seed % 100 == 0 {
            assert_eq!(summary, holds(seed, Plan { servers: 3, ..Plan::default() }), "seed {seed} is not repeatable");
        }
        total.add(&summary);
    }
    // What never happens is not tested.
    let Summary { acknowledged, reads, leaders, crashes, restored, .. } = total;
    assert!([acknowledged, reads, leaders, crashes, restored].iter().all(|count| *count > 0), "{total:?}");
}

#[test]
fn p1_p2_fault_8_five_servers_agree_whatever_fails() {
    for seed in seeds(40) {
        holds(seed, Plan { servers: 5, ..Plan::default() });
    }
}

#[test]
fn a_server_alone_keeps_what_it_acknowledged() {
    for seed in seeds(20) {
        holds(seed, Plan { servers: 1, ..Plan::default() });
    }
}

#[test]
fn without_faults_everything_is_acknowledged_under_one_leader() {
    for seed in seeds(10) {
        let summary = holds(seed, Plan { servers: 3, has_faults: false, ..Plan::default() });
        assert_eq!(summary.leaders, 1, "seed {seed}: nothing made a leader lose its office");
        assert!(summary.acknowledged > 50, "seed {seed}: {summary:?}");
    }
}

#[test]
fn a_disk_that_does_not_sync_is_caught() {
    let caught = (0..10)
        .filter(|seed| run(*seed, Plan { servers: 3, has_honest_disks: false, ..Plan::default() }).is_err())
        .count();
    assert!(caught >= 8, "only {caught} of 10 seeds saw that synced data were lost");
}
