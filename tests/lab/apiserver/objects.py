"""The objects of a cluster, their versions and their history: what etcd and the watch cache are to a real server."""

from __future__ import annotations

import bisect
import copy
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .origin import Object, Refused
from .schema import Schema, admit

Key = tuple[str, str]

_SET = re.compile(r"(\S+) (in|notin) \((.*)\)")
_COMMA = re.compile(r",(?![^(]*\))")
"""Comma between terms, not between the values of a set."""


@dataclass(frozen=True)
class Kind:
    """A resource that the server has."""

    group_version: str
    plural: str
    kind: str
    namespaced: bool = False
    status: bool = False
    """True if the resource has a status subresource: only it changes the status, and it changes nothing else."""

    @property
    def group(self) -> str:
        return self.group_version.partition("/")[0] if "/" in self.group_version else ""


CUSTOM = ("egress-gateway.io", "network.deckhouse.io")
"""Groups of custom resources."""
KINDS = (
    Kind("v1", "nodes", "Node", status=True),
    Kind("v1", "namespaces", "Namespace", status=True),
    Kind("v1", "pods", "Pod", namespaced=True, status=True),
    Kind("v1", "events", "Event", namespaced=True),
    Kind("v1", "configmaps", "ConfigMap", namespaced=True),
    Kind("v1", "secrets", "Secret", namespaced=True),
    Kind("v1", "serviceaccounts", "ServiceAccount", namespaced=True),
    Kind("apps/v1", "daemonsets", "DaemonSet", namespaced=True, status=True),
    Kind("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole"),
    Kind("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding"),
    Kind("rbac.authorization.k8s.io/v1", "roles", "Role", namespaced=True),
    Kind("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding", namespaced=True),
    Kind("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", status=True),
    Kind("coordination.k8s.io/v1", "leases", "Lease", namespaced=True),
    Kind("networking.k8s.io/v1", "servicecidrs", "ServiceCIDR", status=True),
    *(
        Kind(f"{group}/v1alpha1", plural, kind, status=True)
        for group in CUSTOM
        for plural, kind in (
            ("egressgateways", "EgressGateway"),
            ("egressgatewaypolicies", "EgressGatewayPolicy"),
        )
    ),
)


@dataclass(frozen=True)
class Change:
    version: int
    type: str
    item: Object
    before: Object | None


@dataclass
class Collection:
    """All objects of one kind."""

    kind: Kind
    objects: dict[Key, Object] = field(default_factory=dict)
    history: list[Change] = field(default_factory=list)
    compacted: int = 0
    """Version up to which all versions are forgotten."""

    def since(self, version: int) -> list[Change]:
        """Return the changes after a version, in their order."""
        return self.history[bisect.bisect_right(self.history, version, key=lambda change: change.version) :]


class Objects:
    """``changed`` is called after each change. ``schemas``: of custom resources of our group, by plural name."""

    def __init__(
        self, changed: Callable[[], None] = lambda: None, schemas: Mapping[str, Schema] | None = None
    ) -> None:
        self.version = 1
        self._schemas = schemas or {}
        self.collections = {(kind.group_version, kind.plural): Collection(kind) for kind in KINDS}
        self._changed = changed
        self.create(self.collections["v1", "namespaces"], "", {"metadata": {"name": "default"}})

    def create(self, collection: Collection, namespace: str, given: Mapping[str, Any]) -> Object:
        item = copy.deepcopy(dict(given))
        metadata = item.setdefault("metadata", {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = f"{metadata['generateName']}{uuid.uuid4().hex[:5]}"
        if collection.kind.namespaced:
            metadata["namespace"] = namespace
            if ("", namespace) not in self.collections["v1", "namespaces"].objects:
                raise Refused(404, "NotFound", f'namespaces "{namespace}" not found')
        key = self._key(collection, namespace, str(metadata.get("name") or ""))
        if key in collection.objects:
            raise Refused(409, "AlreadyExists", f'{collection.kind.plural} "{key[1]}" already exists')
        item.update(apiVersion=collection.kind.group_version, kind=collection.kind.kind)
        metadata["uid"] = str(uuid.uuid4())
        metadata["generation"] = 1
        metadata["creationTimestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        # A kubelet registers its node with its status.
        if collection.kind.status and collection.kind.kind != "Node":
            item.pop("status", None)
        return self._store(collection, key, item, "ADDED")

    def get(self, collection: Collection, namespace: str, name: str) -> Object:
        found = collection.objects.get(self._key(collection, namespace, name))
        if found is None:
            raise Refused(404, "NotFound", f'{collection.kind.plural} "{name}" not found')
        return found

    def replace(
        self,
        collection: Collection,
        namespace: str,
        name: str,
        given: Mapping[str, Any],
        subresource: str = "",
    ) -> Object:
        """As ``PUT`` does. A ``resourceVersion`` that is given must be the stored one."""
        before = self.get(collection, namespace, name)
        wanted = (given.get("metadata") or {}).get("resourceVersion")
        if not wanted and collection.kind.group in CUSTOM:
            raise Refused(422, "Invalid", "metadata.resourceVersion: must be specified for an update")
        if wanted and wanted != before["metadata"]["resourceVersion"]:
            raise Refused(
                409,
                "Conflict",
                f'"{name}": the object has been modified; please apply your changes to the latest version',
            )
        item = copy.deepcopy(dict(given))
        kept = {n: before["metadata"][n] for n in ("uid", "creationTimestamp", "generation", "name")}
        if subresource == "status":
            item = {**copy.deepcopy(before), "status": item.get("status")}
        elif collection.kind.status:
            item.pop("status", None)
            if "status" in before:
                item["status"] = before["status"]
        item["metadata"] = {**(item.get("metadata") or {}), **kept}
        item["metadata"].pop("resourceVersion", None)
        if collection.kind.namespaced:
            item["metadata"]["namespace"] = namespace
        item.update(apiVersion=collection.kind.group_version, kind=collection.kind.kind)
        if collection.kind.kind == "Pod" and _node_of(item) != _node_of(before):
            raise Refused(
                422, "Invalid", f'Pod "{name}" is invalid: spec: Forbidden: pod updates may not change it'
            )
        if item.get("spec") != before.get("spec"):
            item["metadata"]["generation"] += 1
        stored = {**before, "metadata": {**before["metadata"]}}
        stored["metadata"].pop("resourceVersion")
        if item == stored:
            return before
        return self._store(collection, self._key(collection, namespace, name), item, "MODIFIED")

    def merge(
        self,
        collection: Collection,
        namespace: str,
        name: str,
        patch: Mapping[str, Any],
        subresource: str = "",
        strategic: bool = False,
    ) -> Object:
        """Apply a merge patch (``application/merge-patch+json``, RFC 7386), or a ``strategic`` merge patch."""
        if strategic and collection.kind.group in CUSTOM:
            raise Refused(415, "UnsupportedMediaType", "custom resources take no strategic merge patch")
        merged = merge_patch(self.get(collection, namespace, name), patch, LISTS if strategic else {})
        return self.replace(collection, namespace, name, merged, subresource)

    def bind(self, collection: Collection, namespace: str, name: str, node: str) -> Object:
        """As a scheduler does: from now on the pod is this node's."""
        before = self.get(collection, namespace, name)
        if _node_of(before):
            raise Refused(409, "Conflict", f'pod {name} is already assigned to node "{_node_of(before)}"')
        bound = merge_patch(before, {"spec": {"nodeName": node}})
        return self._store(collection, self._key(collection, namespace, name), bound, "MODIFIED")

    def delete(self, collection: Collection, namespace: str, name: str) -> Object:
        item = copy.deepcopy(self.get(collection, namespace, name))
        key = self._key(collection, namespace, name)
        before = collection.objects.pop(key)
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        collection.history.append(Change(self.version, "DELETED", item, before))
        self._changed()
        if collection.kind.kind == "Namespace":
            self._empty(name)
        return item

    def _empty(self, namespace: str) -> None:
        """Delete what is in a namespace, as the controller of namespaces does, but at once."""
        for collection in self.collections.values():
            for inside, name in [key for key in collection.objects if key[0] == namespace != ""]:
                self.delete(collection, inside, name)

    def compact(self) -> None:
        """Forgets all history: older lists and watches have expired."""
        for collection in self.collections.values():
            collection.history.clear()
            collection.compacted = self.version

    def _store(self, collection: Collection, key: Key, item: Object, change: str) -> Object:
        if collection.kind.group in CUSTOM and collection.kind.plural in self._schemas:
            item, problems = admit(self._schemas[collection.kind.plural], item)
            if problems:
                raise Refused(
                    422, "Invalid", f'{collection.kind.kind} "{key[1]}" is invalid: {"; ".join(problems)}'
                )
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        before = collection.objects.get(key)
        collection.objects[key] = item
        collection.history.append(Change(self.version, change, item, before))
        self._changed()
        return item

    @staticmethod
    def _key(collection: Collection, namespace: str, name: str) -> Key:
        if not name:
            raise Refused(422, "Invalid", "metadata.name: Required value: name or generateName is required")
        return (namespace if collection.kind.namespaced else "", name)


def _node_of(pod: Object) -> str:
    return str((pod.get("spec") or {}).get("nodeName") or "")


LISTS = {"conditions": "type", "addresses": "type"}
"""Lists whose items a strategic merge patch merges by a key. A list of taints is none of them."""


def merge_patch(target: Any, patch: Any, lists: Mapping[str, str] | None = None) -> Any:
    """RFC 7386. ``lists``: by their names, the keys of the lists whose items are merged."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = copy.deepcopy(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif lists and name in lists:
            items = {item[lists[name]]: item for item in result.get(name) or ()}
            new = {item[lists[name]]: item for item in value}
            result[name] = [
                merge_patch(items.get(key), new.get(key, items.get(key))) for key in {**items, **new}
            ]
        else:
            result[name] = merge_patch(result.get(name), value, lists)
    return result


def selected(item: Mapping[str, Any], fields: str, labels: str) -> bool:
    """Whether a field selector (``=`` and ``!=``) and a label selector (those, sets, and existence) let it through."""
    found = (item.get("metadata") or {}).get("labels") or {}
    return all(
        _holds(term, lambda path: _field(item, path)) for term in filter(None, fields.split(","))
    ) and all(_holds(term, found.get) for term in filter(None, _COMMA.split(labels)))


def _holds(term: str, value: Callable[[str], Any]) -> bool:
    if of_set := _SET.fullmatch(term):
        name, operator, values = of_set.groups()
        return (value(name) in values.split(",")) is (operator == "in")
    for sign, equal in (("!=", False), ("==", True), ("=", True)):
        name, found, wanted = term.partition(sign)
        if found:
            return ((value(name) or "") == wanted) is equal
    return (value(term.lstrip("!")) is None) is term.startswith("!")


def _field(item: Any, path: str) -> Any:
    for name in path.split("."):
        item = item.get(name) if isinstance(item, dict) else None
    return item
