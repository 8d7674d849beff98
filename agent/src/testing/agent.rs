//! A running agent under test, and requests to its listeners.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use wire::join_token::JoinSecret;

use super::server::{MANAGEMENT, ModelServer};
use crate::{Agent, Config, start};

/// Promises in seconds are asserted as "eventually", with far more time than was promised.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn config(servers: &[SocketAddr], token: Option<JoinSecret>, data_dir: Option<&Path>) -> Config {
    let servers = servers.iter().map(ToString::to_string).collect();
    let mut config = Config::in_memory("vm-1".parse().unwrap(), servers);
    config.join_token = token;
    config.data_dir = data_dir.map(Path::to_owned);
    config.drain_deadline = Duration::from_secs(20);
    config
}

/// Starts an agent that joins for `services` and keeps what it has in `data_dir`.
pub(crate) async fn joined(server: &ModelServer, services: &[&str], data_dir: Option<&Path>) -> Agent {
    let token = server.shared().join_token(services);
    start(config(&[server.address], Some(token), data_dir)).await.unwrap()
}

/// Waits until `what` holds.
#[track_caller]
pub(crate) fn eventually(what: impl AsyncFn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        while !what().await {
            assert!(started.elapsed() < DEADLINE, "did not come true in {DEADLINE:?}, at {caller}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// An answer of one of the agent's listeners.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }
}

/// Sends a request with these headers.
pub(crate) async fn send(
    address: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let sending = exchange(address, method, path, headers, body);
    tokio::time::timeout(3 * DEADLINE, sending).await.unwrap_or_else(|_| panic!("{address} gave no answer to {path}"))
}

async fn exchange(address: SocketAddr, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    let (parts, body) = sender.send_request(request.body(body).unwrap()).await.unwrap().into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    driver.abort();
    Answer { status: parts.status, headers: parts.headers, text }
}

/// Sends a request with the management token.
pub(crate) async fn manage(agent: &Agent, method: Method, path: &str, body: &str) -> Answer {
    let headers = [("host", "localhost"), ("x-consul-token", MANAGEMENT)];
    send(agent.http_address(), method, path, &headers, body).await
}

pub(crate) async fn get(agent: &Agent, path: &str) -> Answer {
    manage(agent, Method::GET, path, "").await
}

pub(crate) async fn put(agent: &Agent, path: &str, body: &str) -> Answer {
    manage(agent, Method::PUT, path, body).await
}

/// Asks the admin listener.
pub(crate) async fn admin(agent: &Agent, path: &str) -> Answer {
    send(agent.admin_address(), Method::GET, path, &[("host", "127.0.0.1")], "").await
}
