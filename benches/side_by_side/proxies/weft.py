"""weft: one server, and two agents that have their identities from it. Only the agents are counted."""

import json
import os
import shutil
import socket
import subprocess

from machine import ROOT, RUN, Pair, assert_free, spawn, wait_for

WEFT = os.environ.get("WEFT") or str(ROOT / "target" / "release" / "weft")
PROTOCOLS = {"http": "http", "h2": "http2"}


def start(name, base, mode, backend):
    if not shutil.which(WEFT):
        raise RuntimeError(f"there is no `{WEFT}`: run `cargo build --release`, or name it in WEFT")
    ports = Ports(base)
    for port in range(base, base + 11):
        assert_free(port)
    home = RUN / name
    shutil.rmtree(home, ignore_errors=True)  # Two tests may want the same pair, one after the other.
    home.mkdir()
    server = _start_server(name, home, ports)
    agents = []
    try:
        weft = _bootstrap(home, ports)
        if mode in PROTOCOLS:
            entry = home / "api-defaults.json"
            entry.write_text(json.dumps({"Kind": "service-defaults", "Name": "api", "Protocol": PROTOCOLS[mode]}))
            weft("config", "write", str(entry))
        weft("intention", "create", "--allow", "web", "api")
        api = {"name": "api", "port": backend}
        upstream = {"destination_name": "api", "local_bind_port": base}
        web = {"name": "web", "port": base + 10, "connect": {"sidecar_service": {"proxy": {"upstreams": [upstream]}}}}
        agents.append(_start_agent(name, home, weft, ports, api, ports.api_agent))
        agents.append(_start_agent(name, home, weft, ports, web, ports.web_agent))
        pair = Pair(base, agents, [server])
        wait_for(f"a call through {name}", lambda: _is_answered(base))
    except Exception:
        Pair(base, agents, [server]).stop()
        raise
    return pair


class Ports:
    """Who listens where, from the first port of the pair: that is the upstream's."""

    def __init__(self, base):
        self.http, self.agents, self.raft = base + 1, base + 2, base + 3
        self.api_agent = (base + 4, base + 5, base + 6)
        self.web_agent = (base + 7, base + 8, base + 9)


def _start_server(name, home, ports):
    key = home / "cluster.key"
    with open(key, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        subprocess.run([WEFT, "keygen"], stdout=file, check=True)
    arguments = ["--node", "s1", "--bind", "127.0.0.1", "--bootstrap-expect", "1", "--cluster-key-file", str(key)]
    arguments += ["--http-port", str(ports.http), "--agent-port", str(ports.agents), "--raft-port", str(ports.raft)]
    return spawn([WEFT, "server", *arguments], f"{name}.server")


def _bootstrap(home, ports):
    """Makes the first token and returns how to run a command of weft with it."""
    environment = {**os.environ, "WEFT_HTTP_ADDR": f"127.0.0.1:{ports.http}"}

    def weft(*arguments, check=True):
        done = subprocess.run([WEFT, *arguments], capture_output=True, text=True, env=environment)
        if check and done.returncode != 0:
            raise RuntimeError(f"`weft {' '.join(arguments)}` failed: {done.stderr.strip()}")
        return done.stdout if done.returncode == 0 else None

    def has_token():
        answer = weft(
            "acl", "bootstrap", "--cluster-key-file", str(home / "cluster.key"), "--output", "json", check=False
        )
        if answer:
            environment["WEFT_HTTP_TOKEN"] = json.loads(answer)["SecretID"]
        return bool(answer)

    wait_for("the server to make the first token", has_token)
    return weft


def _start_agent(name, home, weft, ports, service, own):
    token = home / f"{service['name']}.token"
    answer = json.loads(weft("join-token", "create", "--service", service["name"], "--output", "json"))
    with open(token, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(answer["Token"])
    definition = home / f"{service['name']}.json"
    definition.write_text(json.dumps({"service": service}))
    arguments = ["--node", service["name"], "--bind", "127.0.0.1", "--server", f"127.0.0.1:{ports.agents}"]
    arguments += ["--join-token-file", str(token), "--config", str(definition)]
    for flag, port in zip(("--http-port", "--mesh-port", "--admin-port"), own):
        arguments += [flag, str(port)]
    # One thread for the data plane, as the others have.
    return spawn([WEFT, "agent", *arguments], f"{name}.{service['name']}", TOKIO_WORKER_THREADS="1")


def _is_answered(port):
    """Reports whether the upstream is carried to its end: a refused call is reset at once."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.settimeout(0.3)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
            try:
                return connection.recv(1) != b""
            except TimeoutError:
                # What speaks another protocol keeps its silence, but it is there.
                return True
    except OSError:
        return False
