//! Backups through the API.

use std::collections::BTreeSet;

use ::catalog::ServicePattern;
use wire::cluster_key::{ClusterKey, ClusterKeys};

use super::*;
use crate::consensus::testing::Alone;

async fn allow(api: &Api, source: &str, destination: &str) {
    let path = format!("/v1/connect/intentions/exact?source={source}&destination={destination}");
    let answer = api.put(&path, json!({"Action": "allow"})).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
}

fn destinations(api: &Api) -> BTreeSet<String> {
    let catalog = api.consensus().catalog();
    catalog
        .intentions()
        .map(|intention| match &intention.destination {
            ServicePattern::Exact(service) => service.name.to_string(),
            other => other.to_string(),
        })
        .collect()
}

async fn save(api: &Api) -> Vec<u8> {
    let stale = api.get("/v1/snapshot?stale").await;
    assert_eq!(stale.status, StatusCode::BAD_REQUEST, "there is a leader, and an audit trail to write to");
    assert!(stale.text.contains("`stale`"), "{}", stale.text);
    let answer = api.get("/v1/snapshot").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("application/x-gzip"));
    assert!(answer.index() > 1);
    answer.bytes
}

#[tokio::test]
async fn p10_a_backup_is_taken_and_restored_and_a_damaged_one_changes_nothing() {
    let api = Api::start().await;
    allow(&api, "web", "api").await;
    let backup = save(&api).await;
    allow(&api, "web", "later").await;
    let before = api.consensus().catalog().index();

    let mut flipped = backup.clone();
    flipped[backup.len() / 2] ^= 1;
    for (bad, part) in [(&flipped[..], "damaged"), (&backup[..backup.len() - 1], "damaged"), (b"{}", "not a backup")] {
        let answer = api.put_bytes("/v1/snapshot", bad).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
        assert!(answer.text.contains(part), "{}", answer.text);
    }
    assert_eq!(destinations(&api).len(), 2, "nothing has changed");

    // The token is from before the backup, so that it is there afterwards.
    let waiting = api.spawn_get(&format!("/v1/connect/intentions?index={before}&wait=30s"));
    let answer = api.put_bytes("/v1/snapshot", &backup).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(destinations(&api), BTreeSet::from(["api".to_owned()]));
    let woken = waiting.await.unwrap();
    assert!(woken.index() > before.0, "whoever waits is woken");
    assert_eq!(woken.json().as_array().map(Vec::len), Some(1));
    // What comes out again is a backup as well, and this server still signs with the same authority.
    wire::backup::read(&save(&api).await).unwrap();
    assert!(api.consensus().catalog().active_intermediate().is_some());
}

#[tokio::test]
async fn s2_taking_and_restoring_a_backup_stand_in_the_audit_trail() {
    let api = Api::start().await;
    let backup = save(&api).await;
    api.put_bytes("/v1/snapshot", &backup).await;
    let catalog = api.consensus().catalog();
    let kinds: Vec<String> = catalog
        .audit_lines(::catalog::CatalogIndex(0))
        .map(|line| serde_json::from_str::<Value>(&line.text).unwrap()["Kind"].as_str().unwrap().to_owned())
        .collect();
    for kind in ["save-backup", "begin-restore", "restore-backup"] {
        assert!(kinds.iter().any(|found| found == kind), "{kind} is not in {kinds:?}");
    }
}

#[tokio::test]
async fn s1_another_clusters_backup_needs_to_be_meant_and_its_key() {
    let (ours, theirs) = (ClusterKey::generate(), ClusterKey::generate());
    let other = Api::over(Alone::start_in(Some("mesh.example"), ClusterKeys::single(theirs.clone())).await).await;
    allow(&other, "web", "api").await;
    let root = other.consensus().catalog().active_root().unwrap().id.clone();
    let backup = save(&other).await;

    let without_key = Api::over(Alone::start_in(Some("mesh.example"), ClusterKeys::single(ours.clone())).await).await;
    let answer = without_key.put_bytes("/v1/snapshot", &backup).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.text);
    assert!(answer.text.contains("force-cluster"), "{}", answer.text);
    let answer = without_key.put_bytes("/v1/snapshot?force-cluster", &backup).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
    assert!(answer.text.contains("--previous-cluster-key-file"), "{}", answer.text);
    assert!(destinations(&without_key).is_empty());

    let keys = ClusterKeys { primary: ours.clone(), previous: Some(theirs) };
    let elsewhere = Api::over(Alone::start_in(Some("elsewhere.example"), keys.clone()).await).await;
    let answer = elsewhere.put_bytes("/v1/snapshot?force-cluster", &backup).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
    assert!(answer.text.contains("trust domain"), "{}", answer.text);

    let api = Api::over(Alone::start_in(Some("mesh.example"), keys).await).await;
    let cluster = api.consensus().catalog().mesh().unwrap().cluster_id.clone();
    let answer = api.put_bytes("/v1/snapshot?force-cluster", &backup).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let catalog = api.consensus().catalog();
    assert_eq!(catalog.mesh().unwrap().cluster_id, cluster);
    assert_eq!(catalog.active_root().unwrap().id, root);
    assert_eq!(destinations(&api), BTreeSet::from(["api".to_owned()]));
    // The keys are sealed anew: the other cluster's key is not needed any more.
    for sealed in catalog.roots().map(|root| &root.sealed_key) {
        assert_eq!(sealed.as_ref().unwrap().key_id, ours.key_id());
    }
}
