"""Programs by which the kernel chooses what a packet socket gets: classic BPF."""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Sequence

# asm-generic/socket.h, linux/filter.h
SO_ATTACH_FILTER = 26
LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30
LOAD_HALF_AT_INDEX, LOAD_BYTE_AT_INDEX = 0x48, 0x50
"""Loads at the index register plus the value."""
LOAD_INDEX, LOAD_INDEX_BY_IPV4_HEADER = 0x01, 0xB1
"""The second one: four times the lower half of the byte."""
AND = 0x54
JUMP, JUMP_EQUAL, JUMP_ANY_BIT, RETURN = 0x05, 0x15, 0x45, 0x06
PACKET_TYPE = 0xFFFFF000 + 4
"""SKF_AD_OFF + SKF_AD_PKTTYPE: to whom the frame was sent."""
INSTRUCTION = struct.Struct("=HBBI")
Instruction = tuple[int, int, int, int]
"""Operation, how far to jump if true and if false, value."""


def attach(receiver: socket.socket, program: Sequence[Instruction]) -> None:
    """Let a socket get only what ``program`` lets through. Raises OSError."""
    code = array.array("B", b"".join(INSTRUCTION.pack(*instruction) for instruction in program))
    # struct sock_fprog: how many, and where they are.
    receiver.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), code.buffer_info()[0])
    )
