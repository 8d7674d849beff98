"""What stands behind every pair: nginx with a body of 1 KiB, and an iperf3 server."""

from machine import RUN, Pair, assert_free, is_served, spawn, wait_for, write

HTTP = 9000
HTTP2 = 9001
BULK = 9002


def port_of(mode):
    """Returns the port behind a pair of that mode."""
    return {"h2": HTTP2, "bulk": BULK}.get(mode, HTTP)


def start():
    """Starts them; only nginx is counted."""
    for port in (HTTP, HTTP2, BULK):
        assert_free(port)
    temporary = " ".join(
        f"{kind}_temp_path {RUN}/backend-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = write(
        "backend.conf",
        f"""
daemon off; worker_processes 1; pid {RUN}/backend.pid; error_log {RUN}/backend.err warn;
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s; tcp_nodelay on; {temporary}
  server {{ listen 127.0.0.1:{HTTP} backlog=4096; location / {{ return 200 "{'x' * 1024}"; }} }}
  server {{
    listen 127.0.0.1:{HTTP2} http2 backlog=4096; http2_max_concurrent_streams 1024;
    location / {{ return 200 "{'x' * 1024}"; }}
  }}
}}
""",
    )
    nginx = spawn(["nginx", "-p", str(RUN), "-c", configuration], "backend")
    iperf = spawn(["iperf3", "-s", "-B", "127.0.0.1", "-p", str(BULK)], "iperf3")
    pair = Pair(HTTP, [nginx], [iperf])
    try:
        for port in (HTTP, HTTP2):
            wait_for(f"nginx on port {port}", lambda port=port: is_served(port))
    except Exception:
        pair.stop()
        raise
    return pair
