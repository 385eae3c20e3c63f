"""Two nodes are all there are: no majority is left when one is away, and the one that is left asks the LAN first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..bench.virtual import ALONE_MS, RECOVERY_S, prepare
from ..lab import topology
from ..lab.lab import Lab
from ..lab.partition import parted
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from ..lab.watch import Watch
from .conftest import BACKEND, GATEWAY, LOGS

NODES = ("g1", "g2")
TAKEOVER_S = 10.0
"""Seconds until the survivor serves, on a busy machine: it waits for a majority, then for answers of the LAN."""
STAYS_MS = 1000.0
"""Milliseconds in which exactly one node speaks: several leases, and several probes of the LAN."""


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with Lab(topology.separate(workers=0, gateways=len(NODES))) as made:
        try:
            prepare(made, GATEWAY)
            for name in NODES:
                made.nodes[name].pod(f"pod-{name}", BACKEND)
            yield made
        finally:
            made.save_logs(LOGS / "test_two_nodes")


@contextmanager
def cut(lab: Lab, node: str, interface: str = "") -> Iterator[None]:
    lab.cut(node, interface)
    try:
        yield
    finally:
        lab.mend(node, interface)


def survivor(lab: Lab, name: str) -> bool:
    [egress] = lab.nodes[name].agent.status()["egressIPs"]
    return bool(egress["state"] == "master" and egress["survivor"])


def settled_again(lab: Lab, watch: Watch) -> None:
    until(lambda: watch.alone(ALONE_MS), "exactly one owner", RECOVERY_S)
    [owner] = watch.owners(ALONE_MS)[VIRTUAL]
    until(lambda: not survivor(lab, owner), "by a majority again", RECOVERY_S)


def test_the_master_is_cut_off_and_the_other_one_serves(lab: Lab) -> None:
    master = lab.wait_settled(GATEWAY, 40)
    [other] = {*NODES} - {master}
    with Watch(lab, [VIRTUAL], list(lab.nodes[other].pods.values())) as watch:
        with cut(lab, master):
            until(lambda: watch.owner(STAYS_MS) == other, f"{other} speaks alone", TAKEOVER_S)
            until(watch.passes, "traffic passes", RECOVERY_S)
            until(lambda: survivor(lab, other), "status says that no majority holds it", RECOVERY_S)
        settled_again(lab, watch)
        assert watch.end() == []


def _rules(lab: Lab, master: str) -> AbstractContextManager[None]:
    return parted(lab, [(name,) for name in NODES])


def _cable(lab: Lab, master: str) -> AbstractContextManager[None]:
    return cut(lab, master, "eth0")


@pytest.mark.parametrize("channel_cut", [_rules, _cable])
def test_on_one_lan_two_nodes_that_do_not_receive_from_each_other_never_both_send(
    lab: Lab, channel_cut: Callable[[Lab, str], AbstractContextManager[Any]]
) -> None:
    """Both are alone, and both would serve: who asks later is answered by who has the address."""
    master = lab.wait_settled(GATEWAY, 40)
    with Watch(lab, [VIRTUAL]) as watch:
        with channel_cut(lab, master):
            owner = until(lambda: _alone(lab, watch), "one survivor", TAKEOVER_S)
            [other] = {*NODES} - {owner}
            assert not survivor(lab, other)
        settled_again(lab, watch)
        assert watch.end() == []


def _alone(lab: Lab, watch: Watch) -> str:
    """Return the one that speaks, by its own word without a majority; empty if there is none."""
    owner = watch.owner(STAYS_MS)
    return owner if owner and survivor(lab, owner) else ""
