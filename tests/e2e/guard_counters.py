"""The rules that guard the tunnel port on a node: what they have dropped, and the node without them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cni.kernel import ids

from ..lab.node import Node
from ..lab.waiting import until

NODE_TABLE = f"inet {ids.NFT_NODE_INET}"
GUARDS = (
    (NODE_TABLE, "tunnel_send"),
    (NODE_TABLE, "tunnel_process"),
    (f"netdev {ids.NFT_FENCE}", "tunnel_process"),
)
"""Chains, with their tables, that stop what a process of the same node sends to the tunnel port."""


def dropped(node: Node, table: str, chain: str) -> int:
    """Return the number of packets that a chain has dropped."""
    listed = json.loads(node.machine.run("nft", "-j", "list", "chain", *table.split(), chain))["nftables"]
    rules = [item["rule"]["expr"] for item in listed if "rule" in item]
    return sum(part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)


def dropped_by_guards(node: Node) -> int:
    return sum(dropped(node, *guard) for guard in GUARDS)


def send_counted(send: Callable[[], None], number: int, drops: Callable[[], int]) -> None:
    """Send, and again until the rules have counted so many packets: rules that are replaced meanwhile begin anew."""

    def counted() -> bool:
        before = drops()
        send()
        return drops() == before + number

    until(counted, f"{number} packets are dropped and counted", 10)


@contextmanager
def without_guards(node: Node) -> Iterator[None]:
    """Take the rules away that a node has against its own processes; its agent, which restores them, waits."""
    node.agent.signal(signal.SIGSTOP)
    try:
        node.machine.run("nft", "-f", "-", text="".join(f"flush chain {t} {c}\n" for t, c in GUARDS))
        yield
    finally:
        node.agent.signal(signal.SIGCONT)
        until(lambda: all(has_rules(node, *guard) for guard in GUARDS), "the agent has restored them", 20)


def has_rules(node: Node, table: str, chain: str) -> bool:
    return "counter" in node.machine.run("nft", "list", "chain", *table.split(), chain)
