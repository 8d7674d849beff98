use super::application::nowhere;
use super::*;
use catalog::NodeName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn key(id: &str) -> CheckKey {
    let node: NodeName = "vm-1".parse().unwrap();
    CheckKey { node, namespace: catalog::Namespace::default(), id: id.parse().unwrap() }
}

fn http_probe(url: &str) -> HttpProbe {
    HttpProbe {
        url: url.parse().unwrap(),
        method: Method::GET,
        headers: HeaderMap::new(),
        body: String::new(),
        interval: INTERVAL_MIN,
        timeout: Duration::from_secs(5),
    }
}

fn boxed_probe(url: &str) -> Box<HttpProbe> {
    Box::new(http_probe(url))
}

/// Answers every connection with `answer`, and tells what was asked.
async fn application(answer: Vec<u8>) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, questions) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut question = vec![0; 4096];
            let length = stream.read(&mut question).await.unwrap_or(0);
            question.truncate(length);
            let _ = asked.send(String::from_utf8_lossy(&question).into_owned()).await;
            let _ = stream.write_all(&answer).await;
        }
    });
    (address, questions)
}

#[track_caller]
fn is_refused(probe: Probe, reason: &str) {
    let error = probe.validate().unwrap_err().to_string();
    assert!(error.contains(reason), "{error}");
}

#[test]
fn a9_a_check_of_metadata_another_scheme_or_a_user_is_refused_when_registered() {
    is_refused(Probe::Http(boxed_probe("http://169.254.169.254/latest/meta-data")), "may not be checked");
    is_refused(Probe::Http(boxed_probe("http://[::ffff:169.254.169.254]/")), "may not be checked");
    is_refused(Probe::Http(boxed_probe("http://[fe80::1]/")), "may not be checked");
    is_refused(Probe::Http(boxed_probe("https://127.0.0.1/")), "only `http://`");
    is_refused(Probe::Http(boxed_probe("file://127.0.0.1/etc/passwd")), "only `http://`");
    is_refused(Probe::Http(boxed_probe("http://root@127.0.0.1/")), "names a user");
    let tcp = |address: &str| Probe::Tcp { address: address.to_owned(), interval: INTERVAL_MIN, timeout: INTERVAL_MIN };
    is_refused(tcp("169.254.169.254:80"), "may not be checked");
    is_refused(tcp("127.0.0.1"), "host:port");
    is_refused(tcp("::1:80"), "host:port");
    assert!(tcp("[::1]:80").validate().is_ok());
}

#[tokio::test]
async fn the_status_code_decides_and_the_answer_is_shown() {
    for (line, want) in [
        ("200 OK", CheckStatus::Passing),
        ("204 No Content", CheckStatus::Passing),
        ("429 Too Many Requests", CheckStatus::Warning),
        ("302 Found", CheckStatus::Critical),
        ("404 Not Found", CheckStatus::Critical),
        ("503 Service Unavailable", CheckStatus::Critical),
    ] {
        let answer = format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n");
        let (address, _questions) = application(answer.into_bytes()).await;
        let (status, output) = http::probe(&http_probe(&format!("http://{address}/health")), &nowhere()).await;
        assert_eq!(status, want, "{line}: {output}");
        assert!(output.contains(line), "{output}");
    }
}

#[tokio::test]
async fn a9_a_redirect_is_not_followed() {
    let (target, mut reached) = application(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()).await;
    let answer = format!("HTTP/1.1 301 Moved\r\nlocation: http://{target}/\r\ncontent-length: 0\r\n\r\n");
    let (address, mut asked) = application(answer.into_bytes()).await;
    let (status, _) = http::probe(&http_probe(&format!("http://{address}/")), &nowhere()).await;
    assert_eq!(status, CheckStatus::Critical);
    assert!(asked.recv().await.is_some());
    assert!(reached.try_recv().is_err());
}

#[tokio::test]
async fn a9_only_the_beginning_of_a_huge_body_is_kept() {
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n".to_vec();
    answer.resize(answer.len() + 1_000_000, b'x');
    let (address, _questions) = application(answer).await;
    let (status, output) = http::probe(&http_probe(&format!("http://{address}/")), &nowhere()).await;
    assert_eq!(status, CheckStatus::Passing);
    assert_eq!(output.matches('x').count(), OUTPUT_BYTES_MAX);
    assert!(truncated(output).len() <= OUTPUT_BYTES_MAX);
}

#[tokio::test]
async fn a9_l8_no_check_is_made_where_the_agent_takes_calls() {
    let (address, mut asked) = application(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()).await;
    let leads_on: LeadsOn = Arc::new(move |dialled| dialled == address);
    let found = [
        http::probe(&http_probe(&format!("http://{address}/")), &leads_on).await,
        tcp::probe(&address.to_string(), Duration::from_secs(5), &leads_on).await,
    ];
    for (status, output) in found {
        assert_eq!(status, CheckStatus::Critical);
        assert!(output.contains("it is the agent's own"), "{output}");
    }
    assert!(asked.try_recv().is_err());
}

#[tokio::test]
async fn method_headers_and_body_are_sent_as_configured() {
    let (address, mut asked) = application(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    let mut check = http_probe(&format!("http://{address}/health?deep=1"));
    check.method = Method::POST;
    check.body = "are you well".to_owned();
    check.headers.append("x-probe", "1".parse().unwrap());
    check.headers.append("host", "app.internal".parse().unwrap());
    assert_eq!(http::probe(&check, &nowhere()).await.0, CheckStatus::Passing);
    let question = asked.recv().await.unwrap();
    assert!(question.starts_with("POST /health?deep=1 HTTP/1.1\r\n"), "{question}");
    assert!(question.contains("x-probe: 1\r\n") && question.contains("host: app.internal\r\n"), "{question}");
    assert!(question.contains("connection: close\r\n"), "{question}");
}

#[tokio::test]
async fn an_application_that_does_not_answer_is_critical_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut check = http_probe(&format!("http://{}/", listener.local_addr().unwrap()));
    check.timeout = Duration::from_millis(50);
    let (status, output) = http::probe(&check, &nowhere()).await;
    assert_eq!(status, CheckStatus::Critical);
    assert!(output.contains("no answer within 50ms"), "{output}");
}

#[tokio::test]
async fn a_tcp_check_passes_exactly_when_something_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let timeout = Duration::from_secs(5);
    assert_eq!(tcp::probe(&address, timeout, &nowhere()).await.0, CheckStatus::Passing);
    drop(listener);
    let (status, output) = tcp::probe(&address, timeout, &nowhere()).await;
    assert_eq!(status, CheckStatus::Critical);
    assert!(output.contains("refused"), "{output}");
}

#[tokio::test]
async fn a_silent_ttl_check_becomes_critical_once_until_it_reports_again() {
    let (results, mut found) = mpsc::channel(4);
    let mut checks = Checks::new(results, Seeded::new(1), nowhere());
    let ttl = Duration::from_millis(200);
    checks.set(&BTreeMap::from([(key("ttl"), Probe::Ttl(ttl))]));
    let started = std::time::Instant::now();
    checks.reported(&key("ttl"));
    assert_eq!(found.recv().await.unwrap().status, CheckStatus::Critical);
    assert!(started.elapsed() >= ttl);
    checks.reported(&key("ttl"));
    assert!(found.try_recv().is_err(), "it is critical once, not again and again");
    assert_eq!(found.recv().await.unwrap().status, CheckStatus::Critical);
}

#[tokio::test]
async fn checks_are_repeated_and_stop_when_they_are_wanted_no_longer() {
    let (address, _questions) = application(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    let (results, mut found) = mpsc::channel(4);
    let mut checks = Checks::new(results, Seeded::new(1), nowhere());
    checks.set(&BTreeMap::from([(key("http"), Probe::Http(boxed_probe(&format!("http://{address}/"))))]));
    for _ in 0..2 {
        assert_eq!(found.recv().await.unwrap().status, CheckStatus::Passing);
    }
    checks.set(&BTreeMap::new());
    drop(checks);
    while found.recv().await.is_some() {}
}
