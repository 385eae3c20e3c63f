from __future__ import annotations

from dataclasses import replace

import pytest

from cni.kernel import ids
from cni.plan import PlanEgressIP
from gateway_agent.core.readiness import InterfaceFacts, tunnel_mtu, unready

IDENTITY = ids.egress_id("partner", "")
EGRESS = PlanEgressIP(IDENTITY, "partner", "", 1, ids.vni(IDENTITY), ("g1",), interface="eth1", source="172.16.0.7")
GOOD = InterfaceFacts(up=True, carrier=True, mtu=1500, addresses=("172.16.0.7", "172.16.0.8"), forwarding=True)


def test_a_whole_interface_is_ready() -> None:
    assert unready(EGRESS, "eth1", {"eth1": GOOD}) == ""


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (None, "does not exist"),
        (replace(GOOD, up=False, carrier=False), "is down"),
        (replace(GOOD, carrier=False), "has no carrier"),
        (replace(GOOD, addresses=()), "has no IPv4 address"),
        (replace(GOOD, addresses=("172.16.0.9",)), "has just got address 172.16.0.9"),
        (replace(GOOD, forwarding=False), "net.ipv4.ip_forward=1"),
    ],
)
def test_each_fault_is_named(facts: InterfaceFacts | None, reason: str) -> None:
    assert reason in unready(EGRESS, "eth1", {"eth1": facts} if facts else {})


def test_a_silent_upstream_counts_last() -> None:
    assert unready(EGRESS, "eth1", {"eth1": GOOD}, ("172.16.0.1",)) == "upstream 172.16.0.1 does not answer"
    assert "down" in unready(EGRESS, "eth1", {"eth1": replace(GOOD, up=False)}, ("172.16.0.1",))


@pytest.mark.parametrize(("address", "mtu"), [("172.16.0.8", 1450), ("10.0.0.1", 1450), ("fd00::1", 1430)])
def test_the_tunnel_gets_what_the_underlay_leaves(address: str, mtu: int) -> None:
    assert tunnel_mtu({"eth1": GOOD}, address) == mtu


def test_a_jumbo_underlay_makes_a_jumbo_tunnel() -> None:
    assert tunnel_mtu({"eth0": replace(GOOD, mtu=9000)}, "172.16.0.7") == 8950
