"""Tries without end to put frames on a wire that speak for virtual addresses, as nodes that believe they may.

``python -m tests.lab.observer --interface NAME (--node NAME --raw FD [--held FD]…)… ADDRESS…``; the file descriptors
are sockets of the nodes' network namespaces. Each half millisecond one frame from each node for each address: an IPv4
datagram by a raw Ethernet socket, which asks nobody whether the address is there; each eighth is an ARP reply
instead. With ``--held`` (one UDP socket bound to each address) a node speaks only while it has the address: a fair
observer of systems without a fence. Runs until its standard input closes, then prints as JSON for each node how often
it tried, how many frames the kernel took for each address, and the longest pause in milliseconds; for each line that
it reads it prints the same of the time since the last one.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import json
import select
import socket
import struct
import sys
import time

from .frames import MULTICAST, PORT, claim, probe
from .overlap import INTERVAL_MS
from .witness import run_in_real_time

CLAIM_EACH = 8
_GONE = (errno.ENXIO, errno.ENODEV)
# Half as long as socket.send where the kernel refuses, which is nearly always: an exception costs most of it.
_send = ctypes.PyDLL(None, use_errno=True).send


class Raw:
    """Frames of one interface, which may be down, gone, and come back with another MAC."""

    def __init__(self, sock: socket.socket, interface: str, node: str, addresses: list[str]) -> None:
        self.node = node
        self._socket = sock
        self._number = sock.fileno()
        self._interface = interface
        self._addresses = addresses
        self._frames: dict[str, tuple[bytes, bytes]] = {}
        self._find()

    def send(self, address: str, number: int, claims: bool) -> bool:
        """Whether the kernel let the frame out: a fence answers with ENOBUFS."""
        if not self._frames:
            self._find()
            return False
        datagram, arp = self._frames[address]
        frame = arp if claims else datagram + struct.pack("!I", number & 0xFFFFFFFF)
        if _send(self._number, frame, len(frame), 0) < 0:
            if ctypes.get_errno() in _GONE:
                self._frames = {}
            return False
        return True

    def _find(self) -> None:
        # Protocol 0: it sends only; nothing may fill its buffer.
        with contextlib.suppress(OSError):
            self._socket.bind((self._interface, 0))
            mac = self._socket.getsockname()[4]
            self._frames = {a: (probe(mac, a, self.node), claim(mac, a)) for a in self._addresses}


class Speaker:
    """What one node does."""

    def __init__(self, raw: Raw, held: dict[str, socket.socket], addresses: list[str]) -> None:
        self.raw = raw
        self._accepted = dict.fromkeys(addresses, 0)
        self._held = held

    def take(self) -> dict[str, int]:
        """How many frames the kernel took for each address since the last call."""
        taken, self._accepted = self._accepted, dict.fromkeys(self._accepted, 0)
        return taken

    def speak(self, number: int) -> None:
        claims = number % CLAIM_EACH == 0
        for address in self._accepted:
            self._accepted[address] += self._try(address, number, claims)

    def _try(self, address: str, number: int, claims: bool) -> bool:
        if address not in self._held:
            return self.raw.send(address, number, claims)
        try:
            self._held[address].sendto(struct.pack("!I", number & 0xFFFFFFFF), (MULTICAST, PORT))
        except OSError:
            return False
        return not claims or self.raw.send(address, number, claims)


def run(speakers: list[Speaker]) -> None:
    """Tells by standard output."""
    attempts, pause = 0, 0.0
    due = before = time.monotonic()
    while True:
        if select.select([sys.stdin], [], [], 0)[0]:
            asked = sys.stdin.readline()
            report = {
                s.raw.node: {"attempts": attempts, "accepted": s.take(), "pause": pause} for s in speakers
            }
            print(json.dumps(report), flush=True)
            if not asked:
                return
            attempts, pause = 0, 0.0
        attempts += 1
        for speaker in speakers:
            speaker.speak(attempts)
        # Where it was late it catches up with a few attempts, not with all that it missed.
        due = max(due + INTERVAL_MS / 1000, time.monotonic() - INTERVAL_MS / 200)
        time.sleep(max(0.0, due - time.monotonic()))
        now = time.monotonic()
        pause, before = max(pause, (now - before) * 1000), now


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.lab.observer")
    parser.add_argument("--interface", required=True)
    parser.add_argument("--node", action="append", required=True)
    parser.add_argument("--raw", type=int, action="append", required=True)
    parser.add_argument("--held", type=int, action="append", default=[])
    parser.add_argument("addresses", metavar="ADDRESS", nargs="+")
    options = parser.parse_args()
    addresses = options.addresses
    held = [socket.socket(fileno=descriptor) for descriptor in options.held]
    speakers = []
    for number, (node, descriptor) in enumerate(zip(options.node, options.raw, strict=True)):
        own = held[number * len(addresses) : (number + 1) * len(addresses)]
        raw = Raw(socket.socket(fileno=descriptor), options.interface, node, addresses)
        speakers.append(Speaker(raw, dict(zip(addresses, own, strict=bool(held))), addresses))
    run_in_real_time()
    print("ready", flush=True)
    run(speakers)


if __name__ == "__main__":
    main()
