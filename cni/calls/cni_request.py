"""Parse a CNI call: the pod, its host-side interfaces, its addresses.

The agent uses this module, and the plugin without the agent; the plugin does not import it on its way to the agent.
Sources: CNI specification 1.1; CNI conventions ("args in network config": ``args.cni.labels``); the runtimes'
``K8S_POD_*`` in CNI_ARGS.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Any

from .. import contract
from ..plan import PodIdentity

COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
"""Commands that are sent to an agent; the plugin answers VERSION itself."""
DEFAULT_NAMESPACE = "default"
_CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_IFNAME = re.compile(r"(?!\.{1,2}\Z)[^\s/:\0]+")
_MAX_IFNAME_BYTES = 15


class CallError(contract.CNIError):
    """The error object of a call that failed."""


@dataclass(frozen=True)
class Call:
    """One call of the runtime. Fields that the command does not need are empty: without them DEL succeeds, too."""

    command: str
    container_id: str
    ifname: str
    netns: str
    network: str
    """Name of the CNI network."""
    failure_policy: str
    """``Fail`` or ``Ignore``."""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    """Namespace, name and uid of the pod; empty if the runtime does not give them."""
    labels: Mapping[str, str] | None = None
    """Labels of the pod; None: the call has no labels, which is not the same as a pod without labels."""
    host_interfaces: tuple[str, ...] = ()
    """Interfaces of the result that are in no sandbox, in the order of the result; bridges are among them."""
    addresses: tuple[str, ...] = ()
    """Addresses of the pod, without prefix length."""
    valid_attachments: tuple[tuple[str, str], ...] = ()
    """GC: (container id, interface name) of each attachment of this network that still exists."""

    @property
    def pod(self) -> PodIdentity:
        """The pod, for selectors."""
        return PodIdentity(self.namespace, self.name, self.labels)

    @property
    def subject(self) -> str:
        """The pod, for messages."""
        return subject(self.namespace, self.name, self.container_id)


def subject(namespace: str, name: str, container_id: str) -> str:
    """Return a pod's namespace and name; the start of the container's id if the runtime has named no pod."""
    return f"pod {namespace}/{name}" if name else f"container {container_id[:12]}"


def parse_call(environment: Mapping[str, str], configuration: bytes) -> Call:
    """Parse the runtime's environment and stdin. Raises :class:`CallError`."""
    try:
        data = json.loads(configuration)
    except (ValueError, RecursionError) as error:
        raise CallError(contract.NOT_JSON, f"configuration is not JSON: {error}") from None
    data = _object("configuration", data)
    command = environment.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        wrong = f"CNI_COMMAND {command[:80]!r} is not known"
        raise CallError(contract.INVALID_ENVIRONMENT, wrong, f"use one of {', '.join(COMMANDS)}")
    if command in ("ADD", "DEL", "CHECK"):
        check_names(environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", ""))
    call = Call(
        command=command,
        container_id=environment.get("CNI_CONTAINERID", ""),
        ifname=environment.get("CNI_IFNAME", ""),
        netns=environment.get("CNI_NETNS", ""),
        network=_text("name", data.get("name", "")),
        failure_policy=_text("failurePolicy", data.get("failurePolicy", "Fail")),
    )
    if command in ("ADD", "CHECK"):
        return _with_pod(call, environment.get("CNI_ARGS", ""), data)
    if command == "GC":
        return Call(**{**vars(call), "valid_attachments": _valid_attachments(data)})
    return call


def check_names(container_id: str, ifname: str) -> None:
    """Raise :class:`CallError` if id and name cannot identify an attachment: they become the name of a file.

    CNI specification 1.1, section "Parameters"; dev_valid_name() in the kernel.
    """
    if not _CONTAINER_ID.fullmatch(container_id):
        hint = "it is letters, digits, '_', '.' and '-', with a letter or digit first"
        raise CallError(
            contract.INVALID_ENVIRONMENT, f"CNI_CONTAINERID {container_id[:80]!r} is malformed", hint
        )
    if not is_interface(ifname):
        hint = f"it is at most {_MAX_IFNAME_BYTES} bytes, not '.' or '..', without '/', ':' and white space"
        raise CallError(contract.INVALID_ENVIRONMENT, f"CNI_IFNAME {ifname[:80]!r} is malformed", hint)


def is_interface(name: str) -> bool:
    """Return True if the kernel can have an interface of this name."""
    try:
        return _IFNAME.fullmatch(name) is not None and len(os.fsencode(name)) <= _MAX_IFNAME_BYTES
    except UnicodeEncodeError:
        return False


def _with_pod(call: Call, cni_args: str, data: dict[str, Any]) -> Call:
    arguments = _cni_args(cni_args)
    result = _object("prevResult", data.get("prevResult"))
    interfaces = [
        _object(f"prevResult.interfaces[{i}]", item)
        for i, item in enumerate(_list("prevResult.interfaces", result.get("interfaces")))
    ]
    pod = {
        # As in Kubernetes; podman gives none.
        "namespace": arguments.get("K8S_POD_NAMESPACE") or DEFAULT_NAMESPACE,
        "name": arguments.get("K8S_POD_NAME", ""),
        "uid": arguments.get("K8S_POD_UID", ""),
        "labels": _labels(data),
        "host_interfaces": _host_interfaces(interfaces),
        "addresses": _addresses(result, interfaces),
    }
    return Call(**{**vars(call), **pod})


def _cni_args(text: str) -> dict[str, str]:
    """Parse ``K8S_POD_NAMESPACE=prod;K8S_POD_NAME=a``; if a name comes twice, its last value counts."""
    found = {}
    for pair in filter(None, text.split(";")):
        key, equals, value = pair.partition("=")
        if not equals:
            wrong = f"CNI_ARGS: {pair!r} is not KEY=VALUE"
            raise CallError(contract.INVALID_ENVIRONMENT, wrong, "pairs are separated by ';'")
        found[key] = value
    return found


def _labels(data: dict[str, Any]) -> dict[str, str] | None:
    arguments = _optional("args", data.get("args"))
    listed = _optional("args.cni", arguments.get("cni")).get("labels")
    if listed is None:
        return None
    labels = {}
    for i, item in enumerate(_list("args.cni.labels", listed)):
        where = f"args.cni.labels[{i}]"
        label = _object(where, item)
        labels[_text(f"{where}.key", label.get("key"))] = _text(f"{where}.value", label.get("value"))
    return labels


def _host_interfaces(interfaces: list[dict[str, Any]]) -> tuple[str, ...]:
    names = (
        _text(f"prevResult.interfaces[{i}].name", interface.get("name"))
        for i, interface in enumerate(interfaces)
        if not interface.get("sandbox")
    )
    return tuple(dict.fromkeys(filter(is_interface, names)))


def _addresses(result: dict[str, Any], interfaces: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the pod's addresses: all addresses of the result except those on an interface outside of a sandbox."""
    addresses = []
    for i, item in enumerate(_list("prevResult.ips", result.get("ips"))):
        where = f"prevResult.ips[{i}]"
        entry = _object(where, item)
        index = entry.get("interface")
        if isinstance(index, int) and 0 <= index < len(interfaces) and not interfaces[index].get("sandbox"):
            continue
        try:
            addresses.append(str(ip_interface(_text(f"{where}.address", entry.get("address"))).ip))
        except ValueError as error:
            raise _invalid(f"{where}.address", str(error), "an address with its prefix length") from None
    return tuple(dict.fromkeys(addresses))


def _valid_attachments(data: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the attachments of the runtime's list; libcni gives null for an empty one. A missing key is an error."""
    # An early text of the specification had the second name, and runtimes use either name.
    key = next((key for key in ("cni.dev/valid-attachments", "cni.dev/attachments") if key in data), None)
    if key is None:
        raise _invalid("cni.dev/valid-attachments", "is missing", "GC removes whatever it does not list")
    found = []
    for i, item in enumerate(_list(key, data[key])):
        entry = _object(f"{key}[{i}]", item)
        pair = tuple(_text(f"{key}[{i}].{name}", entry.get(name)) for name in ("containerID", "ifname"))
        found.append((pair[0], pair[1]))
    return tuple(found)


def _object(path: str, value: object) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise _invalid(path, "is missing" if value is None else "is not an object", "")


def _optional(path: str, value: object) -> dict[str, Any]:
    return {} if value is None else _object(path, value)


def _list(path: str, value: object) -> list[Any]:
    """Return a list; an absent list and null are empty lists: Go writes an empty list in both forms."""
    if value is None:
        return []
    if isinstance(value, list):
        return value
    raise _invalid(path, "is not a list", "")


def _text(path: str, value: object) -> str:
    if isinstance(value, str):
        return value
    raise _invalid(path, "is missing" if value is None else "is not a string", "")


def _invalid(path: str, wrong: str, hint: str) -> CallError:
    return CallError(contract.INVALID_CONFIGURATION, f"{path}: {wrong}", hint)
