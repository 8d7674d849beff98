//! Two tasks with what Fargate gives a task and no more: a metadata endpoint, a role's credentials, no rights and nothing to
//! write to. They log in without a secret, call each other by name, and are as well as their containers.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use crate::harness::{Machines, PROMISE_FACTOR, Process, eventually, python, tool};

const SERVER: &str = "10.0.77.1";
/// Where servers and agents mean the Security Token Service to be: on the server's own loopback.
const STS: &str = "http://127.0.0.1:5555";
const ACCOUNT: &str = "123456789012";
const ADMITTED: Duration = Duration::from_secs(6);
const SETTLED: Duration = Duration::from_secs(3);

/// Makes roles, lets each be assumed in a session, and prints the credentials. The stand-in verifies signatures after that.
const ROLES: &str = r#"
import boto3, json, sys
told = dict(endpoint_url="http://127.0.0.1:5555", region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x")
iam, sts = boto3.client("iam", **told), boto3.client("sts", **told)
trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
found = {}
for role, session in [pair.split("=") for pair in sys.argv[1:]]:
    iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))
    given = sts.assume_role(RoleArn=f"arn:aws:iam::123456789012:role/{role}", RoleSessionName=session)["Credentials"]
    found[session] = {"RoleArn": f"arn:aws:iam::123456789012:role/{role}", "AccessKeyId": given["AccessKeyId"],
        "SecretAccessKey": given["SecretAccessKey"], "Token": given["SessionToken"], "Expiration": "2099-01-01T00:00:00Z"}
print(json.dumps(found))
"#;

/// Answers what is asked for from files, as the endpoint at 169.254.170.2 does.
const ENDPOINT: &str = r#"
import http.server, os
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = "/etc/weft/fargate/" + self.path.strip("/").replace("/", "_")
        found = os.path.exists(path)
        self.send_response(200 if found else 404)
        self.send_header("content-type", "application/json")
        self.end_headers()
        if found:
            self.wfile.write(open(path, "rb").read())
http.server.ThreadingHTTPServer(("169.254.170.2", 80), Answer).serve_forever()
"#;

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

struct Task<'a> {
    machine: &'a str,
    address: &'a str,
    id: &'a str,
    family: &'a str,
}

impl Task<'_> {
    fn container(&self, name: &str, health: Option<&str>) -> Value {
        let mut container = json!({
            "DockerId": format!("{}-{name}", self.id), "Name": name, "DesiredStatus": "RUNNING", "KnownStatus": "RUNNING",
            "Networks": [{"NetworkMode": "awsvpc", "IPv4Addresses": [self.address], "IPv4SubnetCIDRBlock": "10.0.77.0/24"}],
        });
        if let Some(status) = health {
            container["Health"] = json!({"status": status, "statusSince": "2026-11-21T08:00:00Z"});
        }
        container
    }

    /// Has the endpoint show the task so.
    fn shows(&self, machines: &Machines, desired: &str, health: &str) {
        let agent = self.container("weft-agent", None);
        let task = json!({
            "Cluster": "arn:aws:ecs:eu-west-1:123456789012:cluster/shop",
            "TaskARN": format!("arn:aws:ecs:eu-west-1:{ACCOUNT}:task/shop/{}", self.id),
            "Family": self.family, "Revision": "7", "DesiredStatus": desired, "KnownStatus": "RUNNING",
            "AvailabilityZone": "eu-west-1b", "LaunchType": "FARGATE",
            "Containers": [agent, self.container("app", Some(health))],
        });
        let at = format!("/etc/weft/fargate/v4_{}", self.id);
        machines.write(self.machine, &format!("{at}_task"), &task.to_string());
        machines.write(self.machine, &at, &agent.to_string());
    }

    /// Gives the machine what a task has.
    fn prepare(&self, machines: &Machines, credentials: &Value) {
        self.shows(machines, "RUNNING", "HEALTHY");
        machines.write(self.machine, "/etc/weft/fargate/v2_credentials", &credentials.to_string());
        machines.write(self.machine, "/etc/weft/endpoint.py", ENDPOINT);
        let own = "ip address add 169.254.170.2/32 dev lo\necho 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start\n\
                   setsid python3 /etc/weft/endpoint.py > $RUN/endpoint.log 2>&1 < /dev/null &";
        machines.done(self.machine, own);
    }

    /// Runs something as a container of the task does: with the task's environment, as nobody in particular, without a right
    /// and with nothing to write to.
    fn contained(&self, config: &str, command: &str) -> String {
        format!(
            "env -i PATH=$PATH ECS_CONTAINER_METADATA_URI_V4=http://169.254.170.2/v4/{} AWS_REGION=eu-west-1 \
             AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials AWS_ENDPOINT_URL_STS={STS} WEFT_CONFIG='{config}' \
             unshare --mount bash -ec 'mount -o remount,bind,ro /; exec setpriv --reuid=5995 --regid=5995 --clear-groups \
             --bounding-set=-all --inh-caps=-all --no-new-privs {command}'",
            self.id
        )
    }

    fn start_agent(&self, machines: &Machines, root: &str, service: &Value) {
        let config = json!({
            "servers": [format!("{SERVER}:8300")], "auth_method": "aws", "root_fingerprints": [root],
            "forward_port": 15002, "service": service,
        });
        let agent = self.contained(&config.to_string(), "weft agent");
        machines.done(self.machine, &format!("setsid {agent} > $RUN/agent.log 2>&1 < /dev/null &"));
    }

    #[track_caller]
    fn is_ready(&self, machines: &Machines) {
        eventually(&format!("{} to be ready", self.machine), ADMITTED * PROMISE_FACTOR, || {
            let asked = machines.run(self.machine, "curl -sf http://127.0.0.1:19000/ready");
            asked.status.success().then_some(())
        });
    }
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
fn roles(machines: &Machines, python: &Path, logs: &Path, wanted: &[String]) -> (Process, Value) {
    // Six questions make the roles; then every signature is verified.
    let mut moto = machines.on_network_of("s1");
    moto.arg(python.with_file_name("moto_server")).args(["-H", "127.0.0.1", "-p", "5555"]);
    moto.env("INITIAL_NO_AUTH_ACTION_COUNT", "6");
    let moto = Process::start("moto", moto, logs);
    eventually("the stand-in to listen", Duration::from_secs(60), || {
        machines.run("s1", "exec 3<>/dev/tcp/127.0.0.1/5555").status.success().then_some(())
    });
    let mut roles = machines.on_network_of("s1");
    let made = roles.arg(python).args(["-c", ROLES]).args(wanted).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (moto, serde_json::from_slice(&made.stdout).unwrap())
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
    let Some(python) = python("moto", test).filter(|_| programs.iter().all(Option::is_some)) else { return };
    let web = Task { machine: "web", address: "10.0.77.11", id: "0a1b2c3d4e5f60718293a4b5c6d7e8f9", family: "web" };
    let api = Task { machine: "api", address: "10.0.77.12", id: "9f8e7d6c5b4a39281706f5e4d3c2b1a0", family: "api" };
    let machines = Machines::boot(&[("s1", SERVER), (web.machine, web.address), (api.machine, api.address)]);
    machines.found_with(SERVER, "--sts-on-loopback");

    let logs = tempfile::tempdir().unwrap();
    let wanted = [format!("web={}", web.id), format!("api={}", api.id), format!("other={}x", web.id)];
    let (_moto, credentials) = roles(&machines, &python, logs.path(), &wanted);
    let root = admit_roles(&machines);
    let root = root.as_str();

    api.prepare(&machines, &credentials[api.id]);
    machines.write(api.machine, "/etc/weft/application.py", APPLICATION);
    machines.done(api.machine, "setsid python3 /etc/weft/application.py > $RUN/app.log 2>&1 < /dev/null &");
    api.start_agent(&machines, root, &json!({"name": "api", "port": 8080}));
    api.is_ready(&machines);

    // A role that no rule and no method knows is nobody, and does not learn why.
    web.prepare(&machines, &credentials[format!("{}x", web.id)]);
    let calls_api = json!({"name": "web", "port": 9090, "proxy": {"upstreams": [{"destination_name": "api"}]}});
    web.start_agent(&machines, root, &calls_api);
    eventually("the stranger to be refused", ADMITTED * PROMISE_FACTOR, || {
        machines.logs(web.machine).contains("the login was not accepted").then_some(())
    });
    assert!(machines.logs("s1").contains("is not among BoundIAMPrincipalARNs"), "{}", machines.logs("s1"));
    machines.write(web.machine, "/etc/weft/fargate/v2_credentials", &credentials[web.id].to_string());
    web.start_agent(&machines, root, &calls_api);
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
    assert!(told.lines().any(|line| line.starts_with("WEFT_UPSTREAM_API_URL=http://127.64.")), "{told}");

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

    as_well_as_its_containers(&machines, &api);
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
