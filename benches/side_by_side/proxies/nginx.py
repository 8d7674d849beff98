"""nginx, by configuration files."""

from machine import CERTS, RUN, write

from .pair import start_two

TO_FAR = f"""
    proxy_ssl_certificate {CERTS}/client.crt; proxy_ssl_certificate_key {CERTS}/client.key;
    proxy_ssl_trusted_certificate {CERTS}/ca.crt; proxy_ssl_verify on; proxy_ssl_name server.bench.test;
    proxy_ssl_session_reuse off; proxy_ssl_protocols TLSv1.3;"""
FROM_NEAR = f"""
    ssl_certificate {CERTS}/server.crt; ssl_certificate_key {CERTS}/server.key; ssl_client_certificate {CERTS}/ca.crt;
    ssl_verify_client on; ssl_protocols TLSv1.3; ssl_session_tickets off; ssl_session_cache off;"""
HTTP = """
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s; proxy_http_version 1.1;
  proxy_set_header Connection ""; proxy_buffer_size 8k;"""


def start(name, base, mode, backend):
    near, far = _http(name, base, backend) if mode == "http" else _stream(base, backend)
    return start_two(name, base, _command(name, "a", near), _command(name, "b", far))


def _command(name, suffix, text):
    head = f"""
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; worker_processes 1; pid {RUN}/{name}.{suffix}.pid; error_log {RUN}/{name}.{suffix}.err error;
events {{ worker_connections 20000; }}
"""
    return ["nginx", "-p", str(RUN), "-c", write(f"{name}.{suffix}.conf", head + text)]


def _temporary(name, suffix):
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{kind}_temp_path {RUN}/{name}-{suffix}-{kind};" for kind in kinds)


def _stream(base, backend):
    near = f"""
stream {{
  tcp_nodelay on;
  server {{ listen 127.0.0.1:{base} backlog=4096; proxy_ssl on; {TO_FAR} proxy_pass 127.0.0.1:{base + 1}; }}
}}
"""
    far = f"""
stream {{
  tcp_nodelay on;
  server {{ listen 127.0.0.1:{base + 1} ssl backlog=4096; {FROM_NEAR} proxy_pass 127.0.0.1:{backend}; }}
}}
"""
    return near, far


def _http(name, base, backend):
    near = f"""
http {{ {HTTP} {_temporary(name, "a")}
  upstream u {{ server 127.0.0.1:{base + 1}; keepalive 1024; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{base} backlog=4096; location / {{ {TO_FAR} proxy_pass https://u; }} }}
}}
"""
    far = f"""
http {{ {HTTP} {_temporary(name, "b")}
  upstream u {{ server 127.0.0.1:{backend}; keepalive 1024; keepalive_requests 100000000; }}
  map $ssl_client_s_dn $ok {{ default 0; CN=client 1; }}
  server {{
    listen 127.0.0.1:{base + 1} ssl backlog=4096; {FROM_NEAR}
    if ($ok = 0) {{ return 403; }}
    location / {{ proxy_pass http://u; }}
  }}
}}
"""
    return near, far
