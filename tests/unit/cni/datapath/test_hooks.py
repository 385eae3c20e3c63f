"""The base chains in which several parts have rules."""

from __future__ import annotations

import re

from cni.datapath import objects
from cni.datapath.hooks import chains
from cni.datapath.nft_blocks import Marks

from .test_objects import plan

BASE = re.compile(r"\tchain (\S+) \{\n\t\ttype \S+ hook (\S+) priority ([^;]+);")


def test_there_is_one_base_chain_for_each_hook_and_priority() -> None:
    for table in objects.node_nft(plan("g1")).split("\ntable ")[1:]:
        hooks = [(hook, priority) for _, hook, priority in BASE.findall(table)]
        assert len(hooks) == len(set(hooks))


def test_a_pod_cannot_send_to_the_port_of_the_tunnels() -> None:
    text = "".join(chains(plan("w1"), Marks(plan("w1"))))
    body = text[text.index("chain forward_guard") :]
    assert body.split("\n")[2].strip() == "meta l4proto udp jump forwarded_datagram"
    assert "udp dport 4799 counter drop" in text
