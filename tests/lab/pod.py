"""A pod: a namespace that the real plugins have connected, and what it can ask of the outside."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from .cnirun import Attachment, Network, Runtime
from .namespace import Namespace
from .silence import Probe
from .topology import OUTSIDE

PORT = 8080
"""TCP and UDP port of the outside service."""


@dataclass(frozen=True)
class Answer:
    """What the outside service said."""

    accepted: bool
    address: str
    """The client address that the service saw."""

    @classmethod
    def of(cls, line: str) -> Answer:
        verdict, _, rest = line.partition(" ")
        if verdict not in ("welcome", "refused"):
            raise ConnectionError(f"the outside service said {line!r}")
        return cls(verdict == "welcome", rest.split()[0])


class Connection:
    """An open TCP connection to the outside service."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lines = sock.makefile("r")
        self.answer = Answer.of(self._lines.readline())

    @property
    def port(self) -> int:
        """Return the port on this side."""
        return int(self._socket.getsockname()[1])

    def echo(self, text: str) -> str:
        """Return the echo of a line. Raises :class:`OSError` if the connection has ended."""
        self._socket.sendall(f"{text}\n".encode())
        line = self._lines.readline()
        if not line:
            raise ConnectionResetError("the connection has ended")
        return line.rstrip("\n")

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class Probing:
    """Probes under way; :meth:`stop` ends them and tells what they found. Use it in a ``with`` statement."""

    def __init__(self, machine: Namespace, address: str, port: int, log: Path) -> None:
        program = (sys.executable, "-m", "tests.lab.prober", address, str(port))
        self._process = machine.spawn(*program, log=log, reads=True)
        started = self._process.stdout.readline() if self._process.stdout else b""
        if started != b"ready\n":
            raise RuntimeError(f"the prober did not start: see {log}")

    def stop(self) -> list[Probe]:
        """Every probe, in the order of sending."""
        output, _ = self._process.communicate(timeout=30)
        return [Probe(sent, address, welcome) for sent, address, welcome in json.loads(output)]

    def __enter__(self) -> Probing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Client:
    """Who asks the outside service from inside a network namespace."""

    def __init__(self, machine: Namespace) -> None:
        self.machine = machine

    def connect(self, port: int = PORT, seconds: float = 2.0, address: str = OUTSIDE) -> Connection:
        """Return a new TCP connection that has been greeted. Raises :class:`OSError`."""
        sock = self.machine.socket(_family(address), socket.SOCK_STREAM)
        try:
            sock.settimeout(seconds)
            sock.connect((address, port))
            return Connection(sock)
        except BaseException:
            sock.close()
            raise

    def request(self, port: int = PORT, seconds: float = 2.0, address: str = OUTSIDE) -> Answer:
        """Connect, get the greeting, and disconnect. Raises :class:`OSError`."""
        connection = self.connect(port, seconds, address)
        connection.close()
        return connection.answer

    def datagram(self, port: int = PORT, seconds: float = 1.0, address: str = OUTSIDE) -> Answer:
        """One datagram from a new port, and its answer. Raises :class:`OSError`."""
        with self.machine.socket(_family(address), socket.SOCK_DGRAM) as sock:
            sock.settimeout(seconds)
            sock.connect((address, port))
            sock.send(b"?")
            return Answer.of(sock.recv(200).decode())


class Pod(Client):
    """Made by :meth:`tests.lab.node.Node.pod`."""

    def __init__(
        self,
        name: str,
        machine: Namespace,
        runtime: Runtime,
        network: Network,
        attachment: Attachment,
        gone: Callable[[], None] = lambda: None,
    ) -> None:
        """``gone`` is called when it has been stopped."""
        super().__init__(machine)
        self.name = name
        self.network = network
        self.attachment = attachment
        self._runtime = runtime
        self._gone = gone
        self.result: dict[str, Any] = {}

    @property
    def address(self) -> str:
        """Its first address: IPv4."""
        return str(self.result["ips"][0]["address"]).partition("/")[0]

    @property
    def host_interface(self) -> str:
        """The veth of the pod that stands in the node's namespace."""
        outer = [i["name"] for i in self.result["interfaces"] if not i.get("sandbox")]
        return str(outer[-1])

    def start(self) -> None:
        """ADD. Raises :class:`tests.lab.cnirun.CniError`."""
        self.result = self._runtime.add(self.network, self.attachment)

    def check(self) -> None:
        self._runtime.check(self.network, self.attachment)

    def stop(self) -> None:
        """DEL, then the namespace goes."""
        self._runtime.delete(self.network, self.attachment)
        self.machine.delete()
        self._gone()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
