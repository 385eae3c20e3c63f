"""The verdict of status: one planted fault after the other, and several at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from gateway_agent.lease.ipc import EgressState, MemberState
from gateway_agent.manifests.model import Fault, Problem
from gateway_agent.show.snapshot import NodeSnapshot
from gateway_agent.show.verdict import TITLES, TO_DO, findings, verdict

from . import test_status
from .test_status import PARTNER, keeper

WELL_MEMBERS = (MemberState("g1", True, True, "", 40), MemberState("g2", True, True, "", 60))


def well(**daemon: object) -> NodeSnapshot:
    """Return a worker of which nothing is wrong. ``daemon``: other fields of the lease daemon's state."""
    state = msgspec.structs.replace(keeper(), **{"members": WELL_MEMBERS, **daemon})
    return replace(test_status.view(state=state), problems=())


def without_master(reason: str) -> NodeSnapshot:
    lost = EgressState(PARTNER, "", 3, 0, "none", reason, "")
    seen = well()
    assert seen.lease_daemon is not None
    return well(egress=(lost, *seen.lease_daemon.egress[1:]))


def with_problem(kind: Fault, hint: str = "") -> NodeSnapshot:
    return replace(well(), problems=(Problem("source", "path", "is wrong", hint, kind),))


def of(kind: Fault) -> tuple[str, str]:
    return f"{TITLES[kind]}: source: path: is wrong", TO_DO[kind]


def alone() -> NodeSnapshot:
    held = EgressState(PARTNER, "g1", 3, 1.0, "none", "", "192.0.2.7", without_quorum=True)
    seen = well()
    assert seen.lease_daemon is not None
    return well(egress=(held, *seen.lease_daemon.egress[1:]))


PLANTED: dict[Fault, tuple[Callable[[], NodeSnapshot], str, str]] = {
    Fault.ISOLATED: (
        lambda: well(isolated=True),
        "isolated: this egress node has no contact with a majority of the voters and forwards nothing new",
        "check network, cluster.port and key between it and g1, g2, w1",
    ),
    Fault.NO_MASTER: (
        lambda: without_master("g1: eth1 is down"),
        "no master: partner: g1: eth1 is down",
        "egressctl doctor on g1, g2",
    ),
    Fault.NO_MAJORITY: (
        alone,
        "held without a majority: partner on g1",
        "bring the other voters back before this node fails, too",
    ),
    Fault.MEMBER: (
        lambda: well(members=(WELL_MEMBERS[0], MemberState("g2", False, False, "silent for 900 ms", 900))),
        "egress node down: g2 does not answer: silent for 900 ms",
        "start the node or its agent; if it is gone for good, delete its Node object",
    ),
    Fault.NOT_READY: (
        lambda: replace(well(), unready="agent.sock is gone"),
        "agent not ready: agent.sock is gone",
        "wait some seconds; then see the log of the agent",
    ),
    Fault.STARTING: (
        lambda: replace(without_master(""), settled=False),
        "starting: the master of partner is not known yet",
        "wait some seconds",
    ),
    Fault.DRAINED: (
        lambda: replace(well(), drained=True),
        "drained: w1 takes no egress IP",
        "egressctl undrain when the maintenance is over",
    ),
    **{
        kind: (lambda kind=kind: with_problem(kind), *of(kind))  # type: ignore[misc]
        for kind in TO_DO
    },
}  # fmt: skip


def test_each_fault_is_planted_and_has_its_rank() -> None:
    assert set(PLANTED) == set(TITLES) == set(Fault)


def test_a_node_of_which_nothing_is_wrong() -> None:
    assert verdict(well()) == {"ok": True, "text": "OK", "findings": []}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_and_what_to_do(fault: Fault) -> None:
    plant, message, hint = PLANTED[fault]
    answer = verdict(plant())
    assert (answer["ok"], answer["text"]) == (False, f"{message}; to do: {hint}")
    assert [found["fault"] for found in answer["findings"]] == [fault.value]
    assert hint


def test_the_advice_of_a_problem_comes_before_the_general_one() -> None:
    assert findings(with_problem(Fault.OBJECT, "did you mean 'y'?"))[0].hint == "did you mean 'y'?"


def test_the_worst_comes_first() -> None:
    problems = tuple(Problem("source", "", "is wrong", kind=kind) for kind in reversed(TO_DO))
    seen = replace(
        without_master("nobody is ready"), problems=problems, drained=True, unready="agent.sock is gone"
    )
    assert seen.lease_daemon is not None
    seen = replace(seen, lease_daemon=msgspec.structs.replace(seen.lease_daemon, isolated=True))
    order = [finding.fault for finding in findings(seen)]
    assert order == sorted(order, key=list(TITLES).index)
    assert (order[0], order[1], order[-1]) == (Fault.ISOLATED, Fault.NO_MASTER, Fault.DRAINED)


@pytest.mark.parametrize("cause", [Fault.KERNEL, Fault.PLUGIN])
def test_a_reason_that_has_its_own_finding_is_not_listed_twice(cause: Fault) -> None:
    seen = replace(with_problem(cause), unready="the plugin is not used: source: is wrong")
    assert [finding.fault for finding in findings(seen)] == [cause]


def test_a_silent_lease_daemon() -> None:
    silent = replace(well(), lease_daemon=None)
    assert Fault.LEASE_DAEMON in [finding.fault for finding in findings(silent)]
    reported = replace(with_problem(Fault.LEASE_DAEMON), lease_daemon=None)
    assert [f.message for f in findings(reported) if f.fault is Fault.LEASE_DAEMON] == [
        "source: path: is wrong"
    ]


def test_a_drained_node_that_is_not_ready_is_drained() -> None:
    members = (MemberState("w1", True, False, "drained", 0), *WELL_MEMBERS)
    assert [f.fault for f in findings(replace(well(members=members), drained=True))] == [Fault.DRAINED]
