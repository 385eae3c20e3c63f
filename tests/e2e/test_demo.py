"""The demo and the lab under it: they come true, and they leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..lab import registry, topology
from ..lab.lab import Lab
from ..lab.namespace import REPOSITORY, existing
from ..lab.waiting import until

PLAIN = {**os.environ, "NO_COLOR": "1"}


def demo(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.lab.demo", *arguments],
        cwd=REPOSITORY,
        env=PLAIN,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Who runs the tests in the background lets them ignore Ctrl-C, and what they start with them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def left_of(process: subprocess.Popen[str]) -> list[str]:
    return existing(f"egw-{process.pid}-")


def test_all_expectations_of_the_demo_hold(plugin: Path) -> None:
    process = demo()
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert left_of(process) == []
    assert max(map(len, output.splitlines())) <= 100, "the output is meant to be read"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_clears_up(plugin: Path, number: signal.Signals) -> None:
    process = demo()
    until(lambda: existing(f"egw-{process.pid}-1-g3"), "the lab is up", 30)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert left_of(process) == []


def test_the_next_lab_clears_up_after_a_crash() -> None:
    code = (
        "import os, signal; from tests.lab.lab import Lab; from tests.lab.topology import flat\n"
        "Lab(flat()).__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, text=True)
    process.wait(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert left_of(process)
    registry.sweep()
    assert left_of(process) == []


def test_two_labs_run_side_by_side() -> None:
    with Lab(topology.flat()) as first, Lab(topology.flat()) as second:
        names = [{machine.name for machine in lab.machines.values()} for lab in (first, second)]
        assert not names[0] & names[1]
        assert names[0] | names[1] <= set(existing("egw-"))
    assert not (names[0] | names[1]) & set(existing("egw-"))
