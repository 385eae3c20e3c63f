"""YAML documents to objects: what the store says, and everything that is wrong with it.

A directory may hold anything of Kubernetes: kinds of other groups are passed over. Of our own kinds each
field is known or an error. An object with an error is left out; the others stay.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from cni.plan import PodIdentity

from . import selectors, typed_objects, yaml_documents
from .fields import Fields, Report, kind_of, resembling
from .model import Gateway, Inventory, Node, Policy, Problem

API_VERSIONS = ("egress-gateway.io/v1alpha1", "network.deckhouse.io/v1alpha1")
GROUPS = tuple(version.partition("/")[0] for version in API_VERSIONS)
OUR_KINDS = ("EgressGateway", "EgressGatewayPolicy")
CORE_KINDS = ("Node", "Namespace", "Pod")
SERVICE_CIDR = "ServiceCIDR"
FOREIGN = {*(("v1", kind) for kind in CORE_KINDS), ("networking.k8s.io/v1", SERVICE_CIDR)}
"""Kinds that are not ours and that we read, with their ``apiVersion``."""
ALIKE = 0.8
"""From this on (:mod:`difflib`) a group is taken for a slip of ours."""
LARGEST = 16 << 20
"""Bytes of one file; more is refused, so that a stray file cannot fill the memory."""
MAX_PROBLEMS_PER_FILE = 500
"""Problems of one file."""
ENDINGS = (".yaml", ".yml", ".json")
"""How the names of files with manifests end."""


@dataclass(frozen=True)
class Object:
    """One object of a file. ``name`` is ``namespace/name`` where the kind has namespaces."""

    kind: str
    name: str
    source: str
    value: Gateway | Policy | Node | PodIdentity | Mapping[str, str] | tuple[str, ...]
    """For a ``Namespace`` its labels, for a ``ServiceCIDR`` its prefixes."""
    on_host: str | None = None
    """The node of a ``Pod`` that uses the node's network, empty if the pod does not name it; None for all others."""


@dataclass(frozen=True)
class FileContent:
    """What one file holds."""

    objects: tuple[Object, ...]
    problems: tuple[Problem, ...]
    broken: bool
    """Something in it could not be read: ``objects`` are not all that its owner meant."""


def parse(files: Iterable[tuple[str, str]]) -> Inventory:
    """The inventory of these ``(source, text)`` files. Never raises for what stands in them."""
    return assemble({source: parse_file(source, text) for source, text in files})


def parse_file(source: str, text: str) -> FileContent:
    """The objects of one file. Never raises for what stands in it."""
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
    """One object of the API. Never raises for what stands in it."""
    report = Report(source)
    parsed = _read(value, "", report)
    broken = bool(report.problems)
    return FileContent(() if parsed is None or broken else (parsed,), tuple(report.problems), broken)


def repaired(content: FileContent, good: FileContent) -> FileContent:
    """Return what counts of a file of which something cannot be read: what can be, beside its last good state.

    An object that is not in it any more stays, too: it may be the one that cannot be read.
    """
    read = {(item.kind, item.name) for item in content.objects}
    kept = tuple(item for item in good.objects if (item.kind, item.name) not in read)
    return FileContent((*content.objects, *kept), content.problems, broken=True)


def readable(source: str, *texts: str) -> str:
    """Return the text of a file with all objects that can be read: of two with one name that of the earlier text."""
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
    """All files together, by the order of their names: of two objects with one name the first counts."""
    problems = [problem for name in sorted(contents) for problem in contents[name].problems]
    first: dict[tuple[str, str], Object] = {}
    for name in sorted(contents):
        for item in contents[name].objects:
            standing = first.setdefault((item.kind, item.name), item)
            if standing is not item:
                message = f"{item.kind} {item.name!r} stands in {standing.source} too"
                problems.append(Problem(item.source, "metadata.name", message, "the first one counts"))
    values: dict[str, list[Any]] = {kind: [] for kind in (*OUR_KINDS, *CORE_KINDS, SERVICE_CIDR)}
    for (kind, _), item in sorted(first.items()):
        values[kind].append(item.value)
    problems.extend(_references(values["EgressGateway"], values["EgressGatewayPolicy"]))
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
    """The same objects, with more to mend."""
    return replace(inventory, problems=inventory.problems + tuple(problems))


def _references(gateways: Iterable[Gateway], policies: Iterable[Policy]) -> Iterator[Problem]:
    names = {gateway.name for gateway in gateways}
    for policy in policies:
        if policy.gateway not in names:
            message = f"there is no EgressGateway {policy.gateway!r}: what the policy selects is dropped"
            yield Problem(policy.source, "spec.egressGatewayName", message, resembling(policy.gateway, names))


def _items(document: Any) -> Iterator[tuple[str, Any]]:
    """The document itself or, of a ``List``, its items; each with its path."""
    items = document.get("items") if isinstance(document, dict) and document.get("kind") == "List" else None
    if not isinstance(items, list):
        yield "", document
        return
    for index, item in enumerate(items):
        yield f"items[{index}]", item


def _read(value: Any, path: str, report: Report) -> Object | None:
    """Read one object. An error that no reader foresaw is a problem of this object, too."""
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
        parsed = typed_objects.gateway(name, spec) if gateway else typed_objects.policy(name, metadata, spec)
        return Object(kind, name, report.source, parsed)
    if kind == SERVICE_CIDR:
        spec = fields.fields("spec")
        return Object(kind, name, report.source, typed_objects.prefix_list(spec, "cidrs") if spec else ())
    return _core_object(kind, name, fields, metadata)


def _concerns_us(fields: Fields, version: str, kind: str) -> bool:
    """Whether it is of a kind that we read; what can only be a slip is reported."""
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
    """Return True if the ``apiVersion`` of one of our kinds can only be meant for ours.

    Other projects have kinds of the same names, in groups that resemble ours less.
    """
    group, slash, _ = version.lower().partition("/")
    return not slash or bool(difflib.get_close_matches(group, GROUPS, n=1, cutoff=ALIKE))


def _name(metadata: Fields) -> str:
    name = metadata.text("name", required=True)
    if name and not selectors.is_name(name):
        hint = f"lower-case letters, digits, '-' and '.', at most {selectors.NAME_LIMIT} characters"
        metadata.add("name", f"{name!r} is no DNS subdomain", hint)
    return name


def _core_object(kind: str, name: str, fields: Fields, metadata: Fields) -> Object:
    """A ``Node``, ``Namespace`` or ``Pod``: only what we use is read."""
    raw = metadata.raw("labels")
    labels = selectors.labels(raw, metadata.at("labels"), fields.report) if raw is not None else {}
    source = fields.report.source
    if kind == "Namespace":
        return Object(kind, name, source, labels)
    if kind == "Pod":
        namespace = metadata.text("namespace", "default")
        spec = fields.fields("spec")
        on_host = spec.text("nodeName") if spec and spec.flag("hostNetwork") else None
        return Object(kind, f"{namespace}/{name}", source, PodIdentity(namespace, name, labels), on_host)
    return Object(
        kind, name, source, typed_objects.node(name, labels, metadata.fields("annotations"), fields)
    )
