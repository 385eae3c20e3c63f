"""Who syncs with whom, what conntrackd is told, and what its own words mean. The words are conntrackd 1.4.7's."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP, PlanNode
from gateway_agent.policy.egress_node import sync_groups
from gateway_agent.policy.egress_node.sync_groups import Counters, Syncing, SyncState

NODES = (
    PlanNode("g1", "10.0.0.7"),
    PlanNode("g2", "10.0.0.8"),
    PlanNode("g3", "10.0.0.9"),
    PlanNode("w1", "10.0.0.21"),
    PlanNode("w2", "10.0.0.22", "fd00::22"),
)
ONE = PlanEgressIP("0a", "partner", "172.16.0.50", 1, 11, ("g1", "g2"), master="g1", sync=True)
TWO = PlanEgressIP("0b", "bank", "172.16.0.60", 2, 12, ("g1", "g3"), master="g3", sync=True)
OTHER = PlanEgressIP("0c", "plain", "172.16.0.70", 3, 13, ("g1", "g2", "g3"), master="g1")
PATHS = sync_groups.files("/run/egress-gateway", "sync")

STATISTICS = """cache internal:
current active connections:\t           3
connections created:\t\t           4\tfailed:\t           0
connections updated:\t\t           7\tfailed:\t           0
connections destroyed:\t\t           1\tfailed:\t           0

external inject:
connections created:\t\t          25\tfailed:\t           1
connections updated:\t\t          50\tfailed:\t           2
connections destroyed:\t\t           6\tfailed:\t           0

traffic processed:
                   0 Bytes                         0 Pckts

multicast traffic (active device=egw-sync):
                1212 Bytes sent                 1772 Bytes recv
                  10 Pckts sent                   18 Pckts recv
                   0 Error send                    0 Error recv

message tracking:
                   0 Malformed msgs                   80 Lost msgs
"""
RUNTIME = "current buffer size (in bytes):\n\t5\nevents received:\t 50\nnetlink overrun:\t\t           4\n"


def plan(node: str, egress_ips: Sequence[PlanEgressIP], nodes: tuple[PlanNode, ...] = NODES) -> Plan:
    return Plan(node, 0x0FF00000, 4799, 1450, nodes, tuple(egress_ips))


def test_partners_share_a_synced_virtual_address_and_sources_are_all_others_inside_the_tunnels() -> None:
    others = [node.address for node in NODES[1:]]
    assert sync_groups.syncing(plan("g1", [ONE, TWO, OTHER])) == Syncing(
        (NODES[1], NODES[2]),
        tuple(sorted(ids.inner(address, family, synced=True) for address in others for family in (4, 6))),
    )
    shared = sync_groups.syncing(plan("g2", [ONE, TWO]))
    assert shared is not None
    assert [node.name for node in shared.partners] == ["g1"]


def test_no_node_itself_has_what_synced_connections_have_as_their_source() -> None:
    shared = sync_groups.syncing(plan("g1", [ONE]))
    assert shared is not None
    unsynced = {ids.inner(node.address, family) for node in NODES for family in (4, 6)}
    assert not {*shared.sources} & {*unsynced, *(node.address for node in NODES)}


@pytest.mark.parametrize(
    ("node", "nodes", "egress_ips"),
    [
        ("w1", NODES, [ONE]),
        ("g1", NODES, [OTHER]),
        ("g1", NODES[:1] + NODES[3:], [ONE]),
    ],
    ids=["not eligible", "not wished", "no partner"],
)
def test_no_node_to_share_with(
    node: str, nodes: tuple[PlanNode, ...], egress_ips: list[PlanEgressIP]
) -> None:
    assert sync_groups.syncing(plan(node, egress_ips, nodes)) is None


def test_only_the_master_of_a_synced_egress_ip_serves() -> None:
    assert sync_groups.serves(plan("g1", [ONE]))
    assert not sync_groups.serves(plan("g2", [ONE]))
    assert not sync_groups.serves(plan("g1", [OTHER]))


def test_the_configuration_lets_only_workers_connections_pass_and_stays_below_the_keeper() -> None:
    sync = Syncing((NODES[1],), ("10.0.0.21", "fd00::22"))
    text = sync_groups.configuration(sync, PATHS, "egw-sync", "169.254.233.3")
    accepted = text.partition("Address Accept {")[2].partition("}")[0].split()
    assert accepted == ["IPv4_address", "10.0.0.21", "IPv6_address", "fd00::22"]
    assert "Interface egw-sync\n" in text
    assert "IPv4_interface 169.254.233.3\n" in text
    assert "Type RR\n\t\tPriority 1\n" in text
    assert "NetlinkOverrunResync no\n" in text
    assert "DisableInternalCache" not in text
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize(
    ("sources", "device", "address"),
    [
        (("10.0.0.21\n}",), "egw-sync", "169.254.233.3"),
        (("10.0.0.21",), "egw sync", "169.254.233.3"),
        (("10.0.0.21",), "egw-sync-too-long", "169.254.233.3"),
        (("10.0.0.21",), "egw-sync", "169.254.233.3 }"),
    ],
)
def test_nothing_but_addresses_and_names_gets_into_the_configuration(
    sources: tuple[str, ...], device: str, address: str
) -> None:
    with pytest.raises(ValueError, match=r"."):
        sync_groups.configuration(Syncing((), sources), PATHS, device, address)


@pytest.mark.parametrize("run_dir", ["run", "/run/a b", "/run/{x}", '/run/"', "/run/" + "x" * 90, "/run/ä"])
def test_paths_that_conntrackd_would_misread_are_refused(run_dir: str) -> None:
    with pytest.raises(ValueError, match="accepts no path"):
        sync_groups.files(run_dir, "sync")


def test_the_longest_path_fits_into_a_socket_address() -> None:
    rest = len("/conntrackd-sync.sock")
    assert (
        len(sync_groups.files("/" + "x" * (106 - rest), "sync").control) == sync_groups.MAX_SOCKET_PATH_BYTES
    )
    with pytest.raises(ValueError, match="accepts no path"):
        sync_groups.files("/" + "x" * (107 - rest), "sync")


def test_the_statistics_are_read() -> None:
    assert sync_groups.counters(STATISTICS) == Counters(entries=3, received=75, failed=3, packets=18)
    assert sync_groups.overruns(RUNTIME) == 4


@given(st.integers(0, len(STATISTICS)))
def test_cut_statistics_are_an_error_or_whole(length: int) -> None:
    try:
        found = sync_groups.counters(STATISTICS[:length])
    except ValueError:
        return
    assert found == sync_groups.counters(STATISTICS)


@pytest.mark.parametrize(
    ("since", "rate", "packets", "reason"),
    [
        (0.0, 0.0, 0, "just asked"),
        (1.4, 0.0, 9, "just asked"),
        (1.6, 0.0, 0, "no partner"),
        (5.1, 0.0, 0, ""),
        (1.6, 0.0, 1, ""),
        (1.6, 9000.0, 1, "being received"),
        (14.0, 9000.0, 1, "being received"),
        (15.1, 9000.0, 1, ""),
        (1.6, 1500.0, 1, ""),
    ],
)
def test_a_table_is_in_sync_when_entries_stop_coming_fast(
    since: float, rate: float, packets: int, reason: str
) -> None:
    found = sync_groups.behind(since, rate, Counters(0, 75, 0, packets))
    assert (reason in found) if reason else not found


def test_only_complaints_are_complaints() -> None:
    head = "[Mon Nov 23 23:07:45 2026] (pid=23080)"
    assert not sync_groups.complaint(f"{head} [notice] initialization completed")
    assert not sync_groups.complaint("")
    assert sync_groups.complaint(f"{head} [ERROR] can't open channel socket") == "can't open channel socket"
    assert (
        sync_groups.complaint("setpriv: failed to execute conntrackd: x")
        == "setpriv: failed to execute conntrackd: x"
    )


def test_ready_where_all_are_in_sync() -> None:
    assert not sync_groups.ready({})
    assert not sync_groups.ready({"sync": SyncState(True, True, "")})
    assert sync_groups.ready({"sync": SyncState()}) == "conntrackd is not running"
