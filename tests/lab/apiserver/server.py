"""HTTP around :class:`.objects.Objects`: lists in pages, watches with bookmarks, faults on demand."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from .objects import Collection, Object, Objects, Refused, selected
from .schema import schemas

BOOKMARK = 1.0
"""Seconds between two bookmarks; a real server sends one a minute."""
GENERATION = web.RequestKey("generation", int)
"""Of what a request carries: how often all watches had been ended when it came."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Faults:
    """``match``: what a request's path and query must contain to be struck."""

    match: str = ""
    status: int = 0
    """HTTP status of the answer; 0: the true one."""
    retry_after: int = 0
    latency: float = 0.0
    """Seconds before an answer, and before each event."""
    hang: bool = False
    """No answer at all."""
    deaf: bool = False
    """Watches bring nothing any more, bookmarks neither."""


class Server:
    def __init__(self, token_file: Path | None = None) -> None:
        self.requests: Counter[str] = Counter()
        self._token_file = token_file
        self._faults = Faults()
        self._news = asyncio.Event()
        self._generation = 0
        self.objects = Objects(self._changed, schemas())
        self._pages: dict[str, tuple[int, list[Object]]] = {}

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=64 << 20)
        app.router.add_route("*", "/_{control:faults|drop|compact|requests}", self._control)
        for root in ("/api/{version:v1}", "/apis/{group}/{version}"):
            for scope in ("", "/namespaces/{namespace}"):
                app.router.add_route("*", f"{root}{scope}/{{plural}}", self._collection)
                app.router.add_route("*", f"{root}{scope}/{{plural}}/{{name}}", self._object)
                app.router.add_route(
                    "*", f"{root}{scope}/{{plural}}/{{name}}/{{subresource:status}}", self._object
                )
        return app

    def strike(self, faults: Faults) -> None:
        """What goes wrong from now on."""
        self._faults = faults
        self._changed()

    def drop(self) -> None:
        """Ends every watch."""
        self._generation += 1
        self._changed()

    def compact(self) -> None:
        """Forgets the history: lists that were begun and watches from older versions expire."""
        self.objects.compact()
        self._pages.clear()
        self._changed()

    def _changed(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # --- every request ---------------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        # A watch that is just being opened ends with the others.
        request[GENERATION] = self._generation
        if request.path.startswith("/_"):
            return await handler(request)
        if request.transport is not None and isinstance(request.transport.get_extra_info("sockname"), str):
            # The unix socket is the test's own.
            return await self._answered(request, handler)
        self.requests[f"{request.method} {request.path}{' (watch)' if 'watch' in request.query else ''}"] += 1
        try:
            self._authenticate(request)
            await self._strike(request)
        except Refused as refused:
            return self._refusal(refused)
        return await self._answered(request, handler)

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refused as refused:
            return self._refusal(refused)

    def _refusal(self, refused: Refused) -> web.StreamResponse:
        headers = {"Retry-After": str(self._faults.retry_after)} if self._faults.retry_after else {}
        return web.json_response(refused.status, status=refused.code, headers=headers)

    def _authenticate(self, request: web.Request) -> None:
        if self._token_file is not None:
            wanted = f"Bearer {self._token_file.read_text().strip()}"
            if request.headers.get("Authorization") != wanted:
                raise Refused(401, "Unauthorized", "Unauthorized")

    async def _strike(self, request: web.Request) -> None:
        faults = self._struck(request)
        if faults.hang:
            await asyncio.Event().wait()
        await asyncio.sleep(faults.latency)
        if faults.status:
            raise Refused(faults.status, "Fault", "a fault that a test has asked for")

    def _struck(self, request: web.Request) -> Faults:
        return self._faults if self._faults.match in request.path_qs else Faults()

    async def _control(self, request: web.Request) -> web.StreamResponse:
        match request.match_info["control"], request.method:
            case "faults", "POST":
                self.strike(Faults(**await request.json()))
            case "faults", "DELETE":
                self.strike(Faults())
            case "drop", "POST":
                self.drop()
            case "compact", "POST":
                self.compact()
            case "requests", "GET":
                return web.json_response(self.requests)
            case _:
                raise web.HTTPMethodNotAllowed(request.method, ["POST"])
        return web.json_response({})

    # --- the API ---------------------------------------------------------------------------------------------------

    def _named(self, request: web.Request) -> tuple[Collection, str]:
        info = request.match_info
        group_version = f"{info['group']}/{info['version']}" if "group" in info else info["version"]
        found = self.objects.collections.get((group_version, info["plural"]))
        if found is None:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        return found, info.get("namespace", "")

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        collection, namespace = self._named(request)
        if request.method == "POST":
            return web.json_response(
                self.objects.create(collection, namespace, await request.json()), status=201
            )
        if request.method != "GET":
            raise Refused(405, "MethodNotAllowed", "the server does not allow this method on the resource")
        if request.query.get("watch") in ("true", "1"):
            return await self._watch(request, collection, namespace)
        return self._list(request, collection, namespace)

    async def _object(self, request: web.Request) -> web.StreamResponse:
        collection, namespace = self._named(request)
        name, subresource = request.match_info["name"], request.match_info.get("subresource", "")
        objects = self.objects
        match request.method:
            case "GET":
                found = objects.get(collection, namespace, name)
            case "PUT":
                found = objects.replace(collection, namespace, name, await request.json(), subresource)
            case "PATCH" if request.content_type == "application/merge-patch+json":
                found = objects.merge(collection, namespace, name, await request.json(), subresource)
            case "PATCH":
                raise Refused(415, "UnsupportedMediaType", f"{request.content_type} is not supported here")
            case "DELETE":
                found = objects.delete(collection, namespace, name)
            case _:
                raise Refused(
                    405, "MethodNotAllowed", "the server does not allow this method on the resource"
                )
        return web.json_response(found)

    def _list(self, request: web.Request, collection: Collection, namespace: str) -> web.StreamResponse:
        token = request.query.get("continue", "")
        if token:
            if token not in self._pages:
                raise Refused(410, "Expired", "The provided continue parameter is too old")
            version, items = self._pages.pop(token)
        else:
            version = self.objects.version
            items = [i for i in collection.objects.values() if self._wanted(i, request, namespace)]
        limit = int(request.query.get("limit", 0)) or len(items)
        metadata: Object = {"resourceVersion": str(version)}
        if rest := items[limit:]:
            metadata["remainingItemCount"] = len(rest)
            following = base64.urlsafe_b64encode(
                f"{version} {collection.kind.plural} {len(rest)}".encode()
            ).decode()
            metadata["continue"] = following
            self._pages[following] = version, rest
        page, kind = items[:limit], f"{collection.kind.kind}List"
        if "PartialObjectMetadataList" in request.headers.get("Accept", ""):
            page, kind = [{"metadata": item["metadata"]} for item in page], "PartialObjectMetadataList"
        # As the real one: an item of a list does not say what it is.
        bare = [{n: v for n, v in item.items() if n not in ("apiVersion", "kind")} for item in page]
        return web.json_response({"kind": kind, "metadata": metadata, "items": bare})

    @staticmethod
    def _wanted(item: Object, request: web.Request, namespace: str) -> bool:
        if namespace and item["metadata"].get("namespace") != namespace:
            return False
        return selected(item, request.query.get("fieldSelector", ""), request.query.get("labelSelector", ""))

    async def _watch(
        self, request: web.Request, collection: Collection, namespace: str
    ) -> web.StreamResponse:
        version = int(request.query.get("resourceVersion") or self.objects.version)
        if version < collection.compacted:
            raise Refused(410, "Expired", f"too old resource version: {version} ({collection.compacted})")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        loop = asyncio.get_running_loop()
        ends, generation = loop.time() + float(request.query.get("timeoutSeconds", 1800)), request[GENERATION]
        bookmark = loop.time() + BOOKMARK
        while loop.time() < ends and generation == self._generation:
            news = self._news
            if version < collection.compacted:
                status = Refused(410, "Expired", f"too old resource version: {version}").status
                await _send(response, "ERROR", status)
                break
            faults = self._struck(request)
            for change in [] if faults.deaf else [c for c in collection.history if c.version > version]:
                await asyncio.sleep(faults.latency)
                version = change.version
                now, before = (
                    item is not None and self._wanted(item, request, namespace)
                    for item in (change.item, change.before)
                )
                # A change of what is selected looks as if the object came or went.
                kind = "DELETED" if before and not now else "ADDED" if now and not before else change.type
                if now or before:
                    await _send(response, kind, change.item)
            if loop.time() >= bookmark and not self._struck(request).deaf:
                bookmark = loop.time() + BOOKMARK
                version = max(version, self.objects.version)
                metadata = {"resourceVersion": str(version)}
                item = {
                    "kind": collection.kind.kind,
                    "apiVersion": collection.kind.group_version,
                    "metadata": metadata,
                }
                await _send(response, "BOOKMARK", item)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(BOOKMARK, ends - loop.time())):
                    await news.wait()
        return response


async def _send(response: web.StreamResponse, kind: str, item: Any) -> None:
    await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")
