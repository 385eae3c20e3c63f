"""Find bits of our packet marks that other programs use, in the text of their rules. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from cni.kernel import ids

WHOLE = 0xFFFFFFFF
"""The mask of a rule that names none."""
_NUMBER = r"(0x[0-9a-fA-F]+|[0-9]+)"
_WITH_MASK = re.compile(rf"(?:fwmark|mark) {_NUMBER}/{_NUMBER}|--(?:nf|ct)mask {_NUMBER}")
"""``ip rule``: ``fwmark 0x10000/0xf0000``. ``iptables-save``: ``--mark 0x4000/0x4000``, ``--nfmask``."""
_BITWISE = re.compile(rf"mark (and|or|&|\|) {_NUMBER}")
"""nft: ``meta mark & 0x0000ff00 == 0x00001000``, ``meta mark set meta mark or 0x00004000``."""
_TABLE = re.compile(r"^table \S+ (\S+) \{$")
OUR_TABLE = ids.NFT_NODE_INET
"""Beginning of the names of our nft tables."""


def without_ours(text: str) -> str:
    """Return a list of rules without our nft tables and the rules of our protocol."""
    kept, ours = [], False
    for line in text.splitlines():
        if table := _TABLE.match(line):
            ours = table[1].startswith(OUR_TABLE)
        if not ours and f"proto {ids.PROTOCOL}" not in line:
            kept.append(line)
    return "\n".join(kept)


def in_rules(mask: int, texts: Mapping[str, str]) -> tuple[str, ...]:
    """Return the text of each rule that has a mask with bits of ``mask``.

    ``texts``: rules of other programs by the command that lists them. A rule that compares or sets the whole mark is
    left out, because it names no bits.
    """
    return tuple(
        f"{command}: {line.strip()}" for command, text in texts.items() for line in text.splitlines()
        if _bits(line) & mask
    )  # fmt: skip


def free_mask(mask: int, texts: Mapping[str, str]) -> int:
    """Return a mask with as many adjacent bits as ``mask`` that no such rule uses; 0 if there is none."""
    used = _all_bits(line for text in texts.values() for line in text.splitlines())
    width = mask.bit_count()
    candidates = (((1 << width) - 1) << shift for shift in range(32 - width, -1, -1))
    return next((candidate for candidate in candidates if not candidate & used), 0)


def _all_bits(lines: Iterable[str]) -> int:
    used = 0
    for line in lines:
        used |= _bits(line)
    return used


def _bits(line: str) -> int:
    bits = 0
    for _, mask, other in _WITH_MASK.findall(line):
        bits |= _named(int(mask or other, 0))
    for operator, number in _BITWISE.findall(line):
        value = int(number, 0)
        # An "and" with nearly all bits clears the bits that it leaves out.
        cleared = operator in ("and", "&") and value.bit_count() > 16
        bits |= _named(value ^ WHOLE if cleared else value)
    return bits


def _named(mask: int) -> int:
    return 0 if mask == WHOLE else mask
