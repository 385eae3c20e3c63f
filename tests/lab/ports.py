"""What comes out of nodes, captured at the far ends of their cables.

The port says which node a frame comes from, whatever the frame says, and it is seen also where the bridge behind
the port would not forward it.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address

from .frames import speaker
from .namespace import Namespace
from .overlap import Frame, Tenure, Tenures
from .witness import run_in_real_time

# <asm-generic/socket.h>, <linux/if_ether.h>, <linux/if_packet.h>, <linux/filter.h>
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_TYPE = 0xFFFFF000 + 4
_LOAD_WORD, _LOAD_HALF, _AND, _EQUAL, _JUMP, _RETURN = 0x20, 0x28, 0x54, 0x15, 0x05, 0x06

_BUFFER = 128 << 20
_READ_INTERVAL_S = 0.02
"""Seconds between two reads. The buffer holds many seconds of frames: on a busy machine the reader may not run for so
long.
"""
_ENOUGH = 128


class Ports:
    """Captures from its making to :meth:`close` what speaks for one of the addresses."""

    def __init__(
        self, lan: Namespace, ports: Mapping[str, str], addresses: Sequence[str], brief: bool = False
    ) -> None:
        """``ports`` maps a node's name to the port of ``lan`` where its cable ends.

        ``brief``: only tenures are kept, no frames; for many addresses and long runs.
        """
        self._addresses = frozenset(addresses)
        self._frames: list[Frame] = []
        self._tenures = Tenures()
        self._brief = brief
        self._lost = 0
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._sockets = {node: _listening(lan, port, addresses) for node, port in ports.items()}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def frames(self) -> list[Frame]:
        """All until now, by time of arrival.

        Raises :class:`RuntimeError` where the kernel dropped a frame before it was read: then it proves nothing.
        """
        if self._brief:
            raise RuntimeError("this capture keeps no frames")
        with self._lock:
            self._drain()
            self._check()
            return sorted(self._frames, key=lambda frame: frame.at)

    def tenures(self) -> list[Tenure]:
        """Since the beginning, whatever was forgotten. Raises as :meth:`frames`."""
        with self._lock:
            self._drain()
            self._check()
            return self._tenures.all()

    def owners(self, window: float) -> dict[str, tuple[str, ...]]:
        """Return the nodes that spoke for each address in the last ``window`` ms; an address without any is missing.

        Raises as :meth:`frames`.
        """
        with self._lock:
            # Before the reading, which may take long: what was sent until now has been read by its end.
            end = time.time_ns()
            self._drain()
            self._check()
            return self._tenures.owners(window, end)

    def forget(self) -> None:
        """Drop what was captured until now, for long runs. That a frame was missed is not forgotten."""
        with self._lock:
            self._drain()
            self._frames = []

    def close(self) -> None:
        self._end.set()
        self._reader.join()
        for sock in self._sockets.values():
            sock.close()

    def _read(self) -> None:
        # This thread alone: else on a busy machine the buffer fills up while it waits for its turn.
        run_in_real_time()
        while not self._end.wait(_READ_INTERVAL_S):
            with self._lock:
                self._drain()

    def _check(self) -> None:
        if self._lost:
            raise RuntimeError(f"the capture missed {self._lost} frames")

    def _drain(self) -> None:
        for node, sock in self._sockets.items():
            while self._take(node, sock):
                pass
            self._lost += struct.unpack("II", sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1]

    def _take(self, node: str, sock: socket.socket) -> bool:
        try:
            data, extra, _, _ = sock.recvmsg(_ENOUGH, 64, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            # Said once when the port goes down; the socket goes on when it is up again.
            if error.errno == errno.ENETDOWN:
                return True
            raise
        spoken = speaker(data)
        if spoken is not None and spoken[0] in self._addresses:
            at = _arrival(extra)
            self._tenures.add(at, node, spoken[0])
            if not self._brief:
                self._frames.append(Frame(at, node, *spoken))
        return True


def _listening(lan: Namespace, port: str, addresses: Sequence[str]) -> socket.socket:
    # Protocol 0 until it is bound: nothing comes in before filter and port are set.
    sock = lan.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    program = _program(addresses)
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    attached = struct.pack("HL", len(program), ctypes.addressof(instructions))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    sock.bind((port, _ETH_P_ALL))
    return sock


def _program(addresses: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """Return a classic BPF program: incoming IPv4 and ARP whose sender is in the smallest prefix around the addresses.

    That is coarse, so that it is as short for many addresses as for one; the reader looks closer.
    """
    numbers = [int(IPv4Address(address)) for address in addresses]
    length = max(number ^ numbers[0] for number in numbers).bit_length()
    mask = 0xFFFFFFFF >> length << length
    return [
        (_LOAD_WORD, 0, 0, _PACKET_TYPE),
        (_EQUAL, 9, 0, socket.PACKET_OUTGOING),
        (_LOAD_HALF, 0, 0, 12),
        (_EQUAL, 0, 2, 0x0800),
        (_LOAD_WORD, 0, 0, 26),
        (_JUMP, 0, 0, 2),
        (_EQUAL, 0, 4, 0x0806),
        (_LOAD_WORD, 0, 0, 28),
        (_AND, 0, 0, mask),
        (_EQUAL, 0, 1, numbers[0] & mask),
        (_RETURN, 0, 0, _ENOUGH),
        (_RETURN, 0, 0, 0),
    ]


def _arrival(extra: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in extra:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("ll", data[:16])
            return int(seconds * 1_000_000_000 + nanoseconds)
    raise ValueError("the kernel gave a frame without its time")
