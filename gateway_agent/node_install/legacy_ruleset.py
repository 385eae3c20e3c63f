"""Write the rules of iptables-legacy as ``nft -j`` would list them, so that they are judged as all others are. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..policy.egress_node import legacy_rules
from ..policy.egress_node.legacy_rules import DROPPING, Chain, Rule

HOOKS = {"INPUT": "input", "FORWARD": "forward"}
STATES = ("--ctstate", "--state")
SELF_EVIDENT = {"-m": 2, "--match": 2, "--comment": 2, "--reject-with": 2}
"""Options that say nothing about a packet by themselves, with the number of their parts."""
UNKNOWN = {"xt": None}
"""A condition that is not read."""


def ruleset(text: str, family: str) -> Iterator[dict[str, Any]]:
    """Yield chains and rules. ``text``: the list of ``iptables-legacy-save -c``. ``family``: ``ip`` or ``ip6``."""
    for each in legacy_rules.read(text):
        table = {"family": family, "table": f"iptables-legacy {each.table}"}
        if isinstance(each, Chain):
            yield {"chain": {**table, "name": each.name, **_hook(each)}}
        else:
            yield {"rule": {**table, "chain": each.chain, "expr": list(_expressions(each))}}


def _hook(chain: Chain) -> dict[str, str]:
    built_in = chain.policy != "-" and chain.name in HOOKS
    return {"hook": HOOKS[chain.name], "policy": chain.policy.lower()} if built_in else {}


def _expressions(rule: Rule) -> Iterator[dict[str, Any]]:
    parts, protocol, negated = rule.parts, "tcp", False
    while parts:
        option, value = parts[0], parts[1] if len(parts) > 1 else ""
        if option == "!":
            parts, negated = parts[1:], True
            continue
        known = _known(option, value, protocol)
        if negated or known is None:
            yield UNKNOWN
        else:
            yield from known
        protocol = value if option == "-p" else protocol
        parts, negated = parts[2:] if known is not None or _has_value(parts) else parts[1:], False


def _has_value(parts: list[str]) -> bool:
    return len(parts) > 1 and not parts[1].startswith("-") and parts[1] != "!"


def _known(option: str, value: str, protocol: str) -> list[dict[str, Any]] | None:
    """Return an option as expressions; None if it is not read."""
    if option in SELF_EVIDENT:
        return []
    if option == "-p":
        return [_match({"meta": {"key": "l4proto"}}, value)]
    if option == "-i":
        return [_match({"meta": {"key": "iifname"}}, value)]
    if option == "--dport":
        return [_match({"payload": {"protocol": protocol, "field": "dport"}}, _ports(value))]
    if option in STATES:
        return [_match({"ct": {"key": "state"}}, [each.lower() for each in value.split(",")], "in")]
    if option in legacy_rules.TARGETS:
        if value == "ACCEPT":
            return [{"accept": None}]
        return [{"drop": None}] if value in DROPPING else [{"jump": {"target": value}}]
    return None


def _match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def _ports(text: str) -> Any:
    low, _, high = text.partition(":")
    if not low.isdigit() or (high and not high.isdigit()):
        return text
    return {"range": [int(low), int(high)]} if high else int(low)
