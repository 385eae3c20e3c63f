"""A real API server as the origin: what is asked of the front is asked of it.

It must be one that may be cleared. Agents come to it as the service account of our manifests, so that its own
authorization judges what they ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import fcntl
import http.client
import json
import os
import subprocess
from collections.abc import AsyncGenerator, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

from ..namespace import REPOSITORY
from ..waiting import until
from .client import Cluster
from .objects import CUSTOM
from .origin import Event, Object, Refused

VARIABLE = "TEST_KUBECONFIG"
CONSENT = "cleared-by-egress-gateway-tests"
"""Name of a namespace that permits the deletion of everything else in the cluster."""
AGENT = "system:serviceaccount:egress-gateway:agent"
_MANIFESTS = REPOSITORY / "packaging" / "kubernetes"
_SYSTEM = ("default", "kube-system", "kube-public", "kube-node-lease")
_PLURALS = ("egressgatewaypolicies", "egressgateways")
_FOREVER = aiohttp.ClientTimeout(total=None)


@contextlib.contextmanager
def reached(socket: Path, kubeconfig: str = os.environ.get(VARIABLE, "")) -> Iterator[Path | None]:
    """Make the server that the variable leads to answer on a unix socket; None if the variable is not set.

    A unix socket can be reached from each network namespace. One at a time has the server.
    """
    if not kubeconfig:
        yield None
        return
    with open(kubeconfig, encoding="utf-8") as owned:
        fcntl.flock(owned, fcntl.LOCK_EX)
        socket.unlink(missing_ok=True)
        command = ["kubectl", "--kubeconfig", kubeconfig, "proxy", "--unix-socket", str(socket)]
        with subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command], stdout=subprocess.DEVNULL
        ) as proxy:
            try:
                until(socket.is_socket, f"kubectl reaches {kubeconfig}")
                _consented(socket)
                yield socket
            finally:
                proxy.terminate()


def _consented(socket: Path) -> None:
    """Check that the cluster may be cleared. Raises RuntimeError. A server with definitions only has no namespaces."""
    status, _ = Cluster(socket).ask("GET", f"/api/v1/namespaces/{CONSENT}")
    if (
        status != http.client.OK
        and Cluster(socket).ask("GET", "/api/v1/namespaces")[0] != http.client.NOT_FOUND
    ):
        raise RuntimeError(
            f"{VARIABLE}: tests delete all that this cluster has. If they may: kubectl create namespace {CONSENT}"
        )


class Upstream:
    """``socket``: where the real one answers an administrator."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._real = Cluster(socket)
        self._compacted = 0
        self._compaction = asyncio.Event()
        self._tokens: set[str] = set()
        self._expired: set[str] = set()

    async def start(self) -> None:
        self._session = aiohttp.ClientSession("http://localhost", connector=self._connector())
        await asyncio.to_thread(self._prepare)

    def _connector(self) -> aiohttp.UnixConnector:
        # Each agent holds a watch of each kind.
        return aiohttp.UnixConnector(str(self._socket), limit=0)

    async def close(self) -> None:
        await self._session.close()

    async def compact(self) -> None:
        # When a real server forgets its history is nobody's choice.
        found = await asyncio.to_thread(self._real.call, "GET", "/api/v1/namespaces?limit=1")
        self._compacted = int(found["metadata"]["resourceVersion"])
        self._expired |= self._tokens
        self._compaction.set()
        self._compaction = asyncio.Event()

    async def answer(self, request: web.Request, *, own: bool) -> web.StreamResponse:
        if request.query.get("continue", "") in self._expired:
            raise Refused(410, "Expired", "The provided continue parameter is too old")
        asked = self._session.request(
            request.method, request.path_qs, data=await request.read(), headers=_headers(request, own)
        )
        async with asked as response:
            content = await response.read()
            with contextlib.suppress(ValueError, LookupError, TypeError):
                self._tokens.add(json.loads(content)["metadata"]["continue"])
            self._tokens.discard("")
            return web.Response(body=content, status=response.status, content_type=response.content_type)

    async def watch(self, request: web.Request, *, own: bool) -> AsyncGenerator[Event]:
        version = int(request.query.get("resourceVersion") or self._compacted)
        if version < self._compacted:
            raise Refused(410, "Expired", f"too old resource version: {version} ({self._compacted})")
        response = await self._session.get(request.path_qs, headers=_headers(request, own), timeout=_FOREVER)
        if response.status >= web.HTTPBadRequest.status_code:
            async with response:
                status = await response.json()
            raise Refused(response.status, status["reason"], status["message"])
        return self._events(response)

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncGenerator[Event]:
        compaction = asyncio.create_task(self._compaction.wait())
        async with response:
            try:
                while line := await _unless(compaction, response.content.readline()):
                    event = json.loads(line)
                    yield event["type"], event["object"]
                if compaction.done():
                    yield "ERROR", Refused(410, "Expired", "too old resource version").status
            finally:
                compaction.cancel()

    def _prepare(self) -> None:
        """Nothing is left but what each cluster has, and the namespace, rights and definitions of our manifests."""
        for path in [f"/apis/{group}/v1alpha1/{plural}" for group in CUSTOM for plural in _PLURALS]:
            self._real.delete(path)
        self._real.call("DELETE", "/api/v1/nodes")
        names = {item["metadata"]["name"] for item in self._real.call("GET", "/api/v1/namespaces")["items"]}
        for name in names - {CONSENT, *_SYSTEM}:
            self._real.delete(f"/api/v1/namespaces/{name}/pods")
            found = self._real.call("DELETE", f"/api/v1/namespaces/{name}")
            # A server without controllers waits for them for ever.
            if "spec" in found:
                found["spec"]["finalizers"] = []
                self._real.ask("PUT", f"/api/v1/namespaces/{name}/finalize", found)
        self._real.call("DELETE", "/api/v1/namespaces/default/events")
        for name in ("namespace.yaml", "voters.yaml"):
            self._real.apply(yaml.safe_load((_MANIFESTS / name).read_text()))
        # An agent reads one of the groups.
        rights = (_MANIFESTS / "rbac.yaml").read_text().replace(f"[{CUSTOM[0]}]", str(list(CUSTOM)))
        for document in yaml.safe_load_all(rights):
            self._real.apply(document)
        define(self._real)


def define(real: Cluster) -> list[Object]:
    """Make our definitions, and the same for the other group; returns them as stored, when they are served."""
    stored = []
    for definition in _definitions():
        stored.append(real.apply(definition))
        spec = definition["spec"]
        group_version = f"{spec['group']}/{spec['versions'][0]['name']}"
        until(
            partial(real.has, group_version, spec["names"]["plural"]),
            f"{definition['metadata']['name']} is served",
        )
    return stored


async def _unless(end: asyncio.Task[Any], read: Coroutine[Any, Any, bytes]) -> bytes:
    """Return the data that was read; empty if ``end`` comes first."""
    reading = asyncio.create_task(read)
    try:
        await asyncio.wait({reading, end}, return_when=asyncio.FIRST_COMPLETED)
        return b"" if end.done() else reading.result()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def _definitions() -> Iterator[Object]:
    for path in sorted((_MANIFESTS / "crds").iterdir()):
        definition = yaml.safe_load(path.read_text())
        yield from (_of_group(definition, group) for group in CUSTOM)


def _of_group(definition: Object, group: str) -> Object:
    other = copy.deepcopy(definition)
    other["spec"]["group"] = group
    other["metadata"]["name"] = f"{other['spec']['names']['plural']}.{group}"
    return other


def _headers(request: web.Request, own: bool) -> dict[str, str]:
    kept = {name: request.headers[name] for name in ("Accept", "Content-Type") if name in request.headers}
    return kept if own else {**kept, "Impersonate-User": AGENT}
