"""The fence beside changes of its table: no open address loses a packet, strangers are seen, a heartbeat is fast."""

from __future__ import annotations

import threading
import time

from cni.kernel.netlink import monitor
from cni.kernel.netlink.constants import NETLINK_NETFILTER
from cni.kernel.nftables import nft
from gateway_agent.gateway_rules.fence import fence_nft
from gateway_agent.lease_daemon.kernel.vip_fence import Fence
from tests.lab.namespace import Namespace

from .fenced_wire import (
    BOTH,
    TABLE,
    TEXT,
    Flow,
    fence,
    let_speak,
    line,
    opened,
    shared,
)
from .link import Wire

__all__ = ["fence", "line", "shared"]


def test_updates_of_the_table_lose_no_packet_of_an_open_address(line: Wire, fence: Fence) -> None:
    """Addresses and devices come and go, while leases are refreshed; the refreshes do not pass for a stranger's."""
    end = threading.Event()

    def keep() -> None:
        number = 10
        while not end.wait(0.02):
            number += 1
            assert let_speak(fence, number, 5_000_000_000)

    def edit() -> None:
        for round in range(30):
            more = [f"172.16.0.{60 + n}" for n in range(round % 3)] + [
                f"2001:db8::{60 + n}" for n in range(round % 2)
            ]
            text = fence_nft([*BOTH, *more], ["eth1", "eth2"][: 1 + round // 2 % 2])
            done = line.near.inside(lambda text=text: nft.ensure(text))  # type: ignore[misc]
            assert done in ((), (f"updated nftables table {TABLE}: out of date",))
            assert line.near.inside(lambda text=text: nft.missing(text)) == ()  # type: ignore[misc]

    assert let_speak(fence, 1, 5_000_000_000)
    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        with Flow(line) as flow:
            edit()
            flow.stop()
            arrived = [number for number, _ in flow.arrived()]
    finally:
        end.set()
        keeper.join()
    assert arrived == list(range(flow.sent))
    assert flow.sent > 500


def test_a_stranger_is_seen_beside_the_refreshes(line: Wire, fence: Fence) -> None:
    assert let_speak(fence, 1)
    assert line.near.inside(lambda: nft.missing(TEXT)) == ()
    line.near.run("nft", "add", "rule", *TABLE.split(), "allow4", "accept")
    assert line.near.inside(lambda: nft.ensure(TEXT)) == (
        f"replaced nftables table {TABLE}: changed by another program",
    )
    assert opened(line.near) == set(), "who replaces the table closes the fence"


def test_the_monitor_reports_the_table_and_not_the_leases(line: Wire, fence: Fence) -> None:
    received = line.near.inside(lambda: monitor.Monitor(NETLINK_NETFILTER))
    try:
        assert let_speak(fence, 1)
        fence.close(BOTH)
        assert received.read() == []
        line.near.run("nft", "delete", "element", *TABLE.split(), _a_map(line.near), "{ 172.16.0.50 }")
        assert received.read() == [monitor.Event("table")]
    finally:
        received.close()


def _a_map(machine: Namespace) -> str:
    listed = machine.run("nft", "list", "table", *TABLE.split()).split()
    return next(token for token in listed if token.startswith("virtual4_"))


def test_a_heartbeat_takes_less_than_a_millisecond(line: Wire, fence: Fence) -> None:
    took = []
    for number in range(1, 1001):
        begin = time.perf_counter_ns()
        assert let_speak(fence, number)
        took.append(time.perf_counter_ns() - begin)
    assert sorted(took)[len(took) // 2] < 1_000_000
