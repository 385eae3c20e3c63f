"""An object on which planning fails is a problem with its name; the others are planned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from cni.plan import PodIdentity, Requirement, Selector
from gateway_agent.manifests.model import Gateway, Inventory, Node, Policy
from gateway_agent.policy.planner import Planned, build
from gateway_agent.policy.quarantine import Quarantine
from tests.fuzz.manifests import FACTS, SETTINGS

from .small_inventory import NODES, PARTNER, policy

HERE, TEAM = Requirement("app", "In", ("web",)), Requirement("team", "In", ("pay",))
MANY = Inventory(
    (PARTNER, dataclasses.replace(PARTNER, name="bank", source="bank.yaml")),
    (
        *(policy(f"p{number}", "bank" if number % 2 else "partner") for number in range(40)),
        Policy("by-namespace", "partner", (Selector((HERE,), (TEAM,)),), source="policies.yaml"),
    ),
    NODES,
    namespaces={"prod": {"team": "pay"}, "dev": {}},
    pods=tuple(PodIdentity("prod", f"web-{n}", {f"p{n}": "yes", "app": "web"}) for n in range(4)),
    service_cidrs=("10.96.0.0/16", "10.97.0.0/16"),
)


def failing_on(*names: str) -> Callable[[Inventory], Planned]:
    """Return a way to plan that fails for objects of these names, as a fault of our own would."""

    def attempt(inventory: Inventory) -> Planned:
        objects: tuple[Node | Gateway | Policy, ...] = (
            *inventory.nodes,
            *inventory.gateways,
            *inventory.policies,
        )
        for pod in inventory.pods:
            if pod.name in names and pod.labels is not None:
                raise ZeroDivisionError(pod.name)
        for name in (*inventory.namespaces, *inventory.service_cidrs):
            if name in names:
                raise ZeroDivisionError(name)
        for each in objects:
            if each.name in names and (not isinstance(each, Policy) or each.gateway):
                raise ZeroDivisionError(each.name)
        return build(inventory, SETTINGS, FACTS, {}, pods=inventory.pods)

    return attempt


@pytest.mark.parametrize(
    "bad", ["w1", "g2", "bank", "p0", "p17", "p39", "web-2", "prod", "dev", "10.97.0.0/16"]
)
def test_one_bad_object_is_named_and_the_others_are_planned(bad: str) -> None:
    planned = Quarantine().search(MANY, failing_on(bad))
    [problem] = [p for p in planned.problems if "cannot be planned" in p.message]
    assert bad in problem.message
    led = {name for s in planned.plan.policy_sets for name in s.policies}
    assert {f"p{n}" for n in range(0, 40, 2)} - {bad} <= led
    assert problem.source


def test_the_pods_of_a_policy_that_cannot_be_planned_are_cut_off() -> None:
    planned = Quarantine().search(MANY, failing_on("p17"))
    [blocked] = [p for p in planned.plan.policies if p.name == "p17"]
    assert blocked.gateway == ""
    served = {egress.id for egress in planned.plan.egress_ips if egress.eligible}
    chosen = {s.key[1][s.policies.index("p17")] for s in planned.plan.policy_sets if "p17" in s.policies}
    assert chosen
    assert not chosen & served


def test_several_bad_objects_are_all_named() -> None:
    planned = Quarantine().search(MANY, failing_on("p3", "p4", "bank"))
    assert {p.message.rpartition(" ")[2] for p in planned.problems if "cannot be planned" in p.message} >= {
        "p3", "p4", "bank",
    }  # fmt: skip


def test_a_fault_that_no_object_causes_is_raised() -> None:
    def broken(inventory: Inventory) -> Planned:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Quarantine().search(MANY, broken)


def test_a_bad_object_is_looked_for_once() -> None:
    """A round that bisects a thousand policies each time leaves the event loop no time for anything else."""
    quarantine, plans = Quarantine(), 0
    fails = failing_on("p17")

    def counted(inventory: Inventory) -> Planned:
        nonlocal plans
        plans += 1
        return fails(inventory)

    first = quarantine.search(MANY, counted)
    assert plans < 60
    plans = 0
    assert quarantine.build(MANY, counted) == first
    assert plans == 1
    mended = dataclasses.replace(
        MANY,
        policies=tuple(dataclasses.replace(p, name="good") if p.name == "p17" else p for p in MANY.policies),
    )
    assert not [p for p in quarantine.build(mended, counted).problems if "cannot be planned" in p.message]


def test_the_labels_of_a_pod_that_cannot_be_planned_are_unknown() -> None:
    """Its tag stays as it is, and no new pod of that name starts: a policy may select it."""
    quarantine = Quarantine()
    quarantine.search(MANY, failing_on("web-2"))
    kept = quarantine.without_found(MANY)
    assert [pod.labels for pod in kept.pods if pod.name == "web-2"] == [None]
    assert len(kept.pods) == len(MANY.pods)


def test_what_policies_select_by_a_namespace_that_cannot_be_planned_is_cut_off() -> None:
    planned = Quarantine().search(MANY, failing_on("prod"))
    for policies, labels in ((("(namespace prod)",), {"app": "web"}), ((), {"app": "other"})):
        assert planned.plan.policies_for(PodIdentity("prod", "x", labels)) == policies
    assert planned.plan.policies_for(PodIdentity("dev", "x", {"app": "web"})) == ()
    [chosen] = [s for s in planned.plan.policy_sets if s.policies == ("(namespace prod)",)]
    served = {egress.id for egress in planned.plan.egress_ips if egress.eligible}
    assert not set(chosen.key[1]) & served


def test_one_that_is_found_later_is_looked_for_beside_the_first() -> None:
    quarantine = Quarantine()
    quarantine.search(MANY, failing_on("p3"))
    planned = quarantine.search(MANY, failing_on("p3", "web-1"))
    found = [p.message for p in planned.problems if "cannot be planned" in p.message]
    assert [text.partition(" ")[0] for text in found] == ["p3", "prod/web-1"]


def test_the_one_that_is_wrong_is_left_out_and_not_all_that_show_it() -> None:
    """A network that cannot be read fails each policy that is planned, and none without it."""
    nodes = (*NODES[:2], dataclasses.replace(NODES[2], pod_cidrs=("bad",)))
    for kind, bad in (("service_cidrs", ("10.96.0.0/16", "bad")), ("nodes", nodes)):
        inventory = dataclasses.replace(MANY, **{kind: bad})  # type: ignore[arg-type]
        planned = Quarantine().search(inventory, failing_on())
        [problem] = [p for p in planned.problems if "cannot be planned" in p.message]
        assert problem.message.startswith("bad " if kind == "service_cidrs" else "w1 ")
        assert all(policy.gateway for policy in planned.plan.policies)
