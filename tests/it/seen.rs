//! What agents see is told: to servers, to traces, to logs, and to whoever asks.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Mesh, PROMISE_FACTOR, Service, application, eventually, exchange, free_port};

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
    let callers = mesh.done(&["mesh", "callers"]);
    assert!(callers.contains("default/web") && callers.contains("hybrid"), "{callers}");
    // A rule that nobody needs is seen to be none that somebody does.
    mesh.done(&["intention", "create", "--allow", "--expires-in", "30d", "batch", "api"]);
    let used = mesh.done(&["intention", "usage", "--output", "json"]);
    let used: Value = serde_json::from_str(&used).unwrap();
    let rule = |source: &str| used["Rules"].as_array().unwrap().iter().find(|rule| rule["Source"] == source).unwrap();
    assert!(rule("default/web")["Allowed"].as_u64() >= Some(1) && rule("default/web")["Last"].is_string(), "{used}");
    assert_eq!((&rule("default/batch")["Last"], &rule("default/batch")["Agents"]), (&Value::Null, &1.into()), "{used}");
    let unused = mesh.weft(&["intention", "usage", "--unused"]);
    assert_eq!(unused.status, Some(1), "{unused:?}");
    assert!(unused.stdout.contains("default/batch") && !unused.stdout.contains("default/web"), "{unused:?}");
    let long = mesh.weft(&["intention", "usage", "--unused", "--since", "30d"]);
    assert!(long.status == Some(0) && long.stdout.contains("not watched for so long"), "{long:?}");
    let plaintext = mesh.done(&["mesh", "plaintext"]);
    assert!(plaintext.contains("nobody was seen to speak plaintext"), "{plaintext}");
}
