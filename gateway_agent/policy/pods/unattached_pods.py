"""Find pods that started before the plugin was installed: the store knows them, no CNI call does."""

from __future__ import annotations

from collections.abc import Iterable

from cni.attachments import Attachment

from ...manifests.model import Inventory, Problem, RunningPod

PREFIX = "adopted-"
"""Prefix of the container id in the record of such a pod, whose real id is unknown."""
INTERFACE = "eth0"
"""Assumed name of the interface in the pod. No decision depends on it."""


def unknown(inventory: Inventory, records: Iterable[Attachment]) -> tuple[RunningPod, ...]:
    """Return the pods of this node without an attachment record."""
    known = {(record.namespace, record.name, record.uid) for record in records}
    return tuple(
        pod
        for pod in inventory.running
        if known.isdisjoint((pod.namespace, pod.name, uid) for uid in (pod.uid, ""))
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
