"""Route look-ups for packets of a worker's pods, and the meaning of the kernel's answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP, PlanNode
from gateway_agent.manifests.model import Policy
from gateway_agent.policy.egress_node.exit_paths import EVERYTHING, Found, Lookup, SourceRefusal
from gateway_agent.policy.pods import worker_paths

ID = ids.egress_id("partner", "")
EGRESS = PlanEgressIP(ID, "partner", "", slot=1, vni=ids.vni(ID), eligible=("g1",), master="g1")
NODES = (PlanNode("g1", "10.0.0.1"), PlanNode("w1", "10.0.0.11"))
PLAN = Plan("w1", 0x0FF00000, 4799, 1450, NODES, (EGRESS,))
POD = "10.244.1.5"
POLICY = Policy("a", "partner", (), ("203.0.113.0/24",))
PACKET = Lookup("203.0.113.1", POD, "", 0x00100000)
ANSWER = Lookup("10.0.0.11", "203.0.113.1", EGRESS.device, 0)
TUNNEL = Found(EGRESS.device)
REFUSED = Found(error="Invalid argument", refusal=SourceRefusal.UNROUTED)


def test_the_kernel_is_asked_about_the_packet_and_about_its_answer() -> None:
    asked = worker_paths.lookups(PLAN, [POLICY], (), [POD, "10.244.1.6", "fd00::5"])
    assert set(asked) == {PACKET, ANSWER}
    assert set(worker_paths.lookups(PLAN, [POLICY], (), [])) == {ANSWER}
    everything = worker_paths.lookups(PLAN, [Policy("a", "partner", ())], (), [])
    assert [each.source for each in everything] == [EVERYTHING[4]]


@pytest.mark.parametrize(
    "plan",
    [
        replace(PLAN, egress_ips=(replace(EGRESS, master="w1"),)),
        replace(PLAN, egress_ips=(replace(EGRESS, slot=0),)),
        replace(PLAN, nodes=NODES[:1]),
    ],
)
def test_nothing_is_asked_where_no_pod_uses_a_tunnel(plan: Plan) -> None:
    assert worker_paths.lookups(plan, [POLICY], (), [POD]) == {}


def test_answers_over_ipv6_are_not_checked_by_their_source() -> None:
    six = replace(PLAN, egress_ips=(replace(EGRESS, address="2001:db8:113::7"),))
    policy = replace(POLICY, destinations=("2001:db8:113::/64",))
    asked = worker_paths.lookups(six, [policy], (), [POD, "fd00::5"])
    assert [(each.source, each.device) for each in asked] == [("fd00::5", "")]


def test_the_number_of_questions_does_not_grow_with_the_policies() -> None:
    many = [replace(POLICY, name=str(n), destinations=(f"20.{n}.0.0/16",)) for n in range(250)]
    assert len(worker_paths.lookups(PLAN, many, (), [POD])) == worker_paths.MAX_LOOKUPS


@pytest.mark.parametrize(
    ("packet", "answer", "words"),
    [
        (TUNNEL, Found("lo"), ()),
        (TUNNEL, Found(error="Invalid argument"), ()),
        (TUNNEL, Found(error="Invalid argument", refusal=SourceRefusal.STRICT), ()),
        (Found(error="Network is unreachable"), Found("lo"), ()),
        (None, None, ()),
        (TUNNEL, REFUSED, ("rp_filter", "203.0.113.0/24")),
        (Found("eth0", "10.0.0.254"), Found("lo"), ("by eth0 via 10.0.0.254", "routing rule")),
    ],
)
def test_what_an_answer_of_the_kernel_means(
    packet: Found | None, answer: Found | None, words: tuple[str, ...]
) -> None:
    asked = worker_paths.lookups(PLAN, [POLICY], (), [POD])
    answers = {k: v for k, v in ((PACKET, packet), (ANSWER, answer)) if v}
    found = list(worker_paths.problems(PLAN, asked, answers))
    assert len(found) == bool(words)
    assert all(word in found[0].message and found[0].hint for word in words)


def test_many_faults_of_a_kind_are_one_problem() -> None:
    policy = replace(POLICY, destinations=("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24"))
    asked = worker_paths.lookups(PLAN, [policy], (), [])
    (found,) = worker_paths.problems(PLAN, asked, dict.fromkeys(asked, REFUSED))
    assert "203.0.113.0/24, and 2 more destinations" in found.message
