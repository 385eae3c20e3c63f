"""The guard's text. What the kernel makes of it: ``tests/netns/test_pod_guard.py``."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.kernel import ids
from cni.kernel.nftables.update import tables
from gateway_agent.gateway_rules.pod_guard import guard_nft, no_guard

TABLE = f"inet {ids.NFT_GUARD}"


def unjudged(text: str) -> list[str]:
    """Return the rules for a packet of a pod that nobody has judged."""
    body = tables(text)[TABLE]["chain", "unjudged"]
    return [line.strip() for line in body.splitlines() if line.strip()]


def accepted(rules: list[str], keyword: str) -> list[str]:
    """Return the prefixes that are accepted."""
    found = [rule for rule in rules if rule.startswith(f"{keyword} daddr {{ ")]
    return [each for rule in found for each in rule.split("{ ")[1].split(" }")[0].split(", ")]


networks = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
).map(lambda drawn: f"{drawn[0]}/{drawn[1]}")


@given(st.lists(networks, max_size=8))
def test_what_is_inside_passes_and_prefixes_do_not_overlap(inside: list[str]) -> None:
    """Nft refuses a set with prefixes that overlap, and with it the whole guard."""
    rules = unjudged(guard_nft(inside, ()))
    for version, keyword in ((4, "ip"), (6, "ip6")):
        kept = [ip_network(prefix) for prefix in accepted(rules, keyword)]
        assert not any(a.overlaps(b) for i, a in enumerate(kept) for b in kept[:i])
        wanted = [ip_network(prefix, strict=False) for prefix in inside]
        for each in (network for network in wanted if network.version == version):
            assert any(ip_address(each.network_address) in network for network in kept)
            assert any(ip_address(each.broadcast_address) in network for network in kept)
        assert sum(network.num_addresses for network in kept) <= sum(
            network.num_addresses for network in wanted if network.version == version
        )


@pytest.mark.parametrize("inside", [(), ("10.0.0.0/8",), ("fd00::/8", "10.0.0.0/8")])
def test_all_else_is_dropped(inside: tuple[str, ...]) -> None:
    assert unjudged(guard_nft(inside, ("docker0",)))[-1] == "counter drop"


def test_an_excepted_interface_passes_by_its_name_or_by_how_it_begins() -> None:
    rules = unjudged(guard_nft((), ("veth-vm*", "docker0", "docker0")))
    assert [rule for rule in rules if rule.startswith("iifname")] == [
        'iifname "docker0" accept',
        'iifname "veth-vm*" accept',
    ]


@pytest.mark.parametrize("name", ["", "*", 'a" accept; #', "a b", "a" * 16, "a" * 15 + "*", "a*b", "a\n"])
def test_no_name_gets_in_as_more_than_a_name(name: str) -> None:
    assert unjudged(guard_nft((), (name,))) == unjudged(guard_nft((), ()))


def test_the_mark_of_a_bridges_port_is_taken_away_before_the_packet_is_judged() -> None:
    body = tables(guard_nft((), ()))[TABLE]["chain", "from_port"]
    clear, judge = (line.strip() for line in body.splitlines() if line.strip())
    assert clear == "meta priority set meta priority and 0xdfffffff"
    assert judge == "goto unjudged"


def test_no_guard_removes_what_a_guard_makes() -> None:
    text = no_guard()
    for table in tables(guard_nft(("10.0.0.0/8",), ())):
        assert f"delete table {table}\n" in text
    assert "chain" not in text
