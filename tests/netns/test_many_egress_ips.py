"""An egress node that can serve 300 egress IPs, and a worker with more policy sets than half of its mask."""

from __future__ import annotations

from dataclasses import replace

from cni.kernel import ids
from cni.plan import Destination, Plan, PlanEgressIP, PolicySet

from .datapath_lab import FIRST, SERVICE, Lab, plan

G1 = "172.16.0.7"
COUNT = 300
HIGHEST_SET = 250


def with_many(of: Plan) -> Plan:
    """Return the plan of an egress node with 300 tunnels, of which the two in use have the highest numbers."""
    first, second = of.egress_ips
    more = (
        PlanEgressIP(
            f"{inlet:016x}", "more", f"172.17.{inlet // 250}.{inlet % 250 + 1}", 0, 0x10000 + inlet, ("g1", "g2"),
            interface="eth1", source=f"172.17.{inlet // 250}.{inlet % 250 + 1}", mode="VirtualIPAddress", inlet=inlet,
        )
        for inlet in range(1, COUNT - 1)
    )  # fmt: skip
    here = replace(first, inlet=COUNT), replace(second, inlet=COUNT - 1)
    return replace(of, egress_ips=(*here, *more))


def test_packets_out_of_the_last_of_many_tunnels_leave_by_its_address(lab: Lab) -> None:
    with lab.pods["bridged"].connect() as older:
        lab.nodes["g1"].ensure(with_many(plan("g1")))
        assert older.echo(), "a connection goes on when the marks get wider"
        assert lab.pods["bridged"].seen_as() == G1
        assert lab.pods["onmaster"].seen_as() == G1, "a pod of the master has a slot beside it"
        with lab.pods["routed"].datagrams() as datagrams:
            assert datagrams.seen_as() == G1
        lab.nodes["g1"].ensure(plan("g1"))
        assert older.echo(), "and when they get narrower"


def test_a_bridged_pods_set_may_have_any_number_that_the_mask_holds(lab: Lab) -> None:
    of = plan("w1")
    highest = PolicySet(HIGHEST_SET, ("c",), (FIRST,), (Destination(f"{SERVICE}/32", FIRST),))
    lab.nodes["w1"].ensure(replace(of, policy_sets=(*of.policy_sets, highest)))
    assert ids.MarkLayout(of.mask).numbers < HIGHEST_SET
    pod = lab.pods["unselected"]
    pod.tag(HIGHEST_SET)
    assert pod.seen_as() == G1
