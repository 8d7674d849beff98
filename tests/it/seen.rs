//! What agents see is told: to servers, to traces, to logs, and to whoever asks.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Mesh, PROMISE_FACTOR, Service, application, eventually, exchange, free_port, weft};

/// Agents of these stories report this often.
const REPORTED: Duration = Duration::from_secs(1);

#[test]
fn who_calls_whom_and_by_which_rule_is_known_at_every_server() {
    let mut mesh = Mesh::start(3);
    mesh.agent_arguments = vec!["--report-interval".to_owned(), "1s".to_owned()];
    let listener = free_port();
    mesh.join("api-1", &[Service { name: "api", port: application(), upstreams: vec![] }]);
    mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![("api", listener)] }]);
    let listener = SocketAddr::from(([127, 0, 0, 1], listener));
    speak_http(&mesh);
    mesh.done(&["intention", "create", "--allow", "web", "api"]);
    eventually("a call to pass", Duration::from_secs(20), || {
        exchange(listener, "GET", "/", &[], "").ok().filter(|answer| answer.status == 200)
    });
    for at in 0..3 {
        let told = eventually("the call to be told of", REPORTED * 10 * PROMISE_FACTOR, || {
            let answer = mesh.servers[at].request("GET", "/v1/mesh/callers", &mesh.token, "").ok()?;
            let view: Value = serde_json::from_str(&answer.body).ok()?;
            let pair = view["Pairs"].as_array()?.first()?.clone();
            (view["SilentServers"] == serde_json::json!([])).then_some(pair)
        });
        assert_eq!((&told["Source"], &told["Destination"]), (&"default/web".into(), &"default/api".into()), "{told}");
        assert_eq!(told["Link"], "hybrid", "{told}");
    }
    // A server that does not answer in time leaves its agents' word out, and says so.
    let whole = |arguments: &[&str], is_whole: &dyn Fn(&str) -> bool| {
        eventually(&format!("all servers to tell: {arguments:?}"), REPORTED * 10 * PROMISE_FACTOR, || {
            Some(mesh.weft(arguments)).filter(|told| is_whole(&told.stdout))
        })
    };
    whole(&["mesh", "callers"], &|told| told.contains("default/web") && told.contains("hybrid"));
    // A rule that nobody needs is seen to be none that somebody does.
    mesh.done(&["intention", "create", "--allow", "--expires-in", "30d", "batch", "api"]);
    let used = whole(&["intention", "usage", "--output", "json"], &|told| {
        let Ok(used) = serde_json::from_str::<Value>(told) else { return false };
        let rules = used["Rules"].as_array().into_iter().flatten();
        used["SilentServers"] == serde_json::json!([]) && rules.filter(|rule| rule["Agents"] == 1).count() == 2
    });
    let used: Value = serde_json::from_str(&used.stdout).unwrap();
    let rule = |source: &str| used["Rules"].as_array().unwrap().iter().find(|rule| rule["Source"] == source).unwrap();
    assert!(rule("default/web")["Allowed"].as_u64() >= Some(1) && rule("default/web")["Last"].is_string(), "{used}");
    assert_eq!((&rule("default/batch")["Last"], &rule("default/batch")["Agents"]), (&Value::Null, &1.into()), "{used}");
    let unused = whole(&["intention", "usage", "--unused"], &|told| {
        told.contains("default/batch") && !told.contains("default/web")
    });
    assert_eq!(unused.status, Some(1), "{unused:?}");
    let long =
        whole(&["intention", "usage", "--unused", "--since", "30d"], &|told| told.contains("not watched for so long"));
    assert_eq!(long.status, Some(0), "{long:?}");
    let plaintext = whole(&["mesh", "plaintext"], &|told| told.contains("nobody was seen to speak plaintext"));
    assert_eq!(plaintext.status, Some(0), "{plaintext:?}");

    // Each agent shows what its proxy goes by; one that has nothing to do with a service says so.
    shape(&mesh);
    let [api, web] = [mesh.agents[0].http.to_string(), mesh.agents[1].http.to_string()];
    let shown = |at: &str, what: &str, service: &str| {
        weft(&["proxy", what, service], &[("WEFT_HTTP_ADDR", at), ("WEFT_HTTP_TOKEN", &mesh.token)])
    };
    let soon = |at: &str, what: &str, service: &str, wanted: &[&str]| {
        eventually(&format!("{what} of {service} to show {wanted:?}"), Duration::from_secs(20), || {
            let told = shown(at, what, service).stdout;
            wanted.iter().all(|wanted| told.contains(wanted)).then_some(told)
        })
    };
    let does = ["PrefixRewrite=/v1/", "RequestTimeout=2s", "NumRetries=2", "RetryOn=[\"5xx\"]", "x-way", "Abort"];
    let routes = soon(
        &web,
        "routes",
        "api",
        &[&does[..], &["x-split", "\"Policy\":\"random\"", "ConnectTimeout=1500ms"]].concat(),
    );
    assert!(routes.contains(&listener.to_string()) && routes.contains("resolves to"), "{routes}");
    assert!(!routes.contains("Newer entries"), "{routes}");
    let told = weft(
        &["proxy", "routes", "api", "--output", "json"],
        &[("WEFT_HTTP_ADDR", &web), ("WEFT_HTTP_TOKEN", &mesh.token)],
    );
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    let destination = &told["Chain"]["Nodes"]["router:api.default"]["Routes"][0]["Definition"]["Destination"];
    assert_eq!((&destination["NumRetries"], &told["IsBehind"]), (&2.into(), &false.into()), "{told}");
    let limits = ["\"MaxConcurrentRequests\":77", "\"MaxFailures\":3", "ConnectTimeoutMs=900"];
    soon(&web, "config", "web", &limits);
    soon(
        &api,
        "config",
        "api",
        &["RequestsPerSecond", "500", "strict", "PathPrefix", "/public", "own-issuer", "https://issuer.example"],
    );
    let endpoints = shown(&web, "endpoints", "api");
    let dialled = mesh.agents[0].mesh.to_string();
    assert!(endpoints.stdout.contains(&dialled) && endpoints.stdout.contains("passing"), "{endpoints:?}");
    let config = shown(&api, "config", "api");
    let rule = config.stdout.lines().find(|line| line.contains("default/web => default/api")).unwrap_or_default();
    assert!(rule.contains("2 permissions") && config.stdout.contains("/ns/default/sa/api until"), "{config:?}");
    let stranger = shown(&api, "config", "db");
    assert_eq!(stranger.status, Some(2), "{stranger:?}");
    assert!(stranger.stderr.contains("ask the agent that stands before it"), "{stranger:?}");
}

#[test]
fn an_applications_own_metrics_follow_the_agents_and_a_dead_one_is_marked() {
    let mut mesh = Mesh::start(1);
    let dead = free_port();
    mesh.join("n1", &[Service { name: "api", port: free_port(), upstreams: vec![] }]);
    let register = |name: &str, url: &str| {
        let body = serde_json::json!({"Name": name, "ID": "api-2", "Port": 9000, "MetricsURL": url}).to_string();
        let headers = [("x-consul-token", mesh.token.as_str())];
        exchange(mesh.agents[0].http, "PUT", "/v1/agent/service/register", &headers, &body).unwrap()
    };
    let own = exchange(mesh.agents[0].admin, "GET", "/metrics", &[], "").unwrap();
    assert!(own.body.ends_with("# EOF\n"), "{}", own.body);
    for (url, status) in [
        ("http://10.0.0.1:80/metrics", 400),
        ("https://127.0.0.1/metrics", 400),
        ("http://user@127.0.0.1/metrics", 400),
        (format!("http://127.0.0.1:{dead}/").as_str(), 200),
    ] {
        let answer = register("api", url);
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    let read = || exchange(mesh.agents[0].admin, "GET", "/metrics", &[], "").unwrap().body;
    let soon = |wanted: &str| {
        eventually(wanted, REPORTED * 10 * PROMISE_FACTOR, || Some(read()).filter(|text| text.contains(wanted)))
    };
    let [down, up] = [0, 1].map(|up| format!("weft_application_metrics_up{{service=\"default/api\"}} {up}\n"));
    assert!(read().contains(&down), "{}", read());
    assert_eq!(register("api", &format!("http://127.0.0.1:{}/own", tells(TOLD))).status, 200);
    let text = soon(&up);
    let own =
        "# TYPE api_requests_total counter\napi_requests_total{path=\"/{id}\",said=\"a \\\"b\\\"\"} 7 1395066363000\n";
    assert!(text.contains(own) && text.contains("\nweft_build_info{"), "{text}");
    // Nothing that only OpenMetrics has, and nothing of others in weft's name.
    assert!(!text.contains("# EOF") && !text.contains(" info\n") && !text.contains("forged"), "{text}");
    // What is no metrics costs the others nothing.
    assert_eq!(register("api", &format!("http://127.0.0.1:{}/own", application())).status, 200);
    let text = soon(&down);
    assert!(!text.contains("GET /own") && text.contains("\nweft_build_info{"), "{text}");
}

/// What an application tells of its own, and in somebody else's name.
const TOLD: &str = "# HELP api_requests_total Of users.\n# TYPE api_requests_total counter\n\
    api_requests_total{path=\"/{id}\",said=\"a \\\"b\\\"\"} 7 1395066363000\nweft_build_info{version=\"forged\"} 1\n";

/// Starts an application that answers everything with a text.
fn tells(text: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let head = BufReader::new(stream.try_clone().unwrap()).lines();
            head.map_while(Result::ok).find(String::is_empty);
            let head = "content-type: text/plain; version=0.0.4\r\nconnection: close";
            // Whoever does not wait for the answer does without.
            _ = write!(stream, "HTTP/1.1 200 OK\r\n{head}\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        }
    });
    port
}

#[test]
fn requests_are_watched_through_any_server_by_whoever_may_change_the_service() {
    let mut mesh = Mesh::start(3);
    let listener = free_port();
    mesh.join("api-1", &[Service { name: "api", port: application(), upstreams: vec![] }]);
    mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![("api", listener)] }]);
    let listener = SocketAddr::from(([127, 0, 0, 1], listener));
    speak_http(&mesh);
    mesh.done(&["intention", "create", "--allow", "web", "api"]);
    let ask = |path: &str| {
        let headers = [("x-env", "prod"), ("authorization", "Bearer hidden")];
        exchange(listener, "GET", path, &headers, "").ok().map(|answer| answer.status)
    };
    eventually("a call to pass", Duration::from_secs(20), || ask("/").filter(|status| *status == 200));
    let watch = |at: usize| {
        let (address, token) = (mesh.servers[at].http.to_string(), mesh.token.clone());
        let watching = std::thread::spawn(move || {
            let wanted = ["--path", "/seen", "--header", "X-Env", "--header", "authorization"];
            let arguments = [&["tap", "api", "--for", "3s", "--output", "json"][..], &wanted].concat();
            weft(&arguments, &[("WEFT_HTTP_ADDR", &address), ("WEFT_HTTP_TOKEN", &token)])
        });
        while !watching.is_finished() {
            ask("/seen/x?secret=1");
            ask("/other");
        }
        let output = watching.join().unwrap();
        assert_eq!(output.status, Some(0), "{output:?}");
        Some(output.stdout).filter(|lines| !lines.is_empty())
    };
    for at in 0..3 {
        let lines = eventually("requests to be watched", Duration::from_secs(30), || watch(at));
        assert!(!lines.contains("hidden") && !lines.contains("secret") && !lines.contains("/other"), "{lines}");
        let event: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!((&event["Path"], &event["Source"]), (&"/seen/x".into(), &"default/web".into()), "{event}");
        assert_eq!((&event["Status"], &event["Decision"]), (&200.into(), &"allow".into()), "{event}");
        assert_eq!(event["Headers"], serde_json::json!({"authorization": "<redacted>", "x-env": "prod"}));
        assert_eq!(event["Node"], "api-1");
    }

    // Whoever may only see the service watches nothing.
    let put = |path: &str, body: Value| {
        let answer = mesh.servers[0].request("PUT", path, &mesh.token, &body.to_string()).unwrap();
        serde_json::from_str::<Value>(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body))
    };
    put("/v1/acl/policy", serde_json::json!({"Name": "sees", "Rules": "service \"api\" { policy = \"read\" }"}));
    let token = put("/v1/acl/token", serde_json::json!({"Policies": [{"Name": "sees"}]}));
    let address = mesh.servers[0].http.to_string();
    let environment = [("WEFT_HTTP_ADDR", address.as_str()), ("WEFT_HTTP_TOKEN", token["SecretID"].as_str().unwrap())];
    let refused = weft(&["tap", "api"], &environment);
    assert_eq!(refused.status, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("service:write"), "{refused:?}");
}

/// Has calls of `api` go a way on which much happens.
fn shape(mesh: &Mesh) {
    let entries = [
        json!({"Kind": "jwt-provider", "Name": "own-issuer", "Issuer": "https://issuer.example",
            "JSONWebKeySet": {"Remote": {"URI": "https://127.0.0.1:1/keys"}}}),
        json!({"Kind": "service-defaults", "Name": "api", "Protocol": "http",
            "RateLimits": {"InstanceLevel": {"RequestsPerSecond": 500}}}),
        json!({"Kind": "service-defaults", "Name": "web", "UpstreamConfig": {"Defaults": {"ConnectTimeoutMs": 900,
            "Limits": {"MaxConcurrentRequests": 77}, "PassiveHealthCheck": {"MaxFailures": 3}}}}),
        json!({"Kind": "service-resolver", "Name": "api", "ConnectTimeout": "1500ms",
            "LoadBalancer": {"Policy": "random"}}),
        json!({"Kind": "service-splitter", "Name": "api", "Splits": [
            {"Weight": 100, "ResponseHeaders": {"Set": {"x-split": "1"}}}]}),
        json!({"Kind": "service-router", "Name": "api", "Routes": [{"Match": {"HTTP": {"PathPrefix": "/old/"}},
            "Destination": {"PrefixRewrite": "/v1/", "RequestTimeout": "2s", "NumRetries": 2, "RetryOn": ["5xx"],
                "RequestHeaders": {"Add": {"x-way": "old"}}, "Fault": {"Abort": {"Status": 503, "Percent": 1}}}}]}),
        json!({"Kind": "service-intentions", "Name": "api", "Sources": [{"Name": "web", "Permissions": [
            {"Action": "allow", "HTTP": {"PathPrefix": "/public"}},
            {"Action": "allow", "HTTP": {"PathPrefix": "/own"}, "JWT": {"Providers": [{"Name": "own-issuer"}]}}]}]}),
    ];
    for entry in entries {
        let answer = mesh.servers[0].request("PUT", "/v1/config", &mesh.token, &entry.to_string()).unwrap();
        assert_eq!(answer.status, 200, "{entry}: {}", answer.body);
    }
}

/// Has the requests to `api` read.
fn speak_http(mesh: &Mesh) {
    let defaults = mesh.directory.path().join("defaults.hcl");
    std::fs::write(&defaults, "Kind = \"service-defaults\"\nName = \"api\"\nProtocol = \"http\"\n").unwrap();
    mesh.done(&["config", "write", &defaults.display().to_string()]);
}
