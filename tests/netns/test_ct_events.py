"""Events of a real kernel's connection table."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cni.kernel.netlink.conntrack import ctnetlink
from cni.kernel.netlink.conntrack.ct_events import Event, MarkedEvents
from cni.kernel.netlink.conntrack.ct_flows import Ends, flow
from tests.lab.namespace import Namespace
from tests.lab.waiting import until

MASK, MARK = 0x07F00000, 0x00300000
RULES = """
table inet marks {
	chain output {
		type filter hook output priority mangle
		udp dport 7001 ct mark set 0x00300000
		udp dport 7002 ct mark set 0x08000001
		udp dport 7003 ct mark set 0x08300001
	}
}
"""
SOURCE = "127.0.0.1"


@pytest.fixture
def machine() -> Iterator[Namespace]:
    made = Namespace("egwct-events")
    made.delete()
    made.create()
    made.run("nft", "-f", "-", text=RULES)
    yield made
    made.delete()


def send(machine: Namespace, port: int, number: int = 1) -> list[int]:
    """Send a datagram from so many new ports. Return the ports."""
    ports = []
    for _ in range(number):
        with machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", (SOURCE, port))
            ports.append(sender.getsockname()[1])
    return ports


def test_only_connections_with_a_number_in_their_mark_are_reported(machine: Namespace) -> None:
    with machine.inside(lambda: MarkedEvents(MASK, 1 << 20)) as events:
        for port in (7000, 7001, 7002, 7003):
            send(machine, port)
        found: list[Event] = []
        until(lambda: found.extend(events.read(100)) or len(found) >= 2, "the events are there")  # type: ignore[func-returns-value]
        flows = [flow(event.body) for event in found]
        assert [each.original.destination_port for each in flows if each] == [7001, 7003]
        assert not any(event.ended or event.injected for event in found)
        assert events.lost == 0


def test_the_end_of_a_connection_has_its_bytes(machine: Namespace) -> None:
    machine.sysctl({"net/netfilter/nf_conntrack_acct": "1"})
    with machine.inside(lambda: MarkedEvents(MASK, 1 << 20)) as events:
        [port] = send(machine, 7001)
        machine.inside(lambda: ctnetlink.delete_marked(MARK, 0xFFFFFFFF))
        found: list[Event] = []
        until(lambda: found.extend(events.read(100)) or len(found) >= 2, "both events are there")  # type: ignore[func-returns-value]
        begun, ended = (flow(event.body) for event in found)
        assert [event.ended for event in found] == [False, True]
        # The deletion is a program's.
        assert [event.injected for event in found] == [False, True]
        assert begun is not None
        assert ended is not None
        assert ended.original == begun.original == Ends(SOURCE, port, SOURCE, 7001, 17)
        assert (ended.identity, ended.mark) == (begun.identity, MARK)
        assert (ended.bytes_out, ended.bytes_in) == (29, 0)


def test_what_does_not_fit_is_counted(machine: Namespace) -> None:
    with machine.inside(lambda: MarkedEvents(MASK, 8192)) as events:
        # The kernel may give a port twice, and the second datagram begins no connection then.
        number = len(set(send(machine, 7001, 300)))
        found: list[Event] = []
        until(lambda: found.extend(events.read(100)) or events.lost + len(found) == number, "all are counted")  # type: ignore[func-returns-value]
        assert events.lost > 0
        assert found
