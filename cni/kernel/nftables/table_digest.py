"""The content of an nftables table as one number: straight from the kernel, without ``nft``.

``nft list`` reads everything within one generation of the ruleset, and begins anew when there is another. A lease
daemon makes forty a second, and rules fill sets with thousands of connections: then a listing may take seconds. This
module reads each part separately. It does not read sets with time-outs: these are written at run time and do not count.

Layout: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..errors import refused
from ..netlink import netfilter
from ..netlink.constants import (
    NFPROTO,
    NFT_MSG_GETCHAIN,
    NFT_MSG_GETRULE,
    NFT_MSG_GETSET,
    NFT_MSG_GETSETELEM,
    NFT_MSG_GETTABLE,
    NFT_SET_ANONYMOUS,
    NFT_SET_MAP,
    NFT_SET_TIMEOUT,
    NFTA_CHAIN_FLAGS,
    NFTA_CHAIN_HOOK,
    NFTA_CHAIN_NAME,
    NFTA_CHAIN_POLICY,
    NFTA_CHAIN_TABLE,
    NFTA_CHAIN_TYPE,
    NFTA_CHAIN_USERDATA,
    NFTA_EXPR_DATA,
    NFTA_EXPR_NAME,
    NFTA_RULE_CHAIN,
    NFTA_RULE_COMPAT,
    NFTA_RULE_EXPRESSIONS,
    NFTA_RULE_USERDATA,
    NFTA_SET_ELEM_LIST_ELEMENTS,
    NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_FLAGS,
    NFTA_SET_NAME,
    NFTA_TABLE_FLAGS,
    NFTA_TABLE_NAME,
)
from ..netlink.messages import NFGENMSG, NetfilterHeader, attribute, attributes, decoded, sequence, text
from ..netlink.netlink_socket import Socket
from .generation import TransactionCounter

CHAIN_PARTS = (NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE, NFTA_CHAIN_FLAGS, NFTA_CHAIN_USERDATA)
"""Attributes of a chain that count; handles, uses and counters do not."""
RULE_PARTS = (NFTA_RULE_COMPAT, NFTA_RULE_USERDATA)
VOLATILE_EXPRESSIONS = ("counter", "last", "quota")
"""Expressions whose data the kernel changes while packets pass."""
SET_PARTS = (3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 17, 18)
"""Flags, types and lengths of key and data, policy, description, time-outs, user data, expressions."""
MAX_TRIES = 25
"""Attempts at reading a part while there are transactions; each takes a millisecond or two."""


@dataclass(frozen=True)
class PresentSet:
    """A set or map in the kernel."""

    kind: str
    """``set`` or ``map``."""
    name: str
    timed: bool
    """True if the elements have time-outs: they are written at run time."""


@dataclass(frozen=True)
class Table:
    """An nftables table as it is in the kernel."""

    digest: str
    """Digest of the table's content without chains that begin with the ``mark``, counters, and elements of timed
    sets.
    """
    marks: tuple[str, ...]
    """The names of those chains, without the mark."""
    chains: tuple[str, ...]
    """The names of all other chains."""
    sets: tuple[PresentSet, ...]


def read(table: str, mark: str) -> Table | None:
    """Return the table ``FAMILY NAME``; None if there is none. Raises :class:`~cni.kernel.errors.KernelError`."""
    family, name = table.split()
    try:
        with netfilter.opened() as kernel:
            try:
                return _read(kernel, NFPROTO[family], name, mark.encode())
            except InterruptedError:
                return _read_watched(kernel, table, mark.encode())
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise refused(f"reading nftables table {table}", error.errno or errno.EIO) from error


def _read_watched(kernel: Socket, table: str, mark: bytes) -> Table:
    """Read a table while there are always transactions, as on a master, whose lease daemon refreshes its leases.

    The rules of a thousand egress IPs take longer to list than the time between two refreshes. A listing of rules or
    elements counts if no transaction meanwhile has changed the table but for elements of timed sets.
    """
    family, name = table.split()
    header = NFGENMSG.pack(NetfilterHeader(NFPROTO[family]))
    for _ in range(MAX_TRIES):
        sets = list(_each(kernel, NFT_MSG_GETSET, header + text(NFTA_TABLE_NAME, name)))
        timed = frozenset(
            decoded(each.get(NFTA_SET_NAME, b"")) for each in sets if _flags(each) & NFT_SET_TIMEOUT
        )
        with TransactionCounter({table: timed}) as watch:
            found = _read(kernel, NFPROTO[family], name, mark, may_change=True)
            if watch.transactions() == 0:
                return found
    raise OSError(errno.EINTR, os.strerror(errno.EINTR))


def _read(kernel: Socket, family: int, name: str, mark: bytes, may_change: bool = False) -> Table:
    header = NFGENMSG.pack(NetfilterHeader(family))
    mine = header + text(NFTA_TABLE_NAME, name)
    of_table = NFGENMSG.attributes(kernel.request(NFT_MSG_GETTABLE, 0, mine))
    parts = [b"table " + of_table.get(NFTA_TABLE_FLAGS, b"")]
    marks: list[str] = []
    chains: list[str] = []
    sets: list[PresentSet] = []
    for chain in _each(kernel, NFT_MSG_GETCHAIN, header):
        if chain.get(NFTA_CHAIN_TABLE) != name.encode() + b"\0":
            continue
        title = chain.get(NFTA_CHAIN_NAME, b"")
        if title.startswith(mark):
            marks.append(decoded(title[len(mark) :]))
        else:
            chains.append(decoded(title))
            parts.append(_part(b"chain", chain, (NFTA_CHAIN_NAME, *CHAIN_PARTS)))
    for rule in _each(kernel, NFT_MSG_GETRULE, mine, may_change):
        expressions = b"".join(map(_expression, _values(rule.get(NFTA_RULE_EXPRESSIONS, b""))))
        parts.append(_part(b"rule", rule, (NFTA_RULE_CHAIN, *RULE_PARTS)) + expressions)
    for found in _each(kernel, NFT_MSG_GETSET, mine):
        flags = _flags(found)
        if not flags & NFT_SET_ANONYMOUS:
            kind, timed = "map" if flags & NFT_SET_MAP else "set", bool(flags & NFT_SET_TIMEOUT)
            sets.append(PresentSet(kind, decoded(found.get(NFTA_SET_NAME, b"")), timed))
        parts.append(_part(b"set", found, (NFTA_SET_NAME, *SET_PARTS)))
        if not flags & NFT_SET_TIMEOUT:
            asked = mine + attribute(NFTA_SET_ELEM_LIST_SET, found.get(NFTA_SET_NAME, b""))
            answers = _each(kernel, NFT_MSG_GETSETELEM, asked, may_change)
            lists = (answer.get(NFTA_SET_ELEM_LIST_ELEMENTS, b"") for answer in answers)
            parts += sorted(item for elements in lists for item in _values(elements))
    digest = hashlib.sha256()
    for part in parts:
        # Each with its length: the end of one part must not count as the beginning of the next one.
        digest.update(struct.pack("=I", len(part)) + part)
    return Table(digest.hexdigest()[:16], tuple(marks), tuple(chains), tuple(sets))


def _each(kernel: Socket, kind: int, body: bytes, may_change: bool = False) -> Iterator[dict[int, bytes]]:
    for message in kernel.dump(kind, body, MAX_TRIES, may_change):
        yield NFGENMSG.attributes(message.body)


def _flags(found: dict[int, bytes]) -> int:
    return int.from_bytes(found.get(NFTA_SET_FLAGS, b""), "big")


def _part(what: bytes, found: dict[int, bytes], kinds: Iterable[int]) -> bytes:
    return what + b"".join(attribute(kind, found[kind]) for kind in kinds if kind in found)


def _expression(data: bytes) -> bytes:
    found = attributes(data)
    name = found.get(NFTA_EXPR_NAME, b"")
    return name + (b"" if decoded(name) in VOLATILE_EXPRESSIONS else found.get(NFTA_EXPR_DATA, b""))


def _values(data: bytes) -> Iterator[bytes]:
    """Yield the values of a list of attributes of one kind."""
    return (value for _, value in sequence(data))
