"""Asks a LAN by ARP for many addresses at once, and tells when each was answered, and by which MAC.

``python -m tests.lab.asking INTERFACE INTERVAL_MS ADDRESS…`` asks for every address each INTERVAL_MS milliseconds until
its standard input closes, then prints as JSON for each address a list of ``[arrival in ns, MAC]``. Questions name
no sender and are answered to a MAC that nobody has: no kernel learns from them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .frames import answer, question
from .namespace import Namespace
from .witness import Witness, run_in_real_time

INTERVAL_MS = 5.0
"""Milliseconds between two requests."""
LAST_ANSWERS_S = 0.1
"""Seconds that the last answers may take."""
_SO_TIMESTAMPNS = 35
_ETH_P_ARP = 0x0806
_BUFFER = 8 << 20
_SO_RCVBUFFORCE = 33


@dataclass(frozen=True)
class Answer:
    """Somebody said that the address is his."""

    at: int
    """Arrival by the kernel's clock, nanoseconds since 1970."""
    mac: str


class Asking(Witness):
    """Questions under way from a machine."""

    def __init__(
        self,
        machine: Namespace,
        log: Path,
        interface: str,
        addresses: Sequence[str],
        interval: float = INTERVAL_MS,
    ) -> None:
        super().__init__(machine, "tests.lab.asking", [interface, str(interval), *addresses], log)

    def stop(self) -> dict[str, list[Answer]]:
        """For each address all answers, in the order of time."""
        return {address: [Answer(at, mac) for at, mac in rows] for address, rows in self.end().items()}


def recovered(answers: dict[str, list[Answer]], struck: int, lost: str) -> dict[str, float | None]:
    """For each address that MAC ``lost`` held at ``struck`` (ns): ms until another answered, None if none did."""
    found: dict[str, float | None] = {}
    for address, rows in answers.items():
        before = [row.mac for row in rows if row.at <= struck]
        if before and before[-1] == lost:
            after = [row.at for row in rows if row.at > struck and row.mac != lost]
            found[address] = (after[0] - struck) / 1e6 if after else None
    return found


class Asker:
    def __init__(self, interface: str, interval: float, addresses: Sequence[str]) -> None:
        self._interval = interval / 1000
        self._questions = {address: question(address) for address in addresses}
        self._answers: dict[str, list[tuple[int, str]]] = {address: [] for address in addresses}
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.bind((interface, _ETH_P_ARP))
        self._socket.setblocking(False)

    def run(self) -> dict[str, list[tuple[int, str]]]:
        """Return the questions are spread over the interval, so that none waits for the answers to all others."""
        due, step = time.monotonic(), self._interval / len(self._questions)
        while not select.select([sys.stdin], [], [], 0)[0]:
            for frame in self._questions.values():
                with contextlib.suppress(OSError):
                    self._socket.send(frame)
                due = max(due + step, time.monotonic() - self._interval)
                self._receive(due)
        self._receive(time.monotonic() + LAST_ANSWERS_S)
        return self._answers

    def _receive(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                return
            data, extra, _, _ = self._socket.recvmsg(128, 64)
            said = answer(data)
            if said is not None and said[0] in self._answers:
                self._answers[said[0]].append((_arrival(extra), said[1]))


def _arrival(extra: list[tuple[int, int, bytes]]) -> int:
    seconds, nanoseconds = struct.unpack("ll", extra[0][2][:16])
    return int(seconds * 1_000_000_000 + nanoseconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.lab.asking")
    parser.add_argument("interface")
    parser.add_argument("interval", type=float)
    parser.add_argument("addresses", metavar="ADDRESS", nargs="+")
    options = parser.parse_args()
    asker = Asker(options.interface, options.interval, options.addresses)
    run_in_real_time()
    print("ready", flush=True)
    print(json.dumps(asker.run()), flush=True)


if __name__ == "__main__":
    main()
