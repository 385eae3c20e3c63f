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
    """The group that its interfaces have; None: not known. Writer after the registration: ``tagging``."""
    entries: ForwardingEntries = NO_ENTRIES
    """Forwarding entries for the pod's packets. Writer after the start of the agent: ``tagging``."""


class Pods:
    """The only writer of attachment records in the agent.

    The files are what outlives this process. They are small, and in memory if the run directory is: they are written
    in the event loop, so that memory and disk never differ for another task.
    """

    def __init__(self, run_dir: Path, kernel: Kernel) -> None:
        self.refusals = Refusals()
        self.unknown: dict[Key, str] = {}
        """Reasons why the labels of pods are unknown, as far as their container engines say."""
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
        """Read what earlier processes and the plugin alone have left. ``previous``: the plan that they followed."""
        self.reread()
        destinations = DestinationMap(previous)
        for pod in self._pods.values():
            pod.entries = destinations.of(pod.record.group)

    def reread(self) -> None:
        """Take in what the plugin alone has written or removed while this agent did not answer."""
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
        """Take the pod for one whose ADD has no answer yet: it has no connections, and may still be refused."""
        self._starting.add(key)
        try:
            yield
        finally:
            self._starting.discard(key)

    def register(self, record: Attachment) -> bool:
        """Take in the attachment of an ADD, without a tag. Return True if another pod had its interface before.

        Raises OSError if the disk does not take the record.
        """
        before = self._pods.get(record.key)
        attachments.write(self._run_dir, record)
        displaced = self.displace(record)
        # The interface of a pod that is new here is new, too.
        self._pods[record.key] = Pod(record, tag=None if before or displaced else 0)
        return before is None or before.record.host_interface != record.host_interface

    def add(self, record: Attachment) -> None:
        """Take in a pod that ran before the plugin was installed. Raises OSError."""
        attachments.write(self._run_dir, record)
        self._pods[record.key] = Pod(record)

    def set_labels(self, key: Key, labels: Mapping[str, str], name: str) -> None:
        """Keep the labels and the name that a container engine gives; not if the pod is gone. Raises OSError."""
        if pod := self._pods.get(key):
            self.change(pod, labels=labels, name=pod.record.name or name)

    def displace(self, record: Attachment) -> bool:
        """Remove all others with a host-side interface of this record, and return True if there was one.

        An interface has one pod. Some network plugins name it by namespace and name, so the next pod of that name gets
        the same name again.
        """
        own, found = set(record.host_interfaces), False
        for other in list(self.records.values()):
            # A pod with two networks has two records, and each may name the interfaces of both.
            if own & set(other.host_interfaces) and other.container_id != record.container_id:
                self.remove(other.key)
                found = True
        return found

    async def delete(self, key: Key) -> None:
        """Remove an attachment whose DEL came, and what is left of its connections."""
        pod = self._pods.get(key)
        self.remove(key)
        if pod is not None:
            self._deleted.append(pod.record)
            await self.forget_connections_of(pod.record)

    def take_deleted(self) -> list[Attachment]:
        """Return the records whose DEL came since the last call of this method."""
        deleted, self._deleted = self._deleted, []
        return deleted

    def remove(self, key: Key) -> None:
        """Remove an attachment; one that is not there is no error.

        The tag stays: it dies with the interface, and what still runs in the pod must not leak while it is being taken
        down.
        """
        attachments.remove(self._run_dir, *key)
        self._pods.pop(key, None)
        self.unknown.pop(key, None)

    def write_again(self) -> None:
        """Write all records: another program has emptied the run directory. Raises OSError."""
        for record in self.records.values():
            attachments.write(self._run_dir, record)

    def change(self, pod: Pod, **fields: Any) -> None:
        """Keep a record with these fields, on disk first. Raises OSError."""
        record = replace(pod.record, **fields)
        if record != pod.record:
            attachments.write(self._run_dir, record)
            pod.record = record

    # --- what others ask ---------------------------------------------------------------------------------------

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return those of records that cannot be read, of namespaces that cannot be seen, and of refused starts."""
        unseen = unlabelled_pods.unseen(self.records.values())
        return *self._unreadable, *unseen, *self.refusals.problems(time.monotonic())

    def interfaces(self) -> frozenset[str]:
        """Return the host-side interfaces of all pods."""
        return frozenset(name for pod in self._pods.values() for name in pod.record.host_interfaces)

    def carried(self) -> frozenset[str]:
        """Return the ids of the egress IPs that packets of pods leave by."""
        return frozenset(identity for pod in self._pods.values() for _, identity, _ in pod.entries)

    def selected(self) -> dict[str, list[str]]:
        """Return the host-side interfaces of each pod of this node that policies select, by its name."""
        found: dict[str, list[str]] = {}
        for record in self.records.values():
            if record.group:
                found.setdefault(f"{record.namespace}/{record.name}", []).extend(record.host_interfaces)
        return found

    def of_all(self) -> Callable[[Inventory], tuple[PodIdentity, ...]]:
        """Return a function from an inventory to the pods that are on this node now, as the inventory knows them."""
        records = tuple(self.records.values())
        return lambda inventory: tuple(identity(record, inventory) for record in records)

    async def forget_connections_of(self, record: Attachment) -> None:
        """Delete what is left of the connections of a pod's addresses: they keep the path of the pod before.

        An address that another pod of this node has at the same time, in another network, keeps them. What cannot be
        deleted is logged: the guards drop what it would lead another way, and no pod's start or end fails for it.
        """
        for address in record.addresses:
            others = [r for r in self.records.values() if r.key != record.key and address in r.addresses]
            # Of a pod whose DEL never came, only the record is left.
            if not any([await self._kernel.tag_of(other.host_interface) is not None for other in others]):
                try:
                    await self._kernel.forget_pod(address)
                except KernelError as error:
                    log.error("%s/%s: %s", record.namespace, record.name, error)
