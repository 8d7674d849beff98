//! A Security Token Service for tests: it listens on a real socket and verifies signatures by its own reckoning.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use wire::crypto::sha256_hex;

use super::{QUESTION, read_date};

pub(super) const KEY_ID: &str = "ASIAWEFTTESTTESTTEST";
pub(super) const SECRET: &str = "not-a-secret-of-anybody";
pub(super) const SESSION: &str = "session/token+of=nobody";

pub(super) fn credentials() -> Credentials {
    Credentials::new(KEY_ID, SECRET, Some(SESSION.to_owned()), None, "test")
}

/// What the service answers to a good signature: status and body.
type Answer = Arc<Mutex<(StatusCode, String)>>;

/// Serves until it is dropped.
pub(super) struct Sts {
    pub(super) endpoint: String,
    asked: Arc<AtomicUsize>,
    answer: Answer,
    _task: AbortOnDropHandle<()>,
}

pub(super) fn identity(arn: &str, account: &str) -> String {
    format!(
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
         <Arn>{arn}</Arn><UserId>AROAEXAMPLE:0a1b</UserId><Account>{account}</Account></GetCallerIdentityResult>\
         <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
    )
}

fn error(code: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
         <Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"
    )
}

impl Sts {
    /// Answers that whoever signs well is the role `web` in the session `0a1b`.
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let web = identity("arn:aws:sts::123456789012:assumed-role/web/0a1b", "123456789012");
        let answer: Answer = Arc::new(Mutex::new((StatusCode::OK, web)));
        let (count, told) = (Arc::clone(&asked), Arc::clone(&answer));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (count, told) = (Arc::clone(&count), Arc::clone(&told));
                tokio::spawn(async move {
                    let serve = service_fn(move |request: Request<Incoming>| {
                        let (count, told) = (Arc::clone(&count), Arc::clone(&told));
                        async move {
                            count.fetch_add(1, Ordering::SeqCst);
                            let (status, body) = match refusal(request).await {
                                Some(code) => (StatusCode::FORBIDDEN, error(code)),
                                None => told.lock().unwrap().clone(),
                            };
                            let response = Response::builder().status(status).header("content-type", "text/xml");
                            Ok::<_, std::convert::Infallible>(response.body(Full::new(Bytes::from(body))).unwrap())
                        }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
                });
            }
        });
        Self { endpoint, asked, answer, _task: AbortOnDropHandle::new(task) }
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(super) fn answers(&self, status: StatusCode, body: String) {
        *self.answer.lock().unwrap() = (status, body);
    }

    pub(super) fn fails(&self, status: StatusCode, code: &str) {
        self.answers(status, error(code));
    }
}

/// Verifies a request as the service does, step by step from its document on signature version 4, and says what is wrong.
async fn refusal(request: Request<Incoming>) -> Option<&'static str> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let header = |name: &str| one(&parts.headers, name);
    if parts.method != "POST" || parts.uri.path() != "/" || parts.uri.query().is_some() || body != QUESTION {
        return Some("InvalidAction");
    }
    let (Some(authorization), Some(date)) = (header("authorization"), header("x-amz-date")) else {
        return Some("MissingAuthenticationToken");
    };
    let (scope, rest) = authorization.strip_prefix("AWS4-HMAC-SHA256 Credential=")?.split_once(", SignedHeaders=")?;
    let (names, signature) = rest.split_once(", Signature=")?;
    let (key, scope) = scope.split_once('/')?;
    if key != KEY_ID || header("x-amz-security-token").as_deref() != Some(SESSION) {
        return Some("InvalidClientTokenId");
    }
    let canonical: String =
        names.split(';').map(|name| format!("{name}:{}\n", header(name).unwrap_or_default())).collect();
    let canonical = format!("POST\n/\n\n{canonical}\n{names}\n{}", sha256_hex(&body));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256_hex(canonical.as_bytes()));
    let mut scope = scope.split('/');
    let (_, region, service) = (scope.next()?, scope.next()?, scope.next()?);
    let at = UNIX_EPOCH + Duration::from_millis(read_date(&date)?.0);
    let signing_key = generate_signing_key(SECRET, at, region, service);
    (calculate_signature(signing_key, to_sign.as_bytes()) != signature).then_some("SignatureDoesNotMatch")
}

fn one(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?.trim().to_owned();
    values.next().is_none().then_some(value)
}
