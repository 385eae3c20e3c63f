"""Programs that filter the messages of a netlink socket in the kernel: classic BPF, with look-ups of attributes."""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Sequence

from .constants import SO_ATTACH_FILTER

# linux/filter.h, linux/bpf_common.h
LOAD_VALUE, LOAD_BYTE, LOAD_WORD_AT_INDEX = 0x00, 0x30, 0x40
LOAD_INDEX_VALUE, COPY_TO_INDEX = 0x01, 0x07
JUMP_EQUAL, JUMP_ANY_BIT, RETURN = 0x15, 0x45, 0x06
FIND_ATTRIBUTE = 0xFFFFF000 + 12
"""SKF_AD_OFF + SKF_AD_NLATTR: offset of the attribute of the type in the index register, from the offset in the
accumulator on; 0: there is none."""
ATTRIBUTE_HEADER_BYTES = 4
INSTRUCTION = struct.Struct("=HBBI")
Instruction = tuple[int, int, int, int]
"""Operation, length of the jump if true and if false, value."""


def attach(receiver: socket.socket, program: Sequence[Instruction]) -> None:
    """Let a socket receive only the messages that ``program`` accepts. Raises OSError."""
    code = array.array("B", b"".join(INSTRUCTION.pack(*instruction) for instruction in program))
    # struct sock_fprog: number of instructions, and their address.
    receiver.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), code.buffer_info()[0])
    )
