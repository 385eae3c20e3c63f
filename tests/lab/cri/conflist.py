"""The CNI configuration of a node's runtime: its main network plugin writes it anew, and our installer is beside it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from ..cnirun import OUR_PLUGINS
from ..node import Node
from .containerd import Containerd

GAPS_S = (0.0, 0.05)
"""Seconds between two rewrites: some last shorter than the start of a pod, some longer."""


@contextmanager
def installer(node: Node, containerd: Containerd) -> Iterator[None]:
    """Run the installer that restores our entry."""
    program = [sys.executable, "-m", "gateway_agent.cni_install.installer", "install", "--watch"]
    directory = containerd.directory
    options = ("--plugin", OUR_PLUGINS / "egress-gateway", "--bin-dir", directory / "bin",
               "--conf-dir", directory / "net.d", "--report", directory / "report.json",
               "--socket", node.agent.socket, "--cri-socket", containerd.socket)  # fmt: skip
    with (directory / "installer.log").open("wb") as log:
        process = subprocess.Popen([*program, *map(str, options)], stdout=log, stderr=log)
    try:
        yield
        assert process.poll() is None, (directory / "installer.log").read_text()
    finally:
        process.kill()
        process.wait()


@contextmanager
def rewriting(node: Node, containerd: Containerd, times: int) -> Iterator[threading.Event]:
    """Rewrite the configuration as a main network plugin does. Yield the event of its end."""
    network, done, rng = node.network("bridge"), threading.Event(), random.Random(times)
    alone = replace(network, plugins=network.plugins[:1])

    def work() -> None:
        for _ in range(times):
            containerd.use(alone)
            time.sleep(rng.uniform(*GAPS_S))
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        thread.join()


def chained(containerd: Containerd) -> bool:
    """Return True if our entry is in the file."""
    text = (containerd.directory / "net.d" / "10-net.conflist").read_text()
    return [plugin["type"] for plugin in json.loads(text)["plugins"]] == ["bridge", "egress-gateway"]
