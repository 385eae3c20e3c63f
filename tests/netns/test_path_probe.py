"""Probes of a node's own path against a real kernel."""

from __future__ import annotations

from cni.kernel import ids
from gateway_agent.adapters.path_probe import PathProbe
from gateway_agent.policy.path_faults import TunnelProbe

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
