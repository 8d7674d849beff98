//! Rules on tokens, at the proxy: which count, how their callers are told, and what the application gets.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use catalog::{
    Action, Effect, Intention, JwtKeys, JwtRequirement, Permission, Policy, TokenForwarding, TokenLocation,
    TokenProvider,
};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::{Heard, HttpPair, asking, get, hear};
use crate::proxy::tests::agents::{DEADLINE, eventually, intention};
use crate::proxy::tests::certificates::service_key;
use issuer::{AUDIENCE, ISSUER, Issuer, Website, claims, ok};

#[allow(dead_code, reason = "other crates' tests use all of it")]
#[path = "../../../../../wire/src/jwt/testing.rs"]
mod issuer;

const UNAUTHORIZED: StatusCode = StatusCode::UNAUTHORIZED;
const FORBIDDEN: StatusCode = StatusCode::FORBIDDEN;

fn with_keys(name: &str, keys: JwtKeys) -> TokenProvider {
    let mut provider = TokenProvider::new(name.parse().unwrap(), ISSUER.to_owned(), keys);
    provider.audiences = vec![AUDIENCE.to_owned()];
    provider
}

fn provider(name: &str, issuer: &Issuer) -> TokenProvider {
    with_keys(name, JwtKeys::Set(issuer.jwks("k1").to_string()))
}

fn published(name: &str, site: &Website) -> TokenProvider {
    let mut provider =
        with_keys(name, JwtKeys::Url { url: format!("{}/keys", site.url), ca_pem: Some(site.ca_pem.clone()) });
    provider.timeout_ms = 10_000;
    provider
}

/// A token of this issuer's under the key id that its set has.
fn signed(issuer: &Issuer, more: &Value) -> String {
    issuer.sign(&Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::ES256) }, &claims(more))
}

fn asks_for(provider: &str, claims: &[(&str, &str)]) -> Value {
    let claims: Vec<Value> = claims.iter().map(|(path, value)| json!({"path": [path], "value": value})).collect();
    json!({"providers": [{"name": provider, "verify_claims": claims}]})
}

fn of_all_requests(jwt: Value) -> Intention {
    let jwt: JwtRequirement = serde_json::from_value(jwt).unwrap();
    Intention { jwt: Some(jwt), ..intention("allow web api") }
}

impl HttpPair {
    /// Has `api` ask for tokens of these providers as these intentions say.
    async fn protect(&mut self, providers: Vec<TokenProvider>, intentions: Vec<Intention>) {
        let policy = Policy::new(Action::Deny, Vec::new(), intentions);
        self.api.snapshot.policies.insert(service_key("api"), policy);
        let providers = providers.into_iter().map(Arc::new).collect();
        self.api.snapshot.providers.insert(service_key("api"), providers);
        self.api.publish().await;
    }

    async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> Heard {
        let mut lines = headers.to_vec();
        lines.push(("host", "api"));
        hear(self.http1().await.send_request(get(path, &lines)).await.unwrap()).await
    }

    async fn ask_with(&self, token: &str) -> Heard {
        self.ask("/", &[("authorization", &format!("Bearer {token}"))]).await
    }
}

fn said(heard: &Heard) -> &str {
    heard.headers.get("x-weft-refused").map_or("", |value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j1_j2_a_request_passes_with_a_token_that_counts_and_with_no_other() {
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    let mut pair = HttpPair::start_reaching(&[]).await;
    pair.protect(vec![provider("okta", &issuer)], vec![of_all_requests(asks_for("okta", &[("role", "admin")]))]).await;
    let part = |value: &Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let now = wire::crypto::now().0 / 1000;
    let admin = |more: Value| {
        let mut more = more;
        more["role"] = json!("admin");
        more
    };
    let secret = EncodingKey::from_secret(issuer.public_pem().as_bytes());
    let carrying = Header { jku: Some("https://evil.example".to_owned()), ..Header::new(Algorithm::ES256) };
    let unknown = Header { kid: Some("../k9' OR 1=1".to_owned()), ..Header::new(Algorithm::ES256) };
    let good = signed(&issuer, &admin(json!({})));
    let rows = [
        (
            format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims(&admin(json!({}))))),
            UNAUTHORIZED,
            "token_malformed",
        ),
        (
            encode(&Header::new(Algorithm::HS256), &claims(&admin(json!({}))), &secret).unwrap(),
            UNAUTHORIZED,
            "token_algorithm",
        ),
        (signed(&stranger, &admin(json!({}))), UNAUTHORIZED, "token_signature"),
        (issuer.sign(&unknown, &claims(&admin(json!({})))), UNAUTHORIZED, "token_unknown_key"),
        (issuer.sign(&carrying, &claims(&admin(json!({})))), UNAUTHORIZED, "token_malformed"),
        (signed(&issuer, &admin(json!({"filler": "x".repeat(9000)}))), UNAUTHORIZED, "token_too_long"),
        ("a.b.c".to_owned(), UNAUTHORIZED, "token_malformed"),
        (format!("{good}, Bearer {good}"), UNAUTHORIZED, "token_malformed"),
        (signed(&issuer, &admin(json!({"iss": "https://ISSUER.example"}))), UNAUTHORIZED, "token_issuer"),
        (signed(&issuer, &admin(json!({"iss": [ISSUER]}))), UNAUTHORIZED, "token_issuer"),
        (signed(&issuer, &admin(json!({"aud": "another"}))), FORBIDDEN, "token_audience"),
        (signed(&issuer, &admin(json!({"aud": null}))), UNAUTHORIZED, "token_malformed"),
        (signed(&issuer, &admin(json!({"exp": now - 60}))), UNAUTHORIZED, "token_expired"),
        (signed(&issuer, &admin(json!({"exp": null}))), UNAUTHORIZED, "token_malformed"),
        (signed(&issuer, &admin(json!({"exp": "later"}))), UNAUTHORIZED, "token_malformed"),
        (signed(&issuer, &admin(json!({"nbf": now + 600}))), UNAUTHORIZED, "token_not_yet"),
        (signed(&issuer, &json!({"role": "user"})), FORBIDDEN, "token_claims"),
        (signed(&issuer, &json!({"role": {"admin": true}})), FORBIDDEN, "token_claims"),
    ];
    for (token, status, label) in &rows {
        let heard = pair.ask_with(token).await;
        assert_eq!((heard.status, said(&heard)), (*status, *label), "{token}");
        let text = String::from_utf8(heard.body.to_vec()).unwrap();
        assert!(text.contains(label) && !text.contains(token.as_str()), "{text}");
        let challenge = heard.headers.get("www-authenticate").map(|value| value.to_str().unwrap());
        assert_eq!(challenge, (*status == UNAUTHORIZED).then_some("Bearer error=\"invalid_token\""), "{label}");
    }
    let none = pair.ask("/", &[("authorization", "Basic dXNlcjpwYXNz")]).await;
    assert_eq!(
        (none.status, said(&none), &none.headers["www-authenticate"]),
        (UNAUTHORIZED, "no_token", &"Bearer".parse().unwrap())
    );
    let other = signed(&issuer, &admin(json!({"sub": "another"})));
    let bearers = [format!("Bearer {good}"), format!("Bearer {other}")];
    let two = pair.ask("/", &[("authorization", &bearers[0]), ("authorization", &bearers[1])]).await;
    assert_eq!((two.status, said(&two)), (UNAUTHORIZED, "token_several"));
    let beside = pair.ask(&format!("/?access_token={other}"), &[("authorization", &bearers[0])]).await;
    assert_eq!(said(&beside), "token_several", "in two places");
    assert_eq!(pair.application.asked().len(), 0, "the application hears of none of them");

    for path in ["/".to_owned(), format!("/?access_token={good}")] {
        assert_eq!(pair.ask(&path, &[("authorization", &bearers[0])]).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(pair.ask(&format!("/?a=b&access_token={good}"), &[]).await.status, StatusCode::OK);
    let listed = signed(&issuer, &json!({"role": ["user", "admin"], "aud": ["other", AUDIENCE]}));
    assert_eq!(pair.ask_with(&listed).await.status, StatusCode::OK);
    let refused = |label: &str| pair.api.refused("inbound", "decide", label);
    assert_eq!((refused("token_expired"), refused("no_token"), refused("token_several")), (1, 1, 2));
    let valid = pair.api.metric("weft_proxy_tokens_total{provider=\"okta\",outcome=\"valid\"}");
    assert_eq!(valid, 6, "two of them did not say what was asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j3_a_token_counts_for_its_rule_its_provider_and_its_caller_only() {
    let (one, two) = (Issuer::new(), Issuer::new());
    let mut pair = HttpPair::start_reaching(&[]).await;
    let permissions: Vec<Permission> = serde_json::from_value(json!([
        {"action": "allow", "http": {"path": {"prefix": "/public"}}},
        {"action": "allow", "http": {"path": {"prefix": "/one"}}, "jwt": asks_for("one", &[])},
        {"action": "allow", "http": {"path": {"prefix": "/either"}},
            "jwt": {"providers": [{"name": "one"}, {"name": "two"}]}},
        {"action": "allow", "http": {"path": {"prefix": "/"}}, "jwt": asks_for("nobody", &[])},
    ]))
    .unwrap();
    let rule = Intention { effect: Effect::Permissions(permissions), ..intention("allow web api") };
    let second = TokenProvider { issuer: "https://two.example".to_owned(), ..provider("two", &two) };
    pair.protect(vec![provider("one", &one), second], vec![rule]).await;
    let token_one = format!("Bearer {}", signed(&one, &json!({})));
    let token_two = format!("Bearer {}", signed(&two, &json!({"iss": "https://two.example"})));
    // Signed by the second, in the name of the first.
    let forged = format!("Bearer {}", signed(&two, &json!({})));
    for (path, token, status, label) in [
        ("/public", "", StatusCode::OK, ""),
        ("/one", token_one.as_str(), StatusCode::OK, ""),
        ("/one", &token_two, UNAUTHORIZED, "token_issuer"),
        ("/one", &forged, UNAUTHORIZED, "token_signature"),
        ("/either", &token_one, StatusCode::OK, ""),
        ("/either", &token_two, StatusCode::OK, ""),
        ("/either", &forged, UNAUTHORIZED, "token_signature"),
        ("/either", "", UNAUTHORIZED, "no_token"),
        ("/elsewhere", &token_one, FORBIDDEN, "undecidable"),
    ] {
        let heard = pair.ask(path, &[("authorization", token)]).await;
        assert_eq!((heard.status, said(&heard)), (status, label), "{path} {token}");
    }
    // The same token, from a caller that the rule does not name.
    let rule = Intention { source: "batch".parse().unwrap(), ..of_all_requests(asks_for("one", &[])) };
    pair.protect(vec![provider("one", &one)], vec![rule]).await;
    let heard = pair.ask("/one", &[("authorization", &token_one)]).await;
    assert_eq!((heard.status, said(&heard)), (FORBIDDEN, "default_deny"));
    // Both levels must hold.
    let permissions: Vec<Permission> = serde_json::from_value(json!([
        {"action": "allow", "http": {"path": {"prefix": "/"}}, "jwt": asks_for("one", &[("role", "admin")])},
    ]))
    .unwrap();
    let both =
        Intention { effect: Effect::Permissions(permissions), ..of_all_requests(asks_for("one", &[("team", "a")])) };
    pair.protect(vec![provider("one", &one)], vec![both]).await;
    for (says, status) in [
        (json!({"role": "admin", "team": "a"}), StatusCode::OK),
        (json!({"role": "admin"}), FORBIDDEN),
        (json!({"team": "a"}), FORBIDDEN),
    ] {
        assert_eq!(pair.ask_with(&signed(&one, &says)).await.status, status, "{says}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h3_the_application_gets_what_a_token_says_from_weft_alone_and_the_token_only_if_it_shall() {
    let issuer = Issuer::new();
    let mut pair = HttpPair::start_reaching(&[]).await;
    let permissions = |forward: &str| -> Vec<Permission> {
        serde_json::from_value(json!([
            {"action": "allow", "http": {"path": {"prefix": "/public"}}},
            {"action": "deny", "http": {"headers": [{"name": "x-claims", "test": "present"}]}},
            {"action": "allow", "http": {"path": {"prefix": "/"}}, "jwt": asks_for(forward, &[])},
        ]))
        .unwrap()
    };
    let rule = |name: &str| Intention { effect: Effect::Permissions(permissions(name)), ..intention("allow web api") };
    let forwarding = Some(TokenForwarding { header: "x-claims".to_owned(), pad: true });
    let telling = TokenProvider { forwarding: forwarding.clone(), ..provider("okta", &issuer) };
    pair.protect(vec![telling.clone()], vec![rule("okta")]).await;
    let token = signed(&issuer, &json!({"role": "admin"}));
    let bearer = format!("Bearer {token}");
    assert_eq!(pair.ask("/", &[("authorization", &bearer), ("x-claims", "forged")]).await.status, StatusCode::OK);
    assert_eq!(pair.ask("/public", &[("authorization", &bearer), ("x-claims", "forged")]).await.status, StatusCode::OK);
    let (request, body) = asking(Method::POST, "http://api/", &[("authorization", &bearer)]);
    body.say("x").await;
    let answer = pair.http2().await.send_request(request).await.unwrap();
    body.say_trailers([("x-claims".parse().unwrap(), "forged".parse().unwrap())].into_iter().collect()).await;
    drop(body);
    let rest = tokio::time::timeout(DEADLINE, answer.into_body().collect()).await.expect("closed in time");
    assert!(rest.is_err(), "nor does anybody behind the body");
    let (name, prefix) = ("authorization".to_owned(), "Bearer ".to_owned());
    let locations = vec![TokenLocation::Header { name, prefix, forward: true }];
    pair.protect(vec![TokenProvider { locations, forwarding: None, ..telling }], vec![rule("okta")]).await;
    assert_eq!(pair.ask("/", &[("authorization", &bearer)]).await.status, StatusCode::OK);

    let asked = pair.application.asked();
    assert_eq!(asked[0].header("authorization"), "", "what let the request in goes no further");
    let told = data_encoding::BASE64URL.decode(asked[0].header("x-claims").as_bytes()).unwrap();
    let told: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!((&told["role"], &told["iss"]), (&json!("admin"), &json!(ISSUER)));
    assert_eq!(asked[1].header("x-claims"), "", "nobody else says it");
    assert_eq!(asked[1].header("authorization"), bearer, "a rule that asks for no token takes none");
    assert_eq!((asked[3].header("authorization"), asked[3].header("x-claims")), (bearer.as_str(), ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j2_a_token_that_ends_closes_nothing_and_opens_nothing_and_another_issuer_closes() {
    let issuer = Issuer::new();
    let mut pair = HttpPair::start_reaching(&[]).await;
    pair.protect(vec![provider("okta", &issuer)], vec![of_all_requests(asks_for("okta", &[]))]).await;
    let token = signed(&issuer, &json!({}));
    let bearer = format!("Bearer {token}");
    let (request, body) = asking(Method::POST, "http://api/", &[("authorization", &bearer)]);
    body.say("x").await;
    let mut answer = pair.http2().await.send_request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "x");

    pair.api.put_clock_forward(Duration::from_secs(3600));
    pair.api.publish().await;
    let heard = pair.ask_with(&token).await;
    assert_eq!((heard.status, said(&heard)), (UNAUTHORIZED, "token_expired"));
    body.say("still").await;
    assert_eq!(answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "still");

    let other = TokenProvider { issuer: "https://another.example".to_owned(), ..provider("okta", &issuer) };
    pair.protect(vec![other], vec![of_all_requests(asks_for("okta", &[]))]).await;
    let rest = tokio::time::timeout(DEADLINE, answer.into_body().collect()).await.expect("closed in time");
    assert!(rest.is_err(), "the answer passes for whole");
    eventually("it is told why", || pair.api.closed("inbound", "token_issuer") == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j4_keys_are_fetched_once_for_all_and_without_them_nobody_passes() {
    let issuer = Issuer::new();
    let (is_up, keys) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(issuer.jwks("k1"))));
    let (up, served) = (Arc::clone(&is_up), Arc::clone(&keys));
    let site = Website::start(move |_, _| match up.load(Ordering::SeqCst) {
        true => ok(&served.lock().unwrap()),
        false => b"HTTP/1.1 503 Down\r\ncontent-length: 0\r\n\r\n".to_vec(),
    })
    .await;
    let mut pair = HttpPair::start_reaching(&[]).await;
    let rules = || vec![of_all_requests(asks_for("okta", &[]))];
    pair.protect(vec![published("okta", &site)], rules()).await;
    let token = signed(&issuer, &json!({}));
    let heard = pair.ask_with(&token).await;
    assert_eq!((heard.status, said(&heard)), (FORBIDDEN, "undecidable"), "its keys are not known");
    let none = pair.ask("/", &[]).await;
    assert_eq!((none.status, said(&none)), (UNAUTHORIZED, "no_token"), "which takes no keys to know");
    assert_eq!(site.asked(), 1, "nobody asks again so soon");

    is_up.store(true, Ordering::SeqCst);
    // Another provider, of the same keys, asks for itself.
    let again = TokenProvider { timeout_ms: 10_001, fetch_ahead: true, ..published("okta", &site) };
    pair.protect(vec![again.clone()], rules()).await;
    let all = futures_util::future::join_all((0..8).map(|_| pair.ask_with(&token))).await;
    assert!(all.iter().all(|heard| heard.status == StatusCode::OK), "{all:?}");
    assert_eq!(site.asked(), 2, "one asks for all");
    let fetched = |outcome: &str| {
        pair.api.metric(&format!("weft_proxy_token_key_fetches_total{{provider=\"okta\",outcome=\"{outcome}\"}}"))
    };
    assert_eq!((fetched("failed"), fetched("fetched")), (1, 1));
    assert!(pair.api.metric("weft_proxy_token_keys_fetched_timestamp_seconds{provider=\"okta\"}") > 1_700_000_000);

    // A rule that changes beside it keeps the keys; so does a provider that says something new of something else.
    is_up.store(false, Ordering::SeqCst);
    let told = TokenProvider { clock_skew_seconds: 5, ..again };
    pair.protect(vec![told], vec![of_all_requests(asks_for("okta", &[])), intention("deny batch api")]).await;
    assert_eq!(pair.ask_with(&token).await.status, StatusCode::OK, "the last good keys go on");
    let unknown = Header { kid: Some("k2".to_owned()), ..Header::new(Algorithm::ES256) };
    let heard = pair.ask_with(&issuer.sign(&unknown, &claims(&json!({})))).await;
    assert_eq!((heard.status, said(&heard)), (UNAUTHORIZED, "token_unknown_key"));
    assert_eq!(site.asked(), 2, "an unknown key id makes nobody ask so soon");
}

/// Stands for a disk that outlives the agent.
#[derive(Debug, Default)]
struct Disk(Mutex<std::collections::BTreeMap<String, (String, catalog::Timestamp)>>);

impl wire::jwt::KeptKeys for Disk {
    fn load(&self, place: &str) -> Option<(String, catalog::Timestamp)> {
        self.0.lock().unwrap().get(place).cloned()
    }

    fn keep(&self, place: &str, keys: String, fetched: catalog::Timestamp) {
        self.0.lock().unwrap().insert(place.to_owned(), (keys, fetched));
    }

    fn forget(&self, place: &str) {
        self.0.lock().unwrap().remove(place);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j4_keys_of_a_provider_that_no_rule_asks_for_any_more_are_kept_no_longer() {
    let issuer = Issuer::new();
    let keys = issuer.jwks("k1");
    let site = Website::start(move |_, _| ok(&keys)).await;
    let (disk, token) = (Arc::new(Disk::default()), signed(&issuer, &json!({})));
    let kept = || disk.0.lock().unwrap().len();
    let mut pair = HttpPair::start_keeping(&[], Some(disk.clone())).await;
    let asking = || (vec![published("okta", &site)], vec![of_all_requests(asks_for("okta", &[]))]);
    let (providers, rules) = asking();
    pair.protect(providers, rules).await;
    assert_eq!(pair.ask_with(&token).await.status, StatusCode::OK);
    eventually("kept", || kept() == 1).await;

    // A provider that says something else of its tokens has the same keys, and so has one of another name.
    let (_, rules) = asking();
    let other = TokenProvider { fresh_seconds: 77, ..published("okta", &site) };
    pair.protect(vec![other, published("second", &site)], rules).await;
    assert_eq!(pair.ask_with(&token).await.status, StatusCode::OK);
    // The service is not here for now: it may come back while the issuer is away.
    let mut services = std::mem::take(&mut pair.api.snapshot.providers);
    pair.api.publish().await;
    assert_eq!(kept(), 1);
    pair.api.snapshot.providers.append(&mut services);
    pair.api.publish().await;

    pair.protect(Vec::new(), Vec::new()).await;
    eventually("forgotten", || kept() == 0).await;
    let (providers, rules) = asking();
    pair.protect(providers, rules).await;
    assert_eq!(pair.ask_with(&token).await.status, StatusCode::OK, "whoever is asked for again is fetched again");
    eventually("kept again", || kept() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j4_an_agent_that_starts_anew_while_the_issuer_is_away_goes_on_with_the_keys_that_it_had() {
    let issuer = Issuer::new();
    let (is_up, keys) = (Arc::new(AtomicBool::new(true)), issuer.jwks("k1"));
    let up = Arc::clone(&is_up);
    let site = Website::start(move |_, _| match up.load(Ordering::SeqCst) {
        true => ok(&keys),
        false => b"HTTP/1.1 503 Down\r\ncontent-length: 0\r\n\r\n".to_vec(),
    })
    .await;
    let (disk, token) = (Arc::new(Disk::default()), signed(&issuer, &json!({})));
    let okta = || TokenProvider { timeout_ms: 5_000, ..published("okta", &site) };
    let rules = || vec![of_all_requests(asks_for("okta", &[]))];
    let mut before = HttpPair::start_keeping(&[], Some(disk.clone())).await;
    before.protect(vec![okta()], rules()).await;
    assert_eq!(before.ask_with(&token).await.status, StatusCode::OK);
    eventually("kept", || !disk.0.lock().unwrap().is_empty()).await;
    drop(before);

    is_up.store(false, Ordering::SeqCst);
    let mut after = HttpPair::start_keeping(&[], Some(disk)).await;
    after.protect(vec![okta()], rules()).await;
    assert_eq!(after.ask_with(&token).await.status, StatusCode::OK);
    let at = after.api.metric("weft_proxy_token_keys_fetched_timestamp_seconds{provider=\"okta\"}");
    assert!(at > 1_700_000_000, "an alert on old keys goes by when they were fetched");
    let other = Issuer::new();
    let heard = after.ask_with(&signed(&other, &json!({}))).await;
    assert_eq!(heard.status, UNAUTHORIZED, "what another key has signed counts no more than before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j4_nobody_waits_long_for_keys_nor_fetches_them_from_this_machine() {
    let issuer = Issuer::new();
    // It takes connections and says nothing.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/keys", listener.local_addr().unwrap().port());
    let held = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Ok(one) = listener.accept().await {
            all.push(one);
        }
    });
    let mut pair = HttpPair::start_reaching(&[]).await;
    let keys = JwtKeys::Url { url: url.clone(), ca_pem: Some(Website::start(|_, _| Vec::new()).await.ca_pem.clone()) };
    let silent = TokenProvider { timeout_ms: 50, ..with_keys("okta", keys) };
    pair.protect(vec![silent.clone()], vec![of_all_requests(asks_for("okta", &[]))]).await;
    let heard = tokio::time::timeout(DEADLINE, pair.ask_with(&signed(&issuer, &json!({})))).await.expect("in time");
    assert_eq!((heard.status, said(&heard)), (FORBIDDEN, "undecidable"));
    held.abort();

    // As it is outside of tests.
    let site = Website::start(move |_, _| ok(&issuer.jwks("k1"))).await;
    let mut pair = HttpPair::start(&[]).await;
    pair.protect(vec![published("okta", &site)], vec![of_all_requests(asks_for("okta", &[]))]).await;
    let heard = pair.ask_with(&signed(&Issuer::new(), &json!({}))).await;
    assert_eq!((heard.status, said(&heard), site.asked()), (FORBIDDEN, "undecidable", 0));
}
