"""A boot of a node, in a lab: all of its programs end, and start again in a random order."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import grpc

from cni.kernel import ids

from ..node import Node
from ..waiting import until
from .conflist import installer
from .containerd import Containerd
from .sandbox import Sandbox

GAP_S = 0.5
"""Largest number of seconds between the starts of two programs."""
KUBELET_PAUSE_S = 0.2
"""Seconds after which a kubelet of the lab tries a sandbox again; a real one waits longer."""


@contextmanager
def booted(node: Node, containerd: Containerd, rng: random.Random) -> Iterator[None]:
    """Boot the node. The runtime, the agent, the main network plugin and our installer start in a random order.

    Yield while they are still starting. The guard comes first, as its unit does. The wires of the machine stay.
    """
    _power_off(node, containerd)
    node.machine.run("nft", "-f", str(node.agent.config.parent / "state" / "guard.nft"))
    network = node.network("bridge")
    alone = replace(network, plugins=network.plugins[:1])
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        runtime = []
        parts: list[Callable[[], object]] = [
            node.agent.start,
            lambda: runtime.append(pool.submit(containerd.start)),
            lambda: containerd.use(alone),
            lambda: stack.enter_context(installer(node, containerd)),
        ]
        rng.shuffle(parts)
        for part in parts:
            part()
            time.sleep(rng.uniform(0, GAP_S))
        runtime[0].result()
        yield
        until(node.agent.answers, "the agent answers")


def _power_off(node: Node, containerd: Containerd) -> None:
    """End everything on the node, and remove what no machine has after a boot."""
    containerd.end(signal.SIGKILL)
    node.die()
    node.machine.run("nft", "flush", "ruleset")
    for link in node.machine.run("ip", "-brief", "link").split("\n"):
        name = link.partition(" ")[0].partition("@")[0]
        if name.startswith(ids.DEVICE_PREFIX):
            node.machine.ip(f"link del {name}")
    shutil.rmtree(node.agent.run_dir)


def started(node: Node, containerd: Containerd, name: str, labels: dict[str, str]) -> Sandbox:
    """Return the pod once it has started: a kubelet tries again until then."""
    found: list[Sandbox] = []

    def tried() -> bool:
        try:
            found.append(Sandbox(node, containerd, name, labels))
        except grpc.RpcError:
            time.sleep(KUBELET_PAUSE_S)
        return bool(found)

    until(tried, f"{name} starts")
    return found[0]
