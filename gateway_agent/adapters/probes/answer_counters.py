"""Read the counters of replies in our nftables rules: at the first rule for replies, and at the last one.

By netlink: ``nft list chain`` reads all sets of the ruleset first, and these have elements for each node.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from itertools import pairwise

from cni.kernel import ids
from cni.kernel.errors import refused
from cni.kernel.netlink import netfilter
from cni.kernel.netlink.constants import (
    IP_CT_DIR_REPLY,
    NFPROTO,
    NFT_CT_DIRECTION,
    NFT_MSG_GETRULE,
    NFTA_CMP_DATA,
    NFTA_COUNTER_PACKETS,
    NFTA_CT_KEY,
    NFTA_DATA_VALUE,
    NFTA_EXPR_DATA,
    NFTA_EXPR_NAME,
    NFTA_RULE_CHAIN,
    NFTA_RULE_EXPRESSIONS,
    NFTA_RULE_TABLE,
)
from cni.kernel.netlink.messages import NFGENMSG, NetfilterHeader, attributes, decoded, sequence, text
from cni.kernel.netlink.netlink_socket import Socket

from ...policy.egress_node.path_faults import Answers

MAX_TRIES = 25
"""Attempts at a listing while there are transactions; each takes less than a millisecond."""
Expression = tuple[str, dict[int, bytes]]
"""Name and attributes of an expression of a rule."""


def read() -> Answers:
    """Return the counters of this node; 0 for a chain without such a rule.

    Raises :class:`cni.kernel.errors.KernelError`.
    """
    try:
        with netfilter.opened() as kernel:
            came = packets(kernel, ids.NFT_GATEWAY, "ingress")
            return Answers(came, packets(kernel, ids.NFT_NODE_INET, "leave"))
    except OSError as error:
        raise refused("reading the counters of answers", error.errno or errno.EIO) from error


def packets(kernel: Socket, table: str, chain: str) -> int:
    """Return the packets that the first rule for answers of a chain has counted; 0 without one. Raises OSError."""
    header = NFGENMSG.pack(NetfilterHeader(NFPROTO["inet"]))
    asked = header + text(NFTA_RULE_TABLE, table) + text(NFTA_RULE_CHAIN, chain)
    name = chain.encode() + b"\0"
    for message in kernel.dump(NFT_MSG_GETRULE, asked, MAX_TRIES):
        rule = NFGENMSG.attributes(message.body)
        # A kernel that knows no filter lists all rules.
        if (rule.get(NFTA_RULE_TABLE), rule.get(NFTA_RULE_CHAIN)) != (table.encode() + b"\0", name):
            continue
        found = list(expressions(rule.get(NFTA_RULE_EXPRESSIONS, b"")))
        counters = [inner for kind, inner in found if kind == "counter"]
        if counters and _is_for_answers(found):
            return int.from_bytes(counters[0].get(NFTA_COUNTER_PACKETS, b""), "big")
    return 0


def expressions(data: bytes) -> Iterator[Expression]:
    """Yield the expressions of a rule. ``data``: NFTA_RULE_EXPRESSIONS."""
    for _, value in sequence(data):
        found = attributes(value)
        yield decoded(found.get(NFTA_EXPR_NAME, b"")), attributes(found.get(NFTA_EXPR_DATA, b""))


def _is_for_answers(rule: Sequence[Expression]) -> bool:
    """Return True if a rule compares the direction with that of answers (``ct direction reply``)."""
    for (kind, loaded), (then, compared) in pairwise(rule):
        key = int.from_bytes(loaded.get(NFTA_CT_KEY, b""), "big")
        if kind == "ct" and key == NFT_CT_DIRECTION and then == "cmp":
            value = attributes(compared.get(NFTA_CMP_DATA, b"")).get(NFTA_DATA_VALUE, b"")
            return value == bytes([IP_CT_DIR_REPLY])
    return False
