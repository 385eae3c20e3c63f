"""Probes of a node's own path against a real kernel."""

from __future__ import annotations

import threading

from cni.kernel import ids
from cni.kernel.netlink.nflog import PacketLog
from gateway_agent.adapters.probes.path_probe import PathProbe
from gateway_agent.policy.egress_node.path_faults import TunnelProbe

from .datapath_lab import FIRST, NODES, SECOND, Lab


def test_more_probes_than_the_packet_log_can_hold_are_all_seen(lab: Lab) -> None:
    """Four destinations of 64 addresses and more."""
    vnis = (ids.vni(FIRST), ids.vni(SECOND))
    probes = [
        TunnelProbe(vni, NODES["w2"], f"203.0.{third}.{last}")
        for vni in vnis
        for third in (113, 114, 115)
        for last in range(1, 255)
    ]
    node = lab.nodes["g1"].machine
    passing = node.inside(lambda: PathProbe(4799).passing(NODES["g1"], probes))
    assert len(passing) == len(probes)


def test_the_packet_log_is_waited_for_while_another_process_has_it(lab: Lab) -> None:
    """The agent and ``egressctl doctor`` probe at the same time."""
    probe = TunnelProbe(ids.vni(FIRST), NODES["w2"], "203.0.113.1")

    def while_taken() -> frozenset[TunnelProbe]:
        taken = PacketLog(ids.PROBE_GROUP)
        given_back = threading.Timer(0.2, taken.close)
        given_back.start()
        try:
            return PathProbe(4799).passing(NODES["g1"], [probe])
        finally:
            given_back.join()

    assert lab.nodes["g1"].machine.inside(while_taken) == {probe}
