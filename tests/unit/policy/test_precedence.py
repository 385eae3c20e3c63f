"""Disjoint prefixes against the definition, packet by packet."""

from __future__ import annotations

import bisect
import ipaddress
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni.plan import Destination
from gateway_agent.manifests import prefixes
from gateway_agent.policy import precedence
from gateway_agent.policy.precedence import Entry, disjoint, lookup

WIDTHS = {4: 32, 6: 128}
# Few leading bits, so that prefixes meet, nest and touch; both ends of the address space are among them.
BASES = {
    4: [0x00000000, 0x0A000000, 0xCB007100, 0xFFFFFF00],
    6: [0, 0x20010DB8 << 96, 0xFF << 120, (1 << 128) - 256],
}


@st.composite
def some_prefixes(draw: st.DrawFn) -> str:
    family = draw(st.sampled_from([4, 6]))
    width = WIDTHS[family]
    length = draw(st.one_of(st.integers(0, 8), st.integers(width - 8, width)))
    number = draw(st.sampled_from(BASES[family])) | draw(st.integers(0, 255))
    number |= draw(st.integers(0, 7)) << (width - 3)
    number = number >> (width - length) << (width - length)
    make = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
    return f"{make(number)}/{length}"


lists = st.lists(some_prefixes(), max_size=5).map(tuple)
entries = st.lists(
    st.builds(Entry, st.sampled_from("abcdef"), st.sampled_from(["1", "2", "3"]), lists, lists,
              st.sampled_from(["", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"])),
    max_size=5, unique_by=lambda entry: entry.name,
)  # fmt: skip


def boundaries(texts: set[str]) -> set[str]:
    """First and last address of each prefix, and their neighbours outside."""
    found = set()
    for text in texts | {"0.0.0.0/0", "::/0"}:
        network = ipaddress.ip_network(text)
        first, last = int(network.network_address), int(network.broadcast_address)
        make = ipaddress.IPv4Address if network.version == 4 else ipaddress.IPv6Address
        for number in (first - 1, first, last, last + 1):
            if 0 <= number < 1 << WIDTHS[network.version]:
                found.add(str(make(number)))
    return found


class Map:
    """The ways as a router sees them; refuses any that overlap."""

    def __init__(self, destinations: tuple[Destination, ...]) -> None:
        networks = [(ipaddress.ip_network(each.prefix), each.egress_id) for each in destinations]
        self.ranges = sorted(
            (n.version, int(n.network_address), int(n.broadcast_address), e) for n, e in networks
        )
        for (family, _, last, _), (next_family, first, _, _) in itertools.pairwise(self.ranges):
            assert (family, last) < (next_family, first), "prefixes overlap"

    def at(self, address: str) -> str | None:
        parsed = ipaddress.ip_address(address)
        place = bisect.bisect(self.ranges, (parsed.version, int(parsed), 1 << 128, "")) - 1
        family, first, last, egress_id = self.ranges[place] if place >= 0 else (0, 0, 0, "")
        return egress_id if family == parsed.version and first <= int(parsed) <= last else None


# The machine may be busy: how long one example takes proves nothing.
@settings(deadline=None)
@given(entries, lists)
def test_map_is_the_definition(entries: list[Entry], never: tuple[str, ...]) -> None:
    destinations = Map(disjoint(entries, never))
    texts = {*never, *itertools.chain.from_iterable((*e.destinations, *e.excluded) for e in entries)}
    for address in boundaries(texts):
        match = lookup(entries, never, address)
        assert destinations.at(address) == (match.entry.egress_id if match else None), address


@settings(deadline=None)
@given(entries, lists)
def test_ways_are_ascending_disjoint_and_the_fewest(entries: list[Entry], never: tuple[str, ...]) -> None:
    destinations = disjoint(entries, never)
    networks = [ipaddress.ip_network(each.prefix) for each in destinations]
    assert networks == sorted(networks, key=lambda n: (n.version, n.network_address))
    for egress_id in {each.egress_id for each in destinations}:
        for version in (4, 6):
            mine = [n for n, each in zip(networks, destinations, strict=True)
                    if each.egress_id == egress_id and n.version == version]  # fmt: skip
            assert list(ipaddress.collapse_addresses(mine)) == mine  # type: ignore[type-var]


@settings(deadline=None)
@given(entries, lists, st.randoms(use_true_random=False))
def test_order_of_the_entries_does_not_count(
    entries: list[Entry], never: tuple[str, ...], random: object
) -> None:
    shuffled = list(entries)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert disjoint(shuffled, never) == disjoint(entries, never)


def disjoint_pairs(*entries: Entry, never: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    return [(each.prefix, each.egress_id) for each in disjoint(entries, never)]


def test_excluded_prefix_is_cut_out() -> None:
    entry = Entry("a", "1", ("203.0.113.0/30",), ("203.0.113.1/32",))
    assert disjoint_pairs(entry) == [("203.0.113.0/32", "1"), ("203.0.113.2/31", "1")]


def test_exclusion_of_one_policy_leaves_what_another_selects() -> None:
    wide = Entry("wide", "1", ("203.0.113.0/24",), ("203.0.113.128/25",))
    other = Entry("other", "2", ("203.0.112.0/23",))
    assert disjoint_pairs(wide, other) == [
        ("203.0.112.0/24", "2"),
        ("203.0.113.0/25", "1"),
        ("203.0.113.128/25", "2"),
    ]


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        (Entry("a", "1", ("10.0.0.0/8",)), Entry("b", "2", ("10.0.0.0/8",)), "1"),
        (Entry("a", "1", ("10.0.0.0/8",)), Entry("b", "2", ("10.0.0.0/8",), created="2026-01-01T00:00:00Z"), "2"),
        (Entry("a", "1", ("10.0.0.0/8",), created="2027-01-01T00:00:00Z"),
         Entry("b", "2", ("10.0.0.0/8",), created="2026-01-01T00:00:00Z"), "2"),
        (Entry("a", "1", ("10.0.0.0/8",), created="2026-01-01T00:00:00Z"), Entry("b", "2", ("10.0.0.0/9",)), "2"),
        (Entry("a", "1", created="2026-01-01T00:00:00Z"), Entry("b", "2", ("10.0.0.0/8",)), "2"),
        # The longest prefix of b excludes the address: b does not count at all for it.
        (Entry("a", "1", ("10.0.0.0/8",)), Entry("b", "2", ("10.0.0.0/9", "10.0.0.0/8"), ("10.0.0.0/16",)), "1"),
    ],
)  # fmt: skip
def test_precedence(first: Entry, second: Entry, winner: str) -> None:
    match = lookup([first, second], (), "10.0.0.1")
    assert match is not None
    assert match.entry.egress_id == winner


def test_no_destination_means_everything_but_what_is_never_sent() -> None:
    never = precedence.never_sent(["10.244.0.0/16"], ["172.16.0.7", "fd00::7"])
    found = Map(disjoint([Entry("a", "1")], never))
    for address in ("10.244.3.4", "172.16.0.7", "fd00::7", "127.0.0.1", "169.254.169.254", "224.0.0.251",
                    "255.255.255.255", "0.0.0.0", "::1", "::", "fe80::1", "ff02::1"):  # fmt: skip
        assert found.at(address) is None, address
    for address in ("203.0.113.10", "172.16.0.8", "fd00::8", "10.245.0.0", "10.243.255.255"):
        assert found.at(address) == "1", address


def test_reasons_of_what_is_never_sent() -> None:
    never = precedence.never_sent(["10.244.0.0/16"], ["10.244.0.1"])
    held = precedence.holding(never, "10.244.0.1")
    assert held == "10.244.0.1/32"
    assert never[held] == "address of a node"
    assert never[precedence.holding(never, "10.244.0.2") or ""] == "cluster network"


@given(st.sampled_from([4, 6]), st.integers(0, 1 << 20), st.integers(0, 1 << 12))
def test_cover_is_what_the_standard_library_says(family: prefixes.Family, first: int, more: int) -> None:
    make = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
    expected = ipaddress.summarize_address_range(make(first), make(first + more))
    found = prefixes.cover(family, first, first + more)
    # Compared as networks: the C library writes ::1:0 as ::0.1.0.0.
    assert [ipaddress.ip_network(text) for text in found] == list(expected)


def test_each_family_is_led_to_its_own_egress_ip() -> None:
    entry = Entry("a", "4", ("203.0.113.0/24", "2001:db8::/32"), egress_id6="6")
    assert disjoint_pairs(entry) == [("203.0.113.0/24", "4"), ("2001:db8::/32", "6")]
    assert (entry.leads_to(4), entry.leads_to(6)) == ("4", "6")
    both = Entry("b", "1", ("198.51.100.0/24", "2001:db8:1::/48"))
    assert disjoint_pairs(entry, both) == [
        ("198.51.100.0/24", "1"), ("203.0.113.0/24", "4"), ("2001:db8::/48", "6"), ("2001:db8:1::/48", "1"),
        *((f"2001:db8:{1 << bit:x}::/{48 - bit}", "6") for bit in range(1, 16)),
    ]  # fmt: skip
