"""What an agent does when the kernel reports that a setting has changed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from cni.kernel.errors import KernelError
from cni.kernel.netlink.monitor import Event
from gateway_agent.manifests.model import Inventory
from gateway_agent.policy.egress_node.readiness import InterfaceFacts

from ..policy.small_inventory import PARTNER
from .gates import FakeDaemon, FakeInterfaces
from .test_add_order import EMPTY, World

UP = InterfaceFacts(True, True, 1500, ("172.16.0.21/24",), forwarding=True, default_route=frozenset({4}))
NODES = tuple(replace(node, labels={"role": "egress"}) for node in EMPTY.nodes)


@pytest.mark.parametrize("device", ["", "eth1"], ids=["of all interfaces", "of an egress interface"])
def test_a_setting_counts_at_once(tmp_path: Path, device: str) -> None:
    """The kernel drops packets out of the tunnels until the agent has set theirs, so it waits for no other event."""

    async def scenario() -> None:
        daemon, interfaces = FakeDaemon(), FakeInterfaces({"eth1": UP})
        others = {"lease_daemon": daemon, "interfaces": interfaces}
        world = World(tmp_path, Inventory((PARTNER,), (), NODES), others=others)

        def checked() -> bool:
            return world.state.applied is not None and world.state.applied.source_check

        try:
            await world.open_all(lambda: bool(daemon.sent) and daemon.sent[-1].egress[0].ready)
            await world.open_all(lambda: world.state.followed is world.state.inventory)
            assert not checked()
            interfaces.facts = {"eth1": replace(UP, source_check=1, forwarding=False)}
            world.agent.kernel_changed([Event("setting", device)])
            await world.open_all(lambda: not daemon.sent[-1].egress[0].ready)
            await world.open_all(checked)
        finally:
            await world.close()

    asyncio.run(scenario())


def test_interfaces_that_cannot_be_read_for_a_moment_do_not_end_the_agent(tmp_path: Path) -> None:
    async def scenario() -> None:
        refusals: list[KernelError] = []

        def refuse() -> None:
            if refusals:
                raise refusals.pop()

        interfaces = FakeInterfaces({"eth1": UP}, before=refuse)
        world = World(tmp_path, Inventory((PARTNER,), (), NODES), others={"interfaces": interfaces})
        try:
            await world.open_all(lambda: world.state.followed is world.state.inventory)
            refusals.append(KernelError("reading the addresses: Interrupted system call"))
            world.agent.kernel_changed([Event("setting", "")])
            await world.open_all(lambda: not refusals)
            changed = {"eth1": replace(UP, forwarding=False)}
            interfaces.facts = dict(changed)
            world.agent.kernel_changed([Event("setting", "")])
            await world.open_all(lambda: world.state.facts == changed)
            assert not any(task.done() for task in world.running)
        finally:
            await world.close()

    asyncio.run(scenario())


def test_a_setting_of_an_interface_of_no_gateway_reads_nothing(tmp_path: Path) -> None:
    """A runtime may change those of each pod."""

    async def scenario() -> None:
        reads = []
        interfaces = FakeInterfaces({"eth1": UP}, before=lambda: reads.append(1))
        world = World(tmp_path, Inventory((PARTNER,), (), NODES), others={"interfaces": interfaces})
        try:
            await world.open_all(lambda: world.state.followed is world.state.inventory)
            before = len(reads)
            world.agent.kernel_changed([Event("setting", "veth7")])
            assert not world.agent._interfaces_changed.is_set()
            assert len(reads) == before
        finally:
            await world.close()

    asyncio.run(scenario())
