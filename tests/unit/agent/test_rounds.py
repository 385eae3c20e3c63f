"""The rounds of a node with fakes for the outside world: refusals of the kernel, lost objects, and what follows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from cni import contract
from cni.calls import attachments
from cni.kernel import ids
from cni.kernel.errors import KernelError
from cni.plan import Plan
from gateway_agent.agent.ports import ProbeTarget
from gateway_agent.agent.rounds import path_checks, reconciler
from gateway_agent.lease.ipc import EgressState, KeeperState, MemberState
from gateway_agent.manifests.model import VIRTUAL_IP, Inventory, Routing
from gateway_agent.manifests.store import NotKnown
from gateway_agent.policy.egress_node.exit_paths import Found
from gateway_agent.policy.egress_node.path_faults import Answers, Dropped
from gateway_agent.policy.egress_node.readiness import InterfaceFacts

from ..policy.test_planner import PARTNER, policy
from .gates import FakeDaemon, FakeInterfaces, FakePathProbe, FakeProbe, Gates, HeldKernel, settle
from .test_add_order import EDITS, EMPTY, VETH, World, request, with_policies

IDENTITY = ids.egress_id("partner", "")
UP = InterfaceFacts(True, True, 1500, ("172.16.0.21/24",), forwarding=True, default_route=frozenset({4}))


@dataclass
class RefusingKernel(HeldKernel):
    """A kernel that refuses the calls of some names."""

    refused: Collection[str] = ()

    async def reconcile(self, plan: Plan, devices: Sequence[str]) -> tuple[str, ...]:
        await self._check("reconcile")
        return await super().reconcile(plan, devices)

    async def tag(self, device: str, group: int) -> None:
        await self._check("tag")
        await super().tag(device, group)

    async def tagged(self) -> dict[str, int]:
        await self._check("tagged")
        return await super().tagged()

    async def _check(self, name: str) -> None:
        if name in self.refused:
            raise KernelError(f"{name} was refused", "a hint")


async def answered(world: World, call: bytes) -> dict[str, object]:
    """Return the error object of the answer to a call; empty if the answer is OK."""
    task = asyncio.create_task(world.calls.handle(call))
    await world.open_all(task.done)
    return {} if task.result() == contract.OK else json.loads(task.result()[len(contract.ERROR) :])


@pytest.mark.parametrize("refused", ["reconcile", "tagged"])
def test_while_the_kernel_refuses_a_plan_selected_pods_do_not_start_and_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    monkeypatch.setattr(reconciler, "RETRY_S", 0.001)

    async def scenario() -> None:
        gates = Gates()
        kernel = RefusingKernel(gates, refused={refused})
        world = World(tmp_path, with_policies(policy("a")), kernel=kernel)
        try:
            await world.open_all(lambda: bool(world.state.trouble))
            assert f"{refused} was refused (a hint)" in [p.message for p in world.problems()]
            assert (await answered(world, request(labels=["b"]))) == {}
            error = await answered(world, request("web-1", labels=["a"]))
            assert (error["code"], error["details"]) == (
                contract.TRY_AGAIN_LATER, f"{refused} was refused (a hint)",
            )  # fmt: skip
            kernel.refused = ()
            assert (await answered(world, request("web-1", labels=["a"]))) == {}
            world.check_answered()
            assert world.state.trouble == ""
        finally:
            await world.close()

    asyncio.run(scenario())


def test_a_refused_tag_is_an_error_of_the_add_and_no_group_in_the_record(tmp_path: Path) -> None:
    async def scenario() -> None:
        kernel = RefusingKernel(Gates(), refused={"tag"})
        world = World(tmp_path, with_policies(policy("a")), kernel=kernel)
        try:
            await world.open_all(lambda: world.state.followed is not None)
            error = await answered(world, request(labels=["a"]))
            assert (error["code"], error["msg"]) == (contract.KERNEL_REFUSED, "tag was refused")
            [record] = attachments.load_all(tmp_path)[0]
            assert record.group == 0
            assert (await answered(world, request("web-1", labels=["a"], failure_policy="Ignore"))) == {}
            kernel.refused = ()
            # The next round tags what has started without.
            world.parts.reconciler.request()
            await world.open_all(lambda: bool(kernel.tag_on(VETH)))
        finally:
            await world.close()

    asyncio.run(scenario())


@dataclass
class LostStore:
    """A store that does not answer: no inventory comes, and no pod is known."""

    error: Exception

    async def inventories(self) -> AsyncIterator[Inventory]:
        await asyncio.Event().wait()
        yield EMPTY

    async def for_pod(self, namespace: str, name: str, uid: str) -> Inventory | None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NotKnown("the store does not answer"), "the store does not answer"),
        (OSError("no such directory"), "the agent has not read its store yet"),
    ],
    ids=["not known", "not read"],
)
def test_an_agent_without_objects_changes_nothing_and_starts_nothing(
    tmp_path: Path, error: Exception, message: str
) -> None:
    """The plan of an earlier process is on disk, and its rules are in the kernel."""

    async def before() -> Plan:
        world = World(tmp_path, with_policies(policy("a")))
        try:
            assert (await answered(world, request(labels=["a"]))) == {}
            assert world.state.plan is not None
            return world.state.plan
        finally:
            await world.close()

    async def after(plan: Plan) -> None:
        gates = Gates()
        kernel = HeldKernel(gates)
        world = World(tmp_path, store=lambda _: LostStore(error), kernel=kernel)
        try:
            await world.parts.reconciler.next_round()
            assert (world.state.plan, world.state.applied, kernel.plan) == (plan, None, None)
            assert [record.group for record in world.parts.pods.records.values()] == [
                ids.GROUP_BASE + plan.policy_sets[0].number
            ]
            refused = await answered(world, request("web-1", labels=["b"]))
            assert (refused["code"], refused["msg"]) == (contract.TRY_AGAIN_LATER, message)
            assert json.loads(await world.calls.handle(b'ctl1\0{"call": "status"}'))["error"]
        finally:
            await world.close()

    asyncio.run(after(asyncio.run(before())))


def test_pods_keep_their_tags_until_newer_objects_take_them_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path, EDITS[0])
        try:
            assert (await answered(world, request())) == {}
            group = world.kernel.groups[VETH]
            assert group
            world.store.inventory = EMPTY
            await world.open_all(lambda: world.state.followed is EMPTY)
            assert world.kernel.tag_on(VETH) == 0
            assert [record.group for record in attachments.load_all(tmp_path)[0]] == [0]
        finally:
            await world.close()

    asyncio.run(scenario())


def daemon_state(master: str, epoch: int, alive: bool = True, ready: bool = True) -> KeeperState:
    """``alive``, ``ready``: of the other egress node, g1."""
    egress = EgressState(IDENTITY, master, epoch, 1.0, "standby", "")
    members = (MemberState("g1", alive, ready, "", 0),)
    return KeeperState("w1", 1, (egress,), members, (), 1, False, {})


@pytest.mark.usefixtures("only_asked")
@pytest.mark.parametrize("master", ["w1", "g1"])
def test_answers_that_a_master_drops_are_a_problem_until_they_pass(tmp_path: Path, master: str) -> None:
    async def scenario() -> None:
        daemon, probe = FakeDaemon(), FakePathProbe()
        daemon.news.put_nowait(daemon_state(master, 3))
        world = egress_node(tmp_path, daemon, probe, "partner")

        async def problems(came: int, went: int) -> list[str]:
            probe.seen = Answers(came, went)
            looking = asyncio.create_task(world.parts.answers.look())
            await world.open_all(looking.done)
            return [p.message.partition(" answers")[0] for p in world.problems() if p.source == "path"]

        try:
            await world.open_all(lambda: world.state.applied is not None and bool(daemon.sent))
            assert await problems(100, 100) == []
            assert await problems(110, 100) == []
            serves = master == "w1"
            # The window goes on until enough have come.
            assert await problems(120, 100) == (["20 of 20"] if serves else [])
            assert await problems(125, 105) == (["20 of 20"] if serves else [])
            assert await problems(5, 5) == (["20 of 20"] if serves else [])
            assert await problems(45, 45) == []
            assert daemon.sent[-1].egress[0].ready
        finally:
            await world.close()

    asyncio.run(scenario())


def replace_id(state: KeeperState, identity: str) -> KeeperState:
    return msgspec.structs.replace(
        state, egress=tuple(msgspec.structs.replace(each, id=identity) for each in state.egress)
    )


def test_a_new_master_is_followed_by_a_round(tmp_path: Path) -> None:
    async def scenario() -> None:
        daemon = FakeDaemon()
        world = World(tmp_path, EDITS[0], others={"lease_daemon": daemon})
        try:
            await world.open_all(lambda: bool(daemon.sent))
            assert [spec.id for spec in daemon.sent[-1].egress] == [IDENTITY]
            daemon.news.put_nowait(daemon_state("g2", 3))
            await world.open_all(
                lambda: world.kernel.plan is not None and world.kernel.plan.egress_ips[0].master == "g2"
            )
        finally:
            await world.close()

    asyncio.run(scenario())


def test_a_node_whose_routes_lead_elsewhere_is_not_ready(tmp_path: Path) -> None:
    async def scenario() -> None:
        daemon, interfaces = FakeDaemon(), FakeInterfaces({"eth1": UP})
        interfaces.routes = {"203.0.113.1": Found("eth0", "10.0.0.1")}
        nodes = tuple(replace(n, labels={"role": "egress"}) for n in EMPTY.nodes)
        others = {"lease_daemon": daemon, "interfaces": interfaces}
        objects = Inventory((PARTNER,), (policy("backend", "partner"),), nodes)
        world = World(tmp_path, objects, others=others)

        def reason() -> str:
            return daemon.sent[-1].egress[0].reason if daemon.sent else ""

        try:
            await world.open_all(lambda: "203.0.113.0/24 by eth0 via 10.0.0.1, not by eth1" in reason())
            interfaces.routes = {"203.0.113.1": Found("eth1", "172.16.0.1")}
            world.parts.reconciler.request()
            await world.open_all(lambda: daemon.sent[-1].egress[0].ready)
        finally:
            await world.close()

    asyncio.run(scenario())


@pytest.fixture
def only_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no round of probes by the clock."""
    monkeypatch.setattr(path_checks, "MIN_INTERVAL_S", 3600.0)
    monkeypatch.setattr(path_checks, "DOUBTFUL_INTERVAL_S", 3600.0)


async def probe_once(world: World) -> bool:
    """Carry out one round of probes. Return True if a path is found closed or open."""
    looking = asyncio.create_task(world.parts.paths.look())
    await world.open_all(looking.done)
    if looking.result():
        world.parts.daemon_config.send()
    return looking.result()


@pytest.mark.usefixtures("only_asked")
def test_a_node_whose_firewall_drops_what_it_forwards_is_not_ready(tmp_path: Path) -> None:
    """One lost probe is no proof, and one that does not enter its tunnel says nothing about other nodes' packets."""

    async def scenario() -> None:
        daemon, interfaces, probe = FakeDaemon(), FakeInterfaces({"eth1": UP}), FakePathProbe()
        interfaces.routes = {"203.0.113.1": Found("eth1", "172.16.0.1")}
        nodes = tuple(replace(n, labels={"role": "egress"}) for n in EMPTY.nodes)
        others = {"lease_daemon": daemon, "interfaces": interfaces, "path_probe": probe}
        world = World(tmp_path, Inventory((PARTNER,), (policy("backend", "partner"),), nodes), others=others)

        async def look() -> bool:
            return await probe_once(world)

        try:
            await world.open_all(lambda: bool(daemon.sent) and daemon.sent[-1].egress[0].ready)
            probe.dropped = Dropped("ip", "filter", "FORWARD", "FORWARD", "", True)
            assert [await look(), await look()] == [False, True]
            assert "nftables table ip filter, chain FORWARD, drops them" in daemon.sent[-1].egress[0].reason
            assert "iptables -I FORWARD -i egw-+ -j ACCEPT" in daemon.sent[-1].egress[0].reason
            # One round that cannot probe says nothing new: doctor may have the packet log.
            probe.error = OSError(16, "Device or resource busy")
            assert not await look()
            assert "busy" in next(p for p in world.problems() if p.source == "path").message
            assert not daemon.sent[-1].egress[0].ready
            assert [await look(), await look()] == [False, True]
            assert daemon.sent[-1].egress[0].ready
            probe.error = None
            assert [await look(), await look()] == [False, True]
            probe.dropped = None
            assert await look()
            assert daemon.sent[-1].egress[0].ready
            probe.lost = True
            before = probe.traces
            # The hold time of the closings before ends with the second search.
            assert [await look() for _ in range(6)] == [False, False, True, False, False, False]
            # Each trace makes and removes a table: not one each second.
            assert probe.traces == before + 2
            assert daemon.sent[-1].egress[0].ready
            assert (
                "lets nothing in from its own address"
                in next(p for p in world.problems() if p.source == "path").message
            )
            probe.error = OSError(16, "Device or resource busy")
            await look()
            assert "busy" in next(p for p in world.problems() if p.source == "path").message
            probe.error, probe.lost = None, False
            await look()
            assert [p for p in world.problems() if p.source == "path"] == []
            probe.most = 1300
            assert [await look(), await look()] == [False, False]
            [problem] = [p for p in world.problems() if p.source == "path"]
            assert problem.message.startswith("packets of more than 1300 bytes do not get from ")
            assert daemon.sent[-1].egress[0].ready
            # A firewall that comes then is found as soon as without it, also when it comes back.
            for _ in range(2):
                probe.dropped = Dropped("ip", "filter", "FORWARD", "FORWARD", "", True)
                assert [await look(), await look()] == [False, True]
                assert not daemon.sent[-1].egress[0].ready
                probe.dropped = None
                assert await look()
            probe.most = 1500
            await look()
            assert [p for p in world.problems() if p.source == "path"] == []
        finally:
            await world.close()

    asyncio.run(scenario())


CLOSED = Dropped("ip", "filter", "FORWARD", "FORWARD", "", True)
UNPROVEN = "it is not proven yet that packets get through this node"


def egress_node(directory: Path, daemon: FakeDaemon, probe: FakePathProbe, *gateways: str) -> World:
    """Return an egress node of these gateways, whose routes lead out by the egress interface."""
    interfaces = FakeInterfaces({"eth1": UP})
    interfaces.routes = {"203.0.113.1": Found("eth1", "172.16.0.1")}
    others = {"lease_daemon": daemon, "interfaces": interfaces, "path_probe": probe}
    return World(directory, with_gateways(*gateways), others=others)


def with_gateways(*names: str) -> Inventory:
    nodes = tuple(replace(n, labels={"role": "egress"}) for n in EMPTY.nodes)
    gateways = tuple(replace(PARTNER, name=name) for name in names)
    return Inventory(gateways, tuple(policy(f"to-{name}", name) for name in names), nodes)


def sent(daemon: FakeDaemon) -> list[tuple[str, bool, str]]:
    """Return what the lease daemon was sent last: gateway, ready, reason."""
    return [(each.gateway, each.ready, each.reason) for each in daemon.sent[-1].egress]


@pytest.mark.usefixtures("only_asked")
def test_a_closed_node_is_not_ready_from_the_first_word_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        daemon, probe = FakeDaemon(), FakePathProbe(dropped=CLOSED)
        world = egress_node(tmp_path, daemon, probe, "partner")
        try:
            await world.open_all(lambda: bool(daemon.sent))
            assert sent(daemon) == [("partner", False, UNPROVEN)]
            assert await probe_once(world)
            assert "drops them" in daemon.sent[-1].egress[0].reason
            assert not any(each.egress[0].ready for each in daemon.sent)
        finally:
            await world.close()

    asyncio.run(scenario())


@pytest.mark.usefixtures("only_asked")
def test_a_node_that_loses_probes_is_not_ready_also_if_the_kernel_takes_no_trace(tmp_path: Path) -> None:
    async def scenario() -> None:
        daemon, probe = (
            FakeDaemon(),
            FakePathProbe(dropped=CLOSED, refused=KernelError("nft: cannot be started")),
        )
        world = egress_node(tmp_path, daemon, probe, "partner")
        try:
            await world.open_all(lambda: bool(daemon.sent) and probe.removals == 1)
            assert await probe_once(world)
            assert (
                daemon.sent[-1]
                .egress[0]
                .reason.endswith("the rule that drops them was not found, nft: cannot be started")
            )
        finally:
            await world.close()

    asyncio.run(scenario())


@pytest.mark.usefixtures("only_asked")
def test_an_open_node_is_ready_with_the_first_word_and_a_new_gateway_waits_for_no_turn(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        daemon, probe = FakeDaemon(), FakePathProbe()
        world = egress_node(tmp_path, daemon, probe, "partner")

        async def publish(*gateways: str) -> None:
            world.store.inventory = with_gateways(*gateways)
            await world.open_all(lambda: world.state.followed is world.store.inventory)
            await settle()

        try:
            await world.open_all(lambda: bool(daemon.sent))
            assert sent(daemon) == [("partner", True, "")]
            await publish("partner", "second")
            assert sorted(sent(daemon)) == [("partner", True, ""), ("second", True, "")]
            probe.dropped = CLOSED
            await publish("partner", "second", "third")
            assert ("third", False, UNPROVEN) in sent(daemon)
        finally:
            await world.close()

    asyncio.run(scenario())


@pytest.mark.usefixtures("only_asked")
@pytest.mark.parametrize(("master", "ready"), [("w1", True), ("g1", False), ("", False)])
def test_a_master_whose_agent_has_just_started_goes_on_until_it_is_found_closed(
    tmp_path: Path, master: str, ready: bool
) -> None:
    async def scenario() -> None:
        daemon, probe = FakeDaemon(), FakePathProbe(dropped=CLOSED)
        daemon.news.put_nowait(daemon_state(master, 3))
        world = egress_node(tmp_path, daemon, probe, "partner")
        try:
            await world.open_all(lambda: bool(daemon.sent))
            assert sent(daemon) == [("partner", ready, "" if ready else UNPROVEN)]
            assert await probe_once(world)
            assert "drops them" in daemon.sent[-1].egress[0].reason
        finally:
            await world.close()

    asyncio.run(scenario())


@pytest.mark.usefixtures("only_asked")
def test_after_a_closing_a_node_waits_while_another_one_serves(tmp_path: Path) -> None:
    async def scenario() -> None:
        daemon, probe = FakeDaemon(), FakePathProbe(dropped=CLOSED)
        world = egress_node(tmp_path, daemon, probe, "partner")

        async def of_master(
            master: str, alive: bool = True, ready: bool = True
        ) -> list[tuple[str, bool, str]]:
            daemon.news.put_nowait(daemon_state(master, 3, alive, ready))
            await settle()
            ended = asyncio.create_task(world.parts.reconciler.next_round())
            await world.open_all(ended.done)
            await settle()
            return sent(daemon)

        try:
            await world.open_all(lambda: bool(daemon.sent))
            await of_master("g1")
            assert await probe_once(world)
            probe.dropped = None
            assert await probe_once(world)
            held = "packets were dropped on this node: ready when all get through for 5 s"
            assert sent(daemon) == [("partner", False, held)]
            assert await of_master("") == [("partner", True, "")]
            assert await of_master("g1") == [("partner", False, held)]
            assert await of_master("w1") == [("partner", True, "")]
            # A master that has just failed is known for some seconds more.
            assert await of_master("g1", alive=False) == [("partner", True, "")]
            assert await of_master("g1", ready=False) == [("partner", True, "")]
            assert await of_master("g1") == [("partner", False, held)]
        finally:
            await world.close()

    asyncio.run(scenario())


def test_an_egress_node_reports_what_it_cannot_serve_before_the_next_round(tmp_path: Path) -> None:
    """Its upstream falls silent, then its interface goes: the lease daemon has to know at once."""

    async def scenario() -> None:
        daemon, interfaces, probes = FakeDaemon(), FakeInterfaces({"eth1": UP}), list[FakeProbe]()

        def probe(target: ProbeTarget, changed: Callable[[], None]) -> FakeProbe:
            probes.append(FakeProbe(target, changed))
            return probes[-1]

        nodes = tuple(replace(n, labels={"role": "egress"}) for n in EMPTY.nodes)
        others = {"lease_daemon": daemon, "interfaces": interfaces, "probe": probe}
        world = World(tmp_path, Inventory((PARTNER,), (), nodes), others=others, upstream="198.51.100.1")

        def ready() -> tuple[bool, str]:
            [spec] = daemon.sent[-1].egress
            return spec.ready, spec.reason

        try:
            await world.open_all(lambda: bool(daemon.sent) and bool(probes))
            await world.open_all(lambda: world.state.followed is world.state.inventory)
            assert [p.target for p in probes] == [
                ProbeTarget("eth1", ("198.51.100.1",), source="172.16.0.21")
            ]
            assert ready() == (True, "")
            probes[0].silent = ("198.51.100.1",)
            probes[0].changed()
            assert ready() == (False, "upstream 198.51.100.1 does not answer")
            probes[0].silent = ()
            probes[0].changed()
            assert ready() == (True, "")
            interfaces.facts = {}
            world.agent.kernel_changed([world.link_event("eth1")])
            await world.open_all(lambda: not ready()[0])
            assert ready() == (False, "interface eth1 does not exist")
        finally:
            await world.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("master", ["w1", "g1"])
def test_a_master_asks_upstream_by_its_virtual_address_too(tmp_path: Path, master: str) -> None:
    """Silence there is a problem and no reason: each node would find the same as soon as it is the master."""

    async def scenario() -> None:
        daemon, probes = FakeDaemon(), list[FakeProbe]()

        def probe(target: ProbeTarget, changed: Callable[[], None]) -> FakeProbe:
            probes.append(FakeProbe(target, changed))
            return probes[-1]

        shown = replace(PARTNER, mode=VIRTUAL_IP, interface="", addresses=("172.16.0.50",))
        identity = ids.egress_id("partner", "172.16.0.50")
        daemon.news.put_nowait(replace_id(daemon_state(master, 3), identity))
        nodes = tuple(replace(n, labels={"role": "egress"}) for n in EMPTY.nodes)
        others = {"lease_daemon": daemon, "interfaces": FakeInterfaces({"eth1": UP}), "probe": probe}
        world = World(
            tmp_path, Inventory((shown,), (), nodes), others=others, upstream="198.51.100.1, '2001:db8::1'"
        )
        try:
            await world.open_all(lambda: bool(probes) and world.state.followed is not None)
            by_own = ProbeTarget("eth1", ("198.51.100.1",))
            by_shown = replace(by_own, source="172.16.0.50")
            assert {p.target for p in probes} == ({by_own, by_shown} if master == "w1" else {by_own})
            for each in probes:
                if each.target == by_shown:
                    each.silent = each.target.addresses
            problems = [p.message for p in world.problems() if p.source == "health"]
            words = "upstream 198.51.100.1 answers this node, but not 172.16.0.50"
            assert problems == ([words] if master == "w1" else [])
            assert daemon.sent[-1].egress[0].ready
        finally:
            await world.close()

    asyncio.run(scenario())


def test_an_edit_that_needs_answers_checked_by_mark_makes_no_node_unready(tmp_path: Path) -> None:
    """A master would hand over: the setting is turned on before the lease daemon gets to know of the edit."""

    async def scenario() -> None:
        daemon, interfaces = FakeDaemon(), FakeInterfaces({"eth1": replace(UP, rp_filter=1)})
        nodes = tuple(replace(n, labels={"role": "egress"}) for n in EMPTY.nodes)
        objects = Inventory((PARTNER,), (policy("backend", "partner"),), nodes)
        world = World(tmp_path, objects, others={"lease_daemon": daemon, "interfaces": interfaces})

        async def one_round() -> None:
            ended = asyncio.create_task(world.parts.reconciler.next_round())
            await world.open_all(ended.done)

        try:
            await world.open_all(lambda: bool(daemon.sent) and daemon.sent[-1].egress[0].ready)
            before = len(daemon.sent)
            routed = replace(PARTNER, routing=Routing(next_hops=("172.16.0.1",)))
            world.store.inventory = replace(objects, gateways=(routed,))
            await world.open_all(lambda: world.state.followed is world.store.inventory)
            await one_round()
            for value in (0, 1, 2):
                interfaces.facts = {"eth1": replace(UP, rp_filter=value)}
                await one_round()
            assert [sent.egress[0].reason for sent in daemon.sent[before:]] == [""] * (
                len(daemon.sent) - before
            )
            assert len(daemon.sent) > before
        finally:
            await world.close()

    asyncio.run(scenario())
