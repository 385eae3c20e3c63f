"""Tags of pods: all that can be set are set, what is gone is forgotten, what another program has set stays."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cni.calls.attachments import Attachment
from cni.kernel import ids
from cni.kernel.errors import KernelError
from gateway_agent.agent.pods.records import Pods
from gateway_agent.agent.pods.tagging import Tagging

from ...policy.small_inventory import build, inventory, policy

INVENTORY = inventory(policy("a"))
PLAN = build(INVENTORY).plan
GROUP = next(each.group for each in PLAN.policy_sets)
FOREIGN = 77
"""Interface group of another program."""


@dataclass
class Groups:
    """Interface groups of a kernel that refuses to change some; None: there is no such interface."""

    groups: dict[str, int]
    refused: Collection[str] = ()
    writes: list[str] = field(default_factory=list)

    async def tagged(self) -> dict[str, int]:
        return {name: group for name, group in self.groups.items() if ids.is_own_group(group)}

    async def tag_of(self, device: str) -> int | None:
        return self.groups.get(device)

    async def tag(self, device: str, group: int) -> None:
        if device in self.refused or device not in self.groups:
            raise KernelError(f"{device} could not be tagged")
        self.writes.append(device)
        self.groups[device] = group

    async def unjudged(self) -> tuple[str, ...]:
        return tuple(name for name, group in self.groups.items() if not group)

    async def forget_connections(self, stale: Any) -> None:
        """No connection is there."""


def record(name: str, *labels: str, interface: str | None = None) -> Attachment:
    host = f"veth-{name}" if interface is None else interface
    return Attachment(
        f"c-{name}", "eth0", "/run/netns/x", host, "prod", name, "", dict.fromkeys(labels, ""),
        ("10.244.1.5",),
    )  # fmt: skip


def node(tmp_path: Path, kernel: Groups, *records: Attachment) -> tuple[Tagging, Pods]:
    fake: Any = kernel
    pods = Pods(tmp_path, fake)
    for each in records:
        pods.register(each)
    return Tagging(fake, pods, None), pods


def retag(tagging: Tagging) -> None:
    asyncio.run(tagging.retag_all(PLAN, INVENTORY))


def test_each_pod_has_the_tag_of_its_policies_and_a_second_round_writes_nothing(tmp_path: Path) -> None:
    kernel = Groups({"veth-in": 0, "veth-out": 0})
    tagging, pods = node(tmp_path, kernel, record("in", "a"), record("out"))
    retag(tagging)
    assert kernel.groups == {"veth-in": GROUP, "veth-out": ids.GROUP_UNSELECTED}
    assert {each.record.name: each.record.group for each in pods.all()} == {"in": GROUP, "out": 0}
    kernel.writes.clear()
    retag(tagging)
    assert kernel.writes == []


def test_a_refusal_of_one_pod_is_raised_after_all_others_have_their_tags(tmp_path: Path) -> None:
    kernel = Groups({"veth-1": 0, "veth-2": 0, "veth-3": 0}, refused={"veth-2"})
    tagging, pods = node(tmp_path, kernel, *(record(str(n), "a") for n in (1, 2, 3)))
    with pytest.raises(KernelError, match="veth-2"):
        retag(tagging)
    assert kernel.groups == {"veth-1": GROUP, "veth-2": 0, "veth-3": GROUP}
    assert {each.record.name: each.tag for each in pods.all()} == {"1": GROUP, "2": None, "3": GROUP}


def test_a_pod_whose_interface_is_gone_is_forgotten(tmp_path: Path) -> None:
    kernel = Groups({"veth-1": 0})
    tagging, pods = node(tmp_path, kernel, record("1", "a"), record("gone", "a"))
    retag(tagging)
    assert [each.record.name for each in pods.all()] == ["1"]


def test_a_starting_pod_without_its_interface_is_an_error_of_its_own(tmp_path: Path) -> None:
    kernel = Groups({"veth-1": 0})
    first, gone = record("1", "a"), record("gone", "a")
    tagging, pods = node(tmp_path, kernel, first, gone)
    failed = asyncio.run(tagging.retag([first.key, gone.key, ("no", "pod")], PLAN, INVENTORY))
    assert set(failed) == {gone.key}
    assert kernel.groups == {"veth-1": GROUP}
    assert pods.get(gone.key) is not None, "its ADD is answered with the error"


@pytest.mark.parametrize(("labels", "group"), [((), FOREIGN), (("a",), GROUP)])
def test_only_the_tag_of_a_policy_replaces_the_group_of_another_program(
    tmp_path: Path, labels: tuple[str, ...], group: int
) -> None:
    kernel = Groups({"veth-1": FOREIGN})
    tagging, _ = node(tmp_path, kernel, record("1", *labels))
    retag(tagging)
    assert kernel.groups == {"veth-1": group}


def test_a_selected_pod_without_a_known_interface_is_a_problem(tmp_path: Path) -> None:
    tagging, pods = node(tmp_path, Groups({}), record("1", "a", interface=""), record("2", interface=""))
    retag(tagging)
    [problem] = tagging.problems
    assert "1" in str(problem)
    pods.remove(record("1").key)
    assert tagging.problems == (), "it is gone"


def test_a_pod_of_another_policy_set_than_the_plan_knows_is_blocked(tmp_path: Path) -> None:
    kernel = Groups({"veth-1": 0})
    tagging, _ = node(tmp_path, kernel, record("1", "a"))
    asyncio.run(tagging.retag_all(replace(PLAN, policy_sets=()), INVENTORY))
    assert kernel.groups == {"veth-1": ids.GROUP_BLOCKED}


@pytest.mark.parametrize(("before", "after"), [(0, ids.GROUP_UNSELECTED), (GROUP, GROUP), (FOREIGN, FOREIGN)])
def test_a_pod_passes_the_guard_only_if_it_has_no_tag(tmp_path: Path, before: int, after: int) -> None:
    kernel = Groups({"veth-1": before})
    one = record("1")
    tagging, _ = node(tmp_path, kernel, one)
    asyncio.run(tagging.let_pass(one.key))
    assert kernel.groups == {"veth-1": after}


def test_interfaces_older_than_the_guard_pass(tmp_path: Path) -> None:
    kernel = Groups({"veth-1": 0, "veth-2": GROUP})
    tagging, _ = node(tmp_path, kernel)
    asyncio.run(tagging.let_unknown_pass())
    assert kernel.groups == {"veth-1": ids.GROUP_UNSELECTED, "veth-2": GROUP}
