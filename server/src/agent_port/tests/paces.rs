//! What one agent that asks again and again takes of what all share.

use catalog::{CheckKey, CheckStatus};
use futures_util::future::join_all;

use super::*;
use crate::consensus::ByteBudget;
use crate::hub::Limits;
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

#[tokio::test]
async fn fault_30_what_a_deaf_agent_does_not_read_is_let_go_of_with_its_connection() {
    let stream = Limits { waiting_bytes_max: 2048, goodbye_max: Duration::from_millis(50), ..Limits::default() };
    let rig = Rig::start_within(Bounds { stream, ..Bounds::default() }).await;
    let hello = encode_frame(&ClientFrame::hello()).unwrap();
    let agent = rig.enrol("vm-1", &["web"]).await;
    let roots = ClientFrame::Subscribe { topic: Topic::Roots, from: None };

    // More waits for it than may.
    let (peer, over) = rig.connect_deaf(&agent.identity).await;
    let stream = peer.open(&hello).await.unwrap();
    for _ in 0..20 {
        stream.say(&roots);
    }
    over.await;
    rig.counts("weft_agent_port_refused_total{reason=\"slow_reader\"} 1").await;

    // It ends its session, and leaves unread what waits.
    let (peer, over) = rig.connect_deaf(&agent.identity).await;
    let mut stream = peer.open(&hello).await.unwrap();
    stream.say(&roots);
    stream.say_no_more();
    over.await;

    // Its session is ended by the server.
    let (peer, over) = rig.connect_deaf(&agent.identity).await;
    let stream = peer.open(&hello).await.unwrap();
    stream.say(&roots);
    rig.counts("weft_stream_sessions 1").await;
    rig.write(Command::RevokeAgent { agent: agent.record.id.clone() }).await;
    over.await;
}

#[tokio::test]
async fn c13_a_connection_carries_one_session() {
    let rig = Rig::start().await;
    let agent = rig.enrol("vm-1", &["web"]).await;
    let peer = rig.connect_as(&agent.identity).await;
    let (mut stream, _) = peer.session().await;
    let second = peer.open(&encode_frame(&ClientFrame::hello()).unwrap()).await.err().unwrap();
    assert_eq!((second.0, error(&second).contains("session already")), (StatusCode::CONFLICT, true), "{second:?}");
    stream.say(&ClientFrame::Subscribe { topic: Topic::Mesh, from: None });
    assert!(matches!(stream.next().await, Some(ServerFrame::Event(Event::Snapshot { topic: Topic::Mesh, .. }))));
}

/// Waits for the next snapshot.
async fn told(stream: &mut rig::Stream) {
    while !matches!(stream.next().await.expect("the stream goes on"), ServerFrame::Event(Event::Snapshot { .. })) {}
}

#[tokio::test]
async fn c13_an_agent_that_asks_for_topics_again_and_again_waits_and_nobody_else_does() {
    let bounds = Bounds { topics_of_one: Shares::new(3, 1.0), ..Bounds::default() };
    let rig = Rig::start_within(bounds).await;
    let (noisy, quiet) = (rig.enrol("vm-1", &["web"]).await, rig.enrol("vm-2", &["web"]).await);
    let (noisy, quiet) = (rig.connect_as(&noisy.identity).await, rig.connect_as(&quiet.identity).await);
    let ((mut noisy, _), (mut quiet, _)) = (noisy.session().await, quiet.session().await);
    let mesh = ClientFrame::Subscribe { topic: Topic::Mesh, from: None };
    let begun = tokio::time::Instant::now();
    for _ in 0..4 {
        noisy.say(&mesh);
    }
    quiet.say(&mesh);
    told(&mut quiet).await;
    for _ in 0..4 {
        told(&mut noisy).await;
    }
    // Who is sent away waits for a second at least.
    assert!(begun.elapsed() >= Duration::from_secs(1), "the fourth was told at once");
}

#[tokio::test]
async fn a1_who_has_shown_nothing_is_read_little_of_and_all_of_them_together_no_more_than_so_much() {
    let unproven = ByteBudget::new(128 << 10);
    let rig = Rig::start_within(Bounds { unproven: unproven.clone(), ..Bounds::default() }).await;
    let peer = rig.connect_to_join().await;
    for path in ["/v1/join", "/v1/login"] {
        for (bytes, status) in [(64 << 10, StatusCode::BAD_REQUEST), ((64 << 10) + 1, StatusCode::PAYLOAD_TOO_LARGE)] {
            let answer = peer.exchange(Method::POST, path, &[], vec![b' '; bytes]).await;
            assert_eq!(answer.0, status, "{path}: {answer:?}");
        }
        let held = unproven.hold((128 << 10) - 1);
        let answer = peer.exchange(Method::POST, path, &[], vec![b' '; 2]).await;
        assert_eq!(answer.0, StatusCode::SERVICE_UNAVAILABLE, "{path}: {answer:?}");
        drop(held);
    }
}

#[tokio::test]
async fn a1_who_shows_no_certificate_has_few_requests_under_way() {
    let rig = Rig::start().await;
    let agent = rig.enrol("vm-1", &["web"]).await;
    let root = wire::pki::fingerprint(&rig.catalog().active_root().unwrap().certificate_pem).unwrap();
    let trust_domain = rig.catalog().mesh().unwrap().trust_domain.clone();
    let shown = wire::tls::agent_port_client_config(rig.anchors(), trust_domain, &agent.identity);
    for (config, streams_max) in [(wire::tls::join_client_config(vec![root]), 4), (shown, 128)] {
        let mut tls = rig.tls(config).await;
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut head = [0; 9];
        tls.read_exact(&mut head).await.unwrap();
        assert_eq!((head[0], head[1], head[3]), (0, 0, 4), "settings come first");
        let mut settings = vec![0; usize::from(head[2])];
        tls.read_exact(&mut settings).await.unwrap();
        let told = settings.chunks_exact(6).find(|setting| setting[..2] == [0, 3]).unwrap();
        assert_eq!(told[2..], u32::to_be_bytes(streams_max));
    }
}
