"""Ask a container runtime over its CRI socket which CNI configuration it has loaded, as ``crictl info`` does.

containerd reports it. CRI-O does not: its answer has no CNI configuration.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import grpc_call

STATUS = "/runtime.v1.RuntimeService/Status"
VERBOSE = b"\x08\x01"
"""``StatusRequest`` with field 1, ``verbose``, true."""
LOOPBACK = "loopback"
_VARINT, _FIXED_8, _BYTES, _FIXED_4 = 0, 1, 2, 5


@dataclass(frozen=True)
class Loaded:
    """The CNI configuration that a runtime uses for the pods that it starts."""

    name: str = ""
    """Name of the network; empty if it has loaded none."""
    plugins: tuple[str, ...] = ()
    """Types of its plugins, in order."""
    directory: str = ""
    """Directory that the configuration was read from."""
    error: str = ""
    """Reason why the last attempt to load failed; empty if it did not."""


def loaded(socket: Path) -> Loaded | None:
    """Return what the runtime has loaded; None if it does not report it. Raises OSError and ValueError."""
    return of_answer(grpc_call.call(socket, STATUS, VERBOSE))


def of_answer(message: bytes) -> Loaded | None:
    """Return what a ``StatusResponse`` reports as loaded; None if it reports nothing. Raises ValueError."""
    info: dict[str, str] = {}
    for number, value in _fields(message):
        if number == 2:
            entry = dict(_fields(value))
            info[entry.get(1, b"").decode()] = entry.get(2, b"").decode()
    if "cniconfig" not in info:
        return None
    whole = _parsed(info["cniconfig"])
    # After a load that has failed only the runtime's own configuration names the directory.
    own = _parsed(info.get("config", "{}"))
    named = own.get("cni") if isinstance(own, dict) else None
    configured = [named["confDir"]] if isinstance(named, dict) and named.get("confDir") else []
    directories = _list(whole, "PluginConfDirs") or configured
    said = _text(info.get("lastCNILoadStatus", "OK"))
    found = [network for network in _networks(whole) if network.plugins != (LOOPBACK,)]
    first = found[0] if found else Loaded()
    directory = str(directories[0]) if directories else ""
    return Loaded(first.name, first.plugins, directory, "" if said == "OK" else said)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _text(said: str) -> str:
    """Return a text that containerd has written as it is or as JSON."""
    return said.strip().strip('"')


def _networks(whole: Any) -> Iterator[Loaded]:
    for network in _list(whole, "Networks"):
        config = network.get("Config") if isinstance(network, dict) else None
        if isinstance(config, dict):
            kinds = (plugin.get("Network") for plugin in _list(config, "Plugins") if isinstance(plugin, dict))
            types = tuple(str(kind.get("type")) for kind in kinds if isinstance(kind, dict))
            yield Loaded(str(config.get("Name") or ""), types)


def _list(whole: Any, name: str) -> list[Any]:
    found = whole.get(name) if isinstance(whole, Mapping) else None
    return found if isinstance(found, list) else []


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of each field of a protobuf message that has bytes. Raises ValueError."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind in (_FIXED_8, _FIXED_4):
            at += 8 if kind == _FIXED_8 else 4
        elif kind == _BYTES:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("a message that ends too early")
            yield tag >> 3, message[at : at + size]
            at += size
        else:
            raise ValueError(f"a field of the unknown kind {kind}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return a number and the position after it. Raises ValueError."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("a message that ends too early")
        value |= (message[at] & 0x7F) << shift
        at += 1
        if not message[at - 1] & 0x80:
            return value, at
    raise ValueError("a number that is too long")
