"""The steering of packets, as nftables rules: an interface's tag and a destination become the mark of a slot. Pure.

As in :mod:`cni.datapath.nft_blocks`, no lookup lets a packet out by finding nothing.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Union

from ..kernel import ids
from ..plan import Plan, PlanEgressIP, PolicySet
from . import own_routing
from .nft_blocks import (
    CONFIRMED,
    KEYWORDS,
    TAGGED,
    TUNNELS,
    UNTAGGED,
    Marks,
    chain,
    dispatch,
    mapping,
    peers,
)

Verdicts = tuple[tuple[str, str], ...]
"""Prefixes of one family, each with its verdict."""
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
BRIDGE_KINDS = ("bridge", "vlan")
"""Kinds of interfaces behind which the mark is from our bridge table, and the interface group is not the port's."""

NEW_CONNECTION_RULE = "ct state new goto new_connection"
"""The first packet of a connection is checked by :mod:`cni.datapath.source_guard`; none of our chains follows."""

INTO_OVERLAY_RULE = "meta l4proto != tcp jump into_overlay"
"""A selected pod's packet is checked by :mod:`cni.datapath.overlay_guard`: before connection tracking, and behind
destination NAT."""


def unverified_reply_rule(marks: Marks) -> str:
    """Return the rule for answers in connections whose source did not route back to the interface of their begin.

    See :mod:`cni.datapath.source_guard`.
    """
    return f"ct mark and {marks.mask} == {marks.tunneled} goto unverified_reply"


def bridge_chains(plan: Plan) -> Iterator[str]:
    """Yield the ``bridge`` table: it copies the tag of a bridge's port, which ``inet`` does not see, into the mark."""
    marks = Marks(plan)
    rules = [
        f"{UNTAGGED} {marks.none} accept",
        f"{TAGGED} goto tagged",
        f"meta mark and {marks.mask} != 0 {marks.clear}",
    ]
    yield chain("tag", rules, "filter hook prerouting priority -300")
    yield dispatch(
        "tagged", "iifgroup", "devgroup", {str(s.group): f"set_{s.number}" for s in plan.policy_sets}
    )
    for policy_set in plan.policy_sets:
        yield chain(f"set_{policy_set.number}", [marks.put("meta", marks.of_set(policy_set.number))])


def inet_chains(plan: Plan, marks: Marks) -> Iterator[str]:
    """Yield chains, maps and sets of the ``inet`` table that give a packet its mark; the guards do the rest."""
    yield chain("steer", _steer(plan, marks), "filter hook prerouting priority dstnat + 10")
    groups = {str(s.group): f"set_{s.number}" for s in plan.policy_sets}
    yield chain("tagged_reply", [unverified_reply_rule(marks), "goto tagged_reply_group"])
    yield chain("reply", [unverified_reply_rule(marks), f"{marks.clear} accept"])
    yield dispatch("tagged", "iifgroup", "devgroup", groups, ["ct direction reply goto tagged_reply"])
    # Replies of a tagged pod return as the original packet came; of a group without a policy set not even these.
    yield dispatch("tagged_reply_group", "iifgroup", "devgroup", dict.fromkeys(groups, "accept_reply"))
    yield chain("accept_reply", [f"{marks.clear} accept"])
    by_mark = {marks.of_set(s.number): f"set_{s.number}" for s in plan.policy_sets}
    yield dispatch("marked", f"meta mark and {marks.mask}", "mark", by_mark)
    yield from _sets(plan, marks)
    refused = routeless(plan)
    for egress in plan.outgoing:
        yield chain(f"steer_{egress.slot}", _steer_slot(plan, egress, marks, egress.id in refused))
    # The route answers the pod with an error, which a verdict here would not, but has no counter.
    yield chain("no_master", ["counter"])
    yield chain("no_gateway", ["counter drop"])
    # Behind any other interface than a bridge the mark is not of our bridge table, but of another program.
    kinds = [f'meta iifkind "{kind}" goto marked' for kind in BRIDGE_KINDS]
    yield chain("maybe_marked", [*kinds, marks.clear, "goto unsteered"])
    yield chain("unsteered", [f"{marks.own} goto off_path", NEW_CONNECTION_RULE])
    yield chain("off_path", _off_path())


def _steer(plan: Plan, marks: Marks) -> Iterator[str]:
    # First what has nothing to do with us, see :mod:`cni.datapath.hooks`.
    begun = "ct state established,related"
    yield f"{marks.foreign} {begun} {UNTAGGED} {marks.none} iifname != {TUNNELS} accept"
    # A tunnel's packets are answered by none of their own connection. They are judged where they are delivered, see
    # :mod:`cni.datapath.tunnel_port_guard`, and not forwarded.
    yield f"udp dport {plan.port} {UNTAGGED} {marks.none} accept"
    yield f"{TAGGED} goto tagged"
    yield "ct direction reply goto reply"
    # Before it is routed: the address inside the tunnels may be none of this node's.
    yield f'iifname "{ids.RETURN_DEVICE}" counter drop'
    yield f"meta mark and {marks.mask} != 0 goto maybe_marked"
    yield "goto unsteered"


def _sets(plan: Plan, marks: Marks) -> Iterator[str]:
    """Yield the chain of each policy set and its maps of destinations, which are named by their content."""
    written: dict[Verdicts, str] = {}
    verdicts_of = {
        version: {egress.id: _verdict(egress, version) for egress in plan.egress_ips} for version in KEYWORDS
    }
    for policy_set in plan.policy_sets:
        rules = [marks.clear]
        for version, keyword in KEYWORDS.items():
            verdicts = _verdicts(verdicts_of[version], policy_set, version)
            if verdicts and verdicts not in written:
                elements = list(_elements(verdicts))
                written[verdicts] = (
                    f"destinations{version}_{hashlib.sha256(' '.join(elements).encode()).hexdigest()[:16]}"
                )
                yield mapping(written[verdicts], f"ipv{version}_addr", elements, interval=True)
            if verdicts:
                rules += [
                    f"{keyword} daddr vmap @{written[verdicts]}",
                    f"meta nfproto ipv{version} counter drop",
                ]
        yield chain(f"set_{policy_set.number}", [*rules, "goto unsteered_pod"])


def _verdicts(known: Mapping[str, str], policy_set: PolicySet, version: int) -> Verdicts:
    """Return the verdict for each prefix. Many sets have the same ones, above all those that are prepared.

    ``known``: by the id of the egress IP.
    """
    family6 = version == 6
    destinations = (each for each in policy_set.destinations if (":" in each.prefix) == family6)
    return tuple((each.prefix, known.get(each.egress_id, "goto no_gateway")) for each in destinations)


def _elements(verdicts: Verdicts) -> Iterator[str]:
    networks = [ipaddress.ip_network(prefix) for prefix, _ in verdicts]
    for network, (_, verdict) in zip(networks, verdicts):
        yield f"{network} : {verdict}"
    for first, last in gaps(networks):
        yield f"{first}-{last} : goto unsteered_pod"


def gaps(networks: Sequence[Network]) -> Iterator[tuple[Address, Address]]:
    """Yield first and last address of each range between disjoint networks of one family.

    Networks and ranges together are every address.
    """
    if not networks:
        return
    free = 0
    kind = type(networks[0].network_address)
    for network in sorted(networks, key=lambda network: int(network.network_address)):
        if int(network.network_address) > free:
            yield kind(free), network.network_address - 1
        free = int(network.broadcast_address) + 1
    if free < 1 << networks[0].max_prefixlen:
        yield kind(free), kind((1 << networks[0].max_prefixlen) - 1)


def widest(networks: Sequence[Network]) -> Iterator[str]:
    """Yield what an address is compared with to find that it is in one of the two widest :func:`gaps`.

    That is one range around both, and the hole between them: nothing where the gaps are the ends of all addresses.
    """
    found = sorted(gaps(networks), key=lambda gap: int(gap[0]) - int(gap[1]))[:2]
    if not found:
        return
    found.sort(key=lambda gap: int(gap[0]))
    first, last = found[0][0], found[-1][1]
    if int(first) or int(last) + 1 < 1 << first.max_prefixlen:
        yield _range(first, last)
    if len(found) > 1:
        yield f"!= {_range(found[0][1] + 1, found[1][0] - 1)}"


def _range(first: Address, last: Address) -> str:
    return f"{first}" if first == last else f"{first}-{last}"


def _verdict(egress: PlanEgressIP, version: int) -> str:
    served = bool(egress.master) and egress.family == version
    if egress.direct and not served:
        return "goto unsteered_pod"
    return f"goto steer_{egress.slot}" if egress.slot else "goto no_gateway"


def routeless(plan: Plan) -> frozenset[str]:
    """Return the ids of the outgoing egress IPs whose packets only an ``unreachable`` route takes on this node."""
    tunnels = plan.me is not None and bool(plan.tunnels)
    reachable = {node.name for node in peers(plan)} if tunnels else set()
    return frozenset(
        egress.id
        for egress in plan.outgoing
        if not plan.serves(egress)
        and (egress.master not in reachable or (egress.family == 6 and plan.mtu < ids.IPV6_MIN_MTU))
    )


def _steer_slot(plan: Plan, egress: PlanEgressIP, marks: Marks, counted: bool) -> Iterator[str]:
    """Yield the rules that give a slot's packets their mark. ``counted``: no route takes them, so they are counted."""
    slot = marks.of(egress.slot)
    leaves = plan.serves(egress) and own_routing.of(egress)
    steered = marks.put("meta", marks.leaving(egress.slot) if leaves else slot)
    if not counted:
        # Most packets: the connection is on this path already.
        yield f"ct mark and {marks.mask} == {slot} {steered} accept"
    # A connection keeps the source address of its first packet: it cannot move to another path.
    yield f"{CONFIRMED} ct mark and {marks.mask} != {slot} goto off_path"
    yield "ct state invalid,untracked goto off_path"
    yield INTO_OVERLAY_RULE
    if counted:
        yield "jump no_master"
    yield marks.put("ct", slot)
    yield steered


def _off_path() -> Iterator[str]:
    yield "meta l4proto tcp ct state established counter reject with tcp reset"
    yield "counter drop"
