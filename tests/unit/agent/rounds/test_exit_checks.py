"""Checks of what is behind an egress node: its routes, its upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cni.kernel import ids
from gateway_agent.agent.ports import ProbeTarget
from gateway_agent.manifests.model import VIRTUAL_IP, Inventory
from gateway_agent.policy.egress_node.exit_paths import Found

from ...policy.small_inventory import PARTNER, policy
from ..egress_node import (
    UP,
    daemon_state,
    replace_id,
)
from ..gates import FakeDaemon, FakeInterfaces, FakeProbe
from ..test_add_order import EMPTY, World


def test_a_node_whose_routes_lead_elsewhere_is_not_ready(tmp_path: Path) -> None:
    async def scenario() -> None:
        daemon, interfaces = FakeDaemon(), FakeInterfaces({"eth1": UP})
        interfaces.routes = {"203.0.113.1": Found("eth0", "10.0.0.1")}
        nodes = tuple(replace(n, labels={"role": "egress"}) for n in EMPTY.nodes)
        others = {"lease_daemon": daemon, "interfaces": interfaces}
        objects = Inventory((PARTNER,), (policy("backend", "partner"),), nodes)
        world = World(tmp_path, objects, others=others)

        def reason() -> str:
            return daemon.sent[-1].egress[0].reason if daemon.sent else ""

        try:
            await world.open_all(lambda: "203.0.113.0/24 by eth0 via 10.0.0.1, not by eth1" in reason())
            interfaces.routes = {"203.0.113.1": Found("eth1", "172.16.0.1")}
            world.parts.reconciler.request()
            await world.open_all(lambda: daemon.sent[-1].egress[0].ready)
        finally:
            await world.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("master", ["w1", "g1"])
def test_a_master_asks_upstream_by_its_virtual_address_too(tmp_path: Path, master: str) -> None:
    """Silence there is a problem and no reason: each node would find the same as soon as it is the master."""

    async def scenario() -> None:
        daemon, probes = FakeDaemon(), list[FakeProbe]()

        def probe(target: ProbeTarget, changed: Callable[[], None]) -> FakeProbe:
            probes.append(FakeProbe(target, changed))
            return probes[-1]

        shown = replace(PARTNER, mode=VIRTUAL_IP, interface="", addresses=("172.16.0.50",))
        identity = ids.egress_id("partner", "172.16.0.50")
        daemon.news.put_nowait(replace_id(daemon_state(master, 3), identity))
        nodes = tuple(replace(n, labels={"role": "egress"}) for n in EMPTY.nodes)
        others = {"lease_daemon": daemon, "interfaces": FakeInterfaces({"eth1": UP}), "probe": probe}
        world = World(
            tmp_path, Inventory((shown,), (), nodes), others=others, upstream="198.51.100.1, '2001:db8::1'"
        )
        try:
            await world.open_all(lambda: bool(probes) and world.state.followed is not None)
            by_own = ProbeTarget("eth1", ("198.51.100.1",))
            by_shown = replace(by_own, source="172.16.0.50")
            assert {p.target for p in probes} == ({by_own, by_shown} if master == "w1" else {by_own})
            for each in probes:
                if each.target == by_shown:
                    each.silent = each.target.addresses
            problems = [p.message for p in world.problems() if p.source == "health"]
            words = "upstream 198.51.100.1 answers this node, but not 172.16.0.50"
            assert problems == ([words] if master == "w1" else [])
            assert daemon.sent[-1].egress[0].ready
        finally:
            await world.close()

    asyncio.run(scenario())
