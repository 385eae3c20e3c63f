"""What an agent logs of changes of masters: the length of each silence, as status and metrics have it.

The states are those of real daemons in virtual time, and come by the daemon's socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from gateway_agent.adapters.daemons.lease_client_ipc import LeaseDaemonClient
from gateway_agent.agent.inputs.lease_client import LeaseClient
from gateway_agent.config import AgentConfig, parse
from gateway_agent.lease.ipc import SOCKET, KeeperState
from gateway_agent.lease.status import report
from gateway_agent.lease.voting.protocol import SECOND
from tests.lab.waiting import NotInTime

from ...lease.simulation import Network
from ...lease.small_cluster import cluster

LINE = re.compile(
    r"master of partner 172\.16\.0\.50: (\w+) -> (\w+), epoch (\d+), silent for (\d+) ms \((.*)\)"
)


def configuration(run_dir: Path) -> AgentConfig:
    text = f"nodeName: w1\nrunDir: {run_dir}\nstore: {{kind: files, path: {run_dir}}}\n"
    return parse("agent.yaml", text, "w1")


def logged(
    run_dir: Path, states: list[KeeperState], caplog: pytest.LogCaptureFixture
) -> list[tuple[str, ...]]:
    """Return the parts of the lines that an agent logs whose daemon tells these states one after another."""
    followed = 0

    def follow() -> None:
        nonlocal followed
        followed += 1

    async def send_state(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for state in states:
            writer.write(msgspec.json.encode(state) + b"\n")
        await writer.drain()

    async def whole() -> None:
        config = configuration(run_dir)
        leases = LeaseClient(config, LeaseDaemonClient(run_dir), follow)
        async with await asyncio.start_unix_server(send_state, run_dir / SOCKET):
            task = asyncio.create_task(leases.follow(lambda _: "partner 172.16.0.50"))
            for _ in range(500):
                if followed >= len(states):
                    break
                await asyncio.sleep(0.01)
            else:
                raise NotInTime("the agent has not heard all states")
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    with caplog.at_level(logging.INFO, logger="gateway_agent.agent.inputs.lease_client"):
        asyncio.run(whole())
    return [match.groups() for record in caplog.records if (match := LINE.fullmatch(record.getMessage()))]


def seen(network: Network) -> KeeperState:
    machine = network.machines["w1"]
    assert machine.daemon is not None
    return report(machine.daemon, machine.clock(network.now))


def planned(network: Network, master: str) -> None:
    network.drain(master)


def lost(network: Network, master: str) -> None:
    """Cut off the master from the voters; the worker still receives its messages."""
    for voter in {"g1", "g2", "g3"} - {master}:
        network.cut(voter, master)
        network.cut(master, voter)


def failed(network: Network, master: str) -> None:
    network.crash(master)


KINDS: dict[str, tuple[Callable[[Network, str], None], int, int, str]] = {
    "planned": (planned, 0, 0, "released by {}: drained"),
    "loss of the lease": (lost, 1, 700, ""),
    "failover": (failed, 200, 330, "{} silent for "),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_line_has_the_silence_that_events_and_metrics_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    change, least, most, reason = KINDS[kind]
    network = cluster()
    [master] = network.holders(network.ids[0])
    before = seen(network)
    change(network, master)
    network.run(3 * SECOND)
    after = seen(network)
    lines = logged(tmp_path, [before, after], caplog)
    [new] = after.changes[len(before.changes) :]
    assert lines[-1] == (master, new.after, str(new.epoch), str(new.silent_ms), new.reason)
    assert least <= new.silent_ms <= most
    assert reason.format(master) in new.reason
    assert len(lines) == len(after.changes), "each change is one line"


def test_a_clock_that_was_set_back_hides_no_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = cluster()
    [master] = network.holders(network.ids[0])
    before = seen(network)
    planned(network, master)
    network.run(3 * SECOND)
    after = seen(network)
    *old, new = after.changes
    earlier = msgspec.structs.replace(new, at=old[-1].at - 3600)
    lines = logged(tmp_path, [before, msgspec.structs.replace(after, changes=(*old, earlier))], caplog)
    assert lines[-1][:2] == (master, new.after)
    assert len(lines) == len(after.changes)
