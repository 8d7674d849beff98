//! How servers join a cluster that exists, leave it, and are replaced.

use std::time::Duration;

use catalog::{Autopilot, CatalogIndex, Command, MemberRole, MembershipChange, Outcome, Topic};

use super::crowd::Crowd;
use super::harness::{Cluster, envelope, has, operator, register, soon};
use crate::FatalError;
use crate::consensus::{Answer, Asker, Consensus, Question, Role, steward};

/// Waits until `holds` does, looked at every few milliseconds.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), waiting).await.is_ok(), "not in time: {what}");
}

/// Lets newcomers vote after a tenth of a second.
async fn hurried(cluster: &Cluster, through: &str) {
    let autopilot = Autopilot { server_stabilization_time_ms: 100, ..Autopilot::default() };
    let change = MembershipChange::SetAutopilot { autopilot, compare: None };
    let outcome = steward::shell::propose(&cluster.consensus(through), change).await.unwrap();
    assert_eq!(outcome, Outcome::Done);
}

/// Returns the Raft ids that vote by what a server has applied.
fn voters(cluster: &Cluster, of: &str) -> Vec<u64> {
    cluster.consensus(of).group_for_tests().map(|group| group.voters).unwrap_or_default()
}

fn raft_id(cluster: &Cluster, by: &str, server: &str) -> u64 {
    let catalog = cluster.consensus(by).catalog();
    catalog.membership().member_named(&server.parse().unwrap()).unwrap().raft_id
}

/// Has a server taken out. A leader that has not heard the others for a second refuses: it is asked again.
async fn removed(through: &Consensus, raft_id: u64, by: Asker) {
    let is_going = || {
        let catalog = through.catalog();
        catalog.membership().member(raft_id).is_none_or(|member| member.role == MemberRole::Leaving)
    };
    let asking = async {
        // An answer may be lost with the leader that gave it.
        while through.ask_leader(Question::Remove { raft_id, by: by.clone() }).await != Ok(Answer::Done) && !is_going()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(asking).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r9_a_newcomer_joins_votes_and_the_leader_leaves_without_a_lost_write() {
    let mut cluster = Cluster::of_three().await;
    hurried(&cluster, "a").await;
    register(&cluster.consensus("a"), "before").await.unwrap();
    let stays = cluster.follower().await;
    let agents = super::crowd::enrol(&cluster.consensus("a"), &cluster.keys, 2).await;
    let agents = Crowd::start(&agents, &[cluster.servers[&stays].agent_address()], &[Topic::Roots]);
    agents.all("told of three", |one| one.session.is_some() && one.servers.len() == 3).await;
    cluster.start("d", |config| config.bootstrap_expect = 0).await;
    eventually("the newcomer to vote", || voters(&cluster, "d") == [1, 2, 3, 4]).await;
    agents.all("told of four", |one| one.servers.len() == 4).await;
    let newcomer = cluster.consensus("d");
    newcomer.read_index().await.unwrap();
    assert!(has(&newcomer.catalog(), "before"));
    register(&newcomer, "by-d").await.unwrap();
    eventually("all to be known", || newcomer.agent_addresses().len() == 4).await;

    let leader = cluster.leader().await;
    let other = cluster.follower().await;
    let leaving = raft_id(&cluster, &leader, &leader);
    let by = operator(&newcomer).await;
    let who = by.accessor.to_string();
    removed(&cluster.consensus(&other), leaving, by).await;
    newcomer.read_index().await.unwrap();
    let catalog = newcomer.catalog();
    let lines: Vec<&str> = catalog.audit_lines(CatalogIndex(0)).map(|line| &*line.text).collect();
    let removed = lines.iter().find(|line| line.contains(&format!("remove server number {leaving}")));
    let removed = removed.unwrap_or_else(|| panic!("the trail has no such line: {lines:?}"));
    assert!(removed.contains(&who) && removed.contains("192.0.2.9:1"), "it says who did it: {removed}");
    let ended = soon(cluster.servers[&leader].failed()).await;
    assert!(matches!(ended, FatalError::Left), "{ended}");
    cluster.stop(&leader).await;
    let rest: Vec<String> = cluster.servers.keys().cloned().collect();
    for name in &rest {
        eventually("the list and the group to be without it", || {
            let is_gone = cluster.consensus(name).catalog().membership().member(leaving).is_none();
            is_gone && voters(&cluster, name).len() == 3
        })
        .await;
        register(&cluster.consensus(name), &format!("after-by-{name}")).await.unwrap();
        eventually("its address to be gone", || cluster.consensus(name).agent_addresses().len() == 3).await;
    }

    agents.all("told of the three that are left", |one| one.servers.len() == 3 && one.opened == 1).await;

    // With the same disk it is nobody any more; with an empty one it is a newcomer.
    cluster.start(&leader, |_| ()).await;
    let ended = soon(cluster.servers[&leader].failed()).await;
    assert!(matches!(ended, FatalError::Left | FatalError::Refused { .. }), "{ended}");
    cluster.servers.remove(&leader);
    cluster.directories.remove(&leader);
    cluster.start(&leader, |config| config.bootstrap_expect = 0).await;
    eventually("it to vote again", || voters(&cluster, &leader).len() == 4).await;
    assert!(raft_id(&cluster, &leader, &leader) > 4, "a number is never used again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_19_a_lost_disk_is_replaced_under_a_new_name() {
    let mut cluster = Cluster::of_three().await;
    hurried(&cluster, "a").await;
    let lost = cluster.follower().await;
    cluster.stop(&lost).await;
    cluster.directories.remove(&lost);
    cluster.start(&lost, |config| config.bootstrap_expect = 3).await;
    let error = soon(cluster.servers[&lost].failed()).await.to_string();
    assert!(error.contains("start the new server under another --node"), "{error}");
    assert!(error.contains(&format!("`weft operator raft remove-peer {lost}`")), "{error}");
    assert_eq!(cluster.consensus(&lost).status().role, Role::Joining, "it must never vote");
    cluster.servers.remove(&lost);

    cluster.start("d", |config| config.bootstrap_expect = 0).await;
    eventually("the replacement to vote", || voters(&cluster, "d").len() == 4).await;
    let gone = raft_id(&cluster, "d", &lost);
    let by = operator(&cluster.consensus("d")).await;
    removed(&cluster.consensus("d"), gone, by).await;
    for name in cluster.servers.keys() {
        eventually("three to vote", || voters(&cluster, name).len() == 3).await;
        assert!(!voters(&cluster, name).contains(&gone));
    }
    register(&cluster.consensus("d"), "after").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r9_no_server_is_taken_out_where_the_rest_would_be_no_majority() {
    let mut cluster = Cluster::of_three().await;
    let (leader, dead) = (cluster.leader().await, cluster.follower().await);
    cluster.stop(&dead).await;
    let live = cluster.servers.keys().find(|name| **name != leader).unwrap().clone();
    let consensus = cluster.consensus(&live);
    let live_id = raft_id(&cluster, &leader, &live);
    let by = operator(&consensus).await;
    let mut refused = None;
    // The leader counts the dead one as heard for a second.
    let asking = async {
        while refused.is_none() {
            match consensus.ask_leader(Question::Health).await.unwrap() {
                Answer::Health(health) if health.tolerance() == 0 => {
                    let question = Question::Remove { raft_id: live_id, by: by.clone() };
                    let answer = consensus.ask_leader(question).await.unwrap();
                    refused = Some(answer);
                }
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    soon(asking).await;
    let Some(Answer::Refused { reason }) = refused else { panic!("not refused: {refused:?}") };
    assert!(reason.contains("which is no majority"), "{reason}");
    let catalog = consensus.catalog();
    assert_eq!(catalog.membership().member(live_id).unwrap().role, MemberRole::Voter);
    register(&consensus, "goes-on").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_where_it_is_sent() {
    let cluster = Cluster::of_three().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let to = raft_id(&cluster, &leader, &follower);
    let asked = cluster.consensus(&follower);
    let by = operator(&asked).await;
    soon(async {
        loop {
            // A follower that was never heard by this leader cannot take over.
            let answer = asked.ask_leader(Question::TransferLeader { to: Some(to), by: by.clone() }).await;
            if answer == Ok(Answer::Done) && asked.status().role == Role::Leader {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    asked.read_index().await.unwrap();
    let catalog = asked.catalog();
    let asked_for = |line: &catalog::AuditLine| {
        line.text.contains(&format!("hand leadership to server number {to}"))
            && line.text.contains(&by.accessor.to_string())
    };
    assert!(catalog.audit_lines(CatalogIndex(0)).any(asked_for), "the trail says who asked for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_was_taken_away_moves_no_server() {
    let cluster = Cluster::of_three().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let (asked, to) = (cluster.consensus(&follower), raft_id(&cluster, &leader, &follower));
    let (kept, gone) = (operator(&asked).await, operator(&asked).await);
    let delete = Command::DeleteToken { accessor: gone.accessor.clone() };
    assert_eq!(asked.propose(envelope(delete)).await.unwrap().outcome, Outcome::Done);
    for question in
        [Question::Remove { raft_id: to, by: gone.clone() }, Question::TransferLeader { to: Some(to), by: gone }]
    {
        // Whichever server is asked, the leader judges by all that was acknowledged.
        let answer = asked.ask_leader(question).await.unwrap();
        assert!(matches!(answer, Answer::Denied { .. } | Answer::Refused { .. }), "{answer:?}");
    }
    let catalog = asked.catalog();
    assert_eq!(catalog.membership().member(to).unwrap().role, MemberRole::Voter);
    assert!(!catalog.audit_lines(CatalogIndex(0)).any(|line| line.text.contains("hand leadership")));
    assert!(catalog.token(&kept.accessor).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r6_a_server_whose_state_differs_from_the_others_halts() {
    let cluster = Cluster::of_three().await;
    let index = catalog::CatalogIndex(1_000_000);
    for (name, digest) in [("a", "good"), ("b", "good"), ("c", "bad")] {
        cluster.consensus(name).found_for_tests(index, digest);
    }
    let ended = soon(cluster.servers["c"].failed()).await;
    let FatalError::Diverged { own, agreed, .. } = &ended else { panic!("{ended}") };
    assert_eq!((own.as_str(), agreed.as_str()), ("bad", "good"));
    for name in ["a", "b"] {
        let failed = tokio::time::timeout(Duration::from_millis(200), cluster.servers[name].failed()).await;
        assert!(failed.is_err(), "server {name} ended: {failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r9_a_server_of_another_datacenter_is_not_taken_in() {
    let mut cluster = Cluster::of_three().await;
    cluster.start("d", |config| (config.bootstrap_expect, config.datacenter) = (0, "dc2".to_owned())).await;
    let error = soon(cluster.servers["d"].failed()).await.to_string();
    assert!(error.contains("datacenter is `dc2`, and the cluster was bootstrapped with `dc1`"), "{error}");
}
