"""The server in a thread of this process, for tests of what talks to it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Coroutine, Iterator
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import trustme
import yaml
from aiohttp import web

from .client import Cluster
from .memory import Memory
from .server import Server
from .upstream import Upstream, reached

T = TypeVar("T")


class LocalServer:
    """``kubeconfig`` leads to it, ``cluster`` is what it has. ``upstream``: the socket of a real server behind it."""

    def __init__(
        self, directory: Path, authority: trustme.CA | None = None, upstream: Path | None = None
    ) -> None:
        self.directory = directory
        self.kubeconfig = directory / "kubeconfig"
        self.token_file = directory / "token"
        self.cluster = Cluster(directory / "api.sock")
        self._scheme = "https" if authority else "http"
        self._context = self._certified(authority) if authority else None
        self.port = 0
        self._origin = Upstream(upstream) if upstream else Memory()
        self._server = Server(self._origin, self.token_file)
        self._closing = contextlib.AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            self._do(self._begin())
            self.start()
            yield
        finally:
            try:
                self._do(self._closing.aclose())
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()

    def start(self) -> None:
        """Listen on a free port, after a stop on the same one."""
        self._do(self._listen())
        self.write_kubeconfig()

    def stop(self) -> None:
        """Is not there for agents any more. The test itself may go on changing what it has."""
        self._do(self._hide())

    def allow(self, token: str) -> None:
        """From now on only who bears this token is answered."""
        self.token_file.write_text(token)

    def write_kubeconfig(self, **user: Any) -> None:
        cluster: dict[str, Any] = {"server": f"{self._scheme}://127.0.0.1:{self.port}"}
        if self._scheme == "https":
            cluster["certificate-authority"] = "ca.crt"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "me", "user": user or {"tokenFile": str(self.token_file)}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "me"}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def _certified(self, authority: trustme.CA) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(str(self.directory / "ca.crt"))
        return context

    def _do(self, task: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(task, self._loop).result(60)

    async def _begin(self) -> None:
        self._closing.push_async_callback(self._origin.close)
        await self._origin.start()
        inside = await self._runner()
        self._closing.push_async_callback(inside.cleanup)
        await web.UnixSite(inside, str(self.cluster.socket)).start()

    async def _runner(self) -> web.AppRunner:
        runner = web.AppRunner(self._server.app(), shutdown_timeout=0.05, handler_cancellation=True)
        await runner.setup()
        return runner

    async def _listen(self) -> None:
        self._outside = await self._runner()
        self._closing.push_async_callback(self._outside.cleanup)
        await web.TCPSite(self._outside, "127.0.0.1", self.port, ssl_context=self._context).start()
        self.port = self._outside.addresses[0][1]

    async def _hide(self) -> None:
        await self._outside.cleanup()


@contextlib.contextmanager
def serving(directory: Path, authority: trustme.CA | None = None) -> Iterator[LocalServer]:
    """Yield a server with its objects; those of the real one where ``TEST_KUBECONFIG`` names it."""
    with reached(directory / "upstream.sock") as upstream:
        local = LocalServer(directory, authority, upstream)
        local.allow("secret")
        with local.running():
            yield local
