//! Rules on requests, from the file that somebody writes to the answer that a caller gets.

use std::{net::SocketAddr, time::Duration};

use crate::harness::{Mesh, PROMISE_FACTOR, Service, application, eventually, exchange, free_port, weft};

/// How long a change of policy may take to be felt.
const FELT: Duration = Duration::from_secs(2);

const DEFAULTS: &str = r#"Kind = "service-defaults"
Name = "api"
Protocol = "http"
"#;

const INTENTIONS: &str = r#"Kind = "service-intentions"
Name = "api"
Sources = [
  { Name = "web", Permissions = [
      { Action = "deny", HTTP { PathPrefix = "/v1/admin" } },
      { Action = "allow", HTTP { PathPrefix = "/v1", Methods = ["GET"], Header = [{ Name = "x-env", Exact = "prod" }] } },
      { Action = "allow", HTTP { PathExact = "/machines" }, SourcePlatforms = ["vm"] },
      { Action = "allow", HTTP { PathExact = "/tasks" }, SourcePlatforms = ["ecs"] } ] },
  { Name = "*", Action = "allow" } ]
"#;

const EXPECTATIONS: &str = r#"Expect = [
  { Source = "web", Destination = "api", Path = "/v1/users", Headers { x-env = "prod" }, Decision = "allow", Rule = "permissions[1]" },
  { Source = "web", Destination = "api", Path = "/v1//admin", Headers { x-env = "prod" }, Decision = "deny", Rule = "permissions[0]" },
  { Source = "web", Destination = "api", Method = "POST", Path = "/v1/users", Headers { x-env = "prod" }, Decision = "deny" },
  { Source = "web", Destination = "api", Path = "/machines", Platform = "vm", Decision = "allow" },
  { Source = "web", Destination = "api", Path = "/machines", Decision = "deny", Rule = "cannot be decided" },
  { Source = "batch", Destination = "api", Path = "/v9", Decision = "allow", Rule = "precedence 8" },
  { Source = "web", Destination = "api", Decision = "per-request" } ]
"#;

/// Sends a request through a listener; returns the answer's status and body.
fn ask(listener: SocketAddr, method: &str, path: &str, env: &str) -> (u16, String) {
    match exchange(listener, method, path, &[("x-env", env)], "") {
        Ok(answer) => (answer.status, answer.body),
        Err(error) => (0, error.to_string()),
    }
}

#[test]
fn h11_permissions_decide_requests_as_expected_explained_and_tested_before() {
    let mut mesh = Mesh::start(1);
    let listener = free_port();
    mesh.join("api-1", &[Service { name: "api", port: application(), upstreams: vec![] }]);
    mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![("api", listener)] }]);
    let listener = SocketAddr::from(([127, 0, 0, 1], listener));
    let write = |name: &str, text: &str| {
        let path = mesh.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let defaults = write("defaults.hcl", DEFAULTS);
    let intentions = write("intentions.hcl", INTENTIONS);
    let expectations = write("expectations.hcl", EXPECTATIONS);

    // Tested before anything is written, and refused where it could not be enforced.
    let offline = ["--file", intentions.as_str(), "--file", defaults.as_str()];
    let tested = weft(&[&["intention", "test", expectations.as_str()][..], &offline].concat(), &[]);
    assert_eq!(tested.status, Some(0), "{tested:?}");
    assert!(tested.stdout.contains("7 expectations, 0 failed"), "{tested:?}");
    let alone = weft(&["intention", "test", &expectations, "--file", &intentions], &[]);
    assert_eq!(alone.status, Some(2), "{alone:?}");
    assert!(alone.stderr.contains("need an HTTP protocol"), "{alone:?}");
    let early = mesh.weft(&["config", "write", &intentions]);
    assert_eq!(early.status, Some(2), "{early:?}");
    assert!(early.stderr.contains("default/web => default/api"), "{early:?}");
    mesh.done(&["config", "write", &defaults]);
    mesh.done(&["config", "write", &intentions]);
    let tcp = write("tcp.hcl", &DEFAULTS.replace("http", "tcp"));
    assert_eq!(mesh.weft(&["config", "write", &tcp]).status, Some(2), "the rules would be unenforceable");

    // Felt: the first line that the application got is the one that the rules saw.
    let passed = |path: &str| (200, format!("GET {path} HTTP/1.1"));
    eventually("the permissions to be felt", FELT * PROMISE_FACTOR, || {
        (ask(listener, "GET", "/v1/users", "prod") == passed("/v1/users")).then_some(())
    });
    assert_eq!(ask(listener, "GET", "/v1//%75sers/./7", "prod"), passed("/v1/users/7"));
    assert_eq!(ask(listener, "GET", "/machines", "dev"), passed("/machines"));
    for (method, path, env) in [
        ("GET", "/v1/users", "dev"),
        ("GET", "/v1/users", "prod, dev"),
        ("POST", "/v1/users", "prod"),
        ("GET", "/v1/admin", "prod"),
        ("GET", "/v1//admin", "prod"),
        ("GET", "/v1/%61dmin/x", "prod"),
        ("GET", "/v1/users/../admin", "prod"),
        ("GET", "/v1/users;x=1", "prod"),
        ("GET", "/tasks", "prod"),
        ("GET", "/v2", "prod"),
    ] {
        assert_eq!(ask(listener, method, path, env).0, 403, "{method} {path} {env}");
    }
    for path in ["/v1%2fadmin", "/v1/..%5cadmin", "/v1/%2561dmin", "/v1/..;/admin"] {
        assert_eq!(ask(listener, "GET", path, "prod").0, 400, "{path}");
    }

    // Explained as decided, by the servers too.
    let explained = mesh.done(&["intention", "explain", "web", "api", "--method", "GET", "--path", "/v1//admin"]);
    assert!(explained.contains("GET /v1/admin: deny, by intention default/web => default/api"), "{explained}");
    assert!(explained.contains("permissions[0]: decided") && explained.contains("without it, by intention default/*"));
    assert!(mesh.done(&["intention", "test", &expectations]).contains("0 failed"));
    // A request that has no answer fails its expectation, with servers and without them.
    let malformed = write("malformed.hcl", &EXPECTATIONS.replace("\"/v9\"", "\"/v9/%2e%2e%2f\""));
    let judged = [
        mesh.weft(&["intention", "test", &malformed]),
        weft(&[&["intention", "test", malformed.as_str()][..], &offline].concat(), &[]),
    ];
    for judged in judged {
        assert_eq!(judged.status, Some(1), "{judged:?}");
        assert!(judged.stdout.contains("7 expectations, 1 failed"), "{judged:?}");
    }
    let wrong =
        write("wrong.hcl", &EXPECTATIONS.replace("\"/v9\", Decision = \"allow\"", "\"/v9\", Decision = \"deny\""));
    let failed = mesh.weft(&["intention", "test", "--output", "junit", &wrong]);
    assert_eq!(failed.status, Some(1), "{failed:?}");
    assert!(failed.stdout.contains("tests=\"7\" failures=\"1\"") && failed.stdout.contains("<failure message="));
}
