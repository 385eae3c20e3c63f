"""``python -m tests.lab.flooder DEVICE FRAME [--change-macs]``: sends a frame (hex digits) until it is killed.

With ``--change-macs`` each frame has another source MAC.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .namespace import Namespace

BURST, PAUSE = 64, 0.001
"""Frames, and seconds after them: some 50,000 frames in a second."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.lab.flooder")
    parser.add_argument("device")
    parser.add_argument("frame", type=bytes.fromhex)
    parser.add_argument("--change-macs", action="store_true")
    options = parser.parse_args()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((options.device, 0))
        every = frames(options.frame, options.change_macs)
        while True:
            for frame in itertools.islice(every, BURST):
                with contextlib.suppress(OSError):
                    raw.send(frame)
            time.sleep(PAUSE)  # else this program itself takes a processor from the lab


def frames(frame: bytes, change_macs: bool) -> Iterator[bytes]:
    if not change_macs:
        return itertools.repeat(frame)
    before, after = frame[:6] + b"\x02\0", frame[12:]
    return (before + (number & 0xFFFFFFFF).to_bytes(4, "big") + after for number in itertools.count())


@contextlib.contextmanager
def flooding(
    machine: Namespace, device: str, frame: bytes, log: Path, change_macs: bool = False
) -> Iterator[None]:
    """Flood from a machine while the block runs; an error of the program goes to ``log``."""
    arguments = ["--change-macs"] if change_macs else []
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
