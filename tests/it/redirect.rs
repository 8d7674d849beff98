//! Connections that the kernel leads to an agent: whose, which, where to, and that nothing is left over.

use std::time::Duration;

use crate::harness::{Machines, eventually, tool};

const ADDRESS: &str = "10.80.0.1";
const OTHER: &str = "10.80.0.2";
/// How long a program may take to listen.
const STARTED: Duration = Duration::from_secs(20);

/// Stands where an agent would: says which address a connection was meant for.
const TAKER: &str = "
import socket, socketserver, struct, sys
class Taker(socketserver.BaseRequestHandler):
    def handle(self):
        if self.server.address_family == socket.AF_INET:
            _, port, address = struct.unpack('!HH4s8x', self.request.getsockopt(0, 80, 16))
            meant = socket.inet_ntop(socket.AF_INET, address)
        else:
            _, port, _, address = struct.unpack('!HHI16s4x', self.request.getsockopt(41, 80, 28))
            meant = socket.inet_ntop(socket.AF_INET6, address)
        self.request.sendall(f'{meant} {port}'.encode())
class V4(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
class V6(V4):
    address_family = socket.AF_INET6
host, port = sys.argv[1], int(sys.argv[2])
(V6 if ':' in host else V4)((host, port), Taker).serve_forever()
";

/// Calls an address as a user, and prints what it hears.
const CALL: &str = "
import os, socket, sys
os.setuid(int(sys.argv[1]))
try:
    with socket.create_connection((sys.argv[2], int(sys.argv[3])), 10) as call:
        print(call.recv(100).decode())
except ConnectionRefusedError:
    print('refused')
except OSError:
    print('nobody')
";

#[test]
fn what_users_call_goes_to_their_agent_and_nothing_else_does() {
    let test = "what_users_call_goes_to_their_agent_and_nothing_else_does";
    if ["ip", "unshare", "nsenter", "python3", "nft"].iter().any(|name| tool(name, test).is_none()) {
        return;
    }
    let machines = Machines::boot(&[("m1", ADDRESS), ("m2", OTHER)]);
    machines.write("m1", "/root/taker.py", TAKER);
    for (number, name) in (1..).zip(["m1", "m2"]) {
        machines.write(name, "/root/call.py", CALL);
        let networks =
            format!("ip -6 address add fd00:80::{number}/64 dev eth0 nodad\nip -6 route add default dev eth0");
        machines.done(name, &format!("ip route add default dev eth0\n{networks}"));
    }
    for (host, port) in [("127.0.0.1", 15_101), ("::1", 15_101), ("127.0.0.1", 15_110), ("0.0.0.0", 20_000)] {
        let start = format!("setsid python3 /root/taker.py {host} {port} > /dev/null 2>&1 < /dev/null &");
        machines.done("m1", &start);
        let place = if host.contains(':') { format!("[{host}]:{port} ") } else { format!("{host}:{port} ") };
        eventually(&format!("{place}to be taken"), STARTED, || {
            machines.run("m1", &format!("ss -ltn | grep -qF '{place}'")).status.success().then_some(())
        });
    }
    let call = |from: &str, user: u32, address: &str, port: u16| {
        machines.done(from, &format!("python3 /root/call.py {user} {address} {port}"))
    };

    // Nothing yet; and whoever may not change rules is told what that takes.
    let none = machines.run("m1", "weft redirect show");
    assert_eq!((none.status.code(), String::from_utf8_lossy(&none.stderr).trim()), (Some(1), "nothing is redirected"));
    let refused = machines.run("m1", "setpriv --reuid 1500 --clear-groups weft redirect apply --service web=1500");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && told.contains("NET_ADMIN"), "{told}");

    // A machine: the mesh's addresses, of these users.
    let on_a_machine = "weft redirect apply --service web=1500 --service batch=1501:15110 --inbound-port 8080";
    for _ in 0..2 {
        assert_eq!(machines.done("m1", on_a_machine), "Redirected.");
    }
    let rules = machines.done("m1", "weft redirect show");
    assert_eq!(rules.matches("redirect to :15101").count(), 2, "applied twice, there once: {rules}");
    assert!(machines.done("m1", "weft redirect show --output json").contains("\"nftables\""));
    assert_eq!(call("m1", 1500, "240.0.0.7", 80), "240.0.0.7 80");
    assert_eq!(call("m1", 1500, "fd77:6566:7400::7", 443), "fd77:6566:7400::7 443");
    assert_eq!(call("m1", 1501, "240.0.0.9", 5432), "240.0.0.9 5432");
    for virtual_address in ["240.0.0.7", "fd77:6566:7400::7"] {
        assert_eq!(call("m1", 1502, virtual_address, 80), "refused", "somebody else's never leaves the machine");
    }
    assert_eq!(call("m1", 0, "240.63.255.255", 8080), "240.63.255.255 8080", "so it is seen that the port is led away");
    assert_eq!(call("m1", 0, "240.63.255.255", 8081), "refused");
    assert!(rules.contains("leads nowhere but into the mesh"), "{rules}");
    assert_eq!(call("m1", 1500, "127.0.0.1", 20_000), "127.0.0.1 20000", "and to nobody else");
    assert_eq!(
        call("m2", 1500, ADDRESS, 8080),
        format!("{ADDRESS} 8080"),
        "who calls the application's port meets the agent"
    );
    assert_eq!(call("m2", 1500, ADDRESS, 8081), "refused");

    // What is refused changes nothing.
    let refused = machines.run("m1", "weft redirect apply --service web=nobody-of-this-name");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && told.contains("nothing was changed"), "{told}");
    let refused = machines.run("m1", "weft redirect apply --service web=1500 --service api=1500");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && told.contains("would be one caller"), "{told}");
    assert_eq!(machines.done("m1", "weft redirect show"), rules);

    // A pod: everything but what its agent does, and what is left out.
    let in_a_pod = "weft redirect apply --all --agent-uid 5995 --exclude-inbound-port 15110 --exclude-outbound-port 8443 \
                    --exclude-outbound-cidr 10.80.0.0/24 --exclude-uid 1501";
    assert_eq!(machines.done("m1", in_a_pod), "Redirected.");
    assert_eq!(call("m1", 1500, "192.0.2.1", 80), "192.0.2.1 80");
    for (user, address, port, told) in [
        (1500, OTHER, 80, "refused"),
        (1500, "192.0.2.1", 8443, "nobody"),
        (1501, "240.0.0.7", 80, "refused"),
        (5995, "240.0.0.7", 80, "refused"),
    ] {
        assert_eq!(call("m1", user, address, port), told, "{user} to {address}:{port} is left alone");
    }
    assert_eq!(call("m1", 5995, "240.63.255.255", 9999), "240.63.255.255 9999");
    assert_eq!(call("m2", 0, ADDRESS, 9999), format!("{ADDRESS} 9999"), "whatever arrives");
    assert_eq!(call("m2", 0, ADDRESS, 15_110), "refused", "but for what is left out");

    for _ in 0..2 {
        machines.done("m1", "weft redirect remove");
    }
    assert_eq!(machines.done("m1", "nft list ruleset"), "", "nothing is left over");
    assert_eq!(call("m1", 1500, "240.0.0.7", 80), "nobody");
}
