"""An ADD answers when the kernel does for its pod what the newest known objects ask for, in every order of events."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cni import contract, plan
from cni.kernel import ids
from cni.kernel.netlink.monitor import Event
from gateway_agent import config
from gateway_agent.adapters.files.files_store import FilesStore
from gateway_agent.agent.parts import build
from gateway_agent.agent.pods.pod_policies import selecting
from gateway_agent.agent.service import Agent
from gateway_agent.container_engines.stores import Engines
from gateway_agent.manifests.model import Inventory, Policy, Problem
from gateway_agent.manifests.store import Store
from tests.lab import documents

from ..policy.small_inventory import NODES, PARTNER, pod, policy
from .gates import Gates, HeldKernel, HeldStore, fakes, settle

VETH = "veth1"
EMPTY = Inventory((PARTNER,), (), NODES)
LABELS = ("a", "b")
ASKING = {"host_veths", "forget_pod", "for_pod", "tag_of", "tag"}
"""Calls that an ADD waits for and that need no round."""


def request(
    name: str = "web-0",
    command: str = "ADD",
    labels: Sequence[str] | None = LABELS,
    failure_policy: str = "Fail",
    namespace: str = "prod",
) -> bytes:
    """Return a call for a pod that policies ``a`` and ``b`` select. Without ``labels`` (None) it tells none."""
    variables = {
        "CNI_COMMAND": command, "CNI_CONTAINERID": name, "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0",
        "CNI_ARGS": f"K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}", "CNI_PATH": "/opt/cni/bin",
    }  # fmt: skip
    configuration = {
        "cniVersion": "1.0.0", "name": "pods", "type": "egress-gateway", "failurePolicy": failure_policy,
        "args": {"cni": {} if labels is None else {"labels": [{"key": key, "value": "yes"} for key in labels]}},
        "prevResult": {"interfaces": [{"name": VETH}, {"name": "eth0", "sandbox": "/x"}],
                       "ips": [{"address": "10.244.1.5/24", "interface": 1}]},
    }  # fmt: skip
    environment = tuple(variables[name].encode() for name in contract.ENVIRONMENT)
    return contract.cni_request(environment, json.dumps(configuration).encode())


class World:
    """An agent of node w1 whose every wait is a gate, and what it is asked for."""

    def __init__(
        self,
        directory: Path,
        inventory: Inventory = EMPTY,
        podman: str = "",
        store: Callable[[Gates], Store] | None = None,
        kernel: HeldKernel | None = None,
        others: dict[str, Any] | None = None,
        upstream: str = "",
        guard: str = "Off",
    ) -> None:
        """``podman``: where its containers are kept. ``store``: makes another one than that with ``inventory``.

        ``kernel`` brings its gates. ``others``: ports in place of the fakes. ``upstream``: an address to probe.
        """
        self.gates = kernel.gates if kernel else Gates()
        self.directory = directory
        self.kernel = kernel or HeldKernel(self.gates)
        self.store = HeldStore(self.gates, inventory)
        text = f"nodeName: w1\nrunDir: {directory}\nstore: {{kind: files, path: /x}}\n"
        text += f'engines: {{podman: {json.dumps(podman)}, containerd: ""}}\n'
        text += f"stateDir: {directory}/state\nguard: {guard}\n"
        text += f"health: {{upstream: [{upstream}]}}\n"
        settings = config.parse("agent.yaml", text, "w1")
        used: Any = store(self.gates) if store else self.store
        self.ports = fakes(
            self.kernel, used, engines=Engines(settings.podman, settings.containerd), **(others or {})
        )
        self.parts = build(settings, self.ports)
        self.state = self.parts.state
        self.agent = Agent(self.parts)
        self.calls = self.parts.requests
        self.running = [asyncio.create_task(task) for task in self.agent.tasks()]

    def link_event(self, device: str) -> Event:
        """Return what the kernel reports of an interface that has changed."""
        return Event("link", device)

    def problems(self) -> tuple[Problem, ...]:
        """Return what status shows."""
        seen = self.parts.observer.snapshot()
        assert seen is not None
        return seen.problems

    async def close(self) -> None:
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)

    async def open_all(self, until: Callable[[], bool]) -> None:
        """Open gates in the order of arrival until something holds."""
        for _ in range(500):
            if until():
                return
            await settle()
            if self.gates.waiting:
                await self.gates.open(0)
        raise AssertionError(f"never so; waiting: {[name for name, _ in self.gates.waiting]}")

    async def open_but(self, held: str) -> None:
        """Open all gates but those of one name."""
        await settle()
        for index in reversed([i for i, (name, _) in enumerate(self.gates.waiting) if name != held]):
            await self.gates.open(index)

    def wanted(self) -> tuple[tuple[str, ...], Inventory]:
        """Return the policies that select the pod by the newest objects that the agent knows, and these objects."""
        known = self.state.inventory
        assert known is not None
        return selecting([*_plan_policies(known)], known, pod(*LABELS)), known

    def check_answered(self) -> None:
        """Compare what the kernel does for the pod with what the newest known objects ask for."""
        names, known = self.wanted()
        group, plan = self.kernel.groups.get(VETH, 0), self.kernel.plan
        if not names:
            # The guard of unknown pods lets it pass.
            assert group == ids.GROUP_UNSELECTED
            return
        assert plan is not None
        of_pod = next((s for s in plan.policy_sets if s.group == group), None)
        assert of_pod is not None, f"answered with tag {group:#x}; {names} select the pod"
        assert of_pod.policies == names
        reached = {each.prefix for each in of_pod.destinations}
        for name in names:
            assert set(known.policies_by_name[name].destinations) <= reached

    def check_left_alone(self) -> None:
        """Check what the plugin would find if this agent died now: the plan of what it knows, or the mark."""
        if self.state.inventory is None or (self.directory / contract.PLAN_OUTDATED).exists():
            return
        left = plan.loads((self.directory / contract.PLAN).read_text())
        assert left.policies_for(pod(*LABELS)) == self.wanted()[0]
        reached = {each.prefix for policy_set in left.policy_sets for each in policy_set.destinations}
        for name in self.wanted()[0]:
            assert set(self.state.inventory.policies_by_name[name].destinations) <= reached


def _plan_policies(inventory: Inventory) -> Any:
    from gateway_agent.policy.planner import policies

    return policies(inventory)


def with_policies(*policies: Policy) -> Inventory:
    return replace(EMPTY, policies=policies)


EDITS: tuple[Inventory, ...] = (
    with_policies(policy("a", "partner", "203.0.113.0/24")),
    with_policies(policy("a", "partner", "198.51.100.0/24")),
    with_policies(policy("a", "partner", "198.51.100.0/24"), policy("b", "partner", "203.0.113.0/24")),
    with_policies(policy("b", "partner", "203.0.113.0/24")),
    EMPTY,
)
"""Contents of the store, one after another."""
SLOW = ("", "watch", "tag", "reconcile", "tagged", "for_pod", "forget_pod", "thread")
"""Calls that wait in a run as long as anything else continues: races need one that is much slower than the rest."""


def run_scenario(
    directory: Path,
    scenario: Callable[[World], Awaitable[None]],
    inventory: Inventory = EMPTY,
    podman: str = "",
) -> None:
    async def main() -> None:
        world = World(directory, inventory, podman)
        try:
            await scenario(world)
        finally:
            await world.close()

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(300))
def test_an_add_never_answers_by_an_older_inventory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Edits and an ADD between any two steps of rounds, of the watch and of the call itself."""
    # No clock decides: on a busy machine a run may take long.
    monkeypatch.setattr("gateway_agent.agent.requests.cni_add.ADD_S", 600.0)
    rng = random.Random(seed)
    edits = list(EDITS[rng.randrange(len(EDITS)) :])
    late, pace = SLOW[seed % len(SLOW)], rng.choice([0.02, 0.1, 0.3])

    async def scenario(world: World) -> None:
        await world.open_all(lambda: world.state.applied is not None)
        call: asyncio.Task[bytes] | None = None
        while call is None or not call.done():
            await settle()
            world.check_left_alone()
            waiting = [i for i, (name, _) in enumerate(world.gates.waiting) if name != late]
            if waiting and rng.random() > pace:
                await world.gates.open(rng.choice(waiting))
            elif call is None and rng.random() < 0.5:
                call = asyncio.create_task(world.calls.handle(request()))
                # Nothing else may run between the answer and the look at the kernel.
                call.add_done_callback(lambda task: answers.append(judged(world, task)))
            elif edits:
                world.store.inventory = edits.pop(0)
            elif world.gates.waiting:
                await world.gates.open(0)
        await settle()

    answers: list[str] = []
    run_scenario(tmp_path, scenario)
    assert answers == ["right"]


def judged(world: World, task: asyncio.Task[bytes]) -> str:
    """Return ``right``, or what is wrong with an answer."""
    try:
        assert task.result() == contract.OK
        world.check_answered()
    except AssertionError as error:
        return str(error) or "wrong"
    return "right"


def test_an_add_knows_all_that_was_in_the_store_before_it(tmp_path: Path) -> None:
    """The policy is written, a round works on the inventory before it, and the watch is late."""

    async def scenario(world: World) -> None:
        await world.open_all(lambda: world.state.applied is not None)
        world.store.inventory = EDITS[0]
        call = asyncio.create_task(world.calls.handle(request()))
        await settle()
        await world.open_all(call.done)
        assert call.result() == contract.OK
        assert world.kernel.groups[VETH]

    run_scenario(tmp_path, scenario)


@pytest.mark.parametrize("held", ["host_veths", "forget_pod", "for_pod", "tagged", "reconcile", "tag"])
def test_an_add_that_takes_too_long_is_an_error_whatever_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    """The plugin waits no longer than ten seconds, and then goes by a plan that may be older."""
    monkeypatch.setattr("gateway_agent.agent.requests.cni_add.ADD_S", 0.3)

    async def scenario(world: World) -> None:
        await world.open_all(
            lambda: world.state.applied is not None and not world.parts.reconciler.outdated_for(pod(*LABELS))
        )
        world.store.inventory = EDITS[0]
        call = asyncio.create_task(world.calls.handle(request()))
        async with asyncio.timeout(10):
            while not call.done():
                await world.open_but(held)
        assert call.result().startswith(contract.ERROR)
        error = json.loads(call.result()[len(contract.ERROR) :])
        assert error["code"] == contract.TRY_AGAIN_LATER
        assert ("store" in error["details"]) == (held == "for_pod")
        # What it waited for comes late; the next call has its answer.
        monkeypatch.setattr("gateway_agent.agent.requests.cni_add.ADD_S", 60.0)
        again = asyncio.create_task(world.calls.handle(request()))
        await world.open_all(again.done)
        assert again.result() == contract.OK
        world.check_answered()

    run_scenario(tmp_path, scenario)


def test_a_program_that_keeps_changing_the_kernel_does_not_keep_an_add_for_ever(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.open_all(lambda: not world.parts.reconciler.outdated_for(pod(*LABELS)))
        world.store.inventory = EDITS[0]
        call = asyncio.create_task(world.calls.handle(request()))

        def still_waiting() -> bool:
            world.agent.kernel_changed([Event("rule", removed=True)])
            return call.done()

        await world.open_all(still_waiting)
        assert call.result() == contract.OK
        assert world.kernel.groups[VETH]

    run_scenario(tmp_path, scenario)


def test_an_add_that_is_overtaken_by_a_del_leaves_no_record(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.open_all(lambda: not world.parts.reconciler.outdated_for(pod(*LABELS)))
        world.store.inventory = EDITS[0]
        call = asyncio.create_task(world.calls.handle(request()))
        await settle()
        await world.open_all(
            lambda: bool(world.parts.pods.records) and "tag" in [n for n, _ in world.gates.waiting]
        )
        deleting = asyncio.create_task(world.calls.handle(request(command="DEL")))
        await world.open_all(lambda: call.done() and deleting.done())
        assert call.result().startswith(contract.ERROR)
        assert world.parts.pods.records == {}

    run_scenario(tmp_path, scenario)


def test_edits_that_do_not_concern_the_pod_keep_it_waiting_for_nothing(tmp_path: Path) -> None:
    other = policy("other", "partner", "192.0.2.0/24")

    async def scenario(world: World) -> None:
        await world.open_all(lambda: not world.parts.reconciler.outdated_for(pod(*LABELS)))
        world.store.inventory = with_policies(other)
        call = asyncio.create_task(world.calls.handle(request()))
        for _ in range(20):
            await settle()
            held = [name for name, _ in world.gates.waiting]
            if call.done() or not ASKING & {*held}:
                break
            await world.gates.open(next(i for i, name in enumerate(held) if name in ASKING))
        assert call.done()
        assert call.result() == contract.OK

    run_scenario(tmp_path, scenario)


def test_a_files_store_that_is_being_read_makes_a_pod_wait(tmp_path: Path) -> None:
    """What has been looked at is no inventory yet: another task is still making one of it."""

    async def main() -> None:
        manifests = tmp_path / "manifests"
        manifests.mkdir()
        store = FilesStore(manifests, tmp_path / "good")
        await store.current()
        async with store._reading:
            document = documents.policy("backend", "partner", {"app": "backend"})
            (manifests / "policy.json").write_text(json.dumps(document))
            store.read()
            assert not store.outdated()
            asked = asyncio.create_task(store.for_pod("prod", "web-0", ""))
            await settle()
            assert not asked.done()
        inventory = await asked
        assert inventory is not None
        assert [policy.name for policy in inventory.policies] == ["backend"]

    asyncio.run(main())
