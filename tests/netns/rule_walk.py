"""The rules of ours that packets pass on one node, as the kernel walks them: its trace, with the ruleset's order.

The kernel reports the rules that match. Those of the same chain before such a rule were compared with the packet, too,
and are counted here: a rule that does not match costs as well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from cni.datapath.nft_blocks import chain, transaction
from cni.kernel import ids
from cni.kernel.netlink import netfilter
from cni.kernel.netlink.constants import (
    NFNLGRP_NFTRACE,
    NFPROTO,
    NFT_MSG_TRACE,
    NFTA_TRACE_CHAIN,
    NFTA_TRACE_RULE_HANDLE,
    NFTA_TRACE_TABLE,
    NFTA_TRACE_VERDICT,
    NFTA_VERDICT_CODE,
)
from cni.kernel.netlink.messages import NFGENMSG, Message, attributes, decoded
from cni.kernel.netlink.netlink_socket import Socket
from tests.lab.namespace import Namespace

OWN = frozenset(
    {ids.NFT_NODE_INET, ids.NFT_NODE_BRIDGE, ids.NFT_GATEWAY, ids.NFT_FENCE, ids.NFT_GUARD},
)
TRACED = "rule_walk"
"""Name of the tables that switch the trace on."""
FAMILIES = {number: name for name, number in NFPROTO.items()}
BUFFER_BYTES = 1 << 22
SILENCE_S = 0.3
"""A packet is through when no rule has been reported for so long."""
# linux/netfilter/nf_tables.h
NFTA_TRACE_TYPE, NFT_TRACETYPE_POLICY = 4, 1
NFTA_VERDICT_CHAIN = 2
NFT_CONTINUE, NFT_JUMP, NFT_GOTO, NFT_RETURN = (number & 0xFFFFFFFF for number in (-1, -3, -4, -5))


@dataclass(frozen=True)
class Passed:
    """The way through one base chain. ``rules``: those that were compared with the packet, with their chains."""

    family: str
    table: str
    hook: str
    priority: int
    chain: str
    rules: tuple[tuple[str, str], ...]


@dataclass
class _Chain:
    hook: str = ""
    priority: int = 0
    handles: list[int] = field(default_factory=list)


@dataclass
class _Frame:
    chain: str
    next_rule: int = 0


class Walk:
    """A trace of all packets of a node."""

    def __init__(self, machine: Namespace, netlink: Socket) -> None:
        self._machine, self._netlink = machine, netlink
        self._chains: dict[tuple[str, str, str], _Chain] = {}
        self._texts: dict[tuple[str, str, str], dict[int, str]] = {}

    def passed(self) -> list[Passed]:
        """Return the base chains that packets have passed since the last call, in this order."""
        messages = self._messages()
        self._list()
        return list(self._walked(messages))

    def _messages(self) -> list[Message]:
        found: list[Message] = []
        last = time.monotonic()
        while (left := last + SILENCE_S - time.monotonic()) > 0:
            self._netlink.set_timeout(left)
            try:
                received = [each for each in self._netlink.receive() if each.kind == NFT_MSG_TRACE]
            except TimeoutError:
                break
            found += received
            last = time.monotonic()
        return found

    def _list(self) -> None:
        listed = json.loads(self._machine.run("nft", "-j", "-a", "list", "ruleset"))["nftables"]
        self._chains, self._texts = {}, {}
        for made in (item["chain"] for item in listed if "chain" in item):
            key = made["family"], made["table"], made["name"]
            self._chains[key] = _Chain(made.get("hook", ""), made.get("prio", 0))
        for rule in (item["rule"] for item in listed if "rule" in item):
            self._chains[rule["family"], rule["table"], rule["chain"]].handles.append(rule["handle"])

    def _walked(self, messages: list[Message]) -> Iterator[Passed]:
        frames: list[_Frame] = []
        rules: list[tuple[str, int]] = []
        base: tuple[str, str, str] | None = None
        for message in messages:
            found = attributes(message.body[NFGENMSG.size :])
            family = FAMILIES.get(NFGENMSG.read(message.body).family, "inet")
            table, name = decoded(found[NFTA_TRACE_TABLE]), decoded(found[NFTA_TRACE_CHAIN])
            if table not in OWN:
                continue
            if base is None:
                base, frames, rules = (family, table, name), [_Frame(name)], []
            if int.from_bytes(found[NFTA_TRACE_TYPE], "big") == NFT_TRACETYPE_POLICY:
                for frame in reversed(frames):
                    rules += self._rest(base, frame)
                yield self._made(base, rules)
                base = None
                continue
            if NFTA_TRACE_RULE_HANDLE not in found:
                # The chain has come to its end.
                rules += self._rest(base, frames.pop())
                continue
            rules += self._until(base, frames[-1], int.from_bytes(found[NFTA_TRACE_RULE_HANDLE], "big"))
            verdict = attributes(found.get(NFTA_TRACE_VERDICT, b""))
            code = int.from_bytes(verdict.get(NFTA_VERDICT_CODE, b""), "big")
            if code in (NFT_GOTO, NFT_RETURN):
                frames.pop()
            if code in (NFT_JUMP, NFT_GOTO):
                frames.append(_Frame(decoded(verdict[NFTA_VERDICT_CHAIN])))
            elif code not in (NFT_RETURN, NFT_CONTINUE):
                yield self._made(base, rules)
                base = None

    def _until(self, base: tuple[str, str, str], frame: _Frame, handle: int) -> list[tuple[str, int]]:
        handles = self._chains[base[0], base[1], frame.chain].handles
        place = handles.index(handle) + 1
        passed = handles[frame.next_rule : place]
        frame.next_rule = place
        return [(frame.chain, each) for each in passed]

    def _rest(self, base: tuple[str, str, str], frame: _Frame) -> list[tuple[str, int]]:
        handles = self._chains[base[0], base[1], frame.chain].handles
        return [(frame.chain, each) for each in handles[frame.next_rule :]]

    def _made(self, base: tuple[str, str, str], rules: list[tuple[str, int]]) -> Passed:
        family, table, name = base
        texts = tuple(
            (chain_name, self._text(family, table, chain_name, handle)) for chain_name, handle in rules
        )
        made = self._chains[base]
        return Passed(family, table, made.hook, made.priority, name, texts)

    def _text(self, family: str, table: str, name: str, handle: int) -> str:
        key = family, table, name
        if key not in self._texts:
            listing = self._machine.run("nft", "-a", "list", "chain", *key)
            self._texts[key] = dict(_rules(listing))
        return self._texts[key][handle]


def _rules(listing: str) -> Iterator[tuple[int, str]]:
    for line in listing.splitlines():
        text, mark, handle = line.strip().partition(" # handle ")
        if mark and handle.isdigit():
            yield int(handle), text


@contextmanager
def walk(machine: Namespace, matching: Mapping[str, str]) -> Iterator[Walk]:
    """Yield a trace of the packets that match. ``matching``: by family (``inet``, ``bridge``), expressions of nft."""
    hooks = {"inet": ("prerouting", "output"), "bridge": ("prerouting",)}
    text = ""
    for family, expression in matching.items():
        chains = [
            chain(hook, [f"{expression} meta nftrace set 1"], f"filter hook {hook} priority -450")
            for hook in hooks[family]
        ]
        text += transaction(family, TRACED, chains)
    netlink = machine.inside(lambda: netfilter.watch((NFNLGRP_NFTRACE,), BUFFER_BYTES, SILENCE_S))
    try:
        machine.run("nft", "-f", "-", text=text)
        yield Walk(machine, netlink)
    finally:
        netfilter.unwatch(netlink, (NFNLGRP_NFTRACE,))
        machine.run("nft", "-f", "-", text="".join(transaction(family, TRACED, ()) for family in matching))
