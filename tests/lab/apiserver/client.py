"""A cluster of the lab as its tests change it: by the API, over a unix socket that no failure of the lab cuts."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..documents import Document
from .objects import KINDS, Kind

_KINDS = {(kind.group_version, kind.kind): kind for kind in KINDS}


class Cluster:
    """``socket`` is the server's."""

    def __init__(self, socket_file: Path) -> None:
        self._socket = socket_file
        self._published: dict[str, dict[str, Document]] = {}

    def publish(self, name: str, content: Iterable[Document]) -> None:
        """Makes these objects; those that ``name`` stood for before and that are not among them go."""
        wanted = {_path(document): document for document in content}
        for path in self._published.get(name, {}).keys() - wanted.keys():
            self._ask("DELETE", path)
        for document in wanted.values():
            self.apply(document)
        self._published[name] = wanted

    def apply(self, document: Document) -> Document:
        """Makes the object, or brings it to this state."""
        path = _path(document)
        if self._ask("GET", path)[0] == http.client.OK:
            # What others have written into a pod, where it runs above all, stays.
            return dict(self.call("PATCH" if document["kind"] == "Pod" else "PUT", path, document))
        return dict(self.call("POST", path.rpartition("/")[0], document))

    def run(self, namespace: str, name: str, node: str, labels: dict[str, str]) -> str:
        """A pod that is bound to a node; one that is there already is bound. Returns its uid."""
        self._ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        metadata = {"name": name, "labels": labels}
        pod = {"metadata": metadata, "spec": {"nodeName": node}}
        path = f"/api/v1/namespaces/{namespace}/pods"
        if self._ask("GET", f"{path}/{name}")[0] == http.client.OK:
            return str(self.call("PATCH", f"{path}/{name}", pod)["metadata"]["uid"])
        return str(self.call("POST", path, pod)["metadata"]["uid"])

    def runs(self, namespace: str, name: str, address: str) -> None:
        """The pod has its address, as its kubelet says."""
        status = {"phase": "Running", "podIPs": [{"ip": address}]}
        self.call("PATCH", f"/api/v1/namespaces/{namespace}/pods/{name}/status", {"status": status})

    def label(self, namespace: str, name: str, labels: dict[str, str | None]) -> None:
        """Changes labels of a pod; None takes one away."""
        self.call("PATCH", f"/api/v1/namespaces/{namespace}/pods/{name}", {"metadata": {"labels": labels}})

    def remove(self, namespace: str, name: str) -> None:
        """The pod is gone; also where it was."""
        self._ask("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}")

    def strike(self, **faults: Any) -> None:
        """What goes wrong from now on: :class:`.server.Faults`; nothing without arguments."""
        self.call("POST", "/_faults", faults)

    def drop(self) -> None:
        """Ends every watch."""
        self.call("POST", "/_drop")

    def compact(self) -> None:
        """Forgets the history."""
        self.call("POST", "/_compact")

    def requests(self) -> dict[str, int]:
        """How often each thing was asked for."""
        return dict(self.call("GET", "/_requests"))

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Raises :class:`RuntimeError` where the server refuses."""
        status, answer = self._ask(method, path, body)
        if status >= http.client.BAD_REQUEST:
            raise RuntimeError(f"{method} {path}: {status}: {answer.get('message')}")
        return answer

    def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = _Connection(self._socket)
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": kind})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
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


def _path(document: Document) -> str:
    kind: Kind = _KINDS[document["apiVersion"], document["kind"]]
    metadata = document["metadata"]
    root = f"/{'apis' if kind.group else 'api'}/{kind.group_version}"
    if kind.namespaced:
        root += f"/namespaces/{metadata['namespace']}"
    return f"{root}/{kind.plural}/{metadata['name']}"
