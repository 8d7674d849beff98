use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use ::catalog::{AuthConfig, KubernetesConfig};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReviewStatus};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};
use wire::crypto::Secret;
use wire::login::{Credential, LoginContext, LoginError, LoginMaker, LoginMethod, VerifiedIdentity};

use super::{KubernetesLogins, ReviewerTokens, ShownToken, judge};
use crate::kubernetes::testing::{ApiServer, Deed, client, eventually, on_each_by, pod};

/// Whom an API server's own tokens are for.
const API: &str = "https://kubernetes.default.svc.cluster.local";

/// A cluster with a pod `web-0` of the account `web`, and a method that takes its tokens.
struct Rig {
    server: ApiServer,
    method: Arc<dyn LoginMethod>,
    directory: tempfile::TempDir,
}

fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "default"}})
}

fn rig() -> Rig {
    let server = ApiServer::start();
    server.put(account("web"));
    server.put(account("reviewer"));
    server.put(pod("default", "web-0"));
    let directory = tempfile::tempdir().unwrap();
    let own = server.token("default/reviewer", None, &[API]);
    let method = method(&server.url(), directory.path(), &own, server.ca_pem());
    Rig { server, method, directory }
}

/// Makes the method of the cluster at `host`, which is asked with the token `own` and known by `authority`.
fn method(host: &str, directory: &Path, own: &str, authority: &str) -> Arc<dyn LoginMethod> {
    let [token_file, authority_file] = ["token", "ca.pem"].map(|name| directory.join(name));
    // As an editor leaves it.
    std::fs::write(&token_file, format!("{own}\n")).unwrap();
    std::fs::set_permissions(&token_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&authority_file, authority).unwrap();
    let mut tokens = ReviewerTokens::default();
    tokens.add(host, token_file, Some(authority_file));
    let config = KubernetesConfig { host: Some(host.to_owned()), audiences: vec!["weft".to_owned()] };
    KubernetesLogins::new(tokens).make(&AuthConfig::Kubernetes(Box::new(config))).unwrap().unwrap()
}

async fn log_in(method: &dyn LoginMethod, token: &str) -> Result<VerifiedIdentity, LoginError> {
    let credential = Credential { bearer: Secret::new(token) };
    method.glance(&credential)?;
    let context = LoginContext { cluster_id: "c", key: None, now: wire::crypto::now() };
    method.verify(&credential, context).await
}

impl Rig {
    async fn log_in(&self, token: &str) -> Result<VerifiedIdentity, LoginError> {
        log_in(&*self.method, token).await
    }

    async fn refused(&self, token: &str, why: &str) {
        let error = self.log_in(token).await.unwrap_err();
        assert!(matches!(error, LoginError::Rejected { .. }), "{error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
    }

    /// Has the cluster itself sign what a good token says, changed.
    fn signed(&self, change: impl FnOnce(&mut Value)) -> String {
        let uid =
            |resource: &str, name: &str| self.server.get(resource, "default", name).unwrap()["metadata"]["uid"].clone();
        let mut claims = json!({
            "aud": ["weft"], "exp": wire::crypto::now().0 / 1000 + 600, "sub": "system:serviceaccount:default:web",
            "kubernetes.io": {
                "namespace": "default",
                "serviceaccount": {"name": "web", "uid": uid("serviceaccounts", "web")},
                "pod": {"name": "web-0", "uid": uid("pods", "web-0")},
            },
        });
        change(&mut claims);
        self.server.sign(&claims)
    }
}

#[tokio::test]
async fn c10_a_cluster_vouches_for_its_pods_while_they_live() {
    fn of<K: serde::de::DeserializeOwned>(object: Value) -> K {
        serde_json::from_value(object).unwrap()
    }
    on_each_by(|config| async move {
        let (api, as_told) = (client(config.clone()).await, PostParams::default());
        let accounts: Api<ServiceAccount> = Api::namespaced(api.clone(), "default");
        for name in ["web", "reviewer"] {
            accounts.create(&as_told, &of(account(name))).await.unwrap();
        }
        let pods: Api<Pod> = Api::namespaced(api.clone(), "default");
        let bound = pods.create(&as_told, &of(pod("default", "web-0"))).await.unwrap();
        let may = of::<ClusterRoleBinding>(json!({
            "metadata": {"name": "reviewer"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator"},
            "subjects": [{"kind": "ServiceAccount", "name": "reviewer", "namespace": "default"}],
        }));
        Api::all(api).create(&as_told, &may).await.unwrap();
        let token = async |account: &str, spec: Value| {
            let asked = of::<TokenRequest>(json!({"spec": spec}));
            accounts.create_token_request(account, &PostParams::default(), &asked).await.unwrap().status.unwrap().token
        };
        let own = token("reviewer", json!({"audiences": [API]})).await;
        let to = json!({"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": bound.metadata.uid});
        let of_pod = token("web", json!({"audiences": ["weft"], "boundObjectRef": to})).await;
        let cluster = &config["clusters"][0]["cluster"];
        let authority = cluster["certificate-authority-data"].as_str().unwrap().as_bytes();
        let authority = String::from_utf8(data_encoding::BASE64.decode(authority).unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let method = method(cluster["server"].as_str().unwrap(), directory.path(), &own, &authority);
        // Rights take a moment to count.
        let identity = eventually("the pod to log in", || async { log_in(&*method, &of_pod).await.ok() }).await;
        assert_eq!(identity.claims.subject, "default/web");
        assert_eq!(Some(&identity.claims.facts["pod.uid"]), bound.metadata.uid.as_ref());
        pods.delete("web-0", &DeleteParams::default().grace_period(0)).await.unwrap();
        eventually("its token to end with it", || async {
            matches!(log_in(&*method, &of_pod).await, Err(LoginError::Rejected { .. })).then_some(())
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn c10_a_pods_projected_token_says_which_pod_and_account_it_is_of() {
    let rig = rig();
    let token = rig.server.token("default/web", Some("web-0"), &["weft"]);
    let identity = rig.log_in(&token).await.unwrap();
    assert_eq!(identity.claims.subject, "default/web", "whoever bans it bans its next pod, too");
    let facts = identity.claims.facts;
    assert_eq!(facts.keys().map(String::as_str).collect::<Vec<_>>(), KubernetesConfig::FACTS);
    assert_eq!((&*facts["serviceaccount.namespace"], &*facts["serviceaccount.name"]), ("default", "web"));
    assert_eq!(facts["pod.uid"], rig.server.get("pods", "default", "web-0").unwrap()["metadata"]["uid"]);
    let left = identity.ends.0.saturating_sub(wire::crypto::now().0);
    assert!((590_000..=600_000).contains(&left), "{left}");
    let who = "system:serviceaccount:default:reviewer".to_owned();
    assert!(rig.server.seen().contains(&(who, "create tokenreviews.authentication.k8s.io".to_owned())));
}

#[tokio::test]
async fn c10_what_is_for_another_audience_unbound_or_out_of_a_secret_is_sent_away_without_a_question() {
    let rig = rig();
    let asked = rig.server.seen().len();
    rig.refused(&rig.server.token("default/web", Some("web-0"), &["vault"]), "another audience").await;
    rig.refused(&rig.server.token("default/web", None, &["weft"]), "bound to no pod").await;
    let legacy = json!({
        "iss": "kubernetes/serviceaccount", "kubernetes.io/serviceaccount/namespace": "default",
        "kubernetes.io/serviceaccount/service-account.name": "web", "sub": "system:serviceaccount:default:web",
    });
    rig.refused(&rig.server.sign(&legacy), "out of a Secret").await;
    rig.refused(&rig.signed(|claims| claims["exp"] = Value::Null), "never ends").await;
    rig.refused(&rig.signed(|claims| claims["exp"] = json!(1_700_000_000)), "has ended").await;
    rig.refused(&rig.signed(|claims| claims["kubernetes.io"]["namespace"] = json!("a/b")), "none can have").await;
    let good = rig.server.token("default/web", Some("web-0"), &["weft"]);
    for other in [format!("{good} "), format!("{good}\n"), format!(" {good}"), format!("{good}="), respelt(&good)] {
        rig.refused(&other, "no JSON Web Token").await;
    }
    let ended = Credential { bearer: Secret::new(rig.signed(|claims| claims["exp"] = json!(1_700_000_000))) };
    assert!(rig.method.glance(&ended).unwrap_err().to_string().contains("has ended"), "it takes no turn");
    for text in ["", "a.b", "a.b.c", "a.e30.c", &"x".repeat(20_000)] {
        rig.log_in(text).await.unwrap_err();
    }
    assert_eq!(rig.server.seen().len(), asked, "nobody was asked");
}

#[tokio::test]
async fn c10_what_another_cluster_signed_or_whose_pod_or_account_is_gone_does_not_count() {
    let (own, other) = (rig(), rig());
    own.refused(&other.server.token("default/web", Some("web-0"), &["weft"]), "of another cluster").await;
    let token = own.server.token("default/web", Some("web-0"), &["weft"]);
    own.log_in(&token).await.unwrap();
    own.server.remove("pods", "default", "web-0");
    own.refused(&token, "pod or account is gone").await;
    // A pod of the same name is another pod.
    own.server.put(pod("default", "web-0"));
    own.refused(&token, "pod or account is gone").await;
    let token = own.server.token("default/web", Some("web-0"), &["weft"]);
    own.server.remove("serviceaccounts", "default", "web");
    own.server.put(account("web"));
    own.refused(&token, "pod or account is gone").await;
}

#[tokio::test]
async fn c10_an_api_server_that_does_not_answer_lets_nobody_in_and_its_answers_are_bounded() {
    let mut rig = rig();
    let token = rig.server.token("default/web", Some("web-0"), &["weft"]);
    let huge = json!({"status": {"authenticated": true, "error": "x".repeat(100_000)}});
    for (deed, why) in [
        (Deed::Answer(403, None), "system:auth-delegator"),
        (Deed::Answer(500, None), "500"),
        (Deed::Answer(201, Some(huge)), "asking the API server"),
        (Deed::Answer(201, Some(json!("nonsense"))), "no TokenReview"),
        (Deed::Answer(201, Some(json!({"spec": {"token": "x"}, "status": token}))), "no TokenReview"),
        (Deed::Cut, "asking the API server"),
        (Deed::Lose, "asking the API server"),
    ] {
        rig.server.next(1, "tokenreviews", deed.clone());
        let error = rig.log_in(&token).await.unwrap_err();
        assert!(matches!(error, LoginError::Unavailable { .. }), "{deed:?}: {error}");
        assert!(error.to_string().contains(why) && !error.to_string().contains(&token), "{deed:?}: {error}");
    }
    rig.server.go_down();
    assert!(matches!(rig.log_in(&token).await.unwrap_err(), LoginError::Unavailable { .. }));
    rig.server.come_up();
    rig.log_in(&token).await.unwrap();
}

#[tokio::test]
async fn an_api_server_is_known_by_its_authoritys_file_as_that_is_now() {
    let rig = rig();
    let token = rig.server.token("default/web", Some("web-0"), &["weft"]);
    rig.log_in(&token).await.unwrap();
    let write = |pem: &str| std::fs::write(rig.directory.path().join("ca.pem"), pem).unwrap();
    write(ApiServer::start().ca_pem());
    assert!(matches!(rig.log_in(&token).await.unwrap_err(), LoginError::Unavailable { .. }), "that one is another");
    write(rig.server.ca_pem());
    rig.log_in(&token).await.unwrap();
    write("");
    assert!(rig.log_in(&token).await.unwrap_err().to_string().contains("holds no certificate"));
}

/// Writes a token with unused bits at the end of its signature, which lenient readers take for the same one.
fn respelt(token: &str) -> String {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet.find(token.chars().last().unwrap()).unwrap();
    format!("{}{}", &token[..token.len() - 1], &alphabet[last + 1..last + 2])
}

#[tokio::test]
async fn c10_a_token_is_known_again_by_what_is_signed_and_not_by_its_spelling() {
    let rig = rig();
    let token = rig.server.token("default/web", Some("web-0"), &["weft"]);
    let known = |text: &str| rig.method.known_by(&Credential { bearer: Secret::new(text) }).to_owned();
    let (signed, _) = token.rsplit_once('.').unwrap();
    assert_eq!(known(&token), signed);
    assert_eq!(known(&format!("{signed}.another")), signed);
}

/// The answer to the token of [`shown`].
fn status(change: impl FnOnce(&mut Value)) -> TokenReviewStatus {
    let mut status = json!({
        "authenticated": true, "audiences": ["weft"],
        "user": {
            "username": "system:serviceaccount:default:web", "uid": "u1", "groups": ["system:serviceaccounts"],
            "extra": {
                "authentication.kubernetes.io/pod-name": ["web-0"], "authentication.kubernetes.io/pod-uid": ["u2"],
            },
        },
    });
    change(&mut status);
    serde_json::from_value(status).unwrap()
}

#[test]
fn c10_an_answer_that_falls_short_in_anything_is_a_no() {
    let text = |text: &str| text.to_owned();
    let shown = ShownToken {
        namespace: text("default"),
        account: text("web"),
        account_uid: text("u1"),
        pod: text("web-0"),
        pod_uid: text("u2"),
        ends: ::catalog::Timestamp(1),
    };
    let judged = |status| judge(&shown, status, &["weft".to_owned()]);
    judged(status(|_| ())).unwrap();
    let changes: [(&str, Value, &str); 13] = [
        ("/authenticated", json!(false), "does not know"),
        ("/authenticated", Value::Null, "does not know"),
        ("/error", json!("no such key"), "does not know"),
        ("/audiences", Value::Null, "an audience"),
        ("/audiences", json!(["https://kubernetes.default.svc"]), "an audience"),
        ("/user", Value::Null, "whose"),
        ("/user/username", json!("system:node:n1"), "service account"),
        ("/user/username", json!("system:serviceaccount:default"), "service account"),
        ("/user/username", json!("system:serviceaccount:default:api"), "another account"),
        ("/user/groups", json!(["system:authenticated"]), "service account"),
        ("/user/uid", json!("u9"), "another account"),
        ("/user/extra", json!({}), "which pod"),
        ("/user/extra/authentication.kubernetes.io~1pod-uid", json!(["u2", "u3"]), "which pod"),
    ];
    for (at, value, why) in changes {
        let changed = status(|status| match status.pointer_mut(at) {
            Some(place) => *place = value.clone(),
            None => status[at.trim_start_matches('/')] = value.clone(),
        });
        let error = judged(changed).unwrap_err().to_string();
        assert!(error.contains(why) && !error.contains("no such key"), "{at} {value}: {error}");
    }
}

#[test]
fn a_method_of_another_cluster_needs_a_token_that_the_servers_operator_gave_for_it() {
    let config = |host: Option<&str>| {
        let host = host.map(str::to_owned);
        AuthConfig::Kubernetes(Box::new(KubernetesConfig { host, audiences: vec!["weft".to_owned()] }))
    };
    let mut tokens = ReviewerTokens::default();
    for host in ["https://A.example/", "http://a.example", "https://a.example/path"] {
        tokens.add(host, "/token".into(), None);
    }
    let logins = KubernetesLogins::new(tokens);
    assert!(logins.make(&config(None)).unwrap().is_ok());
    assert!(logins.make(&config(Some("https://a.example"))).unwrap().is_ok());
    let refused = |config: &AuthConfig| logins.make(config).unwrap().err().unwrap().to_string();
    assert!(refused(&config(Some("https://b.example"))).contains("--kubernetes-token-file"));
    for host in ["http://a.example", "https://a.example/path"] {
        assert!(refused(&config(Some(host))).contains("no https://HOST"), "{host}");
    }
}
