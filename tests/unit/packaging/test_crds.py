"""The resource definitions let in what the agent reads, and refuse what it would report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from gateway_agent.manifests.parsing import parse_object
from tests.lab import documents
from tests.lab.apiserver.judge import Judge, judging
from tests.lab.apiserver.schema import Schema, schemas

SCHEMAS = schemas()
VIRTUAL = documents.virtual_gateway("g", ["172.16.0.50"], ["eth1"])
SEVERAL = documents.virtual_gateway("g", ["172.16.0.50", "2001:db8::1"])
BASIC = documents.gateway("g", "eth1")
POLICY = documents.policy("p", "g", {"app": "backend"}, ["203.0.113.0/24"], ["203.0.113.7/32"])


def changed(document: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return the document with another value at this path of its ``spec``; None takes the field away."""
    name, _, rest = path.partition(".")
    inner = changed(document.get(name) or {}, rest, value) if rest else value
    return {key: item for key, item in {**document, name: inner}.items() if item is not None}


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    with judging(tmp_path_factory.mktemp("judge")) as made:
        yield made


def verdicts(judge: Judge, document: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the objections of the definition and those of the agent."""
    _, refused = judge(document)
    return refused, [str(problem) for problem in parse_object("it", document).problems]


@pytest.mark.parametrize(
    ("document", "path", "value"),
    [
        (BASIC, "spec", BASIC["spec"]),
        (VIRTUAL, "spec", VIRTUAL["spec"]),
        (SEVERAL, "spec", SEVERAL["spec"]),
        (POLICY, "spec", POLICY["spec"]),
        (BASIC, "spec.nodeSelector", {"matchLabels": {"a": "b"}}),
        (BASIC, "spec.nodeSelector", {"matchExpressions": [{"key": "a", "operator": "Exists"}]}),
        (BASIC, "spec.whenNoGateway", "Direct"),
        (VIRTUAL, "spec.failback", "Automatic"),
        (VIRTUAL, "spec.connectionSync", True),
        (VIRTUAL, "spec.sourceIP.virtualIPAddress.routingTableName", "table"),
        (VIRTUAL, "spec.routing", {"nextHops": ["172.16.0.1"], "prefixLength": 24}),
        (VIRTUAL, "spec.routing", {"table": 500}),
        (VIRTUAL, "spec.sourceIP.virtualIPAddress.interfaces", None),
        (POLICY, "spec.destinationCIDRs", []),
        (POLICY, "spec.destinationCIDRs", ["::/0", "0.0.0.0/0"]),
        (POLICY, "spec.selectors", [{"podSelector": {}}]),
        (POLICY, "spec.selectors", [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]),
        (
            POLICY,
            "spec.selectors",
            [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}}],
        ),
    ],
)
def test_both_take_it(judge: Judge, document: dict[str, Any], path: str, value: Any) -> None:
    assert verdicts(judge, changed(document, path, value)) == ([], [])


@pytest.mark.parametrize(
    ("document", "path", "value"),
    [
        (BASIC, "spec", None),
        (BASIC, "spec.nodeSelector", None),
        (BASIC, "spec.nodeSelector", {}),
        (BASIC, "spec.routing", {}),
        (BASIC, "spec.routing", {"nextHops": []}),
        (BASIC, "spec.routing", {"nextHops": ["router"]}),
        (BASIC, "spec.routing", {"nextHops": ["172.16.0.1"], "table": 500}),
        (BASIC, "spec.routing", {"table": 0}),
        (BASIC, "spec.routing", {"nextHops": ["172.16.0.1"], "prefixLength": 33}),
        (BASIC, "spec.routing", {"nextHops": ["172.16.0.1"], "prefixLength6": 0}),
        (BASIC, "spec.sourceIP", None),
        (BASIC, "spec.sourceIP.mode", "Other"),
        (BASIC, "spec.sourceIP.mode", "VirtualIPAddress"),
        (BASIC, "spec.sourceIP.primaryIPFromEgressGatewayNodeInterface", None),
        (BASIC, "spec.sourceIP.primaryIPFromEgressGatewayNodeInterface", {}),
        (BASIC, "spec.sourceIP.primaryIPFromEgressGatewayNodeInterface.interfaceName", "sixteen-letters-"),
        (BASIC, "spec.sourceIP.primaryIPFromEgressGatewayNodeInterface.interfaceName", "a/b"),
        (BASIC, "spec.sourceIP.primaryIPFromEgressGatewayNodeInterface.interfaceName", ".."),
        (BASIC, "spec.sourceIP.virtualIPAddress", {"ip": "172.16.0.50"}),
        (BASIC, "spec.whenNoGateway", "Refuse"),
        (BASIC, "spec.failback", "Sometimes"),
        (BASIC, "spec.connectionSync", "yes"),
        (VIRTUAL, "spec.sourceIP.virtualIPAddress", {}),
        (VIRTUAL, "spec.sourceIP.virtualIPAddress.ips", ["172.16.0.51"]),
        (VIRTUAL, "spec.sourceIP.virtualIPAddress.ip", "172.16.0.500"),
        (VIRTUAL, "spec.sourceIP.virtualIPAddress.ip", "172.16.0.50/24"),
        (VIRTUAL, "spec.sourceIP.virtualIPAddress.interfaces", ["a b"]),
        (SEVERAL, "spec.sourceIP.virtualIPAddress.ips", []),
        (SEVERAL, "spec.sourceIP.virtualIPAddress.ips", ["172.16.0.50", "172.16.0.50"]),
        (SEVERAL, "spec.sourceIP.virtualIPAddress.ips", ["172.16.0.50", "x"]),
        (POLICY, "spec.egressGatewayName", None),
        (POLICY, "spec.egressGatewayName", ""),
        (POLICY, "spec.selectors", None),
        (POLICY, "spec.selectors", []),
        (POLICY, "spec.selectors", [{}]),
        (
            POLICY,
            "spec.selectors",
            [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}],
        ),
        (POLICY, "spec.selectors", [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]),
        (
            POLICY,
            "spec.selectors",
            [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}],
        ),
        (POLICY, "spec.destinationCIDRs", ["203.0.113.0"]),
        (POLICY, "spec.destinationCIDRs", ["203.0.113.7/24"]),
        (POLICY, "spec.destinationCIDRs", ["203.0.113.0/33"]),
        (POLICY, "spec.excludedCIDRs", ["203.0.113.0/255.255.255.0"]),
        (POLICY, "spec.excludedCIDRs", "203.0.113.0/24"),
    ],
)
def test_both_refuse_it(judge: Judge, document: dict[str, Any], path: str, value: Any) -> None:
    refused, reported = verdicts(judge, changed(document, path, value))
    if judge.disputed(changed(document, path, value)):
        pytest.skip("this server is older than CEL")
    assert refused
    assert reported


def test_defaults_are_those_of_the_agent(judge: Judge) -> None:
    bare = VIRTUAL
    for name in ("whenNoGateway", "failback", "connectionSync"):
        bare = changed(bare, f"spec.{name}", None)
    stored, problems = judge(bare)
    assert not problems
    assert stored == changed(VIRTUAL, "spec", {**VIRTUAL["spec"]})
    assert parse_object("it", stored) == parse_object("it", bare)


def test_what_is_not_known_is_not_stored(judge: Judge) -> None:
    stored, problems = judge(changed(POLICY, "spec.destinationCIDR", ["10.0.0.0/8"]))
    assert (stored, problems) == (POLICY, [])


def nodes(path: str, schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Yield a schema and all below it, each with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(f"{path}.{name}", child)
    for name in ("items", "additionalProperties"):
        if name in schema:
            yield from nodes(f"{path}[]", schema[name])


@pytest.mark.parametrize("plural", SCHEMAS)
def test_schemas_are_structural(plural: str) -> None:
    """Every node has a type; lists and texts have a limit, which the cost of the rules is reckoned by."""
    for path, schema in nodes("", SCHEMAS[plural]):
        assert "type" in schema, path
        if path.startswith(".spec.") and schema["type"] in ("array", "string") and "enum" not in schema:
            assert {"maxItems", "maxLength"} & schema.keys(), path


@pytest.mark.parametrize("plural", SCHEMAS)
def test_kubectl_explain_has_a_sentence_for_every_field(plural: str) -> None:
    """The API server itself describes ``apiVersion``, ``kind`` and ``metadata``."""
    described = {path: schema.get("description", "") for path, schema in nodes("", SCHEMAS[plural])}
    fields = {path for path in described if not path.endswith("[]")} - {".apiVersion", ".kind", ".metadata"}
    assert {".spec", ".status", ".status.conditions[].reason"} < fields
    assert [path for path in sorted(fields) if not described[path].endswith(".")] == []
