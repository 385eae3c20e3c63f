"""An object on which planning fails is a problem with its name; the others are planned."""

from __future__ import annotations

import dataclasses

import pytest

from gateway_agent.core.model import Gateway, Inventory, Node, Policy
from gateway_agent.core.planning import Planned, build
from gateway_agent.core.quarantine import Quarantine
from tests.fuzz.manifests import FACTS, SETTINGS

from .test_planning import NODES, PARTNER, policy

MANY = Inventory(
    (PARTNER, dataclasses.replace(PARTNER, name="bank", source="bank.yaml")),
    tuple(policy(f"p{number}", "bank" if number % 2 else "partner") for number in range(40)),
    NODES,
)


def failing_on(*names: str):  # type: ignore[no-untyped-def]
    """Return a way to plan that fails for objects of these names, as a fault of our own would."""

    def attempt(inventory: Inventory) -> Planned:
        objects: tuple[Node | Gateway | Policy, ...] = (*inventory.nodes, *inventory.gateways, *inventory.policies)
        for each in objects:
            if each.name in names and (not isinstance(each, Policy) or each.gateway):
                raise ZeroDivisionError(each.name)
        return build(inventory, SETTINGS, FACTS, {})

    return attempt


@pytest.mark.parametrize("bad", ["w1", "g2", "bank", "p0", "p17", "p39"])
def test_one_bad_object_is_named_and_the_others_are_planned(bad: str) -> None:
    planned = Quarantine().build(MANY, failing_on(bad))
    [problem] = [p for p in planned.problems if "cannot be planned" in p.message]
    assert bad in problem.message
    led = {name for s in planned.plan.policy_sets for name in s.policies}
    assert {f"p{n}" for n in range(0, 40, 2)} - {bad} <= led


def test_the_pods_of_a_policy_that_cannot_be_planned_are_cut_off() -> None:
    planned = Quarantine().build(MANY, failing_on("p17"))
    [blocked] = [p for p in planned.plan.policies if p.name == "p17"]
    assert blocked.gateway == ""
    served = {egress.id for egress in planned.plan.egress_ips if egress.eligible}
    chosen = {s.key[1][s.policies.index("p17")] for s in planned.plan.policy_sets if "p17" in s.policies}
    assert chosen
    assert not chosen & served


def test_several_bad_objects_are_all_named() -> None:
    planned = Quarantine().build(MANY, failing_on("p3", "p4", "bank"))
    assert {p.message.rpartition(" ")[2] for p in planned.problems if "cannot be planned" in p.message} >= {
        "p3", "p4", "bank",
    }  # fmt: skip


def test_a_fault_that_no_object_causes_is_raised() -> None:
    def broken(inventory: Inventory) -> Planned:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Quarantine().build(MANY, broken)


def test_a_bad_object_is_looked_for_once() -> None:
    """A round that bisects a thousand policies each time leaves the event loop no time for anything else."""
    quarantine, plans = Quarantine(), 0
    fails = failing_on("p17")

    def counted(inventory: Inventory) -> Planned:
        nonlocal plans
        plans += 1
        return fails(inventory)

    first = quarantine.build(MANY, counted)
    plans = 0
    assert quarantine.build(MANY, counted) == first
    assert plans == 1
    mended = dataclasses.replace(
        MANY, policies=tuple(dataclasses.replace(p, name="good") if p.name == "p17" else p for p in MANY.policies)
    )
    assert not [p for p in quarantine.build(mended, counted).problems if "cannot be planned" in p.message]
