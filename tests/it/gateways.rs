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

#[test]
fn c14_a_call_goes_through_a_gateway_between_two_networks_and_is_cut_when_its_caller_is_revoked() {
    let needed = ["ip", "unshare", "nsenter", "python3", "curl"];
    if needed.iter().any(|name| tool(name, TEST).is_none()) {
        return;
    }
    let named = [("s1", SERVER), ("web-1", WEB), ("gw-1", GATEWAY), ("api-1", API)];
    let machines = Machines::boot(&named);
    // Neither of the two knows a way to the other.
    machines.done("web-1", &format!("ip route add blackhole {API}/32"));
    machines.done("api-1", &format!("ip route add blackhole {WEB}/32"));

    machines.found(SERVER);

    machines.write("api-1", "/root/echo.py", ECHO);
    machines.done("api-1", "setsid python3 /root/echo.py > $RUN/echo.log 2>&1 < /dev/null &");
    let service = |name: &str, rest: &str| format!("service {{\n  name = \"{name}\"\n  {rest}\n}}");
    machines.write("api-1", "/etc/weft/api.hcl", &service("api", "port = 7000\n  connect { sidecar_service {} }"));
    let upstreams = "port = 7001\n  connect { sidecar_service { proxy { upstreams = [{ destination_name = \"api\", local_bind_port = 9191 }] } } }";
    machines.write("web-1", "/etc/weft/web.hcl", &service("web", upstreams));
    machines.write("web-1", "/root/call.py", CALL);
    machines.done("s1", "weft intention create --allow web api");
    machines.join("api-1", SERVER, "--service api", "--network aws");
    machines.join("web-1", SERVER, "--service web", "");
    let call = || machines.run("web-1", "python3 /root/call.py").status.success();
    assert!(!call(), "nothing leads there yet");

    machines.join("gw-1", SERVER, "--gateway --network aws", "--gateway --network aws");
    eventually("the call to go through the gateway", SETTLED * PROMISE_FACTOR, || call().then_some(()));
    let counted = "curl -sf http://127.0.0.1:19000/metrics | grep 'connections_opened_total{direction=\"gateway\"}'";
    assert!(!machines.done("gw-1", counted).ends_with(" 0"));

    let hold = "setsid sh -c 'python3 /root/call.py hold; echo cut' > $RUN/held.log 2>&1 < /dev/null &";
    machines.done("web-1", hold);
    let said = |word: &str| machines.run("web-1", &format!("grep -q {word} $RUN/held.log")).status.success();
    eventually("the call to be answered", SETTLED * PROMISE_FACTOR, || said("pong").then_some(()));
    assert!(!said("cut"));
    machines.done("s1", "weft revoke agent web-1");
    eventually("the held call to be cut", SETTLED * PROMISE_FACTOR, || said("cut").then_some(()));
    assert!(!call(), "and nothing new is opened");
}
