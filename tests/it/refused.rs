//! Who is not let in: at every port, whatever they come with, they are refused, counted, and told of in one line of the log.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use catalog::ServerId;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber,
};
use rustls::{ServerConfig, ServerConnection, StreamOwned, version::TLS12};
use rustls_pki_types::{PrivateKeyDer, ServerName, pem::PemObject};
use wire::{
    cluster_key::{ClusterKey, ClusterKeys},
    tls::{RaftIdentity, raft_server_config},
};

use crate::harness::{
    Mesh, Metrics, PROMISE_FACTOR, Process, Service, eventually, free_port, log_of,
    tls::{Credential, Knock, knock, knock_in_the_clear, reckless, reckless_speaking},
};

const DEADLINE: Duration = Duration::from_secs(15);
/// What is sent in the clear where it does not belong; no log may repeat it.
const SPOKEN_SECRET: &str = "0b7c8f52-secret-of-somebody";

/// Is one port that should stay shut: where it counts, and where it logs.
struct Door<'a> {
    counter: &'static str,
    metrics: Box<dyn Fn() -> Metrics + 'a>,
    log: Box<dyn Fn() -> String + 'a>,
    secrets: Vec<String>,
}

impl<'a> Door<'a> {
    fn of_server(mesh: &'a Mesh, at: usize, counter: &'static str) -> Self {
        let server = &mesh.servers[at];
        let (metrics, log) = (Box::new(|| server.metrics(&mesh.token)), Box::new(|| server.log()));
        Self { counter, metrics, log, secrets: secrets(mesh) }
    }

    fn of_agent(mesh: &'a Mesh, at: usize) -> Self {
        let agent = &mesh.agents[at];
        let (metrics, log) = (Box::new(|| agent.metrics()), Box::new(|| agent.log()));
        Self { counter: "weft_proxy_refused_total", metrics, log, secrets: secrets(mesh) }
    }

    /// Knocks, and checks that it was refused for this reason, counted once, and logged in one line without secrets.
    #[track_caller]
    fn refuses(&self, what: &str, labels: &[(&str, &str)], knock: impl FnOnce() -> SocketAddr) {
        let before = (self.metrics)();
        let logged = (self.log)().len();
        let from = knock();
        let count = |metrics: &Metrics| metrics.sum(self.counter, labels);
        eventually(&format!("{what}: to be counted under {labels:?}"), DEADLINE, || {
            (count(&(self.metrics)()) > count(&before)).then_some(())
        });
        let total = (self.metrics)().sum(self.counter, &[]) - before.sum(self.counter, &[]);
        assert_eq!(total, 1, "{what}: counted once, under nothing else");
        let lines = eventually(&format!("{what}: a line of the log about {from}"), DEADLINE, || {
            let log = (self.log)();
            let lines = log[logged..].lines().filter(|line| line.contains("refused") && names(line, from));
            Some(lines.map(str::to_owned).collect::<Vec<_>>()).filter(|lines| !lines.is_empty())
        });
        assert_eq!(lines.len(), 1, "{what}: {lines:#?}");
        assert!(lines[0].len() <= 2048 && !lines[0].contains(char::is_control), "{what}: {lines:?}");
        self.assert_tells_no_secret();
    }

    #[track_caller]
    fn assert_tells_no_secret(&self) {
        let log = (self.log)();
        assert!(!self.secrets.iter().any(|secret| log.contains(secret.as_str())), "the log has a secret:\n{log}");
        assert!(!log.contains("PRIVATE KEY"), "the log has a private key:\n{log}");
    }
}

/// Says whether a line names an address, rather than one that begins like it.
fn names(line: &str, address: SocketAddr) -> bool {
    let address = address.to_string();
    line.match_indices(&address).any(|(at, _)| !line[at + address.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

fn secrets(mesh: &Mesh) -> Vec<String> {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap().trim().to_owned();
    let join_tokens =
        mesh.agents.iter().map(|agent| read(&mesh.directory.path().join(format!("{}.join-token", agent.node))));
    let cluster_key = read(&mesh.key_file());
    [mesh.token.clone(), cluster_key, SPOKEN_SECRET.to_owned()].into_iter().chain(join_tokens).collect()
}

#[track_caller]
fn refused(what: &str, knock: Knock) -> SocketAddr {
    knock.assert_refused(what);
    knock.from
}

fn http_with_a_secret() -> String {
    format!("GET /v1/status/leader HTTP/1.1\r\nhost: localhost\r\nx-consul-token: {SPOKEN_SECRET}\r\n\r\n")
}

fn trust_domain(mesh: &Mesh) -> String {
    let roots: serde_json::Value = serde_json::from_str(&mesh.done(&["ca", "roots", "--output", "json"])).unwrap();
    roots["TrustDomain"].as_str().unwrap().to_owned()
}

fn server_id(name: &str) -> ServerId {
    name.parse().unwrap()
}

/// Makes what a server shows to servers, as whoever holds a cluster key can for any name.
fn server_credential(key: &ClusterKey, name: &str) -> Credential {
    let (secret, leaf) =
        key.authority().issue(&server_id(name), wire::crypto::now(), Duration::from_secs(3600)).unwrap();
    Credential { chain: vec![leaf], key: PrivateKeyDer::from_pem_slice(secret.to_pem().expose().as_bytes()).unwrap() }
}

/// Is a certificate authority that nobody trusts; it signs whatever it is asked to.
struct ForeignAuthority(Issuer<'static, KeyPair>);

impl ForeignAuthority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(Issuer::new(params, KeyPair::generate().unwrap()))
    }

    /// Signs a leaf that is like ours but for its names.
    fn leaf(&self, uris: &[String]) -> Credential {
        let mut params = CertificateParams::default();
        let now = std::time::SystemTime::now();
        (params.not_before, params.not_after) = (now.into(), (now + Duration::from_secs(3600)).into());
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap())).collect();
        params.serial_number = Some(SerialNumber::from_slice(&[7; 16]));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        Credential { chain: vec![leaf.der().clone()], key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() }
    }
}

#[test]
fn r1_r3_l1_only_servers_are_let_in_at_the_raft_port() {
    let mut mesh = Mesh::start(1);
    mesh.join("vm-1", &[Service { name: "web", port: free_port(), upstreams: vec![] }]);
    let (raft, agent_data) = (mesh.servers[0].raft, mesh.agents[0].data.clone());
    let door = Door::of_server(&mesh, 0, "weft_raft_peers_refused_total");
    let key = ClusterKey::load(&mesh.key_file()).unwrap();
    let protocol = ["weft-raft/1"];

    door.refuses("R3: plaintext", &[("reason", "tls_handshake")], || {
        refused("plaintext", knock_in_the_clear(raft, http_with_a_secret().as_bytes()))
    });
    door.refuses("L1: TLS 1.2", &[("reason", "tls_handshake")], || {
        let config = reckless_speaking(Some(server_credential(&key, "s1")), &protocol, &[&TLS12]);
        refused("TLS 1.2", knock(raft, config, "raft.weft.internal", b""))
    });
    let with = |credential| knock(raft, reckless(credential, &protocol), "raft.weft.internal", b"");
    door.refuses("L1: no certificate", &[("reason", "no_certificate")], || refused("no certificate", with(None)));
    door.refuses("R1: an agent's own certificate", &[("reason", "foreign_trust_domain")], || {
        refused("an agent's own certificate", with(Some(Credential::of_agent(&agent_data))))
    });
    door.refuses("R1: a workload's certificate", &[("reason", "foreign_trust_domain")], || {
        refused("a workload's certificate", with(Some(Credential::of_service(&agent_data, "web"))))
    });
    door.refuses("the right name under another cluster key", &[("reason", "unknown_authority")], || {
        refused("another cluster key", with(Some(server_credential(&ClusterKey::generate(), "s1"))))
    });
    // With the right key the handshake succeeds, which shows that the others failed for what they showed.
    door.refuses("the right key and another protocol", &[("reason", "tls_protocol")], || {
        refused(
            "another protocol",
            knock(raft, reckless(Some(server_credential(&key, "s9")), &[]), "raft.weft.internal", b""),
        )
    });
    door.refuses("the right key and no greeting", &[("reason", "frame_unexpected")], || {
        let config = reckless(Some(server_credential(&key, "s9")), &protocol);
        // A frame that only says that the sender is there: no payload, kind 3.
        refused("no greeting", knock(raft, config, "raft.weft.internal", &[0, 0, 0, 0, 3]))
    });
    drop(door);
    mesh.done(&["intention", "create", "--allow", "web", "api"]);
}

#[test]
fn r2_a_server_believes_no_other_in_the_place_of_one_that_is_gone() {
    let mut mesh = Mesh::start(3);
    let leader = mesh.leader();
    let gone = (leader + 1) % 3;
    mesh.servers[gone].kill();
    let (address, name) = (mesh.servers[gone].raft, mesh.servers[gone].name.clone());
    let key = ClusterKey::load(&mesh.key_file()).unwrap();
    let asker = &mesh.servers[leader];
    let identity = |key: ClusterKey, name: &str| {
        raft_server_config(&RaftIdentity::new(&ClusterKeys::single(key), server_id(name)).unwrap())
    };

    for (what, config, reason) in [
        ("the right authority, another name", identity(key, "s9"), "wrong_identity"),
        ("another authority, the right name", identity(ClusterKey::generate(), &name), "unknown_authority"),
    ] {
        let logged = asker.log().len();
        let impostor = Impostor::start(address, config);
        let count = || asker.metrics(&mesh.token).sum("weft_raft_peers_refused_total", &[("reason", reason)]);
        let patience = DEADLINE * PROMISE_FACTOR;
        eventually(&format!("{what}: to be refused again and again"), patience, || (count() >= 6).then_some(()));
        assert_eq!(impostor.believed(), 0, "{what}: nothing was said to it");
        let about = |line: &&str| line.contains("does not prove to be") && names(line, address);
        let lines = || asker.log()[logged..].lines().filter(about).count();
        eventually(&format!("{what}: to be told of"), patience, || (lines() > 0).then_some(()));
        // An attempt that fails for another reason in between has it told once more: on a busy machine it takes more attempts.
        eventually(&format!("{what}: many attempts to be hardly a line"), patience, || {
            (2 * lines() as u64 <= count()).then_some(())
        });
    }
    mesh.done(&["intention", "create", "--allow", "web", "api"]);
    mesh.start_server(gone);
    eventually("the server that was gone to answer a consistent read", DEADLINE, || {
        let answer = mesh.servers[gone].request("GET", "/v1/connect/intentions?consistent", &mesh.token, "").ok()?;
        (answer.status == 200 && answer.body.contains("api")).then_some(())
    });
}

/// Listens in somebody's place, shows what it is given, and counts who tells it anything.
struct Impostor {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    believed: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Impostor {
    #[track_caller]
    fn start(address: SocketAddr, config: Arc<ServerConfig>) -> Self {
        let listener = eventually("the place to be free", DEADLINE, || TcpListener::bind(address).ok());
        let (stop, believed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, told) = (stop.clone(), believed.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let _without = stream.set_read_timeout(Some(DEADLINE));
                let connection = ServerConnection::new(config.clone()).unwrap();
                let mut stream = StreamOwned::new(connection, stream);
                if std::io::Read::read(&mut stream, &mut [0]).is_ok_and(|count| count > 0) {
                    told.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { address, stop, believed, thread: Some(thread) }
    }

    /// Returns how many peers took it for what it is not.
    fn believed(&self) -> usize {
        self.believed.load(Ordering::Relaxed)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread, which waits for a connection.
        let _woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

#[test]
fn l1_r1_the_agents_port_refuses_strangers_and_serves_agents_only() {
    let mut mesh = Mesh::start(1);
    mesh.join("vm-1", &[Service { name: "web", port: free_port(), upstreams: vec![] }]);
    let (port, agent_data) = (mesh.servers[0].agent, mesh.agents[0].data.clone());
    let trust_domain = trust_domain(&mesh);
    let door = Door::of_server(&mesh, 0, "weft_agent_port_refused_total");
    let protocol = ["weft-agent/1"];

    door.refuses("R3: plaintext", &[("reason", "tls_handshake")], || {
        refused("plaintext", knock_in_the_clear(port, http_with_a_secret().as_bytes()))
    });
    door.refuses("L1: TLS 1.2", &[("reason", "tls_handshake")], || {
        refused("TLS 1.2", knock(port, reckless_speaking(None, &protocol, &[&TLS12]), "weft", b""))
    });
    door.refuses("another protocol", &[("reason", "tls_handshake")], || {
        refused("another protocol", knock(port, reckless(None, &["h2"]), "weft", b""))
    });
    door.refuses("no protocol", &[("reason", "wrong_protocol")], || {
        refused("no protocol", knock(port, reckless(None, &[]), "weft", b""))
    });
    let with = |credential| knock(port, reckless(Some(credential), &protocol), "weft", b"");
    let foreign = ForeignAuthority::new();
    door.refuses("a foreign authority", &[("reason", "unknown_authority")], || {
        refused("a foreign authority", with(foreign.leaf(&[format!("spiffe://{trust_domain}/agent/vm/vm-1")])))
    });
    door.refuses("a foreign trust domain", &[("reason", "foreign_trust_domain")], || {
        refused("a foreign trust domain", with(foreign.leaf(&["spiffe://other.test/agent/vm/vm-1".to_owned()])))
    });
    let key = ClusterKey::load(&mesh.key_file()).unwrap();
    door.refuses("a server's certificate toward servers", &[("reason", "foreign_trust_domain")], || {
        refused("a server's certificate toward servers", with(server_credential(&key, "s1")))
    });
    // These pass the handshake, for joining needs no certificate: each route asks for itself.
    for path in ["/v1/stream", "/v1/write", "/v1/sign", "/v1/api/v1/status/leader"] {
        door.refuses(&format!("no certificate on {path}"), &[("reason", "no_certificate")], || {
            let asked = ask(port, None, path);
            assert_eq!(asked.status, 403, "{path}: {}", asked.body);
            assert!(asked.body.contains("join first"), "{path}: {}", asked.body);
            asked.from
        });
        door.refuses(&format!("a workload's certificate on {path}"), &[("reason", "not_an_agent")], || {
            let asked = ask(port, Some(Credential::of_service(&agent_data, "web")), path);
            assert_eq!(asked.status, 403, "{path}: {}", asked.body);
            asked.from
        });
    }
    // The agent's own is good here; the body is what is wrong.
    door.refuses("an agent that says nothing", &[("reason", "malformed")], || {
        let asked = ask(port, Some(Credential::of_agent(&agent_data)), "/v1/sign");
        assert_eq!(asked.status, 400, "{}", asked.body);
        asked.from
    });
}

/// Is an answer over HTTP/2, and where it was asked from.
struct Asked {
    from: SocketAddr,
    status: u16,
    body: String,
}

/// Posts nothing to a path of a server's port for agents.
fn ask(address: SocketAddr, credential: Option<Credential>, path: &str) -> Asked {
    let request = http::Request::post(format!("https://weft{path}")).body(()).unwrap();
    over_http2(address, reckless(credential, &["weft-agent/1"]), "weft", request)
}

/// Asks for a tunnel's stream as an agent does, with whatever certificate.
fn connect(address: SocketAddr, credential: Credential, server_name: &str, authority: &str) -> Asked {
    let request = http::Request::builder().method("CONNECT").uri(authority).body(()).unwrap();
    over_http2(address, reckless(Some(credential), &["h2"]), server_name, request)
}

fn over_http2(
    address: SocketAddr,
    config: rustls::ClientConfig,
    server_name: &str,
    request: http::Request<()>,
) -> Asked {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let exchange = async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let from = stream.local_addr().unwrap();
        let name = ServerName::try_from(server_name.to_owned()).unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let (answer, _) = sender.ready().await.unwrap().send_request(request, true).unwrap();
        let answer = answer.await.unwrap();
        let (status, mut stream) = (answer.status().as_u16(), answer.into_body());
        let mut body = Vec::new();
        // What is let in stays open.
        while status != 200
            && let Some(Ok(bytes)) = stream.data().await
        {
            body.extend_from_slice(&bytes);
        }
        connection.abort();
        Asked { from, status, body: String::from_utf8_lossy(&body).into_owned() }
    };
    runtime.block_on(async { tokio::time::timeout(DEADLINE, exchange).await.expect("an answer in time") })
}

#[test]
fn l1_c5_the_mesh_port_refuses_whoever_shows_no_leaf_of_this_mesh() {
    let mut mesh = Mesh::start(1);
    mesh.join("vm-1", &[Service { name: "api", port: free_port(), upstreams: vec![] }]);
    mesh.done(&["intention", "create", "--allow", "*/*", "api"]);
    let (port, agent_data) = (mesh.agents[0].mesh, mesh.agents[0].data.clone());
    let trust_domain = trust_domain(&mesh);
    let api = format!("api.default.dc1.internal.{trust_domain}");
    let id = |service: &str| format!("spiffe://{trust_domain}/ns/default/sa/{service}");
    let door = Door::of_agent(&mesh, 0);
    let inbound = |reason| [("direction", "inbound"), ("phase", "handshake"), ("reason", reason)];

    door.refuses("L1: plaintext", &inbound("not_tls"), || {
        refused("plaintext", knock_in_the_clear(port, http_with_a_secret().as_bytes()))
    });
    let foreign = ForeignAuthority::new();
    let good = || Credential::of_service(&agent_data, "api");
    // A client that speaks the tunnel's protocol and one that does not go the same way.
    for protocols in [&["h2"][..], &[]] {
        door.refuses("L1: TLS 1.2", &inbound("tls_version_or_algorithms"), || {
            refused("TLS 1.2", knock(port, reckless_speaking(Some(good()), protocols, &[&TLS12]), &api, b""))
        });
        door.refuses("L1: no certificate", &inbound("no_certificate"), || {
            refused("no certificate", knock(port, reckless(None, protocols), &api, b""))
        });
        for (what, uris, reason) in [
            ("a foreign authority", vec![id("web")], "unknown_authority"),
            (
                "a foreign trust domain",
                vec!["spiffe://other.test/ns/default/sa/web".to_owned()],
                "foreign_trust_domain",
            ),
            ("C5: two URI names", vec![id("web"), id("api")], "several_uri_names"),
            ("C5: no URI name", vec![], "no_uri_name"),
            ("C5: a SPIFFE ID with a dot segment", vec![id("../sa/web")], "malformed_spiffe_id"),
        ] {
            door.refuses(what, &inbound(reason), || {
                refused(what, knock(port, reckless(Some(foreign.leaf(&uris)), protocols), &api, b""))
            });
        }
        for server_name in [format!("web.default.dc1.internal.{trust_domain}"), "api".to_owned()] {
            door.refuses("L3: a service that is not here", &inbound("unknown_server_name"), || {
                refused("a service that is not here", knock(port, reckless(Some(good()), protocols), &server_name, b""))
            });
        }
    }
}

#[test]
fn c6_r1_a_certificate_of_this_mesh_is_no_pass_for_every_service() {
    // An agent that is killed here is called on: its session is not given up meanwhile.
    let mut mesh = Mesh::start_with(1, &["--session-grace", "10m"]);
    let application = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let api_port = application.local_addr().unwrap().port();
    let listener = free_port();
    let api = mesh.join("api-1", &[Service { name: "api", port: api_port, upstreams: vec![] }]);
    let web = mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![("api", listener)] }]);
    let (port, web_data) = (mesh.agents[api].mesh, mesh.agents[web].data.clone());
    let server_name = format!("api.default.dc1.internal.{}", trust_domain(&mesh));
    let authority = format!("127.0.0.1:{api_port}");
    let as_web = |authority: &str| connect(port, Credential::of_service(&web_data, "web"), &server_name, authority);
    let door = Door::of_agent(&mesh, api);
    let inbound = |phase, reason| [("direction", "inbound"), ("phase", phase), ("reason", reason)];

    door.refuses("a workload that no intention names", &inbound("decide", "default_deny"), || {
        let asked = as_web(&authority);
        assert_eq!(asked.status, 401);
        asked.from
    });
    mesh.done(&["intention", "create", "--allow", "*/*", "api"]);
    eventually("everybody to be allowed", DEADLINE, || (as_web(&authority).status == 200).then_some(()));
    door.refuses("an agent is not a workload", &inbound("decide", "unauthenticated"), || {
        let asked = connect(port, Credential::of_agent(&web_data), &server_name, &authority);
        assert_eq!(asked.status, 401);
        asked.from
    });
    door.refuses("an agent that speaks plain TLS", &inbound("decide", "unauthenticated"), || {
        let config = reckless(Some(Credential::of_agent(&web_data)), &[]);
        refused("an agent that speaks plain TLS", knock(port, config, &server_name, b"GET / HTTP/1.1\r\n\r\n"))
    });
    for elsewhere in ["127.0.0.1:22".to_owned(), format!("127.0.0.2:{api_port}"), "169.254.169.254:80".to_owned()] {
        door.refuses("a way to somewhere else", &inbound("identify", "foreign_authority"), || {
            let asked = as_web(&elsewhere);
            assert_eq!(asked.status, 400);
            asked.from
        });
    }

    // Now somebody with another service's certificate answers in the place of the agent that web means to call.
    drop(door);
    mesh.agents[api].kill();
    let rogue = Credential::of_service(&web_data, "web");
    let mut config = ServerConfig::builder_with_provider(wire::crypto::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(rogue.chain, rogue.key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let impostor = Impostor::start(port, Arc::new(config));
    let door = Door::of_agent(&mesh, web);
    let outbound = [("direction", "outbound"), ("phase", "connect"), ("reason", "wrong_identity")];
    door.refuses("C6: an upstream with another service's certificate", &outbound, || {
        refused("C6", knock_in_the_clear(([127, 0, 0, 1], listener).into(), http_with_a_secret().as_bytes()))
    });
    assert_eq!(impostor.believed(), 0, "not a byte of the call was sent");
}

#[test]
fn c9_a_used_join_token_lets_nobody_else_in() {
    let mut mesh = Mesh::start(1);
    mesh.join("vm-1", &[Service { name: "web", port: free_port(), upstreams: vec![] }]);
    let token_file = mesh.directory.path().join("vm-1.join-token");
    let data = mesh.directory.path().join("thief-data");
    let door = Door::of_server(&mesh, 0, "weft_agent_port_refused_total");
    let before = (door.metrics)();
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args([
        "agent",
        "--node",
        "thief",
        "--bind",
        "127.0.0.1",
        "--http-port",
        "0",
        "--admin-port",
        "0",
        "--mesh-port",
        "0",
        "--no-dns",
    ]);
    command.args(["--server", &mesh.servers[0].agent.to_string()]);
    command.arg("--join-token-file").arg(&token_file).arg("--data-dir").arg(&data);
    let mut thief = Process::start("thief", command, mesh.directory.path());
    assert_eq!(thief.wait(DEADLINE * PROMISE_FACTOR), Some(2));

    let told = log_of("thief", mesh.directory.path());
    assert!(told.contains("error: cannot start the agent\n"), "{told}");
    assert!(told.contains("the join token was used already"), "{told}");
    assert!(told.contains("\nhint: make a join token for this node with `weft join-token create`"), "{told}");
    let after = (door.metrics)();
    assert_eq!(after.sum(door.counter, &[("reason", "join_token_used")]), 1);
    assert_eq!(after.sum(door.counter, &[]), before.sum(door.counter, &[]) + 1);
    let log = (door.log)();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("join_token_used")).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    door.assert_tells_no_secret();
    assert!(!door.secrets.iter().any(|secret| told.contains(secret.as_str())), "{told}");
    assert!(!data.join("identity.json").exists(), "it has no identity");
    drop(door);
    assert!(!mesh.done(&["catalog", "nodes"]).contains("thief"));
}
