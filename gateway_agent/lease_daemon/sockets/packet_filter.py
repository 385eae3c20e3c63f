"""Attach classic BPF programs, which filter the packets of a socket in the kernel."""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Sequence

# asm-generic/socket.h, linux/filter.h
SO_ATTACH_FILTER = 26
LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30
LOAD_HALF_AT_INDEX, LOAD_BYTE_AT_INDEX = 0x48, 0x50
"""Loads from the offset index register + value."""
LOAD_INDEX, LOAD_INDEX_BY_IPV4_HEADER = 0x01, 0xB1
"""The second one loads four times the lower half of a byte, the length of an IPv4 header."""
AND = 0x54
JUMP, JUMP_EQUAL, JUMP_ANY_BIT, RETURN = 0x05, 0x15, 0x45, 0x06
PACKET_TYPE = 0xFFFFF000 + 4
"""SKF_AD_OFF + SKF_AD_PKTTYPE: the packet type (to this host, broadcast, to another host, …)."""
INSTRUCTION = struct.Struct("=HBBI")
Instruction = tuple[int, int, int, int]
"""Operation, jump offset if true, jump offset if false, value."""


def attach(receiver: socket.socket, program: Sequence[Instruction]) -> None:
    """Attach ``program`` to a socket, which then gets only packets that pass it. Raises OSError."""
    code = array.array("B", b"".join(INSTRUCTION.pack(*instruction) for instruction in program))
    # struct sock_fprog: number of instructions, and their address.
    receiver.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), code.buffer_info()[0])
    )
