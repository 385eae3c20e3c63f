"""The run directory of a node is full, or gone: agent, lease daemon and plugin name the path, and nothing leaks."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab import topology
from ..lab.cnirun import CniError
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.waiting import until
from .conftest import BACKEND, settled

READY = "http://127.0.0.1:9479/readyz"


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_full_disk", topology.separate(workers=1)) as made:
        yield made


@pytest.fixture
def worker(lab: Lab) -> Iterator[Node]:
    node = lab.nodes["w1"]
    yield node
    if not node.agent.running:
        node.agent.start()
    until(lambda: ready(node) == (200, ""), "the node is ready again", seconds=30)


def ready(node: Node) -> tuple[int, str]:
    """Return what ``/readyz`` of a node says: its number, and the reason if it is not 200."""

    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(READY, timeout=5) as answer:
                return int(answer.status), ""
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return node.machine.inside(ask)


def problems(node: Node) -> str:
    return "\n".join(f"{p['source']} {p['message']}" for p in node.agent.status()["problems"])


def fill(directory: Path) -> Path:
    """Leave no room in a file system, and return the file that takes it."""
    filler = directory / ".filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        return filler


def test_agent_and_plugin_name_what_they_cannot_write_and_go_on(lab: Lab, worker: Node) -> None:
    agent = worker.agent
    pod = worker.pod("before", BACKEND)
    address = pod.request(SELECTED).address
    agent.stop()
    until(lambda: not agent.keeper_pids(), "its keeper has ended")
    kept = agent.run_dir.with_name("kept")
    shutil.copytree(agent.run_dir, kept, ignore=shutil.ignore_patterns("*.sock"))
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "none", str(agent.run_dir)], check=True
    )
    full = f"No space left on device: '{agent.run_dir}"
    try:
        shutil.copytree(kept, agent.run_dir, dirs_exist_ok=True)
        agent.start()
        until(lambda: ready(worker) == (200, ""), "the node is ready", seconds=30)
        agent.kill()
        filler = fill(agent.run_dir)
        with pytest.raises(CniError, match=full):
            worker.pod("alone", BACKEND)
        agent.start()
        until(agent.answers, "the agent answers", seconds=20)
        # An agent that starts writes its plan only if that is another one: an edit makes it so.
        worker.write("zz-more", [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "more"}}])
        until(lambda: "plan.json" in problems(worker), "status names the path", seconds=20)
        assert full in problems(worker)
        number, reason = ready(worker)
        assert (number, full in reason) == (503, True)
        with pytest.raises(CniError, match=full):
            worker.pod("by-agent", BACKEND)
        assert pod.request(SELECTED).address == address
        filler.unlink()
        until(lambda: full not in problems(worker), "there is room again", seconds=30)
        assert worker.pod("after", BACKEND).request(SELECTED).address == address
    finally:
        agent.stop()
        until(lambda: not agent.keeper_pids(), "its keeper has ended")
        shutil.copytree(
            agent.run_dir, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock", ".filler")
        )
        subprocess.run(["umount", "-l", str(agent.run_dir)], check=True)
        shutil.copytree(kept, agent.run_dir, dirs_exist_ok=True)


def test_an_agent_whose_run_directory_is_gone_is_not_ready(lab: Lab, worker: Node) -> None:
    """A file in the place of the directory keeps the agent from making it again."""
    run_dir = worker.agent.run_dir
    assert ready(worker) == (200, "")
    gone = run_dir.with_name("gone")
    run_dir.rename(gone)
    run_dir.touch()
    try:
        until(lambda: ready(worker)[0] == 503, "it is not ready")
        assert f"{run_dir}/" in ready(worker)[1], "the reason names what is gone"
    finally:
        run_dir.unlink()
    until(lambda: ready(worker) == (200, ""), "directory and socket are made again", seconds=20)
    until(lambda: worker.agent.keeper_pids(), "lock and socket of the keeper are made again", seconds=20)
    assert worker.agent.answers()
