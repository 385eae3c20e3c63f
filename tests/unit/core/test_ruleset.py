from __future__ import annotations

from dataclasses import replace
from typing import Any

from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP, PlanNode
from gateway_agent.core.ruleset import gateway_nft

ID = ids.egress_id("partner", "")
EGRESS = PlanEgressIP(
    ID, "partner", "", slot=1, vni=ids.vni(ID), eligible=("g1",), interface="eth1", source="172.16.0.7"
)
REMOVED = "add table inet egress_gateway_snat\ndelete table inet egress_gateway_snat\n"


def text(egress: PlanEgressIP = EGRESS, **changes: Any) -> str:
    return gateway_nft(Plan("g1", 0x0FF00000, 4799, 1450, (PlanNode("g1", "10.0.0.1"),), (egress,), **changes))


def test_source_nat_stands_whoever_is_master() -> None:
    rule = 'oifname "eth1" ct mark and 0x07f00000 == 0x00100000 snat ip to 172.16.0.7'
    assert rule in text()
    assert text(replace(EGRESS, master="g1")) == text(replace(EGRESS, master="g2")) == text()


def test_a_node_that_can_serve_nothing_has_no_table() -> None:
    assert text(replace(EGRESS, interface="", source="")) == REMOVED
    assert text(replace(EGRESS, source="")) == REMOVED


def test_connections_of_the_tunnel_are_marked_and_their_answers_sent_back() -> None:
    assert "ct mark set ct mark and 0xf00fffff or 0x08100000" in text()
    answer = "ct direction reply ct mark and 0x08000000 != 0"
    assert f"{answer} meta mark set meta mark and 0xf00fffff or 0x07f00000" in text()


def test_only_an_isolated_gateway_refuses_new_connections() -> None:
    assert "ct state new counter drop" in text(isolated=True)
    assert "ct state new counter drop" not in text()


def test_connections_of_another_master_end_in_basic_mode_and_go_on_in_virtual_ip_mode() -> None:
    assert "reject with tcp reset" in text()
    assert "reject with tcp reset" not in text(replace(EGRESS, address="172.16.0.50"))
