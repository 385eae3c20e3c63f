"""Connections of a virtual address that this node has handed over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest

from cni.kernel.errors import KernelError
from cni.plan import Plan
from gateway_agent.agent.rounds.conntrack_gc import DELETE_DELAY_S, ConntrackCollector
from gateway_agent.manifests.model import VIRTUAL_IP, Gateway

from ...policy.small_inventory import PARTNER, build, inventory
from ..gates import Gates, HeldClock, HeldKernel

ADDRESS = "172.16.0.50"
SHOWN = replace(PARTNER, mode=VIRTUAL_IP, interface="", addresses=(ADDRESS,))


@dataclass
class CountingKernel(HeldKernel):
    """A kernel that keeps the calls about connections."""

    calls: list[str] = field(default_factory=list)
    refuses: bool = False

    async def set_tcp_liberal(self, address: str, mask: int) -> None:
        if self.refuses:
            raise KernelError("refused")
        self.calls.append(f"liberal {address}")

    async def flush_by_source(self, address: str, mask: int) -> None:
        self.calls.append(f"flush {address}")

    async def forget_stale(self, mask: int) -> None:
        self.calls.append("stale")


def plan(master: str, gateway: Gateway = SHOWN) -> Plan:
    """Return the plan of g1, which may be the master."""
    of = inventory(gateways=(gateway,))
    (egress,) = build(of, node="g1").plan.egress_ips
    return build(of, node="g1", masters={egress.id: (master, 1)}).plan


MINE, THEIRS = plan("g1"), plan("g2")


def run(
    scenario: Callable[[HeldClock, CountingKernel, ConntrackCollector], Awaitable[None]],
) -> CountingKernel:
    kernel = CountingKernel(Gates())
    with asyncio.Runner(loop_factory=HeldClock) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, HeldClock)

        async def begin() -> None:
            await scenario(loop, kernel, ConntrackCollector(kernel, 0x0FF00000))

        runner.run(begin())
    return kernel


def test_connections_of_an_address_that_is_handed_over_are_loosened_and_deleted_after_a_rest() -> None:
    async def scenario(loop: HeldClock, kernel: CountingKernel, collector: ConntrackCollector) -> None:
        collector.follow(MINE, THEIRS)
        await collector.collect(THEIRS)
        await collector.collect(THEIRS)
        assert kernel.calls == [f"liberal {ADDRESS}"]
        loop.now += DELETE_DELAY_S
        await collector.collect(THEIRS)
        await collector.collect(THEIRS)

    assert run(scenario).calls == [f"liberal {ADDRESS}", f"flush {ADDRESS}"]


@pytest.mark.parametrize(
    "last", [MINE, plan("g2", replace(SHOWN, connection_sync=True))], ids=["it is back", "it is synchronized"]
)
def test_connections_that_are_in_use_again_or_that_others_have_too_are_kept(last: Plan) -> None:
    async def scenario(loop: HeldClock, kernel: CountingKernel, collector: ConntrackCollector) -> None:
        collector.follow(MINE, THEIRS)
        await collector.collect(THEIRS)
        loop.now += DELETE_DELAY_S
        await collector.collect(last)
        loop.now += DELETE_DELAY_S
        await collector.collect(THEIRS)

    assert run(scenario).calls == [f"liberal {ADDRESS}"]


def test_what_the_kernel_refuses_is_done_by_a_later_round_unless_the_address_is_back_by_then() -> None:
    async def scenario(loop: HeldClock, kernel: CountingKernel, collector: ConntrackCollector) -> None:
        collector.follow(MINE, THEIRS)
        kernel.refuses = True
        with pytest.raises(KernelError):
            await collector.collect(THEIRS)
        kernel.refuses = False
        await collector.collect(THEIRS)
        collector.follow(MINE, THEIRS)
        await collector.collect(MINE)
        await collector.collect(THEIRS)

    assert run(scenario).calls == [f"liberal {ADDRESS}"]


def test_a_new_plan_has_the_stale_connections_looked_for_at_once() -> None:
    async def scenario(loop: HeldClock, kernel: CountingKernel, collector: ConntrackCollector) -> None:
        task = asyncio.create_task(collector.run())
        for _ in range(3):
            await asyncio.sleep(0)
        assert kernel.calls == []
        collector.follow(None, THEIRS)
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()

    assert run(scenario).calls == ["stale"]
