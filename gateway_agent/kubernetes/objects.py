"""Define the kinds that are read from a Kubernetes cluster, their API paths, and the inventory built from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..lease.voting import recorded_voter_set
from ..manifests import parsing, typed_objects
from ..manifests.model import DRAIN, SHUTTING_DOWN, Inventory, Problem, RunningPod
from ..manifests.parsing import FileContent
from . import node_marks, voter_configmap
from .reflector import Key, Object, key_of, version_of

VERSION = "v1alpha1"
VOTERS = "ConfigMap"
"""Kind of the object in :mod:`gateway_agent.kubernetes.voter_configmap`."""
STATIC = "kubernetes.io/config.mirror"
"""Annotation of a static pod's mirror pod: the uid that the runtime got. The API lets only kubelets set it."""
ANNOTATIONS = {STATIC, DRAIN}
METADATA = ("name", "namespace", "labels", "uid", "resourceVersion", "creationTimestamp", "generation")
"""Metadata that is kept: ``managedFields`` and annotations are larger than all the rest."""
FIELDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Node": {"spec": ("podCIDRs", "unschedulable", "taints"), "status": ("addresses",)},
    "Namespace": {},
    "Pod": {"spec": ("hostNetwork",), "status": ("podIPs", "phase")},
    "ServiceCIDR": {"spec": ("cidrs",)},
    VOTERS: {"data": ("version", "members")},
}
"""Fields that are kept of foreign kinds, beside the metadata. A node's status, for one, lists all its images."""
ENDED = ("Succeeded", "Failed")
"""Phases of a pod that has no interface any more."""


@dataclass(frozen=True)
class Resource:
    """A watched kind of objects, limited by ``selector`` and, if it is not empty, to one ``namespace``."""

    kind: str
    api_version: str
    plural: str
    selector: str = ""
    """A field selector."""
    namespace: str = ""
    optional: bool = False
    """True if the agent can do without the kind: a server may lack it or refuse access."""

    @property
    def path(self) -> str:
        """Return the path of the watched list."""
        return self.path_in(self.namespace)

    def path_in(self, namespace: str) -> str:
        """Return the path of the list in one namespace; in all namespaces if ``namespace`` is empty."""
        root = "api" if "/" not in self.api_version else "apis"
        scope = f"namespaces/{namespace}/" if namespace else ""
        return f"/{root}/{self.api_version}/{scope}{self.plural}"

    def path_of(self, namespace: str, name: str) -> str:
        """Return the path of one object."""
        return f"{self.path_in(namespace)}/{name}"


def resources(group: str, node: str, namespace: str) -> tuple[Resource, ...]:
    """Return the kinds that an agent watches.

    ``group``: API group of our kinds. ``node``: only its pods are watched. ``namespace``: of the agent's own objects.
    """
    return (
        Resource("EgressGateway", f"{group}/{VERSION}", "egressgateways"),
        Resource("EgressGatewayPolicy", f"{group}/{VERSION}", "egressgatewaypolicies"),
        Resource("Node", "v1", "nodes"),
        Resource("Namespace", "v1", "namespaces"),
        Resource("Pod", "v1", "pods", f"spec.nodeName={node}"),
        # Since Kubernetes 1.33.
        Resource("ServiceCIDR", "networking.k8s.io/v1", "servicecidrs", optional=True),
        Resource(
            VOTERS, "v1", "configmaps", f"metadata.name={recorded_voter_set.NAME}", namespace, optional=True
        ),
    )


def prune(resource: Resource, item: Mapping[str, Any]) -> Object:
    """Return the used parts of an object, with ``apiVersion`` and ``kind``, which items of a list lack."""
    metadata = item.get("metadata")
    kept: dict[str, Any] = {"apiVersion": resource.api_version, "kind": resource.kind}
    if isinstance(metadata, dict):
        kept["metadata"] = {name: metadata[name] for name in METADATA if name in metadata}
        annotations = metadata.get("annotations")
        if isinstance(annotations, dict) and (used := ANNOTATIONS & annotations.keys()):
            kept["metadata"]["annotations"] = {name: annotations[name] for name in sorted(used)}
    wanted = FIELDS.get(resource.kind)
    if wanted is None:
        return {**{name: value for name, value in item.items() if name != "metadata"}, **kept}
    for name, fields in wanted.items():
        value = item.get(name)
        if isinstance(value, dict):
            kept[name] = {field: value[field] for field in fields if field in value}
    if resource.kind == "Node":
        # No other part of the conditions is kept: a kubelet rewrites them every few minutes.
        conditions = _mapping(item.get("status")).get("conditions")
        found = conditions if isinstance(conditions, list) else []
        shown = [
            each for each in found if isinstance(each, dict) and each.get("type") == node_marks.CONDITION
        ]
        if typed_objects.is_stopping(found):
            shown.append({"type": "Ready", "message": SHUTTING_DOWN})
        if shown:
            kept["status"]["conditions"] = shown
    return kept


class InventoryBuilder:
    """The builder of inventories. An object that has become invalid keeps its last good state."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Key], tuple[Object, FileContent]] = {}

    def inventory(self, objects: Iterable[Object], problems: Iterable[Problem] = ()) -> Inventory:
        """Return the inventory of exactly these objects. Objects unchanged since the last call are not parsed again."""
        known: dict[tuple[str, Key], tuple[Object, FileContent]] = {}
        for item in objects:
            identity = (str(item.get("kind") or ""), key_of(item))
            before = self._known.get(identity)
            known[identity] = (
                before if before is not None and before[0] == item else (item, _content(item, before))
            )
        self._known = known
        contents = {f"{kind} {'/'.join(filter(None, key))}": known[kind, key][1] for kind, key in known}
        found = [*problems]
        running, pods = _pods(known, found)
        voters = next(
            (voter_configmap.read(item) for (kind, _), (item, _) in known.items() if kind == VOTERS), None
        )
        inventory = replace(
            parsing.assemble(contents), knows_pods=True, running=running, uids=pods, voters=voters
        )
        return parsing.with_problems(inventory, found)


def _pods(
    known: Mapping[tuple[str, Key], tuple[Object, FileContent]], problems: list[Problem]
) -> tuple[tuple[RunningPod, ...], dict[Key, str]]:
    """Return the pods that have addresses, and the uids of all pods.

    An unexpected exception becomes a problem of the pod, which is then known by its CNI call only.
    """
    running: list[RunningPod] = []
    uids: dict[Key, str] = {}
    for (kind, key), (item, _) in sorted(known.items(), key=lambda each: each[0]):
        if kind != "Pod":
            continue
        try:
            if uid := pod_uid(item):
                uids[key] = uid
            running += _running(item)
        except Exception as error:
            message = f"cannot be read: {type(error).__name__}: {error}"
            problems.append(Problem(f"Pod {'/'.join(filter(None, key))}", "", message))
    return tuple(running), uids


def _content(item: Object, before: tuple[Object, FileContent] | None) -> FileContent:
    kind, key = str(item.get("kind") or ""), key_of(item)
    content = parsing.parse_object(f"{kind} {'/'.join(filter(None, key))}", item)
    if content.broken and before is not None and _uid(before[0]) == _uid(item):
        return FileContent(before[1].objects, content.problems, broken=True)
    return content


def _running(item: Object) -> Iterator[RunningPod]:
    """Yield the pod if it is running with its own addresses."""
    if item.get("kind") != "Pod" or _mapping(item.get("spec")).get("hostNetwork"):
        return
    status = _mapping(item.get("status"))
    listed = status.get("podIPs")
    found = [_mapping(each).get("ip") for each in listed] if isinstance(listed, list) else []
    addresses = tuple(str(address) for address in found if address)
    if addresses and status.get("phase") not in ENDED:
        namespace, name = key_of(item)
        yield RunningPod(namespace, name, pod_uid(item), addresses)


def pod_uid(item: Object) -> str:
    """Return the uid of a pod as its runtime, and so its CNI call, know it; empty if the API does not have it."""
    annotations = _mapping(_mapping(item.get("metadata")).get("annotations"))
    return str(annotations.get(STATIC) or _uid(item))


def _uid(item: Object) -> str:
    return str(_mapping(item.get("metadata")).get("uid") or "")


def _mapping(value: Any) -> Mapping[str, Any]:
    """Return ``value`` if it is a mapping, else an empty one: a file on disk may hold anything."""
    return value if isinstance(value, dict) else {}


def missing(known: Mapping[Key, Object], listed: Iterable[Object]) -> list[Key]:
    """Return the listed objects that are not known in the listed version or a later one.

    Versions of one kind grow, and versions of two clusters are never compared. A version that is no number (no known
    server has such versions) can only be compared for equality.
    """
    found = []
    for item in listed:
        ours, theirs = version_of(known.get(key_of(item))), version_of(item)
        numbers = ours.isdecimal() and theirs.isdecimal()
        if (int(ours) < int(theirs)) if numbers else (ours != theirs):
            found.append(key_of(item))
    return found


@dataclass(frozen=True)
class Names:
    """Metadata of all objects that a kind had at one ``version`` of the collection."""

    items: tuple[Object, ...] = ()
    version: str = ""

    def late(self, known: Mapping[Key, Object]) -> list[Key]:
        """Return the objects whose creation, change or deletion up to this version is not known."""
        return missing(known, self.items) + self._deleted(known)

    def _deleted(self, known: Mapping[Key, Object]) -> list[Key]:
        """Return the known objects that were deleted. A newer one was made after this list.

        Versions that are no numbers have no order, so deletions are not found.
        """
        if not self.version.isdecimal():
            return []
        listed, newest = {key_of(item) for item in self.items}, int(self.version)
        return [
            key
            for key, item in known.items()
            if key not in listed and version_of(item).isdecimal() and int(version_of(item)) <= newest
        ]
