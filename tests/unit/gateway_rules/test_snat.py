from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

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


def chain_of(rules: str, name: str) -> str:
    return rules.split(f"chain {name} {{")[1].split("}")[0]


def many(count: int) -> str:
    addresses = [f"172.16.{n // 250}.{n % 250 + 1}" for n in range(count)]
    shown = tuple(
        replace(EGRESS, id=address, address=address, source=address, slot=0, inlet=n + 1, vni=n + 1)
        for n, address in enumerate(addresses)
    )
    return gateway_nft(Plan("g1", 0x0FF00000, 4799, 1450, (PlanNode("g1", "10.0.0.1"),), shown))


@given(st.integers(2, 300))
def test_no_chain_of_every_packet_grows_with_the_addresses(count: int) -> None:
    few, more = many(1), many(count)
    for name in (
        "inbound",
        "inbound_new",
        "nat",
        "nat_steered",
        "ingress",
        "from_tunnel",
        "tcp_pickup",
        "pickup_out",
        "pickup_back",
    ):
        rules, expected = (chain_of(each, name).count("\n") for each in (more, few))
        assert rules == expected, name
    assert more.count(": goto unsolicited") == count


@given(st.sets(st.ip_addresses(v=4).map(str), min_size=1, max_size=20), st.ip_addresses(v=4))
def test_what_comes_to_any_address_is_judged_once(shown: set[str], other: object) -> None:
    """A map that lacked an address, or had it twice, would drop it, or would not be taken by the kernel."""
    egress = tuple(
        replace(EGRESS, id=address, address=address, source=address, slot=0, inlet=n + 1, vni=n + 1)
        for n, address in enumerate(sorted(shown))
    )
    rules = gateway_nft(Plan("g1", 0x0FF00000, 4799, 1450, (PlanNode("g1", "10.0.0.1"),), egress))
    [elements] = re.findall(r"map inbound4_\w+ \{[^}]*elements = \{ ([^}]*) \}", rules)
    ranges = [each.split(" : ") for each in elements.split(", ")]
    for address in (*map(ip_address, shown), other):
        held = [verdict for place, verdict in ranges if holds(place, address)]
        assert held == ["goto unsolicited" if str(address) in shown else "return"]


def holds(place: str, address: object) -> bool:
    first, _, last = place.partition("-")
    return int(ip_address(first)) <= int(ip_address(str(address))) <= int(ip_address(last or first))


def test_source_nat_is_set_whoever_is_master() -> None:
    assert 'oifname "eth1" ct mark and 0x07f00000 != 0 goto nat_steered' in text()
    assert "elements = { 0x00100000 : goto nat_1 }" in text(), "for pods of this node"
    assert "elements = { 0x08100000 : goto nat_1 }" in text(), "for those of others"
    assert 'oifname "eth1" snat ip to 172.16.0.7' in chain_of(text(), "nat_1")
    assert text(replace(EGRESS, master="g1")) == text(replace(EGRESS, master="g2")) == text()


def test_a_node_that_can_serve_nothing_has_no_table() -> None:
    assert text(replace(EGRESS, interface="", source="")) == REMOVED
    assert text(replace(EGRESS, source="")) == REMOVED


def test_connections_of_the_tunnel_are_marked_and_their_answers_sent_back() -> None:
    assert "ct mark set ct mark and 0xf00fffff or 0x08100000" in text()
    answer = "ct direction reply ct mark and 0x0ff00000 > 0x08000000"
    assert f"{answer} meta mark set meta mark and 0xf00fffff or 0x07f00000" in text()


def test_a_connection_with_another_address_is_logged_and_dropped_before_it_gets_the_slots_mark() -> None:
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
    middle = 'ct state new iifname "egw-*" iifname != "egw-back" tcp flags & (fin | syn | rst | ack) != syn goto middle'
    assert middle in chain_of(text(), "tcp_pickup")
    assert f'"{EGRESS.device}" : goto middle_basic' in text()
    assert "counter reject with tcp reset" in chain_of(text(), "middle_basic")
    virtual = text(replace(EGRESS, address="172.16.0.50", source="172.16.0.50"))
    # One that is confirmed has its port, though the other end may not have answered yet.
    assert f'"{EGRESS.device}" : goto middle4' in virtual
    assert "ct status & confirmed == 0 goto first_packet4" in chain_of(virtual, "middle4")
    # Before the rule that may take any port.
    kept, any_port = "!= syn snat ip to 172.16.0.50:tcp sport", "snat ip to 172.16.0.50\n"
    assert virtual.index(kept) < virtual.index(any_port)


def test_more_tunnels_than_the_mask_has_numbers_for_have_marks_of_their_own() -> None:
    rules = many(1000)
    inlets = re.findall(r"(0x[0-9a-f]{8}) : goto nat_(\d+)", rules)
    assert len(set(dict(inlets))) == len(inlets) == 1000
    assert {int(mark, 16) & 0x08000000 for mark, _ in inlets} == {0x08000000}
    for mark, inlet in inlets:
        # A bit more than the mask for each doubling, and no other bit is touched.
        assert f"ct mark set ct mark and 0xf00ffff8 or {mark}" in chain_of(rules, f"from_{inlet}")
    assert "0xf00ffff8" not in many(126)


def test_an_ipv6_address_is_shown_to_ipv6_alone() -> None:
    sixth = replace(EGRESS, address="fd00:172::50", source="", source6="fd00:172::50")
    assert "snat ip6 to fd00:172::50" in text(sixth)
    assert "snat ip to" not in text(sixth)
    assert text(replace(sixth, source6="")) == REMOVED


def test_neighbour_discovery_with_a_virtual_address_is_no_visit() -> None:
    sixth = replace(EGRESS, address="fd00:172::50", source="", source6="fd00:172::50")
    assert "fd00:172::50 : goto unsolicited" in text(sixth)
    for kind in ("nd-neighbor-solicit", "nd-neighbor-advert"):
        assert f"icmpv6 type {kind} accept" in text(sixth)
