"""An edit of the store on a machine whose processors have four times as much to do as they can."""

from __future__ import annotations

import copy
import time

import pytest

from ..lab import documents
from ..lab.lab import SELECTED, Lab
from ..lab.pod import Pod
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY
from .test_busy_machine import busy

EDITS = 6
LIMIT_S = 5.0
"""Seconds within which an edit is in the worker's plan, however busy the machine."""
WIDER = "203.0.112.0/23"


@pytest.fixture
def pod(lab: Lab) -> Pod:
    return lab.nodes["w1"].pod("backend-1", BACKEND)


def test_edits_count_soon(lab: Lab, pod: Pod) -> None:
    node, address = lab.nodes["w1"], lab.nodes[lab.wait_settled(GATEWAY, 40)].host.egress_ip
    gateway, policy = documents.basic_mode(lab.topology.egress_interface, GATEWAY)
    narrow, wide = policy, copy.deepcopy(policy)
    wide["spec"]["destinationCIDRs"] = [WIDER]
    taken = []
    with busy():
        for number in range(EDITS):
            edited = (wide, narrow)[number % 2]
            prefix = edited["spec"]["destinationCIDRs"][0]
            began = time.monotonic()
            lab.publish("objects", [gateway, edited])
            until(lambda p=prefix: _leads(node.plan(), p), f"the edit to {prefix} counts", LIMIT_S)  # type: ignore[misc]
            taken.append(round(time.monotonic() - began, 2))
            assert pod.request(SELECTED).address == address
    print(f"edits took {taken} s")  # With -s; what a busy machine makes of it is no bound.


def _leads(plan: dict[str, object], prefix: str) -> bool:
    destinations = [each for policy_set in plan["policy_sets"] for each in policy_set["ways"]]  # type: ignore[attr-defined]
    return any(each["prefix"] == prefix for each in destinations)
