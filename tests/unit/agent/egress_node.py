"""A world whose node is an egress node, with what its lease daemon is sent."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from cni.kernel import ids
from gateway_agent.agent.rounds import path_checks
from gateway_agent.lease.ipc import EgressState, KeeperState, MemberState
from gateway_agent.manifests.model import Inventory
from gateway_agent.policy.egress_node.exit_paths import Found
from gateway_agent.policy.egress_node.path_faults import Dropped
from gateway_agent.policy.egress_node.readiness import InterfaceFacts

from ..policy.small_inventory import PARTNER, policy
from .gates import FakeDaemon, FakeInterfaces, FakePathProbe
from .test_add_order import EMPTY, World

IDENTITY = ids.egress_id("partner", "")
UP = InterfaceFacts(True, True, 1500, ("172.16.0.21/24",), forwarding=True, default_route=frozenset({4}))


def daemon_state(master: str, epoch: int, alive: bool = True, ready: bool = True) -> KeeperState:
    """``alive``, ``ready``: of the other egress node, g1."""
    egress = EgressState(IDENTITY, master, epoch, 1.0, "standby", "")
    members = (MemberState("g1", alive, ready, "", 0),)
    return KeeperState("w1", 1, (egress,), members, (), 1, False, {})


def replace_id(state: KeeperState, identity: str) -> KeeperState:
    return msgspec.structs.replace(
        state, egress=tuple(msgspec.structs.replace(each, id=identity) for each in state.egress)
    )


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
