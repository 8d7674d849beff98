"""HAProxy, by configuration files."""

from machine import CERTS, write

from .pair import start_two


def start(name, base, mode, backend):
    is_http, h2 = mode in ("http", "h2"), mode == "h2"
    head = f"""
global
  nbthread 1
  maxconn 4000
  tune.ssl.default-dh-param 2048
  ssl-server-verify required
defaults
  mode {"http" if is_http else "tcp"}
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  {"http-reuse always" if is_http else "option splice-auto"}
"""
    protocol, alpn = (" proto h2", " alpn h2") if h2 else ("", "")
    near = f"""{head}
frontend f
  bind 127.0.0.1:{base}{protocol}
  default_backend u
backend u
  server s 127.0.0.1:{base + 1} ssl crt {CERTS}/client.pem ca-file {CERTS}/ca.crt verify required \
sni str(server.bench.test) no-ssl-reuse ssl-min-ver TLSv1.3{alpn} pool-max-conn 1024
"""
    refusal = "http-request deny" if is_http else "tcp-request content reject"
    far = f"""{head}
frontend f
  bind 127.0.0.1:{base + 1} ssl crt {CERTS}/server.pem ca-file {CERTS}/ca.crt verify required no-tls-tickets \
ssl-min-ver TLSv1.3{alpn}
  {refusal} unless {{ ssl_c_s_dn(CN) client }}
  default_backend u
backend u
  server s 127.0.0.1:{backend}{protocol} pool-max-conn 1024
"""
    command = lambda suffix, text: ["haproxy", "-db", "-f", write(f"{name}.{suffix}.cfg", text)]
    return start_two(name, base, command("a", near), command("b", far))
