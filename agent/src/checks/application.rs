//! An application's own probes, made by the agent for whoever runs the pod.
//!
//! Where traffic is redirected, a kubelet that asked the application would meet the mesh listener, which wants a certificate.
//! So it asks the agent, and the agent asks the application, on loopback and nowhere else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use ::http::{HeaderMap, Method, Request, Uri};
use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{HttpProbe, INTERVAL_MIN, LeadsOn, ProbeError, connect, http, truncated};

/// The answer of a gRPC health service is a few bytes.
const GRPC_BYTES_MAX: usize = 4096;
/// What `grpc.health.v1.HealthCheckResponse` says of a service that serves.
const SERVING: u64 = 1;

/// Why an application's probe cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ApplicationProbeError {
    /// It has no name to be asked by.
    #[error("`{path}` is no path of a probe: use a container's name, `/` and the probe's")]
    Path {
        /// What was written.
        path: String,
    },
    /// It leads elsewhere.
    #[error("`{address}` is not the application beside the agent: use `127.0.0.1:PORT`")]
    NotLocal {
        /// Where it leads.
        address: String,
    },
    /// It cannot be asked like that.
    #[error("`{text}` cannot be asked for: {problem}")]
    Malformed {
        /// What was written.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// How an application is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Question {
    Http(Box<HttpProbe>),
    Tcp(SocketAddr),
    Grpc { address: SocketAddr, service: String },
}

/// One probe of an application beside the agent, and the path at which the agent is asked to make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationProbe {
    path: String,
    timeout: Duration,
    question: Question,
}

impl ApplicationProbe {
    /// Makes one that asks for an `http://` URL; any answer from 200 to 399 is good.
    ///
    /// # Errors
    ///
    /// [`ApplicationProbeError`] says what cannot be asked.
    pub fn http(
        path: &str,
        url: &str,
        headers: impl IntoIterator<Item = (String, Vec<String>)>,
        timeout: Duration,
    ) -> Result<Self, ApplicationProbeError> {
        let malformed = |problem| ApplicationProbeError::Malformed { text: url.to_owned(), problem };
        let target: Uri = url.parse().map_err(|_| malformed("it is no URL"))?;
        let (host, port) = http::target(&target).map_err(|_| malformed("use `http://127.0.0.1:PORT/PATH`"))?;
        let bracketed = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        local(&bracketed)?;
        let mut map = HeaderMap::new();
        for (name, values) in headers {
            let name =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| malformed("a header's name is malformed"))?;
            for value in values {
                let value = HeaderValue::from_bytes(value.as_bytes())
                    .map_err(|_| malformed("a header's value is malformed"))?;
                map.append(name.clone(), value);
            }
        }
        let question = HttpProbe {
            url: target,
            method: Method::GET,
            headers: map,
            body: String::new(),
            interval: INTERVAL_MIN,
            timeout,
        };
        Self::new(path, Question::Http(Box::new(question)), timeout)
    }

    /// Makes one that looks whether somebody listens.
    ///
    /// # Errors
    ///
    /// [`ApplicationProbeError`] says what cannot be asked.
    pub fn tcp(path: &str, address: &str, timeout: Duration) -> Result<Self, ApplicationProbeError> {
        Self::new(path, Question::Tcp(local(address)?), timeout)
    }

    /// Makes one that asks the health service of gRPC for `service`; empty is the whole application.
    ///
    /// # Errors
    ///
    /// [`ApplicationProbeError`] says what cannot be asked.
    pub fn grpc(path: &str, address: &str, service: &str, timeout: Duration) -> Result<Self, ApplicationProbeError> {
        if service.len() > GRPC_BYTES_MAX {
            let problem = "its name is too long";
            return Err(ApplicationProbeError::Malformed { text: service.chars().take(64).collect(), problem });
        }
        Self::new(path, Question::Grpc { address: local(address)?, service: service.to_owned() }, timeout)
    }

    fn new(path: &str, question: Question, timeout: Duration) -> Result<Self, ApplicationProbeError> {
        let is_plain = |part: &str| {
            part.bytes().any(|byte| byte != b'.')
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
        };
        if path.split('/').count() != 2 || !path.split('/').all(is_plain) {
            return Err(ApplicationProbeError::Path { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), timeout, question })
    }

    /// Returns the path at which it is asked for.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Asks the application; what is wrong with it otherwise.
    pub(crate) async fn ask(self) -> Result<(), String> {
        let asked = async {
            match &self.question {
                Question::Http(probe) => match http::ask(probe, &nowhere()).await {
                    Ok((status, _)) if (200..400).contains(&status.as_u16()) => Ok(()),
                    Ok((status, body)) => Err(format!("the application answers {status}: {}", truncated(body))),
                    Err(error) => Err(one_line(&error)),
                },
                Question::Tcp(address) => {
                    let connected = connect(&address.ip().to_string(), address.port(), &nowhere()).await;
                    connected.map(drop).map_err(|error| one_line(&error))
                }
                Question::Grpc { address, service } => grpc(*address, service).await,
            }
        };
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(answered) => answered,
            Err(_) => Err(one_line(&ProbeError::Timeout { timeout: self.timeout })),
        }
    }
}

/// No address leads on to anybody else: a pod's probes are of its own author, as its calls are.
pub(super) fn nowhere() -> LeadsOn {
    Arc::new(|_| false)
}

fn one_line(error: &ProbeError) -> String {
    wire::one_line(error)
}

/// Takes an address of this machine's loopback.
fn local(address: &str) -> Result<SocketAddr, ApplicationProbeError> {
    let parsed = address.parse::<SocketAddr>().ok().filter(|it| it.ip().is_loopback() && it.port() != 0);
    parsed.ok_or_else(|| ApplicationProbeError::NotLocal { address: address.to_owned() })
}

/// Asks the health service of gRPC, as its protocol document has it: one message, one answer, a status behind it.
async fn grpc(address: SocketAddr, service: &str) -> Result<(), String> {
    let stream =
        connect(&address.ip().to_string(), address.port(), &nowhere()).await.map_err(|error| one_line(&error))?;
    let failed = |error: hyper::Error| format!("{address} speaks no gRPC: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(failed)?;
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(Full::new(health_request(service)))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let (parts, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
        let body = Limited::new(body, GRPC_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let status = trailers.get("grpc-status").or_else(|| parts.headers.get("grpc-status")).cloned();
        match status.as_ref().map(HeaderValue::as_bytes) {
            Some(b"0") => {}
            Some(status) => return Err(format!("the health service says status {}", String::from_utf8_lossy(status))),
            None => return Err(format!("no answer of a health service: HTTP {}", parts.status)),
        }
        match health_status(body.to_bytes()) {
            Some(SERVING) => Ok(()),
            Some(_) | None => Err("the health service says that it does not serve".to_owned()),
        }
    };
    // Driven here, so that it ends with this probe whatever happens.
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        _ = connection => exchange.await,
    }
}

/// Writes a `HealthCheckRequest` in gRPC's frame: its one field is the service's name.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).expect("seven bits fit") | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).expect("seven bits fit"));
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).expect("a short name").to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

/// Reads the status of a `HealthCheckResponse` out of gRPC's frame; it is field 1, and 0 where it is left out.
fn health_status(mut frame: Bytes) -> Option<u64> {
    if frame.remaining() < 5 || frame.get_u8() != 0 {
        return None;
    }
    let length = usize::try_from(frame.get_u32()).ok()?;
    let message = frame.get(..length)?;
    match message {
        [] => Some(0),
        [0x08, status, ..] if *status < 0x80 => Some(u64::from(*status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const SECOND: Duration = Duration::from_secs(5);

    /// Answers every connection with `answer`.
    async fn application(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut question = [0; 4096];
                let length = stream.read(&mut question).await.unwrap_or(0);
                let is_meant = question.get(..length).is_some_and(|question| question.starts_with(b"GET /ready?x=1 "));
                let answer = if is_meant { answer } else { "HTTP/1.1 400 B\r\ncontent-length: 0\r\n\r\n" };
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn the_application_is_asked_as_its_kubelet_would() {
        for (answer, good) in [
            ("HTTP/1.1 204 No\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 500 No\r\ncontent-length: 4\r\n\r\nsick", false),
        ] {
            let address = application(answer).await;
            let url = format!("http://{address}/ready?x=1");
            let probe =
                ApplicationProbe::http("app/readiness", &url, [("X-A".to_owned(), vec!["b".to_owned()])], SECOND);
            let found = probe.unwrap().ask().await;
            assert_eq!(found.is_ok(), good, "{answer:?} {found:?}");
            assert!(good || found.unwrap_err().contains("500"), "{answer:?}");
        }
        let listening = application("").await.to_string();
        assert_eq!(ApplicationProbe::tcp("app/liveness", &listening, SECOND).unwrap().ask().await, Ok(()));
        // A port that is held and not listened at.
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let nobody = held.local_addr().unwrap().to_string();
        let refused = ApplicationProbe::tcp("app/liveness", &nobody, SECOND).unwrap().ask().await.unwrap_err();
        assert!(refused.contains("cannot connect"), "{refused}");
    }

    #[tokio::test]
    async fn the_health_service_of_grpc_is_asked_by_name() {
        let (reporter, service) = tonic_health::server::health_reporter();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let incoming = futures_util::stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        let probe = |service| ApplicationProbe::grpc("app/startup", &address, service, SECOND).unwrap().ask();
        reporter.set_service_status("ready", tonic_health::ServingStatus::Serving).await;
        assert_eq!(probe("ready").await, Ok(()));
        reporter.set_service_status("ready", tonic_health::ServingStatus::NotServing).await;
        assert!(probe("ready").await.unwrap_err().contains("does not serve"));
        assert!(probe("unknown").await.unwrap_err().contains("status 5"), "NOT_FOUND");
    }

    #[tokio::test]
    async fn a9_nothing_but_the_own_loopback_is_asked() {
        for address in ["10.0.0.1:80", "169.254.169.254:80", "localhost:80", "127.0.0.1:0", "[::ffff:10.0.0.1]:80"] {
            assert!(ApplicationProbe::tcp("a/b", address, SECOND).is_err(), "{address}");
            assert!(ApplicationProbe::http("a/b", &format!("http://{address}/"), [], SECOND).is_err(), "{address}");
        }
        assert!(ApplicationProbe::tcp("a/b", "[::1]:80", SECOND).is_ok());
        for path in ["a", "a/b/c", "../b", "a/", "a/%2e"] {
            assert!(ApplicationProbe::tcp(path, "127.0.0.1:1", SECOND).is_err(), "{path}");
        }
    }

    #[test]
    fn health_answers_are_read_strictly() {
        assert_eq!(health_status(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1])), Some(SERVING));
        assert_eq!(health_status(Bytes::from_static(&[0, 0, 0, 0, 0])), Some(0));
        for bad in [&[][..], &[0, 0, 0], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 9, 8, 1], &[0, 0, 0, 0, 2, 16, 1]] {
            assert_eq!(health_status(Bytes::copy_from_slice(bad)), None, "{bad:?}");
        }
        assert_eq!(health_request(""), Bytes::from_static(&[0, 0, 0, 0, 0]));
        assert_eq!(health_request(&"x".repeat(200)).get(5..8), Some(&[0x0a, 0xc8, 0x01][..]));
    }
}
