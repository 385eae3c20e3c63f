"""Find pods that ran before the plugin was installed, by the interfaces that lead to their addresses."""

from __future__ import annotations

import asyncio
import logging
import time
from math import inf

from cni.calls.attachments import Attachment
from cni.kernel.errors import KernelError

from ...manifests.model import Inventory, Problem, RunningPod
from ...policy.pods import unattached_pods
from ...policy.pods.unattached_pods import TEARDOWN_S, BesideLog, StartedBeside
from ..ports import Kernel
from ..state import NodeState
from .records import Pods

log = logging.getLogger(__name__)
RETRY_S = 0.5
"""Seconds to the next search while it may find more: a bridge learns the port of a pod when the kernel resolves it."""
REPORT_AFTER_S = 5.0
"""Seconds after which a pod counts as not found. A pod that is starting becomes known by its CNI call."""


class Adoption:
    """The search. ``problems``: pods that could not be found."""

    def __init__(self, pods: Pods, kernel: Kernel, state: NodeState) -> None:
        self.beside = BesideLog()
        self.problems: tuple[Problem, ...] = ()
        self.waiting = True
        """True if pods that ran before the plugin may still be found."""
        self._pods = pods
        self._kernel = kernel
        self._state = state
        self._since: dict[RunningPod, float] = {}
        self._deleted: list[tuple[Attachment, float]] = []
        """Deleted records, and the moments of their DELs."""

    async def follow(self, inventory: Inventory) -> float | None:
        """Register the pods that are found. Return the seconds until the next search; None: none is needed now.

        Raises OSError if a record cannot be written.
        """
        for record in unattached_pods.outlived(inventory, self._pods.records.values()):
            self._pods.remove(record.key)
        for record in unattached_pods.current(inventory, self._pods.records.values()):
            self._pods.displace(record)
        now = self._now()
        self._follow_deletions(inventory, now)
        unknown = unattached_pods.unknown(inventory, self._pods.records.values())
        # A pod that starts again with its address, without the plugin, is found after that time.
        wanted = [pod for pod in unknown if now - self._deleted_at(pod) >= TEARDOWN_S]
        found: dict[str, str] = {}
        try:
            found = await self._kernel.leading([pod.addresses[0] for pod in wanted]) if wanted else {}
        except KernelError as error:
            log.error("%s", error)
        now = self._now()
        for pod in wanted:
            if host_interface := found.get(pod.addresses[0]):
                self._pods.add(unattached_pods.adopted(pod, host_interface))
                self._note(pod, host_interface, self._since.get(pod, now))
        left = [pod for pod in wanted if pod.addresses[0] not in found]
        self._since = {pod: self._since.get(pod, now) for pod in left}
        self.problems = tuple(
            unattached_pods.problem(pod)
            for pod, since in self._since.items()
            if now - since >= REPORT_AFTER_S and self._deleted_at(pod) == -inf
        )
        self.waiting = any(now - since < REPORT_AFTER_S for since in self._since.values())
        if self.waiting:
            return RETRY_S
        return TEARDOWN_S if len(wanted) < len(unknown) else None

    def _follow_deletions(self, inventory: Inventory, now: float) -> None:
        """Note new DELs. Each is remembered until the store no longer has its pod, and for the time of a teardown."""
        known = [*self._deleted, *((record, now) for record in self._pods.take_deleted())]
        self._deleted = [
            (record, at)
            for record, at in known
            if now - at < TEARDOWN_S or any(unattached_pods.is_of(record, pod) for pod in inventory.running)
        ]

    def _deleted_at(self, pod: RunningPod) -> float:
        """Return the moment of the DEL of a pod that the store still has; minus infinity if there was none."""
        times = [at for record, at in self._deleted if unattached_pods.is_of(record, pod)]
        return max(times, default=-inf)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _note(self, pod: RunningPod, host_interface: str, first_seen: float) -> None:
        held = unattached_pods.held(first_seen, self._state.guard_since)
        one = StartedBeside(pod.namespace, pod.name, pod.uid, time.time(), held)
        self.beside = self.beside.plus(one)
        log.info("found behind %s: %s", host_interface, one.text)
