"""The outside world of an agent, held at every point at which the agent waits for it: no clock, any order.

A :class:`Gates` collects those who wait. A test opens one after another, in the order that it chooses, and acts in
between: what a race needs a thousand runs for, happens at once and each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cni.kernel.netlink.links import HostVeths
from cni.plan import Plan
from gateway_agent.lease.ipc import KeeperConfig, KeeperState
from gateway_agent.manifests.model import Inventory

SPINS = 50
"""Turns of the event loop after which everything that can go on has done so: no chain of tasks here is as long."""


class Gates:
    """Who waits, in the order of arrival."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, asyncio.Future[None]]] = []

    async def hold(self, name: str) -> None:
        """Wait until the test opens this gate."""
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((name, gate))
        await gate

    async def open(self, index: int) -> str:
        """Let one go on, until everything waits again. Returns its name."""
        name, gate = self.waiting.pop(index)
        # Who waited may have been cancelled.
        if not gate.done():
            gate.set_result(None)
        await settle()
        return name


async def settle() -> None:
    """Let everything run that waits for nothing outside."""
    for _ in range(SPINS):
        await asyncio.sleep(0)


@dataclass
class HeldKernel:
    """Interface groups and the last plan, as a kernel keeps them: no change is there before its gate is opened."""

    gates: Gates
    groups: dict[str, int] = field(default_factory=dict)
    plan: Plan | None = None
    named: bool = False
    """It sees no network namespace of a pod."""

    async def host_veths(self, netns: str, names: Collection[str]) -> HostVeths:
        await self.gates.hold("host_veths")
        return HostVeths(tuple(names), self.named)

    async def reconcile(self, plan: Plan, devices: Sequence[str]) -> tuple[str, ...]:
        await self.gates.hold("reconcile")
        self.plan = plan
        return ()

    async def tag(self, device: str, group: int) -> None:
        await self.gates.hold("tag")
        self.groups[device] = group

    async def tag_of(self, device: str) -> int | None:
        await self.gates.hold("tag_of")
        return self.groups.get(device, 0)

    async def tagged(self) -> dict[str, int]:
        # Read at the one moment, given at the next: what is listed may be old.
        found = {device: group for device, group in self.groups.items() if group}
        await self.gates.hold("tagged")
        return found

    async def missing(self, plan: Plan) -> tuple[str, ...]:
        return ()

    async def leading(self, addresses: Sequence[str]) -> dict[str, str]:
        return {}

    async def forget_connections(self, stale: Mapping[str, Any]) -> None:
        await self.gates.hold("forget_connections")

    async def forget_pod(self, address: str) -> None:
        await self.gates.hold("forget_pod")

    async def forget_stale(self, mask: int) -> None:
        """Nothing is stale here."""

    async def flush_by_source(self, address: str, mask: int) -> None:
        """Nothing is shown here."""

    async def set_tcp_liberal(self, address: str, mask: int) -> None:
        """Nothing is served here."""

    def assume_applied(self, plan: Plan, devices: Sequence[str]) -> None:
        """No earlier process was here."""


@dataclass
class HeldStore:
    """An inventory that a test edits. ``for_pod`` answers with what it was when its gate is opened, as a store does
    that reads while others write."""

    gates: Gates
    inventory: Inventory

    async def inventories(self) -> AsyncIterator[Inventory]:
        last = None
        while True:
            if self.inventory is not last:
                last = self.inventory
                yield last
            await self.gates.hold("watch")

    async def for_pod(self, namespace: str, name: str, uid: str) -> Inventory | None:
        await self.gates.hold("for_pod")
        return self.inventory


class SilentKeeper:
    """A lease keeper that never speaks."""

    failure = ""

    def send(self, config: KeeperConfig) -> None:
        """Nothing is served here."""

    async def states(self) -> AsyncIterator[KeeperState]:
        await asyncio.Event().wait()
        yield KeeperState("", 0, (), (), (), 0, False, {})
