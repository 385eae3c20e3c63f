"""What a server says that it has, as kubectl asks before anything else.

https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api, without aggregation.
"""

from __future__ import annotations

from .objects import KINDS, Kind
from .origin import Object

_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


def discovery() -> dict[str, Object]:
    """Return the answers by path."""
    versions = list(dict.fromkeys(kind.group_version for kind in KINDS))
    groups = [_group(version) for version in versions if "/" in version]
    answers: dict[str, Object] = {
        "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
    }
    for version in versions:
        resources = [
            resource for kind in KINDS if kind.group_version == version for resource in _resources(kind)
        ]
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        answers[path] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
    return answers


def _group(group_version: str) -> Object:
    group, _, version = group_version.partition("/")
    named = {"groupVersion": group_version, "version": version}
    return {"name": group, "versions": [named], "preferredVersion": named}


def _resources(kind: Kind) -> list[Object]:
    resource = {
        "name": kind.plural, "singularName": kind.kind.lower(), "namespaced": kind.namespaced, "kind": kind.kind,
        "verbs": _VERBS,
    }  # fmt: skip
    status = {
        **resource,
        "name": f"{kind.plural}/status",
        "singularName": "",
        "verbs": ["get", "patch", "update"],
    }
    return [resource, status] if kind.status else [resource]
