#!/usr/bin/env python3
"""Holds the meter of processor time against /proc for a proxy under bulk load: both columns should agree to a few percent."""

import os
import pathlib
import sys

import backend
import load
import proxies
from machine import prepare

TICKS = os.sysconf("SC_CLK_TCK")


def by_proc(pids):
    total = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def main():
    kind = sys.argv[1] if len(sys.argv) > 1 else "weft"
    prepare()
    direct = backend.start()
    try:
        pair = proxies.start(kind, "bulk", backend.port_of("bulk"))
        try:
            for _ in range(5):
                clock, proc = pair.processor_seconds(), by_proc(pair.pids())
                load.iperf(pair.port, 3)
                clock, proc = pair.processor_seconds() - clock, by_proc(pair.pids()) - proc
                print(f"{kind}: clock {clock:.2f} s, /proc {proc:.2f} s", flush=True)
        finally:
            pair.stop()
    finally:
        direct.stop()


if __name__ == "__main__":
    main()
