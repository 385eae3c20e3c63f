"""Policy sets where gateways have several addresses."""

from __future__ import annotations

from cni.plan import Destination, Plan, PodIdentity, PolicySet, Requirement, Selector, choose
from gateway_agent.manifests.model import BASIC, VIRTUAL_IP, Gateway, Inventory, Node, Policy
from gateway_agent.policy import planner, policy_sets

NODES = (Node("g1", {"role": "egress"}, ("10.0.0.7",)), Node("w1", {}, ("10.0.0.21",)))
EGRESS = (Requirement("role", "In", ("egress",)),)
FOURS = ("172.16.0.50", "172.16.0.78", "172.16.0.43")
SIXES = ("2001:db8::50", "2001:db8::78")
PODS = tuple(PodIdentity("prod", f"web-{number}", {"a": "", "b": ""}) for number in range(24))


def gateway(name: str, *addresses: str) -> Gateway:
    return Gateway(name, EGRESS, VIRTUAL_IP if addresses else BASIC, "" if addresses else "eth1", addresses)


def policy(name: str, gateway: str, *destinations: str) -> Policy:
    return Policy(
        name, gateway, (Selector((Requirement(name, "Exists"),)),), destinations or ("203.0.113.0/24",)
    )


def build(
    gateways: tuple[Gateway, ...],
    policies: tuple[Policy, ...],
    pods: tuple[PodIdentity, ...] = (),
    mask: int = 0x0FF00000,
    previous: Plan | None = None,
) -> planner.Planned:
    settings = planner.Settings("w1", mask, 4799, 1450)
    return planner.build(Inventory(gateways, policies, NODES), settings, {}, {}, previous, pods)


def set_of(plan: Plan, pod: PodIdentity) -> PolicySet:
    found = plan.set_for(pod, plan.policies_for(pod) or ())
    assert found is not None
    return found


def address_of(plan: Plan, egress_id: str) -> str:
    return next(egress.address for egress in plan.egress_ips if egress.id == egress_id)


def test_pods_of_one_policy_go_by_the_addresses_of_their_choice() -> None:
    plan = build((gateway("partner", *FOURS),), (policy("a", "partner"),), PODS).plan
    seen = set()
    for pod in PODS:
        found = set_of(plan, pod)
        assert (
            found.egress_ids == found.egress_ids6 == (choose(pod, [egress.id for egress in plan.egress_ips]),)
        )
        assert found.destinations == (Destination("203.0.113.0/24", found.egress_ids[0]),)
        seen.add(address_of(plan, found.egress_ids[0]))
    assert seen == set(FOURS)
    assert len(plan.policy_sets) == 3


def test_each_family_has_its_own_address() -> None:
    both = policy("a", "partner", "203.0.113.0/24", "2001:db8:f::/48")
    plan = build((gateway("partner", *FOURS, *SIXES),), (both,), PODS).plan
    assert len(plan.policy_sets) == 6, "each choice of both is prepared"
    pairs = set()
    for pod in PODS:
        found = set_of(plan, pod)
        [(id4, id6)] = zip(found.egress_ids, found.egress_ids6, strict=True)
        assert found.destinations == (Destination("203.0.113.0/24", id4), Destination("2001:db8:f::/48", id6))
        pairs.add((address_of(plan, id4), address_of(plan, id6)))
    assert {four for four, _ in pairs} == set(FOURS)
    assert {six for _, six in pairs} == set(SIXES)


def test_policies_of_one_gateway_are_never_led_to_two_of_its_addresses() -> None:
    gateways = (gateway("bank"), gateway("partner", *FOURS))
    policies = (
        policy("a", "partner"),
        policy("b", "partner", "198.51.100.0/24"),
        policy("c", "bank", "192.0.2.0/24"),
    )
    plan = build(gateways, policies).plan
    assert len(plan.policy_sets) == 3 + 3 + 1 + 3 + 3 + 3 + 3
    for found in plan.policy_sets:
        led = dict(zip(found.policies, found.egress_ids, strict=True))
        assert len({led[name] for name in ("a", "b") if name in led}) <= 1


def test_a_pod_keeps_its_tag_when_an_address_is_added_unless_it_goes_there() -> None:
    policies = (policy("a", "partner"),)
    before = build((gateway("partner", *FOURS[:2]),), policies, PODS).plan
    after = build((gateway("partner", *FOURS),), policies, PODS, previous=before).plan
    moved = [pod for pod in PODS if set_of(before, pod).number != set_of(after, pod).number]
    assert 0 < len(moved) < len(PODS) / 2
    assert {address_of(after, set_of(after, pod).egress_ids[0]) for pod in moved} == {FOURS[2]}


def test_more_combinations_than_anybody_could_count() -> None:
    """Ten gateways of 64 addresses: 10^18 sets. Those of the pods come first, then one of each policy alone."""
    gateways = tuple(gateway(f"gw{n}", *(f"172.16.{n}.{host}" for host in range(1, 65))) for n in range(10))
    policies = tuple(policy(f"p{n}", f"gw{n}") for n in range(10))
    pods = tuple(PodIdentity("prod", f"x-{k}", {f"p{n}": "" for n in range(10)}) for k in range(5))
    planned = build(gateways, policies, pods, mask=0x00FFFF00)
    plan = planned.plan
    assert not planned.problems
    assert len(plan.policy_sets) == policy_sets.PREPARED_SETS
    assert len({set_of(plan, pod).number for pod in pods}) == 5
    assert {s.policies for s in plan.policy_sets} >= {(f"p{n}",) for n in range(10)}


def test_pods_that_no_number_is_left_for() -> None:
    """The mask holds fifteen sets."""
    names = "abcdefghijklmnop"
    pods = tuple(PodIdentity("prod", f"web-{name}", {name: ""}) for name in names)
    planned = build((gateway("bank"),), tuple(policy(name, "bank") for name in names), pods, mask=0xF0)
    assert [problem.path for problem in planned.problems] == ["mark.mask"]
    found = [planned.plan.set_for(pod, planned.plan.policies_for(pod) or ()) for pod in pods]
    assert len({s.number for s in found if s}) == 15, "the pods' own come before what is prepared"
    assert None in found


def test_a_pod_keeps_its_address_though_that_has_no_number_on_its_node() -> None:
    """Numbers differ from node to node: by another address the pod would be seen as another one."""
    many = tuple(f"172.16.0.{host}" for host in range(1, 9))
    planned = build((gateway("partner", *many),), (policy("a", "partner"),), PODS, mask=0xF0)
    used = {set_of(planned.plan, pod).egress_ids[0] for pod in PODS}
    without = {e.address for e in planned.plan.egress_ips if e.id in used and not e.slot}
    assert len(without) == len(used) - 6 > 0
    assert {(problem.path, problem.message.partition(":")[0]) for problem in planned.problems} == {
        (f"spec.sourceIP.virtualIPAddress.ips[{many.index(address)}]", f"gateway partner {address}")
        for address in without
    }
    for pod in PODS:
        assert set_of(planned.plan, pod).egress_ids == (choose(pod, planned.plan.ids_of("partner")[0]),)
