"""Which node a tunnel leads to: one effect for each change, and one more if the kernel has refused it."""

from __future__ import annotations

from typing import Any

import pytest

from cni.kernel import ids
from gateway_agent.lease.egress_ips.egress_ip import EgressIPs
from gateway_agent.lease.ipc import EgressIPSpec, KeeperConfig, Peer
from gateway_agent.lease.mastership.masters import MasterTable
from gateway_agent.lease.messages.bodies import MasterAnnouncement
from gateway_agent.lease.tunnels import PointTunnel, QueueTunnel, TunnelEffect, Tunnels
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from .simulation import Network
from .small_cluster import cluster, master, until_another

ONE, DEVICE = "0000000000000001", "egw-000001"
PEERS = tuple(Peer(name, f"10.0.0.{n}", True) for n, name in enumerate(("w1", "g1", "g2"), 1))
MACS = {peer.name: ids.node_mac(peer.address) for peer in PEERS}
HOLD = 2 * SECOND


def config(address: str = "172.16.0.50", device: str = DEVICE) -> KeeperConfig:
    spec = EgressIPSpec(ONE, "partner", address, ("g1", "g2"), device=device)
    return KeeperConfig("w1", 7947, "", SECOND, SECOND, False, PEERS, (spec,))


class Worker:
    """The tunnels of a node that hears announcements."""

    def __init__(self, known: KeeperConfig) -> None:
        self.masters, self.tunnels = MasterTable(EgressIPs()), Tunnels("w1")
        self.tunnels.configure(known)

    def announce(
        self, node: str, epoch: int, leaving: bool = False, now: int = 10 * SECOND
    ) -> list[TunnelEffect]:
        announcement = MasterAnnouncement(ONE, epoch, 1.0, False, "", 0, leaving=leaving)
        self.masters.on_announcement(node, [announcement], HOLD, now)
        return self.effects(now)

    def effects(self, now: int = 10 * SECOND) -> list[TunnelEffect]:
        effects: list[Any] = []
        self.tunnels.follow(self.masters.changed, self.masters, now, effects)
        self.masters.changed.clear()
        return effects


@pytest.mark.parametrize(("address", "family"), [("172.16.0.50", 4), ("2001:db8::50", 6), ("", 4)])
def test_a_tunnel_leads_to_the_master_and_is_set_once(address: str, family: int) -> None:
    worker = Worker(config(address))
    assert worker.effects() == []
    assert worker.announce("g1", 1) == [PointTunnel(DEVICE, MACS["g1"], family)]
    assert worker.announce("g1", 1, now=11 * SECOND) == []
    assert worker.announce("g2", 2) == [PointTunnel(DEVICE, MACS["g2"], family)]


def test_packets_wait_while_the_master_hands_over_but_not_for_ever() -> None:
    worker = Worker(config())
    worker.announce("g1", 1)
    assert worker.announce("g1", 1, leaving=True) == [QueueTunnel(DEVICE, 4)]
    assert worker.announce("g1", 1, leaving=True, now=11 * SECOND) == []
    worker.masters.end_queueing(12 * SECOND)
    assert worker.effects(12 * SECOND) == [PointTunnel(DEVICE, MACS["g1"], 4)]


def test_what_the_kernel_has_refused_is_asked_for_again() -> None:
    worker = Worker(config())
    wanted = worker.announce("g1", 1)
    assert worker.effects() == []
    worker.tunnels.refused(DEVICE)
    assert worker.effects() == wanted
    assert worker.effects() == []


def test_everything_is_set_again_with_each_sign_of_life() -> None:
    worker = Worker(config())
    wanted = worker.announce("g1", 1)
    worker.tunnels.renew()
    assert worker.effects() == wanted


def test_a_tunnel_without_device_or_master_is_left_alone() -> None:
    assert Worker(config(device="")).announce("g1", 1) == []
    worker = Worker(config())
    assert worker.announce("a node that is not known", 1) == []
    assert worker.announce("w1", 2) == []


@pytest.mark.parametrize("seed", range(5))
def test_the_tunnels_of_all_workers_follow_within_the_failover(seed: int) -> None:
    network = cluster(workers=4, seed=seed)
    old = master(network)
    network.crash(old)
    until_another(network, old)
    network.run(5 * MILLISECOND)
    new = master(network)
    workers = [name for name in network.machines if name.startswith("w")]
    assert {network.leads_to(name, network.ids[0]) for name in workers} == {new}


def test_a_tunnel_that_comes_late_is_set_as_soon_as_it_is_there() -> None:
    network = Network(3, 1)
    device = network.device(network.ids[0])
    network.machines["w1"].kernel.refuses.add(device)
    network.run(5 * SECOND)
    assert network.leads_to("w1", network.ids[0]) == ""
    network.machines["w1"].kernel.refuses.clear()
    network.run_until(network.all_agreed, SECOND)


def test_no_fence_closes_by_handover_while_a_tunnel_still_leads_to_it() -> None:
    network = cluster(workers=3)
    old = master(network)
    network.drain(old)
    network.run_until(lambda: network.speakers(network.ids[0]) == [], SECOND)
    others = [name for name in network.machines if name != old]
    assert old not in {network.leads_to(name, network.ids[0]) for name in others}
