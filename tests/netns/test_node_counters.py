"""Counters of a node's kernel: they move with packets and connections."""

from __future__ import annotations

import json
import os
import sys

import pytest

from ..lab.namespace import Namespace

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")

READ = """
import json, socket
from dataclasses import asdict
from gateway_agent.adapters.kernel import node_counters
before = node_counters.read("egw-")
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(3):
    client.sendto(b"x" * 100, ("198.51.100.9", 9))
print(json.dumps([asdict(before), asdict(node_counters.read("egw-"))]))
"""
RULES = "table ip t {\nchain c {\ntype filter hook output priority 0\nct state new accept\n}\n}\n"


def test_packets_and_connections_are_counted() -> None:
    node = Namespace("counters")
    node.create()
    try:
        node.run("nft", "-f", "-", text=RULES)
        node.ip(
            "link add egw-1 type veth peer name other",
            "address add 198.51.100.1/24 dev egw-1",
            "link set egw-1 up",
            "link set other up",
            "neigh add 198.51.100.9 lladdr 02:00:00:00:00:09 dev egw-1 nud permanent",
        )
        before, after = json.loads(node.run(sys.executable, "-c", READ))
    finally:
        node.delete()
    assert before["devices"].keys() == after["devices"].keys() == {"egw-1"}, "no other device"
    was, now = before["devices"]["egw-1"], after["devices"]["egw-1"]
    assert now["sent_packets"] - was["sent_packets"] >= 3
    assert now["sent_bytes"] - was["sent_bytes"] >= 300
    assert after["connections"] > before["connections"]
    assert after["connections_limit"] > 0
