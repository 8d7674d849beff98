//! A task of ECS on a machine: what Fargate gives it, and no more. A metadata endpoint, a role's credentials, no rights and
//! nothing to write to but what its volume is.

use serde_json::{Value, json};

use super::{Machines, PROMISE_FACTOR, eventually, platforms::ADMITTED};

/// The account that tasks and roles are of.
pub(crate) const ACCOUNT: &str = "123456789012";

/// Where the agent's volume is, for those that have one.
pub(crate) const VOLUME: &str = "/var/lib/weft/agent";

/// The user that the agent's container runs as, and its group.
const USER: &str = "65532";

/// Where the endpoint that answers is, on every task.
const ENDPOINT_ADDRESS: &str = "169.254.170.2";

/// Answers what is asked for from files.
const ENDPOINT: &str = r#"
import http.server, os, socketserver
class Endpoint(http.server.ThreadingHTTPServer):
    # Python's own asks name servers for the machine's name first.
    server_bind = socketserver.TCPServer.server_bind
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = "/etc/weft/fargate/" + self.path.strip("/").replace("/", "_")
        found = os.path.exists(path)
        self.send_response(200 if found else 404)
        self.send_header("content-type", "application/json")
        self.end_headers()
        if found:
            self.wfile.write(open(path, "rb").read())
Endpoint(("169.254.170.2", 80), Answer).serve_forever()
"#;

/// Is a task, and the machine that it is.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a> {
    pub(crate) machine: &'a str,
    pub(crate) address: &'a str,
    pub(crate) id: &'a str,
    pub(crate) family: &'a str,
    /// Where the Security Token Service is.
    pub(crate) sts: &'a str,
}

impl Task<'_> {
    fn container(&self, name: &str, health: Option<&str>) -> Value {
        let network = json!({"NetworkMode": "awsvpc", "IPv4Addresses": [self.address]});
        let mut container = json!({
            "DockerId": format!("{}-{name}", self.id), "Name": name, "DesiredStatus": "RUNNING", "KnownStatus": "RUNNING",
            "Networks": [network],
        });
        if let Some(status) = health {
            container["Health"] = json!({"status": status, "statusSince": "2026-11-21T08:00:00Z"});
        }
        container
    }

    /// Has the endpoint show the task so.
    pub(crate) fn shows(&self, machines: &Machines, desired: &str, health: &str) {
        let agent = self.container("weft-agent", None);
        let task = json!({
            "Cluster": format!("arn:aws:ecs:eu-west-1:{ACCOUNT}:cluster/shop"),
            "TaskARN": format!("arn:aws:ecs:eu-west-1:{ACCOUNT}:task/shop/{}", self.id),
            "Family": self.family, "Revision": "7", "DesiredStatus": desired, "KnownStatus": "RUNNING",
            "AvailabilityZone": "eu-west-1b", "LaunchType": "FARGATE",
            "Containers": [agent, self.container("app", Some(health))],
        });
        let at = format!("/etc/weft/fargate/v4_{}", self.id);
        machines.write(self.machine, &format!("{at}_task"), &task.to_string());
        machines.write(self.machine, &at, &agent.to_string());
    }

    /// Gives the task other credentials.
    pub(crate) fn is_given(&self, machines: &Machines, credentials: &Value) {
        machines.write(self.machine, "/etc/weft/fargate/v2_credentials", &credentials.to_string());
    }

    /// Gives the machine what a task has.
    #[track_caller]
    pub(crate) fn prepare(&self, machines: &Machines, credentials: &Value) {
        self.shows(machines, "RUNNING", "HEALTHY");
        self.is_given(machines, credentials);
        machines.write(self.machine, "/etc/weft/endpoint.py", ENDPOINT);
        // Containers may take low ports of a task's loopback.
        let own = format!(
            "ip address add {ENDPOINT_ADDRESS}/32 dev lo\necho 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start\n\
             mkdir -p {VOLUME}\nchown {USER}:{USER} {VOLUME}\n\
             setsid python3 /etc/weft/endpoint.py > $RUN/endpoint.log 2>&1 < /dev/null &"
        );
        machines.done(self.machine, &own);
        eventually("the task's endpoint", ADMITTED * PROMISE_FACTOR, || {
            let asked = machines.run(self.machine, &format!("exec 3<>/dev/tcp/{ENDPOINT_ADDRESS}/80"));
            asked.status.success().then_some(())
        });
    }

    /// Returns what runs something as a container of the task does: with the task's environment, as nobody in particular,
    /// without a right and with nothing to write to.
    pub(crate) fn contained(&self, config: &str, command: &str) -> String {
        format!(
            "env -i PATH=$PATH ECS_CONTAINER_METADATA_URI_V4=http://{ENDPOINT_ADDRESS}/v4/{} AWS_REGION=eu-west-1 \
             AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials AWS_ENDPOINT_URL_STS={} WEFT_CONFIG='{config}' \
             unshare --mount bash -ec 'mount -o remount,bind,ro /; exec setpriv --reuid={USER} --regid={USER} --clear-groups \
             --bounding-set=-all --inh-caps=-all --no-new-privs {command}'",
            self.id, self.sts
        )
    }

    /// Starts the agent's container, told `config`.
    #[track_caller]
    pub(crate) fn start_agent(&self, machines: &Machines, config: &str) {
        let agent = self.contained(config, "weft agent");
        let start = format!("setsid {agent} >> $RUN/agent.log 2>&1 < /dev/null & echo $! > $RUN/agent.pid");
        machines.done(self.machine, &start);
    }

    /// Waits until the agent says that it serves.
    #[track_caller]
    pub(crate) fn is_ready(&self, machines: &Machines) {
        eventually(&format!("{} to be ready", self.machine), ADMITTED * PROMISE_FACTOR, || {
            let asked = machines.run(self.machine, "curl -sf http://127.0.0.1:19000/ready");
            asked.status.success().then_some(())
        });
    }
}
