"""The Kubernetes API by HTTP: pages of lists, watches, single objects. What is made of them is none of its business.

``lightkube`` reads kubeconfig and service account and reads a token anew when the server refuses it. Its typed models
are not used: an object is read by :mod:`gateway_agent.manifests.parsing`, as one in a file is.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
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

PAGE = 500
"""Objects of one page, as client-go asks for."""
CONNECT, ANSWER = 5.0, 15.0
"""Seconds that a connection and an answer may take."""
REREAD = 30.0
"""Seconds between two looks whether the files of the configuration have changed."""
ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000),
)
"""A watch may be silent for minutes; a server that is gone should be noticed all the same."""
OPENED = "OPENED"
"""No type of the API: the server has taken the watch."""
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


class ApiError(Exception):
    """``status``: of HTTP, 0 where there was no answer. ``retry_after``: seconds that the server asks for, or 0."""

    def __init__(self, message: str, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class Page(msgspec.Struct, frozen=True):
    items: list[dict[str, Any]]
    version: str
    token: str
    """For the next page; empty at the last."""


class Api:
    """One cluster's. Every method raises :class:`ApiError`."""

    def __init__(self, kubeconfig: Path | None, account: Path = Path(SERVICE_ACCOUNT)) -> None:
        """``kubeconfig``: None for the service account that a pod finds in ``account``."""
        self._kubeconfig = kubeconfig
        self._account = account
        self._client: httpx2.AsyncClient | None = None
        self._stamps: Mapping[Path, int] = {}
        self._looked = 0.0
        self._old: list[httpx2.AsyncClient] = []

    async def page(self, path: str, selector: str = "", token: str = "", *, names_only: bool = False) -> Page:
        """A page of a list, as it is in the store at this moment. ``names_only``: only the metadata of its items."""
        query = {"limit": str(PAGE), **_given(fieldSelector=selector, **{"continue": token})}
        found = await self._get(path, query, METADATA_ONLY if names_only else "application/json")
        metadata = found.get("metadata") or {}
        items = [item for item in found.get("items") or () if isinstance(item, dict)]
        return Page(items, str(metadata.get("resourceVersion") or ""), str(metadata.get("continue") or ""))

    async def any(self, path: str, label_selector: str) -> bool:
        """Whether a list has any item."""
        query = {"limit": "1", **_given(labelSelector=label_selector)}
        return bool((await self._get(path, query, METADATA_ONLY)).get("items"))

    async def get(self, path: str) -> dict[str, Any] | None:
        """One object; None where there is none."""
        try:
            return await self._get(path, {}, "application/json")
        except ApiError as error:
            if error.status == httpx2.codes.NOT_FOUND:
                return None
            raise

    async def watch(
        self, path: str, selector: str, version: str, seconds: int
    ) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        """Each event: its type and its object; before them :data:`OPENED`. Ends when the server ends it."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
            **_given(fieldSelector=selector),
        }
        timeout = httpx2.Timeout(CONNECT, read=seconds + ANSWER)
        with _translated():
            client = await self._connected()
            async with contextlib.AsyncExitStack() as stack:
                # A server that takes a watch says so at once. Only then it may be silent for long.
                async with asyncio.timeout(ANSWER):
                    stream = client.stream("GET", path, params=query, timeout=timeout)
                    response = await stack.enter_async_context(stream)
                    if response.is_error:
                        await response.aread()
                        raise _refused(response)
                yield OPENED, {}
                async for line in response.aiter_lines():
                    event = msgspec.json.decode(line, type=_Event)
                    yield event.type, event.object

    async def merge(self, path: str, patch: Mapping[str, Any]) -> dict[str, Any] | None:
        """Change an object by RFC 7386 and return it; None where there is none.

        A patch with a ``resourceVersion`` that is not the stored one is a refusal with status 409.
        """
        try:
            return await self._send("PATCH", path, patch, "application/merge-patch+json")
        except ApiError as error:
            if error.status == httpx2.codes.NOT_FOUND:
                return None
            raise

    async def create(self, path: str, body: Mapping[str, Any]) -> None:
        """A new object; one that there is already is a refusal with status 409."""
        await self._send("POST", path, body, "application/json")

    async def close(self) -> None:
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
        """The client; a new one where a file of the configuration is another one than before."""
        now = time.monotonic()
        if self._client is not None and now < self._looked + REREAD:
            return self._client
        self._looked = now
        if self._client is not None and _stamps(self._stamps) == self._stamps:
            return self._client
        try:
            config = self._read()
            context = client_adapter.verify_cluster(
                config.cluster,
                config.user,  # type: ignore[arg-type]
                config.abs_file,
                trust_env=False,
            )
            auth = client_adapter.user_auth(config.user)
        except (
            ConfigError,
            OSError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            yaml.YAMLError,
        ) as error:
            # What a wrong file does to lightkube is not in its documents. A YAML error quotes the file, with its token.
            words = "not YAML" if isinstance(error, yaml.YAMLError) else f"{type(error).__name__}: {error}"
            raise ApiError(f"its configuration cannot be used: {words}") from None
        if self._client is not None:
            # A watch by it may go on to its end; by the one before it there is hardly any.
            for client in self._old:
                await client.aclose()
            self._old = [self._client]
        self._client = httpx2.AsyncClient(
            base_url=config.cluster.server,
            auth=auth,
            transport=httpx2.AsyncHTTPTransport(verify=context, socket_options=ALIVE),
            timeout=httpx2.Timeout(ANSWER, connect=CONNECT),
            headers={"User-Agent": "egress-gateway"},
            trust_env=False,
        )
        self._stamps = _stamps(self._files(config))
        return self._client

    def _read(self) -> SingleConfig:
        if self._kubeconfig is None:
            found = KubeConfig.from_service_account(self._account).get()
        else:
            found = KubeConfig.from_file(self._kubeconfig).get()
        if found is None:
            raise ConfigError("it names no current context")
        return found

    def _files(self, config: SingleConfig) -> list[Path]:
        """Those whose change makes another connection."""
        user, cluster = config.user, config.cluster
        named = [cluster.certificate_auth, *((user.client_cert, user.client_key) if user else ())]
        return [Path(config.abs_file(name)) for name in (*named, self._kubeconfig) if name]


class _Event(msgspec.Struct):
    type: str
    object: dict[str, Any]


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raises :class:`ApiError` for all that can go wrong."""
    try:
        yield
    except httpx2.HTTPError as error:
        raise ApiError(f"no answer: {str(error) or type(error).__name__}") from error
    except (ValueError, RecursionError) as error:
        raise ApiError(f"an answer that is none: {error}") from error
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
