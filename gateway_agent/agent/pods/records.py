"""The pods of this node: their attachment records, in memory and on disk."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cni.calls import attachments
from cni.calls.attachments import Attachment
from cni.kernel.errors import KernelError
from cni.plan import Plan, PodIdentity

from ...manifests.model import Inventory, Problem
from ...policy.pods import unlabelled_pods
from ...policy.pods.unlabelled_pods import Refusals
from ..ports import Kernel
from .destinations import NO_ENTRIES, DestinationMap, ForwardingEntries
from .pod_policies import identity

log = logging.getLogger(__name__)
Key = tuple[str, str]
"""Container id and interface name."""


@dataclass(eq=False)
class Pod:
    """One attachment. A new registration of the same attachment is another object."""

    record: Attachment
    tag: int | None = None
    """The group of the pod's interfaces; None: not known. Writer after the registration: ``tagging``."""
    entries: ForwardingEntries = NO_ENTRIES
    """Forwarding entries for the pod's packets. Writer after the start of the agent: ``tagging``."""


class Pods:
    """The only writer of attachment records in the agent.

    Only the files outlive this process. They are small, and usually on a tmpfs, so they are written in the event loop:
    memory and disk never differ for another task.
    """

    def __init__(self, run_dir: Path, kernel: Kernel) -> None:
        self.refusals = Refusals()
        self.unknown: dict[Key, str] = {}
        """Reasons why labels of pods are unknown, by their container engines."""
        self._deleted: list[Attachment] = []
        self._run_dir = run_dir
        self._kernel = kernel
        self._pods: dict[Key, Pod] = {}
        self._starting: set[Key] = set()
        self._unreadable: list[Problem] = []
        self._stamp = -1

    # --- records -----------------------------------------------------------------------------------------------

    @property
    def records(self) -> dict[Key, Attachment]:
        """Return a copy of all records."""
        return {key: pod.record for key, pod in self._pods.items()}

    def get(self, key: Key) -> Pod | None:
        """Return one pod; None if there is no such attachment."""
        return self._pods.get(key)

    def all(self) -> tuple[Pod, ...]:
        """Return all pods."""
        return tuple(self._pods.values())

    def is_starting(self, key: Key) -> bool:
        """Return True if the pod's ADD has no answer yet."""
        return key in self._starting

    def adopt(self, previous: Plan | None) -> None:
        """Read the records of earlier processes and of the plugin. ``previous``: the plan that these followed."""
        self.reread()
        destinations = DestinationMap(previous)
        for pod in self._pods.values():
            pod.entries = destinations.of(pod.record.group)

    def reread(self) -> None:
        """Read the records that the plugin has written or removed while this agent did not answer."""
        stamp = attachments.stamp(self._run_dir)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        found, troubles = attachments.load_all(self._run_dir)
        self._unreadable = [Problem(str(self._run_dir / "attachments"), "", trouble) for trouble in troubles]
        before, self._pods = self._pods, {}
        for record in found:
            pod = before.get(record.key) or Pod(record)
            if pod.record != record:
                pod.record, pod.tag = record, None
            self._pods[record.key] = pod

    @contextlib.contextmanager
    def starting(self, key: Key) -> Iterator[None]:
        """Mark the pod, within the context, as one whose ADD has no answer yet: it has no connections."""
        self._starting.add(key)
        try:
            yield
        finally:
            self._starting.discard(key)

    def register(self, record: Attachment) -> bool:
        """Register the attachment of an ADD, without a tag. Return True if another pod had its interface before.

        Raises OSError if the disk does not take the record.
        """
        before = self._pods.get(record.key)
        attachments.write(self._run_dir, record)
        displaced = self.displace(record)
        # A new pod has a new interface, whose group is the default.
        self._pods[record.key] = Pod(record, tag=None if before or displaced else 0)
        return before is None or before.record.host_interface != record.host_interface

    def add(self, record: Attachment) -> None:
        """Register a pod that ran before the plugin was installed. Raises OSError."""
        attachments.write(self._run_dir, record)
        self._pods[record.key] = Pod(record)

    def set_labels(self, key: Key, labels: Mapping[str, str], name: str) -> None:
        """Store the labels and the name from a container engine, unless the pod is gone. Raises OSError."""
        if pod := self._pods.get(key):
            self.change(pod, labels=labels, name=pod.record.name or name)

    def displace(self, record: Attachment) -> bool:
        """Remove all other records with a host-side interface of this one. Return True if there was one.

        An interface belongs to one pod. Some network plugins derive its name from the pod's namespace and name, so the
        next pod of that name has an interface of the same name.
        """
        own, found = set(record.host_interfaces), False
        for other in list(self.records.values()):
            # A pod with two networks has two records, and each may name the interfaces of both.
            if own & set(other.host_interfaces) and other.container_id != record.container_id:
                self.remove(other.key)
                found = True
        return found

    async def delete(self, key: Key) -> None:
        """Remove an attachment after its DEL, and its remaining connections."""
        pod = self._pods.get(key)
        self.remove(key)
        if pod is not None:
            self._deleted.append(pod.record)
            await self.forget_connections_of(pod.record)

    def take_deleted(self) -> list[Attachment]:
        """Return the records that DELs have removed since the last call of this method."""
        deleted, self._deleted = self._deleted, []
        return deleted

    def remove(self, key: Key) -> None:
        """Remove an attachment; a missing one is no error.

        The tag stays: it ends with the interface, and the pod's processes must not leak during the teardown.
        """
        attachments.remove(self._run_dir, *key)
        self._pods.pop(key, None)
        self.unknown.pop(key, None)

    def write_again(self) -> None:
        """Write all records: another program has emptied the run directory. Raises OSError."""
        for record in self.records.values():
            attachments.write(self._run_dir, record)

    def change(self, pod: Pod, **fields: Any) -> None:
        """Change fields of a record, on disk first. Raises OSError."""
        record = replace(pod.record, **fields)
        if record != pod.record:
            attachments.write(self._run_dir, record)
            pod.record = record

    # --- what others ask ---------------------------------------------------------------------------------------

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return problems of unreadable records, of network namespaces that are not visible, and of refused starts."""
        unseen = unlabelled_pods.unseen(self.records.values())
        return *self._unreadable, *unseen, *self.refusals.problems(time.monotonic())

    def interfaces(self) -> frozenset[str]:
        """Return the host-side interfaces of all pods."""
        return frozenset(name for pod in self._pods.values() for name in pod.record.host_interfaces)

    def carried(self) -> frozenset[str]:
        """Return the ids of the egress IPs that pods use."""
        return frozenset(identity for pod in self._pods.values() for _, identity, _ in pod.entries)

    def selected(self) -> dict[str, list[str]]:
        """Return the host-side interfaces of each pod of this node that policies select, by its name."""
        found: dict[str, list[str]] = {}
        for record in self.records.values():
            if record.group:
                found.setdefault(f"{record.namespace}/{record.name}", []).extend(record.host_interfaces)
        return found

    def of_all(self) -> Callable[[Inventory], tuple[PodIdentity, ...]]:
        """Return a function from an inventory to the identities of the pods that are on this node now."""
        records = tuple(self.records.values())
        return lambda inventory: tuple(identity(record, inventory) for record in records)

    async def forget_connections_of(self, record: Attachment) -> None:
        """Delete the remaining connections of a pod's addresses, which keep the path of the previous pod.

        An address that another pod of this node has at the same time, in another network, keeps its connections. A
        failure is only logged: the guards drop packets of such a connection, and no start or end of a pod should fail
        for it.
        """
        for address in record.addresses:
            others = [r for r in self.records.values() if r.key != record.key and address in r.addresses]
            # For a pod without a DEL, only the record is left.
            if not any([await self._kernel.tag_of(other.host_interface) is not None for other in others]):
                try:
                    await self._kernel.forget_pod(address)
                except KernelError as error:
                    log.error("%s/%s: %s", record.namespace, record.name, error)
