"""Modules whose labs have the machine alone."""

from __future__ import annotations

import pytest

TIMED = {
    "netns": (
        "test_fence",
        "test_fence_updates",
        "test_keeper",
        "test_keeper_datagrams",
        "test_keeper_settings",
        "test_loads",
        "test_neighbour_floods",
        "test_observing",
    ),
    "e2e": (
        "test_busy_edits",
        "test_busy_machine",
        "test_clock",
        "test_coming_back",
        "test_connection_sync",
        "test_deployment",
        "test_failover",
        "test_first_address",
        "test_flood",
        "test_hostile_input",
        "test_hostile_objects",
        "test_install",
        "test_ipv6",
        "test_ipv6_underlay",
        "test_keys",
        "test_kubernetes",
        "test_kubernetes_nodes",
        "test_neighbour_floods",
        "test_no_leak",
        "test_operator",
        "test_own_pods",
        "test_partitions",
        "test_plugin",
        "test_plugin_alone",
        "test_quorum",
        "test_routing_connections",
        "test_routing_edits",
        "test_scale",
        "test_schedule",
        "test_spread",
        "test_stopped_keeper",
        "test_store",
        "test_tunnel_forgeries",
        "test_two_nodes",
        "test_two_owners",
        "test_units",
        "test_virtual_failover",
        "test_virtual_ip",
    ),
}
"""Modules that measure a time or lost packets, by folder: another lab beside them would change the result."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in TIMED.get(item.path.parent.name, ()):
            item.add_marker(pytest.mark.timed)
