"""A real containerd without Kubernetes: ``ctr run --cni`` gives no labels, containerd's own store has them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..lab import topology
from ..lab.cri.containerd import IMAGE, Containerd
from ..lab.lab import SELECTED, Lab
from ..lab.namespace import CommandFailed, Namespace, run
from ..lab.node import Node
from ..lab.pod import Client
from ..lab.units import Unit, limited
from .conftest import BACKEND, GATEWAY, settled

OTHER = {"app": "other"}
BINDING = """
mkdir -p /etc/cni /var/lib/cni
for place in /etc/cni /var/lib/cni /opt; do mount -t tmpfs none $place; done
mkdir -p /etc/cni/net.d /opt/cni/bin
mount --bind $0/net.d /etc/cni/net.d; mount --bind $0/bin /opt/cni/bin
"""
"""Mounts for ctr: it looks for networks and plugins in two places only, and keeps results in /var/lib/cni."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ctr")


@pytest.fixture(scope="module")
def lab(plugin: Path, place: Path) -> Iterator[Lab]:
    options = {"engines": {"podman": "", "containerd": str(place / "seen.sock")}}
    with settled("test_ctr", topology.separate(workers=1, gateways=2), options) as made:
        yield made


@pytest.fixture(scope="module")
def node(lab: Lab) -> Node:
    """Return the worker. Its agent has the rights of its unit."""
    worker = lab.nodes["w1"]
    worker.agent.stop()
    worker.agent.program = Unit("agent").command()
    worker.agent.start()
    lab.wait_settled(GATEWAY)
    return worker


@pytest.fixture(scope="module")
def containerd(node: Node, place: Path) -> Iterator[Containerd]:
    runtime = Containerd(node.machine, place / "c")
    runtime.use(node.network("bridge"))
    runtime.start()
    (place / "seen.sock").symlink_to(runtime.socket)
    ctr(runtime, "images", "import", "--snapshotter", "native", str(runtime.directory / "pause.tar"))
    try:
        yield runtime
    finally:
        runtime.end()


def ctr(containerd: Containerd, *arguments: str) -> str:
    """Return the output of containerd's client. Raises :class:`subprocess.CalledProcessError`."""
    machine = ("nsenter", f"--net={containerd.machine.path}", "unshare", "--mount")
    script = f'{BINDING} exec ctr --address $0/run/c.sock "$@"'
    done = subprocess.run(
        [*machine, "sh", "-ec", script, str(containerd.directory), *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


@contextmanager
def container(containerd: Containerd, name: str, labels: dict[str, str]) -> Iterator[Client]:
    label_options = (part for key, value in labels.items() for part in ("--label", f"{key}={value}"))
    command = ("run", "--cni", "--detach", "--snapshotter", "native", *label_options, IMAGE, name)
    try:
        ctr(containerd, *command)
        pid = ctr(containerd, "tasks", "list").split(name)[1].split()[0]
        machine = Namespace(f"{containerd.machine.name}-{name}")
        run(["ip", "netns", "attach", machine.name, pid])
        yield Client(machine)
        run(["ip", "netns", "delete", machine.name])
    finally:
        for rest in (("tasks", "delete", "--force", name), ("containers", "delete", name)):
            ctr(containerd, *rest)


@pytest.mark.parametrize("name", ["web", "web-of-trust"])
def test_a_label_selects_a_container(lab: Lab, node: Node, containerd: Containerd, name: str) -> None:
    served = lab.nodes[lab.wait_settled(GATEWAY)].host.egress_ip
    with container(containerd, name, BACKEND) as selected, container(containerd, f"{name}-2", OTHER) as other:
        assert selected.request(SELECTED).address == served
        assert other.request(SELECTED).address == node.host.ip
        rows = {row["name"]: row["policies"] for row in node.agent.call("pods")["pods"]}
        assert rows[name] and not rows[f"{name}-2"]


def test_the_rights_of_the_unit_are_those_that_a_network_namespace_of_ctr_needs(
    node: Node, containerd: Containerd
) -> None:
    with container(containerd, "seen", BACKEND):
        records = [
            json.loads(path.read_text()) for path in (node.agent.run_dir / "attachments").glob("*.json")
        ]
        [path] = [record["netns"] for record in records if record["name"] == "seen"]
        assert re.fullmatch(r"/proc/[0-9]+/ns/net", path)
        rights = Unit("agent").capabilities
        node.machine.run(*limited(rights), "readlink", path)
        with pytest.raises(CommandFailed):
            node.machine.run(*limited(rights - {"CAP_SYS_PTRACE"}), "readlink", path)


def test_without_containerds_answer_no_container_starts(
    node: Node, containerd: Containerd, place: Path
) -> None:
    (place / "seen.sock").unlink()
    (place / "seen.sock").touch()
    try:
        with (
            pytest.raises(RuntimeError, match="labels are not known"),
            container(containerd, "hidden", BACKEND),
        ):
            pass
    finally:
        (place / "seen.sock").unlink()
        (place / "seen.sock").symlink_to(containerd.socket)
