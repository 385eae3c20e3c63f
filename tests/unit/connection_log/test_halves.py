"""What worker and master know of one connection, and how their halves fit."""

from __future__ import annotations

import pytest

from cni.calls.attachments import Attachment
from cni.kernel import ids
from cni.kernel.netlink.conntrack.ct_flows import Ends, Flow
from cni.plan import Plan, PlanEgressIP, PlanNode
from gateway_agent.connection_log.halves import Half, Knowledge, egress_of, half, knowledge
from gateway_agent.connection_log.recorder import Recorder

LAYOUT = ids.MarkLayout(0x0FF00000)
VIRTUAL = PlanEgressIP("a" * 16, "partner", "172.16.0.50", 1, 1, ("g1",), "g1", source="172.16.0.50")
SYNCED = PlanEgressIP("b" * 16, "bank", "172.16.0.60", 2, 2, ("g1", "g2"), "g1", sync=True)
NODES = (PlanNode("w1", "10.0.0.21"), PlanNode("g1", "10.0.0.7"), PlanNode("g2", "10.0.0.8"))
POD, DESTINATION = "10.244.1.5", "203.0.113.10"
IN_TUNNEL = ("10.0.0.21", 50001)


def attachment(name: str, *addresses: str) -> Attachment:
    return Attachment("c" + name, "eth0", "/run/netns/x", "veth" + name, "prod", name, "", None, addresses)


def known(node: str, *attachments: Attachment) -> Knowledge:
    plan = Plan(node, LAYOUT.mask, 4799, 1450, NODES, (VIRTUAL, SYNCED), (), ())
    return knowledge(plan, attachments, {})


def flow(source: tuple[str, int], shown: tuple[str, int], mark: int, identity: int = 1) -> Flow:
    original = Ends(*source, DESTINATION, 443, 6)
    return Flow(original, Ends(DESTINATION, 443, *shown, 6), mark, identity, 100, 200)


def seen(where: Knowledge, connection: Flow) -> Half:
    egress = egress_of(where, connection.mark)
    assert egress is not None
    return half(where, connection, egress)


WORKER, MASTER = known("w1", attachment("api", POD)), known("g1", attachment("own", "10.244.11.5"))
OUT = flow((POD, 40000), IN_TUNNEL, LAYOUT.number(1))
THROUGH = flow(IN_TUNNEL, ("172.16.0.50", 60001), LAYOUT.number(1) | LAYOUT.tunneled)


def test_the_worker_knows_the_pod() -> None:
    assert seen(WORKER, OUT) == Half(
        "partner",
        ("172.16.0.50", 0),
        "tcp",
        (DESTINATION, 443),
        "w1",
        IN_TUNNEL,
        ("prod", "api"),
        (POD, 40000),
    )


def test_the_master_knows_the_port_outside() -> None:
    assert seen(MASTER, THROUGH) == Half(
        "partner", ("172.16.0.50", 60001), "tcp", (DESTINATION, 443), "w1", IN_TUNNEL, ("", ""), ("", 0)
    )


def test_both_have_the_same_key() -> None:
    assert seen(WORKER, OUT).tunnel_key == seen(MASTER, THROUGH).tunnel_key


def test_the_master_knows_all_of_its_own_pods() -> None:
    own = flow(("10.244.11.5", 40000), ("172.16.0.50", 40000), LAYOUT.number(1))
    found = seen(MASTER, own)
    assert (found.shown, found.node, found.inside) == (("172.16.0.50", 40000), "g1", ("", 0))
    assert found.pod == ("prod", "own")


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("synced", [True, False])
def test_a_worker_is_known_by_each_address_that_it_has_inside(family: int, synced: bool) -> None:
    inside = (ids.inner("10.0.0.21", family, synced), 50001)
    through = flow(inside, ("172.16.0.50", 1), LAYOUT.number(1) | LAYOUT.tunneled)
    assert seen(MASTER, through).node == "w1"
    assert seen(WORKER, flow((POD, 1), inside, LAYOUT.number(1))).inside == inside


def test_an_address_of_two_pods_is_of_none() -> None:
    twins = known("w1", attachment("one", POD), attachment("two", POD))
    assert seen(twins, OUT).pod == ("", "")


@pytest.mark.parametrize(
    "mark", [0, LAYOUT.tunneled, LAYOUT.stale, LAYOUT.reply, LAYOUT.number(9), 0xF000000F]
)
def test_other_marks_name_no_egress_ip(mark: int) -> None:
    assert egress_of(MASTER, mark) is None
    assert Recorder().begun(MASTER, THROUGH._replace(mark=mark), False) is None
    assert Recorder().ended(MASTER, THROUGH._replace(mark=mark)) is None
