"""A pod whose labels are not known does not start if a policy may select it, and status names it."""

from __future__ import annotations

import asyncio
import fcntl
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cni import contract
from cni.calls import attachments
from cni.plan import PodIdentity, Requirement, Selector
from gateway_agent.manifests import parsing
from gateway_agent.manifests.model import Inventory

from ..container_engines.test_stores import bolt_store
from ..policy.small_inventory import policy
from .gates import settle
from .test_add_order import EMPTY, VETH, World, request, run_scenario, with_policies

PROD = (Requirement("kubernetes.io/metadata.name", "In", ("prod",)),)
OTHER = (Requirement("kubernetes.io/metadata.name", "In", ("other",)),)
BY_LABEL = (Requirement("a", "Exists"),)


def selecting(*selectors: Selector) -> Inventory:
    return with_policies(replace(policy("a"), selectors=selectors))


def asked(
    directory: Path, of: Inventory, call: bytes, then: Callable[[World], Awaitable[None]] | None = None
) -> tuple[bytes, int]:
    """Return an agent's answer with this inventory, and the group of the pod's interface. ``then``: further checks."""
    found: list[tuple[bytes, int]] = []

    async def scenario(world: World) -> None:
        await world.open_all(lambda: world.state.followed is not None)
        answer = asyncio.create_task(world.calls.handle(call))
        await world.open_all(answer.done)
        found.append((answer.result(), world.kernel.tag_on(VETH)))
        if then is not None:
            await then(world)

    run_scenario(directory, scenario, of)
    return found[0]


def problems(world: World) -> list[str]:
    return [str(problem) for problem in world.problems() if "labels are not known" in problem.message]


@pytest.mark.parametrize(
    ("selector", "starts", "tagged"),
    [
        (Selector(BY_LABEL), False, False),
        (Selector(BY_LABEL, PROD), False, False),
        (Selector(BY_LABEL, OTHER), True, False),
        (Selector((), PROD), True, True),
        (Selector((*BY_LABEL, Requirement("io.kubernetes.pod.namespace", "In", ("other",)))), True, False),
        (Selector((Requirement("io.kubernetes.pod.namespace", "In", ("prod",)),)), True, True),
    ],
    ids=[
        "by label",
        "of its namespace",
        "of another namespace",
        "whole namespace",
        "label elsewhere",
        "by its name",
    ],
)
@pytest.mark.parametrize("reported", [True, False], ids=["reported", "not told"])
def test_what_hangs_on_unknown_labels_does_not_start(
    tmp_path: Path, selector: Selector, starts: bool, tagged: bool, reported: bool
) -> None:
    answer, group = asked(tmp_path, selecting(selector), request(labels=() if reported else None))
    assert (answer == contract.OK) is (starts or reported)
    assert bool(group) is tagged


def test_the_refusal_says_what_to_do_and_status_names_the_pod(tmp_path: Path) -> None:
    async def look(world: World) -> None:
        [first] = problems(world)
        assert first.startswith("pod prod/web-0: not started")
        deleting = asyncio.create_task(world.calls.handle(request(command="DEL")))
        await world.open_all(deleting.done)
        assert problems(world) == [first]
        again = asyncio.create_task(world.calls.handle(request(labels=["b"])))
        await world.open_all(again.done)
        assert again.result() == contract.OK
        assert problems(world) == []

    answer, _ = asked(tmp_path, selecting(Selector(BY_LABEL)), request(labels=None), look)
    error = json.loads(answer[len(contract.ERROR) :])
    assert error["code"] == contract.TRY_AGAIN_LATER
    assert "prod/web-0" in error["msg"] and "policy a" in error["msg"]
    assert "Pod document" in error["details"]


def test_with_ignore_it_starts_and_status_says_that_it_leaves_by_its_own_way(tmp_path: Path) -> None:
    async def look(world: World) -> None:
        world.agent.kernel_changed([])
        waiting = asyncio.create_task(world.parts.reconciler.next_round())
        await world.open_all(waiting.done)
        assert ["uses no gateway" in text for text in problems(world)] == [True]

    call = request(labels=None, failure_policy="Ignore")
    assert asked(tmp_path, selecting(Selector(BY_LABEL)), call, look) == (contract.OK, 0)


def test_a_policy_that_comes_during_the_add_counts(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.open_all(lambda: world.state.applied is not None)
        world.store.inventory = selecting(Selector(BY_LABEL))
        call = asyncio.create_task(world.calls.handle(request(labels=None)))
        await world.open_all(call.done)
        assert call.result().startswith(contract.ERROR)

    run_scenario(tmp_path, scenario)


def test_a_pod_document_gives_labels_and_its_end_lets_no_pod_out(tmp_path: Path) -> None:
    """Without it the labels are unknown again: the pod that runs keeps its path, and status says so."""
    document = PodIdentity("prod", "web-0", {"a": "yes"})

    async def look(world: World) -> None:
        group = world.kernel.groups[VETH]
        world.store.inventory = selecting(Selector(BY_LABEL))
        await world.open_all(lambda: bool(world.state.inventory and not world.state.inventory.pods))
        waiting = asyncio.create_task(world.parts.reconciler.next_round())
        await world.open_all(waiting.done)
        assert world.kernel.groups[VETH] == group
        assert ["keeps its tag" in text for text in problems(world)] == [True]

    of = replace(selecting(Selector(BY_LABEL)), pods=(document,))
    answer, group = asked(tmp_path, of, request(labels=None), look)
    assert answer == contract.OK
    assert group


@pytest.mark.parametrize("metadata", [{}, {"namespace": "default"}], ids=["no namespace", "default"])
def test_without_a_namespace_call_and_document_mean_the_same_pod(
    tmp_path: Path, metadata: dict[str, str]
) -> None:
    document = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-0", "labels": {"a": "yes"}, **metadata},
    }  # fmt: skip
    read = parsing.assemble({"pods.yaml": parsing.parse_file("pods.yaml", json.dumps(document))})
    assert read.problems == ()
    of = replace(selecting(Selector(BY_LABEL)), pods=read.pods)
    answer, group = asked(tmp_path, of, request(labels=None, namespace=""))
    assert answer == contract.OK
    assert group
    # The document of another namespace is another pod's.
    (tmp_path / "other").mkdir()
    answer, _ = asked(tmp_path / "other", of, request(labels=None, namespace="prod"))
    assert answer.startswith(contract.ERROR)


def test_a_pod_that_is_deleted_while_its_engine_is_asked_leaves_no_record(tmp_path: Path) -> None:
    """The engine holds its own lock on the data base, and lets go when the runtime has given up."""

    async def scenario(world: World) -> None:
        await world.open_all(lambda: world.state.applied is not None)
        with (tmp_path / "libpod" / "bolt_state.db").open("rb") as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            call = asyncio.create_task(world.calls.handle(request("c1", labels=None)))
            for _ in range(20):
                await settle()
                await world.gates.open(0)
            assert world.parts.pods.records.keys() == {("c1", "eth0")}
            assert not call.done()
            deleting = asyncio.create_task(world.calls.handle(request("c1", command="DEL")))
            await world.open_all(deleting.done)
        async with asyncio.timeout(20):
            while not call.done():
                await settle()
                if world.gates.waiting:
                    await world.gates.open(0)
                # The data base is read by a thread.
                await asyncio.sleep(0.001)
        assert deleted in call.result()
        assert world.parts.pods.records == {}

    deleted = b"was deleted while it was being added"
    bolt_store(tmp_path)
    run_scenario(
        tmp_path, scenario, selecting(Selector((Requirement("app", "In", ("shop",)),))), str(tmp_path)
    )


@pytest.mark.parametrize(("value", "tagged"), [("shop", True), ("other", False)])
def test_the_labels_of_the_engine_count_and_are_kept(tmp_path: Path, value: str, tagged: bool) -> None:
    async def scenario(world: World) -> None:
        await world.open_all(lambda: world.state.applied is not None)
        call = asyncio.create_task(world.calls.handle(request("c1", labels=None)))
        async with asyncio.timeout(20):
            while not call.done():
                await settle()
                if world.gates.waiting:
                    await world.gates.open(0)
                await asyncio.sleep(0.001)
        assert call.result() == contract.OK
        assert bool(world.kernel.tag_on(VETH)) is tagged
        assert attachments.load(tmp_path, "c1", "eth0") == world.parts.pods.records["c1", "eth0"]
        assert world.parts.pods.records["c1", "eth0"].labels == {"app": "shop"}

    bolt_store(tmp_path)
    run_scenario(
        tmp_path, scenario, selecting(Selector((Requirement("app", "In", (value,)),))), str(tmp_path)
    )


def test_what_is_tagged_by_name_alone_is_a_problem(tmp_path: Path) -> None:
    """The network namespaces of pods cannot be seen, as from a container without them."""

    async def scenario(world: World) -> None:
        world.kernel.named = True
        await world.open_all(lambda: world.state.applied is not None)
        for name in ("web-0", "web-1"):
            answer = asyncio.create_task(world.calls.handle(request(name)))
            await world.open_all(answer.done)
            assert answer.result() == contract.OK
        [problem] = [p for p in world.problems() if p.source == "network namespaces"]
        assert "/run/netns/x of pod prod/web-1 cannot be seen from here" in problem.message

    run_scenario(tmp_path, scenario, selecting(Selector(BY_LABEL)))


def test_a_policy_by_labels_takes_no_tag_away(tmp_path: Path) -> None:
    """What selected the pod for sure asks for labels now: they are unknown, so the pod keeps its path."""

    async def look(world: World) -> None:
        group = world.kernel.groups[VETH]
        world.store.inventory = selecting(Selector(BY_LABEL))
        await world.open_all(lambda: world.state.inventory == world.store.inventory)
        waiting = asyncio.create_task(world.parts.reconciler.next_round())
        await world.open_all(waiting.done)
        assert world.kernel.groups[VETH] == group
        assert [text for text in problems(world) if "keeps its tag" in text]
        world.store.inventory = EMPTY
        await world.open_all(lambda: not world.kernel.tag_on(VETH))

    _, group = asked(tmp_path, selecting(Selector((), PROD)), request(labels=None), look)
    assert group
