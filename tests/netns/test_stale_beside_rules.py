"""Connections that a rule has marked as stale are deleted while the agent's kernel thread waits for ``nft``."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni.kernel.ids import MarkLayout
from cni.kernel.nftables import nft
from gateway_agent.adapters.kernel.kernel_thread import Kernel
from tests.lab.namespace import Namespace, fresh

MASK = 0x0FF00000
TABLE = "add table inet changing\ndelete table inet changing\ntable inet changing {\n}\n"


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with fresh("egwct-beside") as made:
        yield made


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a pipe: a line in it lets one run of ``nft`` go on, as the end of a large transaction does."""
    pipe, real, program = tmp_path / "gate", shutil.which("nft"), tmp_path / "nft"
    os.mkfifo(pipe)
    program.write_text(f'#!/bin/sh\nread -r _ <"{pipe}"\nexec {real} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return pipe


def test_a_stale_connection_does_not_wait_for_a_change_of_rules(machine: Namespace, gate: Path) -> None:
    ends = ("-p", "udp", "--src", "10.244.0.10", "--dst", "203.0.113.1", "--sport", "7200", "--dport", "9000")
    machine.run("conntrack", "-I", *ends, "-t", "100", "--mark", hex(MarkLayout(MASK).stale))

    async def scenario() -> tuple[str, bool]:
        kernel = Kernel()
        change = asyncio.create_task(kernel.guard(TABLE))
        # The pipe can be opened for writing only when nft waits at its other end.
        opened = await asyncio.to_thread(gate.open, "w")
        try:
            async with asyncio.timeout(nft.TIMEOUT_S / 2):
                await kernel.forget_stale(MASK)
            left, waits = await asyncio.to_thread(machine.run, "conntrack", "-C"), not change.done()
        finally:
            opened.write("go on\n" * 100)
            opened.flush()
            await change
            opened.close()
        return left.strip(), waits

    assert machine.inside(lambda: asyncio.run(scenario())) == ("0", True)
