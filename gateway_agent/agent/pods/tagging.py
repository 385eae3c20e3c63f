"""Tags: the interface group of each pod follows the plan."""

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
    """The only writer of tags, and of the group in a record. One retagging works at a time."""

    def __init__(self, kernel: Kernel, pods: Pods, previous: Plan | None) -> None:
        """``previous``: the plan that an earlier process has left, by which its tags were set."""
        self._kernel = kernel
        self._pods = pods
        self._plan = previous
        """The plan by which all tags were set last."""
        self._derived: tuple[Plan, Selection, DestinationMap] | None = None
        self._untagged: dict[Key, Problem] = {}
        self._working = asyncio.Lock()
        self._stale = StaleConnections(kernel)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return those of running pods that no tag can steer, not of pods whose start may still be refused."""
        return tuple(
            problem
            for key, problem in self._untagged.items()
            if self._pods.get(key) is not None and not self._pods.is_starting(key)
        )

    def selection(self, plan: Plan) -> Selection:
        """Return which pods the plan's policies select; worked out once for each plan."""
        return self._derive(plan)[0]

    async def retag_all(self, plan: Plan, inventory: Inventory) -> None:
        """Bring every interface's tag to what the plan says, and delete the connections that would change their path.

        Raises OSError, and KernelError if an interface that is there could not be tagged, after all others.
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
        """Let a pod without a tag pass the guard: nothing that is known selects the pod, or the owner lets it start.

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
        """Let interfaces pass the guard that no known pod has: they were there before it. Raises KernelError."""
        async with self._working:
            for interface in await self._kernel.unjudged():
                log.warning("%s was there before the guard: its packets pass", interface)
                await self._kernel.tag(interface, ids.GROUP_UNSELECTED)

    async def _retag(
        self, pod: Pod, plan: Plan, inventory: Inventory, tags: Mapping[str, int] | None
    ) -> None:
        """Tag one pod. ``tags``: the groups of interfaces; None: not read, and the interface must be there."""
        key = pod.record.key
        if self._pods.get(key) is not pod:
            return
        selection, destinations = self._derive(plan)
        known = identity(pod.record, inventory)
        group = selection.group_for(known)
        if inventory.knows_pods:
            # A pod that the store forgets before its interface is gone keeps the labels that it had.
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
            # A policy may select it. If it may pass the guard, that was decided before.
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
        """Set the group of the pod's interfaces that have another one. Return those that are there.

        Raises KernelError: the last refusal. An interface that is gone is none if ``tags`` are given.
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
        """Return True if the interface has a group of another program, which gives way to the tag of a policy only."""
        if tags is not None and interface in tags:
            return False
        group = await self._kernel.tag_of(interface)
        return bool(group) and not ids.is_own_group(group or 0)

    def _derive(self, plan: Plan) -> tuple[Selection, DestinationMap]:
        """Return what is worked out of a plan; most rounds have the one before."""
        if self._derived is None or self._derived[0] is not plan:
            self._derived = plan, Selection(plan), DestinationMap(plan)
        return self._derived[1:]
