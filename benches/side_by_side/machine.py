"""Processes, and what they cost."""

import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
OUTPUT = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "side_by_side"
RUN = OUTPUT / "run"
CERTS = OUTPUT / "certs"
RESULTS = OUTPUT / "results"


def prepare():
    """Makes the folders and certificates, and lifts the limit on open files."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(parents=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    subprocess.run(["bash", str(HERE / "certs.sh"), str(CERTS)], check=True)


def write(name, text):
    """Writes a file of the run and returns its path."""
    path = RUN / name
    path.write_text(text)
    return str(path)


def spawn(arguments, tag, **environment):
    """Starts a process whose output goes to a log of that tag."""
    with open(RUN / f"{tag}.log", "wb") as log:
        return subprocess.Popen(
            arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
        )


def is_served(port):
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


def wait_for(what, is_so, seconds=30):
    """Waits until something is so, or fails by its name."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds} s for {what}; the logs are in {RUN}")
        time.sleep(0.1)


def assert_free(port):
    """Envoy listens with SO_REUSEPORT: an instance left over would take half of the connections and hide their cost."""
    if is_served(port):
        raise RuntimeError(f"another process serves port {port}; stop it first (ss -lntp)")


def processor_seconds(pid):
    """Returns the processor time of a process with all its threads, ended ones too; raises if the process is gone."""
    return time.clock_gettime(((~pid) << 3) | 2)


class Pair:
    """The processes whose cost is measured, and those that only have to be there."""

    def __init__(self, port, counted, others=()):
        self.port = port
        self.counted = list(counted)
        self.others = list(others)

    def pids(self):
        """Returns the counted processes with all that they started."""
        found, todo = [], [process.pid for process in self.counted]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    todo += [int(child) for child in children.read_text().split()]
                except OSError:
                    pass
        return found

    def processor_seconds(self):
        return sum(processor_seconds(pid) for pid in self.pids())

    def memory_kib(self):
        """Returns the proportional set size of the counted processes."""
        total = 0
        for pid in self.pids():
            for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total

    def stop(self):
        for process in self.counted + self.others:
            process.send_signal(signal.SIGTERM)
        for process in self.counted + self.others:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
