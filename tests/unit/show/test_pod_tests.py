"""What ``egressctl test`` says of what came back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway_agent.policy.egress_node.pod_probes import Answer, PodAnswer, PodProbe
from gateway_agent.show import pod_tests
from gateway_agent.show.snapshot import NodeSnapshot
from gateway_agent.show.status import NotKnown

from .test_status import PARTNER, view

AS_WORKER, AS_MASTER = ("10.0.0.21", 20001), ("192.0.2.7", 20001)
FAR = "203.0.113.10"


def row(seen: NodeSnapshot, found: PodAnswer, to: str = "", tested: bool = True) -> dict[str, Any]:
    egress = seen.egress(PARTNER)
    assert egress is not None
    probe = PodProbe(egress.id, 1, FAR, 443, 3) if tested else None
    return pod_tests.row(seen, egress, probe, found, to)


def answered(answer: Answer, sender: str = "203.0.113.254", left_as: Any = AS_WORKER) -> PodAnswer:
    return PodAnswer(answer, sender, 0.42, ("169.254.233.16", 20001), left_as)


def test_an_answer_from_outside() -> None:
    found = row(view(), answered(Answer.EXPIRED))
    assert (found["result"], found["master"], found["ip"]) == ("ok", "g1", "192.0.2.7")
    assert (found["answer"], found["answeredBy"], found["milliseconds"]) == (
        "hop limit reached",
        "203.0.113.254",
        0.4,
    )
    assert found["leftAs"] == ""


def test_the_master_knows_as_what_it_left() -> None:
    found = row(view("g1"), answered(Answer.ACCEPTED, left_as=AS_MASTER))
    assert (found["result"], found["leftAs"]) == ("ok", "192.0.2.7:20001")


def test_another_node_asks_the_master() -> None:
    seen = replace(answered(Answer.ACCEPTED), arrived_as=AS_MASTER)
    assert row(view(), seen)["leftAs"] == "192.0.2.7:20001"
    wrong = row(view(), replace(seen, arrived_as=("10.0.0.7", 1)))
    assert (wrong["result"], wrong["reason"]) == ("wrong", "it left as 10.0.0.7, not as 192.0.2.7")


@pytest.mark.parametrize(
    ("node", "found", "to", "reason"),
    [
        ("w1", PodAnswer(), "", "did not leave this node"),
        ("w1", answered(Answer.NONE), "", "no answer: g1 did not send it on"),
        ("w1", answered(Answer.NONE), FAR, f"{FAR} does not answer"),
        ("w1", answered(Answer.UNREACHABLE, "172.16.0.7"), "", "node g1 did not send it on"),
        ("w1", answered(Answer.UNREACHABLE), FAR, "cannot deliver it"),
        (
            "g1",
            answered(Answer.ACCEPTED, left_as=("10.0.0.7", 1)),
            "",
            "it left as 10.0.0.7, not as 192.0.2.7",
        ),
    ],
)
def test_faults(node: str, found: PodAnswer, to: str, reason: str) -> None:
    shown = row(view(node), found, to)
    assert shown["result"] == "wrong"
    assert reason in shown["reason"]


def test_an_egress_ip_that_no_policy_uses() -> None:
    found = row(view(), PodAnswer(), tested=False)
    assert (found["result"], found["answer"]) == ("untested", "")


def test_one_that_was_answered_and_nothing_wrong_passes() -> None:
    def passed(*results: str) -> bool:
        return bool(pod_tests.answer({"result": result} for result in results)["passed"])

    assert passed("ok", "untested")
    assert not passed("ok", "wrong")
    assert not passed("untested")
    assert not passed()


def test_a_gateway_that_is_not_there() -> None:
    with pytest.raises(NotKnown, match="no gateway 'nobody'"):
        pod_tests.chosen(view(), "nobody")
    assert [egress.id for egress in pod_tests.chosen(view(), "partner")] == [PARTNER]
    assert pod_tests.chosen(view(), "") == view().plan.egress_ips
