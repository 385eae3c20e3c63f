"""The plugin with its own interpreter where there is nothing else: no Python, no shell, no library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cni import contract

from ..lab.waiting import until
from ..unit.cni.agent import Answering, FakeAgent
from ..unit.cni_install.test_installer import Host
from .test_plugin import BACKEND, OTHER, PLAN, ROOT, Node, ip, namespaces, veth_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")
__all__ = ["namespaces"]
# What every node has; the rest of the root is the plugin's directory.
ENTER = """#!/bin/sh -e
mount --rbind /proc {root}/proc
mount --rbind /run {root}/run
mount --bind {run_dir} {root}{run_dir}
exec chroot {root} /opt/cni/bin/egress-gateway "$@"
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("root")
    plugin = made / "opt" / "cni" / "bin" / "egress-gateway"
    builder = ROOT / "packaging" / "build_standalone.py"
    subprocess.run([sys.executable, str(builder), "--output", str(plugin)], check=True)
    return made


@pytest.fixture
def node(namespaces: Callable[[str], str], root: Path, tmp_path: Path) -> Node:
    name = namespaces("bare")
    ip("addr", "add", "192.0.2.1/24", "dev", "lo", namespace=name)
    run_dir, enter = tmp_path / "run", tmp_path / "enter"
    for directory in (run_dir, root / "proc", root / "run", Path(f"{root}{run_dir}")):
        directory.mkdir(parents=True, exist_ok=True)
    enter.write_text(ENTER.format(root=root, run_dir=run_dir))
    enter.chmod(0o755)
    made = Node(name, run_dir, enter)
    made.leave(PLAN)
    return made


@pytest.fixture
def pod(namespaces: Callable[[str], str]) -> str:
    return namespaces("pod")


def test_all_calls_by_the_agent(node: Node, pod: str) -> None:
    result = node.create("bridge", pod)
    assert node.call("VERSION", pod, result, None)[1]["supportedVersions"][-1] == "1.1.0"
    with FakeAgent(node.run_dir / "agent.sock", Answering(contract.OK)):
        assert node.call("ADD", pod, result, BACKEND) == (0, result)
        for command in ("CHECK", "DEL"):
            assert node.call(command, pod, result, BACKEND) == (0, None)


def test_an_unselected_pod_while_the_agent_is_away(node: Node, pod: str) -> None:
    result = node.create("bridge", pod)
    assert node.call("ADD", pod, result, OTHER) == (0, result)
    (record,) = node.records()
    assert record.host_interface == veth_of(result)
    assert node.call("CHECK", pod, result, OTHER) == (0, None)
    assert node.call("DEL", pod, result, OTHER) == (0, None)
    assert node.records() == ()


def test_a_selected_pod_while_the_agent_is_away_needs_nft(node: Node, pod: str) -> None:
    """It must not start without the rules that keep its packets in."""
    result = node.create("bridge", pod)
    error = node.refusal("ADD", pod, result, BACKEND)
    assert error["code"] == contract.KERNEL_REFUSED
    assert "nft" in json.dumps(error)
    assert node.group(veth_of(result)) == 0
    assert node.call("DEL", pod, result, BACKEND) == (0, None)


def test_it_is_taken_out_while_its_mount_runs_no_programs(root: Path, tmp_path: Path) -> None:
    """A change that no event and no field of the file shows."""
    host = Host(tmp_path)
    shutil.copy(root / "opt" / "cni" / "bin" / "egress-gateway", host.plugin)
    host.configure()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", host.bin_dir], check=True)
    try:
        with host.watching(tmp_path / "log", "--host-root", "/nowhere"):
            for _ in range(2):
                until(lambda: len(host.plugins()) == 2, "ours is chained", 30)
                until(lambda: not host.reported(), "all is well", 30)
                written = host.installed.stat().st_mtime_ns
                subprocess.run(["mount", "-o", "remount,noexec", host.bin_dir], check=True)
                until(lambda: len(host.plugins()) == 1, "ours is taken out", 30)
                until(
                    lambda: "it cannot run: Permission denied" in "".join(host.reported()), "the reason", 30
                )
                subprocess.run(["mount", "-o", "remount,exec", host.bin_dir], check=True)
                assert host.installed.stat().st_mtime_ns == written, "it is not written again and again"
    finally:
        subprocess.run(["umount", "-l", host.bin_dir], check=True)
