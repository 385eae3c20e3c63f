"""Checks of the paths through this node: a node is ready as long as its packets get through."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from cni.kernel.errors import KernelError
from gateway_agent.manifests.model import Inventory
from gateway_agent.policy.egress_node.exit_paths import Found
from gateway_agent.policy.egress_node.path_faults import Dropped

from ...policy.small_inventory import PARTNER, policy
from ..egress_node import (
    CLOSED,
    UNPROVEN,
    UP,
    daemon_state,
    egress_node,
    only_asked,
    probe_once,
    sent,
    with_gateways,
)
from ..gates import FakeDaemon, FakeInterfaces, FakePathProbe, settle
from ..test_add_order import EMPTY, World

__all__ = ["only_asked"]


@pytest.mark.usefixtures("only_asked")
def test_a_node_whose_firewall_drops_what_it_forwards_is_not_ready(tmp_path: Path) -> None:
    """One lost probe is no proof, and one that does not enter its tunnel says nothing about other nodes' packets."""

    async def scenario() -> None:
        daemon, interfaces, probe = FakeDaemon(), FakeInterfaces({"eth1": UP}), FakePathProbe()
        interfaces.routes = {"203.0.113.1": Found("eth1", "172.16.0.1")}
        nodes = tuple(replace(n, labels={"role": "egress"}) for n in EMPTY.nodes)
        others = {"lease_daemon": daemon, "interfaces": interfaces, "path_probe": probe}
        world = World(tmp_path, Inventory((PARTNER,), (policy("backend", "partner"),), nodes), others=others)

        async def look() -> bool:
            return await probe_once(world)

        try:
            await world.open_all(lambda: bool(daemon.sent) and daemon.sent[-1].egress[0].ready)
            probe.dropped = Dropped("ip", "filter", "FORWARD", "FORWARD", "", True)
            assert [await look(), await look()] == [False, True]
            assert "nftables table ip filter, chain FORWARD, drops them" in daemon.sent[-1].egress[0].reason
            assert "iptables -I FORWARD -i egw-+ -j ACCEPT" in daemon.sent[-1].egress[0].reason
            # One round that cannot probe says nothing new: doctor may have the packet log.
            probe.error = OSError(16, "Device or resource busy")
            assert not await look()
            assert "busy" in next(p for p in world.problems() if p.source == "path").message
            assert not daemon.sent[-1].egress[0].ready
            assert [await look(), await look()] == [False, True]
            assert daemon.sent[-1].egress[0].ready
            probe.error = None
            assert [await look(), await look()] == [False, True]
            probe.dropped = None
            assert await look()
            assert daemon.sent[-1].egress[0].ready
            probe.lost = True
            before = probe.traces
            # The hold time of the closings before ends with the second search.
            assert [await look() for _ in range(6)] == [False, False, True, False, False, False]
            # Each trace makes and removes a table: not one each second.
            assert probe.traces == before + 2
            assert daemon.sent[-1].egress[0].ready
            assert (
                "lets nothing in from its own address"
                in next(p for p in world.problems() if p.source == "path").message
            )
            probe.error = OSError(16, "Device or resource busy")
            await look()
            assert "busy" in next(p for p in world.problems() if p.source == "path").message
            probe.error, probe.lost = None, False
            await look()
            assert [p for p in world.problems() if p.source == "path"] == []
            probe.most = 1300
            assert [await look(), await look()] == [False, False]
            [problem] = [p for p in world.problems() if p.source == "path"]
            assert problem.message.startswith("packets of more than 1300 bytes do not get from ")
            assert daemon.sent[-1].egress[0].ready
            # A firewall that comes then is found as soon as without it, also when it comes back.
            for _ in range(2):
                probe.dropped = Dropped("ip", "filter", "FORWARD", "FORWARD", "", True)
                assert [await look(), await look()] == [False, True]
                assert not daemon.sent[-1].egress[0].ready
                probe.dropped = None
                assert await look()
            probe.most = 1500
            await look()
            assert [p for p in world.problems() if p.source == "path"] == []
        finally:
            await world.close()

    asyncio.run(scenario())


@pytest.mark.usefixtures("only_asked")
def test_a_closed_node_is_not_ready_from_the_first_configuration_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        daemon, probe = FakeDaemon(), FakePathProbe(dropped=CLOSED)
        world = egress_node(tmp_path, daemon, probe, "partner")
        try:
            await world.open_all(lambda: bool(daemon.sent))
            assert sent(daemon) == [("partner", False, UNPROVEN)]
            assert await probe_once(world)
            assert "drops them" in daemon.sent[-1].egress[0].reason
            assert not any(each.egress[0].ready for each in daemon.sent)
        finally:
            await world.close()

    asyncio.run(scenario())


@pytest.mark.usefixtures("only_asked")
def test_a_node_that_loses_probes_is_not_ready_also_if_the_kernel_takes_no_trace(tmp_path: Path) -> None:
    async def scenario() -> None:
        daemon, probe = (
            FakeDaemon(),
            FakePathProbe(dropped=CLOSED, refused=KernelError("nft: cannot be started")),
        )
        world = egress_node(tmp_path, daemon, probe, "partner")
        try:
            await world.open_all(lambda: bool(daemon.sent) and probe.removals == 1)
            assert await probe_once(world)
            assert (
                daemon.sent[-1]
                .egress[0]
                .reason.endswith("the rule that drops them was not found, nft: cannot be started")
            )
        finally:
            await world.close()

    asyncio.run(scenario())


@pytest.mark.usefixtures("only_asked")
def test_an_open_node_is_ready_with_the_first_configuration_and_a_new_gateway_waits_for_no_turn(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        daemon, probe = FakeDaemon(), FakePathProbe()
        world = egress_node(tmp_path, daemon, probe, "partner")

        async def publish(*gateways: str) -> None:
            world.store.inventory = with_gateways(*gateways)
            await world.open_all(lambda: world.state.followed == world.store.inventory)
            await settle()

        try:
            await world.open_all(lambda: bool(daemon.sent))
            assert sent(daemon) == [("partner", True, "")]
            await publish("partner", "second")
            assert sorted(sent(daemon)) == [("partner", True, ""), ("second", True, "")]
            probe.dropped = CLOSED
            await publish("partner", "second", "third")
            assert ("third", False, UNPROVEN) in sent(daemon)
        finally:
            await world.close()

    asyncio.run(scenario())


@pytest.mark.usefixtures("only_asked")
@pytest.mark.parametrize(("master", "ready"), [("w1", True), ("g1", False), ("", False)])
def test_a_master_whose_agent_has_just_started_goes_on_until_it_is_found_closed(
    tmp_path: Path, master: str, ready: bool
) -> None:
    async def scenario() -> None:
        daemon, probe = FakeDaemon(), FakePathProbe(dropped=CLOSED)
        daemon.news.put_nowait(daemon_state(master, 3))
        world = egress_node(tmp_path, daemon, probe, "partner")
        try:
            await world.open_all(lambda: bool(daemon.sent))
            assert sent(daemon) == [("partner", ready, "" if ready else UNPROVEN)]
            assert await probe_once(world)
            assert "drops them" in daemon.sent[-1].egress[0].reason
        finally:
            await world.close()

    asyncio.run(scenario())


@pytest.mark.usefixtures("only_asked")
def test_after_a_closing_a_node_waits_while_another_one_serves(tmp_path: Path) -> None:
    async def scenario() -> None:
        daemon, probe = FakeDaemon(), FakePathProbe(dropped=CLOSED)
        world = egress_node(tmp_path, daemon, probe, "partner")

        async def of_master(
            master: str, alive: bool = True, ready: bool = True
        ) -> list[tuple[str, bool, str]]:
            daemon.news.put_nowait(daemon_state(master, 3, alive, ready))
            await settle()
            ended = asyncio.create_task(world.parts.reconciler.next_round())
            await world.open_all(ended.done)
            await settle()
            return sent(daemon)

        try:
            await world.open_all(lambda: bool(daemon.sent))
            await of_master("g1")
            assert await probe_once(world)
            probe.dropped = None
            assert await probe_once(world)
            held = "packets were dropped on this node: ready when all get through for 5 s"
            assert sent(daemon) == [("partner", False, held)]
            assert await of_master("") == [("partner", True, "")]
            assert await of_master("g1") == [("partner", False, held)]
            assert await of_master("w1") == [("partner", True, "")]
            # A master that has just failed is known for some seconds more.
            assert await of_master("g1", alive=False) == [("partner", True, "")]
            assert await of_master("g1", ready=False) == [("partner", True, "")]
            assert await of_master("g1") == [("partner", False, held)]
        finally:
            await world.close()

    asyncio.run(scenario())
