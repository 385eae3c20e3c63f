from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings

from cni.kernel import ids
from cni.kernel.diff import Change, described, diff
from cni.kernel.state import KernelState, Neighbour, Route, Rule, Setting, Vxlan

from ..kernel_states import after, kept_masters, states

DEVICE = Vxlan("egw-000001", 1, "10.0.0.1", 4799, ids.node_mac("10.0.0.1"), 1450, "egress-gateway a")
MASTER = Neighbour(DEVICE.name, ids.NEXT_HOP, ids.node_mac("10.0.0.2"))


@settings(max_examples=60, deadline=None)
@given(states(), states())
def test_applying_the_difference_gives_what_is_desired(observed: KernelState, desired: KernelState) -> None:
    assert after(observed, diff(observed, desired)) == kept_masters(observed, desired)


@settings(max_examples=60, deadline=None)
@given(states(), states())
def test_afterwards_nothing_is_different(observed: KernelState, desired: KernelState) -> None:
    assert diff(after(observed, diff(observed, desired)), desired) == ()


@settings(max_examples=60, deadline=None)
@given(states(), states())
def test_unreachable_routes_come_before_anything_goes(observed: KernelState, desired: KernelState) -> None:
    changes = diff(observed, desired)
    puts = [change.target if change.action == "put" else None for change in changes]
    unreachable = [isinstance(target, Route) and target.kind == "unreachable" for target in puts]
    deletes = [change.action == "delete" for change in changes]
    assert not any(deletes[: sum(unreachable)]) and all(unreachable[: sum(unreachable)])


@settings(max_examples=60, deadline=None)
@given(states(), states())
def test_rules_go_first_and_come_last(observed: KernelState, desired: KernelState) -> None:
    changes = diff(observed, desired)
    puts = [isinstance(change.target, Rule) for change in changes if change.action == "put"]
    deletes = [isinstance(change.target, Rule) for change in changes if change.action == "delete"]
    assert puts == sorted(puts)
    assert deletes == sorted(deletes, reverse=True)


def test_the_master_is_made_but_never_moved() -> None:
    empty = KernelState(vxlans=frozenset([DEVICE]))
    planned = replace(empty, neighbours=frozenset([MASTER]))
    moved = replace(empty, neighbours=frozenset([replace(MASTER, mac=ids.node_mac("10.0.0.3"))]))
    assert [str(change) for change in diff(empty, planned)] == [
        "added neighbour 169.254.233.2 at 02:e9:0a:00:00:02 on egw-000001"
    ]
    assert diff(moved, planned) == ()
    assert diff(moved, empty) == ()


def test_a_kernel_without_ipv6_is_asked_for_no_ipv6_neighbours() -> None:
    """Its settings are left out of what is desired; then its neighbours must be too, or nothing would ever stand."""
    six = replace(MASTER, address=ids.NEXT_HOP6)
    able = Setting(DEVICE.name, "ipv6", "disable_ipv6", "0")
    desired = KernelState(
        vxlans=frozenset([DEVICE]), settings=frozenset([able]), neighbours=frozenset([MASTER, six])
    )
    assert Change("put", six) in diff(KernelState(), desired)
    without = replace(desired, settings=frozenset())
    assert [change.target for change in diff(KernelState(), without)] == [DEVICE, MASTER]


def test_a_device_that_is_made_anew_gets_its_master_again() -> None:
    observed = KernelState(vxlans=frozenset([replace(DEVICE, vni=9)]), neighbours=frozenset([MASTER]))
    desired = KernelState(vxlans=frozenset([DEVICE]), neighbours=frozenset([MASTER]))
    assert [change.action for change in diff(observed, desired)] == ["delete", "put", "put"]


def test_changes_say_what_they_are() -> None:
    longer = replace(DEVICE, mtu=1400)
    (change,) = diff(KernelState(vxlans=frozenset([DEVICE])), KernelState(vxlans=frozenset([longer])))
    assert str(change) == "corrected device egw-000001 (VXLAN 1 from 10.0.0.1, port 4799)"
    assert change.problem == "device egw-000001 (VXLAN 1 from 10.0.0.1, port 4799): not as it should be"


def test_many_entries_of_one_device_are_one_line() -> None:
    entries = [Neighbour("egw-back", f"10.0.0.{n}", ids.node_mac(f"10.0.0.{n}")) for n in range(100)]
    few = [Change("delete", entry) for entry in entries[:2]]
    message = list(described([*few, *(Change("put", entry) for entry in entries), Change("put", DEVICE)]))
    assert message == [*map(str, few), f"added {entries[0]}, and 99 more of this kind", f"added {DEVICE}"]
