"""The master's clock is set back an hour, and forth again: leases are counted by clocks that nobody can set."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ..bench.virtual import ALONE_MS, RECOVERY_S, prepare
from ..lab import topology
from ..lab.faketime import NOTICE_S, Clock
from ..lab.lab import Lab
from ..lab.node import Node
from ..lab.silence import longest
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from ..lab.watch import Watch
from .conftest import BACKEND, GATEWAY, LOGS

HOUR = 3600
WATCHED_S = NOTICE_S + 1.5
"""Seconds after each change of the clock: several times a lease."""
TAKEOVER_S = 5.0
SET = "g1"
CLOCKS = (time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)
READ = f"import time; print(*map(time.clock_gettime_ns, {CLOCKS}))"


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with Lab(topology.separate(workers=1)) as made:
        yield made


@pytest.fixture(scope="module")
def clock(lab: Lab) -> Iterator[Clock]:
    """Of the master."""
    clock = Clock(lab.nodes[SET])
    try:
        prepare(lab, GATEWAY)
        if lab.wait_settled(GATEWAY) != SET:
            lab.nodes["w1"].egressctl("handover", GATEWAY, "--to", SET)
        yield clock
    finally:
        lab.save_logs(LOGS / "test_clock")


def egress(node: Node) -> dict[str, Any]:
    [found] = node.agent.status()["egressIPs"]
    return dict(found)


def mastership(node: Node) -> tuple[str, int, str]:
    found = egress(node)
    return found["master"], found["epoch"], found["since"]


def events(node: Node) -> list[dict[str, Any]]:
    return list(json.loads(node.egressctl("-o", "json", "events")))


def off(node: Node) -> tuple[float, float, float]:
    """How far the clocks of the node's programs are ahead, seconds: the wall clock's, and the two of leases'."""
    environment = [f"{name}={value}" for name, value in node.agent.environment.items()]
    here = [time.clock_gettime_ns(clock) for clock in CLOCKS]
    there = node.machine.run("env", *environment, sys.executable, "-c", READ).split()
    real, monotonic, boot = ((int(a) - b) / 1e9 for a, b in zip(there, here, strict=True))
    return real, monotonic, boot


def _passed(moment: float) -> bool:
    return time.monotonic() > moment


def test_nothing_moves_and_nothing_is_lost(lab: Lab, clock: Clock) -> None:
    pod = lab.nodes["w1"].pod("backend-1", BACKEND)
    master = lab.nodes[SET]
    before = {name: mastership(node) for name, node in lab.nodes.items()}
    known = events(master)
    assert {name for name, _, _ in before.values()} == {SET}
    for pid in (master.agent.pid, *master.agent.keeper_pids()):
        assert "/faketime/" in Path(f"/proc/{pid}/maps").read_text()
    with Watch(lab, [VIRTUAL], [pod]) as watch, lab.probing(pod) as probing:
        for seconds in (-HOUR, 0):
            clock.set(seconds)
            real, monotonic, boot = off(master)
            assert abs(real - seconds) < 10
            assert 0 <= monotonic < 10
            assert 0 <= boot < 10
            began = time.monotonic()
            until(partial(_passed, began + WATCHED_S), "it has been so for a while")
            assert {name: mastership(node) for name, node in lab.nodes.items()} == before
        assert longest(probing.stop()).lost == 0
        assert watch.failovers() == []
        assert watch.end() == []
    assert events(master) == known


def test_one_whose_clock_was_set_back_is_followed_as_soon_as_any(lab: Lab, clock: Clock) -> None:
    [pod] = lab.nodes["w1"].pods.values()
    witness = lab.nodes["w1"]
    clock.set(-HOUR)
    with Watch(lab, [VIRTUAL], [pod]) as watch:
        until(lambda: watch.owner(ALONE_MS) == SET, f"{SET} is master", RECOVERY_S)
        lab.cut(SET)
        try:
            until(lambda: watch.owner(ALONE_MS) not in ("", SET), "another one serves", TAKEOVER_S)
            until(watch.passes, "traffic passes", RECOVERY_S)
            until(lambda: mastership(witness)[0] == watch.owner(ALONE_MS), "the worker knows", RECOVERY_S)
        finally:
            lab.mend(SET)
        until(lambda: watch.alone(ALONE_MS), "exactly one owner", RECOVERY_S)
        assert watch.end() == []
    changes = [change for change in events(witness) if change["before"] == SET]
    assert 0 <= changes[-1]["silentMs"] < TAKEOVER_S * 1000
    for moment in (changes[-1]["at"], mastership(witness)[2]):
        assert abs(datetime.fromisoformat(moment).timestamp() - time.time()) < HOUR / 10
    until(
        lambda: mastership(lab.nodes[SET]) == mastership(witness),
        "the one with the clock behind agrees",
        RECOVERY_S,
    )
