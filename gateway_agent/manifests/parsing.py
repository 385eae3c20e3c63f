"""Parse YAML documents and API objects into an inventory, and report every problem in them.

A directory may hold any Kubernetes objects: kinds of other groups are ignored. In our own kinds an unknown field is
an error. An object with an error is left out; the other objects count.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from cni.plan import PodIdentity

from . import prefixes, selectors, typed_objects, yaml_documents
from .fields import Fields, Report, kind_of, resembling
from .model import BASIC, Fault, Gateway, Inventory, Node, Policy, Problem

API_VERSIONS = ("egress-gateway.io/v1alpha1", "network.deckhouse.io/v1alpha1")
GROUPS = tuple(version.partition("/")[0] for version in API_VERSIONS)
OUR_KINDS = ("EgressGateway", "EgressGatewayPolicy")
CORE_KINDS = ("Node", "Namespace", "Pod")
SERVICE_CIDR = "ServiceCIDR"
FOREIGN = {*(("v1", kind) for kind in CORE_KINDS), ("networking.k8s.io/v1", SERVICE_CIDR)}
"""Kinds of Kubernetes itself that the agent reads, as (``apiVersion``, kind)."""
MIN_GROUP_SIMILARITY = 0.8
"""Ratio (:mod:`difflib`) above which an unknown API group counts as a misspelling of ours."""
MAX_FILE_BYTES = 16 << 20
"""Size of one file. A larger file is refused, so that a stray file cannot fill the memory."""
MAX_PROBLEMS_PER_FILE = 500
"""Problems listed for one file."""
SUFFIXES = (".yaml", ".yml", ".json")
"""Suffixes of the names of manifest files."""


@dataclass(frozen=True)
class Object:
    """One object of a file. ``name`` is ``namespace/name`` if the kind is namespaced."""

    kind: str
    name: str
    source: str
    value: Gateway | Policy | Node | PodIdentity | Mapping[str, str] | tuple[str, ...]
    """The labels of a ``Namespace``; the prefixes of a ``ServiceCIDR``."""
    on_host: str | None = None
    """The node of a ``Pod`` with ``hostNetwork``, empty if the pod has no ``nodeName``; None for all other objects."""
    node: str = ""
    """``spec.nodeName`` of any other ``Pod``."""


@dataclass(frozen=True)
class FileContent:
    """The objects and problems of one file."""

    objects: tuple[Object, ...]
    problems: tuple[Problem, ...]
    broken: bool
    """True if a part of the file could not be read: ``objects`` is incomplete."""


def parse(files: Iterable[tuple[str, str]]) -> Inventory:
    """Return the inventory of these ``(source, text)`` files. Never raises for any content."""
    return assemble({source: parse_file(source, text) for source, text in files})


def parse_file(source: str, text: str) -> FileContent:
    """Return the objects of one file. Never raises for any content."""
    found, problems = yaml_documents.load(source, text)
    objects: list[Object] = []
    for name, document in found:
        for path, item in _items(document):
            report = Report(name)
            parsed = _read(item, path, report)
            if parsed is not None and not report.problems:
                objects.append(parsed)
            problems.extend(report.problems)
    broken = bool(problems)
    if len(problems) > MAX_PROBLEMS_PER_FILE:
        problems[MAX_PROBLEMS_PER_FILE:] = [
            Problem(source, "", f"{len(problems)} problems, of which {MAX_PROBLEMS_PER_FILE} are listed")
        ]
    return FileContent(tuple(objects), tuple(problems), broken)


def parse_object(source: str, value: Any) -> FileContent:
    """Parse one object of the API. Never raises for any content."""
    report = Report(source)
    parsed = _read(value, "", report)
    broken = bool(report.problems)
    return FileContent(() if parsed is None or broken else (parsed,), tuple(report.problems), broken)


def repaired(content: FileContent, good: FileContent) -> FileContent:
    """Return the effective content of a broken file: its readable objects, and the others of its last good content.

    An object that is missing from the broken file is kept: it may be the unreadable one.
    """
    read = {(item.kind, item.name) for item in content.objects}
    kept = tuple(item for item in good.objects if (item.kind, item.name) not in read)
    return FileContent((*content.objects, *kept), content.problems, broken=True)


def readable(source: str, *texts: str) -> str:
    """Return one YAML text with all readable objects of ``texts``.

    If two objects have the same kind and name, the object of the earlier text is kept.
    """
    kept: dict[tuple[str, str], Any] = {}
    for text in texts:
        for name, document in yaml_documents.load(source, text)[0]:
            for path, item in _items(document):
                report = Report(name)
                parsed = _read(item, path, report)
                if parsed is not None and not report.problems:
                    kept.setdefault((parsed.kind, parsed.name), item)
    return yaml_documents.dump({"kind": "List", "items": list(kept.values())})


def assemble(contents: Mapping[str, FileContent]) -> Inventory:
    """Return the inventory of all files, in the order of their names.

    If two objects have the same kind and name, the first one counts and the second one is a problem.
    """
    problems = [problem for name in sorted(contents) for problem in contents[name].problems]
    first: dict[tuple[str, str], Object] = {}
    for name in sorted(contents):
        for item in contents[name].objects:
            earlier = first.setdefault((item.kind, item.name), item)
            if earlier is not item:
                message = f"{item.kind} {item.name!r} is defined in {earlier.source} too"
                problems.append(Problem(item.source, "metadata.name", message, "the first one counts"))
    values: dict[str, list[Any]] = {kind: [] for kind in (*OUR_KINDS, *CORE_KINDS, SERVICE_CIDR)}
    for (kind, _), item in sorted(first.items()):
        values[kind].append(item.value)
    problems.extend(_references(values["EgressGateway"], values["EgressGatewayPolicy"]))
    problems.extend(_without_effect(values["EgressGateway"]))
    return Inventory(
        gateways=tuple(values["EgressGateway"]),
        policies=tuple(values["EgressGatewayPolicy"]),
        nodes=tuple(values["Node"]),
        namespaces={
            name: cast("Mapping[str, str]", first[kind, name].value)
            for kind, name in sorted(first)
            if kind == "Namespace"
        },
        pods=tuple(values["Pod"]),
        on_host={
            (pod.namespace, pod.name): item.on_host
            for item in first.values()
            if item.on_host is not None and isinstance(pod := item.value, PodIdentity)
        },
        service_cidrs=tuple(cidr for cidrs in values[SERVICE_CIDR] for cidr in cidrs),
        problems=tuple(problems),
    )


def with_problems(inventory: Inventory, problems: Iterable[Problem]) -> Inventory:
    """Return the same objects with these problems added."""
    return replace(inventory, problems=inventory.problems + tuple(problems))


def _references(gateways: Iterable[Gateway], policies: Iterable[Policy]) -> Iterator[Problem]:
    names = {gateway.name for gateway in gateways}
    for policy in policies:
        if policy.gateway not in names:
            message = f"there is no EgressGateway {policy.gateway!r}: what the policy selects is dropped"
            hint = resembling(policy.gateway, names)
            yield Problem(policy.source, "spec.egressGatewayName", message, hint, Fault.ORPHAN)


def _without_effect(gateways: Iterable[Gateway]) -> Iterator[Problem]:
    """Yield a problem for each field without effect in its gateway, which is served all the same."""
    for gateway in gateways:
        if gateway.connection_sync and gateway.mode == BASIC:
            hint = "connections are copied for virtual addresses only"
            yield Problem(gateway.source, "spec.connectionSync", f"has no effect in mode {BASIC}", hint)
        shown = {prefixes.number(address)[0] for address in gateway.addresses} or {4}
        for hop in gateway.routing.next_hops if gateway.routing else ():
            family = prefixes.number(hop)[0]
            if family not in shown:
                message = f"{hop} has no effect: the gateway shows no IPv{family} address"
                yield Problem(gateway.source, "spec.routing.nextHops", message)


def _items(document: Any) -> Iterator[tuple[str, Any]]:
    """Yield ``(path, object)``: the document itself, or the items of a ``List``."""
    items = document.get("items") if isinstance(document, dict) and document.get("kind") == "List" else None
    if not isinstance(items, list):
        yield "", document
        return
    for index, item in enumerate(items):
        yield f"items[{index}]", item


def _read(value: Any, path: str, report: Report) -> Object | None:
    """Return one object; None with a problem in ``report``, also for an unexpected exception."""
    try:
        return _object(value, path, report)
    except Exception as error:
        report.add(path, f"cannot be read: {type(error).__name__}: {error}")
        return None


def _object(value: Any, path: str, report: Report) -> Object | None:
    if not isinstance(value, dict):
        report.add(path, f"is no Kubernetes object: {kind_of(value)} instead of a mapping")
        return None
    fields = Fields(value, path, report)
    version, kind = fields.text("apiVersion"), fields.text("kind", required=True)
    if report.problems or not _concerns_us(fields, version, kind):
        return None
    metadata = fields.fields("metadata", required=True)
    name = _name(metadata) if metadata else ""
    if metadata is None or not name:
        return None
    if kind in OUR_KINDS:
        spec = fields.fields("spec", required=True)
        fields.end(besides=("status",))
        if spec is None:
            return None
        gateway = kind == "EgressGateway"
        parsed = (
            typed_objects.gateway(name, metadata, spec)
            if gateway
            else typed_objects.policy(name, metadata, spec)
        )
        return Object(kind, name, report.source, parsed)
    if kind == SERVICE_CIDR:
        spec = fields.fields("spec")
        return Object(kind, name, report.source, typed_objects.prefix_list(spec, "cidrs") if spec else ())
    return _core_object(kind, name, fields, metadata)


def _concerns_us(fields: Fields, version: str, kind: str) -> bool:
    """Return True if the agent reads objects of this kind. Report a misspelled ``apiVersion`` or kind."""
    group = version.partition("/")[0]
    if version in API_VERSIONS:
        if kind not in OUR_KINDS:
            fields.add("kind", f"{version} has no kind {kind!r}", resembling(kind, OUR_KINDS))
        return kind in OUR_KINDS
    if group in GROUPS or (kind in OUR_KINDS and _is_slip(version)):
        what = f"{version!r} is not known" if version else "is required"
        fields.add("apiVersion", what, f"use {API_VERSIONS[0]}")
    elif not version and kind in CORE_KINDS:
        fields.add("apiVersion", "is required", "use v1")
    elif version == "v1" and kind not in CORE_KINDS and kind.capitalize() in CORE_KINDS:
        fields.add("kind", f"v1 has no kind {kind!r}", resembling(kind, CORE_KINDS))
    return (version, kind) in FOREIGN


def _is_slip(version: str) -> bool:
    """Return True if the ``apiVersion`` of one of our kinds is a misspelling of ours.

    Other projects have kinds with the same names in groups that are less similar to ours.
    """
    group, slash, _ = version.lower().partition("/")
    return not slash or bool(difflib.get_close_matches(group, GROUPS, n=1, cutoff=MIN_GROUP_SIMILARITY))


def _name(metadata: Fields) -> str:
    name = metadata.text("name", required=True)
    if name and not selectors.is_name(name):
        hint = f"lower-case letters, digits, '-' and '.', at most {selectors.MAX_NAME_CHARS} characters"
        metadata.add("name", f"{name!r} is no DNS subdomain", hint)
    return name


def _core_object(kind: str, name: str, fields: Fields, metadata: Fields) -> Object:
    """Return a ``Node``, ``Namespace`` or ``Pod``. Fields that the agent does not use are ignored."""
    raw = metadata.raw("labels")
    labels = selectors.labels(raw, metadata.at("labels"), fields.report) if raw is not None else {}
    source = fields.report.source
    if kind == "Namespace":
        return Object(kind, name, source, labels)
    if kind == "Pod":
        namespace = metadata.text("namespace", "default")
        spec = fields.fields("spec")
        on_host = spec.text("nodeName") if spec and spec.flag("hostNetwork") else None
        # Agents do not use this field, so a wrong value is no error.
        node = spec.raw("nodeName") if spec and on_host is None else ""
        pod = PodIdentity(namespace, name, labels)
        return Object(
            kind, f"{namespace}/{name}", source, pod, on_host, node if isinstance(node, str) else ""
        )
    return Object(kind, name, source, typed_objects.node(name, labels, metadata, fields))
