"""Connections of pods whose path has changed: which are deleted, and that a refusal loses none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from cni.kernel.errors import KernelError
from gateway_agent.agent.pods.destinations import ForwardingEntries
from gateway_agent.agent.pods.stale_connections import StaleConnections

from ..gates import Gates, HeldKernel

POD, OTHER = "10.244.1.5", "10.244.1.6"
NOWHERE: ForwardingEntries = frozenset()
BY_A: ForwardingEntries = frozenset({("203.0.113.0/24", "a", "tunnel")})
BY_B: ForwardingEntries = frozenset({("203.0.113.0/24", "b", "tunnel")})
INSIDE, OUTSIDE = "203.0.113.7", "198.51.100.7"


@dataclass
class ForgettingKernel(HeldKernel):
    """A kernel that keeps what it was made to forget; it refuses as often as a test says."""

    refusals: int = 0
    forgotten: list[Mapping[str, Callable[[str], bool]]] = field(default_factory=list)

    async def forget_connections(self, stale: Mapping[str, Callable[[str], bool]]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise KernelError("refused")
        self.forgotten.append(stale)


def test_only_connections_that_go_another_way_are_deleted_and_once() -> None:
    kernel = ForgettingKernel(Gates())
    stale = StaleConnections(kernel)
    stale.moved([POD], NOWHERE, BY_A)
    stale.moved([OTHER], BY_A, BY_A)
    asyncio.run(stale.delete())
    asyncio.run(stale.delete())
    (forgotten,) = kernel.forgotten
    assert set(forgotten) == {POD}
    assert forgotten[POD](INSIDE)
    assert not forgotten[POD](OUTSIDE)


def test_of_two_moves_the_first_and_the_last_way_are_compared() -> None:
    kernel = ForgettingKernel(Gates())
    stale = StaleConnections(kernel)
    stale.moved([POD], BY_A, BY_B)
    stale.moved([POD], BY_B, BY_A)
    stale.moved([OTHER], NOWHERE, BY_A)
    stale.moved([OTHER], BY_A, BY_B)
    asyncio.run(stale.delete())
    (forgotten,) = kernel.forgotten
    assert not forgotten[POD](INSIDE), "it leaves as it did when its connections were opened"
    assert forgotten[OTHER](INSIDE)


def test_what_the_kernel_refuses_is_tried_again_with_what_has_moved_since() -> None:
    kernel = ForgettingKernel(Gates(), refusals=1)
    stale = StaleConnections(kernel)
    stale.moved([POD], NOWHERE, BY_A)
    with pytest.raises(KernelError):
        asyncio.run(stale.delete())
    stale.moved([OTHER], NOWHERE, BY_B)
    asyncio.run(stale.delete())
    assert [set(each) for each in kernel.forgotten] == [{POD, OTHER}]
