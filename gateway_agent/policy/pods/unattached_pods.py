"""Find pods that started before the plugin was installed: the store knows them, no CNI call does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cni.calls.attachments import Attachment

from ...manifests.model import Inventory, Problem, RunningPod

PREFIX = "adopted-"
"""Prefix of the container id in the record of such a pod, whose real id is unknown."""
INTERFACE = "eth0"
"""Assumed name of the interface in the pod. No decision depends on it."""


MARGIN_S = 60.0
"""Seconds from a pod's start within which its address is expected in the store."""
TEARDOWN_S = 30.0
"""Seconds after a DEL within which the pod's interface is removed, and the store learns that the pod is gone."""
MAX_LATEST = 100


@dataclass(frozen=True)
class StartedBeside:
    """A pod that started without a call of the plugin."""

    namespace: str
    name: str
    uid: str
    at: float
    """Time at which its interface was found: Unix time, seconds."""
    held: bool
    """True if the guard dropped the packets that the pod sent to the outside before that."""

    @property
    def text(self) -> str:
        """Return the pod and what may have happened to its packets."""
        what = f"pod {self.namespace}/{self.name} started beside the plugin: "
        if self.held:
            return f"{what}the guard held what it sent to the outside until it was found"
        return f"{what}the guard was not set all the time, packets may have left by the node's address"


@dataclass(frozen=True)
class BesideLog:
    """The pods that started beside the plugin since the agent has started."""

    held: int = 0
    """Number of pods whose packets cannot have left."""
    loose: int = 0
    """Number of the other pods."""
    latest: tuple[StartedBeside, ...] = ()
    """The last :data:`MAX_LATEST` pods, oldest first."""

    def plus(self, one: StartedBeside) -> BesideLog:
        """Return the log with one more pod."""
        added = replace(self, latest=(*self.latest, one)[-MAX_LATEST:])
        return replace(added, held=self.held + 1) if one.held else replace(added, loose=self.loose + 1)


def held(first_seen: float, guard_since: float) -> bool:
    """Return True if the guard was set already when a pod started that the store named at ``first_seen``.

    ``guard_since``: since when the guard is set without a gap, seconds of the same clock.
    """
    return first_seen - MARGIN_S >= guard_since


def unknown(inventory: Inventory, records: Iterable[Attachment]) -> tuple[RunningPod, ...]:
    """Return the pods of this node without an attachment record."""
    known = {(record.namespace, record.name, record.uid) for record in records}
    return tuple(
        pod
        for pod in inventory.running
        if known.isdisjoint((pod.namespace, pod.name, uid) for uid in (pod.uid, ""))
    )


def is_of(record: Attachment, pod: RunningPod) -> bool:
    """Return True if the record is of this pod with one of its present addresses."""
    return (
        (record.namespace, record.name) == (pod.namespace, pod.name)
        and record.uid in (pod.uid, "")
        and not set(record.addresses).isdisjoint(pod.addresses)
    )


def outlived(inventory: Inventory, records: Iterable[Attachment]) -> tuple[Attachment, ...]:
    """Return the records of adopted pods that are gone or have had a CNI call since. No DEL ever removes them."""
    kept = tuple(records)
    recorded = {(r.namespace, r.name, r.uid) for r in kept if not r.container_id.startswith(PREFIX)}
    running = {(pod.namespace, pod.name, pod.uid) for pod in inventory.running}
    return tuple(
        record
        for record in kept
        if record.container_id.startswith(PREFIX)
        and (
            (record.namespace, record.name, record.uid) not in running
            or any((record.namespace, record.name, uid) in recorded for uid in (record.uid, ""))
        )
    )


def current(inventory: Inventory, records: Iterable[Attachment]) -> tuple[Attachment, ...]:
    """Return, of the records that share one interface, those whose uid is the uid in the store."""
    by_interface: dict[str, list[Attachment]] = {}
    for record in records:
        if record.host_interface:
            by_interface.setdefault(record.host_interface, []).append(record)
    shared = (record for together in by_interface.values() if len(together) > 1 for record in together)
    return tuple(r for r in shared if r.uid and inventory.uids.get((r.namespace, r.name)) == r.uid)


def adopted(pod: RunningPod, host_interface: str) -> Attachment:
    """Return the attachment record of an adopted pod, without a tag; the next round sets the tag."""
    return Attachment(
        container_id=PREFIX + pod.uid,
        ifname=INTERFACE,
        netns="",
        host_interface=host_interface,
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        labels=None,
        addresses=pod.addresses,
        network=PREFIX,
    )


def problem(pod: RunningPod) -> Problem:
    """Return the problem of a pod without a veth that could be tagged."""
    addresses = ", ".join(pod.addresses)
    message = (
        f"was started before the plugin was installed, and no veth leads to {addresses}: it uses no gateway"
    )
    return Problem(
        f"pod {pod.namespace}/{pod.name}", "", message, "restart it, so that the plugin is called for it"
    )
