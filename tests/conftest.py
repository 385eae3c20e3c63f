"""Modules whose labs have no other lab beside them."""

from __future__ import annotations

import pytest

UNDISTURBED = {
    "e2e": (
        "test_clock",
        "test_coming_back",
        "test_connection_sync",
        "test_deployment",
        "test_hostile_input",
        "test_hostile_objects",
        "test_install",
        "test_ipv6",
        "test_ipv6_underlay",
        "test_keys",
        "test_kubernetes",
        "test_kubernetes_nodes",
        "test_no_leak",
        "test_operator",
        "test_own_pods",
        "test_routing_connections",
        "test_routing_edits",
        "test_schedule",
        "test_spread",
        "test_stopped_keeper",
        "test_store",
        "test_tunnel_forgeries",
        "test_units",
    ),
}
"""Modules in which a lost packet or another master fails a test, by folder: beside another lab a lease may end for want
of processor time. What runs by the processor time that is left changes nothing."""
MEASURED = {
    "netns": (
        "test_fence",
        "test_fence_updates",
        "test_keeper",
        "test_loads",
        "test_neighbour_floods",
        "test_packet_costs",
    ),
    "e2e": (
        "test_busy_edits",
        "test_busy_machine",
        "test_failover",
        "test_flood",
        "test_neighbour_floods",
        "test_plugin_alone",
        "test_scale",
        "test_two_owners",
        "test_virtual_failover",
        "test_virtual_ip",
    ),
}
"""Modules that compare a time with a bound: they have the machine alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder, module = item.path.parent.name, item.path.stem
        measured = module in MEASURED.get(folder, ())
        if measured:
            item.add_marker(pytest.mark.measured)
        if measured or module in UNDISTURBED.get(folder, ()):
            item.add_marker(pytest.mark.timed)
