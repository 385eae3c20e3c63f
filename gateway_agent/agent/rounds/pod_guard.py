"""Set, update and remove the guard of pods without a tag on this node."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection

from cni.kernel.errors import KernelError
from cni.kernel.nftables import nft
from cni.plan import Plan

from ...config import AgentConfig
from ...gateway_rules.pod_guard import guard_nft, no_guard
from ...guard_file import GuardFile
from ...manifests.model import Inventory, Problem
from ..pods.adoption import Adoption
from ..pods.tagging import Tagging
from ..ports import Kernel, Threads
from ..state import NodeState
from .node_kernel import NodeKernel
from .planning import Planning

GAPS = ("missing", nft.FOREIGN)
"""Suffixes of change texts which say that the guard was missing or changed."""


class PodGuard:
    """The only writer of ``NodeState.guard_since``. ``problems``: reasons why the guard is not set as configured.

    Pods that ran before the guard are registered first, so that the guard cuts off none of them.
    """

    def __init__(
        self,
        config: AgentConfig,
        state: NodeState,
        kernel: Kernel,
        node_kernel: NodeKernel,
        planning: Planning,
        adoption: Adoption,
        tagging: Tagging,
        threads: Threads,
    ) -> None:
        self.problems: tuple[Problem, ...] = ()
        self._config = config
        self._state = state
        self._kernel = kernel
        self._node_kernel = node_kernel
        self._planning = planning
        self._adoption = adoption
        self._tagging = tagging
        self._threads = threads
        self._file = GuardFile(config.state_dir)
        self._was_installed: bool | None = None
        """True if the guard was set by this process or an earlier one; None: not checked yet."""

    async def look(self) -> None:
        """Check once for a guard that a systemd unit or an earlier process has set. Raises KernelError."""
        if self._was_installed is None:
            self._was_installed = await self._kernel.guarded()
            if self._was_installed:
                self._state.guard_since = -math.inf

    async def follow(self, plan: Plan, inventory: Inventory) -> None:
        """Reconcile the guard with the configuration and the cluster's networks, after the tags of known pods are set.

        A guard that cannot be set is a problem, but the round continues.
        """
        self.problems = await self._problems(plan, inventory)

    async def _problems(self, plan: Plan, inventory: Inventory) -> tuple[Problem, ...]:
        try:
            if not self._config.guard:
                self._state.guard_since = math.inf
                await self._node_kernel.guard(no_guard())
                await self._threads.run(self._file.remove)
            elif await self._may_install(inventory):
                inside = self._planning.never_sent(inventory)
                text = guard_nft(inside, (*plan.uplinks, *self._config.guard_except))
                self._note_gap(await self._node_kernel.guard(text))
                self._was_installed = True
                await self._threads.run(self._file.write, text)
        except KernelError as error:
            self._state.guard_since = math.inf
            return (Problem("guard", "", f"it is not set: {error.message}", error.hint),)
        except OSError as error:
            hint = "it must be writable, or the guard is missing after a reboot until the agent runs"
            return (Problem("guard", "stateDir", str(error), hint),)
        return ()

    def _note_gap(self, changes: Collection[str]) -> None:
        """Record that the guard is set; restart its time if a change says that it was not."""
        gap = any(change.endswith(GAPS) for change in changes)
        if gap or self._state.guard_since == math.inf:
            self._state.guard_since = asyncio.get_running_loop().time()

    async def _may_install(self, inventory: Inventory) -> bool:
        """Return True if the guard is set already, or if the pods that ran before it have been registered."""
        if self._was_installed or self._file.read():
            return True
        if inventory.knows_pods:
            return not self._adoption.waiting
        await self._tagging.let_unknown_pass()
        return True
