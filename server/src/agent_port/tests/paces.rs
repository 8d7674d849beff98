//! What one agent that asks again and again takes of what all share.

use catalog::{CheckKey, CheckStatus};
use futures_util::future::join_all;

use super::*;
use crate::pace::Shares;

/// One write of an agent that repeats itself, each time as a new one.
fn flood(node: &str, incarnation: Incarnation) -> WriteRequest {
    let update = CheckUpdate {
        key: CheckKey { node: node.parse().unwrap(), namespace: Default::default(), id: "web".parse().unwrap() },
        status: CheckStatus::Critical,
        output: String::new(),
    };
    WriteRequest {
        request_id: crypto::uuid_v4().parse().unwrap(),
        command: AgentWrite::UpdateChecks { updates: vec![update], incarnation },
    }
}

fn granted(answers: &[(StatusCode, serde_json::Value)]) -> usize {
    for answer in answers.iter().filter(|(status, _)| *status != StatusCode::OK) {
        assert_eq!(answer.0, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        assert!(error(answer).contains("try again in"), "{answer:?}");
    }
    answers.iter().filter(|(status, _)| *status == StatusCode::OK).count()
}

#[tokio::test]
async fn c13_a13_an_agent_that_floods_the_log_takes_its_own_turns_and_anothers_write_passes() {
    let bounds = Bounds {
        writes: Pace::new(40, 1),
        writes_of_one: Shares::new(20, 0.1),
        writes_under_way: super::super::bounds::WriteRoom::new(64, 64),
        ..Bounds::default()
    };
    let rig = Rig::start_within(bounds).await;
    let (noisy, quiet) = (rig.enrol("vm-1", &["web"]).await, rig.enrol("vm-2", &["web"]).await);
    let (noisy, quiet) = (rig.connect_as(&noisy.identity).await, rig.connect_as(&quiet.identity).await);
    let (_noisy_session, incarnation) = noisy.session().await;
    let (_quiet_session, own) = quiet.session().await;
    let before = rig.catalog().index().0;
    let writes: Vec<WriteRequest> = (0..60).map(|_| flood("vm-1", incarnation)).collect();
    let answers = join_all(writes.iter().map(|write| noisy.post("/v1/write", write))).await;
    let passed = granted(&answers);
    assert!((20..30).contains(&passed), "{passed} of 60 writes of one agent were taken");
    assert!(rig.catalog().index().0 - before < 40, "the flood reached the log");
    let written: WriteResponse = quiet.call("/v1/write", &register("vm-2", &["web"], own)).await;
    assert_eq!(written.outcome, Outcome::Done);
    assert!(rig.metrics().contains("weft_agent_port_refused_total{reason=\"busy_with_writes\"}"));
}

#[tokio::test]
async fn c13_an_agent_has_few_writes_under_way_whatever_it_opens() {
    let bounds = Bounds { writes_under_way: super::super::bounds::WriteRoom::new(0, 64), ..Bounds::default() };
    let rig = Rig::start_within(bounds).await;
    let agent = rig.enrol("vm-1", &["web"]).await;
    let peer = rig.connect_as(&agent.identity).await;
    let (_session, incarnation) = peer.session().await;
    let before = rig.catalog().index();
    let answer = peer.post("/v1/write", &register("vm-1", &["web"], incarnation)).await;
    assert_eq!(granted(&[answer]), 0);
    assert_eq!(rig.catalog().index(), before);
}

#[tokio::test]
async fn c13_an_agent_that_asks_with_a_new_key_each_time_takes_nobody_elses_turns_at_signing() {
    let bounds = Bounds { signing: Pace::new(30, 1), signing_of_one: Shares::new(20, 0.1), ..Bounds::default() };
    let rig = Rig::start_within(bounds).await;
    let (noisy, quiet) = (rig.enrol("vm-1", &["web"]).await, rig.enrol("vm-2", &["web"]).await);
    let peer = rig.connect_as(&noisy.identity).await;
    let web = || Subject::Service("web".parse().unwrap());
    let tries: Vec<SignRequest> = (0..50).map(|_| sign_request(&LeafKey::generate(), web())).collect();
    let passed = granted(&join_all(tries.iter().map(|request| peer.post("/v1/sign", request))).await);
    assert!((20..25).contains(&passed), "{passed} of 50 leaves were signed for one agent");
    let _: SignResponse =
        rig.connect_as(&quiet.identity).await.call("/v1/sign", &sign_request(&quiet.key, Subject::Agent)).await;
}
