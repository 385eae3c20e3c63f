"""``spec.routing`` of a gateway, and everything that can be wrong with it."""

from __future__ import annotations

from typing import Any

import pytest

from cni.kernel import ids
from gateway_agent.manifests.fields import Fields, Report
from gateway_agent.manifests.model import Gateway, Routing
from gateway_agent.manifests.typed_objects import gateway

BASIC = {
    "mode": "PrimaryIPFromEgressGatewayNodeInterface",
    "primaryIPFromEgressGatewayNodeInterface": {"interfaceName": "eth1"},
}


def virtual(*addresses: str, **more: str) -> dict[str, Any]:
    return {"mode": "VirtualIPAddress", "virtualIPAddress": {"ips": list(addresses), **more}}


def parsed(routing: object, source: dict[str, Any] | None = None) -> tuple[Gateway, list[str]]:
    report = Report("gateways.yaml")
    spec: dict[str, object] = {"nodeSelector": {"role": "egress"}, "sourceIP": source or BASIC}
    if routing is not None:
        spec["routing"] = routing
    found = gateway("partner", Fields({}, "metadata", report), Fields(spec, "spec", report))
    return found, [f"{problem.path}: {problem.message}" for problem in report.problems]


@pytest.mark.parametrize(
    ("routing", "source", "expected"),
    [
        (None, None, None),
        ({"nextHops": ["198.51.100.1"]}, None, Routing(("198.51.100.1",))),
        ({"nextHops": ["198.51.100.1"], "prefixLength": 24}, None, Routing(("198.51.100.1",), 24)),
        (
            {"nextHops": ["198.51.100.1", "2001:DB8::1"], "prefixLength6": 64},
            virtual("198.51.100.50", "2001:db8::50"),
            Routing(("198.51.100.1", "2001:db8::1"), 0, 64),
        ),
        ({"nextHops": ["fe80::1"]}, virtual("2001:db8::50"), Routing(("fe80::1",))),
        ({"table": 500}, virtual("198.51.100.50", "2001:db8::50"), Routing(table=500)),
        (None, virtual("198.51.100.50", routingTableName="500"), Routing(table=500)),
        (None, virtual("198.51.100.50", routingTableName="external"), Routing(table_name="external")),
    ],
)
def test_what_is_right_is_read(
    routing: object, source: dict[str, Any] | None, expected: Routing | None
) -> None:
    found, problems = parsed(routing, source)
    assert problems == []
    assert found.routing == expected


@pytest.mark.parametrize(
    ("routing", "source", "expected"),
    [
        ("198.51.100.1", None, "spec.routing: must be a mapping, not a text"),
        ({}, None, "spec.routing.nextHops: is required"),
        ({"nextHops": []}, None, "spec.routing.nextHops: is required"),
        ({"nextHops": ["router"]}, None, "spec.routing.nextHops[0]: 'router' is not an IP address"),
        *(
            (
                {"nextHops": [hop]},
                virtual("2001:db8::50") if ":" in hop else None,
                f"spec.routing.nextHops[0]: {hop} cannot be the address of a router",
            )
            for hop in ("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1")
        ),
        (
            {"nextHops": ["198.51.100.1"], "table": 500},
            None,
            "spec.routing.nextHops: cannot be combined with table",
        ),
        (
            {"nextHops": ["198.51.100.1", "198.51.100.2"]},
            None,
            "spec.routing.nextHops: names 2 IPv4 addresses",
        ),
        (
            {"nextHops": ["2001:db8::1"]},
            None,
            "spec.routing.nextHops: names no IPv4 address, and the gateway shows one of that family",
        ),
        (
            {"nextHops": ["198.51.100.1"]},
            virtual("198.51.100.50", "2001:db8::50"),
            "spec.routing.nextHops: names no IPv6 address, and the gateway shows one of that family",
        ),
        (
            {"nextHops": ["198.51.100.50"]},
            virtual("198.51.100.50"),
            "spec.routing.nextHops: 198.51.100.50 is an address of the gateway itself",
        ),
        (
            {"nextHops": ["198.51.100.1"], "prefixLength": 33},
            None,
            "spec.routing.prefixLength: must be a whole number from 1 to 32",
        ),
        (
            {"nextHops": ["198.51.100.1"], "prefixLength6": 64},
            None,
            "spec.routing.prefixLength6: has no meaning without an IPv6 address in nextHops",
        ),
        ({"table": 0}, None, "spec.routing.table: must be a whole number from 1 to 4294967295"),
        ({"table": 255}, None, "spec.routing.table: 255 is no table with routes to the outside"),
        (
            {"table": ids.TABLE_BASE + 1},
            None,
            f"spec.routing.table: {ids.TABLE_BASE + 1} is one of egress-gateway's own tables",
        ),
        ({"nextHops": ["198.51.100.1"], "via": "eth1"}, None, "spec.routing.via: unknown field"),
        (
            {"table": 500},
            virtual("198.51.100.50", routingTableName="external"),
            "spec.routing: cannot be combined with spec.sourceIP.virtualIPAddress.routingTableName",
        ),
        (
            None,
            virtual("198.51.100.50", routingTableName="255"),
            "spec.sourceIP.virtualIPAddress.routingTableName: 255 is no table with routes to the outside",
        ),
    ],
)
def test_each_fault_is_named_with_its_field(
    routing: object, source: dict[str, Any] | None, expected: str
) -> None:
    assert expected in parsed(routing, source)[1]
