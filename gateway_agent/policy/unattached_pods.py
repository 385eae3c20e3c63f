"""Pods that ran before the plugin was installed: no CNI call has told of them, the store does."""

from __future__ import annotations

from collections.abc import Iterable

from cni.attachments import Attachment

from ..manifests.model import Inventory, Problem, RunningPod

PREFIX = "adopted-"
"""Of the container id in the record of such a pod: nobody knows the real one."""
INTERFACE = "eth0"
"""In the pod. A guess; nothing hangs on it."""


def unknown(inventory: Inventory, records: Iterable[Attachment]) -> tuple[RunningPod, ...]:
    """The pods of this node that nothing is known of."""
    known = {(record.namespace, record.name, record.uid) for record in records}
    return tuple(
        pod
        for pod in inventory.running
        if known.isdisjoint((pod.namespace, pod.name, uid) for uid in (pod.uid, ""))
    )


def outlived(inventory: Inventory, records: Iterable[Attachment]) -> tuple[Attachment, ...]:
    """Records of adopted pods that are gone, or that a CNI call has told of since: no DEL ever comes for them."""
    kept = tuple(records)
    told = {(r.namespace, r.name, r.uid) for r in kept if not r.container_id.startswith(PREFIX)}
    running = {(pod.namespace, pod.name, pod.uid) for pod in inventory.running}
    return tuple(
        record
        for record in kept
        if record.container_id.startswith(PREFIX)
        and (
            (record.namespace, record.name, record.uid) not in running
            or any((record.namespace, record.name, uid) in told for uid in (record.uid, ""))
        )
    )


def current(inventory: Inventory, records: Iterable[Attachment]) -> tuple[Attachment, ...]:
    """Records of pods that the store knows by their uid, which share their interface with one that it does not."""
    by_interface: dict[str, list[Attachment]] = {}
    for record in records:
        if record.host_interface:
            by_interface.setdefault(record.host_interface, []).append(record)
    shared = (record for together in by_interface.values() if len(together) > 1 for record in together)
    return tuple(r for r in shared if r.uid and inventory.uids.get((r.namespace, r.name)) == r.uid)


def adopted(pod: RunningPod, host_interface: str) -> Attachment:
    """Its record, without a tag: the next round sets that."""
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
    """Nothing leads to it that could be tagged."""
    addresses = ", ".join(pod.addresses)
    message = f"runs since before the plugin, and no veth leads to {addresses}: it leaves by its own way"
    return Problem(f"pod {pod.namespace}/{pod.name}", "", message, "start it anew: the plugin then sees it")
