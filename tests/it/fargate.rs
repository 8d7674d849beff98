//! Two tasks with what Fargate gives a task and no more: a metadata endpoint, a role's credentials, no rights and nothing to
//! write to. They log in without a secret, call each other by name, and are as well as their containers.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use crate::harness::{ACCOUNT, ADMITTED, Machines, Moto, PROMISE_FACTOR, Process, Task, eventually, tool};

const SERVER: &str = "10.0.77.1";
/// Where servers and agents mean the Security Token Service to be: on the server's own loopback.
const STS: &str = "http://127.0.0.1:5555";
const SETTLED: Duration = Duration::from_secs(3);
/// How long an agent may be unheard before its task is called no more.
const GRACE: Duration = Duration::from_secs(3);

/// Serves one line at every path, on loopback.
const APPLICATION: &str = r#"
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"served by api\n")
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Answer).serve_forever()
"#;

/// Starts a task's agent for a service, knowing the servers by the root.
fn start_agent(task: &Task<'_>, machines: &Machines, root: &str, service: &Value) {
    let config = json!({
        "servers": [format!("{SERVER}:8300")], "auth_method": "aws", "root_fingerprints": [root],
        "forward_port": 15002, "service": service,
    });
    task.start_agent(machines, &config.to_string());
}

/// Returns the one instance of a service, with its node and checks.
fn instance(machines: &Machines, service: &str) -> Option<Value> {
    let ask =
        format!("curl -sf -H \"X-Consul-Token: $WEFT_HTTP_TOKEN\" http://127.0.0.1:8500/v1/health/service/{service}");
    let found: Value = serde_json::from_str(&machines.done("s1", &ask)).ok()?;
    found.as_array().filter(|all| all.len() == 1).map(|all| all[0].clone())
}

fn check(instance: &Value, id: &str) -> Option<String> {
    let mut checks = instance["Checks"].as_array()?.iter();
    checks.find(|check| check["CheckID"] == id).and_then(|check| Some(check["Status"].as_str()?.to_owned()))
}

/// Starts the stand-in for the Security Token Service beside the server, and makes roles in it; returns it, and the credentials of
/// each session.
fn roles(machines: &Machines, moto: &Moto, logs: &Path, wanted: &[(&str, &str)]) -> (Process, Value) {
    let on = || {
        let mut command = machines.on_network_of("s1");
        // Two questions make a role; after all of them every signature is verified.
        command.arg("env").arg(format!("INITIAL_NO_AUTH_ACTION_COUNT={}", 2 * wanted.len()));
        command
    };
    let process = moto.serve(on, "127.0.0.1:5555".parse().unwrap(), &[], logs);
    let credentials = moto.converse(on(), STS, None).roles(wanted);
    (process, credentials)
}

/// Says whose word counts, and what such an identity is here; returns the root by which agents know the servers.
fn admit_roles(machines: &Machines) -> String {
    let bound = ["web", "api"].map(|role| format!("arn:aws:iam::{ACCOUNT}:role/{role}"));
    let method = json!({"BoundIAMPrincipalARNs": bound, "STSEndpoint": STS}).to_string();
    machines.write("s1", "/etc/weft/aws.json", &method);
    machines.write("s1", "/etc/weft/api.json", r#"{"Kind": "service-defaults", "Name": "api", "Protocol": "http"}"#);
    machines.done(
        "s1",
        "weft acl auth-method create aws --type aws-iam --config /etc/weft/aws.json\n\
         weft acl binding-rule create --method aws --bind-type service --bind-name '${entity_name}'\n\
         weft acl binding-rule create --method aws --bind-type node --bind-name '${session_name}'\n\
         weft config write /etc/weft/api.json",
    );
    let roots = machines.done("s1", "weft ca roots --output json");
    let roots: Value = serde_json::from_str(&roots).unwrap();
    roots["Roots"][0]["ID"].as_str().unwrap().to_owned()
}

#[test]
fn c11_a_task_of_fargate_logs_in_without_a_secret_and_is_called_by_name() {
    let test = "c11_a_task_of_fargate_logs_in_without_a_secret_and_is_called_by_name";
    let programs = ["unshare", "nsenter", "ip", "setpriv", "curl"].map(|program| tool(program, test));
    let Some(moto) = Moto::find(test).filter(|_| programs.iter().all(Option::is_some)) else { return };
    let task = |name: &'static str, address, id| Task { machine: name, address, id, family: name, sts: STS };
    let web = task("web", "10.0.77.11", "0a1b2c3d4e5f60718293a4b5c6d7e8f9");
    let api = task("api", "10.0.77.12", "9f8e7d6c5b4a39281706f5e4d3c2b1a0");
    let machines = Machines::boot(&[("s1", SERVER), (web.machine, web.address), (api.machine, api.address)]);
    machines.found_with(SERVER, "--sts-on-loopback --session-grace 3s");

    let logs = tempfile::tempdir().unwrap();
    let stranger = format!("{}x", web.id);
    let wanted = [("web", web.id), ("api", api.id), ("other", &stranger)];
    let (_moto, credentials) = roles(&machines, &moto, logs.path(), &wanted);
    let root = admit_roles(&machines);
    let root = root.as_str();

    api.prepare(&machines, &credentials[api.id]);
    machines.write(api.machine, "/etc/weft/application.py", APPLICATION);
    machines.done(api.machine, "setsid python3 /etc/weft/application.py > $RUN/app.log 2>&1 < /dev/null &");
    start_agent(&api, &machines, root, &json!({"name": "api", "port": 8080}));
    api.is_ready(&machines);

    // A role that no rule and no method knows is nobody, and does not learn why.
    web.prepare(&machines, &credentials[&stranger]);
    let upstreams = json!([{"destination_name": "api"}, {"destination_name": "cache"}]);
    let calls_api = json!({"name": "web", "port": 9090, "proxy": {"upstreams": upstreams}});
    start_agent(&web, &machines, root, &calls_api);
    eventually("the stranger to be refused", ADMITTED * PROMISE_FACTOR, || {
        machines.logs(web.machine).contains("the login was not accepted").then_some(())
    });
    eventually("the server to say why", ADMITTED * PROMISE_FACTOR, || {
        machines
            .run("s1", "grep -q 'is not among BoundIAMPrincipalARNs' $RUN/server.log")
            .status
            .success()
            .then_some(())
    });
    web.is_given(&machines, &credentials[web.id]);
    start_agent(&web, &machines, root, &calls_api);
    web.is_ready(&machines);

    // A node for each task, with what the platform knows of it.
    let found = eventually("api to be there", SETTLED * PROMISE_FACTOR, || instance(&machines, "api"));
    assert_eq!((found["Node"]["Node"].as_str(), found["Node"]["Address"].as_str()), (Some(api.id), Some(api.address)));
    assert_eq!(found["Node"]["Meta"]["ecs-family"], "api");
    assert_eq!(check(&found, "_platform:app").as_deref(), Some("passing"));

    // The application is told where it calls, by the address that stands for the service. Nobody allowed it yet.
    let call = web.contained("", "weft exec -- sh -c \"curl -sf --max-time 5 \\$WEFT_UPSTREAM_API_URL/\"");
    assert!(!machines.run(web.machine, &call).status.success());
    machines.done("s1", "weft intention create --allow web api");
    let answer = eventually("the call to be allowed", SETTLED * PROMISE_FACTOR, || {
        let called = machines.run(web.machine, &call);
        called.status.success().then(|| String::from_utf8_lossy(&called.stdout).into_owned())
    });
    assert_eq!(answer, "served by api\n");
    let told = machines.done(web.machine, &web.contained("", "weft exec --print"));
    let url = told.lines().find_map(|line| line.strip_prefix("WEFT_UPSTREAM_API_URL=")).unwrap_or_default();
    assert!(url.starts_with("http://127.64."), "{told}");

    // By the forward proxy, too, and to nobody else.
    let by_proxy = "curl -s --max-time 5 -x http://127.0.0.1:15002";
    assert_eq!(machines.done(web.machine, &format!("{by_proxy} http://api.virtual.mesh/")), "served by api");
    assert_eq!(machines.done(web.machine, &format!("{by_proxy} -p http://api.virtual.mesh:80/")), "served by api");
    let refused =
        machines.done(web.machine, &format!("{by_proxy} -o /dev/null -w '%{{http_code}}' http://example.com/"));
    assert_eq!(refused, "403");

    // The application listens on loopback alone: nobody gets past the agent.
    let found = eventually("the agent to have looked", SETTLED * PROMISE_FACTOR, || {
        instance(&machines, "api").filter(|found| found["Service"]["Bypassable"] == json!(false))
    });
    assert_eq!(check(&found, "_platform:app").as_deref(), Some("passing"));

    a_taken_port_costs_its_upstream_and_not_the_task(&machines, &web, url);
    as_well_as_its_containers(&machines, &api);
    machines.done("s1", "weft intention delete web api");
    eventually("the call to be refused again", SETTLED * PROMISE_FACTOR, || {
        (!machines.run(web.machine, &call).status.success()).then_some(())
    });
    killed_it_is_called_no_more(&machines, &web);
}

/// A container has a port on every address when an upstream comes there: that one is not opened, the others go on, and the
/// health check by which the platform would end the task still passes.
fn a_taken_port_costs_its_upstream_and_not_the_task(machines: &Machines, web: &Task<'_>, api: &str) {
    let health_check = web.contained("", "weft exec --started --wait 20s");
    machines.done(web.machine, &health_check);
    let take = "import socket, time; taken = socket.create_server(('0.0.0.0', 6379)); time.sleep(600)";
    machines.done(web.machine, &format!("setsid python3 -c \"{take}\" > $RUN/taker.log 2>&1 < /dev/null &"));
    eventually("the port to be taken", SETTLED * PROMISE_FACTOR, || {
        machines.run(web.machine, "exec 3<>/dev/tcp/127.0.0.1/6379").status.success().then_some(())
    });
    let cache = json!({"Node": "cache-1", "Address": "10.0.77.21", "Service": {"Service": "cache", "Port": 6379}});
    let put = "curl -sf -X PUT -H \"X-Consul-Token: $WEFT_HTTP_TOKEN\" http://127.0.0.1:8500/v1/catalog";
    machines.done("s1", &format!("{put}/register --data '{cache}'"));
    let missing = eventually("the agent to name the port", SETTLED * PROMISE_FACTOR, || {
        let missing = machines.done(web.machine, "curl -s http://127.0.0.1:19000/ready");
        // And nothing else, once the listeners have followed.
        (missing.contains("cannot listen on 127.64.") && missing.lines().count() == 1).then_some(missing)
    });
    assert!(missing.contains(":6379, where `default/web` calls `default/cache`"), "{missing}");
    machines.done(web.machine, &health_check);
    assert_eq!(machines.done(web.machine, &format!("curl -sf --max-time 5 {api}/")), "served by api");
    machines.done("s1", &format!("{put}/deregister --data '{{\"Node\": \"cache-1\"}}'"));
    web.is_ready(machines);
}

/// Nobody says that a task was killed: it is not heard any more.
fn killed_it_is_called_no_more(machines: &Machines, task: &Task<'_>) {
    let called = || {
        let ask = format!(
            "curl -sf -H \"X-Consul-Token: $WEFT_HTTP_TOKEN\" 'http://127.0.0.1:8500/v1/health/service/{}?passing'",
            task.family
        );
        let found: Value = serde_json::from_str(&machines.done("s1", &ask)).unwrap();
        found.as_array().unwrap().len()
    };
    eventually("the task to be called", SETTLED * PROMISE_FACTOR, || (called() == 1).then_some(()));
    machines.done(task.machine, "kill -9 $(cat $RUN/agent.pid)");
    eventually("the task to be called no more", GRACE * PROMISE_FACTOR, || (called() == 0).then_some(()));
}

/// A container that is not well keeps the task from being called; one whose task is to stop, for good.
fn as_well_as_its_containers(machines: &Machines, api: &Task<'_>) {
    let eventually_is = |id: &str, want: &str| {
        eventually(&format!("{id} to be {want}"), SETTLED * PROMISE_FACTOR, || {
            instance(machines, "api").filter(|found| check(found, id).as_deref() == Some(want))
        })
    };
    api.shows(machines, "RUNNING", "UNHEALTHY");
    eventually_is("_platform:app", "critical");
    api.shows(machines, "STOPPED", "HEALTHY");
    eventually_is("_platform_ending", "critical");
    api.shows(machines, "RUNNING", "HEALTHY");
    let found = eventually_is("_platform:app", "passing");
    assert_eq!(check(&found, "_platform_ending").as_deref(), Some("critical"));
}
