//! The command line as people and scripts meet it: what it prints where, how it ends, and what it does with bad input.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::harness::{
    Mesh, Output, PATIENCE, PROMISE_FACTOR, Process, Service, ended_within, eventually, exchange, free_port, log_of,
    weft, weft_command, write_secret,
};

const DEADLINE: Duration = Duration::from_secs(15);
/// How long a change of intentions may take to be felt.
const FELT: Duration = Duration::from_secs(2);
/// What a terminal would obey: clear the screen, set the title, the C1 form of an escape, delete.
const ESCAPES: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\u{7f}";

/// Checks that a command failed, and said so as every command does: on standard error, with what to do.
#[track_caller]
fn assert_failed(output: &Output, error: &str, hint: &str) {
    assert_eq!(output.status, Some(2), "{output:?}");
    assert_eq!(output.stdout, "", "a failure prints nothing on standard output: {output:?}");
    assert!(output.stderr.starts_with("error: "), "{output:?}");
    assert!(output.stderr.contains(error), "it says what failed ({error}): {output:?}");
    let told = output.stderr.lines().find_map(|line| line.strip_prefix("hint: "));
    assert!(told.is_some_and(|told| told.contains(hint)), "it says what to do ({hint}): {output:?}");
}

#[track_caller]
fn assert_no_escapes(text: &str) {
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "a terminal would obey this: {text:?}");
}

/// Returns the commands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let rest = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let named = rest.take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    named.filter(|name| !name.is_empty() && *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_command_explains_itself() {
    let mut seen = BTreeSet::new();
    let mut waiting = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        let mut by_flag: Vec<&str> = path.iter().map(String::as_str).collect();
        let by_verb: Vec<&str> = std::iter::once("help").chain(by_flag.iter().copied()).collect();
        let by_verb = weft(&by_verb, &[]);
        by_flag.push("--help");
        let by_flag = weft(&by_flag, &[]);
        assert_eq!((by_flag.status, by_flag.stderr.as_str()), (Some(0), ""), "{path:?}");
        assert_eq!((by_verb.status, &by_verb.stdout), (Some(0), &by_flag.stdout), "{path:?}");
        assert!(by_flag.stdout.contains("\nUsage: weft"), "{path:?}: {}", by_flag.stdout);
        assert!(by_flag.stdout.lines().all(|line| line.chars().count() <= 160), "{path:?}: {}", by_flag.stdout);
        for name in listed(&by_flag.stdout) {
            let below: Vec<String> = path.iter().cloned().chain([name]).collect();
            waiting.push(below);
        }
        seen.insert(path.join(" "));
    }
    for wanted in [
        "demo",
        "dev",
        "server",
        "agent",
        "keygen",
        "join",
        "doctor",
        "status",
        "validate",
        "completions",
        "acl bootstrap",
        "acl token create",
        "acl token clone",
        "acl policy create",
        "acl role update",
        "join-token create",
        "intention create",
        "intention explain",
        "intention test",
        "services register",
        "catalog nodes",
        "ca roots",
    ] {
        assert!(seen.contains(wanted), "`{wanted}` is not among {seen:?}");
    }
    let version = weft(&["--version"], &[]);
    assert_eq!((version.status, version.stdout.starts_with("weft 0.")), (Some(0), true), "{version:?}");
}

#[test]
fn completions_know_the_commands_in_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = weft(&["completions", shell], &[]);
        assert_eq!((output.status, output.stderr.as_str()), (Some(0), ""), "{shell}");
        for word in ["intention", "join-token", "retry-join", "explain"] {
            assert!(output.stdout.contains(word), "{shell} does not complete `{word}`");
        }
    }
}

#[test]
fn what_cannot_be_parsed_ends_with_2_and_nothing_on_standard_output() {
    for arguments in [
        &[][..],
        &["nonsense"],
        &["intention", "create", "web", "api"],
        &["intention", "create", "--allow", "--deny", "web", "api"],
        &["intention", "create", "--allow", "web"],
        &["intention", "create", "--allow", "-rf", "api"],
        &["server", "--http-port", "70000"],
        &["server", "--leaf-ttl", "1hh"],
        &["agent", "--platform", "mainframe"],
        &["agent", "--bind", "here"],
        &["status", "--output", "yaml"],
        &["status", "--namespace", "Not A Namespace"],
        &["completions", "cmd"],
        &["connector", "aws", "--lease", "3s"],
    ] {
        let output = weft(arguments, &[]);
        assert_eq!((output.status, output.stdout.as_str()), (Some(2), ""), "{arguments:?}: {}", output.stderr);
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn the_status_says_done_no_or_failed_and_failures_say_what_to_do() {
    let mesh = Mesh::start(1);
    let address = mesh.servers[0].http.to_string();

    let created = mesh.weft(&["intention", "create", "--allow", "web", "api"]);
    assert_eq!((created.status, created.stdout.as_str()), (Some(0), "Created: default/web => default/api (allow)\n"));
    assert_eq!(mesh.weft(&["intention", "check", "web", "api"]).status, Some(0));
    let again = mesh.weft(&["intention", "create", "--deny", "web", "api"]);
    assert_failed(&again, "intention default/web => default/api exists already: it says allow", "--replace");
    assert_eq!(mesh.weft(&["intention", "check", "web", "api"]).status, Some(0), "the first one stands");
    assert_eq!(mesh.weft(&["intention", "create", "--deny", "--replace", "web", "api"]).status, Some(0));
    let denied = mesh.weft(&["intention", "check", "web", "api"]);
    assert_eq!((denied.status, denied.stdout.as_str(), denied.stderr.as_str()), (Some(1), "Denied\n", ""));
    let none = mesh.weft(&["intention", "get", "web", "other"]);
    assert_eq!((none.status, none.stderr.as_str()), (Some(1), ""), "{none:?}");
    let none = mesh.weft(&["intention", "get", "web", "other", "--output", "json"]);
    assert_eq!((none.status, none.stdout.as_str()), (Some(1), "null\n"), "no answer is an answer in JSON, too");

    assert_failed(
        &weft(&["intention", "list"], &[("WEFT_HTTP_ADDR", &address)]),
        "403: Permission denied",
        "WEFT_HTTP_TOKEN",
    );
    let unknown = [("WEFT_HTTP_ADDR", address.as_str()), ("WEFT_HTTP_TOKEN", "11111111-2222-3333-4444-555555555555")];
    let output = weft(&["intention", "list"], &unknown);
    assert_failed(&output, "403: ACL not found", "WEFT_HTTP_TOKEN");
    assert!(!output.stderr.contains("11111111"), "no token is repeated: {output:?}");
    let nobody = format!("127.0.0.1:{}", free_port());
    assert_failed(&weft(&["status"], &[("WEFT_HTTP_ADDR", &nobody)]), "cannot reach", "--http-addr");
    assert_failed(
        &weft(&["status"], &[("WEFT_HTTP_ADDR", "ftp://127.0.0.1")]),
        "not the address of an API",
        "host:port",
    );
    let token_file = mesh.directory.path().join("token");
    std::fs::write(&token_file, &mesh.token).unwrap();
    let open_file = [("WEFT_HTTP_ADDR", address.as_str()), ("WEFT_HTTP_TOKEN_FILE", token_file.to_str().unwrap())];
    let output = weft(&["status"], &open_file);
    assert_eq!((output.status, output.stdout.as_str()), (Some(2), ""), "{output:?}");
    assert!(output.stderr.contains("chmod 0600"), "a token that others may read is not used: {output:?}");
    write_secret(&mesh.directory.path().join("private-token"), &mesh.token);
    let private = mesh.directory.path().join("private-token");
    assert_eq!(
        weft(&["status", "--token-file", private.to_str().unwrap()], &[("WEFT_HTTP_ADDR", &address)]).status,
        Some(0)
    );

    let in_clear = [("WEFT_HTTP_ADDR", "http://192.0.2.1:8500"), ("WEFT_HTTP_TOKEN", "s3cret")];
    assert_failed(&weft(&["status"], &in_clear), "the token is not sent", "https");
    let wild = mesh.weft(&["join-token", "create", "--service", "*"]);
    assert_failed(&wild, "`*` is not one service", "name each service");
}

#[test]
fn every_reading_verb_prints_json_that_a_program_can_read() {
    let mut mesh = Mesh::start(1);
    mesh.join("vm-1", &[Service { name: "api", port: free_port(), upstreams: vec![] }]);
    mesh.done(&["intention", "create", "--allow", "web", "api", "--description", "for the shop"]);
    let json = |arguments: &[&str]| -> serde_json::Value {
        let printed = mesh.done(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {printed}"))
    };
    // An agent is ready before the servers have its word.
    eventually("the service to be in the catalog", FELT * PROMISE_FACTOR, || {
        json(&["catalog", "services"]).get("api").map(drop)
    });
    let status = json(&["status"]);
    assert_eq!((&status["Leader"], &status["Mesh"]["Servers"][0]["ID"]), (&"s1".into(), &"s1".into()), "{status}");
    let versions = mesh.weft(&["status", "--versions"]);
    assert!(versions.stdout.starts_with("Release") && versions.stdout.contains("s1"), "{versions:?}");
    assert_eq!(json(&["catalog", "nodes"])[0]["Node"], "vm-1");
    assert_eq!(json(&["intention", "list"])[0]["SourceName"], "web");
    assert_eq!(json(&["intention", "get", "web", "api"])["Description"], "for the shop");
    assert_eq!(json(&["intention", "match", "--destination", "api"])["api"][0]["Action"], "allow");
    assert_eq!(json(&["intention", "match", "--source", "web"])["web"][0]["DestinationName"], "api");
    assert_eq!(json(&["intention", "explain", "web", "api"])["Decision"], "allow");
    assert!(json(&["acl", "token", "list"])[0].get("AccessorID").is_some());
    assert!(json(&["acl", "token", "read"]).get("AccessorID").is_some());
    assert_eq!(json(&["join-token", "list"])[0]["Services"][0], "default/api");
    assert_eq!(json(&["ca", "roots"])["Roots"].as_array().map(Vec::len), Some(1));
    let of_agent = [("WEFT_HTTP_ADDR", mesh.agents[0].http.to_string()), ("WEFT_HTTP_TOKEN", mesh.token.clone())];
    let of_agent = of_agent.each_ref().map(|(name, value)| (*name, value.as_str()));
    let services = weft(&["services", "list", "--output", "json"], &of_agent);
    let services: serde_json::Value = serde_json::from_str(&services.stdout).unwrap_or_else(|_| panic!("{services:?}"));
    assert_eq!(services["api"]["Service"], "api");

    // The same as tables: a header, a line each, and nothing that only a terminal understands.
    for arguments in [
        &["status"][..],
        &["catalog", "nodes"],
        &["catalog", "services"],
        &["intention", "list"],
        &["intention", "explain", "web", "api"],
        &["acl", "token", "list"],
        &["join-token", "list"],
        &["ca", "roots"],
    ] {
        let table = mesh.done(arguments);
        assert!(table.lines().count() >= 2, "{arguments:?}: {table}");
        assert_no_escapes(&table);
    }
}

#[test]
fn f1_a_bad_file_is_named_and_nothing_is_started() {
    let home = tempfile::tempdir().unwrap();
    let key = weft(&["keygen"], &[]).stdout;
    write_secret(&home.path().join("good.key"), &key);
    std::fs::write(home.path().join("open.key"), &key).unwrap();
    write_secret(&home.path().join("passphrase.key"), "correct horse battery staple");
    let server = |file: &str, text: &[u8], wants: &[&str]| {
        let path = home.path().join(file);
        std::fs::write(&path, text).unwrap();
        let key = home.path().join("good.key");
        refuses(
            home.path(),
            &["server", "--config", path.to_str().unwrap(), "--cluster-key-file", key.to_str().unwrap()],
            wants,
        );
        let validated = weft(&["validate", "--as", "server", path.to_str().unwrap()], &[]);
        assert_eq!(
            (validated.status, validated.stdout.as_str()),
            (Some(2), ""),
            "validate says so, too: {}",
            validated.stderr
        );
    };
    server("a.hcl", b"node = \"s1\"\nbootstrap = 3\n", &["a.hcl", "unknown field `bootstrap`"]);
    server(
        "b.hcl",
        b"node = \"s1\"\nbind = \"127.0.0.1\"\nnode = \"s2\"\n",
        &["b.hcl", "line 3", "`node` stands twice"],
    );
    server("c.json", br#"{"node": "s1", "Node": "s2"}"#, &["c.json", "`node` and `Node` are the same field"]);
    server("d.hcl", b"node = \"s1\"\nleaf_ttl = \"1hh\"\n", &["d.hcl", "`leaf_ttl`", "`1hh`", "1h30m"]);
    server("e.hcl", b"node = \"s1\"\nhttp_port = 70000\n", &["e.hcl", "`http_port`: 70000"]);
    server("f.hcl", b"node = \"s\xff1\"\n", &["f.hcl", "line 1, column 10", "UTF-8"]);
    server("g.hcl", b"node = 7\n", &["g.hcl", "`node`"]);
    server("h.hcl", b"node = \"${HOSTNAME}\"\n", &["h.hcl", "line 1"]);
    server("i.json", b"{\"node\": \"s1\"} trailing", &["i.json", "line 1"]);
    server("j.yaml", b"node: s1\n", &["j.yaml", "hint: ", ".hcl"]);
    server("k.hcl", &vec![b'#'; (1 << 20) + 1], &["k.hcl", "1048577 bytes"]);
    refuses(home.path(), &["server", "--config", "/does/not/exist.hcl"], &["/does/not/exist.hcl"]);
    refuses(home.path(), &["server", "--node", "s1"], &["no cluster key", "hint: ", "weft keygen"]);
    for (key, want) in [("open.key", "chmod 0600"), ("passphrase.key", "weft keygen"), ("no.key", "no.key")] {
        let path = home.path().join(key);
        refuses(home.path(), &["server", "--node", "s1", "--cluster-key-file", path.to_str().unwrap()], &[want, key]);
    }
    let bad_settings = ["server", "--node", "s1", "--bootstrap-expect", "0", "--cluster-key-file"];
    let key_file = home.path().join("good.key");
    refuses(home.path(), &[&bad_settings[..], &[key_file.to_str().unwrap()]].concat(), &["bootstrap_expect is 0"]);

    let agent = |file: &str, text: &[u8], wants: &[&str]| {
        let path = home.path().join(file);
        std::fs::write(&path, text).unwrap();
        refuses(home.path(), &["agent", "--config", path.to_str().unwrap(), "--server", "127.0.0.1:1"], wants);
        let validated = weft(&["validate", path.to_str().unwrap()], &[]);
        assert_eq!(
            (validated.status, validated.stdout.as_str()),
            (Some(2), ""),
            "validate says so, too: {}",
            validated.stderr
        );
    };
    agent("l.hcl", b"service {\n  name = \"web\"\n  prot = 80\n}\n", &["l.hcl", "unknown field `service.prot`"]);
    agent("m.hcl", b"service {\n  name = \"web\"\n  port = 70000\n}\n", &["m.hcl", "`service.port`"]);
    agent("n.hcl", b"service {\n  name = \"web\"\n  name = \"api\"\n}\n", &["n.hcl", "line 3"]);
    agent("o.hcl", b"nodes = \"vm-1\"\nservice { name = \"web\" }\n", &["o.hcl", "unknown field `nodes`"]);
    agent(
        "p.json",
        br#"{"service": {"name": "web", "check": {"http": "http://127.0.0.1/", "interval": "1hh"}}}"#,
        &["p.json", "1hh"],
    );
    agent(
        "q.hcl",
        b"service { name = \"web\" \n kind = \"mesh-gateway\" }\n",
        &["q.hcl", "`mesh-gateway` is not supported"],
    );
    refuses(home.path(), &["agent", "--node", "vm-1"], &["knows no server", "hint: ", "--server"]);
    std::fs::write(home.path().join("open-token"), "weft-join-v1.x.y").unwrap();
    let token = home.path().join("open-token");
    let arguments = ["agent", "--server", "127.0.0.1:1", "--join-token-file", token.to_str().unwrap()];
    refuses(home.path(), &arguments, &["open-token", "chmod 0600"]);
}

/// Starts what must not start: it ends with 2, says all of `wants`, and leaves no data directory behind.
#[track_caller]
fn refuses(home: &Path, arguments: &[&str], wants: &[&str]) {
    let data = home.join("data");
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(arguments).arg("--data-dir").arg(&data);
    let directory = tempfile::tempdir_in(home).unwrap();
    let mut process = Process::start("refused", command, directory.path());
    assert_eq!(process.wait(DEADLINE * PROMISE_FACTOR), Some(2), "{arguments:?}");
    let told = log_of("refused", directory.path());
    assert!(told.starts_with("error: "), "{arguments:?}: {told}");
    for want in wants {
        assert!(told.contains(want), "{arguments:?} says `{want}`: {told}");
    }
    assert!(!told.contains("battery staple"), "no secret is repeated: {told}");
    assert!(!data.exists(), "{arguments:?}: nothing was begun");
}

#[test]
fn one_file_may_hold_an_agents_settings_and_its_services() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("agent.hcl");
    let text = "node = \"vm-1\"\nservers = [\"127.0.0.1:8300\"]\nservice {\n  name = \"web\"\n  port = 8080\n}\n";
    std::fs::write(&path, text).unwrap();
    let validated = weft(&["validate", path.to_str().unwrap()], &[]);
    assert_eq!(validated.status, Some(0), "{}", validated.stderr);
    // It comes as far as joining, for which it has no token.
    let arguments = ["agent", "--config", path.to_str().unwrap(), "--http-port", "0", "--admin-port", "0", "--no-dns"];
    let output = weft(&arguments, &[]);
    assert_eq!(output.status, Some(2), "{output:?}");
    assert!(output.stderr.contains("the agent has no identity yet"), "{output:?}");
}

#[test]
fn f2_a_reader_who_has_had_enough_is_no_failure() {
    let mesh = Mesh::start(1);
    let address = mesh.servers[0].http.to_string();
    let environment = [("WEFT_HTTP_ADDR", address.as_str()), ("WEFT_HTTP_TOKEN", mesh.token.as_str())];
    let unread = |arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = weft_command(arguments, &environment);
        let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let output = ended_within(child, &format!("{arguments:?}"), PATIENCE);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for arguments in [
        &["completions", "bash"][..],
        &["--help"],
        &["keygen"],
        &["status"],
        &["intention", "list"],
        &["catalog", "nodes", "--output", "json"],
        &["intention", "create", "--allow", "web", "api"],
        &["intention", "check", "web", "api"],
    ] {
        assert_eq!(unread(arguments), (Some(0), String::new()), "{arguments:?}");
    }
    // The status is the answer, read or not.
    assert_eq!(unread(&["intention", "check", "api", "web"]), (Some(1), String::new()));
    assert_eq!(unread(&["intention", "get", "api", "web"]), (Some(1), String::new()));
    assert_eq!(unread(&["validate", "/does/not/exist.hcl"]).0, Some(2));
    // And what has several steps takes them all.
    let mut mesh = mesh;
    mesh.join(
        "vm-1",
        &[
            Service { name: "api", port: free_port(), upstreams: vec![] },
            Service { name: "web", port: 1, upstreams: vec![] },
        ],
    );
    let (agent, token) = (mesh.agents[0].http.to_string(), mesh.token.clone());
    let environment = [("WEFT_HTTP_ADDR", agent.as_str()), ("WEFT_HTTP_TOKEN", token.as_str())];
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let files = ["api-2", "web-2"].map(|id| {
        let path = mesh.directory.path().join(format!("{id}.json"));
        std::fs::write(&path, format!(r#"{{"service": {{"id": "{id}", "name": "{}", "port": 1}}}}"#, &id[..3]))
            .unwrap();
        path.display().to_string()
    });
    let mut register = weft_command(&["services", "register", &files[0], &files[1]], &environment);
    let child = register.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let registered = ended_within(child, "registering", PATIENCE);
    assert_eq!(registered.status.code(), Some(0), "{}", String::from_utf8_lossy(&registered.stderr));
    let listed = weft(&["services", "list"], &environment).stdout;
    assert!(listed.contains("api-2") && listed.contains("web-2"), "{listed}");
}

#[test]
fn f2_what_others_wrote_into_the_catalog_gives_a_terminal_no_orders() {
    let mesh = Mesh::start(1);
    let body = serde_json::json!({
        "Node": "printer", "Address": "192.0.2.7", "NodeMeta": { "note": ESCAPES },
        "Service": { "Service": "print", "Port": 631, "Tags": [ESCAPES, "plain"], "Meta": { "note": ESCAPES } },
        "Check": { "Name": ESCAPES, "CheckID": "up", "Status": "passing", "Output": ESCAPES },
    });
    let answer = mesh.servers[0].request("PUT", "/v1/catalog/register", &mesh.token, &body.to_string()).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let created = mesh.weft(&["intention", "create", "--allow", "web", "print", "--description", ESCAPES]);
    assert!(matches!(created.status, Some(0 | 2)), "{created:?}");
    let token = mesh.weft(&["acl", "token", "create", "--description", ESCAPES, "--service-identity", "print"]);
    assert!(matches!(token.status, Some(0 | 2)), "{token:?}");
    for output in [created, token] {
        assert_no_escapes(&output.stdout);
        assert_no_escapes(&output.stderr);
    }
    for verb in [
        &["catalog", "nodes"][..],
        &["catalog", "services"],
        &["intention", "list"],
        &["intention", "explain", "web", "print"],
        &["acl", "token", "list"],
    ] {
        for form in ["table", "json"] {
            let printed = mesh.done(&[verb, &["--output", form]].concat());
            assert_no_escapes(&printed);
        }
    }
    let odd = mesh.weft(&[
        "services",
        "deregister",
        &format!("--http-addr={}", mesh.servers[0].http),
        "--",
        &format!("-rf{ESCAPES}"),
    ]);
    assert_no_escapes(&odd.stdout);
    assert_no_escapes(&odd.stderr);
}

#[test]
fn dev_is_a_mesh_for_trying_things() {
    let home = tempfile::tempdir().unwrap();
    let application = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = application.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in application.incoming().flatten() {
            let _gone = answer(stream);
        }
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    let ports = [free_port(), free_port(), free_port()].map(|port| port.to_string());
    command.args(["dev", "--service", "web", "--service", "api"]);
    command.args(["--http-port", &ports[0], "--admin-port", &ports[1], "--mesh-port", &ports[2]]);
    let mut dev = Process::start("dev", command, home.path());
    let exported = |name: &str| {
        let log = log_of("dev", home.path());
        let line = log.lines().find_map(|line| line.trim().strip_prefix(&format!("export {name}=")).map(str::to_owned));
        line.filter(|_| log.contains("weft status"))
    };
    let token = eventually("the mesh to be up", DEADLINE * PROMISE_FACTOR, || {
        dev.assert_running();
        exported("WEFT_HTTP_TOKEN")
    });
    let address = exported("WEFT_HTTP_ADDR").unwrap();
    assert_eq!(address, format!("127.0.0.1:{}", ports[0]));
    let run = |arguments: &[&str]| weft(arguments, &[("WEFT_HTTP_ADDR", &address), ("WEFT_HTTP_TOKEN", &token)]);
    let done = |arguments: &[&str]| {
        let output = run(arguments);
        assert_eq!(output.status, Some(0), "{arguments:?}: {}", output.stderr);
        output.stdout
    };

    let listener = free_port();
    let definitions = [
        ("api.json", format!(r#"{{"service": {{"name": "api", "port": {port}}}}}"#)),
        (
            "web.json",
            format!(
                r#"{{"service": {{"name": "web", "port": 8081, "connect": {{"sidecar_service": {{"proxy": {{"upstreams":
                [{{"destination_name": "api", "local_bind_port": {listener}}}]}}}}}}}}}}"#
            ),
        ),
    ];
    for (name, text) in definitions {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        assert!(done(&["services", "register", path.to_str().unwrap()]).starts_with("Registered: "));
    }
    let listed = done(&["services", "list"]);
    assert!(listed.contains("api") && listed.contains("web"), "{listed}");
    eventually("the catalog to list both", DEADLINE, || {
        let services = done(&["catalog", "services"]);
        (services.contains("default/api") && services.contains("default/web")).then_some(())
    });
    let listener = ([127, 0, 0, 1], listener).into();
    let call = || exchange(listener, "GET", "/", &[], "").ok();
    assert!(call().is_none(), "nobody said that web may call api");
    assert!(done(&["intention", "explain", "web", "api"]).contains("default/web => default/api: deny"));
    done(&["intention", "create", "--allow", "web", "api"]);
    let answer = eventually("the call to be allowed", FELT * PROMISE_FACTOR, call);
    assert_eq!((answer.status, answer.body.as_str()), (200, "served by api\n"));
    done(&["intention", "delete", "web", "api"]);
    eventually("the call to be refused again", FELT * PROMISE_FACTOR, || call().is_none().then_some(()));
    done(&["services", "deregister", "api"]);
    assert_eq!(dev.terminate(DEADLINE), Some(0), "{}", log_of("dev", home.path()));
}

fn answer(mut stream: std::net::TcpStream) -> std::io::Result<()> {
    let _some = stream.read(&mut [0; 4096])?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 14\r\n\r\nserved by api\n")
}
