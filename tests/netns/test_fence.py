"""The fence on a real kernel: what leaves with a virtual address, and for how long."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from cni.kernel.errors import KernelError
from cni.kernel.nftables import nft
from gateway_agent.gateway_rules.fence import fence_nft
from gateway_agent.lease.virtual_ips import arp
from gateway_agent.lease_daemon.kernel.vip_fence import Fence
from tests.lab.namespace import REPOSITORY, Namespace
from tests.lab.waiting import until

from .fenced_wire import (
    BOTH,
    LONG,
    SHORT,
    TICK,
    Flow,
    each_variant,
    fence,
    let_speak,
    line,
    opened,
    shared,
    tickets,
)
from .link import VIRTUAL, VIRTUAL6, Wire, Witness

__all__ = ["each_variant", "fence", "line", "shared"]

PACKET_QDISC_BYPASS = 20


# --- what is fenced ----------------------------------------------------------------------------------------


def raw(frame: bytes, protocol: int, bypass: bool = False) -> Callable[[Namespace], None]:
    def send(machine: Namespace) -> None:
        with machine.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            if bypass:
                sock.setsockopt(263, PACKET_QDISC_BYPASS, 1)
            with contextlib.suppress(OSError):
                machine.inside(lambda: sock.sendto(frame, ("eth1", protocol)))

    return send


def udp(source: str, destination: str) -> Callable[[Namespace], None]:
    def send(machine: Namespace) -> None:
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        with machine.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((source, 0))
            with contextlib.suppress(OSError):
                sock.sendto(b"by the virtual address", (destination, 9))

    return send


MAC = "02:00:00:00:00:50"
GRATUITOUS = arp.gratuitous(VIRTUAL, MAC)
ADVERTISEMENT = arp.advertisement(VIRTUAL6, MAC)
IPV4 = (
    b"\xff" * 6
    + bytes.fromhex("020000000050")
    + b"\x08\x00"
    + struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        28,
        1,
        0,
        64,
        17,
        0,
        socket.inet_aton(VIRTUAL),
        socket.inet_aton("172.16.0.2"),
    )
    + bytes(8)
)
FENCED = {
    "ARP, raw": raw(GRATUITOUS, 0),
    "ARP, raw, said to be ARP": raw(GRATUITOUS, 0x0806),
    "ARP, raw, past the queue": raw(GRATUITOUS, 0x0806, bypass=True),
    "IPv4, raw": raw(IPV4, 0),
    "IPv4, raw, said to be IPv4": raw(IPV4, 0x0800),
    "IPv4, raw, past the queue": raw(IPV4, 0, bypass=True),
    "advertisement, raw": raw(ADVERTISEMENT, 0),
    "UDP": udp(VIRTUAL, "172.16.0.2"),
    "UDP over IPv6": udp(VIRTUAL6, "2001:db8::2"),
}
NEVER = {
    "ARP, raw, said to be IPv4": raw(GRATUITOUS, 0x0800),
    "IPv4, raw, said to be ARP": raw(IPV4, 0x0806),
    "advertisement by another address": raw(
        ADVERTISEMENT[:22] + socket.inet_pton(socket.AF_INET6, "fe80::1") + ADVERTISEMENT[38:], 0
    ),
}
FREE = {
    "ARP of another address": raw(arp.gratuitous("172.16.0.51", MAC), 0),
    "probe": raw(arp.probe(VIRTUAL, MAC), 0),
    "probe of an IPv6 address": raw(arp.probe(VIRTUAL6, MAC), 0),
    "advertisement of another address": raw(arp.advertisement("2001:db8::51", MAC), 0),
    "UDP": udp("172.16.0.1", "172.16.0.2"),
    "UDP over IPv6": udp("2001:db8::1", "2001:db8::2"),
}


def arrive(line: Wire, send: Callable[[Namespace], None]) -> bool:
    with Witness(line.far) as witness:
        send(line.near)
        return bool(witness.since_mark(line.near))


@pytest.mark.parametrize("what", FENCED)
def test_what_speaks_as_a_virtual_address_leaves_only_while_it_is_open(
    line: Wire, fence: Fence, what: str
) -> None:
    assert not arrive(line, FENCED[what])
    assert let_speak(fence, 1)
    assert arrive(line, FENCED[what])
    fence.close(BOTH)
    assert not arrive(line, FENCED[what])


@pytest.mark.parametrize("what", NEVER)
def test_what_is_not_as_it_says_never_leaves(line: Wire, fence: Fence, what: str) -> None:
    assert let_speak(fence, 1)
    assert not arrive(line, NEVER[what])


@pytest.mark.parametrize("what", FREE)
def test_all_else_leaves(line: Wire, fence: Fence, what: str) -> None:
    assert arrive(line, FREE[what])


def test_the_fence_comes_after_source_nat(line: Wire, fence: Fence) -> None:
    rule = f"type nat hook postrouting priority srcnat; ip daddr 172.16.0.2 snat to {VIRTUAL}"
    line.near.run("nft", f"table ip h {{ chain c {{ {rule}; }}; }}")
    try:
        assert not arrive(line, udp("172.16.0.1", "172.16.0.2"))
        assert let_speak(fence, 1)
        assert arrive(line, udp("172.16.0.1", "172.16.0.2"))
    finally:
        line.near.run("nft", "delete table ip h")


# --- tickets -----------------------------------------------------------------------------------------------


def test_a_ticket_opens_once(line: Wire, fence: Fence) -> None:
    assert let_speak(fence, 7)
    fence.close(BOTH)
    assert not fence.open(7, BOTH, LONG)
    assert opened(line.near) == set()


def test_without_its_ticket_nothing_opens(line: Wire, fence: Fence) -> None:
    fence.ticket(7, SHORT)
    assert not fence.open(8, BOTH, LONG)
    assert opened(line.near) == set()


def test_an_expired_ticket_opens_nothing_and_refreshes_nothing(line: Wire, each_variant: Fence) -> None:
    assert let_speak(each_variant, 7, SHORT)
    each_variant.ticket(8, SHORT // 4)
    until(lambda: not tickets(line.near), "the ticket has expired")
    assert not each_variant.open(8, BOTH, LONG)
    until(lambda: not opened(line.near), "the fence has closed by itself")


def test_a_lifetime_that_is_over_opens_nothing(line: Wire, fence: Fence) -> None:
    for lifetime in (-1, 0, 999_999, 9_999_999):
        fence.ticket(7, lifetime)
        assert not fence.open(7, BOTH, LONG)
        fence.ticket(7, SHORT)
        assert not fence.open(7, BOTH, lifetime)
        fence.close_all()
    assert opened(line.near) == set()


def test_a_valid_ticket_is_not_written_again(line: Wire, fence: Fence) -> None:
    fence.ticket(7, SHORT)
    with pytest.raises(KernelError, match="ticket 7"):
        fence.ticket(7, SHORT)


def test_without_a_table_nothing_opens_and_closing_is_done(line: Wire, fence: Fence) -> None:
    fence.ticket(7, SHORT)
    line.near.inside(lambda: nft.apply(fence_nft([], [])))
    with pytest.raises(KernelError, match="No such file"):
        fence.ticket(8, SHORT)
    with pytest.raises(KernelError, match="No such file"):
        fence.open(7, BOTH, SHORT)
    fence.close(BOTH)
    fence.close_all()


def test_closing_closes_what_is_named_and_nothing_else(line: Wire, fence: Fence) -> None:
    assert let_speak(fence, 1)
    fence.close([VIRTUAL, "172.16.0.99"])
    assert opened(line.near) == {VIRTUAL6}
    fence.ticket(2, SHORT)
    fence.close_all()
    assert opened(line.near) == set()
    assert not fence.open(2, BOTH, LONG)


def test_a_stopped_process_opens_nothing(line: Wire) -> None:
    """It has its ticket and its majority, and is stopped before it opens."""
    program = f"""
import os, signal
from gateway_agent.lease_daemon.kernel.vip_fence import Fence
fence = Fence()
fence.ticket(5, {SHORT})
os.kill(os.getpid(), signal.SIGSTOP)
print(fence.open(5, ["{VIRTUAL}"], {LONG}))
"""
    command = line.near.command(sys.executable, "-c", program)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        os.waitpid(process.pid, os.WUNTRACED)
        until(lambda: not tickets(line.near), "the ticket has expired")
        process.send_signal(signal.SIGCONT)
        assert process.communicate()[0] == "False\n"
    assert opened(line.near) == set()


# --- time --------------------------------------------------------------------------------------------------


def test_refreshing_leaves_no_gap_and_the_end_comes_in_time(line: Wire, each_variant: Fence) -> None:
    assert let_speak(each_variant, 1, SHORT)
    with Flow(line) as flow:
        begin = time.monotonic()
        number = 1
        while time.monotonic() < begin + 3:
            number += 1
            each_variant.ticket(number, SHORT // 2)
            written = time.time_ns()
            assert each_variant.open(number, BOTH, SHORT)
            until(lambda at=written: time.time_ns() > at + 20_000_000, "the next heartbeat")  # type: ignore[misc]
        until(lambda: time.time_ns() > written + 2 * SHORT, "the fence has closed")
        flow.stop()
        arrived = flow.arrived()
    assert [number for number, _ in arrived] == list(range(len(arrived)))
    assert len(arrived) > 2000
    assert flow.sent > len(arrived)
    assert arrived[-1][1] - written <= SHORT + TICK
