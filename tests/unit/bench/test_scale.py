"""The documents and the table of the bench of sizes."""

from __future__ import annotations

import json
from typing import Any

from gateway_agent.manifests import parsing
from gateway_agent.manifests.parsing import FileContent
from tests.bench import scale, scale_lab
from tests.bench.scale import Measured
from tests.bench.scale_lab import Costs


def costs(value: float) -> Costs:
    return Costs(**dict.fromkeys(scale.UNITS, value), objects={"worker, tunnels": round(value)})


def test_every_measure_has_its_line_and_its_ratio_to_the_smallest() -> None:
    message = scale.table([Measured("nodes", 10, costs(2.0)), Measured("nodes", 1_000, costs(5.0))])
    for name, unit in scale.UNITS.values():
        assert f"| {name}, {unit} | 2.00 | 5.00 (×2.5) |" in message
    assert "| worker, tunnels | 2 | 5 |" in message


def test_a_measure_that_costs_nothing_has_not_grown() -> None:
    assert scale.ratio(3.0, 0.0) == 1.0


def content(documents: list[dict[str, Any]]) -> FileContent:
    text = "\n---\n".join(map(json.dumps, documents))
    return parsing.parse_file("many.yaml", text)


def test_the_largest_cluster_has_no_problems() -> None:
    most = {kind: sizes[-1] for kind, sizes in scale.SIZES.items()}
    inventory = parsing.assemble(
        {
            "nodes.yaml": content([scale_lab.other_node(number) for number in range(most["nodes"])]),
            "gateways.yaml": content(list(scale_lab.gateways(most["addresses"]))),
            "policies.yaml": content([scale_lab.other_policy(number) for number in range(most["policies"])]),
        }
    )
    assert not inventory.problems
    assert len({address for node in inventory.nodes for address in node.addresses}) == most["nodes"]
    assert len(inventory.virtual_addresses) == most["addresses"]
    assert {len(policy.destinations) for policy in inventory.policies} == {scale_lab.PREFIXES}
