"""What stands in an nftables table, as one number: straight from the kernel, without ``nft``.

``nft list`` reads everything within one generation of the ruleset, and begins anew when there is another. A lease
keeper makes forty a second, and rules fill sets with thousands of connections: then a listing may take seconds. Here
each part is read by itself, and sets with time-outs, which are written at run time and do not count, are not read.

Layout: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..errors import refused
from ..netlink.rtnetlink import NETLINK_NETFILTER, Socket, attribute, attributes
from .generation import FAMILIES

SUBSYSTEM = 10 << 8
GET_TABLE, GET_CHAIN, GET_RULE, GET_SET, GET_ELEMENTS = (SUBSYSTEM | number for number in (1, 4, 7, 10, 13))
TABLE_FLAGS = 2
CHAIN_TABLE, CHAIN_NAME = 1, 3
CHAIN_PARTS = (4, 5, 7, 10, 12)
"""Hook, policy, type, flags, user data; not handles, uses and counters."""
RULE_CHAIN, RULE_EXPRESSIONS = 2, 4
RULE_PARTS = (5, 7)
"""Compatibility, user data."""
EXPRESSION_NAME, EXPRESSION_DATA = 1, 2
RUNNING = (b"counter", b"last", b"quota")
"""Expressions whose data the kernel changes while packets pass."""
SET_NAME, SET_FLAGS = 2, 3
SET_PARTS = (3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 17, 18)
"""Flags, types and lengths of key and data, policy, description, time-outs, user data, expressions."""
SET_TIMEOUT = 0x10
ELEMENTS_SET, ELEMENTS = 2, 3
MAX_TRIES = 25
"""How often a part is read again because there was a transaction meanwhile; each takes a millisecond or two."""


@dataclass(frozen=True)
class Table:
    digest: str
    """Of all that stands in it but chains that begin with the ``mark``, counters, and elements of timed sets."""
    marks: tuple[str, ...]
    """What follows the mark in the names of those chains."""


def look(table: str, mark: str) -> Table | None:
    """The table ``FAMILY NAME``; None where there is none. Raises :class:`~cni.kernel.errors.KernelError`."""
    family, name = table.split()
    try:
        with Socket(NETLINK_NETFILTER) as kernel:
            return _read(kernel, FAMILIES[family], name.encode() + b"\0", mark.encode())
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise refused(f"reading nftables table {table}", error.errno or errno.EIO) from error


def _read(kernel: Socket, family: int, name: bytes, mark: bytes) -> Table:
    head = struct.pack("=BBH", family, 0, 0)
    mine = head + attribute(1, name)
    flags = attributes(kernel.request(GET_TABLE, 0, mine)[len(head) :]).get(TABLE_FLAGS, b"")
    parts = [b"table " + flags]
    marks = []
    for chain in _each(kernel, GET_CHAIN, head):
        if chain.get(CHAIN_TABLE) != name:
            continue
        if chain[CHAIN_NAME].startswith(mark):
            marks.append(chain[CHAIN_NAME][len(mark) :].rstrip(b"\0").decode(errors="replace"))
        else:
            parts.append(_part(b"chain", chain, (CHAIN_NAME, *CHAIN_PARTS)))
    for rule in _each(kernel, GET_RULE, mine):
        expressions = b"".join(map(_expression, _list(rule.get(RULE_EXPRESSIONS, b""))))
        parts.append(_part(b"rule", rule, (RULE_CHAIN, *RULE_PARTS)) + expressions)
    for found in _each(kernel, GET_SET, mine):
        parts.append(_part(b"set", found, (SET_NAME, *SET_PARTS)))
        if not int.from_bytes(found.get(SET_FLAGS, b""), "big") & SET_TIMEOUT:
            asked = mine + attribute(ELEMENTS_SET, found[SET_NAME])
            answers = _each(kernel, GET_ELEMENTS, asked)
            parts += sorted(item for answer in answers for item in _list(answer.get(ELEMENTS, b"")))
    digest = hashlib.sha256()
    for part in parts:
        # Each with its length: what stands at the end of one must not pass for the beginning of the next.
        digest.update(struct.pack("=I", len(part)) + part)
    return Table(digest.hexdigest()[:16], tuple(marks))


def _each(kernel: Socket, kind: int, body: bytes) -> Iterator[dict[int, bytes]]:
    for _, answer in kernel.dump(kind, body, MAX_TRIES):
        yield attributes(answer[4:])


def _part(what: bytes, found: dict[int, bytes], kinds: Iterable[int]) -> bytes:
    return what + b"".join(attribute(kind, found[kind]) for kind in kinds if kind in found)


def _expression(data: bytes) -> bytes:
    found = attributes(data)
    name = found.get(EXPRESSION_NAME, b"")
    return name + (b"" if name.rstrip(b"\0") in RUNNING else found.get(EXPRESSION_DATA, b""))


def _list(data: bytes) -> Iterator[bytes]:
    """The values of a list of attributes of one kind."""
    while len(data) >= 4:
        (length,) = struct.unpack_from("=H", data)
        if length < 4:
            break
        yield data[4:length]
        data = data[length + 3 & ~3 :]
