"""The number of our rules that one packet of each kind passes, by the kernel's trace."""

from __future__ import annotations

import pytest

from tests.tools.rules_passed import DOCUMENT

from .datapath_lab import Lab
from .packet_cases import FEW, MANY, Case, cases, document

OWN_TRAFFIC_MOST = 3
"""Rules of ours on the way of what a worker itself sends or gets."""


@pytest.fixture(scope="module")
def few(shared_lab: Lab) -> list[Case]:
    shared_lab.reset()
    return cases(shared_lab, FEW)


def test_the_document_has_the_rules_that_the_kernel_walks(few: list[Case]) -> None:
    assert document(few) in DOCUMENT.read_text(encoding="utf-8"), (
        "run .venv/bin/python -m tests.tools.rules_passed"
    )


def test_every_kind_of_packet_was_seen(few: list[Case]) -> None:
    seen = {(case.traffic, case.direction, case.node) for case in few}
    pods = ("selected pod", "selected pod on a bridge")
    on_both = {(pod, way, node) for pod in pods for way in ("out", "back") for node in ("w1", "g1")}
    others = {(f"unselected pod{at}", way, "w1") for at in ("", " on a bridge") for way in ("out", "back")}
    own = {("the node's own", way, node) for way in ("out", "back") for node in ("w1", "g1")}
    assert seen == on_both | others | own


def test_what_has_nothing_to_do_with_us_passes_one_rule_of_each_base_chain(few: list[Case]) -> None:
    others = [case for case in few if not case.traffic.startswith("selected")]
    for case in others:
        assert [len(passed.rules) for passed in case.passed if len(passed.rules) > 1] == [], case.name
    own = [case for case in others if case.traffic == "the node's own" and case.node == "w1"]
    assert all(case.count <= OWN_TRAFFIC_MOST for case in own)


def test_the_rules_that_a_packet_passes_do_not_grow(shared_lab: Lab, few: list[Case]) -> None:
    try:
        many = cases(shared_lab, MANY)
    finally:
        shared_lab.reset()
    assert {case.name: case.count for case in many} == {case.name: case.count for case in few}
