"""One file per proxy: `start(name, base, mode, backend)` returns a `Pair` that listens in plaintext on port `base`.

`mode` is `http`, `h2`, `tcp` or `bulk`; `base` to `base + 19` are free; `backend` is the port to end at.
"""

from functools import partial

from . import envoy, haproxy, nginx, weft

KINDS = {
    "envoy": envoy.start,
    "envoy-bare": partial(envoy.start, bare=True),
    "haproxy": haproxy.start,
    "nginx": nginx.start,
    "weft": weft.start,
}
MODES = ["http", "h2", "tcp", "bulk"]


def speaks(kind, mode):
    """Reports whether a proxy can do it: nginx speaks no HTTP/2 to its upstreams."""
    return not (kind == "nginx" and mode == "h2")


def start(kind, mode, backend):
    base = 10000 + 200 * list(KINDS).index(kind) + 20 * MODES.index(mode)
    return KINDS[kind](f"{kind}-{mode}", base, mode, backend)
