"""``python -m tests.lab.flooder DEVICE FRAME``: sends a frame, given as hex digits, until it is killed.

With ``--change-macs`` each frame has another source MAC; with ``--real-time`` the rate hardly depends on other work.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import socket
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from gateway_agent.lease.virtual_ips import arp

from .namespace import Namespace
from .witness import run_in_real_time

BURST, PAUSE_S = 64, 0.001
"""Frames, and seconds after them: some 50,000 frames in a second."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.lab.flooder")
    parser.add_argument("device")
    parser.add_argument("frame", type=bytes.fromhex)
    parser.add_argument("--change-macs", action="store_true")
    parser.add_argument("--real-time", action="store_true")
    options = parser.parse_args()
    if options.real_time:
        run_in_real_time()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((options.device, 0))
        every = frames(options.frame, options.change_macs)
        while True:
            for frame in itertools.islice(every, BURST):
                with contextlib.suppress(OSError):
                    raw.send(frame)
            time.sleep(PAUSE_S)  # else this program itself takes a processor from the lab


def frames(frame: bytes, change_macs: bool) -> Iterator[bytes]:
    if not change_macs:
        return itertools.repeat(frame)
    before, after = frame[:6] + b"\x02\0", frame[12:]
    return (before + (number & 0xFFFFFFFF).to_bytes(4, "big") + after for number in itertools.count())


def question(address: str, mac: str, source: str = "") -> bytes:
    """Return a frame that asks for an address; without a source, as if the sender looked for a duplicate."""
    frame = arp.probe(address, mac)
    if not source:
        return frame
    at = arp.HEADER + 8 if ":" in address else arp.SENDER_AT
    raw = ip_address(source).packed
    return frame[:at] + raw + frame[at + len(raw) :]


@contextlib.contextmanager
def flooding(
    machine: Namespace,
    device: str,
    frame: bytes,
    log: Path,
    change_macs: bool = False,
    real_time: bool = False,
) -> Iterator[None]:
    """Flood from a machine while the block runs; an error of the program goes to ``log``."""
    arguments = [*["--change-macs"] * change_macs, *["--real-time"] * real_time]
    process = machine.spawn(
        sys.executable, "-m", "tests.lab.flooder", device, frame.hex(), *arguments, log=log
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
