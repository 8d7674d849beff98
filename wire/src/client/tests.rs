//! Against real sockets on loopback.

use std::convert::Infallible;
use std::future::pending;

use http::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Answers one connection by `answer`.
async fn serve<S, F>(stream: S, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Bytes>) -> Response<Full<Bytes>> + Send + Sync + 'static,
{
    let answer = Arc::new(answer);
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = Arc::clone(&answer);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Ok::<_, Infallible>(answer(Request::from_parts(parts, body)))
        }
    });
    let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Starts a server for one connection and returns a client of it.
async fn one_server(answer: impl Fn(Request<Bytes>) -> Response<Full<Bytes>> + Send + Sync + 'static) -> ApiClient {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = ApiClient::new(&listener.local_addr().unwrap().to_string()).unwrap();
    tokio::spawn(async move { serve(listener.accept().await.unwrap().0, answer).await });
    client
}

/// Lets `behave` have the first connection as it comes.
async fn raw_server<F: Future<Output = ()> + Send>(behave: impl FnOnce(TcpStream) -> F + Send + 'static) -> ApiClient {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = ApiClient::new(&listener.local_addr().unwrap().to_string()).unwrap();
    tokio::spawn(async move { behave(listener.accept().await.unwrap().0).await });
    client
}

/// Answers with what was asked.
fn echo(request: Request<Bytes>) -> Response<Full<Bytes>> {
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let seen = json!({
        "method": request.method().as_str(),
        "target": request.uri().to_string(),
        "token": header("x-consul-token"),
        "type": header("content-type"),
        "id": header("x-weft-request-id"),
        "body": serde_json::from_slice::<Value>(request.body()).ok(),
    });
    let answer = Response::builder().header("x-consul-index", "17");
    answer.body(Full::new(Bytes::from(seen.to_string()))).unwrap()
}

#[tokio::test]
async fn a_call_is_sent_as_it_was_put_together() {
    let client = one_server(echo).await.with_token(Secret::new("s3cret")).with_namespace("shop".parse().unwrap());
    let call = client.put("/v1/x").segment("a/b ä").query("source", "*/*").query("q", "1&2=3");
    let call = call.request_id("r-1".parse().unwrap()).body(&json!({"A": 1})).unwrap();
    let seen: Value = call.json().await.unwrap();
    assert_eq!(
        seen,
        json!({
            "method": "PUT", "target": "/v1/x/a%2Fb%20%C3%A4?source=%2A%2F%2A&q=1%262%3D3&ns=shop", "token": "s3cret",
            "type": "application/json", "id": "r-1", "body": {"A": 1},
        })
    );
}

#[tokio::test]
async fn a_call_that_names_a_namespace_keeps_it() {
    let client = one_server(echo).await.with_namespace("shop".parse().unwrap());
    let answer = client.get("/v1/x").query("ns", "bank").send().await.unwrap();
    assert_eq!(answer.index(), Some(CatalogIndex(17)));
    let seen: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(seen["target"], "/v1/x?ns=bank");
    assert_eq!(seen["token"], Value::Null);
}

#[tokio::test]
async fn an_error_carries_the_first_line_of_the_answer_without_control_characters() {
    let client = one_server(|_| {
        let body = "Permission denied: \u{1b}[31mno\nsecond line";
        Response::builder().status(403).body(Full::new(Bytes::from(body))).unwrap()
    })
    .await;
    let error = client.get("/v1/x").send().await.unwrap_err();
    assert_eq!(error.to_string(), "GET /v1/x was answered with 403: Permission denied: \\u{1b}[31mno");
    assert_eq!(error.status(), Some(StatusCode::FORBIDDEN));
    assert!(error.hint().unwrap().contains("--token-file"));
}

#[tokio::test]
async fn an_answer_that_is_something_else_is_an_error() {
    let client = one_server(|_| Response::new(Full::new(Bytes::from("<html>")))).await;
    let error = client.get("/v1/x").json::<Vec<String>>().await.unwrap_err();
    assert!(matches!(error, ApiError::Decode { .. }), "{error}");
}

#[tokio::test]
async fn nobody_there_is_said_with_what_to_do() {
    let error = ApiClient::new("127.0.0.1:9").unwrap().get("/v1/x").send().await.unwrap_err();
    assert_eq!(error.to_string(), "cannot reach http://127.0.0.1:9");
    assert!(error.hint().unwrap().contains("WEFT_HTTP_ADDR"));
}

#[tokio::test]
async fn p13_a_write_whose_answer_is_lost_is_reported_as_unknown() {
    let cut = |mut stream: TcpStream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
    };
    let client = raw_server(cut).await;
    let error = client.put("/v1/x").send().await.unwrap_err();
    assert!(matches!(error, ApiError::OutcomeUnknown { .. }), "{error}");
    let client = raw_server(cut).await;
    let error = client.get("/v1/x").send().await.unwrap_err();
    assert!(matches!(error, ApiError::NoAnswer { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let silent = |stream: TcpStream| async move {
        let _held = stream;
        pending::<()>().await;
    };
    let client = raw_server(silent).await.with_timeout(Duration::from_millis(20));
    let error = client.delete("/v1/x").send().await.unwrap_err();
    assert!(error.to_string().ends_with("there was no answer within 20ms"), "{error}");
    assert!(matches!(error, ApiError::OutcomeUnknown { .. }));
}

#[tokio::test]
async fn h10_an_endless_answer_is_cut_off() {
    let endless = |mut stream: TcpStream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b' '; 64 * 1024]).await.is_ok() {}
    };
    let client = raw_server(endless).await;
    let error = client.get("/v1/x").send().await.unwrap_err();
    assert!(matches!(error, ApiError::AnswerTooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a6_a_token_crosses_no_network_in_clear_text() {
    let client = ApiClient::new("http://192.0.2.1:8500").unwrap().with_token(Secret::new("s3cret"));
    let error = client.get("/v1/x").send().await.unwrap_err();
    assert!(matches!(error, ApiError::TokenInClear { .. }), "{error}");
    assert!(!format!("{client:?} {error:?} {error}").contains("s3cret"));
    let client = ApiClient::new("127.0.0.1:1").unwrap().with_token(Secret::new("a\r\nb"));
    assert!(matches!(client.get("/v1/x").request(), Err(ApiError::TokenForm)));
}

#[tokio::test]
async fn l1_https_trusts_the_named_ca_only() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (ca, other_ca) = (directory.path().join("ca.pem"), directory.path().join("other.pem"));
    std::fs::write(&ca, made.cert.pem()).unwrap();
    std::fs::write(&other_ca, other.cert.pem()).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let config = rustls::ServerConfig::builder_with_provider(crate::crypto::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, echo).await;
            }
        }
    });
    let client = ApiClient::new(&address).unwrap();
    let error = client.get("/v1/x").send().await.unwrap_err();
    assert!(matches!(error, ApiError::NoCaFile { .. }), "{error}");
    let error = client.clone().with_ca_file(&other_ca).unwrap().get("/v1/x").send().await.unwrap_err();
    assert!(matches!(error, ApiError::Unreachable { .. }), "{error}");
    let client = client.with_ca_file(&ca).unwrap().with_token(Secret::new("s3cret"));
    let seen: Value = client.get("/v1/x").json().await.unwrap();
    assert_eq!(seen["token"], "s3cret");
    let error = ApiClient::new(&address).unwrap().with_ca_file(&directory.path().join("none.pem")).unwrap_err();
    assert!(matches!(error, ApiError::CaFile { .. }), "{error}");
}
