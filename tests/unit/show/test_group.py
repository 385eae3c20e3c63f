"""How the nodes of a group are, put together."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from cni.version import VERSION
from gateway_agent.manifest_sets import messages
from gateway_agent.manifest_sets.messages import MAX_DETAIL_CHARS, MAX_HELD, Report
from gateway_agent.manifests.model import Fault, Problem
from gateway_agent.show import group
from gateway_agent.show.snapshot import NodeSnapshot

from .test_status import view
from .test_verdict import well


def node(name: str, well_report: Report | str) -> group.Row:
    return group.row(name, "10.0.0.7", well_report)


def reported(seen: NodeSnapshot | None, unready: str = "") -> Report:
    """Return a report as another node reads it."""
    found = messages.answer(messages.encoded(group.report(seen, unready)))
    assert isinstance(found, Report)
    return found


OK = reported(well())


def test_a_report_says_what_the_node_holds() -> None:
    assert (OK.ok, OK.verdict, OK.reason, OK.findings, OK.held, OK.version) == (
        True,
        "OK",
        "",
        0,
        (),
        VERSION,
    )
    held = reported(view("g1"))
    assert (held.gateway, held.held, held.held_count) == (True, ("192.0.2.7",), 1)


def test_a_report_names_the_worst() -> None:
    problem = Problem("a.yaml", "spec", "is bad", "mend it", Fault.OBJECT)
    seen = replace(well(isolated=True), problems=(problem,))
    found = reported(seen)
    assert (found.ok, found.verdict, found.findings) == (False, "isolated", 2)
    assert found.hint.startswith("check network")


def test_an_agent_that_starts_says_so() -> None:
    found = reported(None, "the agent is starting")
    assert (found.ok, found.verdict, found.reason) == (False, "agent not ready", "the agent is starting")


def test_a_report_is_bounded_whatever_the_node_has() -> None:
    problem = Problem("a.yaml", "spec", "é" * 10**6, "mend it" * 10**5, Fault.OBJECT)
    seen = view("g1")
    many = tuple(
        msgspec.structs.replace(e)
        if isinstance(e, msgspec.Struct)
        else replace(e, id=f"{n:016x}", master="g1")
        for e in seen.plan.egress_ips[:1]
        for n in range(MAX_HELD + 10)
    )
    seen = replace(seen, plan=replace(seen.plan, egress_ips=many), lease_daemon=None, problems=(problem,))
    found = reported(seen)
    assert (len(found.held), found.held_count) == (MAX_HELD, MAX_HELD + 10)
    assert max(len(found.reason), len(found.hint)) <= MAX_DETAIL_CHARS
    assert len(messages.encoded(found)) < messages.MAX_REPORT_BYTES


def test_all_well() -> None:
    found = group.answer([node("w1", OK), node("g1", OK)])
    assert (found["ok"], found["text"]) == (True, "OK: all nodes, 2 in number")
    assert [row["node"] for row in found["nodes"]] == ["g1", "w1"]


def test_the_worst_comes_first_and_a_node_without_an_answer_is_the_worst() -> None:
    drained = reported(replace(well(), drained=True))
    isolated = reported(well(isolated=True))
    rows = [node("a", OK), node("b", drained), node("c", isolated), node("d", "Connection refused")]
    found = group.answer(rows)
    assert [row["node"] for row in found["nodes"]] == ["d", "c", "b", "a"]
    assert found["text"].startswith("3 of 4 nodes not OK: d: no answer: Connection refused; to do: ")
    assert not found["ok"]
    assert found["nodes"][0]["roles"] == []


def test_a_verdict_that_this_version_does_not_know_comes_before_those_that_are_ok() -> None:
    newer = msgspec.structs.replace(OK, ok=False, verdict="on fire")
    rows = [node("a", OK), node("b", newer), node("c", "Connection refused")]
    assert [row["node"] for row in group.answer(rows)["nodes"]] == ["c", "b", "a"]
