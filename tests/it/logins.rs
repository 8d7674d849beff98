//! Agents without a secret of their own: a platform's word lets them in, with a quorum and without one.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    time::Duration,
};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::harness::{Mesh, PROMISE_FACTOR, Service, eventually, free_port, weft, write_secret};

const FAILOVER: Duration = Duration::from_secs(3);
const ADMITTED: Duration = Duration::from_secs(6);

/// A platform that signs who its workloads are.
struct Platform(rcgen::KeyPair);

impl Platform {
    fn new() -> Self {
        Self(rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap())
    }

    fn config(&self) -> Value {
        json!({
            "BoundIssuer": "https://platform.example", "BoundAudiences": ["weft"], "JWTSupportedAlgs": ["ES256"],
            "JWTValidationPubKeys": [self.0.public_key_pem()], "ClaimMappings": {"sub": "name", "team": "team"},
        })
    }

    /// Writes a credential to a file, as a platform mounts it, and returns its path.
    fn vouch(&self, mesh: &Mesh, subject: &str, team: &str) -> PathBuf {
        let end = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 600;
        let claims =
            json!({"iss": "https://platform.example", "aud": "weft", "sub": subject, "team": team, "exp": end});
        let key = EncodingKey::from_ec_pem(self.0.serialize_pem().as_bytes()).unwrap();
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key).unwrap();
        let path = mesh.directory.path().join(format!("{subject}.jwt"));
        write_secret(&path, &token);
        path
    }
}

/// Returns the flags by which an agent logs in.
fn proof(mesh: &Mesh, bearer: &std::path::Path) -> Vec<String> {
    let roots: Value = serde_json::from_str(&mesh.done(&["ca", "roots", "--output", "json"])).unwrap();
    let root = roots["Roots"][0]["ID"].as_str().unwrap();
    let flags = ["--auth-method", "platform", "--root-fingerprint", root, "--bearer-token-file"];
    flags.iter().map(|flag| (*flag).to_owned()).chain([bearer.display().to_string()]).collect()
}

fn start(mesh: &mut Mesh, node: &str, proof: &[String], listener: u16) -> usize {
    let service = Service { name: "web", port: free_port(), upstreams: vec![("api", listener)] };
    let proof: Vec<&str> = proof.iter().map(String::as_str).collect();
    mesh.start_agent(node, &[service], &proof)
}

/// Serves whoever connects with one line.
fn serve_api() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"served by api\n"));
        }
    });
    port
}

/// Calls the upstream at a listener; none where the call is refused.
fn call(listener: u16) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, listener)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

/// Returns the nodes on which a service is, as a server knows it.
fn nodes_of(mesh: &Mesh, server: usize, service: &str) -> Option<Vec<String>> {
    let path = format!("/v1/catalog/service/{service}?stale");
    let answer = mesh.servers[server].request("GET", &path, &mesh.token, "").ok()?;
    let listed = (answer.status == 200).then(|| answer.json())?;
    listed.as_array()?.iter().map(|one| Some(one["Node"].as_str()?.to_owned())).collect()
}

/// Waits until a server's log says something.
#[track_caller]
fn said(mesh: &Mesh, server: usize, what: &str) {
    eventually(&format!("`{what}` to be said"), ADMITTED * PROMISE_FACTOR, || {
        mesh.servers[server].log().contains(what).then_some(())
    });
}

#[test]
fn fault_11_an_agent_that_its_platform_vouches_for_is_let_in_with_one_of_three_servers() {
    let mut mesh = Mesh::start(3);
    let platform = Platform::new();
    let config = mesh.directory.path().join("platform.json");
    std::fs::write(&config, platform.config().to_string()).unwrap();
    mesh.done(&["acl", "auth-method", "create", "platform", "--config", &config.display().to_string()]);
    let rule = ["acl", "binding-rule", "create", "--method", "platform", "--bind-type", "service"];
    mesh.done(&[&rule[..], &["--bind-name", "web", "--selector", "value.team == \"web\""]].concat());
    mesh.done(&["intention", "create", "--allow", "web", "api"]);
    let api_port = serve_api();
    mesh.join("api-1", &[Service { name: "api", port: api_port, upstreams: vec![] }]);

    // A person, or a pipeline, gets a token that ends.
    let bearer = platform.vouch(&mesh, "pipeline", "web");
    let sink = mesh.directory.path().join("token");
    let address = mesh.servers[0].http.to_string();
    let (bearer, sink) = (bearer.display().to_string(), sink.display().to_string());
    let login = ["login", "--method", "platform", "--bearer-token-file", &bearer, "--token-sink-file", &sink];
    let output = weft(&login, &[("WEFT_HTTP_ADDR", &address)]);
    assert_eq!(output.status, Some(0), "{}", output.stderr);
    let own = ["acl", "token", "read", "--token-file", &sink];
    assert_eq!(weft(&own, &[("WEFT_HTTP_ADDR", &address)]).status, Some(0));
    assert_eq!(weft(&["logout", "--token-file", &sink], &[("WEFT_HTTP_ADDR", &address)]).status, Some(0));
    assert_eq!(weft(&own, &[("WEFT_HTTP_ADDR", &address)]).status, Some(2), "the token has ended");

    // An agent logs in; whoever steals its credential does not.
    let bearer = platform.vouch(&mesh, "web-1", "web");
    let (proof_1, listener) = (proof(&mesh, &bearer), free_port());
    let web = start(&mut mesh, "web-1", &proof_1, listener);
    mesh.agents[web].wait_until_ready(ADMITTED * PROMISE_FACTOR);
    eventually("the agent to call out", ADMITTED * PROMISE_FACTOR, || call(listener));
    let thief = start(&mut mesh, "web-9", &proof_1, free_port());
    let status = mesh.agents[thief].process().wait(ADMITTED * PROMISE_FACTOR);
    assert_eq!(status, Some(2));
    assert!(mesh.agents[thief].log().contains("the login was not accepted"), "{}", mesh.agents[thief].log());
    eventually("a server to say why, which nobody else does", ADMITTED * PROMISE_FACTOR, || {
        mesh.servers.iter().any(|server| server.log().contains("by another key")).then_some(())
    });

    // Two of three servers are gone. A new workload is let in all the same, and calls out.
    let proof_2 = proof(&mesh, &platform.vouch(&mesh, "web-2", "web"));
    let stranger = proof(&mesh, &platform.vouch(&mesh, "web-8", "other"));
    let leader = mesh.leader();
    let left = (leader + 1) % 3;
    // It has to know what was written last, for nobody will tell it any more.
    eventually("the server that is left to know of web-1", ADMITTED * PROMISE_FACTOR, || {
        (nodes_of(&mesh, left, "web")? == ["web-1"]).then_some(())
    });
    for at in [leader, (leader + 2) % 3] {
        mesh.servers[at].kill();
    }
    let listener_2 = free_port();
    let web_2 = start(&mut mesh, "web-2", &proof_2, listener_2);
    let answer = eventually("the new agent to call out without a quorum", ADMITTED * PROMISE_FACTOR, || {
        mesh.agents[web_2].process().assert_running();
        call(listener_2)
    });
    assert_eq!(answer, "served by api\n");
    said(&mesh, left, "agent admitted without a quorum");
    assert_eq!(nodes_of(&mesh, left, "web").unwrap(), ["web-1"], "it is not advertised yet");
    // Whom no rule selects is nobody, with a quorum or without.
    let refused = start(&mut mesh, "web-8", &stranger, free_port());
    assert_eq!(mesh.agents[refused].process().wait(ADMITTED * PROMISE_FACTOR), Some(2));
    assert!(mesh.agents[refused].log().contains("the login was not accepted"), "{}", mesh.agents[refused].log());
    said(&mesh, left, "no binding rule");

    // The last server crashes, too. All of them come back: the mesh is asked, agrees, and the agent is advertised.
    mesh.servers[left].kill();
    assert!(mesh.servers[left].data.join("admissions").exists());
    for at in 0..3 {
        mesh.start_server(at);
    }
    mesh.leader();
    eventually("the agent to be advertised", FAILOVER * PROMISE_FACTOR * 2, || {
        mesh.agents[web_2].process().assert_running();
        let mut nodes = nodes_of(&mesh, left, "web")?;
        nodes.sort();
        (nodes == ["web-1", "web-2"]).then_some(())
    });
    said(&mesh, left, "the mesh has agreed");
    eventually("the agent to call on", FAILOVER * PROMISE_FACTOR, || call(listener_2));
    mesh.agents[web_2].wait_until_ready(FAILOVER * PROMISE_FACTOR);

    // What it was given by a server that forgot everything since is revoked by its name.
    mesh.done(&["revoke", "login", "platform", "--subject", "web-2"]);
    eventually("the agent to be kept out", FAILOVER * PROMISE_FACTOR, || call(listener_2).is_none().then_some(()));
}
