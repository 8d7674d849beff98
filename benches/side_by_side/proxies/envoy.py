"""Envoy, by static configuration in JSON; with statistics and an access log unless it is to be bare."""

import json
import os
import shutil

from machine import CERTS, RUN, write

from .pair import start_two

CLIENT_ID = "spiffe://bench.test/ns/default/sa/web"
SERVER_ID = "spiffe://bench.test/ns/default/sa/api"
EXTENSIONS = "type.googleapis.com/envoy.extensions"
ENVOY = os.environ.get("ENVOY") or shutil.which("envoy") or "envoy"


def start(name, base, mode, backend, bare=False):
    is_http, h2 = mode in ("http", "h2"), mode == "h2"
    near = _configuration(
        f"{name}.a", _listener(f"{name}.a", base, is_http, h2, False, bare), _cluster(base + 1, is_http, h2, True), bare
    )
    far = _configuration(
        f"{name}.b", _listener(f"{name}.b", base + 1, is_http, h2, True, bare), _cluster(backend, is_http, h2, False), bare
    )
    command = lambda path, id: [
        ENVOY, "-c", path, "--concurrency", "1", "-l", "error", "--disable-hot-restart", "--base-id", str(base + id)
    ]
    return start_two(name, base, command(near, 0), command(far, 1))


def _typed(kind, **fields):
    return {"@type": f"{EXTENSIONS}.{kind}", **fields}


def _configuration(name, listener, cluster, bare):
    configuration = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    if bare:
        configuration["stats_config"] = {"stats_matcher": {"reject_all": True}}
    return write(f"{name}.json", json.dumps(configuration, indent=1))


def _file(name):
    return {"filename": str(CERTS / name)}


def _tls(side, h2, **validation):
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": _file(f"{side}.crt"), "private_key": _file(f"{side}.key")}],
        "validation_context": {"trusted_ca": _file("ca.crt"), **validation},
        **({"alpn_protocols": ["h2"]} if h2 else {}),
    }


def _cluster(port, is_http, h2, tls):
    protocol = {"http2_protocol_options": {"max_concurrent_streams": 1024}} if h2 else {"http_protocol_options": {}}
    thresholds = {"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    cluster = {
        "name": "up",
        "connect_timeout": "5s",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [thresholds]},
        "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
    }
    if is_http:
        options = _typed("upstreams.http.v3.HttpProtocolOptions", explicit_http_config=protocol)
        cluster["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
    if tls:
        expected = [{"san_type": "URI", "matcher": {"exact": SERVER_ID}}]
        context = _tls("client", is_http and h2, match_typed_subject_alt_names=expected)
        config = _typed("transport_sockets.tls.v3.UpstreamTlsContext", max_session_keys=0, common_tls_context=context)
        cluster["transport_socket"] = {"name": "tls", "typed_config": config}
    return cluster


def _access_log(name, is_http):
    fields = {"start": "%START_TIME%", "duration": "%DURATION%", "sent": "%BYTES_SENT%", "peer": "%DOWNSTREAM_PEER_URI_SAN%"}
    if is_http:
        fields |= {"method": "%REQ(:METHOD)%", "path": "%REQ(:PATH)%", "status": "%RESPONSE_CODE%"}
    log = _typed("access_loggers.file.v3.FileAccessLog", path=str(RUN / f"{name}.access"), log_format={"json_format": fields})
    return [{"name": "file", "typed_config": log}]


def _listener(name, port, is_http, h2, far, bare):
    log = {} if bare else {"access_log": _access_log(name, is_http)}
    principal = {"authenticated": {"principal_name": {"exact": CLIENT_ID}}}
    rules = {"action": "ALLOW", "policies": {"web": {"permissions": [{"any": True}], "principals": [principal]}}}
    if is_http:
        rbac = {"name": "rbac", "typed_config": _typed("filters.http.rbac.v3.RBAC", rules=rules)}
        router = {"name": "router", "typed_config": _typed("filters.http.router.v3.Router")}
        route = {"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "15s"}}
        manager = _typed(
            "filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="h",
            codec_type="HTTP2" if h2 else "HTTP1",
            route_config={"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
            http_filters=[rbac, router] if far else [router],
            **log,
        )
        filters = [{"name": "http", "typed_config": manager}]
    else:
        rbac = {"name": "rbac", "typed_config": _typed("filters.network.rbac.v3.RBAC", stat_prefix="r", rules=rules)}
        proxy = _typed("filters.network.tcp_proxy.v3.TcpProxy", stat_prefix="t", cluster="up", **log)
        tcp = {"name": "tcp", "typed_config": proxy}
        filters = [rbac, tcp] if far else [tcp]
    chain = {"filters": filters}
    if far:
        context = _tls("server", is_http and h2)
        config = _typed(
            "transport_sockets.tls.v3.DownstreamTlsContext",
            require_client_certificate=True,
            disable_stateless_session_resumption=True,
            common_tls_context=context,
        )
        chain["transport_socket"] = {"name": "tls", "typed_config": config}
    return {
        "name": "l",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "tcp_backlog_size": 4096,
        "filter_chains": [chain],
    }
