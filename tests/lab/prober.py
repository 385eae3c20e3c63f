"""Sends a datagram each millisecond, each from a new port: a new connection to every NAT on the way.

``python -m tests.lab.prober ADDRESS PORT`` runs until its standard input closes, waits for late answers, and
prints one JSON list of ``[sending time in ns, address the service saw or "", welcome]``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import select
import socket
import sys
import threading
import time
from collections import deque

INTERVAL_S = 0.001
"""Seconds between two probes."""
ANSWER_TIMEOUT_S = 0.3
"""Seconds that an answer may take. Sockets are kept for as long."""
Row = tuple[int, str, bool]


class Prober:
    def __init__(self, address: str, port: int) -> None:
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._target = (address, port)
        self._poll = select.epoll()
        self._open: deque[tuple[float, socket.socket]] = deque()
        self._waiting: dict[int, tuple[socket.socket, int]] = {}
        self._sent: list[int] = []
        self._answers: dict[int, str] = {}
        self._end = threading.Event()

    def run(self) -> list[Row]:
        """Two threads: a sender that waited for answers as well would lose the pace of its sleeps."""
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)
        receiver = threading.Thread(target=self._receive)
        receiver.start()
        self._send()
        receiver.join()
        return [self._row(number, sent) for number, sent in enumerate(self._sent)]

    def _row(self, number: int, sent: int) -> Row:
        verdict, _, rest = self._answers.get(number, "").partition(" ")
        return sent, rest.partition(" ")[0], verdict == "welcome"

    def _send(self) -> None:
        due = time.monotonic()
        while not self._end.is_set():
            self._forget(due - ANSWER_TIMEOUT_S)
            sock = socket.socket(self._family, socket.SOCK_DGRAM)
            self._open.append((due, sock))
            number = len(self._sent)
            self._sent.append(time.time_ns())
            # No route, or told so by ICMP: the probe stays without an answer, and that is the finding.
            with contextlib.suppress(OSError):
                sock.connect(self._target)
                self._waiting[sock.fileno()] = sock, number
                self._poll.register(sock, select.EPOLLIN)
                sock.send(str(number).encode())
            due = max(due + INTERVAL_S, time.monotonic() - 5 * INTERVAL_S)
            time.sleep(max(0.0, due - time.monotonic()))

    def _forget(self, before: float) -> None:
        while self._open and self._open[0][0] < before:
            _, sock = self._open.popleft()
            self._waiting.pop(sock.fileno(), None)
            sock.close()

    def _receive(self) -> None:
        finish = None
        while finish is None or time.monotonic() < finish:
            for descriptor, _ in self._poll.poll(0.05):
                if descriptor == sys.stdin.fileno():
                    self._poll.unregister(descriptor)
                    self._end.set()
                    finish = time.monotonic() + ANSWER_TIMEOUT_S
                elif descriptor in self._waiting:
                    sock, number = self._waiting[descriptor]
                    with contextlib.suppress(OSError):
                        self._answers[number] = sock.recv(200).decode()


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.lab.prober")
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    # Where it is not permitted the probes are a little less regular; their sending times are measured anyway.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    print("ready", flush=True)
    print(json.dumps(Prober(options.address, options.port).run()), flush=True)


if __name__ == "__main__":
    main()
