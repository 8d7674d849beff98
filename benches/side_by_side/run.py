#!/usr/bin/env python3
"""Measures weft beside other proxies: every test direct and through each, in turn; prints medians and ratios."""

import argparse
import json
import statistics
import time

import backend
import load
import proxies
from machine import RESULTS, prepare

# Each test's mode of the pair, and its load.
TESTS = {
    "http": ("http", lambda port, options: load.wrk(port, 64, options.seconds)),
    "rate": ("http", lambda port, options: load.h2load(
        port, 32, 1, options.rate * options.seconds, rate=options.rate, http1=True)),
    "h2": ("h2", lambda port, options: load.h2load(port, 8, 32, options.h2_requests)),
    "tcp": ("tcp", lambda port, options: load.wrk(port, 64, options.seconds)),
    "conn": ("tcp", lambda port, options: load.wrk(port, 32, options.seconds, close=True)),
    "iperf": ("bulk", lambda port, options: load.iperf(port, options.seconds)),
}


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", default=",".join(proxies.KINDS), help="proxies, by comma [%(default)s]")
    parser.add_argument("--tests", default=",".join([*TESTS, "rss"]), help="tests, by comma [%(default)s]")
    parser.add_argument("--reps", type=int, default=5, help="repetitions, interleaved [%(default)s]")
    parser.add_argument("--seconds", type=int, default=4, help="length of one measurement [%(default)s]")
    parser.add_argument("--rate", type=int, default=3000, help="requests per second of the test `rate` [%(default)s]")
    parser.add_argument("--h2-requests", type=int, default=60000, help="requests of the test `h2` [%(default)s]")
    parser.add_argument("--hold", type=int, default=1000, help="connections that `rss` holds open [%(default)s]")
    options = parser.parse_args()
    for what, known in (("kinds", proxies.KINDS), ("tests", [*TESTS, "rss"])):
        chosen = getattr(options, what).split(",")
        unknown = [one for one in chosen if one not in known]
        if unknown:
            parser.error(f"--{what}: no {', '.join(unknown)}; there are {', '.join(known)}")
        setattr(options, what, chosen)
    return options


def measure(pair, once):
    """Runs a load and adds what the pair's processes cost."""
    before, started = pair.processor_seconds(), time.monotonic()
    result = once()
    cost, wall = pair.processor_seconds() - before, time.monotonic() - started
    if "requests" in result:
        result["per_second"] = result["requests"] / (result["duration_us"] / 1e6 or wall)
        result["cpu"] = 1e6 * cost / max(1, result["requests"])
    else:
        result["per_second"] = result["gbit_s"]
        result["cpu"] = cost / (result["bytes"] / 1e9)
    return result


def warm(port, mode):
    if mode == "h2":
        load.h2load(port, 4, 8, 3000)
    elif mode != "bulk":
        load.wrk(port, 8, 1)


def compare(test, options, direct, note):
    """Does one test through all proxies that can, and prints its table."""
    mode, run = TESTS[test]
    kinds = [kind for kind in options.kinds if proxies.speaks(kind, mode)]
    pairs, rows = {}, {kind: [] for kind in ["direct", *kinds]}
    try:
        for kind in kinds:
            pairs[kind] = proxies.start(kind, mode, backend.port_of(mode))
        for repetition in range(options.reps):
            for kind in rows:
                pair = pairs.get(kind, direct)
                port = pair.port if kind in pairs else backend.port_of(mode)
                if repetition == 0:
                    warm(port, mode)
                result = measure(pair, lambda: run(port, options))
                rows[kind].append(result)
                note(test=test, kind=kind, repetition=repetition, **result)
    finally:
        for pair in pairs.values():
            pair.stop()
    print_table(test, rows)


def print_table(test, rows):
    is_bulk = test == "iperf"
    unit, cost = ("Gbit/s", "CPU s/GB") if is_bulk else ("1/s", "CPU us")
    medians = {
        kind: {field: statistics.median(one[field] for one in results) for field in results[0]}
        for kind, results in rows.items()
    }
    envoy = medians.get("envoy")
    print(f"\n{test}: median of {len(rows['direct'])}; {cost} is of both proxies")
    print(f"{'':11}{unit:>10}{'to direct':>10}{cost:>10}{'to Envoy':>10}{'p50 us':>9}{'p99 us':>9}{'errors':>8}")
    for kind, median in medians.items():
        share = median["per_second"] / medians["direct"]["per_second"]
        line = f"{kind:11}{median['per_second']:10.1f}{share:10.2f}"
        if kind == "direct":
            line += f"{'':20}"
        else:
            line += f"{median['cpu']:10.2f}" + (f"{median['cpu'] / envoy['cpu']:10.2f}" if envoy else f"{'':10}")
        if not is_bulk:
            line += f"{median['p50']:9.0f}{median['p99']:9.0f}{median['errors']:8.0f}"
        print(line, flush=True)


def memory(options, note):
    """Prints what the pairs hold when idle and with connections open."""
    print(f"\nrss: PSS of both proxies; then with {options.hold} connections held")
    print(f"{'':17}{'idle MB':>10}{'held MB':>10}{'KB each':>10}")
    for mode in ("http", "tcp"):
        for kind in options.kinds:
            pair = proxies.start(kind, mode, backend.port_of(mode))
            try:
                time.sleep(1)  # Let it settle: what a process frees after its start is not what it holds.
                idle = pair.memory_kib()
                held = load.hold(pair.port, options.hold)
                full = pair.memory_kib()
                for connection in held:
                    connection.close()
            finally:
                pair.stop()
            each = (full - idle) / options.hold
            note(test=f"rss-{mode}", kind=kind, idle_kib=idle, held_kib=full)
            print(f"{mode:6}{kind:11}{idle / 1024:10.1f}{full / 1024:10.1f}{each:10.1f}", flush=True)


def main():
    options = parse()
    prepare()
    results = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    with open(results, "w") as file:
        note = lambda **fields: print(json.dumps(fields), file=file, flush=True)
        direct = backend.start()
        try:
            for test in options.tests:
                if test == "rss":
                    memory(options, note)
                else:
                    compare(test, options, direct, note)
        finally:
            direct.stop()
    print(f"\nevery measurement: {results}")


if __name__ == "__main__":
    main()
