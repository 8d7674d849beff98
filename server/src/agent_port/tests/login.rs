//! Agents that log in by the word of a platform.

use std::collections::BTreeMap;
use std::sync::Arc;

use catalog::{
    Attestation, AuthConfig, AuthMethod, AwsIamConfig, BindKind, BindingRule, LoginChange, LoginClaims, Outcome,
};
use http::StatusCode;
use serde_json::json;
use wire::agent_protocol::{JoinResponse, LoginRequest};
use wire::crypto::Secret;
use wire::login::{Credential, LoginContext, LoginError, LoginMaker, LoginMethod, Verification, VerifiedIdentity};
use wire::pki::LeafKey;

use super::*;
use crate::login::testing::{Issuer, method};
use crate::login::{DENIED, Logins};

async fn rig() -> (Rig, Issuer) {
    let (rig, issuer) = (Rig::start().await, Issuer::new());
    let change = LoginChange::WriteMethod { method: Box::new(method(&issuer)), replace: false };
    assert_eq!(rig.write(Command::Login { change }).await, Outcome::Done);
    rule(&rig, 1, BindKind::Service, "${value.team}-web", "value.team is not empty").await;
    (rig, issuer)
}

async fn rule(rig: &Rig, number: u8, bind: BindKind, name: &str, selector: &str) {
    let rule = BindingRule {
        id: format!("00000000-0000-0000-0000-0000000000{number:02x}").parse().unwrap(),
        description: String::new(),
        method: "jwt".parse().unwrap(),
        selector: selector.to_owned(),
        bind,
        name: name.parse().unwrap(),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    };
    let change = LoginChange::WriteRule { rule: Box::new(rule), replace: false };
    assert_eq!(rig.write(Command::Login { change }).await, Outcome::Done);
}

async fn log_in(rig: &Rig, bearer: &str, key: &LeafKey, node: &str) -> (StatusCode, serde_json::Value) {
    let request = LoginRequest {
        method: "jwt".parse().unwrap(),
        bearer: Secret::new(bearer),
        csr: key.csr_der(None),
        node: node.parse().unwrap(),
        platform: Platform::Kubernetes,
        zone: None,
        network: String::new(),
    };
    rig.connect_to_join().await.post("/v1/login", &request).await
}

#[tokio::test]
async fn c9_an_agent_logs_in_and_a_stolen_credential_is_of_no_use() {
    let (rig, issuer) = rig().await;
    let bearer = issuer.token(&json!({"team": "blue"}));
    let key = LeafKey::generate();
    let (status, body) = log_in(&rig, &bearer, &key, "pod-1").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let response: JoinResponse = serde_json::from_value(body).unwrap();
    assert!(!response.provisional);
    assert_eq!(response.record.services, ["blue-web".parse().unwrap()]);
    assert!(matches!(&response.record.attestation, Attestation::Login { subject, .. } if subject == "web-7"));
    let identity = TlsIdentity::new(&response.leaf.chain_pem, &key).unwrap();

    // The retry gets the same record, and so does a new credential with the same key.
    let again: JoinResponse = serde_json::from_value(log_in(&rig, &bearer, &key, "pod-1").await.1).unwrap();
    let renewed = issuer.token(&json!({"team": "blue", "jti": "2"}));
    let renewed: JoinResponse = serde_json::from_value(log_in(&rig, &renewed, &key, "pod-1").await.1).unwrap();
    assert_eq!((&again.record, &renewed.record), (&response.record, &response.record));

    let thief = log_in(&rig, &bearer, &LeafKey::generate(), "pod-2").await;
    assert_eq!(thief.0, StatusCode::FORBIDDEN);
    assert_eq!(error(&thief), DENIED);
    rig.counts("weft_agent_port_refused_total{reason=\"credential_replayed\"} 1").await;

    // What came of the login is an agent as any other.
    let peer = rig.connect_as(&identity).await;
    let (_stream, incarnation) = peer.session().await;
    let mut write = register("pod-1", &["blue-web"], incarnation);
    let WriteRequest { command: AgentWrite::Register { node, .. }, .. } = &mut write else { unreachable!() };
    node.platform = Platform::Kubernetes;
    let written: WriteResponse = peer.call("/v1/write", &write).await;
    assert_eq!(written.outcome, Outcome::Done);
    let _: SignResponse =
        peer.call("/v1/sign", &sign_request(&key, Subject::Service("blue-web".parse().unwrap()))).await;
    assert!(rig.metrics().contains("weft_logins_total{outcome=\"granted\"} 3"), "{}", rig.metrics());
    assert!(rig.metrics().contains("weft_logins_total{outcome=\"refused\"} 1"), "{}", rig.metrics());
}

/// Stands in for AWS, which says whose a login is if it was signed for the key that comes with it: here that is the
/// login itself.
#[derive(Debug)]
struct SignedForOneKey;

impl LoginMaker for SignedForOneKey {
    fn make(&self, config: &AuthConfig) -> Option<Result<Arc<dyn LoginMethod>, LoginError>> {
        matches!(config, AuthConfig::AwsIam(_)).then(|| Ok(Arc::new(Self) as Arc<dyn LoginMethod>))
    }
}

impl LoginMethod for SignedForOneKey {
    fn glance(&self, _credential: &Credential) -> Result<(), LoginError> {
        Ok(())
    }

    fn verify<'a>(&'a self, credential: &'a Credential, context: LoginContext<'a>) -> Verification<'a> {
        Box::pin(async move {
            if context.key.map(ToString::to_string).as_deref() != Some(credential.bearer.expose()) {
                return Err(LoginError::rejected("its signature is not over this key"));
            }
            let facts = BTreeMap::from([(AwsIamConfig::ENTITY_NAME.to_owned(), "web".to_owned())]);
            let claims = LoginClaims { subject: "arn:aws:iam::1:role/web".to_owned(), facts, ..LoginClaims::default() };
            Ok(VerifiedIdentity { claims, ends: Timestamp(context.now.0 + 900_000) })
        })
    }

    fn is_of_one_key(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn c11_a_login_shown_again_gives_its_own_record_and_nothing_else() {
    let rig = Rig::start_with(Bounds::default(), Logins::new(vec![Arc::new(SignedForOneKey)])).await;
    let principals = vec!["arn:aws:iam::111122223333:role/web".parse().unwrap()];
    let config = AuthConfig::AwsIam(Box::new(AwsIamConfig { principals, sts_endpoint: None }));
    let method = AuthMethod { config, ..method(&Issuer::new()) };
    let change = LoginChange::WriteMethod { method: Box::new(method), replace: false };
    assert_eq!(rig.write(Command::Login { change }).await, Outcome::Done);
    rule(&rig, 1, BindKind::Service, "${entity_name}", "").await;
    let key = LeafKey::generate();
    let signed = key.fingerprint().to_string();
    let (status, body) = log_in(&rig, &signed, &key, "task-1").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let first: JoinResponse = serde_json::from_value(body).unwrap();
    assert_eq!(first.record.services, ["web".parse().unwrap()]);

    // All of it once more is the record that there is already: no agent, no node and no service beside it.
    let again: JoinResponse = serde_json::from_value(log_in(&rig, &signed, &key, "task-1").await.1).unwrap();
    assert_eq!(again.record, first.record);
    let elsewhere = log_in(&rig, &signed, &key, "task-2").await;
    assert_ne!(elsewhere.0, StatusCode::OK, "{elsewhere:?}");
    // Whoever took it on its way has another key, and none of this one's.
    for node in ["task-1", "task-2"] {
        let stolen = log_in(&rig, &signed, &LeafKey::generate(), node).await;
        assert_eq!((stolen.0, error(&stolen)), (StatusCode::FORBIDDEN, DENIED), "{stolen:?}");
    }
    rig.counts("weft_agent_port_refused_total{reason=\"credential_rejected\"} 2").await;
    assert_eq!(rig.catalog().agent_records().collect::<Vec<_>>(), [&first.record]);
}

#[tokio::test]
async fn c14_a_revoked_agent_is_not_let_in_again_by_its_platforms_word() {
    let (rig, issuer) = rig().await;
    let key = LeafKey::generate();
    let bearer = |number: u32| issuer.token(&json!({"team": "blue", "jti": number}));
    let (status, body) = log_in(&rig, &bearer(1), &key, "pod-1").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let response: JoinResponse = serde_json::from_value(body).unwrap();
    let revoked = rig.write(Command::RevokeAgent { agent: response.record.id.clone() }).await;
    assert!(matches!(revoked, Outcome::AgentRevoked { .. } | Outcome::Done), "{revoked:?}");
    for number in [1, 2] {
        let refused = log_in(&rig, &bearer(number), &key, "pod-1").await;
        assert_eq!(refused.0, StatusCode::FORBIDDEN, "{refused:?}");
    }
    assert!(rig.catalog().agent_by_key(&response.record.key).is_none());
}

#[tokio::test]
async fn a_login_that_does_not_count_writes_nothing() {
    let (rig, issuer) = rig().await;
    let before = rig.catalog().index();
    let now = wire::crypto::now().0 / 1000;
    for bearer in [
        "nonsense".to_owned(),
        Issuer::new().token(&json!({"team": "blue"})),
        issuer.token(&json!({"team": "blue", "exp": now - 100})),
        issuer.token(&json!({"team": "blue", "exp": now + 90_000})),
        issuer.token(&json!({})),
        issuer.token(&json!({"team": "a/b"})),
    ] {
        let answer = log_in(&rig, &bearer, &LeafKey::generate(), "pod-1").await;
        assert_eq!((answer.0, error(&answer)), (StatusCode::FORBIDDEN, DENIED), "{answer:?}");
    }
    // What it was stands where the operator looks.
    rig.counts("weft_agent_port_refused_total{reason=\"credential_rejected\"} 4").await;
    rig.counts("weft_agent_port_refused_total{reason=\"login_unbound\"} 1").await;
    assert_eq!(rig.catalog().index(), before);
    // Rules that give no service make nobody an agent.
    rule(&rig, 2, BindKind::Role, "ops", "value.team is empty").await;
    let answer = log_in(&rig, &issuer.token(&json!({})), &LeafKey::generate(), "pod-1").await;
    assert_eq!((answer.0, error(&answer)), (StatusCode::FORBIDDEN, DENIED));
    rig.counts("weft_agent_port_refused_total{reason=\"login_unbound\"} 2").await;
}

#[tokio::test]
async fn a_rule_that_names_the_node_holds_the_agent_to_it_and_lets_it_come_back_with_a_new_key() {
    let (rig, issuer) = rig().await;
    rule(&rig, 2, BindKind::Node, "${value.deep}", "").await;
    let bearer = |number: u32| issuer.token(&json!({"team": "blue", "a": {"b": "pod-1"}, "jti": number}));
    let elsewhere = log_in(&rig, &bearer(1), &LeafKey::generate(), "pod-2").await;
    assert_eq!((elsewhere.0, error(&elsewhere)), (StatusCode::FORBIDDEN, DENIED));
    let first: JoinResponse =
        serde_json::from_value(log_in(&rig, &bearer(2), &LeafKey::generate(), "pod-1").await.1).unwrap();
    let second: JoinResponse =
        serde_json::from_value(log_in(&rig, &bearer(3), &LeafKey::generate(), "pod-1").await.1).unwrap();
    assert_ne!(first.record.id, second.record.id);
    assert!(rig.catalog().is_revoked(first.record.enrolled));
}

#[tokio::test]
async fn c13_a_herd_of_logins_is_sent_away_for_a_while() {
    let bounds = Bounds { joining: Pace::new(2, 1), ..Bounds::default() };
    let (rig, issuer) = (Rig::start_within(bounds).await, Issuer::new());
    let change = LoginChange::WriteMethod { method: Box::new(method(&issuer)), replace: false };
    rig.write(Command::Login { change }).await;
    rule(&rig, 1, BindKind::Service, "web", "").await;
    let mut statuses = Vec::new();
    for number in 0..3 {
        let bearer = issuer.token(&json!({"jti": number}));
        statuses.push(log_in(&rig, &bearer, &LeafKey::generate(), &format!("pod-{number}")).await.0);
    }
    assert_eq!(statuses, [StatusCode::OK, StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE]);
}
