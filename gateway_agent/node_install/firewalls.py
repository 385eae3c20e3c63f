"""Decide whether packet filters of other programs accept the packets that this node needs. Pure.

Packet filters are programs. This module understands the form of nearly all firewalls: a base chain that drops or
rejects packets that no rule accepts. Rules with simple conditions are evaluated; any other rule counts as one that may
accept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cni.kernel import ids

OURS = frozenset((ids.NFT_NODE_INET, ids.NFT_GATEWAY, ids.NFT_FENCE, ids.NFT_GUARD, ids.NFT_TRACE))
TRANSPORTS = ("tcp", "udp")
Rule = Mapping[str, Any]


class Outcome(StrEnum):
    """The outcome for a packet that opens a connection."""

    OPEN = "open"
    CLOSED = "closed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Packet:
    """A packet that this node needs to receive or to forward."""

    hook: str
    """``input`` or ``forward``."""
    protocol: str = ""
    """``tcp`` or ``udp``; empty: any."""
    port: int = 0


@dataclass(frozen=True)
class Closing:
    """A base chain that accepts only by rules."""

    chain: str
    """Family, table and chain, as nft names them."""
    outcome: Outcome


def closing(
    ruleset: Sequence[Mapping[str, Any]], packet: Packet, families: Sequence[str]
) -> tuple[Closing, ...]:
    """Return the base chains that may stop a packet. ``ruleset``: the list ``nftables`` of ``nft -j list ruleset``.

    ``families``: families of tables that see the packet, as ``("ip", "inet")``.
    """
    chains = [each["chain"] for each in ruleset if "chain" in each]
    rules = [each["rule"] for each in ruleset if "rule" in each]
    found = []
    for base in chains:
        if base.get("hook") != packet.hook or base["family"] not in families or base["table"] in OURS:
            continue
        of_table = [r for r in rules if (r["family"], r["table"]) == (base["family"], base["table"])]
        own = [r for r in of_table if r["chain"] == base["name"]]
        if base.get("policy") == "drop" or (own and _ends_all(own[-1])):
            outcome = _outcome(base["name"], of_table, packet)
            if outcome is not Outcome.OPEN:
                found.append(Closing(f"{base['family']} {base['table']} {base['name']}", outcome))
    return tuple(found)


def _ends_all(rule: Rule) -> bool:
    """Return True if a rule drops or rejects every packet."""
    parts = [part for part in rule["expr"] if not {"counter", "log", "limit"} & part.keys()]
    return len(parts) == 1 and bool({"drop", "reject"} & parts[0].keys())


def _outcome(base: str, rules: Sequence[Rule], packet: Packet) -> Outcome:
    """Return the outcome of the rules that the base chain leads to for a packet."""
    found = {_accepts(rule, packet) for rule in _reached(base, rules)}
    for outcome in (Outcome.OPEN, Outcome.UNKNOWN):
        if outcome in found:
            return outcome
    return Outcome.CLOSED


def _reached(base: str, rules: Sequence[Rule]) -> Iterator[Rule]:
    """Yield the rules of a chain and of the chains that it leads to."""
    waiting, known = [base], {base}
    while waiting:
        name = waiting.pop()
        for rule in rules:
            if rule["chain"] == name:
                yield rule
                new = {chain for part in rule["expr"] for chain in _targets(part)} - known
                known |= new
                waiting += sorted(new)


def _targets(part: Any) -> Iterator[str]:
    """Yield the chains that a part of a rule leads to."""
    if isinstance(part, Mapping):
        for name, inner in part.items():
            if name in ("jump", "goto") and isinstance(inner, Mapping):
                yield str(inner.get("target", ""))
            else:
                yield from _targets(inner)
    elif isinstance(part, list):
        for each in part:
            yield from _targets(each)


def _accepts(rule: Rule, packet: Packet) -> Outcome:
    """Return whether a rule accepts a packet, if that can be decided."""
    accepting = [part for part in rule["expr"] if "accept" in part or "vmap" in part]
    if not accepting:
        return Outcome.CLOSED
    outcome = Outcome.UNKNOWN if any("vmap" in part for part in accepting) else Outcome.OPEN
    for part in rule["expr"]:
        if "vmap" in part and _of_state(part["vmap"].get("key")):
            return Outcome.CLOSED
        if "match" in part:
            suits = _suits(part["match"], packet)
            if suits is Outcome.CLOSED:
                return Outcome.CLOSED
            outcome = suits if suits is Outcome.UNKNOWN else outcome
        elif not {"accept", "vmap", "counter", "log"} & part.keys():
            outcome = Outcome.UNKNOWN
    return outcome


def _suits(match: Mapping[str, Any], packet: Packet) -> Outcome:
    """Return whether a condition is true for a packet that opens a connection."""
    left, right = match["left"], match["right"]
    if match["op"] not in ("==", "in") or not isinstance(left, Mapping):
        return Outcome.UNKNOWN
    if _of_state(left):
        return _has("new", right)
    payload, meta = left.get("payload"), left.get("meta")
    if isinstance(payload, Mapping):
        protocol, field = payload.get("protocol"), payload.get("field")
        if str(protocol).startswith("icmp") or (protocol in TRANSPORTS and protocol != packet.protocol):
            return Outcome.CLOSED if packet.protocol else Outcome.UNKNOWN
        if field == "dport" and packet.port:
            return _has(packet.port, right)
        if field in ("protocol", "nexthdr") and packet.protocol:
            return _has(packet.protocol, right)
    if isinstance(meta, Mapping):
        if meta.get("key") == "l4proto" and packet.protocol:
            return _has(packet.protocol, right)
        if meta.get("key") in ("iif", "iifname") and right == "lo":
            return Outcome.CLOSED
    return Outcome.UNKNOWN


def _of_state(left: Any) -> bool:
    ct = left.get("ct") if isinstance(left, Mapping) else None
    return isinstance(ct, Mapping) and ct.get("key") == "state"


def _has(value: str | int, right: Any) -> Outcome:
    """Return whether the right side of a condition, a value, a set or a range, contains a value."""
    if isinstance(right, Mapping):
        if "range" in right and isinstance(value, int):
            low, high = right["range"]
            inside = isinstance(low, int) and isinstance(high, int) and low <= value <= high
            return Outcome.OPEN if inside else Outcome.CLOSED
        if "set" in right:
            return _has(value, right["set"])
        return Outcome.UNKNOWN
    if isinstance(right, list):
        found = {_has(value, each) for each in right}
        return next((o for o in (Outcome.OPEN, Outcome.UNKNOWN) if o in found), Outcome.CLOSED)
    # A named set.
    if isinstance(right, str) and right.startswith("@"):
        return Outcome.UNKNOWN
    return Outcome.OPEN if right == value else Outcome.CLOSED
