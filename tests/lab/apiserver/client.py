"""A cluster of the lab as its tests change it: by the API, over a unix socket that no failure of the lab cuts."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..documents import Document

_POD = {
    "containers": [{"name": "none", "image": "none"}],
    "automountServiceAccountToken": False,
    "terminationGracePeriodSeconds": 0,
}
"""Fields of a pod that the API requires and no test uses."""


class Cluster:
    """``socket`` is the server's."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._published: dict[str, dict[str, Document]] = {}

    def publish(self, name: str, content: Iterable[Document]) -> None:
        """Make these objects; those that ``name`` stood for before and that are not among them go."""
        wanted = {path_of(document): document for document in content}
        for path in self._published.get(name, {}).keys() - wanted.keys():
            self.delete(path)
        for document in wanted.values():
            self.apply(document)
        self._published[name] = wanted

    def apply(self, document: Document, options: str = "") -> Document:
        """Make the object, or brings it to this state. ``options``: as ``?dryRun=All``."""
        path = path_of(document)
        status, found = self.ask("GET", path)
        if status != http.client.OK:
            made = self.call("POST", path.rpartition("/")[0] + options, _complete(document))
        elif document["kind"] == "Pod":
            # What others have written into a pod, where it runs above all, stays.
            made = self.call("PATCH", path, {"metadata": document["metadata"]})
        else:
            made = self._replace(path, options, document, found)
        if document.get("status", made.get("status")) != made.get("status"):
            made = self.call("PATCH", f"{path}/status", {"status": document["status"]})
        return dict(made)

    def _replace(self, path: str, options: str, document: Document, found: Document) -> Document:
        """As ``kubectl apply`` does it: somebody may have written the status since the object was read."""
        while True:
            version = {"resourceVersion": found["metadata"]["resourceVersion"]}
            body = {**document, "metadata": {**document["metadata"], **version}}
            status, made = self.ask("PUT", path + options, body)
            if status != http.client.CONFLICT:
                return dict(
                    made if status < http.client.BAD_REQUEST else self.call("PUT", path + options, body)
                )
            found = self.call("GET", path)

    def delete(self, path: str) -> None:
        """Delete the object, if it exists."""
        self.ask("DELETE", path, {"gracePeriodSeconds": 0})

    def namespace(self, name: str) -> None:
        """Create the namespace, unless it exists."""
        self.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})

    def run(
        self, namespace: str, name: str, node: str, labels: Mapping[str, str], on_host: bool = False
    ) -> str:
        """Return a pod that is bound to a node; one that is there already is bound. Returns its uid.

        ``on_host``: a new one uses the network of its node.
        """
        self.namespace(namespace)
        path = f"/api/v1/namespaces/{namespace}/pods"
        metadata = {"name": name, "labels": dict(labels)}
        status, pod = self.ask("GET", f"{path}/{name}")
        if status != http.client.OK:
            spec = {**_POD, "nodeName": node, "hostNetwork": on_host}
            pod = self.call("POST", path, {"metadata": metadata, "spec": spec})
        else:
            if not pod["spec"].get("nodeName"):
                self.call("POST", f"{path}/{name}/binding", _binding(name, node))
            if labels:
                self.call("PATCH", f"{path}/{name}", {"metadata": metadata})
        return str(pod["metadata"]["uid"])

    def runs(self, namespace: str, name: str, address: str) -> None:
        """Set the pod's address, as its kubelet does."""
        status = {"phase": "Running", "podIPs": [{"ip": address}]}
        self.call("PATCH", f"/api/v1/namespaces/{namespace}/pods/{name}/status", {"status": status})

    def label(self, namespace: str, name: str, labels: dict[str, str | None]) -> None:
        """Change labels of a pod; None takes one away."""
        self.call("PATCH", f"/api/v1/namespaces/{namespace}/pods/{name}", {"metadata": {"labels": labels}})

    def remove(self, namespace: str, name: str) -> None:
        """Delete the pod, if it exists."""
        self.delete(f"/api/v1/namespaces/{namespace}/pods/{name}")

    def events(self, reason: str = "") -> list[Document]:
        """Those of our objects, with this reason or any."""
        found = self.call("GET", "/api/v1/namespaces/default/events")["items"]
        return [event for event in found if reason in ("", event["reason"])]

    def has(self, group_version: str, plural: str) -> bool:
        """Whether the server has such a kind; a real one may be too old."""
        return self.ask("GET", f"/apis/{group_version}/{plural}")[0] == http.client.OK

    def strike(self, **faults: Any) -> None:
        """Set the faults from now on: :class:`.server.Faults`; none without arguments."""
        self.call("POST", "/_faults", faults)

    def drop(self) -> None:
        """End every watch."""
        self.call("POST", "/_drop")

    def compact(self) -> None:
        """Forgets the history."""
        self.call("POST", "/_compact")

    def requests(self) -> dict[str, int]:
        """How often each thing was asked for."""
        return dict(self.call("GET", "/_requests"))

    def traffic(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return what each agent costs the server: :class:`.traffic.Traffic`."""
        return dict(self.call("GET", "/_traffic"))

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer to a request. Raises :class:`RuntimeError` if the server refuses."""
        status, answer = self.ask(method, path, body)
        if status >= http.client.BAD_REQUEST:
            raise RuntimeError(f"{method} {path}: {status}: {answer.get('message')}")
        return answer

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return the HTTP status and the answer."""
        connection = _Connection(self.socket)
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": kind})
            response = connection.getresponse()
            content = response.read()
            if "json" not in response.headers.get("Content-Type", ""):
                return response.status, {"message": content.decode().strip()}
            return response.status, json.loads(content)
        finally:
            connection.close()


class _Connection(http.client.HTTPConnection):
    def __init__(self, socket_file: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._file = socket_file

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._file))


def path_of(document: Document) -> str:
    """Where the API has an object."""
    group, kind, metadata = document["apiVersion"], document["kind"].lower(), document["metadata"]
    plural = f"{kind[:-1]}ies" if kind.endswith("cy") else f"{kind}es" if kind.endswith("s") else f"{kind}s"
    namespace = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"/{'apis' if '/' in group else 'api'}/{group}{namespace}/{plural}/{metadata['name']}"


def _complete(document: Document) -> Document:
    return (
        {**document, "spec": {**_POD, **document.get("spec", {})}} if document["kind"] == "Pod" else document
    )


def _binding(pod: str, node: str) -> Document:
    target = {"apiVersion": "v1", "kind": "Node", "name": node}
    return {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": target}
