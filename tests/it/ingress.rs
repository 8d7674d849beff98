//! A load balancer outside the mesh, its client, and the service that it leads to, each on a machine of its own.

use std::time::Duration;

use crate::harness::{Machines, PROMISE_FACTOR, eventually, tool};

const TEST: &str = "ingress";
/// What is written is in force everywhere within this time.
const SETTLED: Duration = Duration::from_secs(2);

const SERVER: &str = "10.79.0.1";
const WEB: &str = "10.79.0.11";
const BALANCER: &str = "10.79.0.21";
const CLIENT: &str = "10.79.0.31";

/// An application on loopback that says what it was asked.
const APPLICATION: &str = "
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        told = json.dumps({name.lower(): value for name, value in self.headers.items()} | {'path': self.path}).encode()
        self.send_response(200)
        self.send_header('content-length', str(len(told)))
        self.end_headers()
        self.wfile.write(told)
http.server.ThreadingHTTPServer(('127.0.0.1', 7000), Handler).serve_forever()
";

/// A real nginx, as a load balancer is told.
const NGINX: &str = "
daemon off;
pid /root/nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path /root/nginx-body;
  proxy_temp_path /root/nginx-proxy;
  fastcgi_temp_path /root/nginx-fastcgi;
  uwsgi_temp_path /root/nginx-uwsgi;
  scgi_temp_path /root/nginx-scgi;
  upstream web { server 10.79.0.11:8080; keepalive 4; }
  server {
    listen 80;
    location / {
      proxy_pass http://web;
      proxy_http_version 1.1;
      proxy_set_header Connection '';
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }
  }
}
";

const INGRESS: &str = "
service {
  name = \"web\"
  port = 7000
}
ingress {
  name               = \"public\"
  service            = \"web\"
  port               = 8080
  from               = [\"10.79.0.21\"]
  forwarded_from     = [\"10.79.0.21\"]
  health_check_paths = [\"/healthz\"]
}
";

/// Starts a server that leads, and an agent beside the application.
fn start(machines: &Machines) {
    machines.found(SERVER);
    machines.write("s1", "/root/web.hcl", "kind = \"service-defaults\"\nname = \"web\"\nprotocol = \"http\"");
    machines.done("s1", "weft config write /root/web.hcl");
    machines.write("web-1", "/root/application.py", APPLICATION);
    machines.done("web-1", "setsid python3 /root/application.py > $RUN/application.log 2>&1 < /dev/null &");
    machines.write("web-1", "/etc/weft/web.hcl", INGRESS);
    machines.join("web-1", SERVER, "--service web", "");
    machines.write("lb-1", "/root/nginx.conf", NGINX);
    machines.done("lb-1", "setsid nginx -c /root/nginx.conf -p /root > $RUN/nginx.log 2>&1 < /dev/null &");
}

#[test]
fn h3_a_load_balancer_brings_what_an_intention_allows_and_others_bring_nothing() {
    let needed = ["ip", "unshare", "nsenter", "python3", "curl", "nginx"];
    if needed.iter().any(|name| tool(name, TEST).is_none()) {
        return;
    }
    let machines = Machines::boot(&[("s1", SERVER), ("web-1", WEB), ("lb-1", BALANCER), ("client-1", CLIENT)]);
    start(&machines);
    let status = |name: &str, more: &str| {
        let output = machines.run(name, &format!("curl -s -m 5 -o /root/answer -w '%{{http_code}}' {more}"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let through =
        format!("-H 'x-forwarded-for: 192.0.2.9' -H 'x-forwarded-client-cert: URI=spiffe://x/y' http://{BALANCER}/");
    eventually("the application to be found well", SETTLED * PROMISE_FACTOR, || {
        (status("lb-1", &format!("http://{WEB}:8080/healthz")) == "200").then_some(())
    });
    let refused = eventually("the load balancer to stand", SETTLED * PROMISE_FACTOR, || {
        Some(status("client-1", &through)).filter(|status| status != "000")
    });
    assert_eq!(refused, "403", "nobody said that the load balancer may");
    assert!(machines.done("client-1", "cat /root/answer").contains("default_deny"));

    machines.done("s1", "weft intention create --allow ingress/public web");
    eventually("the load balancer to be let in", SETTLED * PROMISE_FACTOR, || {
        (status("client-1", &through) == "200").then_some(())
    });
    let told: serde_json::Value = serde_json::from_str(&machines.done("client-1", "cat /root/answer")).unwrap();
    assert_eq!(told["x-forwarded-for"], CLIENT, "what the client said of others counts for nothing");
    assert_eq!(told.get("x-forwarded-client-cert"), None);
    assert_eq!(status("client-1", &format!("http://{WEB}:8080/healthz")), "000", "it is no load balancer");
    let explained = machines.done("s1", "weft intention check ingress/public web");
    assert!(explained.contains("Allowed"), "{explained}");

    machines.done("s1", "weft intention delete ingress/public web");
    eventually("the load balancer to be shut out", SETTLED * PROMISE_FACTOR, || {
        (status("client-1", &through) == "403").then_some(())
    });
    let counted = "curl -sf http://127.0.0.1:19000/metrics | grep 'reason=\"foreign_address\"'";
    assert!(!machines.done("web-1", counted).ends_with(" 0"));
}
