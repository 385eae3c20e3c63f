"""Groups of nodes that do not hear each other: what agents say to one another is dropped, all else passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .lab import Lab

PORT = 7947
"""UDP port of heartbeats and announcements."""
_TABLE = "inet lab_partition"


def partitions(names: Sequence[str]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Every way to divide the names into groups; first the one that does not divide them."""
    if not names:
        yield ()
        return
    first, *others = names
    for rest in partitions(others):
        for number, group in enumerate(rest):
            yield (*rest[:number], (first, *group), *rest[number + 1 :])
        yield ((first,), *rest)


@contextmanager
def parted(lab: Lab, groups: Sequence[Sequence[str]]) -> Iterator[None]:
    """As long as it lasts, nodes of different groups do not hear each other. Those in no group hear everybody."""
    cut = [name for group in groups for name in group]
    try:
        for group in groups:
            others = [lab.nodes[name].host.ip for name in cut if name not in group]
            for name in group if others else ():
                lab.nodes[name].machine.run("nft", "-f", "-", text=_rules(others))
        yield
    finally:
        for name in cut:
            # Made first: what is not there cannot be deleted.
            lab.nodes[name].machine.run("nft", f"add table {_TABLE}; delete table {_TABLE}")


def _rules(others: Sequence[str]) -> str:
    addresses = "{ " + ", ".join(others) + " }"
    return f"""\
table {_TABLE} {{
    chain in {{
        type filter hook input priority -400; policy accept;
        ip saddr {addresses} udp dport {PORT} drop
    }}
    chain out {{
        type filter hook output priority -400; policy accept;
        ip daddr {addresses} udp dport {PORT} drop
    }}
}}
"""
