"""Counters of our nftables rules for answers: at the first rule that sees them, and at the last."""

from __future__ import annotations

import re

from cni.kernel import ids
from cni.kernel.nftables import nft

from ...policy.egress_node.path_faults import Answers

_COUNTED = re.compile(r"ct direction reply .*\bcounter packets (\d+)")


def read() -> Answers:
    """Return the counters of this node. Raises :class:`cni.kernel.errors.KernelError`."""
    return Answers(_packets(ids.NFT_GATEWAY, "ingress"), _packets(ids.NFT_NODE_INET, "leave"))


def _packets(table: str, chain: str) -> int:
    found = _COUNTED.search(nft.run("list", "chain", "inet", table, chain))
    return int(found[1]) if found else 0
