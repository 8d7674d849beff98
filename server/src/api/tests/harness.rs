//! One server in memory behind the real router.

use axum::Router;
use http::request::Builder;
use http_body_util::BodyExt;
use tokio::task::JoinHandle;
use tower::ServiceExt;
use wire::api_types::{BootstrapChallenge, BootstrapProof};

use super::*;
use crate::api::call::Call;
use crate::api::query::Query;
use crate::api::shaping::Shaping;
use crate::api::{ApiState, auth, router};
use crate::consensus::Consensus;
use crate::consensus::testing::Alone;
use crate::metrics::Metrics;

/// An answer, read to its end.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) text: String,
    /// The answer as it came, where it is no text.
    pub(super) bytes: Vec<u8>,
    headers: http::HeaderMap,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn index(&self) -> u64 {
        self.header("x-consul-index").unwrap().parse().unwrap()
    }
}

/// One server that leads, behind its router, with a management token.
pub(super) struct Api {
    alone: Alone,
    router: Router,
    /// The secret of the first token.
    pub(super) token: String,
}

impl Api {
    /// Starts the server and makes the first token as `weft acl bootstrap` does.
    pub(super) async fn start() -> Self {
        Self::over(Alone::start().await).await
    }

    /// Puts the API before a server.
    pub(super) async fn over(alone: Alone) -> Self {
        let state = ApiState::new(
            alone.consensus.clone(),
            "dc1".to_owned(),
            alone.server.clone(),
            alone.cluster_keys.clone(),
            Metrics::new(),
        );
        let mut api = Self { alone, router: router(state), token: String::new() };
        let (challenge, proof) = api.challenge_and_proof().await;
        let body = json!({"Challenge": challenge, "Proof": proof});
        let answer = api.send(Method::PUT, "/v1/acl/bootstrap", None, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        api.token = answer.json()["SecretID"].as_str().unwrap().to_owned();
        api
    }

    /// Waits until the mesh has its facts, and returns its trust domain.
    pub(super) async fn established(&self) -> String {
        loop {
            if let Some(mesh) = self.consensus().catalog().mesh() {
                return mesh.trust_domain.to_string();
            }
            tokio::task::yield_now().await;
        }
    }

    /// Returns what a handler is given for a request with `token`, once the guard and the route's right have let it through.
    pub(super) async fn call_as(&self, token: &str, path: &'static str, right: Right) -> Call {
        let (alone, uri) = (&self.alone, path.parse::<http::Uri>().unwrap());
        let keys = alone.cluster_keys.clone();
        let state =
            ApiState::new(alone.consensus.clone(), "dc1".to_owned(), alone.server.clone(), keys, Metrics::new());
        let query = Query::parse(&uri).unwrap();
        let headers = self.request(Method::PUT, path, Some(token)).body(Body::empty()).unwrap().headers().clone();
        let caller = auth::authorize(&state, &headers, false, right).await.unwrap().unwrap();
        Call {
            state,
            method: Method::PUT,
            path,
            path_parameters: Vec::new(),
            shaping: Shaping::asked(&query, path).unwrap(),
            query,
            caller,
            source: None,
            request_id: None,
            body: bytes::Bytes::new(),
        }
    }

    pub(super) fn consensus(&self) -> &Consensus {
        &self.alone.consensus
    }

    /// Asks for a challenge and answers it with the cluster key; both as hexadecimal text.
    pub(super) async fn challenge_and_proof(&self) -> (String, String) {
        let answer = self.send(Method::GET, "/v1/acl/bootstrap", None, Value::Null).await;
        let challenge: BootstrapChallenge = serde_json::from_str(&answer.text).unwrap();
        let proof = self.alone.cluster_keys.primary.acl_bootstrap_mac(&challenge.challenge);
        let sent = BootstrapProof { challenge: challenge.challenge, proof: proof.to_vec(), bootstrap_secret: None };
        let sent = serde_json::to_value(sent).unwrap();
        (sent["Challenge"].as_str().unwrap().to_owned(), sent["Proof"].as_str().unwrap().to_owned())
    }

    /// Begins a request that the guard lets through.
    pub(super) fn request(&self, method: Method, path: &str, token: Option<&str>) -> Builder {
        let request = Request::builder().method(method).uri(path).header("host", "localhost:8500");
        match token {
            Some(token) => request.header("x-consul-token", token),
            None => request,
        }
    }

    pub(super) async fn call(&self, request: Request<Body>) -> Answer {
        answer(self.router.clone(), request).await
    }

    /// Sends JSON, or no body where it is null.
    pub(super) async fn send(&self, method: Method, path: &str, token: Option<&str>, body: Value) -> Answer {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.call(self.request(method, path, token).body(body).unwrap()).await
    }

    /// Sends bytes that are no JSON.
    pub(super) async fn put_bytes(&self, path: &str, bytes: &[u8]) -> Answer {
        let request = self.request(Method::PUT, path, Some(&self.token)).body(Body::from(bytes.to_vec())).unwrap();
        self.call(request).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, Some(&self.token), Value::Null).await
    }

    pub(super) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some(&self.token), body).await
    }

    /// Sends a GET on a task of its own.
    pub(super) fn spawn_get(&self, path: &str) -> JoinHandle<Answer> {
        self.spawn_get_as(&self.token, path)
    }

    /// Sends a GET with another token on a task of its own.
    pub(super) fn spawn_get_as(&self, token: &str, path: &str) -> JoinHandle<Answer> {
        let request = self.request(Method::GET, path, Some(token)).body(Body::empty()).unwrap();
        tokio::spawn(answer(self.router.clone(), request))
    }
}

async fn answer(router: Router, request: Request<Body>) -> Answer {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let answer = Answer { status: parts.status, headers: parts.headers, text, bytes: bytes.to_vec() };
    super::openapi::is_as_promised(&method, &path, &answer);
    answer
}
