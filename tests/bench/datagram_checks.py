"""``python -m tests.bench.datagram_checks``: what a datagram that no node has sent costs a lease daemon.

The cheap checks and the keyed hash take turns in one run; a share is the median of those of neighbouring rounds, and so
hardly depends on what else the machine does. It needs no root.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

from gateway_agent.lease.messages.keys import LOOKUP_INTERVAL_NS, MAC_BYTES, Key, Keyring
from gateway_agent.lease.messages.wire import MAX_DATAGRAM_BYTES, Endpoint

from . import report

SECTION = "datagram checks"
SIZES = (200, 1400, MAX_DATAGRAM_BYTES)
ROUNDS, CALLS = 200, 50
NODE, NOWHERE = "10.0.0.2", "10.9.9.9"
FIRST = b"\x98"
"""Byte of an envelope: with it the keyed hash is computed."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tests.bench.datagram_checks", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--document", type=Path, metavar="FILE", help="writes the table into it")
    options = parser.parse_args()
    lines = [
        "| bytes | no envelope | address of no node |",
        "|---|---|---|",
        *(row(size) for size in SIZES),
    ]
    print("\n".join(lines))
    if options.document:
        command = "`.venv/bin/python -m tests.bench.datagram_checks`"
        report.write_section(options.document, SECTION, "\n".join((command, "", *lines)))


def row(size: int) -> str:
    """Return a line of the table: what datagrams of one size cost, as shares of one whose keyed hash is computed."""
    endpoint = Endpoint("a", 1, Keyring(Key.parse(os.urandom(32))), {"b": NODE})
    good, bad = (os.urandom(MAC_BYTES) + first + os.urandom(size - MAC_BYTES - 1) for first in (FIRST, b"\0"))
    # The first one from an address of no node is looked into; then there is a pause, which is not over here.
    endpoint.open(good, NOWHERE, 0)
    kinds = ((good, NODE), (bad, NODE), (good, NOWHERE))
    rounds = [[cost(endpoint, datagram, source) for datagram, source in kinds] for _ in range(ROUNDS)]
    shares = [statistics.median(one[kind] / one[0] for one in rounds) for kind in (1, 2)]
    counted = {name: number for name, number in endpoint.counters.items() if number}
    each = ROUNDS * CALLS
    assert counted == {"bad_mac": each + 1, "malformed": each, "unknown_address": each}, counted
    return f"| {size:,} | {shares[0]:.1%} | {shares[1]:.1%} |"


def cost(endpoint: Endpoint, datagram: bytes, source: str) -> float:
    """Return what one datagram costs, in ns."""
    began = time.perf_counter_ns()
    for _ in range(CALLS):
        endpoint.open(datagram, source, LOOKUP_INTERVAL_NS - 1)
    return (time.perf_counter_ns() - began) / CALLS


if __name__ == "__main__":
    main()
