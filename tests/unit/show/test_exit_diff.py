"""Exits of a pod in two plans: any two lists of prefixes, compared address by address."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.show.exit_diff import DIRECT, Exits, changes

NAMES = st.sampled_from(["partner 172.16.0.50", "other", "dropped"])


@st.composite
def exits(draw: st.DrawFn) -> Exits:
    """Return disjoint prefixes within 10.0.0.0/28 with the name of an exit for each, and sometimes all of IPv6."""
    found: dict[str, str] = {"::/0": draw(NAMES)} if draw(st.booleans()) else {}
    free = [ip_network("10.0.0.0/28")]
    while free:
        network = free.pop()
        if draw(st.booleans()):
            found[str(network)] = draw(NAMES)
        elif network.prefixlen < 32 and draw(st.booleans()):
            free += network.subnets()
    return found


def exit_of(known: Exits, address: str) -> str:
    return next((name for prefix, name in known.items() if ip_address(address) in ip_network(prefix)), DIRECT)


@given(exits(), exits())
def test_each_address_is_in_the_changes_as_the_prefixes_say(before: Exits, after: Exits) -> None:
    found = changes(before, after)
    for address in (*map(str, ip_network("10.0.0.0/27")), "9.255.255.255", "203.0.113.1", "2001:db8::1"):
        exits = exit_of(before, address), exit_of(after, address)
        concerned = [change for change in found if change.concerns(address)]
        assert [(change.before, change.after) for change in concerned] == [exits] * (exits[0] != exits[1])
        for change in concerned:
            assert [ip_address(address) in ip_network(prefix) for prefix in change.prefixes].count(True) == 1


def test_all_of_both_families_may_change() -> None:
    everything = {"0.0.0.0/0": "a", "::/0": "a"}
    assert [change.prefixes for change in changes({}, everything)] == [("0.0.0.0/0",), ("::/0",)]


def test_neighbours_with_the_same_exits_are_one_change() -> None:
    halves = {"10.0.0.0/25": "a", "10.0.0.128/25": "a"}
    assert changes(halves, {"10.0.0.0/24": "a"}) == ()
    assert [change.prefixes for change in changes(halves, {})] == [("10.0.0.0/24",)]
