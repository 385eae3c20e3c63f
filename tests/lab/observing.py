"""Observers on several nodes and a capture of what they get out: who can speak for an address, and when."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from .lab import Lab
from .namespace import Namespace
from .overlap import Frame, Overlap, Tenure, overlaps, owner_at_end
from .ports import Ports
from .witness import Witness

# <asm-generic/socket.h>, <linux/in.h>
_SO_BINDTODEVICE = 25
_IP_FREEBIND = 15


@dataclass(frozen=True)
class Attempts:
    """How hard the observer of one node tried."""

    attempts: int
    accepted: dict[str, int]
    """Frames that the kernel took, by address."""
    pause: float
    """The longest pause between two attempts, milliseconds."""


class Observers:
    """They observe from their making to :meth:`close`; use it in a ``with`` statement.

    ``held``: a node speaks only while it has the address; else it tries always, and only a fence can stop it.
    ``brief``: no frames are kept, only who spoke from when to when; for many addresses and long runs.
    They are no processes of the nodes' machines, so :meth:`tests.lab.node.Node.die` does not end them.
    """

    def __init__(
        self,
        lab: Lab,
        nodes: Sequence[str],
        addresses: Sequence[str],
        interface: str = "",
        held: bool = False,
        brief: bool = False,
    ) -> None:
        wire = interface or lab.topology.egress_interface
        self.addresses = tuple(addresses)
        self._reported = False
        with contextlib.ExitStack() as made:
            ports = {node: f"{node}-{wire}" for node in nodes}
            self._ports = Ports(lab.machines["lan"], ports, addresses, brief)
            made.callback(self._ports.close)
            self._witness = made.enter_context(_start(lab, nodes, wire, addresses, held))
            self._stack = made.pop_all()

    def frames(self) -> list[Frame]:
        """All that came out of the nodes until now and speaks for one of the addresses, by time.

        Raises :class:`RuntimeError` where the capture missed a frame or an observer has ended: then there is no
        proof.
        """
        self._check()
        return self._ports.frames()

    def tenures(self) -> list[Tenure]:
        """Who spoke for which address from when to when, since the beginning. Raises as :meth:`frames`."""
        self._check()
        return self._ports.tenures()

    def speaking(self, window: float) -> dict[str, tuple[str, ...]]:
        """As :meth:`owners`, since the beginning: cheap also after a long time. Raises as :meth:`frames`."""
        self._check()
        return self._ports.owners(window)

    def _check(self) -> None:
        if self._witness.ended and not self._reported:
            raise RuntimeError("the observers have ended")

    def forget(self) -> None:
        """Drop the frames until now, for long runs."""
        self._ports.forget()

    def overlaps(self) -> list[Overlap]:
        return overlaps(self.frames())

    def owners(self, window: float = 200.0) -> dict[str, tuple[str, ...]]:
        """Return the nodes that could speak for each address in the last ``window`` milliseconds.

        An address for which nobody has spoken since the beginning (or :meth:`forget`) is missing.
        """
        # Before the reading, which may take long: what was sent until now has been read by its end.
        end = time.time_ns()
        return owner_at_end(self.frames(), window, end)

    def attempts(self) -> dict[str, Attempts]:
        """Of each node's observer since the last call."""
        return {node: Attempts(**each) for node, each in self._witness.ask().items()}

    def end(self) -> dict[str, Attempts]:
        """End the observers, and tells of each node's; what they got out may still be asked for."""
        report = self._witness.end()
        self._reported = True
        return {node: Attempts(**each) for node, each in report.items()}

    def close(self) -> None:
        """May be called twice."""
        self._stack.close()

    def __enter__(self) -> Observers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _start(lab: Lab, nodes: Sequence[str], interface: str, addresses: Sequence[str], held: bool) -> Witness:
    """One process for all of them: most of the cost of an observer is that it wakes up so often."""
    arguments = ["--interface", interface]
    descriptors = []
    with contextlib.ExitStack() as stack:
        for node in nodes:
            machine = lab.machines[node]
            raw = stack.enter_context(machine.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
            bound = [stack.enter_context(_bound(machine, a, interface)) for a in addresses] if held else []
            arguments += ["--node", node, "--raw", str(raw.fileno())]
            for sock in bound:
                arguments += ["--held", str(sock.fileno())]
            descriptors += [sock.fileno() for sock in (raw, *bound)]
        log = lab.directory / "observers.log"
        return Witness(None, "tests.lab.observer", [*arguments, *addresses], log, descriptors)


def _bound(machine: Namespace, address: str, interface: str) -> socket.socket:
    """Bound to an address that need not be there: the kernel refuses to send until it is."""
    sock = machine.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, interface.encode() + b"\0")
    sock.bind((address, 0))
    return sock
