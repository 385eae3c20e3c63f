"""A new inventory shares the parts that have not changed with the one before."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.manifests.model import Inventory, Node, Policy
from gateway_agent.manifests.sharing import sharing


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    names = st.lists(st.sampled_from("abc"), max_size=2, unique=True)
    nodes = tuple(Node(name, {"role": draw(st.sampled_from("xy"))}) for name in draw(names))
    policies = tuple(Policy(name, "partner", ()) for name in draw(names))
    return Inventory(policies=policies, nodes=nodes, namespaces={name: {} for name in draw(names)})


@given(inventories(), inventories())
def test_it_is_equal_and_what_is_equal_to_the_earlier_part_is_that_part(
    inventory: Inventory, before: Inventory
) -> None:
    shared: Any = sharing(inventory, before)
    assert shared == inventory
    for name in (each.name for each in fields(Inventory)):
        assert (getattr(shared, name) is getattr(before, name)) == (
            getattr(shared, name) == getattr(before, name)
        )


def test_an_edited_policy_leaves_the_nodes_the_same_object() -> None:
    before = Inventory(nodes=(Node("w1", {}), Node("w2", {})))
    edited = replace(Inventory(nodes=(Node("w1", {}), Node("w2", {}))), policies=(Policy("p", "g", ()),))
    assert sharing(edited, before).nodes is before.nodes
