"""Choose the packets that ``egressctl test`` sends by each egress IP, as a pod of this node would. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from cni.plan import Plan, PlanEgressIP

from ...manifests import prefixes
from . import exit_paths

HTTPS = 443
"""The most frequent service, so that rules of other programs treat the packet as they treat those of pods."""
HOPS_BEHIND_TUNNEL, HOPS_BEHIND_MASTER = 3, 2
"""Hop limits with which a packet expires at the next hop of the master: a packet of another node's pod is routed twice
before that, a packet of the master's own pods once.
"""
ALL_HOPS = 64


class Answer(enum.Enum):
    """The answer to a probe."""

    NONE = "none"
    ACCEPTED = "accepted"
    """The destination takes the connection."""
    REFUSED = "refused"
    """The destination does not take it: a TCP reset."""
    EXPIRED = "hop limit reached"
    """A router reports that the hop limit is exceeded."""
    UNREACHABLE = "unreachable"
    """A router or a host reports that the packet cannot be delivered."""


@dataclass(frozen=True)
class PodProbe:
    """A TCP packet that opens a connection."""

    egress_id: str
    group: int
    """Interface group of the pod: the tag of a policy set that sends it by the egress IP."""
    destination: str
    port: int
    hops: int
    """Hop limit with which the pod sends it."""


@dataclass(frozen=True)
class PodAnswer:
    """The result of a probe."""

    answer: Answer = Answer.NONE
    sender: str = ""
    """Address of the machine that answered."""
    milliseconds: float = 0.0
    source: tuple[str, int] = ("", 0)
    """Address and port of the pod."""
    left_as: tuple[str, int] | None = None
    """Source address and port with which the packet left this node, by the node's connection table; None: it did not
    leave.
    """
    arrived_as: tuple[str, int] | None = None
    """Source address and port outside, by the master's connection table; None: this node is the master, or the master
    could not be asked.
    """


def probe(plan: Plan, egress: PlanEgressIP, to: str, port: int) -> PodProbe | None:
    """Return a probe by an egress IP; None if no policy steers packets to it, or none to ``to``.

    ``to``: the destination address of the probe; empty: the probe expires at the next hop of the master.
    """
    near = HOPS_BEHIND_MASTER if plan.serves(egress) else HOPS_BEHIND_TUNNEL
    for policy_set in plan.policy_sets:
        led = [each.prefix for each in policy_set.destinations if each.egress_id == egress.id]
        destination = next(_destinations(led, egress.family, to), "")
        if destination:
            return PodProbe(egress.id, policy_set.group, destination, port or HTTPS, ALL_HOPS if to else near)
    return None


def _destinations(led: list[str], family: int, to: str) -> Iterator[str]:
    """Yield addresses of one family in these prefixes, the best first: an address that no machine has."""
    spans = [span for span in map(prefixes.span, led) if span.family == family]
    for wanted in (to,) if to else (exit_paths.EVERYTHING[family],):
        version, number = prefixes.number(wanted)
        if version == family and any(span.first <= number <= span.last for span in spans):
            yield wanted
    if not to:
        yield from filter(None, (exit_paths.first_host(span) for span in spans))
