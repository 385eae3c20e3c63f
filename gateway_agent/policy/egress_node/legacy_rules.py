"""Read what ``iptables-legacy-save -c`` lists: rules that are in no list and no trace of nftables. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

CHAIN = re.compile(r":(\S+) (\S+) \[(\d+):\d+\]")
RULE = re.compile(r"\[(\d+):\d+\] -A (\S+) ?(.*)")
TARGETS = ("-j", "-g")
DROPPING = ("DROP", "REJECT")


@dataclass(frozen=True)
class Chain:
    """A chain of a table."""

    table: str
    name: str
    policy: str
    """``ACCEPT`` or ``DROP``; ``-``: a chain that rules lead to."""
    packets: int
    """Packets that its policy has decided on."""


@dataclass(frozen=True)
class Rule:
    """A rule of a chain."""

    table: str
    chain: str
    text: str
    """Its conditions and its target, as iptables writes them."""
    packets: int

    @property
    def target(self) -> str:
        """Return the target or the chain that the rule leads to; empty if it has none."""
        parts = self.parts
        place = next((n for n, part in enumerate(parts[:-1]) if part in TARGETS), None)
        return "" if place is None else parts[place + 1]

    @property
    def parts(self) -> list[str]:
        """Return the text as arguments."""
        try:
            return shlex.split(self.text)
        except ValueError:
            return self.text.split()


@dataclass(frozen=True, order=True)
class Drop:
    """A rule, or the policy of a chain, that drops packets."""

    table: str
    chain: str
    rule: str
    """Empty: the policy."""


def read(text: str) -> Iterator[Chain | Rule]:
    """Yield chains and rules in their order. Lines of another form are left out."""
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif found := CHAIN.fullmatch(line.strip()):
            yield Chain(table, found[1], found[2], int(found[3]))
        elif found := RULE.fullmatch(line.strip()):
            yield Rule(table, found[2], found[3], int(found[1]))


def drops(text: str) -> dict[Drop, int]:
    """Return the packets that each rule and each policy has dropped."""
    counted: dict[Drop, int] = {}
    for each in read(text):
        if isinstance(each, Chain) and each.policy == "DROP":
            drop = Drop(each.table, each.name, "")
        elif isinstance(each, Rule) and each.target in DROPPING:
            drop = Drop(each.table, each.chain, each.text)
        else:
            continue
        counted[drop] = counted.get(drop, 0) + each.packets
    return counted


def dropping(before: str, after: str) -> Drop | None:
    """Return what has dropped packets between two lists; None if nothing has."""
    earlier = drops(before)
    return next((drop for drop, packets in drops(after).items() if packets > earlier.get(drop, 0)), None)


def base(text: str, drop: Drop) -> str:
    """Return the built-in chain that leads to the place of ``drop``; the chain itself if none does."""
    own = [each for each in read(text) if each.table == drop.table]
    built_in = {each.name for each in own if isinstance(each, Chain) and each.policy != "-"}
    leading: Mapping[str, list[str]] = {
        each.name: [r.chain for r in own if isinstance(r, Rule) and r.target == each.name]
        for each in own
        if isinstance(each, Chain)
    }
    waiting, known = [drop.chain], {drop.chain}
    while waiting:
        name = waiting.pop(0)
        if name in built_in:
            return name
        new = [each for each in leading.get(name, ()) if each not in known]
        known.update(new)
        waiting += new
    return drop.chain
