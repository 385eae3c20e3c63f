"""The modules that have no unit test file of their own name, and the test file that tests each.

What talks to the kernel, to a socket or to another process is tested against a real one (``tests/netns``,
``tests/e2e``). What has no decisions of its own is tested by what uses it. ``tests/unit/test_mirror.py`` checks that
the list is complete, that it has no other module, and that each test reaches its module.
"""

from __future__ import annotations

TESTED_ELSEWHERE = {
    # Rules of nftables: what they let through is the kernel's decision.
    "cni/datapath/lease_port_guard.py": "netns/test_keeper_guard.py",
    "cni/datapath/tunnel_port_guard.py": "e2e/test_tunnel_forgeries.py",
    # Netlink and nftables by hand.
    "cni/kernel/netlink/addresses.py": "netns/test_addresses.py",
    "cni/kernel/netlink/conntrack/connections.py": "unit/cni/kernel/netlink/conntrack/test_ctnetlink.py",
    "cni/kernel/netlink/conntrack/ct_events.py": "netns/test_ct_events.py",
    "cni/kernel/netlink/conntrack/ct_flows.py": "netns/test_ct_events.py",
    "cni/kernel/netlink/entries.py": "unit/cni/kernel/netlink/test_malformed_messages.py",
    "cni/kernel/netlink/links.py": "netns/test_netlink.py",
    "cni/kernel/netlink/monitor.py": "netns/test_netlink.py",
    "cni/kernel/netlink/neighbours.py": "netns/test_netlink.py",
    "cni/kernel/netlink/netfilter.py": "netns/test_netlink.py",
    "cni/kernel/netlink/netlink_socket.py": "unit/cni/kernel/netlink/test_malformed_messages.py",
    "cni/kernel/netlink/nflog.py": "netns/test_netlink.py",
    "cni/kernel/netlink/routes.py": "unit/cni/kernel/netlink/test_malformed_messages.py",
    "cni/kernel/netlink/veths.py": "e2e/test_pod_probes.py",
    "cni/kernel/nftables/elements.py": "netns/test_fence.py",
    "cni/kernel/nftables/generation.py": "netns/test_nft_generation.py",
    "cni/kernel/nftables/libnftables.py": "netns/test_libnftables.py",
    "cni/kernel/nftables/nft.py": "netns/test_nft_update.py",
    "cni/kernel/nftables/table_digest.py": "netns/test_nft_table.py",
    "cni/kernel/rtnl.py": "netns/test_netlink.py",
    "cni/kernel/rtnl_ops.py": "netns/test_netlink.py",
    # Plain data.
    "cni/kernel/state.py": "unit/cni/kernel/test_diff.py",
    "cni/plan_objects.py": "unit/cni/test_plan.py",
    "gateway_agent/agent/ports.py": "unit/agent/rounds/test_daemon_config.py",
    "gateway_agent/agent/set_ports.py": "unit/agent/inputs/test_manifest_sets.py",
    "gateway_agent/lease/ipc.py": "unit/lease/messages/test_agreement.py",
    "gateway_agent/manifests/model.py": "unit/manifests/test_typed_objects.py",
    "gateway_agent/manifests/store.py": "unit/agent/rounds/test_round_steps.py",
    "gateway_agent/manifest_sets/messages.py": "unit/manifest_sets/test_session.py",
    # The plugin's programs.
    "cni/plugin.py": "unit/cni/test_protocol.py",
    "cni/vendored.py": "unit/packaging/test_standalone.py",
    # The agent: decisions of several modules together, in every order of events.
    "gateway_agent/agent/inputs/objects.py": "unit/agent/rounds/test_round_steps.py",
    "gateway_agent/agent/inputs/peers.py": "unit/agent/inputs/test_manifest_sets.py",
    "gateway_agent/agent/inputs/push.py": "unit/agent/inputs/test_manifest_sets.py",
    "gateway_agent/agent/observer.py": "unit/agent/rounds/test_round_steps.py",
    "gateway_agent/agent/parts.py": "unit/agent/test_add_order.py",
    "gateway_agent/agent/requests/pod_tests.py": "e2e/test_pod_probes.py",
    # What the agent does to the outside world.
    "gateway_agent/adapters/daemons/connection_log.py": "e2e/test_connection_log.py",
    "gateway_agent/adapters/daemons/conntrackd_process.py": "netns/test_full_disk.py",
    "gateway_agent/adapters/daemons/lease_client_ipc.py": "unit/agent/inputs/test_lease_client.py",
    "gateway_agent/adapters/kernel/kernel_thread.py": "netns/test_stale_beside_rules.py",
    "gateway_agent/adapters/kernel/node_counters.py": "netns/test_node_counters.py",
    "gateway_agent/adapters/kernel/node_interfaces.py": "e2e/test_store.py",
    "gateway_agent/adapters/kernel/open_connections.py": "e2e/test_connection_log.py",
    "gateway_agent/adapters/kernel/overlay_devices.py": "netns/test_interfaces.py",
    "gateway_agent/adapters/kernel/route_lookup.py": "netns/test_route_lookup.py",
    "gateway_agent/agent/rounds/worker_checks.py": "e2e/test_no_default_route.py",
    "gateway_agent/adapters/netns_lock.py": "netns/test_netns_lock.py",
    "gateway_agent/adapters/probes/answer_counters.py": "netns/test_answer_counters.py",
    "gateway_agent/adapters/probes/ip_packet.py": "unit/adapters/probes/test_pod_packet.py",
    "gateway_agent/adapters/probes/neighbour_probe.py": "e2e/test_own_next_hop.py",
    "gateway_agent/adapters/probes/legacy_tables.py": "netns/test_firewalls.py",
    "gateway_agent/adapters/probes/path_probe.py": "netns/test_path_probe.py",
    "gateway_agent/adapters/probes/pod_probe.py": "e2e/test_pod_probes.py",
    "gateway_agent/adapters/servers/metrics_answers.py": "unit/adapters/servers/test_metrics_http.py",
    "gateway_agent/adapters/counters.py": "netns/test_refused_packets.py",
    "gateway_agent/adapters/probes/refused_packets.py": "netns/test_refused_packets.py",
    "gateway_agent/adapters/servers/http_requests.py": "unit/adapters/servers/test_metrics_http.py",
    "gateway_agent/container_engines/grpc_call.py": "unit/container_engines/test_cri.py",
    # Programs for people.
    "gateway_agent/cni_install/chaining.py": "unit/cni_install/test_installer.py",
    "gateway_agent/ctl/clean.py": "netns/test_doctor.py",
    "gateway_agent/ctl/doctor.py": "netns/test_doctor.py",
    "gateway_agent/ctl/edit_options.py": "unit/ctl/test_egressctl.py",
    "gateway_agent/ctl/guard.py": "netns/test_pod_guard.py",
    "gateway_agent/ctl/path_report.py": "netns/test_doctor.py",
    "gateway_agent/node_install/installation.py": "e2e/test_install.py",
    "gateway_agent/node_install/kernel_trial.py": "netns/test_kernel_trial.py",
    "gateway_agent/node_install/firewalls.py": "netns/test_firewalls.py",
    "gateway_agent/node_install/legacy_ruleset.py": "netns/test_firewalls.py",
    # The lease: failovers of whole clusters, in virtual time.
    # The lease daemon's kernel and sockets.
    "gateway_agent/lease_daemon/kernel/tunnel_neighbours.py": "unit/lease_daemon/test_daemon.py",
    "gateway_agent/lease_daemon/kernel/vip_addresses.py": "netns/test_addresses.py",
    "gateway_agent/lease_daemon/kernel/vip_fence.py": "netns/test_fence.py",
    "gateway_agent/lease_daemon/kernel/vip_kernel.py": "netns/test_vip_kernel.py",
    "gateway_agent/lease_daemon/process.py": "unit/lease_daemon/test_unhandled_messages.py",
    "gateway_agent/lease_daemon/sockets/arp_socket.py": "netns/test_arp.py",
    "gateway_agent/lease_daemon/sockets/closing.py": "netns/test_strays.py",
    "gateway_agent/lease_daemon/sockets/packet_filter.py": "netns/test_arp.py",
    "gateway_agent/lease_daemon/sockets/packet_receiver.py": "netns/test_arp.py",
    "gateway_agent/lease_daemon/sockets/stray_sockets.py": "netns/test_strays.py",
    "gateway_agent/lease_daemon/sockets/udp.py": "netns/test_datagrams.py",
}
"""Path of the test below ``tests``, by the path of the module."""
