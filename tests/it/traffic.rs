//! What applications of others see of the mesh that stands between them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use tokio::{runtime::Runtime, time::timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    Conversation, GrpcServer, Mesh, PROMISE_FACTOR, Postgres, Service, eventually, exchange, free_port, serve_echo,
};

const CUT: Duration = Duration::from_secs(2);
/// How long a client may take to say something.
const SAID: Duration = Duration::from_secs(60);

/// A session in which the server speaks of its own accord: a trigger of its own notifies it.
struct Listening {
    child: Child,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ended_before = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Reads a client's lines in a thread of its own: a line that does not come is not waited for for ever.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, said) = channel();
    std::thread::spawn(move || {
        BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    said
}

#[test]
fn a_database_session_lives_as_long_as_its_intention() {
    let test = "a_database_session_lives_as_long_as_its_intention";
    let (port, listener) = (free_port(), free_port());
    let mut mesh = Mesh::start(1);
    let Some(postgres) = Postgres::start(test, mesh.directory.path(), port) else { return };
    mesh.join("db-1", &[Service { name: "db", port, upstreams: vec![] }]);
    mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![("db", listener)] }]);

    assert_eq!(postgres.ask(listener, "select 6 * 7"), None, "nobody said that web may call db");
    mesh.done(&["intention", "create", "--allow", "web", "db"]);
    eventually("the call to be allowed", CUT * PROMISE_FACTOR, || postgres.ask(listener, "select 1"));
    let made = "create table notes as select n, repeat('x', 1000) as text from generate_series(1, 20000) as n; \
                select count(*), sum(length(text)) from notes";
    assert_eq!(postgres.ask(listener, made).as_deref(), Some("20000|20000000"));
    // A result of 20 MB crosses whole.
    let all = postgres.ask(listener, "select text from notes").unwrap();
    assert_eq!((all.lines().count(), all.len()), (20000, 20000 * 1001 - 1));

    let mut child =
        postgres.client(listener).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let (output, errors) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
    let mut session = Listening { child };
    writeln!(input, "listen news;\n\\echo listening").unwrap();
    assert_eq!(output.recv_timeout(SAID).as_deref(), Ok("listening"));
    postgres.ask(port, "notify news, 'of its own accord'").unwrap();
    // The client tells what it heard with an answer.
    writeln!(input, "{}\\echo over", "select pg_sleep(0.05);\n".repeat(40)).unwrap();
    let mut heard = std::iter::from_fn(|| output.recv_timeout(SAID).ok()).take_while(|line| line != "over");
    assert!(heard.any(|line| line.contains("of its own accord")), "the notification came");

    mesh.done(&["intention", "delete", "web", "db"]);
    // The client sees its session die under it at the next thing it asks.
    let status = eventually("the session to be cut", CUT * PROMISE_FACTOR, || {
        let _closed = writeln!(input, "select 1;");
        session.child.try_wait().unwrap()
    });
    assert_eq!(status.code(), Some(2), "psql's status for a lost connection");
    let line = errors.recv_timeout(SAID).unwrap();
    assert!(line.contains("server closed the connection") || line.contains("could not receive"), "{line}");
    assert_eq!(postgres.ask(listener, "select 1"), None);
}

/// Returns an address of loopback that nothing listens on.
fn free_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

#[test]
fn grpc_and_websockets_are_carried_and_cut() {
    let runtime = Runtime::new().unwrap();
    let (grpc, echo) = (free_address(), free_address());
    let served = runtime.block_on(async {
        serve_echo(echo).await;
        GrpcServer::start(grpc).await
    });
    let mut mesh = Mesh::start(1);
    mesh.join(
        "apps",
        &[
            Service { name: "health", port: grpc.port(), upstreams: vec![] },
            Service { name: "echo", port: echo.port(), upstreams: vec![] },
        ],
    );
    let (to_grpc, to_echo) = (free_address(), free_address());
    let upstreams = vec![("health", to_grpc.port()), ("echo", to_echo.port())];
    mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams }]);
    assert!(runtime.block_on(served.call_all(to_grpc)).is_err(), "nobody said that web may call health");
    assert!(runtime.block_on(Conversation::open(to_echo)).is_err(), "nor echo");
    for destination in ["health", "echo"] {
        mesh.done(&["intention", "create", "--allow", "web", destination]);
    }
    eventually("gRPC to be allowed", CUT * PROMISE_FACTOR, || runtime.block_on(served.call_all(to_grpc)).ok());
    let mut conversation = eventually("the upgrade to be allowed", CUT * PROMISE_FACTOR, || {
        runtime.block_on(Conversation::open(to_echo)).ok()
    });
    for message in [Message::text("hello"), Message::binary(vec![7; 1 << 20]), Message::text("")] {
        runtime.block_on(conversation.exchange(message)).unwrap();
    }
    mesh.done(&["intention", "delete", "web", "echo"]);
    let cut = runtime.block_on(async { timeout(CUT * PROMISE_FACTOR, conversation.closed()).await });
    assert!(cut.is_ok(), "an open conversation is cut");
    assert!(runtime.block_on(served.call_all(to_grpc)).is_ok(), "what is still allowed goes on");
}

/// Writes a config entry.
fn write_config(mesh: &Mesh, name: &str, entry: &str) {
    let path = mesh.directory.path().join(format!("{name}.hcl"));
    std::fs::write(&path, entry).unwrap();
    mesh.done(&["config", "write", &path.display().to_string()]);
}

#[test]
fn h5_requests_of_http_services_are_decided_one_by_one_counted_and_cut() {
    let runtime = Runtime::new().unwrap();
    let (grpc, echo) = (free_address(), free_address());
    let served = runtime.block_on(async {
        serve_echo(echo).await;
        GrpcServer::start(grpc).await
    });
    let mut mesh = Mesh::start(1);
    write_config(&mesh, "health", "kind = \"service-defaults\"\nname = \"health\"\nprotocol = \"grpc\"\n");
    write_config(&mesh, "echo", "kind = \"service-defaults\"\nname = \"echo\"\nprotocol = \"http\"\n");
    let services = [
        Service { name: "health", port: grpc.port(), upstreams: vec![] },
        Service { name: "echo", port: echo.port(), upstreams: vec![] },
    ];
    let apps = mesh.join("apps", &services);
    let (to_grpc, to_echo) = (free_address(), free_address());
    let upstreams = vec![("health", to_grpc.port()), ("echo", to_echo.port())];
    let web = mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams }]);

    let ask = |method: &str, path: &str| exchange(to_echo, method, path, &[], "").unwrap();
    let refused = ask("GET", "/echo");
    assert_eq!((refused.status, refused.header("x-weft-refused")), (403, Some("default_deny")), "{refused:?}");
    assert!(runtime.block_on(served.call_all(to_grpc)).is_err(), "nobody said that web may call health");
    mesh.done(&["intention", "create", "--allow", "web", "health"]);
    let permissions = "kind = \"service-intentions\"\nname = \"echo\"\nsources = [{ name = \"web\", permissions = [\n\
                       { action = \"allow\", http { path_prefix = \"/echo\", methods = [\"GET\"] } }] }]\n";
    write_config(&mesh, "permissions", permissions);
    eventually("gRPC to be allowed", CUT * PROMISE_FACTOR, || runtime.block_on(served.call_all(to_grpc)).ok());
    let mut conversation = eventually("the upgrade to be allowed", CUT * PROMISE_FACTOR, || {
        runtime.block_on(Conversation::open(to_echo)).ok()
    });
    for message in [Message::text("hello"), Message::binary(vec![7; 1 << 20]), Message::text("")] {
        runtime.block_on(conversation.exchange(message)).unwrap();
    }
    for (method, path) in [("POST", "/echo"), ("GET", "/echo/../other"), ("GET", "/other")] {
        let refused = ask(method, path);
        assert_eq!((refused.status, refused.header("x-weft-refused")), (403, Some("no_permission")), "{method} {path}");
    }
    // Allowed, and not an upgrade: the application hangs up without an answer.
    let answered = ask("GET", "/%65cho");
    assert_eq!((answered.status, answered.header("x-weft-refused")), (502, Some("no_http1_answer")), "{answered:?}");
    for (agent, direction) in [(web, "outbound"), (apps, "inbound")] {
        let counted = |response| {
            let labels = [("direction", direction), ("response", response)];
            mesh.agents[agent].metrics().sum("weft_proxy_requests_total", &labels)
        };
        eventually(&format!("{direction} requests to be counted"), CUT * PROMISE_FACTOR, || {
            (counted("4xx") >= 4 && counted("2xx") >= 1).then_some(())
        });
        // Requests cost no handshake each.
        let metrics = mesh.agents[agent].metrics();
        assert!(metrics.sum("weft_proxy_handshakes_total", &[("direction", direction)]) <= 4);
    }
    mesh.done(&["intention", "delete", "web", "echo"]);
    let cut = runtime.block_on(async { timeout(CUT * PROMISE_FACTOR, conversation.closed()).await });
    assert!(cut.is_ok(), "an open conversation is cut");
    assert_eq!(ask("GET", "/echo").status, 403);
    assert!(runtime.block_on(served.call_all(to_grpc)).is_ok(), "what is still allowed goes on");
}
