"""The agent of one node, as a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from cni import contract
from gateway_agent.adapters.daemons.standby_daemon import MODULE
from gateway_agent.lease.ipc import LOCK

from .namespace import REPOSITORY, Namespace
from .waiting import until

PROGRAM = REPOSITORY / ".venv" / "bin" / "egress-gateway-agent"
EGRESSCTL = PROGRAM.with_name("egressctl")
Json = dict[str, Any]


class Agent:
    """Started with the configuration it is given; files are in ``directory``."""

    def __init__(self, machine: Namespace, directory: Path, configuration: Mapping[str, Any]) -> None:
        self.machine = machine
        self.config = directory / "agent.yaml"
        self.log = directory / "agent.log"
        self.run_dir = directory / "run"
        self.socket = self.run_dir / "agent.sock"
        self.environment: dict[str, str] = {}
        """Variables of the process, and of what it starts, beside those of the lab."""
        self.program: tuple[str, ...] = (str(PROGRAM),)
        """The command, without the option that names the configuration."""
        self._process: subprocess.Popen[bytes] | None = None
        self._reported = False
        whole = {**configuration, "runDir": str(self.run_dir), "stateDir": str(directory / "state")}
        self.config.write_text(yaml.safe_dump(whole, sort_keys=False))

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"the agent of {self.machine.name} was never started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Raises :class:`RuntimeError` with its last words where it has ended and nobody told it to."""
        if self._process is None:
            return False
        code = self._process.poll()
        if code is not None and not self._reported:
            message = self.log.read_text().strip().rpartition("\n")[2]
            raise RuntimeError(f"the agent of {self.machine.name} ended by itself, exit {code}: {message}")
        return code is None

    def start(self) -> None:
        """Start the process; :meth:`answers` says when it is there."""
        if self.running:
            raise RuntimeError(f"the agent of {self.machine.name} runs already")
        self._reported = False
        # env becomes the program, as ip netns exec does: the pid is right.
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        program = ("env", *variables, *self.program) if variables else self.program
        self._process = self.machine.spawn(*program, "--config", str(self.config), log=self.log)

    def call(self, name: str, **arguments: Any) -> Any:
        """Return the agent's answer to a control request.

        Raises :class:`OSError` where it is away or answers with an error: it may be starting.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(3)
            connection.connect(str(self.socket))
            request = json.dumps({"call": name, **arguments}).encode()
            connection.sendall(contract.CONTROL + b"\0" + request)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        if not answer:
            raise ConnectionResetError(f"the agent of {self.machine.name} hung up without an answer")
        result = json.loads(answer)
        if "error" in result:
            raise OSError(f"the agent of {self.machine.name}: {result['error']}")
        return result

    def status(self) -> Json:
        return dict(self.call("status"))

    def answers(self) -> bool:
        return bool(self.status())

    def keeper_pids(self) -> list[int]:
        """Return the lease daemon of this node, which outlives the agent, without its standby."""
        lock = self.run_dir / LOCK
        written = lock.read_text().strip() if lock.exists() else ""
        return [pid for pid in self.machine.pids() if str(pid) == written and MODULE in _command_line(pid)]

    def signal(self, number: int) -> None:
        """Send a signal to the agent's main process alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, to the main process alone: its keeper lives on."""
        self.end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: *stop*, leases are handed over. Waits for the end of the process."""
        self.end(signal.SIGTERM)

    def restart(self) -> None:
        """SIGHUP: *restart in place*. Returns when the agent answers on a new socket."""
        before = self.socket.stat().st_ctime_ns
        self.signal(signal.SIGHUP)
        until(lambda: self._came_back(before), f"{self.machine.name}: the agent is back")

    def _came_back(self, before: int) -> bool:
        return self.running and self.socket.stat().st_ctime_ns != before and self.answers()

    def end(self, number: int) -> None:
        """End the main process with a signal, where it runs still, and waits for its end."""
        if self._process is not None:
            self._reported = True
            self._process.send_signal(number)
            self._process.wait(timeout=20)


def _command_line(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""
