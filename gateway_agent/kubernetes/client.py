"""Access the Kubernetes API by HTTP: pages of lists, watches, single objects. Objects are not interpreted here.

``lightkube`` reads kubeconfig and service account, and reads a token again when the server refuses it. Its typed models
are not used: :mod:`gateway_agent.manifests.parsing` reads objects, as it reads those in files.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import yaml
from lightkube.config import client_adapter
from lightkube.config.kubeconfig import SERVICE_ACCOUNT, KubeConfig, SingleConfig
from lightkube.core.exceptions import ConfigError

PAGE_SIZE = 500
"""Objects of one page, as in client-go."""
CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 5.0, 15.0
"""Seconds that a connection and an answer may take."""
CONFIG_POLL_INTERVAL_S = 30.0
"""Seconds between two checks of the configuration's files."""
ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000),
)
"""Socket options: a watch may be silent for minutes, and yet a server that is gone must be noticed."""
OPENED = "OPENED"
"""Event type of ours, not of the API: the server has accepted the watch."""
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


class ApiError(Exception):
    """A request has failed. ``status``: HTTP status, 0 without an answer. ``retry_after``: seconds, 0 if not given."""

    def __init__(self, message: str, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class Page(msgspec.Struct, frozen=True):
    """A page of a list, with the list's ``resourceVersion``."""

    items: list[dict[str, Any]]
    version: str
    token: str
    """``continue`` token of the next page; empty on the last page."""


class Api:
    """Client of one cluster's API. Every method raises :class:`ApiError`.

    ``kubeconfig``: None to use the service account in the directory ``account``.
    """

    def __init__(self, kubeconfig: Path | None, account: Path = Path(SERVICE_ACCOUNT)) -> None:
        self._kubeconfig = kubeconfig
        self._account = account
        self._client: httpx2.AsyncClient | None = None
        self._stamps: Mapping[Path, int] = {}
        self._looked = 0.0
        self._old: list[httpx2.AsyncClient] = []

    async def page(self, path: str, selector: str = "", token: str = "", *, names_only: bool = False) -> Page:
        """Return a page of a list, consistent with the API's storage.

        ``selector``: a field selector. ``token``: from the page before. ``names_only``: return only the metadata of the
        items, all in one page. Servers answer from their memory then, while a ``limit`` sends many versions to etcd
        (https://github.com/kubernetes/kubernetes/issues/132132).
        """
        limit = "" if names_only else str(PAGE_SIZE)
        query = _given(limit=limit, fieldSelector=selector, **{"continue": token})
        found = await self._get(path, query, METADATA_ONLY if names_only else "application/json")
        metadata = found.get("metadata") or {}
        items = [item for item in found.get("items") or () if isinstance(item, dict)]
        return Page(items, str(metadata.get("resourceVersion") or ""), str(metadata.get("continue") or ""))

    async def any(self, path: str, label_selector: str) -> bool:
        """Return True if a list has any item."""
        query = {"limit": "1", **_given(labelSelector=label_selector)}
        return bool((await self._get(path, query, METADATA_ONLY)).get("items"))

    async def get(self, path: str) -> dict[str, Any] | None:
        """Return one object; None if it does not exist."""
        try:
            return await self._get(path, {}, "application/json")
        except ApiError as error:
            if error.status == httpx2.codes.NOT_FOUND:
                return None
            raise

    async def watch(
        self, path: str, selector: str, version: str, seconds: int
    ) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        """Yield first :data:`OPENED`, then (type, object) of each event. Ends when the server ends the watch.

        ``version``: ``resourceVersion`` from which to watch. ``seconds``: requested duration.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
            **_given(fieldSelector=selector),
        }
        timeout = httpx2.Timeout(CONNECT_TIMEOUT_S, read=seconds + ANSWER_TIMEOUT_S)
        with _translated():
            client = await self._connected()
            async with contextlib.AsyncExitStack() as stack:
                # A server accepts a watch at once. Only after that it may be silent for long.
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    stream = client.stream("GET", path, params=query, timeout=timeout)
                    response = await stack.enter_async_context(stream)
                    if response.is_error:
                        await response.aread()
                        raise _refused(response)
                yield OPENED, {}
                async for line in response.aiter_lines():
                    event = msgspec.json.decode(line, type=_Event)
                    yield event.type, event.object

    async def merge(
        self, path: str, patch: Mapping[str, Any], *, strategic: bool = False
    ) -> dict[str, Any] | None:
        """Apply a JSON merge patch (RFC 7386) and return the object; None if it does not exist.

        A patch whose ``resourceVersion`` is not the stored one is refused with status 409. ``strategic``: a strategic
        merge patch of Kubernetes, which changes single items of some lists; not for custom resources.
        """
        kind = "strategic-merge-patch" if strategic else "merge-patch"
        try:
            return await self._send("PATCH", path, patch, f"application/{kind}+json")
        except ApiError as error:
            if error.status == httpx2.codes.NOT_FOUND:
                return None
            raise

    async def create(self, path: str, body: Mapping[str, Any]) -> None:
        """Create an object. If it exists already, the API refuses with status 409."""
        await self._send("POST", path, body, "application/json")

    async def close(self) -> None:
        """Close all connections."""
        for client in (self._client, *self._old):
            if client is not None:
                await client.aclose()
        self._client, self._old = None, []

    async def _get(self, path: str, query: Mapping[str, str], accept: str) -> dict[str, Any]:
        with _translated():
            client = await self._connected()
            response = await client.get(path, params=query, headers={"Accept": accept})
            if response.is_error:
                raise _refused(response)
            return msgspec.json.decode(response.content, type=dict[str, Any])

    async def _send(self, method: str, path: str, body: Mapping[str, Any], kind: str) -> dict[str, Any]:
        with _translated():
            client = await self._connected()
            content, headers = msgspec.json.encode(body), {"Content-Type": kind}
            response = await client.request(method, path, content=content, headers=headers)
            if response.is_error:
                raise _refused(response)
            return msgspec.json.decode(response.content, type=dict[str, Any])

    async def _connected(self) -> httpx2.AsyncClient:
        """Return the HTTP client; a new one if a file of the configuration has changed."""
        now = time.monotonic()
        if self._client is not None and now < self._looked + CONFIG_POLL_INTERVAL_S:
            return self._client
        self._looked = now
        if self._client is not None and _stamps(self._stamps) == self._stamps:
            return self._client
        config, context, auth = self._configured()
        if self._client is not None:
            # Watches of the present client may run to their end. The client before it hardly has any left.
            for client in self._old:
                await client.aclose()
            self._old = [self._client]
        self._client = httpx2.AsyncClient(
            base_url=config.cluster.server,
            auth=auth,
            transport=httpx2.AsyncHTTPTransport(verify=context, socket_options=ALIVE),
            timeout=httpx2.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            headers={"User-Agent": "egress-gateway"},
            trust_env=False,
        )
        self._stamps = _stamps(self._files(config))
        return self._client

    def _configured(self) -> tuple[SingleConfig, ssl.SSLContext, httpx2.Auth | None]:
        """Read the configuration, and make of it what a connection needs. Raises ApiError."""
        try:
            config = self._read()
            context = client_adapter.verify_cluster(
                config.cluster,
                config.user,  # type: ignore[arg-type]
                config.abs_file,
                trust_env=False,
            )
            return config, context, client_adapter.user_auth(config.user)
        except (
            ConfigError,
            OSError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            yaml.YAMLError,
        ) as error:
            # lightkube does not document its errors for an invalid file. A YAML error quotes the file and its token.
            message = "not YAML" if isinstance(error, yaml.YAMLError) else f"{type(error).__name__}: {error}"
            raise ApiError(f"its configuration cannot be used: {message}") from None

    def _read(self) -> SingleConfig:
        if self._kubeconfig is None:
            found = KubeConfig.from_service_account(self._account).get()
        else:
            found = KubeConfig.from_file(self._kubeconfig).get()
        if found is None:
            raise ConfigError("it names no current context")
        return found

    def _files(self, config: SingleConfig) -> list[Path]:
        """Return the files whose change requires a new client."""
        user, cluster = config.user, config.cluster
        named = [cluster.certificate_auth, *((user.client_cert, user.client_key) if user else ())]
        return [Path(config.abs_file(name)) for name in (*named, self._kubeconfig) if name]


class _Event(msgspec.Struct):
    type: str
    object: dict[str, Any]


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Translate every error of a request to :class:`ApiError`."""
    try:
        yield
    except httpx2.HTTPError as error:
        raise ApiError(f"no answer: {str(error) or type(error).__name__}") from error
    except (ValueError, RecursionError) as error:
        raise ApiError(f"an invalid answer: {error}") from error
    except TimeoutError as error:
        raise ApiError("no answer in time") from error
    except (ConfigError, OSError) as error:
        raise ApiError(f"no token: {error}") from error


def _refused(response: httpx2.Response) -> ApiError:
    message = response.reason_phrase
    with contextlib.suppress(ValueError, RecursionError):
        message = str(msgspec.json.decode(response.content, type=dict[str, Any]).get("message") or message)
    after = response.headers.get("Retry-After", "")
    return ApiError(
        f"{response.status_code}: {message}", response.status_code, float(after) if after.isdecimal() else 0.0
    )


def _given(**query: str) -> dict[str, str]:
    return {name: value for name, value in query.items() if value}


def _stamps(paths: Iterable[Path]) -> dict[Path, int]:
    found = {}
    for path in paths:
        with contextlib.suppress(OSError):
            found[path] = path.stat().st_mtime_ns
    return found
