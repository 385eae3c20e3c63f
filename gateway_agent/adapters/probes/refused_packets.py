"""Read the counters of our nftables rules that refuse packets, by table and chain."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Mapping, Sequence

from cni.kernel import ids
from cni.kernel.errors import refused
from cni.kernel.netlink import netfilter
from cni.kernel.netlink.constants import (
    NF_DROP,
    NFPROTO,
    NFT_MSG_GETRULE,
    NFTA_COUNTER_PACKETS,
    NFTA_DATA_VERDICT,
    NFTA_IMMEDIATE_DATA,
    NFTA_RULE_CHAIN,
    NFTA_RULE_EXPRESSIONS,
    NFTA_RULE_TABLE,
    NFTA_VERDICT_CODE,
)
from cni.kernel.netlink.messages import NFGENMSG, NetfilterHeader, attributes, decoded, text

from .answer_counters import MAX_TRIES, Expression, expressions

TABLES = (
    ("inet", ids.NFT_NODE_INET), ("bridge", ids.NFT_NODE_BRIDGE), ("inet", ids.NFT_GATEWAY),
    ("netdev", ids.NFT_FENCE), ("inet", ids.NFT_GUARD), ("bridge", ids.NFT_GUARD),
)  # fmt: skip
REFUSED_BY_ROUTE = ids.NFT_NODE_INET, "no_master"
"""The chain, with its table, that counts what an ``unreachable`` route refuses."""


def read() -> Mapping[tuple[str, str], int]:
    """Return the number of refused packets of each of our chains with such a rule, by (table, chain).

    Raises :class:`cni.kernel.errors.KernelError`.
    """
    found: Counter[tuple[str, str]] = Counter()
    try:
        with netfilter.opened() as kernel:
            for family, table in TABLES:
                asked = NFGENMSG.pack(NetfilterHeader(NFPROTO[family])) + text(NFTA_RULE_TABLE, table)
                for message in kernel.dump(NFT_MSG_GETRULE, asked, MAX_TRIES):
                    rule = NFGENMSG.attributes(message.body)
                    # A kernel that knows no filter lists all rules.
                    if decoded(rule.get(NFTA_RULE_TABLE, b"")) != table:
                        continue
                    parts = list(expressions(rule.get(NFTA_RULE_EXPRESSIONS, b"")))
                    counted = next((inner for kind, inner in parts if kind == "counter"), None)
                    key = table, decoded(rule.get(NFTA_RULE_CHAIN, b""))
                    if counted is not None and (key == REFUSED_BY_ROUTE or _refuses(parts)):
                        found[key] += int.from_bytes(counted.get(NFTA_COUNTER_PACKETS, b""), "big")
    except OSError as error:
        raise refused("reading the counters of refused packets", error.errno or errno.EIO) from error
    return found


def _refuses(rule: Sequence[Expression]) -> bool:
    """Return True if a rule ends in ``drop`` or ``reject``."""
    for kind, inner in rule:
        if kind == "reject":
            return True
        if kind == "immediate":
            verdict = attributes(attributes(inner.get(NFTA_IMMEDIATE_DATA, b"")).get(NFTA_DATA_VERDICT, b""))
            code = verdict.get(NFTA_VERDICT_CODE)
            if code is not None and int.from_bytes(code, "big") == NF_DROP:
                return True
    return False
