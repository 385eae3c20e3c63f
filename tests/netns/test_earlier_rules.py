"""An agent that is updated finds the tables of the version before: its rules go, and what is in its sets stays.

``earlier_rules/`` has the rules of a version with other names of chains and sets, for the plans of the lab.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cni.datapath.objects import node_nft
from cni.kernel import ids
from cni.kernel.nftables import nft
from cni.kernel.nftables.update import tables
from cni.plan import Plan
from gateway_agent.gateway_rules.fence import fence_nft
from gateway_agent.gateway_rules.snat import gateway_nft
from gateway_agent.lease_daemon.kernel.vip_fence import Fence
from tests.lab.namespace import Namespace
from tests.lab.waiting import until

from .datapath_lab import SERVICE, VIRTUAL, Lab, plan
from .fenced_wire import BOTH, Flow, let_speak, opened
from .link import Wire, wire

EARLIER = Path(__file__).with_name("earlier_rules")
LEASE_NS = 3_000_000_000
NEW_FENCE = fence_nft(BOTH, ["eth1"])


def virtual(planned: Plan) -> Plan:
    """Return a plan whose first egress IP is a virtual address."""
    first, *others = planned.egress_ips
    return replace(planned, egress_ips=(replace(first, address=VIRTUAL, source=VIRTUAL), *others))


NEW = {
    "node-w1": node_nft(plan("w1")),
    "node-g1": node_nft(plan("g1")),
    "gateway-g1": gateway_nft(plan("g1")),
    "gateway-virtual": gateway_nft(virtual(plan("g1"))),
    "fence": NEW_FENCE,
}


def earlier(name: str) -> str:
    return (EARLIER / f"{name}.nft").read_text(encoding="utf-8")


def chains_and_sets(machine: Namespace, text: str) -> dict[str, set[str]]:
    """Return what stands in the tables that ``text`` makes, by table, without stamps."""
    found = {}
    for table in tables(text):
        listed = machine.run("nft", "list", "table", *table.split())
        names = set(re.findall(r"^\t(?:chain|map|set) (\S+) \{$", listed, re.MULTILINE))
        found[table] = {name for name in names if not name.startswith(nft.STAMP)}
    return found


def update_by_another_process(text: str) -> tuple[str, ...]:
    """Bring the kernel to ``text`` as a process does that knows nothing of the text that was applied before."""
    nft._applied.clear()
    return nft.ensure(text)


@pytest.fixture
def line() -> Iterator[Wire]:
    with wire("egwer") as made:
        made.near.ip(
            "address add 172.16.0.50/32 dev eth1 scope host",
            f"neighbour replace 172.16.0.2 lladdr {made.mac(made.far)} dev eth1",
        )
        yield made


@pytest.mark.parametrize("name", ["node-w1", "node-g1", "gateway-g1", "gateway-virtual", "fence"])
def test_the_rules_differ_in_their_names(name: str) -> None:
    """Else these tests would show nothing."""
    assert tables(earlier(name)).keys() == tables(NEW[name]).keys()
    gone = {block for blocks in tables(earlier(name)).values() for block in blocks}
    gone -= {block for blocks in tables(NEW[name]).values() for block in blocks}
    assert {kind for kind, _ in gone} >= {"chain"}


def test_an_open_address_stays_open_and_loses_no_packet(line: Wire) -> None:
    line.near.inside(lambda: nft.apply(earlier("fence")))
    fence = line.near.inside(Fence)
    end, refused = threading.Event(), []

    def renew() -> None:
        """Do what a lease daemon does that was started before the update and goes on after it."""
        number = 1
        while not end.wait(0.05):
            number += 1
            if not let_speak(fence, number, LEASE_NS):
                refused.append(number)

    assert let_speak(fence, 1, LEASE_NS)
    daemon = threading.Thread(target=renew)
    daemon.start()
    try:
        with Flow(line) as flow:
            until(lambda: flow.sent > 100, "packets flow")
            done = line.near.inside(lambda: update_by_another_process(NEW_FENCE))
            at = flow.sent
            until(lambda: flow.sent > at + 200, "packets go on")
            flow.stop()
            arrived = [number for number, _ in flow.arrived()]
    finally:
        end.set()
        daemon.join()
        fence.close_socket()
    assert done == (f"replaced nftables table netdev {ids.NFT_FENCE}: out of date",)
    assert arrived == list(range(flow.sent))
    # A ticket that is written in the moment of the update is lost with it: the next heartbeat writes another one.
    assert len(refused) <= 1
    assert opened(line.near) == set(BOTH)
    assert line.near.inside(lambda: nft.missing(NEW_FENCE)) == ()
    assert chains_and_sets(line.near, NEW_FENCE) == {
        table: {name for _, name in blocks} for table, blocks in tables(NEW_FENCE).items()
    }


@pytest.mark.parametrize("rules", [earlier("fence"), NEW_FENCE], ids=["earlier", "new"])
def test_a_lease_daemon_opens_the_fence_of_either_version(line: Wire, rules: str) -> None:
    """The names of the sets are what agent and daemon agree on: they are the same in both versions."""
    line.near.inside(lambda: nft.apply(rules))
    names = {name for kind, name in tables(rules)[f"netdev {ids.NFT_FENCE}"] if kind == "set"}
    assert names == {"tickets", "open4", "open6"} == {ids.FENCE_TICKETS, ids.FENCE_OPEN4, ids.FENCE_OPEN6}
    fence = line.near.inside(Fence)
    try:
        assert let_speak(fence, 1, LEASE_NS)
        assert opened(line.near) == set(BOTH)
    finally:
        fence.close_socket()


def test_a_foreign_change_of_the_earlier_rules_closes_the_fence(line: Wire) -> None:
    line.near.inside(lambda: nft.apply(earlier("fence")))
    fence = line.near.inside(Fence)
    try:
        assert let_speak(fence, 1, LEASE_NS)
        line.near.run("nft", "add", "rule", "netdev", ids.NFT_FENCE, "speak4", "accept")
        assert line.near.inside(lambda: update_by_another_process(NEW_FENCE)) == (
            f"replaced nftables table netdev {ids.NFT_FENCE}: changed by another program",
        )
        assert opened(line.near) == set()
    finally:
        fence.close_socket()


def test_every_table_becomes_that_of_the_new_version(line: Wire) -> None:
    for name, text in NEW.items():
        line.near.inside(lambda name=name: nft.apply(earlier(name)))  # type: ignore[misc]
        done = line.near.inside(lambda text=text: update_by_another_process(text))  # type: ignore[misc]
        assert {problem.rpartition(": ")[2] for problem in done} == {"out of date"}, name
        assert line.near.inside(lambda text=text: nft.missing(text)) == ()  # type: ignore[misc]
        assert chains_and_sets(line.near, text) == {
            table: {block for _, block in blocks} for table, blocks in tables(text).items()
        }


def test_connections_go_on_over_an_update_of_worker_and_master(lab: Lab) -> None:
    names = {"w1": ["node-w1"], "g1": ["gateway-g1", "node-g1"]}
    for node, each in names.items():
        for name in each:
            lab.nodes[node].machine.inside(lambda name=name: nft.apply(earlier(name)))  # type: ignore[misc]
    pod = lab.pods["routed"]
    with pod.connect(SERVICE) as tcp, pod.datagrams() as udp, lab.witness() as witness:
        before = udp.seen_as()
        for node, each in names.items():
            for name in each:
                machine = lab.nodes[node].machine
                assert machine.inside(lambda name=name: update_by_another_process(NEW[name]))  # type: ignore[misc]
                assert tcp.echo()
                assert udp.seen_as() == before
        assert witness.sources() <= {before}
