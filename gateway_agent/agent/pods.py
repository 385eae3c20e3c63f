"""The pods of this node: what the CNI calls told of them, and the tags on their interfaces."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from cni import attachments
from cni.attachments import Attachment
from cni.kernel import ids
from cni.kernel.errors import KernelError
from cni.plan import Plan, PlanPolicy, PodIdentity

from ..adapters.kernel import Kernel
from ..manifests.model import Inventory, Problem
from ..policy import planner, unlabelled_pods
from ..policy.selection import Selection
from ..policy.unlabelled_pods import Refusals
from .destinations import NO_ENTRIES, DestinationMap, ForwardingEntries, changed_path

log = logging.getLogger(__name__)
Key = tuple[str, str]
"""Container id and interface name."""


class Pods:
    """Attachments by container and interface. The files are the truth that outlives this process."""

    def __init__(self, run_dir: Path, kernel: Kernel) -> None:
        self.run_dir = run_dir
        self.kernel = kernel
        self._unreadable: list[Problem] = []
        self._unsteered: dict[Key, Problem] = {}
        self.refusals = Refusals()
        self.starting: set[Key] = set()
        """The pods whose ADD has not been answered yet."""
        self.unknown: dict[Key, str] = {}
        """Why the labels of a pod are unknown, as far as its container engine says."""
        self.records: dict[Key, Attachment] = {}
        self._stamp = -1
        self._plan: Plan | None = None
        """By which the tags were set last."""
        self._derived: tuple[Plan, Selection, DestinationMap] | None = None
        self._leading: dict[Key, ForwardingEntries] = {}
        self._stale: dict[str, tuple[ForwardingEntries, ForwardingEntries]] = {}
        """By a pod's address by which ways it went, and goes: connections of other ways are to be forgotten."""

    def adopt(self, previous: Plan | None) -> None:
        """Reads what earlier processes and the plugin alone have left, and by which ways those pods went."""
        self.reread()
        self._plan = previous
        ways = DestinationMap(previous)
        self._leading = {key: ways.of(record.group) for key, record in self.records.items()}

    def reread(self) -> None:
        """Takes up what the plugin alone has written or removed while this agent did not answer."""
        stamp = attachments.stamp(self.run_dir)
        if stamp != self._stamp:
            self._stamp = stamp
            self.records = {record.key: record for record in self._load()}

    def _load(self) -> tuple[Attachment, ...]:
        found, troubles = attachments.load_all(self.run_dir)
        self._unreadable = [Problem(str(self.run_dir / "attachments"), "", trouble) for trouble in troubles]
        return found

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Records that cannot be read, pods that no tag can steer, and pods of which too little is known."""
        unseen = unlabelled_pods.unseen(self.records.values())
        return *self._unreadable, *unseen, *self._untagged(), *self.refusals.problems(time.monotonic())

    def _untagged(self) -> list[Problem]:
        """Return the problems of pods that run: not of those whose start may still be refused."""
        left = self.records.keys() - self.starting
        return [problem for key, problem in self._unsteered.items() if key in left]

    def put(self, record: Attachment, plan: Plan | None = None) -> None:
        """Keeps a record, on disk first. ``plan``: the one that its tag was just set by, where it was.

        Raises OSError where the disk does not take it.
        """
        attachments.write(self.run_dir, record)
        self.records[record.key] = record
        if plan is not None:
            self._leading[record.key] = self._of(plan)[1].of(record.group)

    def displace(self, record: Attachment) -> None:
        """Forgets all others with the host-side interface of this record: it has one pod, and this is known to be it.
        Some network plugins name it by namespace and name, so the next pod of that name gets it again."""
        own = set(record.host_interfaces)
        for other in list(self.records.values()):
            # A pod with two networks has two records, and each may name the interfaces of both.
            if own & set(other.host_interfaces) and other.container_id != record.container_id:
                self.remove(other.key)

    def remove(self, key: Key) -> None:
        """Forgets an attachment; one that is not there is no error. The tag stays: it dies with the interface,
        and what still runs in the pod must not leak while it is being taken down."""
        attachments.remove(self.run_dir, *key)
        self.records.pop(key, None)
        self.unknown.pop(key, None)
        self._leading.pop(key, None)

    async def forget_connections_of(self, record: Attachment) -> None:
        """Delete what is left of the connections of a pod's addresses: they keep the path of the pod before.

        An address that another pod of this node has at the same time, in another network, keeps them. What cannot be
        deleted is logged: the guards drop what it would lead another way, and no pod's start or end fails for it.
        """
        for address in record.addresses:
            others = [r for r in self.records.values() if r.key != record.key and address in r.addresses]
            # Of a pod whose DEL never came, only the record is left.
            if not any([await self.kernel.tag_of(other.host_interface) is not None for other in others]):
                try:
                    await self.kernel.forget_pod(address)
                except KernelError as error:
                    log.error("%s/%s: %s", record.namespace, record.name, error)

    def interfaces(self) -> frozenset[str]:
        """The host-side interfaces of all pods."""
        return frozenset(name for record in self.records.values() for name in record.host_interfaces)

    def carried(self) -> frozenset[str]:
        """The ids of the egress IPs that pods go by."""
        return frozenset(identity for leading in self._leading.values() for _, identity, _ in leading)

    def selected(self) -> dict[str, list[str]]:
        """Return the host-side interfaces of each pod of this node that policies select, by its name."""
        found: dict[str, list[str]] = {}
        for record in self.records.values():
            if record.group:
                found.setdefault(f"{record.namespace}/{record.name}", []).extend(record.host_interfaces)
        return found

    def of_all(self) -> Callable[[Inventory], tuple[PodIdentity, ...]]:
        """Return what gives the pods that are on this node now, as the store of an inventory knows them."""
        records = tuple(self.records.values())
        return lambda inventory: tuple(identity(record, inventory) for record in records)

    async def retag(self, plan: Plan, inventory: Inventory) -> None:
        """Brings every interface's tag to what the plan says; touches none that is right.

        Raises :class:`KernelError` where an interface that is there could not be tagged, after all others.
        """
        tags = await self.kernel.tagged()
        selection, ways = self._of(plan)
        before, self._plan = self._plan, plan
        failed: KernelError | None = None
        self._unsteered = {}
        for key, record in list(self.records.items()):
            if self.records.get(key) is not record:
                # A call has come in between; what it says is newer.
                continue
            pod = identity(record, inventory)
            group = selection.group_for(pod)
            if inventory.knows_pods and pod.labels != record.labels:
                # A pod that the store forgets before its interface is gone keeps what it was.
                record = replace(record, labels=pod.labels)
                self.put(record)
            if selection.policies_for(pod) is None:
                group = kept_group(record.group, before, plan)
                if not inventory.knows_pods:
                    why = self.unknown.get(key, "")
                    self._unsteered[key] = unlabelled_pods.running(
                        record, uncertain(plan.policies, inventory, pod), why
                    )
            if not record.host_interface:
                if group:
                    self._unsteered[key] = _unsteered(record)
                continue
            left, error = await self._tag(record, tags, group)
            failed = error or failed
            if error is not None or self.records.get(key) is not record:
                continue
            if not left:
                self.remove(key)
                continue
            if record.group != group or record.host_interfaces != left:
                record = replace(record, group=group, host_interface=left[0], other_interfaces=left[1:])
                self.put(record)
            self._leads(record, ways.of(group))
        await self._forget_stale()
        if failed is not None:
            raise failed

    async def _tag(
        self, record: Attachment, tags: Mapping[str, int], group: int
    ) -> tuple[tuple[str, ...], KernelError | None]:
        """Tag the pod's interfaces that have another group. Return those that are there, and the last refusal."""
        left, failed = list(record.host_interfaces), None
        for interface in record.host_interfaces:
            if tags.get(interface, 0) == group:
                continue
            try:
                await self.kernel.tag(interface, group)
            except KernelError as error:
                if await self.kernel.tag_of(interface) is None:
                    log.info("%s/%s: its interface %s is gone", record.namespace, record.name, interface)
                    left.remove(interface)
                else:
                    failed = error
                continue
            log.info(
                "%s/%s: %s has tag %d",
                record.namespace,
                record.name,
                interface,
                group and group - ids.GROUP_BASE,
            )
        return tuple(left), failed

    def _of(self, plan: Plan) -> tuple[Selection, DestinationMap]:
        """What is worked out of a plan; most rounds have the one before."""
        if self._derived is None or self._derived[0] is not plan:
            self._derived = plan, Selection(plan), DestinationMap(plan)
        return self._derived[1:]

    def _leads(self, record: Attachment, leading: ForwardingEntries) -> None:
        """The pod goes by these ways now. A connection keeps the source address of its first packet, so what would now
        go another way is dropped by the guards. TCP learns it by a reset; of the rest the kernel must forget the
        connections."""
        before = self._leading.get(record.key, NO_ENTRIES)
        self._leading[record.key] = leading
        if before != leading:
            for address in record.addresses:
                first, _ = self._stale.get(address, (before, leading))
                self._stale[address] = first, leading

    async def _forget_stale(self) -> None:
        """Raises KernelError; the next round tries again."""
        stale, self._stale = self._stale, {}
        if not stale:
            return
        try:
            await self.kernel.forget_connections(
                {source: changed_path(*ways) for source, ways in stale.items()}
            )
        except KernelError:
            self._stale = {**stale, **self._stale}
            raise


def selecting(policies: Iterable[PlanPolicy], inventory: Inventory, pod: PodIdentity) -> tuple[str, ...]:
    """Return the names of those of the policies that select the pod, or may select it if its labels are unknown."""
    labels = inventory.namespaces.get(pod.namespace)
    return tuple(policy.name for policy in policies if policy.selects(pod, labels) is not False)


def uncertain(policies: Iterable[PlanPolicy], inventory: Inventory, pod: PodIdentity) -> tuple[str, ...]:
    """Return the names of those of the policies of which it hangs on unknown labels whether they select the pod."""
    labels = inventory.namespaces.get(pod.namespace)
    return tuple(policy.name for policy in policies if policy.selects(pod, labels) is None)


def kept_group(group: int, before: Plan | None, plan: Plan) -> int:
    """Return the group by which a pod keeps its policy set in another plan; blocked if that plan does not have the set.

    For a pod whose labels are unknown: it must not go its own way because a policy has come or changed.
    """
    if not group:
        return 0
    key = next((s.key for s in (before.policy_sets if before else ()) if s.group == group), None)
    return next((s.group for s in plan.policy_sets if s.key == key), ids.GROUP_BLOCKED)


def same_for(pod: PodIdentity, one: Inventory, other: Inventory) -> bool:
    """Return True if two inventories ask for the same for this pod, whatever they say of others."""
    if one.same_but_for_pods(other):
        return True
    if (one.gateways, one.nodes, one.service_cidrs) != (other.gateways, other.nodes, other.service_cidrs):
        return False
    mine, theirs = (
        [inventory.policies_by_name[name] for name in selecting(planner.policies(inventory), inventory, pod)]
        for inventory in (one, other)
    )
    return mine == theirs


def identity(record: Attachment, inventory: Inventory) -> PodIdentity:
    """The pod as the store knows it, else as its CNI call did."""
    return planner.identify(inventory, record.namespace, record.name, record.labels, record.uid)


def group_for(plan: Plan, pod: PodIdentity) -> int:
    """See :meth:`gateway_agent.policy.selection.Selection.group_for`: for one pod."""
    return Selection(plan).group_for(pod)


def _unsteered(record: Attachment) -> Problem:
    """It started when no policy selected it: an ADD would have been refused."""
    message = "a policy selects it now, but it has no host-side veth: it leaves by its own way"
    return Problem(
        f"pod {record.namespace}/{record.name}", "", message, "let no policy select it, or remove it"
    )
