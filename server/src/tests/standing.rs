//! How the servers are said to do while one of them is down.

use axum::body::Body;
use catalog::{AclChange, Command, Outcome, Rights, Token};
use http::Request;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;
use wire::crypto::{self, Secret};

use super::harness::{Cluster, envelope, soon};
use crate::api::{ApiState, router};
use crate::metrics::Metrics;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_a_server_that_is_down_counts_as_failed_and_no_other_may_be_lost() {
    let mut cluster = Cluster::of_three().await;
    let (asked, leader) = (cluster.follower().await, cluster.leader().await);
    let down = cluster.servers.keys().find(|name| **name != asked && **name != leader).unwrap().clone();
    let consensus = cluster.consensus(&asked);
    let secret = crypto::random_hex(32);
    let hash = crypto::secret_hash(&Secret::new(secret.clone()));
    let token = Token::new(crypto::uuid_v4().parse().unwrap(), hash, Rights::Management, crypto::now());
    let change = AclChange::CreateToken { token: Box::new(token) };
    assert_eq!(consensus.propose(envelope(Command::Acl { change })).await.unwrap().outcome, Outcome::Done);
    let (server, keys) = (asked.parse().unwrap(), cluster.keys.clone());
    let router = router(ApiState::new(consensus.clone(), "dc1".to_owned(), server, keys, Metrics::new()));
    let ask = async |path: &str| -> Value {
        let request = Request::builder().uri(path).header("host", "localhost:8500").header("x-consul-token", &secret);
        let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    };
    let alive = |status: &Value, name: &str| {
        let mut servers = status["Servers"].as_array().unwrap().iter();
        servers.find(|server| server["ID"] == name).unwrap()["Alive"].clone()
    };
    let until = async |wanted: &dyn Fn(&Value) -> bool| {
        soon(async {
            loop {
                let status = ask("/v1/status/mesh").await;
                if wanted(&status) {
                    return status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await
    };
    until(&|status| status["QuorumMargin"] == 1 && alive(status, &down) == true).await;

    cluster.stop(&down).await;
    // One of three is dead, and everybody says so of the same one.
    until(&|status| alive(status, &down) == false && status["QuorumMargin"] == 0 && alive(status, &leader) == true)
        .await;
    soon(async {
        loop {
            let members = ask("/v1/agent/members?stale").await;
            let failed: Vec<&Value> =
                members.as_array().unwrap().iter().filter(|member| member["Status"] == 4).collect();
            if matches!(&failed[..], [failed] if failed["Name"] == down.as_str()) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;

    // Without a leader nobody says who is alive.
    cluster.stop(&leader).await;
    let status = until(&|status| status["QuorumMargin"].is_null()).await;
    assert_eq!(alive(&status, &asked), Value::Null, "{status}");
}
