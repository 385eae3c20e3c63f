"""A failover of a virtual IPv6 address while a machine on the LAN floods questions for it."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.flooder import flooding, question
from ..lab.lab import SELECTED, Lab
from ..lab.pod import Pod
from ..lab.silence import longest
from ..lab.topology import OUTSIDE6
from ..lab.waiting import until
from .conftest import GATEWAY, settled

ADDRESS6 = topology.beside("172.16.0.50")
FLOODER, NEIGHBOUR = "02:00:00:00:00:99", topology.beside("172.16.0.99")
ROUNDS = 3
BOUND = 5.0
"""Seconds until another node serves."""
WORSE_FACTOR = 1.5
"""Largest ratio of the silence to that of a failover without a flood: the floods themselves make the machine busy."""


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    objects = documents.virtual_ip([ADDRESS6], GATEWAY, destinations=["2001:db8:113::/64"])
    with settled("test_neighbour_floods", topology.dual_stack(), objects=objects) as made:
        yield made


def test_a_failover_beside_floods_is_as_quick_as_without(lab: Lab, pod: Pod, tmp_path: Path) -> None:
    """With and without take turns, so that what else the machine does hits both alike."""
    silences: dict[bool, list[float]] = {False: [], True: []}
    for flooded in (False, True) * ROUNDS:
        silences[flooded].append(failover(lab, pod, tmp_path, flooded))
    assert statistics.median(silences[True]) <= statistics.median(silences[False]) * WORSE_FACTOR, silences


def failover(lab: Lab, pod: Pod, logs: Path, flooded: bool) -> float:
    """Cut the master off, and return how long the pod had no answers, in milliseconds."""
    master, lan = lab.wait_settled(GATEWAY, 40), lab.machines["lan"]
    with contextlib.ExitStack() as stack:
        if flooded:
            for change_macs, source in ((False, NEIGHBOUR), (True, "")):
                frame = question(ADDRESS6, FLOODER, source)
                stack.enter_context(flooding(lan, "br-egress", frame, logs / "flood", change_macs))
        probing = stack.enter_context(lab.probing(pod, SELECTED, OUTSIDE6))
        until(lambda: pod.request(SELECTED, 0.3, OUTSIDE6).address == ADDRESS6, "requests pass", BOUND)
        lab.cut(master)
        try:
            until(lambda: lab.master(GATEWAY, "w1") not in ("", master), "another node serves", BOUND)
            until(
                lambda: pod.request(SELECTED, 0.3, OUTSIDE6).address == ADDRESS6, "requests pass again", BOUND
            )
            silence = longest(probing.stop())
        finally:
            lab.mend(master)
    assert silence.ended
    return silence.milliseconds
