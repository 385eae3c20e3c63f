"""An origin of our own: lists in pages, watches with bookmarks and history, over :class:`.objects.Objects`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import AsyncGenerator

import yaml
from aiohttp import web

from .discovery import discovery
from .objects import Collection, Objects, selected
from .origin import Event, Object, Refused
from .schema import DEFINITIONS, schemas

BOOKMARK_INTERVAL_S = 1.0
"""Seconds between two bookmarks; a real server sends one a minute."""
_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))(?:/namespaces/(?P<namespace>[^/]+)(?=/[^/]))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<subresource>status|binding))?)?"
)


class Memory:
    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._objects = Objects(self._changed, schemas())
        self._pages: dict[str, tuple[int, list[Object]]] = {}
        self._discovery = discovery()

    async def start(self) -> None:
        # What comes with our manifests and agents may not make.
        for plural, name in (("namespaces", "namespace.yaml"), ("configmaps", "voters.yaml")):
            document = yaml.safe_load((DEFINITIONS.parent / name).read_text())
            namespace = document["metadata"].get("namespace", "")
            self._objects.create(self._objects.collections["v1", plural], namespace, document)

    async def close(self) -> None:
        pass

    async def compact(self) -> None:
        self._objects.compact()
        self._pages.clear()
        self._changed()

    def _changed(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def answer(self, request: web.Request, *, own: bool) -> web.StreamResponse:
        if request.path in self._discovery:
            return _json(self._discovery[request.path])
        collection, namespace, name, subresource = self._asked(request)
        if subresource == "binding" and request.method == "POST":
            bound = await request.json()
            return _json(self._objects.bind(collection, namespace, name, bound["target"]["name"]), 201)
        if name:
            return await self._one(request, collection, namespace, name, subresource)
        if request.method == "POST":
            return _json(self._objects.create(collection, namespace, await request.json()), 201)
        if request.method == "GET":
            return self._list(request, collection, namespace)
        raise _not_allowed()

    def _asked(self, request: web.Request) -> tuple[Collection, str, str, str]:
        found = _PATH.fullmatch(request.path)
        parts = found.groupdict("") if found else {}
        key = parts.get("core") or parts.get("group", ""), parts.get("plural", "")
        if key not in self._objects.collections:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        return self._objects.collections[key], parts["namespace"], parts["name"], parts["subresource"]

    async def _one(
        self, request: web.Request, collection: Collection, namespace: str, name: str, subresource: str
    ) -> web.StreamResponse:
        objects = self._objects
        match request.method:
            case "GET":
                found = objects.get(collection, namespace, name)
            case "PUT":
                found = objects.replace(collection, namespace, name, await request.json(), subresource)
            case "PATCH" if request.content_type == "application/merge-patch+json":
                found = objects.merge(collection, namespace, name, await request.json(), subresource)
            case "PATCH" if request.content_type == "application/strategic-merge-patch+json":
                patch = await request.json()
                found = objects.merge(collection, namespace, name, patch, subresource, strategic=True)
            case "PATCH":
                raise Refused(415, "UnsupportedMediaType", f"{request.content_type} is not supported here")
            case "DELETE":
                found = objects.delete(collection, namespace, name)
            case _:
                raise _not_allowed()
        return _json(found)

    def _list(self, request: web.Request, collection: Collection, namespace: str) -> web.StreamResponse:
        token = request.query.get("continue", "")
        if token:
            if token not in self._pages:
                raise Refused(410, "Expired", "The provided continue parameter is too old")
            version, items = self._pages.pop(token)
        else:
            version = self._objects.version
            items = [i for i in collection.objects.values() if _wanted(i, request, namespace)]
        limit = int(request.query.get("limit", 0)) or len(items)
        metadata: Object = {"resourceVersion": str(version)}
        if rest := items[limit:]:
            metadata["remainingItemCount"] = len(rest)
            following = base64.urlsafe_b64encode(
                f"{version} {collection.kind.plural} {len(rest)}".encode()
            ).decode()
            metadata["continue"] = following
            self._pages[following] = version, rest
        page, version_of_list, kind = (
            items[:limit],
            collection.kind.group_version,
            f"{collection.kind.kind}List",
        )
        if "PartialObjectMetadataList" in request.headers.get("Accept", ""):
            page = [{"metadata": item["metadata"]} for item in page]
            version_of_list, kind = "meta.k8s.io/v1", "PartialObjectMetadataList"
        # As the real one: an item of a list does not say what it is.
        bare = [{n: v for n, v in item.items() if n not in ("apiVersion", "kind")} for item in page]
        return _json({"apiVersion": version_of_list, "kind": kind, "metadata": metadata, "items": bare})

    async def watch(self, request: web.Request, *, own: bool) -> AsyncGenerator[Event]:
        collection, namespace, _, _ = self._asked(request)
        version = int(request.query.get("resourceVersion") or self._objects.version)
        if version < collection.compacted:
            raise Refused(410, "Expired", f"too old resource version: {version} ({collection.compacted})")
        return self._events(request, collection, namespace, version)

    async def _events(
        self, request: web.Request, collection: Collection, namespace: str, version: int
    ) -> AsyncGenerator[Event]:
        loop = asyncio.get_running_loop()
        ends = loop.time() + float(request.query.get("timeoutSeconds", 1800))
        bookmark = loop.time() + BOOKMARK_INTERVAL_S
        while loop.time() < ends:
            news = self._news
            if version < collection.compacted:
                yield "ERROR", Refused(410, "Expired", f"too old resource version: {version}").status
                return
            for change in collection.since(version):
                version = change.version
                now, before = (
                    item is not None and _wanted(item, request, namespace)
                    for item in (change.item, change.before)
                )
                # A change of what is selected looks as if the object came or went.
                kind = "DELETED" if before and not now else "ADDED" if now and not before else change.type
                if now or before:
                    yield kind, change.item
            if loop.time() >= bookmark:
                bookmark = loop.time() + BOOKMARK_INTERVAL_S
                version = max(version, self._objects.version)
                kinds = {"kind": collection.kind.kind, "apiVersion": collection.kind.group_version}
                yield "BOOKMARK", {**kinds, "metadata": {"resourceVersion": str(version)}}
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(BOOKMARK_INTERVAL_S, ends - loop.time())):
                    await news.wait()


def _wanted(item: Object, request: web.Request, namespace: str) -> bool:
    if namespace and item["metadata"].get("namespace") != namespace:
        return False
    return selected(item, request.query.get("fieldSelector", ""), request.query.get("labelSelector", ""))


def _json(found: Object, status: int = 200) -> web.StreamResponse:
    return web.json_response(found, status=status)


def _not_allowed() -> Refused:
    return Refused(405, "MethodNotAllowed", "the server does not allow this method on the resource")
