//! A real Envoy as a neighbour: it holds a certificate of the mesh that the agent beside it got, and calls or is called.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Curl, Mesh, PROMISE_FACTOR, Process, Response, Service, eventually, exchange, free_port, nginx, tool,
};

/// What is written is in force everywhere within this time.
const SETTLED: Duration = Duration::from_secs(2);
const STARTED: Duration = Duration::from_secs(10);

/// Finds Envoy: where `WEFT_TEST_ENVOY` says, or as any other tool.
fn envoy(test: &str) -> Option<PathBuf> {
    std::env::var_os("WEFT_TEST_ENVOY").map(PathBuf::from).filter(|path| path.is_file()).or_else(|| tool("envoy", test))
}

/// Starts an Envoy and waits until it listens on a port.
fn start(program: &Path, mesh: &Mesh, name: &str, configuration: &Value, port: u16) -> Process {
    let path = mesh.directory.path().join(format!("{name}.json"));
    std::fs::write(&path, configuration.to_string()).unwrap();
    let mut command = Command::new(program);
    command.arg("-c").arg(&path).args(["--concurrency", "1", "-l", "warning", "--disable-hot-restart"]);
    let mut process = Process::start(name, command, mesh.directory.path());
    eventually(&format!("{name} to listen"), STARTED * PROMISE_FACTOR, || {
        process.assert_running();
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    process
}

fn typed(kind: &str, mut fields: Value) -> Value {
    fields["@type"] = format!("type.googleapis.com/envoy.extensions.{kind}").into();
    fields
}

fn address(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}

/// What an agent's neighbour shows and trusts: a leaf with its key, and the roots.
struct Credentials {
    leaf: Value,
    roots: Value,
}

impl Credentials {
    /// Asks the agent beside it, as anybody may who may write the service.
    fn of(mesh: &Mesh, agent: usize, service: &str) -> Self {
        let token = [("x-consul-token", mesh.token.as_str())];
        let ask = |path: &str| exchange(mesh.agents[agent].http, "GET", path, &token, "").unwrap();
        let leaf: Response = ask(&format!("/v1/agent/connect/ca/leaf/{service}"));
        assert_eq!(leaf.status, 200, "{}", leaf.body);
        Self { leaf: leaf.json(), roots: ask("/v1/agent/connect/ca/roots").json() }
    }

    fn trust_domain(&self) -> &str {
        self.roots["TrustDomain"].as_str().unwrap()
    }

    fn identity(&self, service: &str) -> String {
        format!("spiffe://{}/ns/default/sa/{service}", self.trust_domain())
    }

    fn context(&self, alpn: &[&str], sans: &[String]) -> Value {
        let root = self.roots["Roots"][0]["RootCert"].clone();
        let sans: Vec<Value> =
            sans.iter().map(|san| json!({ "san_type": "URI", "matcher": { "exact": san } })).collect();
        json!({
            "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
            "tls_certificates": [{
                "certificate_chain": { "inline_string": self.leaf["CertPEM"] },
                "private_key": { "inline_string": self.leaf["PrivateKeyPEM"] },
            }],
            "validation_context": { "trusted_ca": { "inline_string": root }, "match_typed_subject_alt_names": sans },
            "alpn_protocols": alpn,
        })
    }
}

fn cluster(name: &str, port: u16, http2: bool, tls: Option<Value>) -> Value {
    let protocol = if http2 { json!({ "http2_protocol_options": {} }) } else { json!({ "http_protocol_options": {} }) };
    let options = typed("upstreams.http.v3.HttpProtocolOptions", json!({ "explicit_http_config": protocol }));
    let endpoint = json!({ "lb_endpoints": [{ "endpoint": { "address": address(port) } }] });
    let mut cluster = json!({
        "name": name,
        "connect_timeout": "5s",
        "type": "STATIC",
        "load_assignment": { "cluster_name": name, "endpoints": [endpoint] },
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options },
    });
    if let Some(tls) = tls {
        cluster["transport_socket"] = json!({ "name": "tls", "typed_config": tls });
    }
    cluster
}

/// A listener of requests, with what stands before the router.
fn listener(name: &str, port: u16, routes: Value, rbac: Option<Value>, tls: Option<Value>) -> Value {
    let router = json!({ "name": "router", "typed_config": typed("filters.http.router.v3.Router", json!({})) });
    let filters: Vec<Value> = rbac.into_iter().chain([router]).collect();
    let manager = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": name,
            "codec_type": "AUTO",
            "http2_protocol_options": { "allow_connect": true },
            "upgrade_configs": [{ "upgrade_type": "CONNECT" }],
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] },
            "http_filters": filters,
        }),
    );
    let mut chain = json!({ "filters": [{ "name": "http", "typed_config": manager }] });
    if let Some(tls) = tls {
        chain["transport_socket"] = json!({ "name": "tls", "typed_config": tls });
    }
    json!({ "name": name, "address": address(port), "filter_chains": [chain] })
}

fn configuration(listeners: &[Value], clusters: &[Value]) -> Value {
    json!({ "static_resources": { "listeners": listeners, "clusters": clusters } })
}

/// Writes a config entry.
fn write_config(mesh: &Mesh, entry: &str) {
    let path = mesh.directory.path().join("entry.hcl");
    std::fs::write(&path, entry).unwrap();
    mesh.done(&["config", "write", &path.display().to_string()]);
}

#[test]
fn an_envoy_with_a_leaf_calls_a_service_and_is_decided_on() {
    let test = "an_envoy_with_a_leaf_calls_a_service_and_is_decided_on";
    let (Some(program), Some(nginx_program)) = (envoy(test), tool("nginx", test)) else { return };
    let mut mesh = Mesh::start(1);
    write_config(&mesh, "kind = \"service-defaults\"\nname = \"api\"\nprotocol = \"http\"\n");
    let api_port = free_port();
    let _nginx = nginx(&nginx_program, mesh.directory.path(), api_port);
    let api = mesh.join("api-1", &[Service { name: "api", port: api_port, upstreams: vec![] }]);
    let web = mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![] }]);
    let credentials = Credentials::of(&mesh, web, "web");
    let toward = |alpn: &[&str]| {
        typed(
            "transport_sockets.tls.v3.UpstreamTlsContext",
            json!({
                "sni": format!("api.default.dc1.internal.{}", credentials.trust_domain()),
                "common_tls_context": credentials.context(alpn, &[credentials.identity("api")]),
            }),
        )
    };
    let mesh_port = mesh.agents[api].mesh.port();
    let ports = [free_port(), free_port()];
    let route = |cluster: &str| json!([{ "match": { "prefix": "/" }, "route": { "cluster": cluster } }]);
    // The application speaks HTTP/1.1, whatever carries the calls to it.
    let mut to_two = route("two");
    to_two[0]["request_headers_to_add"] = json!([{ "header": { "key": "x-weft-version", "value": "1.1" } }]);
    let configuration = configuration(
        &[listener("two", ports[0], to_two, None, None), listener("one", ports[1], route("one"), None, None)],
        &[
            cluster("two", mesh_port, true, Some(toward(&["h2"]))),
            cluster("one", mesh_port, false, Some(toward(&["http/1.1"]))),
        ],
    );
    let _envoy = start(&program, &mesh, "envoy-web", &configuration, ports[1]);
    let ask = |port: u16| exchange(SocketAddr::from(([127, 0, 0, 1], port)), "GET", "/", &[], "").unwrap();
    for port in ports {
        let refused = ask(port);
        assert_eq!((refused.status, refused.header("x-weft-refused")), (403, Some("default_deny")), "{refused:?}");
    }
    mesh.done(&["intention", "create", "--allow", "web", "api"]);
    for port in ports {
        let answer = eventually("the call to be allowed", SETTLED * PROMISE_FACTOR, || {
            Some(ask(port)).filter(|answer| answer.status == 200)
        });
        assert_eq!(answer.body, "served by nginx\n");
    }
    mesh.done(&["intention", "delete", "web", "api"]);
    for port in ports {
        eventually("the call to be refused", SETTLED * PROMISE_FACTOR, || (ask(port).status == 403).then_some(()));
    }
}

#[test]
fn a_service_behind_an_envoy_is_called_and_its_envoy_knows_who_calls() {
    let test = "a_service_behind_an_envoy_is_called_and_its_envoy_knows_who_calls";
    let (Some(program), Some(nginx_program), Some(curl)) = (envoy(test), tool("nginx", test), tool("curl", test))
    else {
        return;
    };
    let mut mesh = Mesh::start(1);
    let (app_port, envoy_port) = (free_port(), free_port());
    let _nginx = nginx(&nginx_program, mesh.directory.path(), app_port);
    // The agent gets the leaf; where callers go, its files say.
    let beside = mesh.join("legacy-1", &[Service { name: "legacy", port: app_port, upstreams: vec![] }]);
    let definition = format!("service {{\n name = \"legacy\"\n port = {app_port}\n mesh_port = {envoy_port}\n}}\n");
    std::fs::write(mesh.directory.path().join("legacy-1/conf/legacy.hcl"), definition).unwrap();
    let token = [("x-consul-token", mesh.token.as_str())];
    let reloaded = exchange(mesh.agents[beside].http, "PUT", "/v1/agent/reload", &token, "").unwrap();
    assert_eq!(reloaded.status, 200, "{}", reloaded.body);
    let credentials = Credentials::of(&mesh, beside, "legacy");

    let principal = json!({ "authenticated": { "principal_name": { "exact": credentials.identity("web") } } });
    let policy = json!({ "permissions": [{ "any": true }], "principals": [principal] });
    let rules = json!({ "rules": { "action": "ALLOW", "policies": { "web": policy } } });
    let rbac = json!({ "name": "rbac", "typed_config": typed("filters.http.rbac.v3.RBAC", rules) });
    let connect = json!([{ "upgrade_type": "CONNECT", "connect_config": {} }]);
    let routes = json!([
        { "match": { "connect_matcher": {} }, "route": { "cluster": "app", "upgrade_configs": connect } },
        { "match": { "prefix": "/" }, "route": { "cluster": "app" } },
    ]);
    let tls = typed(
        "transport_sockets.tls.v3.DownstreamTlsContext",
        json!({
            "require_client_certificate": true,
            "disable_stateless_session_resumption": true,
            "common_tls_context": credentials.context(&["h2"], &[]),
        }),
    );
    let configuration = configuration(
        &[listener("in", envoy_port, routes, Some(rbac), Some(tls))],
        &[cluster("app", app_port, false, None)],
    );
    let _envoy = start(&program, &mesh, "envoy-legacy", &configuration, envoy_port);

    let (to_web, to_db) = (free_port(), free_port());
    mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![("legacy", to_web)] }]);
    mesh.join("db-1", &[Service { name: "db", port: free_port(), upstreams: vec![("legacy", to_db)] }]);
    let web = Curl::new(curl, SocketAddr::from(([127, 0, 0, 1], to_web)));
    let answer = eventually("bytes to be carried", SETTLED * PROMISE_FACTOR, || web.get("/"));
    assert_eq!(answer, "served by nginx\n");
    let db = SocketAddr::from(([127, 0, 0, 1], to_db));
    assert!(exchange(db, "GET", "/", &[], "").is_err(), "Envoy lets nobody else in");

    write_config(&mesh, "kind = \"service-defaults\"\nname = \"legacy\"\nprotocol = \"http\"\n");
    let refused =
        eventually("requests to be carried", SETTLED * PROMISE_FACTOR, || exchange(db, "GET", "/", &[], "").ok());
    assert_eq!((refused.status, refused.body.as_str()), (403, "RBAC: access denied"), "{refused:?}");
    // An agent that hears later that these are requests cuts what it carried as bytes.
    eventually("a large answer to arrive whole", SETTLED * PROMISE_FACTOR, || {
        web.get("/large").filter(|whole| whole.len() == 64 << 20)
    });
    assert_eq!(web.get("/").as_deref(), Some("served by nginx\n"));
}
