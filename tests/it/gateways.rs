//! Two networks that do not reach one another, and the gateway between them.

use std::time::Duration;

use crate::harness::{Machines, PROMISE_FACTOR, eventually, tool};

const TEST: &str = "gateways";
/// What is revoked is refused everywhere within this time; so is what is registered called.
const SETTLED: Duration = Duration::from_secs(5);

const SERVER: &str = "10.78.0.1";
const WEB: &str = "10.78.0.11";
const GATEWAY: &str = "10.78.0.21";
const API: &str = "10.78.0.31";

const ECHO: &str = "
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(64):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(('127.0.0.1', 7000), Echo).serve_forever()
";

/// Calls once, or goes on calling over one connection and says when it is cut.
const CALL: &str = "
import socket, sys, time
with socket.create_connection(('127.0.0.1', 9191), 5) as call:
    while True:
        call.sendall(b'ping')
        if call.recv(64) != b'ping':
            sys.exit(1)
        print('pong', flush=True)
        if sys.argv[1:] != ['hold']:
            sys.exit(0)
        time.sleep(0.1)
";

/// Runs a script that must succeed; returns what it printed.
#[track_caller]
fn done(machines: &Machines, name: &str, script: &str) -> String {
    let output = machines.run(name, script);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "on {name}: {script}\n{said}\n{}", machines.logs(name));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Starts an agent that joins with a token, and waits until it is ready.
#[track_caller]
fn join(machines: &Machines, name: &str, entitled: &str, told: &str) {
    let token = done(machines, "s1", &format!("weft join-token create {entitled}"));
    machines.write(name, "/etc/weft/join-token", &token);
    let start = format!(
        "chmod 600 /etc/weft/join-token\n\
         setsid weft agent --node {name} --server {SERVER}:8300 --config /etc/weft --data-dir /var/lib/weft/agent \
         --join-token-file /etc/weft/join-token {told} > $RUN/agent.log 2>&1 < /dev/null &"
    );
    done(machines, name, &start);
    eventually(&format!("{name} to be ready"), SETTLED * PROMISE_FACTOR, || {
        machines.run(name, "curl -sf http://127.0.0.1:19000/ready").status.success().then_some(())
    });
}

#[test]
fn c14_a_call_goes_through_a_gateway_between_two_networks_and_is_cut_when_its_caller_is_revoked() {
    let needed = ["ip", "unshare", "nsenter", "python3", "curl"];
    if needed.iter().any(|name| tool(name, TEST).is_none()) {
        return;
    }
    let named = [("s1", SERVER), ("web-1", WEB), ("gw-1", GATEWAY), ("api-1", API)];
    let machines = Machines::boot(&named);
    // Neither of the two knows a way to the other.
    done(&machines, "web-1", &format!("ip route add blackhole {API}/32"));
    done(&machines, "api-1", &format!("ip route add blackhole {WEB}/32"));

    done(
        &machines,
        "s1",
        &format!(
            "weft keygen > /etc/weft/cluster.key && chmod 600 /etc/weft/cluster.key\n\
             setsid weft server --node s1 --bind {SERVER} --data-dir /var/lib/weft/server \
             --cluster-key-file /etc/weft/cluster.key > $RUN/server.log 2>&1 < /dev/null &"
        ),
    );
    eventually("the server to lead", SETTLED * PROMISE_FACTOR, || {
        let bootstrap = "WEFT_HTTP_TOKEN=$(weft acl bootstrap --cluster-key-file /etc/weft/cluster.key --output json \
                         | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"SecretID\"])')\n\
                         export WEFT_HTTP_TOKEN";
        machines.run("s1", bootstrap).status.success().then_some(())
    });

    machines.write("api-1", "/root/echo.py", ECHO);
    done(&machines, "api-1", "setsid python3 /root/echo.py > $RUN/echo.log 2>&1 < /dev/null &");
    let service = |name: &str, rest: &str| format!("service {{\n  name = \"{name}\"\n  {rest}\n}}");
    machines.write("api-1", "/etc/weft/api.hcl", &service("api", "port = 7000\n  connect { sidecar_service {} }"));
    let upstreams = "port = 7001\n  connect { sidecar_service { proxy { upstreams = [{ destination_name = \"api\", local_bind_port = 9191 }] } } }";
    machines.write("web-1", "/etc/weft/web.hcl", &service("web", upstreams));
    machines.write("web-1", "/root/call.py", CALL);
    done(&machines, "s1", "weft intention create --allow web api");
    join(&machines, "api-1", "--service api", "--network aws");
    join(&machines, "web-1", "--service web", "");
    let call = || machines.run("web-1", "python3 /root/call.py").status.success();
    assert!(!call(), "nothing leads there yet");

    join(&machines, "gw-1", "--gateway --network aws", "--gateway --network aws");
    eventually("the call to go through the gateway", SETTLED * PROMISE_FACTOR, || call().then_some(()));
    let counted = "curl -sf http://127.0.0.1:19000/metrics | grep 'connections_opened_total{direction=\"gateway\"}'";
    assert!(!done(&machines, "gw-1", counted).ends_with(" 0"));

    let hold = "setsid sh -c 'python3 /root/call.py hold; echo cut' > $RUN/held.log 2>&1 < /dev/null &";
    done(&machines, "web-1", hold);
    let said = |word: &str| machines.run("web-1", &format!("grep -q {word} $RUN/held.log")).status.success();
    eventually("the call to be answered", SETTLED * PROMISE_FACTOR, || said("pong").then_some(()));
    assert!(!said("cut"));
    done(&machines, "s1", "weft revoke agent web-1");
    eventually("the held call to be cut", SETTLED * PROMISE_FACTOR, || said("cut").then_some(()));
    assert!(!call(), "and nothing new is opened");
}
