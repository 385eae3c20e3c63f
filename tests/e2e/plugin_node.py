"""A worker whose plugin is called by hand and by a runtime, with its agent, without it, or with one that hangs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from cni.kernel import ids

from ..lab.capture import Capture
from ..lab.cnirun import CniError, Network
from ..lab.lab import Lab
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.waiting import until
from .conftest import GATEWAY

OTHER = {"app": "other"}
REPAIR_S = 2.0
"""Seconds within which the agent restores an object that another program removed."""
Json = dict[str, Any]


@pytest.fixture
def node(lab: Lab) -> Iterator[Node]:
    """Yield the worker; its agent runs again afterwards, and no pod is left."""
    node = lab.nodes["w1"]
    node.pods.clear()
    # Until a new keeper has heard the others, status shows the last known master; then the plan follows it.
    until(lambda: node.agent.status()["voters"], "the keeper knows the voters")
    lab.wait_settled(GATEWAY)
    until(lambda: node.plan()["egress_ips"][0]["master"], "the plan names the master")
    yield node
    if not node.agent.running:
        node.agent.start()
    until(node.agent.answers, "the agent is there")
    for pod in node.pods.values():
        pod.stop()


@pytest.fixture
def capture(lab: Lab) -> Iterator[Capture]:
    with lab.capture() as witness:
        yield witness


def egress_ip(lab: Lab) -> str:
    return lab.nodes[lab.wait_settled(GATEWAY)].host.egress_ip


def attached(node: Node) -> dict[str, str]:
    """By pod name the gateway of each attachment that the agent knows."""
    return {row["name"]: row["gateway"] for row in node.agent.call("pods")["pods"]}


def current(node: Node, kind: str = "bridge") -> Network:
    """Return the node's network in the version that has STATUS and GC, our plugin alone: the others know neither."""
    network = node.network(kind)
    return replace(network, cni_version="1.1.0", plugins=network.plugins[1:])


def ours(node: Node, command: str, pod: Pod, previous: Json | None = None, **keys: Any) -> str:
    """Return the standard output of one call of our plugin, as if it was chained behind another one."""
    plugin = {**node.network("bridge").plugins[1], **keys}
    return node.runtime.invoke(command, pod.network, plugin, pod.attachment, previous or pod.result)


def refused(call: Callable[[], object]) -> CniError:
    with pytest.raises(CniError) as caught:
        call()
    return caught.value


def wipe(node: Node) -> None:
    """Take away all that a reboot would, but for the pods' interfaces."""
    for link in json.loads(node.machine.run("ip", "-j", "link", "show", "type", "vxlan")):
        node.machine.ip(f"link del {link['ifname']}")
    for family in ("-4", "-6"):
        node.machine.run("ip", family, "rule", "flush", "protocol", str(ids.PROTOCOL))
        node.machine.run("ip", family, "route", "flush", "table", "all", "protocol", str(ids.PROTOCOL))
    for family in ("inet", "bridge"):
        node.machine.run("nft", "delete", "table", family, ids.NFT_NODE_INET)
