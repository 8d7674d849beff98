//! Intentions that are refused when they are written.

use super::*;

#[test]
fn h11_a_rule_on_a_workload_of_ours_under_its_spiffe_id_is_refused_for_it_would_never_match() {
    let mut log = Log { catalog: log_of(&every_kind()[..1]) };
    let by_id = |id: &str| intention(&format!("spiffe://mesh.example/{id}"), "api", Action::Deny);
    let refusal = log.refused(by_id("ns/default/sa/web"));
    assert!(refusal.to_string().ends_with("write `default/web`"), "{refusal}");
    log.refused(by_id("agent/vm/n1"));
    log.refused(by_id("something/else"));
    let guardrail = crate::Guardrail {
        name: "g".to_owned(),
        source: "spiffe://mesh.example/ns/default/sa/web".parse().unwrap(),
        destination: "*/*".parse().unwrap(),
    };
    let entry = MeshEntry { guardrails: vec![guardrail], ..MeshEntry::default() };
    log.refused(Command::WriteMesh { entry, compare: None });
    log.done(intention("spiffe://other.example/ns/default/sa/web", "api", Action::Deny));
}
