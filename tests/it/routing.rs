//! Requests go where operators send them: by what they say, by weight, past failures, and back.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use crate::harness::{Mesh, PROMISE_FACTOR, Service, eventually, free_port};

/// How long a change of where calls go may take to be felt.
pub(crate) const FELT: Duration = Duration::from_secs(2);

/// A path under which no application ever answers.
pub(crate) const HELD: &str = "/answered-by-nobody";

/// Reads the head of a message; none at the end of the connection.
fn head(reader: &mut impl BufRead) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            return Some(lines);
        }
        lines.push(line);
    }
}

/// Is an application that answers with its name and the path that it was asked for, in a status of choice.
pub(crate) struct App {
    pub(crate) port: u16,
    status: Arc<AtomicU16>,
}

impl App {
    pub(crate) fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let status = Arc::new(AtomicU16::new(200));
        let shared = Arc::clone(&status);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let status = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, name, &status));
            }
        });
        Self { port, status }
    }

    pub(crate) fn answers(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }
}

fn serve(mut stream: TcpStream, name: &str, status: &AtomicU16) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(lines) = head(&mut reader) {
        let path = lines[0].split(' ').nth(1).unwrap_or_default();
        if path == HELD {
            // Until whoever asked gives up.
            let _ = reader.fill_buf();
            return;
        }
        let up = lines.iter().find_map(|line| line.strip_prefix("x-up: ")).unwrap_or("-");
        let (body, status) = (format!("{name} {path} {up}"), status.load(Ordering::Relaxed));
        let answer = format!("HTTP/1.1 {status} x\r\nx-secret: 1\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Is a client that asks one thing after the other over one connection.
pub(crate) struct Client {
    reader: BufReader<TcpStream>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: Vec<String>,
    pub(crate) body: String,
}

impl Client {
    pub(crate) fn connect(listener: SocketAddr) -> Option<Self> {
        Self::patient(listener, Duration::from_secs(20))
    }

    /// Connects; waits so long for an answer.
    pub(crate) fn patient(listener: SocketAddr, patience: Duration) -> Option<Self> {
        let stream = TcpStream::connect(listener).ok()?;
        stream.set_read_timeout(Some(patience)).unwrap();
        stream.set_nodelay(true).unwrap();
        Some(Self { reader: BufReader::new(stream) })
    }

    pub(crate) fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Option<Answer> {
        let mut request = format!("GET {path} HTTP/1.1\r\nhost: api\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += "\r\n";
        self.reader.get_mut().write_all(request.as_bytes()).ok()?;
        let head = head(&mut self.reader)?;
        let status = head[0].split(' ').nth(1)?.parse().ok()?;
        let length =
            head.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.reader.read_exact(&mut body).ok()?;
        Some(Answer { status, head, body: String::from_utf8(body).unwrap() })
    }
}

/// Asks once over a connection of its own.
pub(crate) fn ask(listener: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Option<Answer> {
    Client::connect(listener)?.get(path, headers)
}

/// Asks often, and returns how many answers came from each application, failures under their status.
pub(crate) fn tally(listener: SocketAddr, requests: usize, path: &str) -> std::collections::BTreeMap<String, usize> {
    let mut client = Client::connect(listener).unwrap();
    let mut tally = std::collections::BTreeMap::new();
    for _ in 0..requests {
        let answer = client.get(path, &[]).unwrap();
        let who = match answer.status {
            200 => answer.body.split(' ').next().unwrap().to_owned(),
            status => status.to_string(),
        };
        *tally.entry(who).or_default() += 1;
    }
    tally
}

pub(crate) fn write(mesh: &Mesh, name: &str, text: &str) {
    let form = if text.starts_with('{') { "json" } else { "hcl" };
    let path = mesh.directory.path().join(format!("{name}.{form}"));
    std::fs::write(&path, text).unwrap();
    assert_eq!(mesh.done(&["config", "write", &path.display().to_string()]), "Written.\n");
}

#[test]
fn requests_go_where_routers_splitters_and_resolvers_send_them() {
    let (one, other, next) = (App::start("one"), App::start("other"), App::start("next"));
    let listener = free_port();
    let mut mesh = Mesh::start(1);
    for name in ["api", "api-next"] {
        write(&mesh, "defaults", &format!("kind = \"service-defaults\"\nname = \"{name}\"\nprotocol = \"http\"\n"));
    }
    mesh.join("apps-1", &[Service { name: "api", port: one.port, upstreams: vec![] }]);
    mesh.join("apps-3", &[Service { name: "api-next", port: next.port, upstreams: vec![] }]);
    mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![("api", listener)] }]);
    let listener = SocketAddr::from((Ipv4Addr::LOCALHOST, listener));
    for destination in ["api", "api-next"] {
        mesh.done(&["intention", "create", "--allow", "web", destination]);
    }
    let deadline = FELT * PROMISE_FACTOR;
    let is_from = |name: &'static str, path: &'static str, headers: &'static [(&str, &str)]| {
        move || ask(listener, path, headers).filter(|answer| answer.status == 200 && answer.body.starts_with(name))
    };
    eventually("api to be called", deadline, is_from("one", "/", &[]));

    // By weight; how many go where is counted in the story of a new version.
    write(
        &mesh,
        "splitter",
        "kind = \"service-splitter\"\nname = \"api\"\nsplits = [{ weight = 90 }, { weight = 10, service = \"api-next\" }]\n",
    );
    // One in ten is soon missed by asking one at a time.
    eventually("a part to go elsewhere", deadline, || tally(listener, 50, "/").contains_key("next").then_some(()));
    mesh.done(&["config", "delete", "service-splitter", "api"]);

    // By what they say.
    write(
        &mesh,
        "router",
        r#"kind = "service-router"
           name = "api"
           routes = [
             { match = { http = { header = [{ name = "x-canary", exact = "true" }] } }, destination = { service = "api-next" } },
             { match = { http = { path_prefix = "/next" } }
               destination = { service = "api-next", prefix_rewrite = "/", request_headers = { set = { x-up = "yes" } }, response_headers = { remove = ["x-secret"] } } },
             { match = { http = { path_prefix = "/retried" } }
               destination = { num_retries = 3, retry_on = ["5xx"], request_timeout = "5s" } }
           ]"#,
    );
    eventually("the canary to go elsewhere", deadline, is_from("next", "/", &[("x-canary", "true")]));
    eventually("the rest to stay", deadline, is_from("one", "/", &[("x-canary", "false")]));
    let rewritten = ask(listener, "/next/a?b=c", &[("x-up", "forged")]).unwrap();
    assert_eq!(rewritten.body, "next /a?b=c yes");
    assert!(!rewritten.head.iter().any(|line| line.starts_with("x-secret")), "{:?}", rewritten.head);
    assert!(ask(listener, "/", &[]).unwrap().head.iter().any(|line| line == "x-secret: 1"));
    assert_eq!(tally(listener, 50, "/next/../x"), [("one".to_owned(), 50)].into(), "the normal path is what is routed");

    // A second instance that always fails is asked in half of the cases, and saved by a retry where the route says so.
    other.answers(503);
    mesh.join("apps-2", &[Service { name: "api", port: other.port, upstreams: vec![] }]);
    eventually("the failing instance to be called", deadline, || {
        ask(listener, "/", &[]).filter(|answer| answer.status == 503)
    });
    // So few that the budget of retries saves each of them, however the instances are drawn.
    assert_eq!(tally(listener, 12, "/retried"), [("one".to_owned(), 12)].into());
    assert!(mesh.agents[2].metrics().sum("weft_proxy_requests_repeated_total", &[]) > 0);

    // What takes over does when nobody is left, and goes back when somebody is.
    mesh.done(&["config", "delete", "service-router", "api"]);
    let resolver = "kind = \"service-resolver\"\nname = \"api\"\nfailover = { \"*\" = { service = \"api-next\" } }\n";
    write(&mesh, "resolver", resolver);
    mesh.agents[0].kill();
    mesh.agents[3].kill();
    let nobody = Duration::from_secs(5) * PROMISE_FACTOR;
    eventually("the other service to take over", nobody, is_from("next", "/", &[]));
    mesh.agents[0].start();
    eventually("the first to be called again", Duration::from_secs(30) * PROMISE_FACTOR, is_from("one", "/", &[]));

    let refused = mesh.weft(&["config", "delete", "service-defaults", "api-next"]);
    assert!(refused.stderr.contains("calls to `default/api`: `default/api-next` is read as tcp"), "{refused:?}");
}
