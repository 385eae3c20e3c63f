"""What :mod:`cni.kernel` does on a real kernel, in one namespace."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from cni.kernel import ids, rtnl
from cni.kernel.diff import Change, diff
from cni.kernel.errors import KernelError
from cni.kernel.netlink import links, nflog
from cni.kernel.netlink.conntrack import ctnetlink
from cni.kernel.netlink.constants import NETLINK_NETFILTER
from cni.kernel.netlink.monitor import Event, Monitor
from cni.kernel.netlink.neighbours import Neighbours
from cni.kernel.nftables import nft
from cni.kernel.state import Fdb, KernelState, Neighbour, Setting, Vxlan
from tests.lab.namespace import Namespace
from tests.lab.waiting import until
from tests.unit.cni.kernel_states import kept_masters, states

DEVICE = Vxlan("egw-000001", 1, "10.0.0.1", 4799, ids.node_mac("10.0.0.1"), 1450, "egress-gateway a")


@pytest.fixture(scope="module")
def shared_machine() -> Iterator[Namespace]:
    machine = Namespace("egwdp-netlink")
    machine.create()
    try:
        yield machine
    finally:
        machine.delete()


@pytest.fixture
def machine(shared_machine: Namespace) -> Namespace:
    bring_to(shared_machine, KernelState())
    return shared_machine


def bring_to(machine: Namespace, desired: KernelState) -> None:
    refused = machine.inside(lambda: rtnl.apply(diff(rtnl.observe(), desired)))
    assert not refused


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=states(), second=states())
def test_the_kernel_becomes_what_is_desired(
    machine: Namespace, first: KernelState, second: KernelState
) -> None:
    bring_to(machine, KernelState())
    bring_to(machine, first)
    assert machine.inside(rtnl.observe) == first
    bring_to(machine, second)
    assert machine.inside(rtnl.observe) == kept_masters(first, second)


def test_only_what_bears_our_mark_is_observed(machine: Namespace) -> None:
    machine.ip(
        "link add vx0 type vxlan id 7 dstport 4790",
        "link add egw-fake type bridge",
        "route add unreachable default metric 5 table 7001",
        "rule add priority 901 fwmark 5 lookup 7001",
    )
    try:
        assert machine.inside(rtnl.observe) == KernelState()
    finally:
        machine.ip(
            "link del vx0",
            "link del egw-fake",
            "route del unreachable default metric 5 table 7001",
            "rule del priority 901",
        )


def test_what_is_gone_already_needs_no_deleting(machine: Namespace) -> None:
    state = KernelState(vxlans=frozenset([DEVICE]))
    bring_to(machine, state)
    changes = diff(state, KernelState())
    machine.inside(lambda: rtnl.apply(changes))
    machine.inside(lambda: rtnl.apply(changes))


def test_what_the_kernel_refuses_is_an_error_text(machine: Namespace) -> None:
    other = Vxlan("egw-000002", 1, "10.0.0.1", 4799, ids.node_mac("10.0.0.1"), 1450, "egress-gateway b")
    changes = diff(KernelState(), KernelState(vxlans=frozenset([DEVICE, other])))
    [(change, error)] = machine.inside(lambda: rtnl.apply(changes)).items()
    assert change.target == other
    assert "File exists" in error.message and "egw-000002" in error.message


@pytest.fixture
def veth(machine: Namespace) -> Iterator[None]:
    machine.ip("link add pod0 type veth peer name pod1", "link add br0 type bridge")
    yield
    machine.ip("link del pod0", "link del br0")


@pytest.mark.usefixtures("veth")
def test_a_kernel_that_does_not_know_a_kind_lists_all_interfaces(machine: Namespace) -> None:
    """As one without the module of VXLAN does when it is asked for these."""
    machine.ip("link add other type vxlan id 7 dstport 9999 nolearning local 127.0.0.1")
    try:
        listed = machine.inside(lambda: list(links.listed("no-such-kind")))
        assert {"lo", "br0", "pod0", "other"} <= {links.name_of(found) for _, _, found in listed}
        devices = [device for _, flags, found in listed if (device := links.vxlan_of(flags, found))]
        assert [(device.name, device.vni, device.port) for device in devices] == [("other", 7, 9999)]
    finally:
        machine.ip("link del other")


@pytest.mark.usefixtures("veth")
def test_tags(machine: Namespace) -> None:
    group = ids.GROUP_BASE + 3
    machine.ip("link set br0 group 7")
    machine.inside(lambda: links.tag("pod0", group))
    assert machine.inside(lambda: links.tag_of("pod0")) == group
    assert machine.inside(lambda: links.tag_of("pod1")) == 0
    assert machine.inside(lambda: links.tag_of("gone")) is None
    assert machine.inside(links.tagged) == {"pod0": group}
    with pytest.raises(KernelError, match="No such device"):
        machine.inside(lambda: links.tag("gone", group))


@pytest.mark.usefixtures("veth")
def test_without_the_pods_namespace_the_veths_that_are_named_count(
    machine: Namespace, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in ("", str(pipe), "\ud800", "/etc/hostname"):
        assert machine.inside(lambda path=path: links.host_veths(path, ["br0", "pod1"])) == (("pod1",), True)  # type: ignore[misc]
    assert machine.inside(lambda: links.host_veths("/gone", ["gone", "br0", "pod1", "pod0"])) == (
        ("pod1", "pod0"), True,
    )  # fmt: skip
    assert machine.inside(lambda: links.host_veths("/gone", ["br0", "lo", "a-name-that-is-too-long"])) == (
        (),
        True,
    )


@pytest.mark.usefixtures("veth")
@pytest.mark.parametrize("family", [4, 6])
def test_the_master_moves_by_one_call(machine: Namespace, family: int) -> None:
    able = Setting(DEVICE.name, "ipv6", "disable_ipv6", "0")
    bring_to(machine, KernelState(vxlans=frozenset([DEVICE]), settings=frozenset([able])))
    with contextlib.closing(machine.inside(Neighbours)) as neighbours:
        for mac in ("02:e9:0a:00:00:01", "02:e9:0a:00:00:02"):
            machine.inside(lambda mac=mac: neighbours.set_master(DEVICE.name, mac, family))  # type: ignore[misc]
            seen = machine.inside(rtnl.observe).neighbours
            assert seen == {Neighbour(DEVICE.name, ids.NEXT_HOPS[family], mac)}
            machine.inside(lambda: neighbours.queue(DEVICE.name, family))
            held = machine.inside(rtnl.observe).neighbours
            assert held == {Neighbour(DEVICE.name, ids.NEXT_HOPS[family], "")}, "there, without a master"
        with pytest.raises(KernelError, match="No such device"):
            machine.inside(lambda: neighbours.set_master("gone", "02:e9:0a:00:00:01"))
        with pytest.raises(KernelError, match="no MAC"):
            machine.inside(lambda: neighbours.set_master(DEVICE.name, "02:e9"))


def test_packets_that_wait_for_the_next_master_are_not_let_go_by_the_agent(machine: Namespace) -> None:
    """The agent puts a missing entry in; one that is incomplete because the keeper holds packets is not missing."""
    device = Vxlan("egw-000009", 9, "127.0.0.1", 4799, ids.node_mac("127.0.0.1"), 1450, "held")
    entry = Neighbour(device.name, ids.NEXT_HOP, ids.node_mac("10.0.0.7"))
    wanted = KernelState(vxlans=frozenset({device}), neighbours=frozenset({entry}))
    bring_to(machine, wanted)
    with contextlib.closing(machine.inside(Neighbours)) as neighbours:
        machine.inside(lambda: neighbours.queue(device.name))
    changes = machine.inside(lambda: diff(rtnl.observe(), wanted))
    assert [change for change in changes if isinstance(change.target, Neighbour)] == []


def test_thousands_of_entries_are_written_and_listed(machine: Namespace) -> None:
    addresses = [f"10.{n // 250}.{n % 250}.7" for n in range(3_000)]
    entries = KernelState(
        vxlans=frozenset({DEVICE}),
        fdb=frozenset(Fdb(DEVICE.name, ids.node_mac(each), each) for each in addresses),
        neighbours=frozenset(Neighbour(DEVICE.name, each, ids.node_mac(each)) for each in addresses),
    )
    bring_to(machine, entries)
    seen = machine.inside(rtnl.observe)
    assert (seen.fdb, seen.neighbours) == (entries.fdb, entries.neighbours)
    bring_to(machine, KernelState(vxlans=frozenset({DEVICE})))
    seen = machine.inside(rtnl.observe)
    assert not seen.fdb | seen.neighbours


def test_one_entry_among_others_that_the_kernel_refuses_is_an_error_text(machine: Namespace) -> None:
    good, gone = Neighbour(DEVICE.name, "10.0.0.7", DEVICE.mac), Neighbour("egw-none", "10.0.0.8", DEVICE.mac)
    bring_to(machine, KernelState(vxlans=frozenset({DEVICE})))
    refused = machine.inside(lambda: rtnl.apply([Change("put", gone), Change("put", good)]))
    assert [(change.target, error.message) for change, error in refused.items()] == [
        (gone, f"could not be added {gone}: No such device")
    ]
    assert machine.inside(rtnl.observe).neighbours == {good}
    again = [Change("delete", gone), Change("delete", good), Change("delete", good)]
    assert machine.inside(lambda: rtnl.apply(again)) == {}
    assert not machine.inside(rtnl.observe).neighbours


def test_events_report_links_and_our_objects(machine: Namespace) -> None:
    with contextlib.closing(machine.inside(Monitor)) as monitor:
        assert monitor.read() == []
        machine.ip(
            "link add br1 type bridge", "address add 10.9.0.1/24 dev br1", "link set br1 up", "link del br1"
        )
        found = read(machine, monitor, "link", removed=True)
        assert Event("link", "br1") in found and Event("link", "br1", removed=True) in found
        assert not any(event.ours for event in found)
        bring_to(machine, KernelState(vxlans=frozenset([DEVICE])))
        machine.ip(
            f"neighbour add 10.0.0.9 lladdr 02:00:00:00:00:01 dev {DEVICE.name}",
            "route add unreachable default table 7001 protocol 233",
            "route add unreachable default table 99",
            "rule add priority 901 fwmark 5 lookup 7001 protocol 233",
        )
        found = read(machine, monitor, "rule")
        assert {
            Event("link", DEVICE.name),
            Event("neighbour", DEVICE.name),
            Event("route"),
            Event("rule"),
        } <= found
        machine.ip("route del unreachable default table 99", "rule del priority 901")
        found = read(machine, monitor, "rule", removed=True)
        assert Event("route", removed=True) not in found


def test_events_report_default_routes_of_others_and_no_other_route(machine: Namespace) -> None:
    """By such a route the kernel chooses the address that it sends by."""
    with contextlib.closing(machine.inside(Monitor)) as monitor:
        machine.ip("link add br1 type bridge", "link set br1 up", "address add 10.9.0.7/24 dev br1")
        read(machine, monitor, "address")
        machine.ip("route add 10.8.0.0/16 via 10.9.0.1", "route add default via 10.9.0.1 src 10.9.0.7")
        assert read(machine, monitor, "uplink") == {Event("uplink")}
        machine.ip("route del default")
        assert Event("uplink", removed=True) in read(machine, monitor, "uplink", removed=True)
        assert not Event("uplink").ours
        machine.ip("link del br1")


def test_events_report_settings_that_decide_what_is_accepted(machine: Namespace) -> None:
    """Those of all devices, and those of one; a new device, which tells all its settings, is a link and no more."""
    with contextlib.closing(machine.inside(Monitor)) as monitor:
        machine.ip("link add br1 type bridge")
        assert not {event for event in read(machine, monitor, "link") if event.kind == "setting"}
        changed = {
            "net/ipv4/conf/br1/rp_filter": Event("setting", "br1"),
            "net/ipv4/conf/all/rp_filter": Event("setting"),
            "net/ipv4/conf/br1/forwarding": Event("setting", "br1"),
            "net/ipv6/conf/br1/forwarding": Event("setting", "br1"),
        }
        for path, event in changed.items():
            for value in ("1", "0"):
                machine.sysctl({path: value})
                assert read(machine, monitor, "setting") == {event}, path
        machine.sysctl({"net/ipv4/conf/default/rp_filter": "1"})
        machine.sysctl({"net/ipv4/conf/default/rp_filter": "0"})
        machine.ip("link del br1")
        found = read(machine, monitor, "link", removed=True)
        assert not {event for event in found if event.kind == "setting"}
        assert not Event("setting").ours and Event("setting", DEVICE.name).ours


def test_events_report_our_nftables(machine: Namespace) -> None:
    with contextlib.closing(machine.inside(lambda: Monitor(NETLINK_NETFILTER))) as monitor:
        machine.inside(lambda: nft.run("-f", "-", text="add table inet foreign\ndelete table inet foreign\n"))
        machine.inside(lambda: nft.run("-f", "-", text="add table inet egress_gateway\n"))
        machine.inside(lambda: nft.run("-f", "-", text="delete table inet egress_gateway\n"))
        assert read(machine, monitor, "table") == {Event("table")}


def test_too_many_events_are_an_overrun(machine: Namespace) -> None:
    with contextlib.closing(machine.inside(lambda: Monitor(buffer=4096))) as monitor:
        machine.ip("link add br1 type bridge", *["link set br1 up", "link set br1 down"] * 20, "link del br1")
        assert Event("overrun") in read(machine, monitor, "overrun")


def read(machine: Namespace, monitor: Monitor, kind: str, removed: bool = False) -> set[Event]:
    """Events until one of this kind has come."""
    events: set[Event] = set()

    def came() -> bool:
        events.update(machine.inside(monitor.read))
        return any((event.kind, event.removed) == (kind, removed) for event in events)

    until(came, f"an event of kind {kind}", seconds=3)
    return events


def test_nft_says_what_is_wrong_with_the_text(machine: Namespace) -> None:
    with pytest.raises(KernelError, match=r"nft: .*syntax error"):
        machine.inside(lambda: nft.apply("no such command\n"))


def test_nft_notices_what_exists_and_what_does_not(machine: Namespace) -> None:
    empty = "add table inet egress_gateway\ndelete table inet egress_gateway\n"
    text = empty + "table inet egress_gateway {\n\tchain a {\n\t\tcounter\n\t}\n}\n"

    def steps() -> list[tuple[str, ...]]:
        install = [nft.ensure(empty), nft.ensure(text), nft.ensure(text)]
        return [*install, nft.missing(empty), nft.ensure(empty), nft.missing(empty)]

    name = "nftables table inet egress_gateway"
    assert machine.inside(steps) == [
        (),
        (f"replaced {name}: missing",),
        (),
        (f"{name}: not needed",),
        (f"replaced {name}: not needed",),
        (),
    ]
    assert machine.run("nft", "list", "tables") == ""


def test_only_connections_with_the_mark_are_forgotten(machine: Namespace) -> None:
    machine.ip("link set lo up")
    table = "add table inet t; add chain inet t c { type filter hook output priority 0; }; add rule inet t c"
    machine.run(
        "nft", f"{table} udp dport 7 ct mark set 0x0ff00001; add rule inet t c udp dport 8 ct mark set 0x1"
    )
    with machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for port in (7, 8):
            sock.sendto(b"?", ("127.0.0.1", port))
    machine.inside(lambda: ctnetlink.delete_marked(0x0FF00000, 0x0FF00000))
    listed = machine.run("conntrack", "-L", "-p", "udp")
    assert ("dport=8" in listed, "dport=7" in listed) == (True, False)


def test_the_packet_log_reports_that_a_rule_has_logged(machine: Namespace) -> None:
    machine.ip("link set lo up")
    wakeup_read = machine.inside(lambda: nflog.PacketLog(7))
    table = "add table inet t; add chain inet t c { type filter hook output priority 0; }; add rule inet t c"
    machine.run("nft", f"{table} udp dport 7 log group 7; add rule inet t c udp dport 8 log group 8")
    with contextlib.closing(wakeup_read), machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"?", ("127.0.0.1", 8))
        assert not wakeup_read.read()
        sock.sendto(b"?", ("127.0.0.1", 7))
        assert select.select([wakeup_read], [], [], 2)[0]
        assert wakeup_read.read()
        assert not wakeup_read.read()
        with pytest.raises(OSError, match="permitted"):
            machine.inside(lambda: nflog.PacketLog(7))


def test_only_tcp_connections_with_the_mark_and_the_address_are_loosened(machine: Namespace) -> None:
    machine.ip("link set lo up")
    table = "add table inet l; add chain inet l c { type filter hook output priority 0; }; add rule inet l c"
    machine.run(
        "nft", f"{table} th dport 9 ct mark set 0x08100000; add rule inet l c th dport 10 ct mark set 0x1"
    )
    with contextlib.ExitStack() as stack:
        for port in (9, 10):
            listener = stack.enter_context(machine.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.bind(("127.0.0.1", port))
            listener.listen()
            client = stack.enter_context(machine.socket(socket.AF_INET, socket.SOCK_STREAM))
            client.connect(("127.0.0.1", port))
            stack.enter_context(machine.socket(socket.AF_INET, socket.SOCK_DGRAM)).sendto(
                b"?", ("127.0.0.1", port)
            )
        found = [
            machine.inside(lambda a=a: ctnetlink.set_tcp_liberal(a, 0x08000000))  # type: ignore[misc]
            for a in ("127.0.0.1", "127.0.0.2", "::1")
        ]
    assert found == [1, 0, 0]
