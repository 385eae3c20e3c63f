"""Parse the fields of one object into its typed form."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, cast, get_args

from cni.plan import Requirement, Selector

from . import prefixes, selectors
from .fields import Fields, Report, kind_of
from .model import BASIC, DRAIN, SHUTTING_DOWN, VIRTUAL_IP, Gateway, Node, Policy
from .routing import routing

# dev_valid_name() in the kernel: at most 15 bytes, no '/', ':' or white space, neither '.' nor '..'.
_INTERFACE = re.compile(r"(?!\.{1,2}$)[^\s/:]+")
_NoGateway = Literal["Drop", "Direct"]
_Failback = Literal["Never", "Automatic"]
MAX_EXTERNAL_IPS = 16
"""ExternalIP addresses of a node that are used. They exempt destinations from gateways, and a kubelet writes them."""
_SOURCES = {BASIC: "primaryIPFromEgressGatewayNodeInterface", VIRTUAL_IP: "virtualIPAddress"}


def node(name: str, labels: dict[str, str], metadata: Fields, fields: Fields) -> Node:
    """Return a ``Node``: labels, addresses, pod prefixes, and the conditions that make it hand over its egress IPs."""
    spec = fields.fields("spec") or Fields({}, fields.at("spec"), fields.report)
    status = fields.fields("status")
    addresses = []
    for path, item in status.items("addresses") if status else ():
        if isinstance(item, dict) and item.get("type") == "InternalIP":
            addresses += _address(f"{path}.address", item.get("address"), fields.report)
    external = _external(item for _, item in status.items("addresses")) if status else ()
    networks, cordoned = prefix_list(spec, "podCIDRs"), spec.flag("unschedulable")
    annotations = metadata.fields("annotations")
    # Any other value is ignored, not an error: an error would leave the whole Node out.
    drained = annotations is not None and annotations.raw(DRAIN) == "true"
    conditions = [item for _, item in status.items("conditions")] if status else []
    return Node(
        name, labels, tuple(addresses), fields.report.source, networks, cordoned, drained, is_stopping(conditions),
        external, _created(metadata),
    )  # fmt: skip


def _external(items: Iterable[Any]) -> tuple[str, ...]:
    """Return the addresses of type ``ExternalIP``, at most :data:`MAX_EXTERNAL_IPS`.

    Invalid and surplus addresses are ignored: packets to them use the gateway, as packets to any other address.
    """
    found = []
    for item in items:
        if (
            isinstance(item, dict)
            and item.get("type") == "ExternalIP"
            and isinstance(item.get("address"), str)
        ):
            with contextlib.suppress(ValueError):
                found.append(prefixes.address(item["address"]))
    return tuple(found[:MAX_EXTERNAL_IPS])


def is_stopping(conditions: Iterable[Any]) -> bool:
    """Return True if one of a node's conditions reports a shutdown of the machine."""
    ready = (item for item in conditions if isinstance(item, dict) and item.get("type") == "Ready")
    return any(SHUTTING_DOWN in str(item.get("message")) for item in ready)


def gateway(name: str, metadata: Fields, spec: Fields) -> Gateway:
    """Parse the ``spec`` of an ``EgressGateway``."""
    parsed = Gateway(
        name=name,
        node_selector=_node_selector(spec),
        mode="",
        when_no_gateway=cast("_NoGateway", spec.choice("whenNoGateway", get_args(_NoGateway), "Drop")),
        failback=cast("_Failback", spec.choice("failback", get_args(_Failback), "Never")),
        connection_sync=spec.flag("connectionSync"),
        source=spec.report.source,
        created=_created(metadata),
    )
    source_ip = spec.fields("sourceIP", required=True)
    shown, table_name = _with_source(parsed, source_ip) if source_ip else (parsed, "")
    shown = replace(shown, routing=routing(spec, shown.addresses, table_name))
    spec.end()
    return shown


def _node_selector(spec: Fields) -> tuple[Requirement, ...]:
    wanted = spec.fields("nodeSelector", required=True, hint="labels of the egress nodes")
    if wanted is None:
        return ()
    before = len(spec.report.problems)
    found = selectors.node_requirements(wanted)
    if not found and len(spec.report.problems) == before:
        spec.add("nodeSelector", "is empty", "it would select every node: name their labels")
    return found


def _with_source(parsed: Gateway, source_ip: Fields) -> tuple[Gateway, str]:
    """Return the gateway with the values of ``spec.sourceIP``, and Deckhouse's ``routingTableName`` if it is given."""
    mode = source_ip.choice("mode", tuple(_SOURCES), required=True)
    for other, name in _SOURCES.items():
        if mode and other != mode and source_ip.raw(name) is not None:
            source_ip.add(name, f"has no meaning in mode {mode}", "leave it out, or change the mode")
    own = source_ip.fields(_SOURCES[mode], required=True) if mode else None
    source_ip.end(besides=_SOURCES.values())
    if own is None:
        return parsed, ""
    if mode == BASIC:
        interface = own.text("interfaceName", required=True, hint="as eth1")
        _check_interface(own.at("interfaceName"), interface, own.report)
        own.end()
        return replace(parsed, mode=mode, interface=interface), ""
    return _with_addresses(replace(parsed, mode=mode), own)


def _with_addresses(parsed: Gateway, own: Fields) -> tuple[Gateway, str]:
    single, several = own.raw("ip"), own.raw("ips")
    if (single is None) == (several is None):
        own.add("ip", "is required" if single is None else "is given beside ips", "either ip or ips")
    addresses = _address(own.at("ip"), single, own.report) if single is not None else []
    for path, text in own.texts("ips", required=several is not None):
        addresses += _address(path, text, own.report)
    if len(set(addresses)) < len(addresses):
        own.add("ips", "one address is listed twice")
    interfaces = []
    for path, interface in own.texts("interfaces"):
        _check_interface(path, interface, own.report)
        interfaces.append(interface)
    table_name = own.text("routingTableName")
    own.end()
    return replace(parsed, addresses=tuple(addresses), interfaces=tuple(interfaces)), table_name


def policy(name: str, metadata: Fields, spec: Fields) -> Policy:
    """Parse the ``spec`` of an ``EgressGatewayPolicy``."""
    parsed = Policy(
        name=name,
        gateway=spec.text("egressGatewayName", required=True, hint="the name of an EgressGateway"),
        selectors=tuple(_selectors(spec)),
        destinations=prefix_list(spec, "destinationCIDRs"),
        excluded=prefix_list(spec, "excludedCIDRs"),
        created=_created(metadata),
        source=spec.report.source,
    )
    spec.end()
    return parsed


def _selectors(spec: Fields) -> Iterator[Selector]:
    hint = "as [{podSelector: {matchLabels: {app: backend}}}]"
    for path, item in spec.items("selectors", required=True, hint=hint):
        if not isinstance(item, dict):
            spec.report.add(path, f"must be a mapping, not {kind_of(item)}", hint)
            continue
        fields = Fields(item, path, spec.report)
        pods, namespaces = fields.fields("podSelector"), fields.fields("namespaceSelector")
        if pods is None and namespaces is None:
            spec.report.add(path, "selects by nothing", "podSelector: {} selects every pod")
        fields.end()
        yield Selector(
            selectors.requirements(pods) if pods else (),
            selectors.requirements(namespaces) if namespaces else None,
        )


def _created(metadata: Fields) -> str:
    """Return ``creationTimestamp`` in UTC and whole seconds, so that texts sort like times; empty if absent."""
    text = metadata.text("creationTimestamp")
    try:
        moment = datetime.fromisoformat(text) if text else None
    except ValueError:
        moment = None
    if moment is not None and moment.tzinfo is not None:
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if text:
        metadata.add("creationTimestamp", f"{text!r} is no RFC 3339 time", "as 2026-11-21T21:00:00Z")
    return ""


def prefix_list(fields: Fields, name: str) -> tuple[str, ...]:
    """Return a list of prefixes in canonical form. Invalid ones are reported and left out."""
    found: list[str] = []
    for path, text in fields.texts(name):
        found += _prefix(path, text, fields.report)
    return tuple(found)


def address_list(fields: Fields, name: str) -> tuple[str, ...]:
    """Return a list of addresses in canonical form. Invalid ones are reported and left out."""
    found: list[str] = []
    for path, text in fields.texts(name):
        found += _address(path, text, fields.report)
    return tuple(found)


def _prefix(path: str, text: str, report: Report) -> list[str]:
    try:
        return [prefixes.prefix(text)]
    except prefixes.NotAPrefix as error:
        report.add(path, str(error), error.hint)
        return []


def _address(path: str, text: Any, report: Report) -> list[str]:
    try:
        return [prefixes.address(text if isinstance(text, str) else "")]
    except ValueError:
        report.add(path, f"{text!r} is not an IP address", "as 172.16.0.7")
        return []


def _check_interface(path: str, name: str, report: Report) -> None:
    if name and (not _INTERFACE.fullmatch(name) or not name.isprintable() or len(name.encode()) > 15):
        hint = "at most 15 characters, no '/', ':' or space"
        report.add(path, f"{name!r} cannot be the name of an interface", hint)
