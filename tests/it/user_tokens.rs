//! Tokens of users: from an issuer that publishes its keys to the answer that a caller gets, and what it says of itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jsonwebtoken::{Algorithm, Header};
use serde_json::{Value, json};

use crate::harness::{Mesh, PROMISE_FACTOR, Service, application, eventually, exchange, free_port, skipped};
use issuer::{AUDIENCE, ISSUER, Issuer, Website, claims, ok};

#[allow(dead_code, reason = "other crates' tests use all of it")]
#[path = "../../wire/src/jwt/testing.rs"]
pub(crate) mod issuer;

/// How long a change of policy may take to be felt.
const FELT: Duration = Duration::from_secs(2);
/// How long a new key of an issuer's may take to be known: it is asked no more often than every ten seconds.
const ROTATED: Duration = Duration::from_secs(10);

const DEFAULTS: &str = r#"{"Kind": "service-defaults", "Name": "api", "Protocol": "http"}"#;

/// Returns an address of this machine that is not loopback, from where agents fetch no keys.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Nothing is sent: it is only asked which way that would go.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_loopback())
}

/// An issuer that publishes its keys, and may be down.
struct Publisher {
    runtime: tokio::runtime::Runtime,
    served: Arc<Mutex<Option<Value>>>,
    site: Website,
}

impl Publisher {
    fn start(address: IpAddr, jwks: Value) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let served = Arc::new(Mutex::new(Some(jwks)));
        let shown = Arc::clone(&served);
        let answer = move |_: &str, _: &str| match &*shown.lock().unwrap() {
            Some(jwks) => ok(jwks),
            None => b"HTTP/1.1 503 Down\r\ncontent-length: 0\r\n\r\n".to_vec(),
        };
        let site = runtime.block_on(Website::start_on(address, answer));
        Self { runtime, served, site }
    }

    fn publish(&self, jwks: Option<Value>) {
        *self.served.lock().unwrap() = jwks;
    }
}

pub(crate) fn signed(issuer: &Issuer, kid: &str, more: &Value) -> String {
    issuer.sign(&Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::ES256) }, &claims(more))
}

/// Asks with a token; returns the answer's status, and what weft says of it where it answers itself.
fn ask(listener: SocketAddr, token: Option<&str>) -> (u16, String) {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
    match exchange(listener, "GET", "/orders", &headers, "") {
        Ok(answer) => (answer.status, answer.header("x-weft-refused").unwrap_or_default().to_owned()),
        Err(error) => (0, error.to_string()),
    }
}

#[test]
fn j1_j2_j3_j4_users_are_let_in_by_tokens_of_an_issuer_that_rotates_its_keys_and_goes_down() {
    let Some(address) = own_address() else {
        let test = "j1_j2_j3_j4_users_are_let_in_by_tokens_of_an_issuer_that_rotates_its_keys_and_goes_down";
        return skipped(test, "this machine has no address but loopback to publish keys at");
    };
    let (old, new) = (Issuer::new(), Issuer::new());
    let publisher = Publisher::start(address, old.jwks("k1"));
    let mut mesh = Mesh::start(1);
    // Refused requests are told of at this level only, and no token is at any.
    mesh.agent_arguments = ["--log", "info,agent=debug"].map(str::to_owned).to_vec();
    let listener = free_port();
    let api = mesh.join("api-1", &[Service { name: "api", port: application(), upstreams: vec![] }]);
    mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![("api", listener)] }]);
    let listener = SocketAddr::from(([127, 0, 0, 1], listener));
    let write = |name: &str, text: &str| {
        let path = mesh.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let remote = json!({"URI": format!("{}/keys", publisher.site.url),
        "JWKSCluster": {"TLSCertificates": {"TrustedCA": {"InlineString": publisher.site.ca_pem}}}});
    let provider = json!({"Kind": "jwt-provider", "Name": "okta", "Issuer": ISSUER, "Audiences": [AUDIENCE],
        "JSONWebKeySet": {"Remote": remote}});
    let jwt = json!({"Providers": [{"Name": "okta", "VerifyClaims": [{"Path": ["role"], "Value": "admin"}]}]});
    let permission = json!({"Action": "allow", "HTTP": {"PathPrefix": "/orders"}, "JWT": jwt});
    let intentions = json!({"Kind": "service-intentions", "Name": "api",
        "Sources": [{"Name": "web", "Permissions": [permission]}]});
    let (provider, intentions) =
        (write("provider.json", &provider.to_string()), write("intentions.json", &intentions.to_string()));

    // In their order: nothing names a provider that is not there.
    mesh.done(&["config", "write", &write("defaults.json", DEFAULTS)]);
    let early = mesh.weft(&["config", "write", &intentions]);
    assert!(early.status == Some(2) && early.stderr.contains("there is no jwt-provider `okta`"), "{early:?}");
    mesh.done(&["config", "write", &provider]);
    mesh.done(&["config", "write", &intentions]);
    let gone = mesh.weft(&["config", "delete", "jwt-provider", "okta"]);
    assert!(gone.status == Some(2) && gone.stderr.contains("default/web => default/api"), "{gone:?}");
    assert!(mesh.done(&["config", "read", "jwt-provider", "okta"]).contains(&publisher.site.url));

    let admin = |more: Value| {
        let mut more = more;
        more["role"] = json!("admin");
        more
    };
    let good = signed(&old, "k1", &admin(json!({})));
    eventually("a token to be accepted", FELT * PROMISE_FACTOR, || (ask(listener, Some(&good)).0 == 200).then_some(()));
    let now = wire::crypto::now().0 / 1000;
    for (token, status, label) in [
        (None, 401, "no_token"),
        (Some(signed(&old, "k1", &admin(json!({"exp": now - 60})))), 401, "token_expired"),
        (Some(signed(&old, "k1", &admin(json!({"iss": "https://other.example"})))), 401, "token_issuer"),
        (Some(signed(&old, "k1", &admin(json!({"aud": "other"})))), 403, "token_audience"),
        (Some(signed(&new, "k1", &admin(json!({})))), 401, "token_signature"),
        (Some(signed(&old, "k1", &json!({"role": "user"}))), 403, "token_claims"),
        (Some(format!("{}.", good.rsplit_once('.').unwrap().0)), 401, "token_signature"),
    ] {
        assert_eq!(ask(listener, token.as_deref()), (status, label.to_owned()), "{token:?}");
    }
    let explained =
        mesh.done(&["intention", "explain", "web", "api", "--path", "/orders", "--jwt", r#"okta={"role":"admin"}"#]);
    assert!(explained.contains("GET /orders: allow"), "{explained}");

    // The issuer takes another key: its tokens are taken when one comes, and those of the old key no longer.
    let rotated = signed(&new, "k2", &admin(json!({})));
    assert_eq!(ask(listener, Some(&rotated)).1, "token_unknown_key");
    publisher.publish(Some(new.jwks("k2")));
    eventually("the new key to be known", ROTATED * PROMISE_FACTOR, || {
        (ask(listener, Some(&rotated)).0 == 200).then_some(())
    });
    assert_eq!(ask(listener, Some(&good)), (401, "token_unknown_key".to_owned()));

    // It goes down: what is known goes on, for a day.
    publisher.publish(None);
    assert_eq!(ask(listener, Some(&rotated)).0, 200);
    let metrics = mesh.agents[api].metrics();
    let judged = |outcome: &str| metrics.sum("weft_proxy_tokens_total", &[("provider", "okta"), ("outcome", outcome)]);
    assert!(judged("valid") >= 3 && judged("token_expired") == 1);
    let log = mesh.agents[api].log();
    assert!(log.contains("token_expired"), "{log}");
    assert!(!log.contains(good.as_str()), "a token stands in the log");
    drop(publisher.runtime);
}
