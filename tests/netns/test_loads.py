"""The loads that go through a failover, before anything is judged by them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ..lab import topology
from ..lab.asking import Asking, recovered
from ..lab.connections import Connections, fates
from ..lab.flow import Flow
from ..lab.lab import SELECTED, Lab
from ..lab.silence import longest
from ..lab.waiting import until

CLIENT = "g1"
PAUSE_S = 0.3
"""Seconds that exceed the shortest time-out of TCP."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(topology.separate(workers=0, gateways=2)) as made:
        yield made


@contextmanager
def disturbed(lab: Lab, verdict: str) -> Iterator[None]:
    """Apply a verdict to the packets from the client to the outside service."""
    machine = lab.machines["outside"]
    rules = (
        "add table inet lab_loss\n"
        "add chain inet lab_loss in { type filter hook input priority 0; }\n"
        f"add rule inet lab_loss in {verdict}\n"
    )
    machine.run("nft", "-f", "-", text=rules)
    try:
        yield
    finally:
        machine.run("nft", "delete", "table", "inet", "lab_loss")


def connections(lab: Lab, count: int, interval: float = 200, grace: float = 10) -> Connections:
    return Connections(lab.machines[CLIENT], lab.directory / "load.log", SELECTED, count, interval, grace)


def arrived(lab: Lab, seconds: float) -> None:
    """Return when this time has passed on the wire: something is under way all the while."""
    began = time.monotonic()
    until(lambda: time.monotonic() - began > seconds, "time passes")


@pytest.mark.parametrize(("count", "interval"), [(1000, 200), (100, 10)])
def test_nothing_happens_to_connections(lab: Lab, count: int, interval: float) -> None:
    with connections(lab, count, interval) as load:
        arrived(lab, 1.0)
        outcomes = load.stop()
    found = fates(outcomes, 0)
    assert (found.alive, found.reset, found.hung) == (count, 0, 0)
    assert {outcome.address for outcome in outcomes} == {lab.nodes[CLIENT].host.egress_ip}
    assert min(outcome.echoed for outcome in outcomes) > 10 * 500 / interval
    assert found.longest_pause < interval + 100


def test_a_pause_is_found(lab: Lab) -> None:
    with connections(lab, 100, 10) as load:
        with disturbed(lab, f"tcp dport {SELECTED} drop"):
            arrived(lab, PAUSE_S)
        found = fates(load.stop(), 0)
    assert (found.alive, found.reset, found.hung) == (100, 0, 0)
    assert found.longest_pause > PAUSE_S * 1000


def test_resets_differ_from_silence(lab: Lab) -> None:
    with connections(lab, 100, 50, grace=0.5) as load:
        struck = time.time_ns()
        # The kernel gives out even ports first.
        lost = f"tcp dport {SELECTED} tcp sport & 6"
        with disturbed(lab, f"{lost} 4 reject with tcp reset"):
            machine = lab.machines["outside"]
            machine.run("nft", "add", "rule", "inet", "lab_loss", "in", *f"{lost} 2 drop".split())
            arrived(lab, PAUSE_S)
            outcomes = load.stop()
    found = fates(outcomes, struck)
    assert found.alive > 0
    assert found.hung > 0
    assert found.reset > 0
    assert found.alive + found.hung + found.reset == 100
    assert found.errors == {"ECONNRESET": found.reset}
    assert 0 < found.slowest_reset < 2000


def test_connections_that_cannot_be_opened_are_an_error(lab: Lab) -> None:
    with pytest.raises(RuntimeError, match="0 of 3 connections were greeted; ECONNREFUSED"):
        Connections(lab.machines[CLIENT], lab.directory / "load.log", 9999, 3)


def test_a_flow_loses_what_was_dropped(lab: Lab) -> None:
    machine, log = lab.machines[CLIENT], lab.directory / "load.log"
    with Flow(machine, log, SELECTED) as flow:
        arrived(lab, PAUSE_S)
        whole = flow.stop()
    assert longest(whole).lost == 0
    assert len(whole) > PAUSE_S * 500
    with Flow(machine, log, SELECTED) as flow:
        with disturbed(lab, f"udp dport {SELECTED} drop"):
            arrived(lab, PAUSE_S)
        arrived(lab, PAUSE_S)
        silence = longest(flow.stop())
    assert silence.ended
    assert silence.milliseconds > PAUSE_S * 1000
    assert silence.lost > PAUSE_S * 500


def test_each_address_is_asked_for(lab: Lab) -> None:
    addresses = topology.virtual_addresses(64)
    machines = [lab.machines[name] for name in ("g1", "g2")]
    macs = [machine.run("cat", "/sys/class/net/eth1/address").strip() for machine in machines]
    add, delete = ([f"address {verb} {a}/32 dev eth1" for a in addresses] for verb in ("add", "del"))
    machines[0].ip(*add)
    with Asking(lab.machines["router"], lab.directory / "load.log", "eth1", addresses) as asking:
        arrived(lab, PAUSE_S)
        struck = time.time_ns()
        machines[0].ip(*delete)
        machines[1].ip(*add[1:])
        arrived(lab, PAUSE_S)
        answers = asking.stop()
    machines[1].ip(*delete[1:])
    found = recovered(answers, struck, macs[0])
    assert found.pop(addresses[0]) is None
    assert len(found) == 63
    assert all(0 < milliseconds < 1000 for milliseconds in found.values() if milliseconds is not None)
    assert None not in found.values()
    learnt = lab.machines["router"].run("ip", "neighbour", "show", "dev", "eth1")
    assert not [address for address in addresses if address in learnt.split()]
