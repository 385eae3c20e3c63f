"""A container runtime's side of CNI: runs the plugins of one network as libcni does.

Specification 1.1, sections 3 and 4: ADD and CHECK run the list forward, DEL backward; each plugin's result is
the next one's ``prevResult``; the last result of ADD is kept for CHECK and DEL.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .namespace import REPOSITORY, Namespace

REFERENCE_PLUGINS = Path("/usr/lib/cni")
OUR_PLUGINS = REPOSITORY / "dist"
Json = dict[str, Any]


class CniError(Exception):
    """A plugin answered with an error. ``code`` is the specification's, -1 where there is no error object."""

    def __init__(self, plugin: str, command: str, code: int, message: str, details: str) -> None:
        more = f" ({details})" if details else ""
        super().__init__(f"{plugin} {command}: error {code}: {message}{more}")
        self.plugin = plugin
        self.code = code
        self.message = message
        self.details = details


@dataclass(frozen=True)
class Network:
    """A network configuration list."""

    name: str
    plugins: tuple[Mapping[str, Any], ...]
    cni_version: str = "1.0.0"


@dataclass(frozen=True)
class Attachment:
    """One interface of one container, as the runtime names it on every call."""

    container_id: str
    netns: Path
    ifname: str = "eth0"
    cni_args: Mapping[str, str] | None = None
    args: Mapping[str, Any] | None = None
    """Value of ``args`` in each plugin's configuration, as the runtime sets it."""


def bridged(
    name: str, subnets: Sequence[str], data: Path, chained: Sequence[Mapping[str, Any]] = ()
) -> Network:
    """Pods as ports of the bridge ``cni0``, by the reference ``bridge`` plugin: an address of each subnet."""
    own = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True}
    return Network(name, ({**own, "ipam": _host_local(subnets, data)}, *chained))


def routed(
    name: str, subnets: Sequence[str], data: Path, chained: Sequence[Mapping[str, Any]] = ()
) -> Network:
    """Pods behind veths of their own, by the reference ``ptp`` plugin."""
    return Network(name, ({"type": "ptp", "ipMasq": True, "ipam": _host_local(subnets, data)}, *chained))


def _host_local(subnets: Sequence[str], data: Path) -> Json:
    ranges = [[{"subnet": subnet}] for subnet in subnets]
    routes = [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets]
    return {"type": "host-local", "ranges": ranges, "dataDir": str(data), "routes": routes}


class Runtime:
    """The runtime of one machine. ``cache`` is where results live between calls."""

    def __init__(
        self, machine: Namespace, cache: Path, plugin_path: Iterable[Path] = (OUR_PLUGINS, REFERENCE_PLUGINS)
    ) -> None:
        self.machine = machine
        self.cache = cache
        self.plugin_path = tuple(plugin_path)

    def add(self, network: Network, attachment: Attachment) -> Json:
        """Return the network's result. Where a plugin fails, DEL follows at once, as runtimes do."""
        previous: Json | None = None
        try:
            for plugin in network.plugins:
                previous = json.loads(self.invoke("ADD", network, plugin, attachment, previous))
        except CniError as error:
            try:
                self.delete(network, attachment)
            except CniError as another:
                error.add_note(f"the DEL that followed failed too: {another}")
            raise
        if previous is None:
            raise ValueError(f"network {network.name} has no plugin")
        self.cache.mkdir(parents=True, exist_ok=True)
        self._cached(network, attachment).write_text(json.dumps(previous))
        return previous

    def check(self, network: Network, attachment: Attachment) -> None:
        """Call CHECK. Raises :class:`CniError` if something differs from the state that ADD left."""
        result = json.loads(self._cached(network, attachment).read_text())
        for plugin in network.plugins:
            self.invoke("CHECK", network, plugin, attachment, result)

    def delete(self, network: Network, attachment: Attachment) -> None:
        """DEL by every plugin, also after an ADD that never was."""
        kept = self._cached(network, attachment)
        result = json.loads(kept.read_text()) if kept.exists() else None
        for plugin in reversed(network.plugins):
            self.invoke("DEL", network, plugin, attachment, result)
        kept.unlink(missing_ok=True)

    def status(self, network: Network) -> None:
        """Call STATUS (since version 1.1.0). Raises :class:`CniError` (code 50) if a plugin cannot serve ADD now."""
        for plugin in network.plugins:
            self.invoke("STATUS", network, plugin, None, None)

    def collect(self, network: Network, valid: Iterable[Attachment]) -> None:
        """GC: tells every plugin which attachments are still valid. From version 1.1.0 on."""
        listed = [{"containerID": a.container_id, "ifname": a.ifname} for a in valid]
        for plugin in network.plugins:
            extended = {**plugin, "cni.dev/valid-attachments": listed}
            self.invoke("GC", network, extended, None, None)

    def invoke(
        self,
        command: str,
        network: Network,
        plugin: Mapping[str, Any],
        attachment: Attachment | None,
        previous: Json | None,
    ) -> str:
        """Return the standard output of one plugin. Raises :class:`CniError`."""
        kind = str(plugin["type"])
        configuration: Json = {**plugin, "name": network.name, "cniVersion": network.cni_version}
        if previous is not None:
            configuration["prevResult"] = previous
        if attachment is not None and attachment.args is not None:
            configuration["args"] = dict(attachment.args)
        done = subprocess.run(
            self.machine.command(str(self._find(kind))),
            input=json.dumps(configuration),
            env=self._environment(command, attachment),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise _error(kind, command, done.stdout, done.stderr)
        return done.stdout

    def _environment(self, command: str, attachment: Attachment | None) -> dict[str, str]:
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "CNI_COMMAND": command,
            "CNI_PATH": ":".join(map(str, self.plugin_path)),
        }
        if attachment is not None:
            environment["CNI_CONTAINERID"] = attachment.container_id
            environment["CNI_NETNS"] = str(attachment.netns)
            environment["CNI_IFNAME"] = attachment.ifname
            environment["CNI_ARGS"] = ";".join(f"{k}={v}" for k, v in (attachment.cni_args or {}).items())
        return environment

    def _find(self, kind: str) -> Path:
        for folder in self.plugin_path:
            if (folder / kind).exists():
                return folder / kind
        raise FileNotFoundError(f"no CNI plugin {kind} in {', '.join(map(str, self.plugin_path))}")

    def _cached(self, network: Network, attachment: Attachment) -> Path:
        return self.cache / f"{network.name}@{attachment.container_id}@{attachment.ifname}.json"


def _error(plugin: str, command: str, stdout: str, stderr: str) -> CniError:
    try:
        answer = json.loads(stdout)
        details = str(answer.get("details", ""))
        return CniError(plugin, command, int(answer["code"]), str(answer["msg"]), details)
    except (ValueError, KeyError, TypeError):
        return CniError(plugin, command, -1, "no error object on stdout", f"{stdout!r} {stderr!r}")
