"""The configuration of the lease daemon: sent whenever readiness changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gateway_agent.agent.ports import ProbeTarget
from gateway_agent.manifests.model import Inventory, Routing

from ...policy.small_inventory import PARTNER, policy
from ..egress_node import (
    IDENTITY,
    UP,
    daemon_state,
)
from ..gates import FakeDaemon, FakeInterfaces, FakeProbe
from ..test_add_order import EDITS, EMPTY, World


def test_a_new_master_is_followed_by_a_round(tmp_path: Path) -> None:
    async def scenario() -> None:
        daemon = FakeDaemon()
        world = World(tmp_path, EDITS[0], others={"lease_daemon": daemon})
        try:
            await world.open_all(lambda: bool(daemon.sent))
            assert [spec.id for spec in daemon.sent[-1].egress] == [IDENTITY]
            daemon.news.put_nowait(daemon_state("g2", 3))
            await world.open_all(
                lambda: world.kernel.plan is not None and world.kernel.plan.egress_ips[0].master == "g2"
            )
        finally:
            await world.close()

    asyncio.run(scenario())


def test_an_egress_node_reports_what_it_cannot_serve_before_the_next_round(tmp_path: Path) -> None:
    """Its upstream falls silent, then its interface goes: the lease daemon has to know at once."""

    async def scenario() -> None:
        daemon, interfaces, probes = FakeDaemon(), FakeInterfaces({"eth1": UP}), list[FakeProbe]()

        def probe(target: ProbeTarget, changed: Callable[[], None]) -> FakeProbe:
            probes.append(FakeProbe(target, changed))
            return probes[-1]

        nodes = tuple(replace(n, labels={"role": "egress"}) for n in EMPTY.nodes)
        others = {"lease_daemon": daemon, "interfaces": interfaces, "probe": probe}
        world = World(tmp_path, Inventory((PARTNER,), (), nodes), others=others, upstream="198.51.100.1")

        def ready() -> tuple[bool, str]:
            [spec] = daemon.sent[-1].egress
            return spec.ready, spec.reason

        try:
            await world.open_all(lambda: bool(daemon.sent) and bool(probes))
            await world.open_all(lambda: world.state.followed is world.state.inventory)
            assert [p.target for p in probes] == [
                ProbeTarget("eth1", ("198.51.100.1",), source="172.16.0.21")
            ]
            assert ready() == (True, "")
            probes[0].silent = ("198.51.100.1",)
            probes[0].changed()
            assert ready() == (False, "upstream 198.51.100.1 does not answer")
            probes[0].silent = ()
            probes[0].changed()
            assert ready() == (True, "")
            interfaces.facts = {}
            world.agent.kernel_changed([world.link_event("eth1")])
            await world.open_all(lambda: not ready()[0])
            assert ready() == (False, "interface eth1 does not exist")
        finally:
            await world.close()

    asyncio.run(scenario())


def test_an_edit_that_needs_answers_checked_by_mark_makes_no_node_unready(tmp_path: Path) -> None:
    """A master would hand over: the setting is turned on before the lease daemon gets to know of the edit."""

    async def scenario() -> None:
        daemon, interfaces = FakeDaemon(), FakeInterfaces({"eth1": replace(UP, rp_filter=1)})
        nodes = tuple(replace(n, labels={"role": "egress"}) for n in EMPTY.nodes)
        objects = Inventory((PARTNER,), (policy("backend", "partner"),), nodes)
        world = World(tmp_path, objects, others={"lease_daemon": daemon, "interfaces": interfaces})

        async def one_round() -> None:
            ended = asyncio.create_task(world.parts.reconciler.next_round())
            await world.open_all(ended.done)

        try:
            await world.open_all(lambda: bool(daemon.sent) and daemon.sent[-1].egress[0].ready)
            before = len(daemon.sent)
            routed = replace(PARTNER, routing=Routing(next_hops=("172.16.0.1",)))
            world.store.inventory = replace(objects, gateways=(routed,))
            await world.open_all(lambda: world.state.followed == world.store.inventory)
            await one_round()
            for value in (0, 1, 2):
                interfaces.facts = {"eth1": replace(UP, rp_filter=value)}
                await one_round()
            assert [sent.egress[0].reason for sent in daemon.sent[before:]] == [""] * (
                len(daemon.sent) - before
            )
            assert len(daemon.sent) > before
        finally:
            await world.close()

    asyncio.run(scenario())
