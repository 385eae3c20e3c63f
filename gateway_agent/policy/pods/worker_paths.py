"""Decide from route look-ups if packets of this node's pods get into the tunnels, and answers out of them. Pure.

The kernel is asked about one address for each destination of a policy, as on egress nodes: see
:mod:`..egress_node.exit_paths`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP

from ...manifests.model import Policy, Problem
from ...manifests.prefixes import Family
from ..egress_node import exit_paths
from ..egress_node.exit_paths import Found, Lookup, SourceRefusal

UNROUTED = SourceRefusal.UNROUTED
MAX_LOOKUPS = 200
"""Number of look-ups in a round, shared by the egress IPs: each gets one destination at least, the first ones."""


@dataclass(frozen=True)
class Asked:
    """The meaning of one look-up."""

    egress: PlanEgressIP
    destination: str
    """Text that names the destination."""
    answer: bool
    """True for an answer out of the tunnel, False for a packet of a pod."""


def lookups(
    plan: Plan, policies: Iterable[Policy], never: Collection[str], pods: Iterable[str]
) -> Mapping[Lookup, Asked]:
    """Return the look-ups for the egress IPs by which this node's pods leave through a tunnel.

    ``never``: prefixes that are steered to no gateway. ``pods``: addresses of tagged pods of this node. The first one
    of each family stands for all of its family; without one, only answers are looked up.
    """
    tunneled = [egress for egress in plan.outgoing if not plan.serves(egress)]
    if plan.me is None or not tunneled:
        return {}
    of_gateway: dict[str, list[Policy]] = {}
    for policy in policies:
        of_gateway.setdefault(policy.gateway, []).append(policy)
    sources: dict[int, str] = {}
    for address in sorted(pods):
        sources.setdefault(6 if ":" in address else 4, address)
    each = max(1, MAX_LOOKUPS // (2 * len(tunneled)))
    asked: dict[Lookup, Asked] = {}
    for egress in tunneled:
        family: Family = 6 if egress.family == 6 else 4
        here = ids.inner(plan.me.address, family, egress.sync)
        found = exit_paths.destinations(of_gateway.get(egress.gateway, ()), never, family)
        for address, text in islice(found, each):
            if family == 4:  # IPv6 has no check of sources.
                asked[Lookup(here, address, egress.device, 0)] = Asked(egress, text, answer=True)
            if family in sources:
                mark = plan.layout.number(egress.slot)
                asked[Lookup(address, sources[family], "", mark)] = Asked(egress, text, answer=False)
    return asked


def problems(plan: Plan, asked: Mapping[Lookup, Asked], answers: Mapping[Lookup, Found]) -> Iterator[Problem]:
    """Yield the problems that the kernel's answers show, each kind once with its first destination."""
    wrong: dict[bool, list[tuple[Asked, Found]]] = {True: [], False: []}
    for lookup, about in asked.items():
        found = answers.get(lookup)
        if found and (found.refusal is UNROUTED if about.answer else _is_led_away(about.egress, found)):
            wrong[about.answer].append((about, found))
    for answer, cases in wrong.items():
        if cases:
            about, found = cases[0]
            others = f", and {len(cases) - 1} more destinations" if len(cases) > 1 else ""
            yield (_dropped if answer else _led_away)(plan, about, found, others)


def _is_led_away(egress: PlanEgressIP, found: Found) -> bool:
    # Without a master the route is one that refuses. This is said elsewhere.
    return bool(found.interface) and found.interface != egress.device


def _dropped(plan: Plan, about: Asked, found: Found, others: str) -> Problem:
    message = (
        f"the kernel drops answers from {about.destination}{others} out of {about.egress.device}: "
        "net.ipv4.conf.all.rp_filter is on, and this node has no route to them, or one that refuses (blackhole, "
        "unreachable, prohibit)"
    )
    hint = "sysctl -w net.ipv4.conf.all.rp_filter=0, or add a route, or remove the one that refuses"
    return Problem(f"node {plan.node}", "", message, hint)


def _led_away(plan: Plan, about: Asked, found: Found, others: str) -> Problem:
    via = f" via {found.next_hop}" if found.next_hop else ""
    message = (
        f"the kernel routes packets of selected pods to {about.destination}{others} by {found.interface}{via}, not by "
        f"the tunnel {about.egress.device}, and they are dropped: a routing rule of another program comes before ours "
        f"(priorities from {ids.RULE_PRIORITY_BASE} on)"
    )
    hint = f"ip rule: give the rule that leads there a higher number than ours, or fwmark 0/{plan.mask:#x}"
    return Problem(f"node {plan.node}", "", message, hint)
