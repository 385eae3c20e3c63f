"""A policy is written and at once a pod that it selects starts, among a thousand other policies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.lab import SELECTED, Lab
from ..lab.waiting import until
from .conftest import GATEWAY, settled

MANY = 1000
PREFIXES = 20
TIMES = 4


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_many_policies", topology.separate(workers=1, gateways=1)) as made:
        yield made


def test_no_packet_leaves_before_the_policy_counts(lab: Lab) -> None:
    worker, gateway = lab.nodes["w1"], lab.wait_settled(GATEWAY)
    worker.write(
        "many",
        [
            documents.policy(
                f"other-{number}",
                GATEWAY,
                {"app": f"other-{number}"},
                [f"198.18.{(number + 7 * step) % 250}.{step * 8}/29" for step in range(PREFIXES)],
            )
            for number in range(MANY)
        ],
    )
    until(lambda: len(worker.plan()["policies"]) > MANY, "the plan has all policies", seconds=60)
    with lab.capture() as capture:
        for number in range(TIMES):
            labels = {"app": f"late-{number}"}
            worker.write(
                f"late-{number}", [documents.policy(f"late-{number}", GATEWAY, labels, ["203.0.113.0/24"])]
            )
            pod = worker.pod(f"late-{number}", labels)
            for _ in range(3):
                assert pod.request(SELECTED).address == lab.nodes[gateway].host.egress_ip
        assert capture.sources(SELECTED) == {lab.nodes[gateway].host.egress_ip}
