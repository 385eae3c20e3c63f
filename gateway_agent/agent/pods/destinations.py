"""Find the exits of the packets of each tag, and the connections that a change of an exit makes stale."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network

from cni.plan import Destination, Plan, PlanEgressIP

ForwardingEntries = frozenset[tuple[str, str, str]]
"""Prefix, egress id and next hop of this node, for each destination."""
NO_ENTRIES: ForwardingEntries = frozenset()


class DestinationMap:
    """The forwarding entries of one plan; without a plan there are none."""

    def __init__(self, plan: Plan | None) -> None:
        self._plan = plan
        self._sets = (
            {policy_set.group: policy_set.destinations for policy_set in plan.policy_sets} if plan else {}
        )
        self._egress_ips = {egress.id: egress for egress in plan.egress_ips} if plan else {}
        self._of: dict[int, ForwardingEntries] = {}

    def of(self, group: int) -> ForwardingEntries:
        """Return the forwarding entries of a tag: the same object each time."""
        if self._plan is None:
            return NO_ENTRIES
        if group not in self._of:
            self._of[group] = frozenset(
                (each.prefix, each.egress_id, _how(self._plan, self._egress_ips.get(each.egress_id), each))
                for each in self._sets.get(group, ())
            )
        return self._of[group]


def _how(plan: Plan, egress: PlanEgressIP | None, destination: Destination) -> str:
    """Return how this node reaches the egress IP of a destination; empty if the plan lacks the egress IP."""
    if egress is None:
        return ""
    family = 6 if ":" in destination.prefix else 4
    if egress.direct and not (egress.master and egress.family == family):
        return "direct"
    return "here" if plan.serves(egress) else "tunnel"


def changed_path(before: ForwardingEntries, now: ForwardingEntries) -> Callable[[str], bool]:
    """Return a function that returns True if the exit of packets to a remote address has changed."""
    return lambda remote: _entry(before, remote) != _entry(now, remote)


def _entry(leading: ForwardingEntries, address: str) -> tuple[str, str] | None:
    """Return the egress IP of a packet to ``address``, and how this node reaches it; None if no entry matches."""
    remote = ip_address(address)
    return next(
        ((egress_id, how) for prefix, egress_id, how in leading if remote in ip_network(prefix)), None
    )
