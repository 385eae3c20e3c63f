from __future__ import annotations

from dataclasses import replace
from typing import Any

from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP, PlanNode
from gateway_agent.gateway_rules.snat import gateway_nft

ID = ids.egress_id("partner", "")
EGRESS = PlanEgressIP(
    ID, "partner", "", slot=1, vni=ids.vni(ID), eligible=("g1",), interface="eth1", source="172.16.0.7"
)
REMOVED = "add table inet egress_gateway_snat\ndelete table inet egress_gateway_snat\n"


def text(egress: PlanEgressIP = EGRESS, **changes: Any) -> str:
    return gateway_nft(
        Plan("g1", 0x0FF00000, 4799, 1450, (PlanNode("g1", "10.0.0.1"),), (egress,), **changes)
    )


def test_source_nat_stands_whoever_is_master() -> None:
    rule = 'oifname "eth1" ct mark and 0x07f00000 == 0x00100000 snat ip to 172.16.0.7'
    assert rule in text()
    assert text(replace(EGRESS, master="g1")) == text(replace(EGRESS, master="g2")) == text()


def test_a_node_that_can_serve_nothing_has_no_table() -> None:
    assert text(replace(EGRESS, interface="", source="")) == REMOVED
    assert text(replace(EGRESS, source="")) == REMOVED


def test_connections_of_the_tunnel_are_marked_and_their_answers_sent_back() -> None:
    assert "ct mark set ct mark and 0xf00fffff or 0x08100000" in text()
    answer = "ct direction reply ct mark and 0x0ff00000 > 0x08000000"
    assert f"{answer} meta mark set meta mark and 0xf00fffff or 0x07f00000" in text()


def test_a_connection_with_another_address_is_told_and_dropped_before_it_gets_the_slots_mark() -> None:
    elsewhere = (
        "ct mark and 0x08000000 != 0 ct reply ip daddr != 172.16.0.7 fib daddr type != local goto stale"
    )
    assert text().index(elsewhere) < text().index("or 0x08100000")
    chain = text().split("chain stale {")[1].split("}")[0]
    assert "ct mark set ct mark and 0xf00fffff or 0x0ff00000" in chain
    assert chain.rstrip().endswith("counter drop")


def test_only_an_isolated_gateway_refuses_new_connections() -> None:
    assert "ct state new counter drop" in text(isolated=True)
    assert "ct state new counter drop" not in text()


def test_connections_of_another_master_end_in_basic_mode_and_go_on_in_virtual_ip_mode() -> None:
    picked_up = f'iifname "{EGRESS.device}" ct state new tcp flags & (fin | syn | rst | ack) != syn'
    assert f"{picked_up} counter reject with tcp reset" in text()
    virtual = text(replace(EGRESS, address="172.16.0.50", source="172.16.0.50"))
    assert f"{picked_up} goto first_packet4" in virtual
    # Before the rule that may take any port.
    kept, any_port = "!= syn snat ip to 172.16.0.50:tcp sport", "snat ip to 172.16.0.50\n"
    assert virtual.index(kept) < virtual.index(any_port)


def test_an_ipv6_address_is_shown_to_ipv6_alone() -> None:
    sixth = replace(EGRESS, address="fd00:172::50", source="", source6="fd00:172::50")
    assert "snat ip6 to fd00:172::50" in text(sixth)
    assert "snat ip to" not in text(sixth)
    assert text(replace(sixth, source6="")) == REMOVED


def test_neighbour_discovery_with_a_virtual_address_is_no_visit() -> None:
    sixth = replace(EGRESS, address="fd00:172::50", source="", source6="fd00:172::50")
    assert "ip6 daddr fd00:172::50 ct state new,invalid,untracked goto unsolicited" in text(sixth)
    for kind in ("nd-neighbor-solicit", "nd-neighbor-advert"):
        assert f"icmpv6 type {kind} accept" in text(sixth)
