"""The node's kernel is brought to a plan once, and again after each doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cni.kernel.errors import KernelError, Outcome
from cni.plan import Plan
from gateway_agent.agent.rounds.node_kernel import NodeKernel
from gateway_agent.agent.state import NodeState

from ...policy.small_inventory import build, inventory, policy
from ..gates import Gates, HeldKernel

PLAN = build(inventory(policy("a"))).plan
OTHER = build(inventory(policy("b")), previous=PLAN).plan


class OpenKernel(HeldKernel):
    """A kernel whose gates are open; it refuses as long as a test says so."""

    def __init__(self, **groups: int) -> None:
        super().__init__(Gates(), dict(groups))
        self.refuses = False
        self.changed: list[Plan] = []
        self.guards: list[str] = []

    async def reconcile(self, plan: Plan, devices: Sequence[str]) -> Outcome:
        if self.refuses:
            raise KernelError("no memory")
        self.changed.append(plan)
        return Outcome(("made a device",))

    async def tagged(self) -> dict[str, int]:
        return self.groups

    async def guard(self, text: str) -> tuple[str, ...]:
        if self.refuses:
            raise KernelError("no memory")
        self.guards.append(text)
        return ("made the guard",)


def test_a_plan_that_is_in_force_costs_nothing() -> None:
    kernel, state = OpenKernel(), NodeState()
    node = NodeKernel(kernel, state)
    assert asyncio.run(node.reconcile(PLAN, None, ())) == PLAN
    assert state.applied is PLAN
    assert asyncio.run(node.reconcile(PLAN, PLAN, ())) is None
    assert kernel.changed == [PLAN]


def test_a_doubt_and_other_devices_of_the_fence_bring_it_again() -> None:
    kernel, state = OpenKernel(), NodeState()
    node = NodeKernel(kernel, state)
    asyncio.run(node.reconcile(PLAN, None, ()))
    node.doubt()
    assert asyncio.run(node.reconcile(PLAN, PLAN, ())) == PLAN
    assert not state.kernel_in_doubt
    assert asyncio.run(node.reconcile(PLAN, PLAN, ("eth1",))) == PLAN
    assert len(kernel.changed) == 3


def test_a_set_stays_as_long_as_an_interface_has_its_tag() -> None:
    [before] = PLAN.policy_sets
    moved = replace(OTHER, policy_sets=tuple(replace(s, number=s.number + 1) for s in OTHER.policy_sets))
    kernel = OpenKernel(veth1=before.group)
    node = NodeKernel(kernel, NodeState())
    interim = asyncio.run(node.reconcile(moved, PLAN, ()))
    assert interim is not None
    assert before in interim.policy_sets
    assert set(moved.policy_sets) < set(interim.policy_sets)
    asyncio.run(node.drop_unused_sets(moved, ()))
    assert kernel.changed[-1] == moved


def test_a_refusal_leaves_the_kernel_in_doubt_and_the_plan_before_in_force() -> None:
    kernel, state = OpenKernel(), NodeState()
    node = NodeKernel(kernel, state)
    asyncio.run(node.reconcile(PLAN, None, ()))
    kernel.refuses = True
    with pytest.raises(KernelError):
        asyncio.run(node.reconcile(OTHER, PLAN, ()))
    assert state.applied is PLAN
    assert state.kernel_in_doubt
    kernel.refuses = False
    assert asyncio.run(node.reconcile(PLAN, PLAN, ())) == PLAN, "though the plan is the one that was in force"


def test_the_guard_is_written_once_and_again_after_a_doubt_or_a_refusal() -> None:
    kernel = OpenKernel()
    node = NodeKernel(kernel, NodeState())
    assert asyncio.run(node.guard("rules")) == ("made the guard",)
    assert asyncio.run(node.guard("rules")) == ()
    node.doubt()
    assert asyncio.run(node.guard("rules")) == ("made the guard",)
    kernel.refuses = True
    with pytest.raises(KernelError):
        asyncio.run(node.guard("other rules"))
    kernel.refuses = False
    assert asyncio.run(node.guard("other rules")) == ("made the guard",)
    assert kernel.guards == ["rules", "rules", "other rules"]
