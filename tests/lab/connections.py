"""Many TCP connections from one machine, each with a line under way again and again, and what becomes of them.

``python -m tests.lab.connections ADDRESS PORT COUNT INTERVAL GRACE [FIRST]`` opens COUNT connections to the outside
service (from the ports FIRST, FIRST + 1…, where it is given), says ``ready`` when all are greeted, sends a line on each
every INTERVAL milliseconds and checks what comes back. When its standard input closes it sends a last line on each and
waits up to GRACE seconds for the echoes, then prints a JSON list with one :class:`Outcome` for each connection.
"""

from __future__ import annotations

import argparse
import errno
import json
import resource
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .namespace import Namespace
from .topology import OUTSIDE
from .witness import Witness

OPENING = 100
"""Connections that are being opened at once."""
NORMAL_PAUSE_MS = 390.0
"""Milliseconds of a normal pause: lines each 200 ms, and TCP sends again after 200 ms at the earliest
(``TCP_RTO_MIN``).
"""
OPEN_TIMEOUT_S = 20.0
"""Seconds in which all must be open."""


@dataclass(frozen=True)
class Outcome:
    """What became of one connection. Times are nanoseconds since 1970."""

    address: str
    """The client address that the service saw."""
    alive: bool
    """True if the last line, which was sent at the very end, came back."""
    ended: int
    """Time of an error or of the end of the stream; 0: neither came."""
    error: str
    """``ECONNRESET``, ``EOF``, ``ETIMEDOUT``…, or ``wrong echo``; empty: none."""
    pause: float
    """The longest time between two echoes, milliseconds."""
    echoed: int
    """Bytes that came back."""

    @property
    def hung(self) -> bool:
        """Neither did it go on nor was it told that it cannot."""
        return not self.alive and not self.ended


@dataclass(frozen=True)
class Fates:
    """What became of all of them."""

    alive: int
    reset: int
    """Number of connections ended by an error or by the other end."""
    hung: int
    slowest_reset: float
    """Milliseconds from the fault until the last of these got its error; 0: none did."""
    longest_pause: float
    """Longest pause of those that are alive, milliseconds."""
    delayed: int
    """Number of those that are alive and paused for longer than :data:`NORMAL_PAUSE_MS`: a segment was lost and sent
    again.
    """
    errors: dict[str, int]


def fates(outcomes: Sequence[Outcome], struck: int) -> Fates:
    """``struck``: when the fault began, nanoseconds since 1970."""
    ended = [outcome for outcome in outcomes if outcome.ended]
    return Fates(
        sum(outcome.alive for outcome in outcomes),
        len(ended),
        sum(outcome.hung for outcome in outcomes),
        max(((outcome.ended - struck) / 1e6 for outcome in ended), default=0.0),
        max((outcome.pause for outcome in outcomes if outcome.alive), default=0.0),
        sum(outcome.alive and outcome.pause > NORMAL_PAUSE_MS for outcome in outcomes),
        dict(Counter(outcome.error for outcome in ended)),
    )


class Connections(Witness):
    """Open connections: all are greeted when this is made. ``interval`` in ms, ``grace`` in s, ``first``: as above."""

    def __init__(
        self,
        machine: Namespace,
        log: Path,
        port: int,
        count: int = 1000,
        interval: float = 200.0,
        grace: float = 10.0,
        address: str = OUTSIDE,
        first: int = 0,
    ) -> None:
        self._grace = grace
        arguments = [address, str(port), str(count), str(interval), str(grace), str(first)]
        super().__init__(machine, "tests.lab.connections", arguments, log)

    def stop(self) -> list[Outcome]:
        return [Outcome(**row) for row in self.end(self._grace + 30)]


class Client:
    """One connection. Every method may end it; it is done for where ``error`` is set."""

    def __init__(self, target: tuple[str, int], port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if port:
            self.socket.bind(("", port))
        self.socket.connect_ex(target)
        self.address = ""
        self.error = ""
        self.ended = 0
        self.pause = 0
        self.last_echo = 0
        self._number = 0
        self._echoed = 0
        self._expected = b""
        self._greeting = b""

    def send(self) -> None:
        """Send the next line; nothing if the connection is stuck, since enough data is under way then."""
        line = f"{self._number:09}\n".encode()
        try:
            if self.socket.send(line) != len(line):
                self._end("short write")
        except BlockingIOError:
            return
        except OSError as error:
            self._end(_name(error))
            return
        self._number += 1
        self._expected += line

    def receive(self) -> None:
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(_name(error))
            return
        if not data:
            self._end("EOF")
        elif self.address:
            self._echo(data)
        else:
            self._greet(data)

    @property
    def answered(self) -> bool:
        """Whether all that was sent came back."""
        return not self.error and not self._expected

    def outcome(self, last_sent: bool) -> Outcome:
        """``last_sent``: whether its last line went out at the very end."""
        alive = last_sent and self.answered
        # A connection that hangs pauses until the end.
        pause = self.pause if alive or self.ended else max(self.pause, time.time_ns() - self.last_echo)
        return Outcome(self.address, alive, self.ended, self.error, pause / 1e6, self._echoed)

    @property
    def sent(self) -> int:
        return self._number

    def _greet(self, data: bytes) -> None:
        self._greeting += data
        if self._greeting.endswith(b"\n"):
            verdict, _, self.address = self._greeting.decode().strip().partition(" ")
            self.last_echo = time.time_ns()
            if verdict != "welcome":
                self._end("refused")

    def _echo(self, data: bytes) -> None:
        if not self._expected.startswith(data):
            self._end("wrong echo")
            return
        now = time.time_ns()
        self.pause, self.last_echo = max(self.pause, now - self.last_echo), now
        self._expected = self._expected[len(data) :]
        self._echoed += len(data)

    def _end(self, error: str) -> None:
        self.error, self.ended = error, time.time_ns()
        self.socket.close()


class Load:
    """All connections of the program, in one epoll loop."""

    def __init__(self, address: str, port: int, count: int, interval: float, first: int = 0) -> None:
        self._target = (address, port)
        self._first = first
        self._count = count
        self._step = interval / 1000 / count
        self._poll = select.epoll()
        self._by_descriptor: dict[int, Client] = {}
        self._clients: list[Client] = []

    def open(self) -> None:
        """Open all connections. Raises :class:`SystemExit` if not all are greeted in time."""
        deadline = time.monotonic() + OPEN_TIMEOUT_S
        greeted = 0
        while greeted < self._count:
            for _ in range(min(OPENING - (len(self._clients) - greeted), self._count - len(self._clients))):
                self._add()
            self._receive(0.05)
            greeted = sum(bool(client.address) for client in self._clients)
            errors = {client.error for client in self._clients if client.error}
            if errors or time.monotonic() > deadline:
                raise SystemExit(f"{greeted} of {self._count} connections were greeted; {', '.join(errors)}")

    def run(self, grace: float) -> list[Outcome]:
        """Send in turn, so that the lines are spread over the interval."""
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        due, turn = time.monotonic(), 0
        while not self._receive(max(0.0, due - time.monotonic())):
            for _ in range(self._count):
                if due > time.monotonic():
                    break
                self._send(self._clients[turn % self._count])
                due, turn = due + self._step, turn + 1
        self._poll.unregister(sys.stdin.fileno())
        before = [client.sent for client in self._clients]
        for client in self._clients:
            self._send(client)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and not all(c.answered or c.error for c in self._clients):
            self._receive(0.05)
        return [c.outcome(c.sent > sent) for c, sent in zip(self._clients, before, strict=True)]

    def _add(self) -> None:
        client = Client(self._target, self._first and self._first + len(self._clients))
        self._clients.append(client)
        self._by_descriptor[client.socket.fileno()] = client
        self._poll.register(client.socket, select.EPOLLIN)

    def _send(self, client: Client) -> None:
        if not client.error:
            client.send()

    def _receive(self, seconds: float) -> bool:
        """Take what comes in that time, at most once from each. Whether standard input has closed."""
        ready = self._poll.poll(seconds)
        for descriptor, _ in ready:
            client = self._by_descriptor.get(descriptor)
            if client is not None and not client.error:
                client.receive()
        return any(descriptor not in self._by_descriptor for descriptor, _ in ready)


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.lab.connections")
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("interval", type=float)
    parser.add_argument("grace", type=float)
    parser.add_argument("first", type=int, nargs="?", default=0)
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    load = Load(options.address, options.port, options.count, options.interval, options.first)
    load.open()
    print("ready", flush=True)
    print(json.dumps([asdict(outcome) for outcome in load.run(options.grace)]), flush=True)


if __name__ == "__main__":
    main()
