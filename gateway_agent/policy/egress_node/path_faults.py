"""Describe the rules of other programs that keep packets of pods from leaving this node. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP

from . import legacy_rules
from .exit_paths import Found, Lookup

MIN_BYTES = 60
"""Size of a probe that tests no size: headers of IPv6 and TCP, so that both families have the same size."""
ROUTES_EACH, TURNS_EACH = 4, 4
"""Number of destinations of an egress IP that are probed in each round: one for each next hop, and others in turns."""
OUR_TABLES = (ids.NFT_NODE_INET, ids.NFT_GATEWAY, ids.NFT_FENCE)
IPTABLES = {"ip": "iptables", "ip6": "ip6tables"}
IPTABLES_TABLES = ("filter", "mangle", "raw", "security", "nat")
MAX_RULE_CHARACTERS = 120


@dataclass(frozen=True, order=True)
class TunnelProbe:
    """A test packet that must get through this node."""

    vni: int
    """VNI of the tunnel by which the packet arrives."""
    source: str
    destination: str
    bytes: int = MIN_BYTES
    """Size of the packet, IP header included."""


@dataclass(frozen=True)
class Dropped:
    """The last place at which a probe was seen."""

    family: str
    """Family of the nftables table: ``ip``, ``ip6`` or ``inet``."""
    table: str
    chain: str
    base: str
    """The base chain through which the packet came to ``chain``."""
    rule: str
    """The rule as nft writes it; empty: the policy of the base chain, or unknown."""
    certain: bool
    """True if the rule or policy dropped the packet; otherwise it was lost after the chain."""
    hook: str = ""
    """Hook of the base chain; empty: unknown."""
    legacy: bool = False
    """Table and chain are those of iptables-legacy, which are in no list of nftables."""


MIN_ANSWERS = 20
"""Smallest number of replies from which conclusions are drawn."""
MIN_SHARE = 0.1
"""Share of the replies that must get into a tunnel. A firewall rule against some of them is intended."""


@dataclass(frozen=True)
class Answers:
    """Numbers of replies to packets that came by tunnels."""

    came: int
    """Number of replies that came in from outside."""
    went: int
    """Number of replies that reached the tunnel."""

    def since(self, before: Answers) -> Answers | None:
        """Return the numbers since earlier ones; None if the counters were reset in between."""
        came, went = self.came - before.came, self.went - before.went
        return Answers(came, went) if came >= 0 and went >= 0 else None

    @property
    def enough(self) -> bool:
        """Return True if there are enough replies to draw a conclusion."""
        return self.came >= MIN_ANSWERS


def dropped_answers(window: Answers) -> str:
    """Return the problem, with a remedy, that nearly all replies of a window were dropped; empty if they were not."""
    if window.went >= window.came * MIN_SHARE:
        return ""
    return (
        f"{window.came - window.went} of {window.came} answers from outside did not get into a tunnel: a firewall of "
        f"this node drops them: accept ct state established, or iptables -I FORWARD -o {ids.DEVICE_PREFIX}+ -j ACCEPT"
    )


def probes(plan: Plan, egress: PlanEgressIP, leading: Mapping[Lookup, Found]) -> tuple[TunnelProbe, ...]:
    """Return a probe for each destination of an egress IP; those that go by next hops of their own come first.

    ``leading``: packets whose route leads out by its interface.

    A gateway's own address is no destination of a probe: every egress node drops unsolicited packets to it.
    """
    if plan.isolated or plan.me is None:
        return ()
    own = {each.address for each in plan.egress_ips}
    by_hop: dict[str, TunnelProbe] = {}
    found: dict[TunnelProbe, None] = {}
    for lookup, route in leading.items():
        if lookup.destination not in own:
            probe = TunnelProbe(egress.vni, lookup.source, lookup.destination)
            by_hop.setdefault(route.next_hop, probe)
            found[probe] = None
    return tuple(dict.fromkeys((*by_hop.values(), *found)))


def of_round(
    every: Sequence[TunnelProbe], lost: Collection[TunnelProbe], round_number: int
) -> tuple[TunnelProbe, ...]:
    """Return the probes of one round: some are sent each time, the others take turns.

    ``every``: see :func:`probes`. ``lost``: the probes that did not get through in the previous round; they are sent
    again, so that a probe can be lost in two consecutive rounds. ``round_number``: number of the round.
    """
    others = every[ROUTES_EACH:]
    begin = round_number * TURNS_EACH % len(others) if others else 0
    taking_turns = (*others, *others)[begin : begin + min(TURNS_EACH, len(others))]
    again = [probe for probe in others if probe in lost][:TURNS_EACH] if lost else []
    return tuple(dict.fromkeys((*every[:ROUTES_EACH], *again, *taking_turns)))


def large(plan: Plan, probes: Sequence[TunnelProbe]) -> tuple[TunnelProbe, ...]:
    """Return a probe of the tunnels' MTU; none without ``probes``."""
    return tuple(replace(probe, bytes=plan.mtu) for probe in probes[:1])


def too_small(egress: PlanEgressIP, size: int, mtu: int) -> str:
    """Return the problem of an exit that accepts packets of at most ``size`` bytes, less than the tunnels carry."""
    return (
        f"packets of more than {size} bytes do not get from {egress.device} to {egress.interface}, and the tunnels "
        f"carry {mtu}: raise the MTU of {egress.interface} or of the route there, or set tunnel.mtu to {size}"
    )


def reason(egress: PlanEgressIP, probe: TunnelProbe, dropped: Dropped | None) -> str:
    """Return why packets out of the tunnel do not reach the egress interface, with a remedy. ``dropped``: the place."""
    lost = _lost(egress, probe)
    if dropped is None:
        return f"{lost}: this node's firewall lets nothing in from its own address by lo"
    owner = (
        f"{IPTABLES[dropped.family]}-legacy table" if dropped.legacy else f"nftables table {dropped.family}"
    )
    place = f"{owner} {dropped.table}, chain {dropped.chain}"
    if not dropped.certain:
        other = "a rule of iptables-legacy, or another hook of the kernel (see iptables-legacy -S)"
        return f"{lost}: they are lost behind {place}, by {other}"
    by = f"rule {_short(dropped.rule)!r}" if dropped.rule else "the policy of the chain"
    return f"{lost}: {place}, drops them ({by}): {_remedy(egress, dropped)}"


def of_legacy(family: int, before: str, after: str) -> Dropped | None:
    """Return the place where iptables-legacy has dropped packets between two of its lists; None if it has not."""
    drop = legacy_rules.dropping(before, after)
    if drop is None:
        return None
    base = legacy_rules.base(after, drop)
    keyword = "ip6" if family == 6 else "ip"
    return Dropped(keyword, drop.table, drop.chain, base, drop.rule, True, base.lower(), legacy=True)


def unknown_cause(egress: PlanEgressIP, probe: TunnelProbe, error: str) -> str:
    """Return the same problem if the search for the cause has failed."""
    return f"{_lost(egress, probe)}: the rule that drops them was not found, {error}"


def _lost(egress: PlanEgressIP, probe: TunnelProbe) -> str:
    return f"packets to {probe.destination} do not get from {egress.device} to {egress.interface}"


def _remedy(egress: PlanEgressIP, dropped: Dropped) -> str:
    if dropped.table in OUR_TABLES:
        return "another program changes marks, routes or addresses of these packets"
    if dropped.table == "firewalld":
        return f"firewall-cmd --permanent --zone=trusted --add-interface={egress.device} && firewall-cmd --reload"
    if dropped.chain.startswith("ufw-"):
        return f"ufw route allow in on {egress.device} out on {egress.interface}"
    # After routing, the input interface of a packet is no longer known.
    leaving = dropped.hook == "postrouting"
    if dropped.family in IPTABLES and dropped.table in IPTABLES_TABLES and dropped.base.isupper():
        table = "" if dropped.table == "filter" else f" -t {dropped.table}"
        matching = [f"-o {egress.interface}"] if leaving else [f"-i {ids.DEVICE_PREFIX}+"]
        # A firewall that drops packets may drop their replies, too, which no probe shows.
        matching += [f"-o {ids.DEVICE_PREFIX}+"] if _sees_answers(dropped) else []
        program = IPTABLES[dropped.family] + ("-legacy" if dropped.legacy else "")
        command = f"{program}{table} -I {dropped.base}"
        return " && ".join(f"{command} {each} -j ACCEPT" for each in matching)
    matching = [f'oifname "{egress.interface}"'] if leaving else [f'iifname "{ids.DEVICE_PREFIX}*"']
    matching += [f'oifname "{ids.DEVICE_PREFIX}*"'] if _sees_answers(dropped) else []
    command = f"nft insert rule {dropped.family} {dropped.table} {dropped.base}"
    return " && ".join(f"{command} {each} accept" for each in matching)


def _sees_answers(dropped: Dropped) -> bool:
    """Return True if replies pass the base chain with their tunnel as the output interface."""
    return (dropped.hook or dropped.base.lower()) == "forward"


def _short(rule: str) -> str:
    return rule if len(rule) <= MAX_RULE_CHARACTERS else rule[: MAX_RULE_CHARACTERS - 1] + "…"
