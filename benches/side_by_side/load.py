"""Load generators. Each returns what was done: requests or bytes, durations in microseconds, latencies in microseconds."""

import json
import re
import socket
import subprocess
import time

from machine import HERE, RUN


def run(arguments):
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(arguments)}` failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def wrk(port, connections, seconds, close=False):
    arguments = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(HERE / "wrk.lua")]
    if close:
        arguments += ["-H", "Connection: close"]
    output = run([*arguments, f"http://127.0.0.1:{port}/"])
    return json.loads(re.search(r"JSON(\{.*\})", output).group(1))


def h2load(port, connections, streams, requests, rate=None, http1=False):
    log = RUN / "h2load.log"
    log.unlink(missing_ok=True)
    arguments = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", "-n", str(requests), "--log-file", str(log)]
    if http1:
        arguments.append("--h1")
    if rate:
        arguments.append(f"--rps={rate / connections}")
    output = run([*arguments, f"http://127.0.0.1:{port}/"])
    succeeded = int(re.search(r"(\d+) succeeded", output).group(1))
    good = int(re.search(r"status codes: (\d+) 2xx", output).group(1))
    value, unit = re.search(r"finished in ([\d.]+)(us|ms|s)", output).groups()
    latencies = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines()) or [0]
    quantile = lambda share: latencies[min(len(latencies) - 1, int(share * len(latencies)))]
    return {
        "requests": good,
        "duration_us": float(value) * {"us": 1, "ms": 1e3, "s": 1e6}[unit],
        "p50": quantile(0.5),
        "p99": quantile(0.99),
        "p999": quantile(0.999),
        "max": latencies[-1],
        "errors": requests - min(good, succeeded),
    }


def iperf(port, seconds):
    # A server of one client at a time may still be closing the last test.
    for _ in range(5):
        output = subprocess.run(
            ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-t", str(seconds), "-J"], capture_output=True, text=True
        ).stdout
        end = json.loads(output).get("end", {})
        if "sum_received" in end:
            return {"bytes": end["sum_received"]["bytes"], "gbit_s": end["sum_received"]["bits_per_second"] / 1e9}
        time.sleep(1)
    raise RuntimeError(f"iperf3 through port {port} failed: {output[-500:]}")


def hold(port, count):
    """Opens connections that have had one answer, and returns them."""
    held = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: held\r\n\r\n")
        if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"no answer through port {port} with {len(held)} connections held")
        held.append(connection)
    return held
