"""The guard of pods that nobody has judged, on this node: set, kept as the cluster's networks change, taken away."""

from __future__ import annotations

from cni.kernel.errors import KernelError
from cni.plan import Plan

from ...config import AgentConfig
from ...gateway_rules.pod_guard import guard_nft, no_guard
from ...guard_file import GuardFile
from ...manifests.model import Inventory, Problem
from ..pods.adoption import Adoption
from ..pods.tagging import Tagging
from ..ports import Kernel, Threads
from .node_kernel import NodeKernel
from .planning import Planning


class PodGuard:
    """``problems``: reasons why the guard is not as it should be.

    Pods that ran before the guard are taken in first, so that it cuts off none of them.
    """

    def __init__(
        self,
        config: AgentConfig,
        kernel: Kernel,
        node_kernel: NodeKernel,
        planning: Planning,
        adoption: Adoption,
        tagging: Tagging,
        threads: Threads,
    ) -> None:
        self.problems: tuple[Problem, ...] = ()
        self._config = config
        self._kernel = kernel
        self._node_kernel = node_kernel
        self._planning = planning
        self._adoption = adoption
        self._tagging = tagging
        self._threads = threads
        self._file = GuardFile(config.state_dir)
        self._was_set = False

    async def follow(self, plan: Plan, inventory: Inventory) -> None:
        """Bring the guard to the configuration and to the cluster's networks; after the tags of known pods are set.

        A guard that cannot be set is a problem, and no reason to do nothing else.
        """
        self.problems = await self._problems(plan, inventory)

    async def _problems(self, plan: Plan, inventory: Inventory) -> tuple[Problem, ...]:
        try:
            if not self._config.guard:
                await self._node_kernel.guard(no_guard())
                await self._threads.run(self._file.remove)
            elif await self._may_stand(inventory):
                inside = self._planning.never_sent(inventory)
                text = guard_nft(inside, (*plan.uplinks, *self._config.guard_except))
                await self._node_kernel.guard(text)
                self._was_set = True
                await self._threads.run(self._file.write, text)
        except KernelError as error:
            return (Problem("guard", "", f"it is not set: {error.message}", error.hint),)
        except OSError as error:
            hint = "it must be writable, or the guard is missing after a reboot until the agent runs"
            return (Problem("guard", "stateDir", str(error), hint),)
        return ()

    async def _may_stand(self, inventory: Inventory) -> bool:
        """Return True if the guard stands already, or if the pods that ran before it have been taken in."""
        if self._was_set or self._file.read() or await self._kernel.guarded():
            return True
        if inventory.knows_pods:
            return not self._adoption.waiting
        await self._tagging.let_unknown_pass()
        return True
