"""The update from one nftables text to another, without a disturbance of their common parts. Pure.

Theory of operation. Replacing a table whole costs packets: while the kernel commits, a packet that passes through the
old rules finds the old maps empty already, or the new ones not filled yet. So an update makes three transactions: the
new blocks, to which no rule leads yet; the change of the blocks that both texts have; the removal of the blocks to
which no rule leads any more. A new base chain is part of the second, since packets reach it as soon as it exists.

A table whose text is not known, as that of another version, is replaced. Then the new interval maps come first, in a
transaction of their own (:func:`preparation`), because the kernel fills interval maps last.

A set with time-outs holds elements that are written at run time: by the lease daemon, or by rules. They stay as long
as both texts have the set, also if the table is replaced (:func:`replacement`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_TABLE = re.compile(r"^table (\w+ \w+) \{\n(.*?)^\}\n", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^\t(chain|map|set) (\S+) \{\n(.*?)^\t\}\n", re.MULTILINE | re.DOTALL)
_TIMED = re.compile(r"^\t\tflags .*\btimeout\b", re.MULTILINE)
_INTERVAL = re.compile(r"^\t\tflags .*\binterval\b", re.MULTILINE)
_TARGET = re.compile(r"\bgoto (\w+)")
_ELEMENTS = re.compile(r"^\t\telements = \{ (.*) \}\n", re.MULTILINE)

Block = tuple[str, str]
"""``chain``, ``map`` or ``set``, and its name."""


@dataclass(frozen=True)
class Difference:
    """The changes of one table. ``before`` and ``after``: the body of each block."""

    table: str
    before: Mapping[Block, str]
    after: Mapping[Block, str]

    @property
    def new(self) -> list[Block]:
        """Blocks that are only in the new text."""
        return [block for block in self.after if block not in self.before]

    @property
    def gone(self) -> list[Block]:
        """Blocks that are only in the old text."""
        return [block for block in self.before if block not in self.after]

    @property
    def changed(self) -> list[Block]:
        """Blocks of both texts whose bodies differ."""
        return [
            block for block in self.after if self.before.get(block, self.after[block]) != self.after[block]
        ]


def tables(text: str) -> dict[str, dict[Block, str]]:
    """Return the blocks of each table that a text of :mod:`cni.datapath.nft_blocks` makes."""
    return {
        table: {(kind, name): body for kind, name, body in _BLOCK.findall(content)}
        for table, content in _TABLE.findall(text)
    }


def update(before: str, after: str) -> tuple[str, ...] | None:
    """Return the transactions that turn the tables of ``before`` into those of ``after``, in order.

    None if an update is not possible: a table comes or goes, a chain changes its hook, a map or set its type. Then the
    table must be replaced.
    """
    old, new = tables(before), tables(after)
    if old.keys() != new.keys():
        return None
    differences = [Difference(table, old[table], new[table]) for table in new]
    if any(_hook(d.before[block]) != _hook(d.after[block]) for d in differences for block in d.changed):
        return None
    steps = (
        "".join(_addition(difference) for difference in differences),
        "".join(_change(difference) for difference in differences),
        "".join(_removal(difference) for difference in differences),
    )
    return tuple(step for step in steps if step)


def preparation(text: str, table: str, chains: Iterable[str], sets: Iterable[tuple[str, str, bool]]) -> str:
    """Return the transaction that adds the interval maps of ``text`` to a table that :func:`replacement` replaces.

    A map is named by its content, so no rule of the table leads to the new maps yet. The kernel fills an interval map a
    moment after its transaction has taken effect: packets would find nothing in the map, and be dropped. The chains of
    the maps are added empty. ``chains``, ``sets``: see :func:`replacement`.
    """
    there = {*chains, *(name for _, name, _ in sets)}
    maps = {name: body for name, body in _interval_maps(text, table).items() if name not in there}
    targets = {target for body in maps.values() for target in _TARGET.findall(body)} - there
    new = "".join(f"add chain {table} {name}\n" for name in sorted(targets))
    return new + _table(table, {("map", name): body for name, body in maps.items()})


def replacement(
    text: str, table: str, chains: Iterable[str], sets: Iterable[tuple[str, str, bool]], intact: bool
) -> str:
    """Return ``text`` with a replacement of one table that keeps the elements of its sets with time-outs.

    ``chains``: names of all chains that are there. ``sets``: kind (``set`` or ``map``), name, and whether its elements
    have time-outs, of all that are there. Chains and sets with other names than the text's are deleted. ``intact``:
    the table is as a text has made it, so an interval map that has a name of the text's holds the same, and stays.
    """
    whole = f"add table {table}\ndelete table {table}\n"
    kept = {
        name for (kind, name), body in tables(text).get(table, {}).items() if kind == "set" and is_timed(body)
    }
    maps = _interval_maps(text, table) if intact else {}
    led_to = {target for body in maps.values() for target in _TARGET.findall(body)}
    names = tuple(chains)
    # Rules lead to sets and chains, and maps to chains.
    removal = "".join(f"flush chain {table} {name}\n" for name in names)
    removal += "".join(
        f"delete {kind} {table} {name}\n"
        for kind, name, timed in sets
        if not (timed and name in kept) and name not in maps
    )
    removal += "".join(f"delete chain {table} {name}\n" for name in names if name not in led_to)
    return text.replace(whole, removal)


def _interval_maps(text: str, table: str) -> dict[str, str]:
    """Return the bodies of a table's interval maps by name."""
    blocks = tables(text).get(table, {})
    return {name: body for (kind, name), body in blocks.items() if kind == "map" and _INTERVAL.search(body)}


def is_timed(body: str) -> bool:
    """Return True if the elements of a set have time-outs: they are written at run time."""
    return _TIMED.search(body) is not None


def _hook(body: str) -> str:
    """Return the lines of a block that cannot be changed: a chain's hook, a map's type."""
    fixed = ("\t\ttype ", "\t\ttypeof ", "\t\tflags ")
    return "".join(line for line in body.splitlines(keepends=True) if line.startswith(fixed))


def _addition(difference: Difference) -> str:
    # Named before they are filled: they may lead to each other.
    new = [block for block in difference.new if not _leads_in(difference, block)]
    names = "".join(f"add chain {difference.table} {name}\n" for kind, name in new if kind == "chain")
    return names + _blocks(difference, new)


def _leads_in(difference: Difference, block: Block) -> bool:
    """Return True for a base chain: packets reach it as soon as it exists, so its targets must exist before."""
    return block[0] == "chain" and bool(_hook(difference.after[block]))


def _blocks(difference: Difference, blocks: list[Block]) -> str:
    return _table(difference.table, {block: difference.after[block] for block in blocks})


def _table(table: str, blocks: Mapping[Block, str]) -> str:
    text = "".join(_written(block, body) for block, body in blocks.items())
    return f"table {table} {{\n{text}}}\n" if text else ""


def _change(difference: Difference) -> str:
    text = _blocks(difference, [block for block in difference.new if _leads_in(difference, block)])
    for kind, name in difference.changed:
        before, after = difference.before[kind, name], difference.after[kind, name]
        if kind == "chain":
            text += f"flush chain {difference.table} {name}\n"
            text += _blocks(difference, [(kind, name)])
        else:
            # As keys of a dict: in their order, and there may be some for each node of the cluster.
            old, new = dict.fromkeys(elements(before)), dict.fromkeys(elements(after))
            text += _with_elements("delete", difference.table, name, [e for e in old if e not in new])
            text += _with_elements("add", difference.table, name, [e for e in new if e not in old])
    return text


def _with_elements(verb: str, table: str, name: str, items: list[str]) -> str:
    return f"{verb} element {table} {name} {{ {', '.join(items)} }}\n" if items else ""


def _removal(difference: Difference) -> str:
    gone = difference.gone
    chains = [name for kind, name in gone if kind == "chain"]
    # Their rules may lead to other blocks that are deleted.
    text = "".join(f"flush chain {difference.table} {name}\n" for name in chains)
    text += "".join(f"delete {kind} {difference.table} {name}\n" for kind, name in gone if kind != "chain")
    return text + "".join(f"delete chain {difference.table} {name}\n" for name in chains)


def _written(block: Block, body: str) -> str:
    kind, name = block
    return f"\t{kind} {name} {{\n{body}\t}}\n"


def elements(body: str) -> list[str]:
    """Return the elements of a map or set, as written."""
    found = _ELEMENTS.search(body)
    return found[1].split(", ") if found else []
