"""One UDP flow: one socket, one port, a numbered datagram each millisecond.

``python -m tests.lab.flow ADDRESS PORT [INTERVAL_MS [LAST_ANSWERS_S]]`` runs until its standard input closes, waits for
late answers, and prints one JSON list of ``[sending time in ns, address the service saw or "", welcome]``. A prober
(:mod:`tests.lab.prober`) sees what new connections see; a flow sees what an open one does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import socket
import sys
import time
from pathlib import Path

from .namespace import Namespace
from .silence import Probe
from .topology import OUTSIDE
from .witness import Witness, run_in_real_time

INTERVAL_MS = 1.0
"""Milliseconds between two datagrams."""
LAST_ANSWERS_S = 0.5
"""Seconds that the last answers may take."""


class Flow(Witness):
    """A flow under way from a machine to the outside service."""

    def __init__(
        self,
        machine: Namespace,
        log: Path,
        port: int,
        address: str = OUTSIDE,
        interval: float = INTERVAL_MS,
        late: float = LAST_ANSWERS_S,
    ) -> None:
        super().__init__(machine, "tests.lab.flow", [address, str(port), str(interval), str(late)], log)

    def stop(self) -> list[Probe]:
        """Every datagram, in the order of sending; one without an answer was lost, on the way there or back."""
        return [Probe(sent, address, welcome) for sent, address, welcome in self.end()]


class Sender:
    def __init__(self, address: str, port: int, interval: float, late: float) -> None:
        self._interval, self._late = interval / 1000, late
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._target = (address, port)
        self._sent: list[int] = []
        self._answers: dict[int, tuple[str, bool]] = {}

    def run(self) -> list[tuple[int, str, bool]]:
        self._socket.connect(self._target)
        due = time.monotonic()
        while not select.select([sys.stdin], [], [], 0)[0]:
            self._send()
            due = max(due + self._interval, time.monotonic() - 5 * self._interval)
            self._receive(due)
        self._receive(time.monotonic() + self._late)
        return [(at, *self._answers.get(number, ("", False))) for number, at in enumerate(self._sent)]

    def _send(self) -> None:
        self._sent.append(time.time_ns())
        # No route, or told so by ICMP: the datagram stays without an answer, and that is the finding.
        with contextlib.suppress(OSError):
            self._socket.send(str(len(self._sent) - 1).encode())

    def _receive(self, until: float) -> None:
        """Take answers until then, a time of the monotonic clock."""
        while (left := until - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                return
            with contextlib.suppress(OSError):
                verdict, address, number = self._socket.recv(200).decode().split()
                self._answers.setdefault(int(number), (address, verdict == "welcome"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.lab.flow")
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("interval", type=float, nargs="?", default=INTERVAL_MS)
    parser.add_argument("late", type=float, nargs="?", default=LAST_ANSWERS_S)
    options = parser.parse_args()
    run_in_real_time()
    print("ready", flush=True)
    sender = Sender(options.address, options.port, options.interval, options.late)
    print(json.dumps(sender.run()), flush=True)


if __name__ == "__main__":
    main()
