//! Backups while nobody leads.

use axum::body::Body;
use catalog::{AclChange, Command, Outcome, Rights, Token};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;
use wire::crypto::{self, Secret};

use super::harness::{Cluster, envelope, has, register, soon};
use crate::api::{ApiState, router};
use crate::metrics::Metrics;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_without_a_leader_a_backup_is_taken_from_what_one_server_has_and_counted() {
    let mut cluster = Cluster::of_three().await;
    let left = cluster.follower().await;
    let consensus = cluster.consensus(&left);
    let secret = crypto::random_hex(32);
    let hash = crypto::secret_hash(&Secret::new(secret.clone()));
    let token = Token::new(crypto::uuid_v4().parse().unwrap(), hash, Rights::Management, crypto::now());
    let change = AclChange::CreateToken { token: Box::new(token) };
    assert_eq!(consensus.propose(envelope(Command::Acl { change })).await.unwrap().outcome, Outcome::Done);
    register(&consensus, "before").await.unwrap();
    let metrics = Metrics::new();
    let state = ApiState::new(
        consensus.clone(),
        "dc1".to_owned(),
        left.parse().unwrap(),
        cluster.keys.clone(),
        metrics.clone(),
    );
    let router = router(state);
    let ask = async |path: &str| {
        let request = Request::builder().uri(path).header("host", "localhost:8500").header("x-consul-token", &secret);
        let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        (response.status(), response.into_body().collect().await.unwrap().to_bytes())
    };
    cluster.leader().await;
    assert_eq!(ask("/v1/snapshot?stale").await.0, StatusCode::BAD_REQUEST, "there is a leader");
    let others: Vec<String> = cluster.servers.keys().filter(|name| **name != left).cloned().collect();
    for other in others {
        cluster.stop(&other).await;
    }
    soon(consensus.leaderless_for_tests()).await;
    let (status, file) = ask("/v1/snapshot?stale").await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&file));
    assert!(has(&wire::backup::read(&file).unwrap().catalog, "before"));
    assert!(metrics.text().contains("weft_backups_unaudited_total 1"), "{}", metrics.text());
}
