"""Starts the two processes of a proxy that is configured by files."""

from machine import Pair, assert_free, is_served, spawn, wait_for


def start_two(name, base, near, far):
    """Starts the far proxy on port `base + 1` and the near one on `base`."""
    assert_free(base)
    assert_free(base + 1)
    pair = Pair(base, [spawn(far, f"{name}.b"), spawn(near, f"{name}.a")])
    try:
        for port in (base + 1, base):
            wait_for(f"{name} on port {port}", lambda port=port: is_served(port))
    except Exception:
        pair.stop()
        raise
    return pair
