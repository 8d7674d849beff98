//! How servers make a cluster, lose a leader, and come back.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use catalog::{CatalogIndex, ServerId, WatchKey};
use tokio::time::Instant;

use super::harness::{Cluster, has, node, register, soon};
use crate::consensus::Role;
use crate::{Config, ConsensusError, IdentityError, StartError, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_make_one_cluster_and_each_takes_writes_and_reads_its_own() {
    let cluster = Cluster::of_three().await;
    let meshes: BTreeSet<String> = ["a", "b", "c"]
        .iter()
        .map(|name| cluster.consensus(name).catalog().mesh().unwrap().cluster_id.clone())
        .collect();
    assert_eq!(meshes.len(), 1);
    for name in ["a", "b", "c"] {
        let consensus = cluster.consensus(name);
        let committed = register(&consensus, &format!("by-{name}")).await.unwrap();
        assert!(has(&consensus.catalog(), &format!("by-{name}")), "server {name} does not see its own write");
        assert!(consensus.status().applied >= committed.index);
    }
    for name in ["a", "b", "c"] {
        let consensus = cluster.consensus(name);
        consensus.read_index().await.unwrap();
        assert_eq!(consensus.catalog().nodes().count(), 3, "server {name} reads less than was acknowledged");
        // Servers tell each other in their own time.
        soon(async {
            while consensus.agent_addresses().len() < 3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_is_carried_out_once_and_answered_alike() {
    let cluster = Cluster::of_three().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let envelope = super::harness::envelope(catalog::Command::CreateJoinToken {
        token: serde_json::from_value(serde_json::json!({
            "accessor": "00000000-0000-4000-8000-000000000000", "secret": "ab".repeat(32), "services": ["default/web"],
            "node": null, "platform": null, "replace_node": false, "expires_at": 4_000_000_000_000_u64,
            "used_by": null, "record": null, "created": 0, "modified": 0,
        }))
        .unwrap(),
    });
    let first = cluster.consensus(&follower).propose(envelope.clone()).await.unwrap();
    let again = cluster.consensus(&leader).propose(envelope).await.unwrap();
    assert_eq!(first.outcome, again.outcome);
    assert_eq!(cluster.consensus(&leader).catalog().join_tokens().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_query_wakes_for_its_keys_only() {
    let cluster = Cluster::of_three().await;
    let consensus = cluster.consensus("a");
    let since = consensus.catalog().index();
    let soon_over = Instant::now() + Duration::from_millis(200);
    let other = consensus.changed(&[WatchKey::Tokens], since, soon_over);
    let nodes = consensus.changed(&[WatchKey::Nodes], since, Instant::now() + Duration::from_secs(30));
    let mut touched = consensus.touched();
    let (written, nodes, other) = tokio::join!(register(&consensus, "n1"), nodes, other);
    written.unwrap();
    assert!(has(&nodes, "n1"));
    assert!(other.index_of(&[WatchKey::Tokens]) <= since, "it returned at its deadline");
    let (catalog, keys) = soon(touched.next()).await;
    assert!(has(&catalog, "n1") && keys.contains(&WatchKey::Nodes) && !keys.contains(&WatchKey::Tokens), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_1_writes_go_on_when_the_leader_stops() {
    let mut cluster = Cluster::of_three().await;
    register(&cluster.consensus("a"), "before").await.unwrap();
    let stopped = cluster.leader().await;
    cluster.stop(&stopped).await;
    let survivor = cluster.servers.keys().next().unwrap().clone();
    register(&cluster.consensus(&survivor), "after").await.unwrap();
    let leader = cluster.leader().await;
    assert_ne!(leader, stopped);
    let leading = cluster.consensus(&leader);
    leading.read_index().await.unwrap();
    assert!(has(&leading.catalog(), "before") && has(&leading.catalog(), "after"));

    // It comes back under another port, and the others learn the new one.
    cluster.start(&stopped, |_| ()).await;
    let consensus = cluster.consensus(&stopped);
    consensus.read_index().await.unwrap();
    assert!(has(&consensus.catalog(), "after"));
    register(&consensus, "again").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over_and_does_not_wait_for_an_election() {
    let mut cluster = Cluster::new();
    for name in ["a", "b", "c"] {
        cluster.start(name, |config| (config.bootstrap_expect, config.timing.election_ticks) = (3, 250)).await;
    }
    cluster.established().await;
    let leader = cluster.leader().await;
    // Those who stay would wait for an election longer than this test has patience for its outcome.
    for name in ["a", "b", "c"].iter().filter(|name| **name != leader) {
        // Under its old port: servers that lost each other would look for each other only once no leader is heard.
        let port = cluster.servers[*name].raft_address().port();
        cluster.stop(name).await;
        cluster.start(name, |config| (config.raft_port, config.timing.election_ticks) = (port, 1_000_000)).await;
        assert_eq!(cluster.leader().await, leader, "the one that leads did not stop yet");
    }
    cluster.stop(&leader).await;
    assert_ne!(cluster.leader().await, leader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_12_a_leader_whose_disk_turns_slow_has_another_one_lead_while_writes_go_on() {
    let mut cluster = Cluster::new();
    for name in ["a", "b", "c"] {
        cluster.start(name, |config| (config.bootstrap_expect, config.timing.election_ticks) = (3, 50)).await;
    }
    cluster.established().await;
    let slow = cluster.leader().await;
    cluster.consensus(&slow).disk_looks_slow_for_tests();
    let through = cluster.consensus(&cluster.follower().await);
    let writing = async {
        // It judges by the syncs of the last seconds, so there have to be some.
        for number in 0.. {
            register(&through, &format!("n{number}")).await.unwrap();
            if through.status().leader.is_some_and(|leader| leader.id.as_str() != slow) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(writing).await;
    assert!(cluster.consensus(&slow).metrics_text().contains("weft_raft_disk_slow 1"), "that is why");
    assert_ne!(cluster.leader().await, slow);
    register(&through, "after").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_2_a_follower_that_was_away_for_long_catches_up_by_a_snapshot() {
    let mut cluster = Cluster::new();
    let few_entries = |config: &mut Config| (config.bootstrap_expect, config.snapshot_entries) = (3, 16);
    for name in ["a", "b", "c"] {
        cluster.start(name, few_entries).await;
    }
    cluster.established().await;
    let away = cluster.follower().await;
    cluster.stop(&away).await;
    let leader = cluster.consensus(&cluster.leader().await);
    let last = leader.catalog().index();
    for n in 0..80 {
        register(&leader, &format!("n{n}")).await.unwrap();
    }
    cluster.start(&away, few_entries).await;
    let consensus = cluster.consensus(&away);
    let woken = consensus.changed(&[WatchKey::Node(node("n0"))], last, Instant::now() + Duration::from_secs(30)).await;
    assert!(has(&woken, "n0"), "a replaced catalog must wake those who wait for what it changed");
    consensus.read_index().await.unwrap();
    // The log of the others begins beyond what it has, so nothing else than a snapshot can have brought it here.
    assert!(leader.catalog().index().0 - last.0 > 16 + 16 / 2);
    // Each says where it is now in its own time, so the two are looked at until nothing is under way.
    let equal = async {
        loop {
            leader.read_index().await.unwrap();
            consensus.read_index().await.unwrap();
            if consensus.catalog().snapshot() == leader.catalog().snapshot() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(equal).await;
    register(&consensus, "after").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_3_all_servers_come_back_with_the_same_state() {
    let mut cluster = Cluster::of_three().await;
    register(&cluster.consensus("a"), "kept").await.unwrap();
    let cluster_id = cluster.consensus("a").catalog().mesh().unwrap().cluster_id.clone();
    let root = cluster.consensus("a").catalog().active_root().unwrap().id.clone();
    let ports: Vec<(String, u16)> =
        cluster.servers.iter().map(|(name, server)| (name.clone(), server.raft_address().port())).collect();
    for (name, _) in &ports {
        cluster.stop(name).await;
    }
    for (name, port) in &ports {
        cluster
            .start(name, |config| {
                config.raft_port = *port;
                config.bootstrap_expect = 1;
            })
            .await;
    }
    cluster.leader().await;
    for (name, _) in &ports {
        let consensus = cluster.consensus(name);
        consensus.read_index().await.unwrap();
        let catalog = consensus.catalog();
        assert!(has(&catalog, "kept"));
        assert_eq!(catalog.mesh().unwrap().cluster_id, cluster_id, "a restart must not make a new cluster");
        assert_eq!(catalog.active_root().unwrap().id, root);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_servers_that_expect_three_make_one_cluster_or_say_that_they_are_too_many() {
    let mut cluster = Cluster::new();
    for name in ["a", "b", "c", "d"] {
        cluster.start(name, |config| config.bootstrap_expect = 3).await;
    }
    let all: BTreeSet<ServerId> = cluster.servers.keys().map(|name| name.parse().unwrap()).collect();
    // The first by name draws up the cluster, or sees that it cannot: which one, their timing decides.
    let Some(mesh) = cluster.cluster_or_crowd("a").await else {
        assert_eq!(cluster.servers["a"].running.crowd_for_tests(), all);
        assert!(cluster.servers.keys().all(|name| cluster.consensus(name).status().role == Role::Joining));
        return;
    };
    let members: BTreeSet<ServerId> = mesh.servers.iter().map(|member| member.id.clone()).collect();
    assert_eq!((members.len(), members.is_subset(&all)), (3, true), "{members:?}");
    // Whoever was left out is taken in by those that made it.
    cluster.established().await;
    for name in cluster.servers.keys() {
        assert_eq!(cluster.consensus(name).catalog().mesh().unwrap().cluster_id, mesh.cluster_id, "server {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_with_other_settings_do_not_make_a_cluster() {
    let mut cluster = Cluster::new();
    cluster.start("a", |config| config.bootstrap_expect = 2).await;
    cluster.start("b", |config| (config.bootstrap_expect, config.datacenter) = (2, "dc2".to_owned())).await;
    cluster.counted("a", "other_settings").await;
    cluster.counted("b", "other_settings").await;
    assert!(cluster.servers.keys().all(|name| cluster.consensus(name).status().role == Role::Joining));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_43_two_clusters_that_meet_refuse_each_other_and_go_on() {
    let mut cluster = Cluster::new();
    cluster.start("a", |config| config.bootstrap_expect = 1).await;
    cluster.established().await;
    let joined = cluster.servers["a"].raft_address().port();
    let mut other = Cluster::new();
    other.keys = cluster.keys.clone();
    other.start("b", |config| config.bootstrap_expect = 1).await;
    other.established().await;
    other.stop("b").await;
    // The first cluster's server is dialled as if it were a peer, because this one has no leader to hear.
    other.start("b", |config| config.retry_join = vec![format!("127.0.0.1:{joined}")]).await;
    let dialled = other.servers["b"].running.dial_for_tests(&format!("127.0.0.1:{joined}"), None).await.unwrap_err();
    assert!(dialled.contains("belongs to cluster"), "{dialled}");
    cluster.counted("a", "other_cluster").await;
    other.counted("b", "other_cluster").await;
    register(&cluster.consensus("a"), "n").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_memory_starts_alone_at_once() {
    let mut cluster = Cluster::new();
    cluster.start("a", |config| config.data_dir = None).await;
    cluster.established().await;
    let consensus = cluster.consensus("a");
    let mesh = consensus.catalog().mesh().unwrap().clone();
    assert_eq!(mesh.trust_domain.to_string(), format!("{}.weft", mesh.cluster_id));
    assert_eq!(consensus.status().last_contact, Some(Duration::ZERO));
    assert!(consensus.catalog().index() > CatalogIndex(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f3_a_data_directory_belongs_to_one_server_and_one_process() {
    let mut cluster = Cluster::new();
    cluster.start("a", |_| ()).await;
    cluster.established().await;
    let data_dir = cluster.config("a").data_dir.unwrap();
    assert_eq!(std::fs::metadata(&data_dir).unwrap().permissions().mode() & 0o777, 0o700);

    let config = cluster.config("a");
    let error = start(config).await.unwrap_err();
    assert!(matches!(&error, StartError::Consensus(ConsensusError::Disk(_))), "{error}");
    cluster.stop("a").await;

    let mut config = cluster.config("b");
    config.data_dir = Some(data_dir.clone());
    let error = start(config).await.unwrap_err();
    let StartError::Consensus(ConsensusError::Identity(IdentityError::OtherServer { .. })) = &error else {
        panic!("{error}")
    };
    let mut config = cluster.config("a");
    config.datacenter = "dc2".to_owned();
    let error = start(config).await.unwrap_err();
    assert!(matches!(&error, StartError::Consensus(ConsensusError::Fixed { setting: "datacenter", .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_6_without_a_quorum_nothing_is_acknowledged_and_reads_say_so() {
    let mut cluster = Cluster::new();
    for name in ["a", "b", "c"] {
        cluster
            .start(name, |config| {
                config.bootstrap_expect = 3;
                config.timing.write_deadline = Duration::from_secs(1);
                config.timing.read_deadline = Duration::from_secs(1);
            })
            .await;
    }
    cluster.established().await;
    let (stopped, last) = (cluster.leader().await, cluster.follower().await);
    cluster.stop(&stopped).await;
    let other = cluster.servers.keys().find(|name| **name != last).unwrap().clone();
    cluster.stop(&other).await;
    let consensus = cluster.consensus(&last);
    let error = register(&consensus, "lonely").await.unwrap_err().to_string();
    assert!(error.starts_with("No cluster leader") || error.contains("outcome is not known"), "{error}");
    let error = consensus.read_index().await.unwrap_err().to_string();
    assert!(error.starts_with("No cluster leader"), "{error}");
    assert!(!has(&consensus.catalog(), "lonely"));
}
