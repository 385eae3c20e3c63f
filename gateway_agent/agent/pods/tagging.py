"""Tag the pods: set the interface group of each by the plan."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping

from cni.kernel import ids
from cni.kernel.errors import KernelError
from cni.plan import Plan

from ...manifests.model import Inventory, Problem
from ...policy.pods import unlabelled_pods
from ...policy.pods.selection import Selection
from ..ports import Kernel
from .destinations import DestinationMap
from .pod_policies import identity, kept_group, uncertain, without_interface
from .records import Key, Pod, Pods
from .stale_connections import StaleConnections

log = logging.getLogger(__name__)


class Tagging:
    """The only writer of tags, and of the group in a record. Only one retagging runs at a time."""

    def __init__(self, kernel: Kernel, pods: Pods, previous: Plan | None) -> None:
        """``previous``: the plan by which an earlier process has set the tags."""
        self._kernel = kernel
        self._pods = pods
        self._plan = previous
        """The plan of the last complete retagging."""
        self._derived: tuple[Plan, Selection, DestinationMap] | None = None
        self._untagged: dict[Key, Problem] = {}
        self._working = asyncio.Lock()
        self._stale = StaleConnections(kernel)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return problems of running pods that no tag can steer, without pods whose start may still be refused."""
        return tuple(
            problem
            for key, problem in self._untagged.items()
            if self._pods.get(key) is not None and not self._pods.is_starting(key)
        )

    def selection(self, plan: Plan) -> Selection:
        """Return the selection of a plan's policies, which is computed once for each plan."""
        return self._derive(plan)[0]

    async def retag_all(self, plan: Plan, inventory: Inventory) -> None:
        """Set every interface's tag by the plan, and delete the connections whose path changes.

        Raises OSError, and KernelError if an existing interface could not be tagged, after all others were.
        """
        failed: KernelError | None = None
        async with self._working:
            tags = await self._kernel.tagged()
            self._untagged = {}
            for pod in self._pods.all():
                try:
                    await self._retag(pod, plan, inventory, tags)
                except KernelError as error:
                    failed = error
            self._plan = plan
        await self._stale.delete()
        if failed is not None:
            raise failed

    async def retag(self, keys: Collection[Key], plan: Plan, inventory: Inventory) -> dict[Key, Exception]:
        """Tag these pods, which start now, by the plan. Return the KernelError or OSError of each that has no tag."""
        failed: dict[Key, Exception] = {}
        async with self._working:
            for pod in [pod for key in keys if (pod := self._pods.get(key))]:
                self._untagged.pop(pod.record.key, None)
                try:
                    await self._retag(pod, plan, inventory, None)
                except (KernelError, OSError) as error:
                    failed[pod.record.key] = error
        return failed

    async def let_pass(self, key: Key) -> None:
        """Let a pod without a tag pass the guard: no known policy selects it, or the configuration lets it start.

        Raises KernelError.
        """
        async with self._working:
            pod = self._pods.get(key)
            for interface in pod.record.host_interfaces if pod else ():
                if await self._kernel.tag_of(interface) == 0:
                    await self._kernel.tag(interface, ids.GROUP_UNSELECTED)
            if pod:
                pod.tag = None

    async def let_unknown_pass(self) -> None:
        """Let interfaces without a known pod pass the guard, because they existed before it. Raises KernelError."""
        async with self._working:
            for interface in await self._kernel.unjudged():
                log.warning("%s was there before the guard: its packets pass", interface)
                await self._kernel.tag(interface, ids.GROUP_UNSELECTED)

    async def _retag(
        self, pod: Pod, plan: Plan, inventory: Inventory, tags: Mapping[str, int] | None
    ) -> None:
        """Tag one pod. ``tags``: the groups of interfaces; None: not read, and the interface must exist."""
        key = pod.record.key
        if self._pods.get(key) is not pod:
            return
        selection, destinations = self._derive(plan)
        known = identity(pod.record, inventory)
        group = selection.group_for(known)
        if inventory.knows_pods:
            # A pod that leaves the store before its interface is gone keeps its labels.
            self._pods.change(pod, labels=known.labels)
        selecting = selection.policies_for(known)
        if selecting is None:
            group = kept_group(pod.record.group, self._plan, plan)
            if not inventory.knows_pods:
                self._untagged[key] = self._unlabelled(pod, uncertain(plan.policies, inventory, known))
        if not pod.record.host_interface:
            pod.tag = ids.GROUP_UNSELECTED
            if group:
                self._untagged[key] = without_interface(pod.record)
            return
        interfaces = pod.record.host_interfaces
        if selecting is None and not group and tags is not None:
            # A policy may select the pod. Whether the pod may pass the guard was decided before.
            return
        left = await self._set_group(pod, ids.interface_group(group), tags)
        # Meanwhile a call may have removed the pod or registered it anew.
        if self._pods.get(key) is not pod or pod.record.host_interfaces != interfaces:
            return
        if not left:
            self._pods.remove(key)
            return
        self._pods.change(pod, group=group, host_interface=left[0], other_interfaces=left[1:])
        pod.tag = ids.interface_group(group)
        before, pod.entries = pod.entries, destinations.of(group)
        if not self._pods.is_starting(key):
            self._stale.moved(pod.record.addresses, before, pod.entries)

    def _unlabelled(self, pod: Pod, policies: tuple[str, ...]) -> Problem:
        """Return the problem of a running pod that these policies may select."""
        return unlabelled_pods.running(pod.record, policies, self._pods.unknown.get(pod.record.key, ""))

    async def _set_group(self, pod: Pod, group: int, tags: Mapping[str, int] | None) -> tuple[str, ...]:
        """Set the group of the pod's interfaces that have another one. Return the existing interfaces.

        Raises KernelError, the last refusal. With ``tags``, a missing interface is no error.
        """
        left, failed = list(pod.record.host_interfaces), None
        for interface in pod.record.host_interfaces:
            if group == (pod.tag if tags is None else tags.get(interface, 0)):
                continue
            if group == ids.GROUP_UNSELECTED and await self._has_other_group(interface, tags):
                continue
            try:
                await self._kernel.tag(interface, group)
            except KernelError as error:
                if tags is not None and await self._kernel.tag_of(interface) is None:
                    log.info("%s: its interface %s is gone", pod.record.subject, interface)
                    left.remove(interface)
                else:
                    failed = error
                continue
            tag = 0 if group == ids.GROUP_UNSELECTED else group - ids.GROUP_BASE
            log.info("%s: %s has tag %d", pod.record.subject, interface, tag)
        if failed is not None:
            pod.tag = None
            raise failed
        return tuple(left)

    async def _has_other_group(self, interface: str, tags: Mapping[str, int] | None) -> bool:
        """Return True if the interface has a group of another program, which only the tag of a policy may replace."""
        if tags is not None and interface in tags:
            return False
        group = await self._kernel.tag_of(interface)
        return bool(group) and not ids.is_own_group(group or 0)

    def _derive(self, plan: Plan) -> tuple[Selection, DestinationMap]:
        """Return the data derived from a plan; most rounds have the same plan as before."""
        if self._derived is None or self._derived[0] is not plan:
            self._derived = plan, Selection(plan), DestinationMap(plan)
        return self._derived[1:]
