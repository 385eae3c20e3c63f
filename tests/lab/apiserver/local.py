"""The server in this process, for tests of what talks to it."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import trustme
import yaml
from aiohttp import web

from .objects import Object
from .server import Faults, Server


class LocalServer:
    """``kubeconfig`` leads to it. Its objects are changed directly, without HTTP."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kubeconfig = directory / "kubeconfig"
        self.token_file = directory / "token"
        self.server = Server(self.token_file)
        self.port = 0
        self._scheme = "http"
        self._runner: web.AppRunner | None = None

    async def start(self, authority: trustme.CA | None = None) -> None:
        """Listens on a free port, after a stop on the same one; by TLS where there is an ``authority``."""
        context = None
        if authority is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            authority.issue_cert("127.0.0.1").configure_cert(context)
            authority.cert_pem.write_to_path(str(self.directory / "ca.crt"))
            self._scheme = "https"
        self._runner = web.AppRunner(self.server.app(), shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context).start()
        self.port = self._runner.addresses[0][1]
        self.write_kubeconfig()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

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

    def strike(self, **faults: Any) -> None:
        """What goes wrong from now on: :class:`Faults`; nothing without arguments."""
        self.server.strike(Faults(**faults))

    def create(self, group_version: str, plural: str, name: str, namespace: str = "", **fields: Any) -> Object:
        metadata = {"name": name, **fields.pop("metadata", {})}
        collection = self.server.objects.collections[group_version, plural]
        return self.server.objects.create(collection, namespace, {"metadata": metadata, **fields})

    def merge(self, group_version: str, plural: str, name: str, namespace: str = "", **patch: Any) -> Object:
        collection = self.server.objects.collections[group_version, plural]
        return self.server.objects.merge(collection, namespace, name, patch)

    def delete(self, group_version: str, plural: str, name: str, namespace: str = "") -> None:
        self.server.objects.delete(self.server.objects.collections[group_version, plural], namespace, name)


@contextlib.asynccontextmanager
async def serving(directory: Path, authority: trustme.CA | None = None) -> AsyncIterator[LocalServer]:
    local = LocalServer(directory)
    local.allow("secret")
    await local.start(authority)
    try:
        yield local
    finally:
        await local.stop()
