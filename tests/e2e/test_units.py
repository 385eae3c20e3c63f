"""The systemd units' commands, with exactly the capabilities that the units leave them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_agent.adapters.service_manager import SOCKET, WATCHDOG_USEC

from ..lab import documents, topology
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.silence import longest
from ..lab.topology import VIRTUAL
from ..lab.units import Unit
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, LOGS

NUMBERS = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_NICE": 23, "CAP_SYS_PTRACE": 19}
"""Numbers of capabilities in linux/capability.h."""
WATCHDOG_S = 1.0
FRESH = 9700


class Machine:
    """A node without systemd: the test runs the commands of the units, and restarts what they restart."""

    def __init__(self, node: Node, agent: Unit, lease: Unit) -> None:
        self.node = node
        self._lease = lease
        self._daemon: subprocess.Popen[bytes] | None = None
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = node.directory / "notify"
        self.notified.bind(str(path))
        node.agent.program = agent.command()
        node.agent.environment |= {SOCKET: str(path), WATCHDOG_USEC: str(int(WATCHDOG_S * 1e6))}

    @property
    def daemon(self) -> subprocess.Popen[bytes]:
        assert self._daemon is not None
        return self._daemon

    def start_lease_daemon(self, without: str = "") -> None:
        run_dir = str(self.node.agent.run_dir)
        command = (
            run_dir if part == "/run/egress-gateway" else part for part in self._lease.command(without)
        )
        self._daemon = self.node.machine.spawn(*command, log=self.node.directory / "lease.log")

    def receive(self, state: str) -> None:
        """Wait until the service manager of this node receives a state. The states before are dropped."""
        until(lambda: self._next(WATCHDOG_S).startswith(state), f"{self.node.name}: {state}", 20)

    def fed(self) -> bool:
        """Return whether the watchdog is fed within its time-out from now on."""
        while self._next(0):
            pass
        return self._next(WATCHDOG_S) == "WATCHDOG=1"

    def _next(self, seconds: float) -> str:
        ready, _, _ = select.select([self.notified], [], [], seconds)
        return self.notified.recv(4096).decode() if ready else ""

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.daemon.kill()
        self.daemon.wait()
        self.notified.close()


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with Lab(topology.separate(workers=1, gateways=2)) as made:
        yield made


@pytest.fixture(scope="module")
def machines(lab: Lab) -> Iterator[dict[str, Machine]]:
    """Every node runs both units."""
    made = {name: Machine(node, Unit("agent"), Unit("lease")) for name, node in lab.nodes.items()}
    lab.publish_nodes()
    lab.publish("objects", documents.virtual_ip([VIRTUAL]))
    for machine in made.values():
        machine.start_lease_daemon()
    lab.start_agents()
    try:
        lab.wait_settled(GATEWAY, 40)
        yield made
    finally:
        lab.save_logs(LOGS / "test_units")
        for machine in made.values():
            machine.end()


def capabilities(pid: int) -> set[str]:
    """Return the capabilities that a process has, which are also all that it can get."""
    status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["CapEff"] == status["CapPrm"] == status["CapBnd"]
    assert status["NoNewPrivs"] == "1"
    mask = int(status["CapEff"], 16)
    names = {number: name for name, number in NUMBERS.items()}
    return {names[number] for number in range(64) if mask >> number & 1}


def test_both_programs_serve_with_these_capabilities(lab: Lab, machines: dict[str, Machine]) -> None:
    for machine in machines.values():
        agent = machine.node.agent
        assert capabilities(agent.pid) == Unit("agent").capabilities
        assert capabilities(machine.daemon.pid) == Unit("lease").capabilities
        assert agent.keeper_pids() == [machine.daemon.pid]
        assert os.sched_getscheduler(machine.daemon.pid) == os.SCHED_FIFO
        assert agent.status()["problems"] == []
    assert lab.nodes["w1"].pod("backend", BACKEND).request(SELECTED).address == VIRTUAL


def test_the_service_manager_learns_that_the_agent_serves_and_lives(machines: dict[str, Machine]) -> None:
    assert all(machine.fed() for machine in machines.values())


def test_a_restart_in_place_moves_nothing_and_is_ready_again(lab: Lab, machines: dict[str, Machine]) -> None:
    before = served(lab)
    master = machines[before[0]]
    master.node.agent.restart()
    master.receive("RELOADING=1\nMONOTONIC_USEC=")
    master.receive("READY=1")
    assert master.fed()
    assert served(lab) == before


def test_a_crash_of_the_agent_moves_nothing(lab: Lab, machines: dict[str, Machine]) -> None:
    before = served(lab)
    master = machines[before[0]]
    daemon = master.daemon.pid
    master.node.agent.kill()
    master.node.agent.start()
    master.receive("READY=1")
    assert served(lab) == before
    assert master.node.agent.keeper_pids() == [daemon]


def served(lab: Lab) -> tuple[str, int]:
    """Return the master that all nodes name, and its epoch."""
    master = lab.wait_settled(GATEWAY)
    [entry] = lab.nodes[master].agent.status()["egressIPs"]
    return master, int(entry["epoch"])


def test_a_stop_hands_over_and_loses_nothing(lab: Lab, machines: dict[str, Machine]) -> None:
    master, epoch = served(lab)
    pod = lab.nodes["w1"].pod("talking", BACKEND)
    lab.serve("outside", FRESH)
    stopped = machines[master]
    with lab.capture() as capture, lab.probing(pod, FRESH) as probing:
        until(lambda: len(capture.packets(FRESH)) > 200, "probes arrive")
        stopped.node.agent.stop()
        seen = len(capture.packets(FRESH))
        until(lambda: len(capture.packets(FRESH)) > seen + 200, "probes go on arriving")
        assert longest(probing.stop()).lost == 0
        assert capture.sources(FRESH) == {VIRTUAL}
    stopped.receive("STOPPING=1")
    # It has handed over, and the service manager starts it again: it waits for the next agent.
    assert stopped.daemon.wait(10) == 0
    stopped.start_lease_daemon()
    stopped.node.agent.start()
    stopped.receive("READY=1")
    after, later = served(lab)
    assert after != master and later > epoch
    assert stopped.node.agent.keeper_pids() == [stopped.daemon.pid]


@pytest.mark.parametrize(
    ("missing", "problem"),
    [
        ("CAP_SYS_NICE", "no real-time scheduling"),
        ("CAP_NET_RAW", "cannot follow the agent: [Errno 1] Operation not permitted"),
        ("CAP_NET_ADMIN", "Operation not permitted (needs CAP_NET_ADMIN in the node's network namespace)"),
    ],
)
def test_the_lease_daemon_needs_each_of_them(
    missing: str, problem: str, lab: Lab, machines: dict[str, Machine]
) -> None:
    machine = machines["g1"]
    machine.daemon.send_signal(signal.SIGTERM)
    machine.daemon.wait(10)
    machine.start_lease_daemon(without=missing)
    try:
        until(
            lambda: any(problem in found["message"] for found in machine.node.agent.status()["problems"]),
            f"without {missing} there is a problem", 20,
        )  # fmt: skip
    finally:
        machine.daemon.kill()
        machine.daemon.wait()
        machine.start_lease_daemon()
        lab.wait_settled(GATEWAY, 40)
