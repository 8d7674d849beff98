//! What audit mode lets through, what it never does, and that a relaxation ends by the agent's own clock.

use std::time::Duration;

use catalog::{AuditMode, Guardrail, Policy, Relaxation, RelaxedScope, Timestamp};

use super::agents::{Pair, eventually, expect_reset, intention};
use super::certificates::service_key;

const MINUTE: Duration = Duration::from_secs(60);

fn policy(pair: &mut Pair) -> &mut Policy {
    pair.api.snapshot.policies.get_mut(&service_key("api")).unwrap()
}

fn relaxed_for(lasts: Duration) -> Relaxation {
    let since = wire::crypto::now();
    Relaxation {
        scope: RelaxedScope::Mesh,
        reason: "a broken rollout".to_owned(),
        by: None,
        since,
        ends_at: since.saturating_add(lasts),
        modified: catalog::CatalogIndex(1),
    }
}

fn audited(pair: &Pair, rule: &str, cause: &str) -> u64 {
    pair.api.metric(&format!("weft_proxy_audited_total{{rule=\"{rule}\",cause=\"{cause}\"}}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intention_in_audit_mode_refuses_nothing_and_is_counted_by_its_name() {
    let mut pair = Pair::start(&[]).await;
    let mut tried = intention("deny web api");
    tried.audit = true;
    policy(&mut pair).intentions.push(tried);
    pair.api.publish().await;
    pair.connected().await;
    assert_eq!(audited(&pair, "default/web => default/api", "intention"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_in_audit_mode_refuses_nothing_and_stops_when_it_is_taken_out() {
    let mut pair = Pair::start(&[]).await;
    policy(&mut pair).audit = AuditMode { mesh: false, namespaces: ["default".parse().unwrap()].into() };
    pair.api.publish().await;
    let mut stream = pair.connected().await;
    assert_eq!(audited(&pair, "default", "namespace"), 1);
    policy(&mut pair).audit = AuditMode::default();
    pair.api.publish().await;
    expect_reset(&mut stream).await;
    pair.web.expect_refusal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relaxation_ends_by_the_agents_own_clock_and_cuts_what_it_let_in() {
    let mut pair = Pair::start(&[]).await;
    policy(&mut pair).relaxations.push(relaxed_for(30 * MINUTE));
    pair.api.publish().await;
    let mut stream = pair.connected().await;
    assert_eq!(audited(&pair, "default", "relaxation"), 1);
    // Nobody publishes anything from here on, as if no server could be reached.
    pair.api.put_clock_forward(31 * MINUTE);
    expect_reset(&mut stream).await;
    pair.web.expect_refusal().await;
    eventually("the refusal is counted", || pair.api.refused("inbound", "decide", "default_deny") >= 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h11_audit_mode_never_passes_a_guardrail_nor_what_is_undecidable() {
    let mut pair = Pair::start(&[]).await;
    let everything = AuditMode { mesh: true, ..AuditMode::default() };
    *policy(&mut pair) = Policy {
        guardrails: vec![Guardrail {
            name: "no-web".to_owned(),
            source: "default/web".parse().unwrap(),
            destination: "*/*".parse().unwrap(),
        }],
        relaxations: vec![relaxed_for(MINUTE)],
        audit: everything.clone(),
        ..policy(&mut pair).clone()
    };
    pair.api.publish().await;
    pair.web.expect_refusal().await;
    assert_eq!(pair.api.refused("inbound", "decide", "guardrail"), 1);

    let mut by_request = intention("allow web api");
    let gets = catalog::HttpMatch { methods: vec!["GET".to_owned()], ..Default::default() };
    by_request.effect = catalog::Effect::Permissions(vec![catalog::Permission::new(catalog::Action::Allow, gets)]);
    *policy(&mut pair) =
        Policy { guardrails: Vec::new(), intentions: vec![by_request], audit: everything, ..policy(&mut pair).clone() };
    pair.api.publish().await;
    pair.web.expect_refusal().await;
    assert_eq!(pair.api.refused("inbound", "decide", "undecidable"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_audit_mode_never_passes_a_revoked_caller() {
    let mut pair = Pair::start(&["allow web api"]).await;
    policy(&mut pair).audit = AuditMode { mesh: true, ..AuditMode::default() };
    policy(&mut pair).relaxations.push(Relaxation { ends_at: Timestamp(u64::MAX), ..relaxed_for(MINUTE) });
    pair.api.snapshot.revocations.records.insert(catalog::CatalogIndex(7));
    pair.api.publish().await;
    pair.web.expect_refusal().await;
}
