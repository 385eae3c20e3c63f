"""A program in a socket: the kernel takes it, and gives the socket only what it lets through."""

from __future__ import annotations

import socket

import pytest

from cni.kernel.netlink.socket_filter import JUMP_EQUAL, LOAD_BYTE, RETURN, attach

ALL = 0xFFFFFFFF


def received(program: list[tuple[int, int, int, int]], *datagrams: bytes) -> list[bytes]:
    """Return those of the datagrams that the program lets through."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setblocking(False)
    with sender, receiver:
        attach(receiver, program)
        for datagram in datagrams:
            sender.send(datagram)
        found = []
        while True:
            try:
                found.append(receiver.recv(64))
            except BlockingIOError:
                return found


def test_what_does_not_match_does_not_arrive() -> None:
    only_a = [(LOAD_BYTE, 0, 0, 0), (JUMP_EQUAL, 0, 1, ord("a")), (RETURN, 0, 0, ALL), (RETURN, 0, 0, 0)]
    assert received(only_a, b"abc", b"bcd", b"a") == [b"abc", b"a"]


def test_a_program_cuts_what_it_lets_through() -> None:
    assert received([(RETURN, 0, 0, 2)], b"abc") == [b"ab"]


def test_the_kernel_refuses_a_program_that_does_not_end() -> None:
    with pytest.raises(OSError):
        received([(LOAD_BYTE, 0, 0, 0)])
