"""Pods that no CNI call has named: found by what leads to them, looked for again, and at last reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cni.kernel.errors import KernelError
from gateway_agent.agent.pods.adoption import REPORT_AFTER_S, RETRY_S, Adoption
from gateway_agent.agent.pods.records import Pods
from gateway_agent.agent.state import NodeState
from gateway_agent.manifests.model import Inventory, RunningPod
from gateway_agent.policy.pods.unattached_pods import INTERFACE, MARGIN_S, PREFIX, TEARDOWN_S, adopted

from ..gates import Gates, HeldClock, HeldKernel

ONE = RunningPod("prod", "web-0", "uid-0", ("10.244.1.5",))
TWO = RunningPod("prod", "web-1", "uid-1", ("10.244.1.6",))
BOTH = Inventory(running=(ONE, TWO))


@dataclass
class LeadingKernel(HeldKernel):
    """A kernel that knows what leads to addresses."""

    veths: dict[str, str] = field(default_factory=dict)
    refuses: bool = False
    asked: list[tuple[str, ...]] = field(default_factory=list)

    async def leading(self, addresses: Sequence[str]) -> dict[str, str]:
        self.asked.append(tuple(addresses))
        if self.refuses:
            raise KernelError("refused")
        return {address: self.veths[address] for address in addresses if address in self.veths}

    async def forget_pod(self, address: str) -> None:
        """Do it at once."""


@dataclass
class Node:
    """One node's pods, kernel and clock."""

    pods: Pods
    kernel: LeadingKernel
    state: NodeState
    adoption: Adoption
    loop: HeldClock

    def follow(self, inventory: Inventory, after_s: float = 0.0) -> float | None:
        self.loop.now += after_s
        return self.loop.run_until_complete(self.adoption.follow(inventory))


def node(run_dir: Path, loop: HeldClock) -> Node:
    kernel, state = LeadingKernel(Gates()), NodeState()
    pods = Pods(run_dir, kernel)
    return Node(pods, kernel, state, Adoption(pods, kernel, state), loop)


def on_a_node(run_dir: Path, check: Callable[[Node], None]) -> None:
    loop = HeldClock()
    try:
        check(node(run_dir, loop))
    finally:
        loop.close()


def test_a_pod_gets_a_record_as_soon_as_something_leads_to_it(tmp_path: Path) -> None:
    def check(here: Node) -> None:
        assert here.follow(BOTH) == RETRY_S
        assert not here.pods.records
        here.kernel.veths = {ONE.addresses[0]: "cali1"}
        assert here.follow(BOTH, RETRY_S) == RETRY_S
        ((_, record),) = here.pods.records.items()
        assert (record.name, record.host_interface, record.labels) == ("web-0", "cali1", None)
        here.kernel.veths[TWO.addresses[0]] = "cali2"
        assert here.follow(BOTH, RETRY_S) is None
        assert here.kernel.asked[-1] == TWO.addresses, "one that is found is not looked for again"
        assert not here.adoption.waiting

    on_a_node(tmp_path, check)


def test_a_pod_that_nothing_leads_to_is_reported_after_a_while_and_no_longer_waited_for(
    tmp_path: Path,
) -> None:
    def check(here: Node) -> None:
        here.follow(BOTH)
        here.kernel.veths = {ONE.addresses[0]: "cali1"}
        assert here.follow(BOTH, REPORT_AFTER_S - 1) == RETRY_S
        assert not here.adoption.problems
        assert here.follow(BOTH, 1.0) is None
        (problem,) = here.adoption.problems
        assert (problem.source, here.adoption.waiting) == ("pod prod/web-1", False)
        assert here.follow(Inventory(running=(ONE,))) is None
        assert not here.adoption.problems

    on_a_node(tmp_path, check)


def test_while_the_kernel_cannot_be_asked_pods_are_looked_for_again(tmp_path: Path) -> None:
    def check(here: Node) -> None:
        here.kernel.refuses = True
        assert here.follow(BOTH) == RETRY_S
        here.kernel.refuses = False
        here.kernel.veths = {ONE.addresses[0]: "cali1", TWO.addresses[0]: "cali2"}
        assert here.follow(BOTH, RETRY_S) is None
        assert len(here.pods.records) == 2

    on_a_node(tmp_path, check)


def test_the_record_of_an_adopted_pod_ends_with_the_pod_or_with_its_own_cni_call(tmp_path: Path) -> None:
    def check(here: Node) -> None:
        here.kernel.veths = {ONE.addresses[0]: "cali1", TWO.addresses[0]: "cali2"}
        here.follow(BOTH)
        assert {key[0] for key in here.pods.records} == {f"{PREFIX}uid-0", f"{PREFIX}uid-1"}
        called = here.pods.records[f"{PREFIX}uid-1", INTERFACE]
        here.pods.register(replace(called, container_id="c1"))
        here.follow(replace(BOTH, running=(TWO,)))
        assert {key[0] for key in here.pods.records} == {"c1"}

    on_a_node(tmp_path, check)


def deleted(here: Node, pod: RunningPod, *, uid: str) -> None:
    """Let the ADD and the DEL of a pod come."""
    record = replace(adopted(pod, "veth1"), container_id="c1", uid=uid)
    here.pods.register(record)
    here.loop.run_until_complete(here.pods.delete(record.key))


@pytest.mark.parametrize("uid", [ONE.uid, ""], ids=["uid known", "uid unknown"])
def test_a_pod_that_is_being_taken_down_did_not_start_beside_the_plugin(tmp_path: Path, uid: str) -> None:
    """The plugin is called first, so the interface still leads to the pod; the store is told last."""

    def check(here: Node) -> None:
        here.kernel.veths = {ONE.addresses[0]: "veth1"}
        deleted(here, ONE, uid=uid)
        here.follow(Inventory(running=(ONE,)))
        here.kernel.veths = {}
        here.follow(Inventory(running=(ONE,)), REPORT_AFTER_S)
        here.follow(Inventory(running=(ONE,)), TEARDOWN_S)
        here.follow(Inventory(running=(ONE,)), REPORT_AFTER_S)
        assert (here.adoption.beside.loose, here.adoption.problems) == (0, ())
        here.follow(Inventory())
        assert here.follow(Inventory(running=(ONE,)), TEARDOWN_S) == RETRY_S, "as any other pod"
        here.follow(Inventory(running=(ONE,)), REPORT_AFTER_S)
        assert len(here.adoption.problems) == 1

    on_a_node(tmp_path, check)


def test_the_store_may_name_a_pod_only_after_its_teardown(tmp_path: Path) -> None:
    def check(here: Node) -> None:
        here.kernel.veths = {ONE.addresses[0]: "veth1"}
        deleted(here, ONE, uid=ONE.uid)
        here.follow(Inventory())
        here.follow(Inventory(running=(ONE,)), TEARDOWN_S / 2)
        assert not here.adoption.beside.loose

    on_a_node(tmp_path, check)


def test_a_pod_whose_next_container_starts_beside_the_plugin_is_found(tmp_path: Path) -> None:
    def check(here: Node) -> None:
        here.kernel.veths = {ONE.addresses[0]: "veth1"}
        deleted(here, ONE, uid=ONE.uid)
        assert here.follow(Inventory(running=(ONE,))) == TEARDOWN_S
        here.follow(Inventory(running=(ONE,)), TEARDOWN_S)
        assert here.adoption.beside.loose == 1
        other = replace(TWO, uid=ONE.uid, namespace=ONE.namespace, name=ONE.name)
        here.kernel.veths = {TWO.addresses[0]: "veth2"}
        deleted(here, ONE, uid=ONE.uid)
        here.follow(Inventory(running=(other,)))
        assert here.adoption.beside.loose == 2, "another address is another interface"

    on_a_node(tmp_path, check)


def test_a_pod_counts_as_held_only_if_the_guard_was_set_long_before_it_was_seen(tmp_path: Path) -> None:
    def check(here: Node) -> None:
        here.kernel.veths = {ONE.addresses[0]: "cali1", TWO.addresses[0]: "cali2"}
        here.follow(Inventory(running=(ONE,)))
        here.state.guard_since = here.loop.time()
        here.follow(BOTH, MARGIN_S)
        log = here.adoption.beside
        assert (log.loose, log.held) == (1, 1)
        assert [each.name for each in log.latest if each.held] == ["web-1"]

    on_a_node(tmp_path, check)
