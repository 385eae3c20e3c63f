"""Debian 13, and nodes without a Python that is new enough: the bundle brings one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from ..lab.debian import Debian
from ..lab.lab import Lab
from .conftest import Machines
from .test_first_container import prepare

Reach = Callable[[dict[str, Debian]], dict[str, str]]
OPTIONS = "--config agent.yaml --store manifests --key cluster.key"


def install(node: str, given: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Copy the files of an administrator to a node, and install the bundle there."""
    names = [path.name for path in given.iterdir()]
    subprocess.run(["scp", "-qr", *names, f"root@{node}:"], cwd=given, env=environment, check=True)
    script = f"tar -xzf egress-gateway-bundle.tar.gz && egress-gateway/install.sh install {OPTIONS}"
    command = ["ssh", f"root@{node}", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_debian_13_is_ready_with_its_own_python(
    lab: Lab, machines: Machines, reach: Reach, tmp_path: Path
) -> None:
    given = prepare(tmp_path / "given", lab)
    nodes = machines("trixie", ("nftables", "python3-venv"), ("g1",))
    node = nodes["g1"]
    node.run("apt-get", "-qq", "install", "--no-install-recommends", "nftables", "python3-venv")
    done = install("g1", given, reach(nodes))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ready after" in done.stdout
    program = node.run("readlink", "-f", f"/proc/{node.pid('egress-gateway-agent')}/exe").strip()
    assert program == "/usr/bin/python3.13"
    assert (
        node.run("systemctl", "is-active", "egress-gateway-agent", "egress-gateway-lease")
        == "active\nactive\n"
    )


def test_a_node_without_any_python_is_ready(
    lab: Lab, machines: Machines, reach: Reach, tmp_path: Path
) -> None:
    given = prepare(tmp_path / "given", lab)
    nodes = machines("bookworm", ("nftables",), ("g1",))
    node = nodes["g1"]
    node.run("apt-get", "-qq", "install", "--no-install-recommends", "nftables")
    assert node.attempt("python3", "--version").returncode != 0
    done = install("g1", given, reach(nodes))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ready after" in done.stdout


def test_an_nft_that_is_too_old_is_named(lab: Lab, machines: Machines, reach: Reach, tmp_path: Path) -> None:
    """The checks run by the Python of the bundle: the node has version 3.9, and an older C library."""
    given = prepare(tmp_path / "given", lab)
    nodes = machines("bullseye", ("nftables", "python3"), ("g1",))
    node = nodes["g1"]
    node.run("apt-get", "-qq", "install", "--no-install-recommends", "nftables", "python3")
    assert "Python 3.9" in node.run("python3", "--version")
    done = install("g1", given, reach(nodes))
    assert done.returncode == 1
    assert "install a newer nftables" in done.stdout
    assert "nothing was changed" in done.stderr
