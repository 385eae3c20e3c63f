"""The base of both parts of the demo: the lab, the screen, and the measurements."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from .capture import Capture
from .lab import SELECTED, Lab
from .pod import Connection, Pod, Probing
from .screen import Screen
from .silence import Probe, Silence
from .waiting import until

GATEWAY = "partner"


@dataclass
class Measured:
    """The measurements that the demo closes with."""

    silences: dict[str, Silence] = field(default_factory=dict)
    """Silences by their causes."""
    pause: float = 0.0
    """Longest pause of the download, milliseconds."""
    packets: int = 0
    """Number of packets of selected pods that were seen outside."""
    foreign: int = 0
    """Number of those packets that came from an address which was not the gateway's."""

    def rows(self) -> Sequence[tuple[str, str]]:
        silences = [
            (what, f"{silence.milliseconds:.0f} ms of silence, {silence.lost} probes unanswered")
            for what, silence in self.silences.items()
        ]
        return (
            *silences,
            ("the download's longest pause", f"{self.pause:.0f} ms"),
            ("packets by any other address", f"{self.foreign} of {self.packets:,}"),
        )


class Witnessed:
    """Probes of one pod, one each millisecond, while the outside looks where they come from."""

    def __init__(self, probing: Probing, capture: Capture, port: int, allowed: set[str]) -> None:
        self.allowed = allowed
        self._port = port
        self._probing = probing
        self._capture = capture

    def stop(self) -> list[Probe]:
        return self._probing.stop()

    def sources(self) -> list[str]:
        """Of all that was seen outside."""
        return [packet.source for packet in self._capture.packets(self._port)]

    def arrived(self) -> int:
        """How many probes were seen outside, answered or not."""
        return sum(packet.protocol == socket.IPPROTO_UDP for packet in self._capture.packets(self._port))


class DemoPart:
    """One part of the demo. Scenes raise :class:`~tests.lab.screen.DemoFailed` if an expectation fails."""

    def __init__(self, lab: Lab, screen: Screen, measured: Measured) -> None:
        self.lab = lab
        self.screen = screen
        self.measured = measured
        self.addresses = {host.name: host.ip for host in (*lab.topology.nodes, *lab.topology.spare)}

    @contextmanager
    def witnessing(self, pod: Pod, *allowed: str, port: int = SELECTED) -> Iterator[Witnessed]:
        """Probes while the block runs. At its end every packet seen outside is from an address ``allowed`` by then."""
        with self.lab.capture() as capture, self.lab.probing(pod, port) as probing:
            until(lambda: capture.packets(port), "a probe at the outside")
            witnessed = Witnessed(probing, capture, port, set(allowed))
            yield witnessed
            seen = witnessed.sources()
        foreign = [source for source in seen if source not in witnessed.allowed]
        self.measured.packets += len(seen)
        self.measured.foreign += len(foreign)
        self.screen.expect(
            not foreign,
            f"{len(seen):,} packets of {pod.name} seen outside: none by any address but {_listed(witnessed.allowed)}",
            f"{len(foreign)} by {_listed(set(foreign))}",
        )

    def revive(self, name: str) -> None:
        """Restore the links and the agent of a node that died."""
        self.lab.mend(name)
        if not self.lab.nodes[name].agent.running:
            self.lab.nodes[name].agent.start()


def ended(connection: Connection) -> bool:
    try:
        connection.echo("still there?")
    except OSError:
        return True
    return False


def _listed(addresses: set[str]) -> str:
    return " and ".join(sorted(addresses))
