"""Decide from route look-ups if packets out of a tunnel would leave by the egress interface. Pure.

A policy without destinations means everything outside: for that the kernel looks up one address without a more specific
route, so the answer is the default route. For each other destination, it looks up the first address that is not
excluded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP

from ...manifests import prefixes
from ...manifests.model import Policy
from ...manifests.prefixes import Family, Span

Ranges = tuple[tuple[int, int], ...]
"""First and last numbers of ranges of addresses."""
EVERYTHING: Mapping[int, str] = {4: "203.0.113.1", 6: "2001:db8::1"}
"""Addresses that no machine has (RFC 5737, RFC 3849), by family."""
LOOPBACK = "lo"


@dataclass(frozen=True, order=True)
class Lookup:
    """A route look-up for a packet out of a tunnel."""

    destination: str
    source: str
    device: str
    """The interface by which the packet arrived, as a tunnel; empty: that of the route to its source."""
    mark: int
    """Mark of the packet; 0: none, so that the main table decides."""


class SourceRefusal(Enum):
    """Reason for which the kernel's check of sources drops packets out of a tunnel."""

    STRICT = "the route back to their source leads elsewhere"
    UNROUTED = "no route leads back to their source"


@dataclass(frozen=True)
class Found:
    """The kernel's answer."""

    interface: str = ""
    next_hop: str = ""
    """Address of the next hop; empty if the destination is on the link."""
    error: str = ""
    """The kernel's message if there is no route, or if it refuses the packet; empty if it would forward it."""
    refusal: SourceRefusal | None = None
    """Reason for the error if the kernel's check of sources is its cause."""


def lookups(
    plan: Plan, egress: PlanEgressIP, policies: Iterable[Policy], never: Collection[str]
) -> Mapping[Lookup, str]:
    """Return the look-ups for an egress IP, each with a text that names the destination it represents.

    ``policies``: those of its gateway. ``never``: prefixes that are steered to no gateway.
    """
    family: Family = 6 if egress.family == 6 else 4
    return _asked(plan, egress, destinations(policies, never, family))


def lookups_to(plan: Plan, egress: PlanEgressIP, destinations: Iterable[str]) -> Mapping[Lookup, str]:
    """Return the look-ups for prefixes of which no part is excluded."""
    spans = ((prefix, prefixes.span(prefix)) for prefix in destinations)
    addresses = ((first_host(span, ()), prefix) for prefix, span in spans if span.family == egress.family)
    return _asked(plan, egress, addresses)


def _asked(plan: Plan, egress: PlanEgressIP, destinations: Iterable[tuple[str, str]]) -> Mapping[Lookup, str]:
    """Return the look-ups for addresses, each with its text; none if there is no other node.

    The source is an address of another node: the kernel refuses a packet from outside with an address of this node.
    """
    peer = next((node for node in plan.nodes if node.name != plan.node), None)
    if peer is None:
        return {}
    source = ids.inner(peer.address, egress.family, egress.sync)
    mark = plan.layout.leaving(egress.slot) if egress.routed else 0
    asked: dict[Lookup, str] = {}
    for address, message in destinations:
        asked.setdefault(Lookup(address, source, egress.device, mark), message)
    return asked


def reason(egress: PlanEgressIP, asked: Mapping[Lookup, str], answers: Mapping[Lookup, Found]) -> str:
    """Return why packets to some destinations would not leave by the egress interface; empty if all would.

    A look-up without an answer so far gives no reason.
    """
    wrong = [
        (message, found)
        for lookup, message in asked.items()
        if (found := answers.get(lookup)) is not None and not _is_right(egress, found)
    ]
    if not wrong:
        return ""
    message, found = wrong[0]
    others = f", and {len(wrong) - 1} more destinations likewise" if len(wrong) > 1 else ""
    return f"{_fault(egress, message, found)}{others}: {_remedy(egress, found)}"


def fault(egress: PlanEgressIP, destination: str, found: Found) -> str:
    """Return why a packet to this destination would not leave by the egress interface; empty if it would."""
    return (
        "" if _is_right(egress, found) else f"{_fault(egress, destination, found)}: {_remedy(egress, found)}"
    )


def _is_right(egress: PlanEgressIP, found: Found) -> bool:
    # Packets to this node itself need no exit.
    return not found.error and found.interface in (egress.interface, LOOPBACK)


def _fault(egress: PlanEgressIP, message: str, found: Found) -> str:
    place = f"routing table {egress.table}" if egress.table else "this node"
    if found.refusal:
        return f"the kernel drops what comes by {egress.device} (rp_filter), since {found.refusal.value}"
    if found.error:
        return f"{place} has no route to {message} ({found.error})"
    via = f" via {found.next_hop}" if found.next_hop else ""
    return f"{place} routes {message} by {found.interface}{via}, not by {egress.interface}"


def _remedy(egress: PlanEgressIP, found: Found) -> str:
    if found.refusal is SourceRefusal.STRICT:
        return f"sysctl -w net.ipv4.conf.{egress.device}.rp_filter=2"
    if found.refusal is SourceRefusal.UNROUTED:
        return "sysctl -w net.ipv4.conf.all.rp_filter=0, or add a route"
    if egress.table:
        return f"ip route add … via ROUTER dev {egress.interface} table {egress.table}"
    return f"ip route add … via ROUTER dev {egress.interface}, or name the router in spec.routing.nextHops"


@dataclass(frozen=True, eq=False)
class _Inside:
    """The prefixes of one family that are steered to no gateway.

    Equal prefixes share one object, compared by identity.
    """

    ranges: Ranges


@lru_cache(maxsize=8)
def _inside(never: tuple[str, ...], family: Family) -> _Inside:
    return _Inside(_merged(never, family))


def destinations(
    policies: Iterable[Policy], never: Collection[str], family: Family
) -> Iterator[tuple[str, str]]:
    """Yield an address for each destination of one family, with the text that names the destination."""
    inside = _inside(tuple(never), family)
    for policy in policies:
        yield from _of_policy(policy.destinations, policy.excluded, inside, family)


# Cached: an edit changes one policy of many.
@lru_cache(maxsize=1 << 12)
def _of_policy(
    destinations: tuple[str, ...], excluded: tuple[str, ...], inside: _Inside, family: Family
) -> tuple[tuple[str, str], ...]:
    left_out = inside.ranges, _merged(excluded, family)
    found = []
    spans = [(prefix, prefixes.span(prefix)) for prefix in destinations]
    if not spans or any((span.family, span.length) == (family, 0) for _, span in spans):
        found.append((EVERYTHING[family], f"everything (IPv{family})"))
    for prefix, span in spans:
        if span.family == family and span.length and (address := first_host(span, left_out)):
            found.append((address, prefix))
    return tuple(found)


def first_host(span: Span, left_out: Iterable[Ranges] = ()) -> str:
    """Return the first address of a prefix that is steered to the gateway; empty if none is."""
    number = span.first + (span.length <= prefixes.WIDTH[span.family] - 2)
    while number <= span.last:
        end = max((_end_of(ranges, number) for ranges in left_out), default=-1)
        if end < number:
            return prefixes.text(span.family, number)
        number = end + 1
    return ""


@lru_cache(maxsize=1024)
def _merged(texts: tuple[str, ...], family: Family) -> Ranges:
    """Return the first and last numbers of prefixes of one family, ascending, none within another."""
    found: list[tuple[int, int]] = []
    for span in sorted(map(prefixes.span, texts)):
        if span.family == family and (not found or span.last > found[-1][1]):
            found.append((span.first, span.last))
    return tuple(found)


def _end_of(ranges: Ranges, number: int) -> int:
    """Return the last number of the range that holds ``number``; -1 if none does."""
    place = bisect_right(ranges, (number, 1 << 129)) - 1
    return ranges[place][1] if place >= 0 and ranges[place][1] >= number else -1
