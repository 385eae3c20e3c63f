"""The text of ``egressctl diff`` and ``push``."""

from __future__ import annotations

import io
from typing import Any

from gateway_agent.ctl.output import render_edits
from gateway_agent.ctl.output.render import Page

POD = {
    "namespace": "prod",
    "name": "web-0",
    "node": "w1",
    "changes": [
        {"destinations": [f"10.{n}.0.0/16" for n in range(5)], "before": "partner", "after": "bank"},
        {"destinations": ["::/0"], "before": "partner", "after": "dropped"},
    ],
    "connections": 3,
}
ADDRESS = {
    "gateway": "partner",
    "ip": "",
    "change": "nodes",
    "master": "",
    "nodesBefore": ["g1"],
    "nodesAfter": [],
}


def text(form: str, answer: dict[str, Any], wide: bool = False) -> list[str]:
    file = io.StringIO()
    render_edits.FORMS[form](answer, Page(file, wide=wide))
    return file.getvalue().splitlines()


def test_an_edit_that_changes_nothing_says_so() -> None:
    answer = {"pods": [], "egressIPs": [], "connections": 0, "node": "w1"}
    assert text("diff", answer) == ["no pod and no address would change"]


def test_the_connections_of_a_pod_are_counted_once_and_long_lists_are_cut() -> None:
    lines = text("diff", {"pods": [POD], "egressIPs": [], "connections": 3, "node": "w1"})
    rows = [line for line in lines if "prod" in line]
    assert [row.split()[-1] for row in rows] == ["3", "dropped"]
    assert "10.2.0.0/16 and 2 more" in rows[0]
    assert lines[-1] == "1 pod changes; open connections that would end on node w1: 3"


def test_wide_output_has_every_prefix() -> None:
    lines = text("diff", {"pods": [POD], "egressIPs": [], "connections": 3, "node": "w1"}, wide=True)
    assert "10.4.0.0/16" in "".join(lines)
    assert not any("more" in line for line in lines)


def test_unknown_numbers_are_not_zero() -> None:
    pods = [{**POD, "connections": None}, POD]
    lines = text("diff", {"pods": pods, "egressIPs": [ADDRESS], "connections": None, "node": "w1"})
    assert lines[-1] == "2 pods change; open connections that would end on node w1: unknown"
    assert any(line.split() == ["partner", "-", "nodes", "-", "g1", "-"] for line in lines)


def test_a_push_says_how_many_nodes_have_the_set() -> None:
    nodes = [
        {"node": "g1", "outcome": "applied", "detail": ""},
        {"node": "w1", "outcome": "unreachable", "detail": "it does not answer"},
    ]
    answer = {"nodes": nodes, "failed": ["w1"], "total": 2, "set": "7", "failure": "", "hint": ""}
    assert text("push", answer)[-2:] == [
        "set 7: on 1 of 2 nodes",
        "a node that was away takes the set when it is back",
    ]


def test_a_failed_push_says_why_and_names_no_set() -> None:
    answer = {"nodes": [], "failed": [], "total": 2, "set": "", "failure": "no key", "hint": "make one"}
    assert text("push", answer) == ["no key (make one)"]
