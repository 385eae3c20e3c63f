"""A boot of a node, in a lab: all of its programs end, and start again in a random order."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeVar

import grpc

from cni.kernel import ids

from ..node import Node
from ..waiting import until
from .conflist import installer
from .containerd import Containerd
from .sandbox import Sandbox

T = TypeVar("T")
PATIENCE_S = 180.0
"""Seconds in which a node must have booted, on a machine that may run much else."""
GAP_S = 0.5
"""Largest number of seconds between the starts of two programs."""
KUBELET_PAUSE_S = 0.2
"""Seconds after which a kubelet of the lab tries a sandbox again; a real one waits longer."""


def boot(node: Node, containerd: Containerd, rng: random.Random, pods: Callable[[], T]) -> T:
    """Boot the node, and return what ``pods`` returns when the agent answers.

    The runtime, the kubelet, the agent, the main network plugin and our installer start in a random order. The kubelet
    calls ``pods`` as soon as the runtime has a network, whatever of the others runs by then. The guard comes first, as
    its unit does. The wires of the machine stay.
    """
    _power_off(node, containerd)
    node.machine.run("nft", "-f", str(node.agent.config.parent / "state" / "guard.nft"))
    network = node.network("bridge")
    alone = replace(network, plugins=network.plugins[:1])
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        runtime: Future[None] = Future()
        kubelet: list[Future[T]] = []
        parts: list[Callable[[], object]] = [
            node.agent.start,
            lambda: pool.submit(_outcome, containerd.start, runtime),
            lambda: kubelet.append(pool.submit(_after, runtime, pods)),
            lambda: containerd.use(alone),
            lambda: stack.enter_context(installer(node, containerd)),
        ]
        rng.shuffle(parts)
        for part in parts:
            part()
            time.sleep(rng.uniform(0, GAP_S))
        result = kubelet[0].result()
        until(node.agent.answers, "the agent answers", PATIENCE_S)
    return result


def _outcome(call: Callable[[], None], of: Future[None]) -> None:
    """Set the future to the end of a call."""
    try:
        call()
    except BaseException as error:
        of.set_exception(error)
        raise
    of.set_result(None)


def _after(runtime: Future[None], pods: Callable[[], T]) -> T:
    """Call ``pods`` once the runtime has started."""
    runtime.result(PATIENCE_S)
    return pods()


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
        except grpc.RpcError as error:
            time.sleep(KUBELET_PAUSE_S)
            # Not yet, and the reason is named if it stays.
            raise OSError(str(error)) from error
        return True

    until(tried, f"{name} starts", PATIENCE_S)
    return found[0]
