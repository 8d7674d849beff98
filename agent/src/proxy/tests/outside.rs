//! Calls to services outside the mesh, which no agent stands before.

use std::collections::BTreeSet;

use catalog::{Action, CatalogIndex, Endpoint, Policy};
use wire::report::{Link, Pair, PairSource};

use super::agents::{Agent, Echo, endpoint, eventually, expect_reset, intention, say};
use super::certificates::{Authority, service_key};

/// An agent whose `web` calls `legacy`, which answers without any certificate.
async fn start(authority: &Authority, legacy: &Echo) -> Agent {
    let mut web = Agent::start(authority);
    let bare = Endpoint { mesh_port: None, ..endpoint("legacy", legacy.address, legacy.address) };
    web.call(authority, "web", "legacy", &[bare]);
    web.publish().await;
    web
}

async fn follow(web: &mut Agent, rules: &[&str]) {
    let rules = rules.iter().map(|rule| intention(rule)).collect();
    web.snapshot.external.insert(service_key("legacy"), Policy::new(Action::Deny, Vec::new(), rules));
    web.publish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_outside_is_called_only_where_it_was_said_to_be_and_the_caller_is_held_to_its_rules() {
    let (authority, legacy) = (Authority::new("mesh.test"), Echo::start().await);
    let mut web = start(&authority, &legacy).await;
    web.expect_refusal().await;
    assert_eq!(web.refused("outbound", "choose", "no_mesh_port"), 1, "nobody said that it is outside");

    follow(&mut web, &[]).await;
    web.expect_refusal().await;
    assert_eq!(web.refused("outbound", "decide", "default_deny"), 1);
    assert_eq!(legacy.accepted(), 0);

    follow(&mut web, &["allow web legacy"]).await;
    let mut open = web.connect().await;
    say(&mut open, "past every agent").await;
    assert_eq!((legacy.accepted(), web.metric("weft_proxy_unverified_total")), (1, 1));
    let told = web.metrics.proxy.tally().report(catalog::Timestamp(0), vec![service_key("web")]);
    let [pair] = &told.outside[..] else { panic!("one caller of one service outside: {told:?}") };
    let source = PairSource::Service(service_key("web"));
    assert_eq!(pair.pair, Pair { destination: service_key("legacy"), source, link: Link::Outside });
    assert_eq!(pair.opened, 1);
    let looks = "weft_proxy_tcp_looks_total{direction=\"outbound\",destination=\"default/legacy\",look=\"other\"}";
    assert_eq!(web.metric(looks), 1);

    // A deny reaches what is open, for nobody at the other end would cut it.
    follow(&mut web, &["deny web legacy"]).await;
    expect_reset(&mut open).await;
    eventually("counted", || web.closed("outbound", "intention") == 1).await;
    web.expect_refusal().await;
    assert_eq!(legacy.accepted(), 1);

    // And once nobody says any more that it is outside, it is called by nobody.
    follow(&mut web, &["allow web legacy"]).await;
    let mut open = web.connect().await;
    say(&mut open, "again").await;
    web.snapshot.external.clear();
    web.publish().await;
    expect_reset(&mut open).await;
    web.expect_refusal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_a_caller_whose_certificate_is_revoked_or_over_leaves_the_mesh_no_more() {
    let (authority, legacy) = (Authority::new("mesh.test"), Echo::start().await);
    let mut web = start(&authority, &legacy).await;
    follow(&mut web, &["allow web legacy"]).await;
    let mut open = web.connect().await;
    say(&mut open, "still trusted").await;
    let [a, b, c, d, e, f, g, h, ..] = web.snapshot.identities[&service_key("web")].serial();
    let record = CatalogIndex(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
    web.snapshot.revocations.records = BTreeSet::from([record]);
    web.publish().await;
    expect_reset(&mut open).await;
    web.expect_refusal().await;
    assert_eq!(web.refused("outbound", "decide", "revoked"), 1);

    web.snapshot.revocations.records.clear();
    web.publish().await;
    web.put_clock_forward(std::time::Duration::from_secs(10 * 365 * 86_400));
    web.expect_refusal().await;
    assert_eq!(web.refused("outbound", "identify", "own_leaf_expired"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_service_that_is_half_in_the_mesh_the_rules_hold_on_both_sides() {
    let (authority, legacy, meshed) = (Authority::new("mesh.test"), Echo::start().await, Echo::start().await);
    let mut api = Agent::start(&authority);
    api.serve(&authority, "legacy", meshed.address);
    api.rule("legacy", Action::Deny, &["allow web legacy"]);
    api.publish().await;
    let mut web = start(&authority, &legacy).await;
    let behind = endpoint("legacy", api.proxy.mesh_address(), meshed.address);
    web.snapshot.endpoints.get_mut(&service_key("legacy")).unwrap().push(behind);
    follow(&mut web, &["allow web legacy"]).await;
    let mut open = Vec::new();
    while legacy.accepted() == 0 || meshed.accepted() == 0 {
        let mut stream = web.connect().await;
        say(&mut stream, "either way").await;
        open.push(stream);
        assert!(open.len() < 50, "{} outside, {} inside", legacy.accepted(), meshed.accepted());
    }
    assert_eq!(web.metric("weft_proxy_unverified_total"), u64::try_from(legacy.accepted()).unwrap());
}
