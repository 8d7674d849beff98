"""What a program does that was written for Consul, with py-consul as it is: the first part beside an agent, the second at a server."""

import os
import threading
import time

import consul
from consul import Check


def client(role):
    host, port = os.environ[role].split(":")
    return consul.Consul(host=host, port=int(port), token=os.environ["TOKEN"])


def eventually(what, ask):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = ask()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited for {what}")


def watched(agent, change):
    """Starts a blocking query on `api`, makes the change, and returns what the query woke up with."""
    index, _ = agent.health.service("api")
    woken = {}

    def watch():
        woken["index"], woken["entries"] = agent.health.service("api", index=index, wait="60s")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    change()
    thread.join(90)
    assert not thread.is_alive(), "the query does not end"
    assert int(woken["index"]) > int(index), (index, woken)
    return woken["entries"]


def registers(agent):
    assert agent.health.service("api")[1] == []
    assert agent.agent.service.register(
        "api",
        service_id="api-1",
        address="127.0.0.1",
        port=8080,
        tags=["v1", "blue"],
        meta={"owner": "payments"},
        weights={"Passing": 10, "Warning": 1},
        check=Check.ttl("60s"),
    )
    services = agent.agent.services()
    assert services["api-1"]["Service"] == "api" and services["api-1"]["Tags"] == ["v1", "blue"], services
    assert "service:api-1" in agent.agent.checks()
    # A TTL check is critical until somebody reports.
    _, entries = eventually("the catalog to have it", lambda: (lambda r: r if r[1] else None)(agent.health.service("api")))
    assert entries[0]["Service"]["Meta"]["owner"] == "payments", entries
    assert agent.health.service("api", passing=True)[1] == []


def watches(agent):
    entries = watched(agent, lambda: agent.agent.check.ttl_pass("service:api-1", notes="all is well"))
    (check,) = [check for check in entries[0]["Checks"] if check["CheckID"] == "service:api-1"]
    assert check["Status"] == "passing" and check["Output"] == "all is well", check
    assert len(agent.health.service("api", passing=True)[1]) == 1
    assert len(agent.health.service("api", tag="blue")[1]) == 1
    assert agent.health.service("api", tag="green")[1] == []
    entries = watched(agent, lambda: agent.agent.check.ttl_warn("service:api-1", notes="it is slow"))
    assert any(check["Status"] == "warning" for check in entries[0]["Checks"]), entries
    watched(agent, lambda: agent.agent.check.ttl_fail("service:api-1"))
    assert agent.health.service("api", passing=True)[1] == []
    agent.agent.check.ttl_pass("service:api-1")


def maintains(agent):
    eventually("it to pass", lambda: agent.health.service("api", passing=True)[1])
    assert agent.agent.service.maintenance("api-1", True, reason="moving house")
    eventually("maintenance", lambda: not agent.health.service("api", passing=True)[1])
    assert agent.agent.service.maintenance("api-1", False)
    eventually("it to pass again", lambda: agent.health.service("api", passing=True)[1])
    assert agent.agent.maintenance(True, reason="the kernel")
    eventually("maintenance of the node", lambda: not agent.health.service("api", passing=True)[1])
    assert agent.agent.maintenance(False)
    eventually("the node to be back", lambda: agent.health.service("api", passing=True)[1])


def reads(agent):
    index, services = agent.catalog.services()
    assert int(index) > 0 and sorted(services["api"]) == ["blue", "v1"], services
    _, instances = agent.catalog.service("api")
    assert instances[0]["ServicePort"] == 8080, instances
    _, nodes = agent.catalog.nodes()
    node = instances[0]["Node"]
    assert node in [known["Node"] for known in nodes], nodes
    _, known = agent.catalog.node(node)
    assert "api-1" in known["Services"], known
    _, checks = agent.health.node(node)
    assert "service:api-1" in [check["CheckID"] for check in checks], checks
    _, checks = agent.health.checks("api")
    assert checks, checks
    _, passing = agent.health.state("passing")
    assert "service:api-1" in [check["CheckID"] for check in passing], passing
    _, found = agent.health.service("api", filter_expr='Service.Meta.owner == "payments"')
    assert len(found) == 1, found
    assert agent.status.leader()


def reads_the_authority(agent):
    roots = agent.connect.ca.roots()
    active = [root for root in roots["Roots"] if root["Active"]]
    assert roots["TrustDomain"] and len(active) == 1 and "BEGIN CERTIFICATE" in active[0]["RootCert"], roots
    return active[0]["ID"]


def intends(agent):
    intentions = agent.connect.intentions
    assert not intentions.check("web", "api")
    assert intentions.upsert("web", "api", action="allow", description="the shop asks for prices")
    assert intentions.read("web", "api")["Action"] == "allow"
    eventually("the intention to be known here", lambda: intentions.check("web", "api"))
    assert [known["SourceName"] for known in intentions.list()] == ["web"]
    assert [known["SourceName"] for known in intentions.match("destination", "api")["api"]] == ["web"]
    assert intentions.delete("web", "api")
    assert intentions.list() == []


def leaves(agent):
    entries = watched(agent, lambda: agent.agent.service.deregister("api-1"))
    assert entries == [], entries


agent = client("AGENT")
registers(agent)
watches(agent)
maintains(agent)
reads(agent)
root = reads_the_authority(agent)
server = client("SERVER")
assert reads_the_authority(server) == root
entries = server.health.service("api")[1]
assert entries[0]["Service"]["ID"] == "api-1", entries
intends(agent)
intends(server)
leaves(agent)
print("done")
