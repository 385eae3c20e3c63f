"""Probes of a node's own path against a real kernel."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni.kernel import ids
from cni.kernel.netlink import netfilter
from cni.kernel.netlink.constants import NETLINK_NETFILTER
from cni.kernel.netlink.netlink_socket import Socket
from cni.kernel.netlink.nflog import PacketLog
from cni.kernel.nftables import nft
from gateway_agent.adapters.probes.nft_trace import Trace
from gateway_agent.adapters.probes.path_probe import PathProbe
from gateway_agent.policy.egress_node.path_faults import TunnelProbe

from .datapath_lab import FIRST, NODES, SECOND, Lab

PROBE = TunnelProbe(ids.vni(FIRST), NODES["w2"], "203.0.113.1")


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

    def while_taken() -> frozenset[TunnelProbe]:
        taken = PacketLog(ids.PROBE_GROUP)
        given_back = threading.Timer(0.2, taken.close)
        given_back.start()
        try:
            return PathProbe(4799).passing(NODES["g1"], [PROBE])
        finally:
            given_back.join()

    assert lab.nodes["g1"].machine.inside(while_taken) == {PROBE}


@pytest.fixture
def staying() -> Iterator[None]:
    """Let this process keep its sockets, as an agent does."""
    netfilter.stay()
    yield
    netfilter._stays.clear()


def test_an_agent_closes_no_socket_of_netfilter_after_a_probe(
    lab: Lab, staying: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each close would hold up the lease daemon: :mod:`cni.kernel.netlink.netfilter`."""
    closed: list[int] = []
    close = Socket.close

    def noted(self: Socket) -> None:
        closed.append(self._socket.proto)
        close(self)

    monkeypatch.setattr(Socket, "close", noted)
    probe = PathProbe(4799)

    def twice() -> None:
        for _ in range(2):
            assert probe.passing(NODES["g1"], [PROBE]) == {PROBE}
            probe.dropped_by(NODES["g1"], PROBE, ids.device(PROBE.vni))

    lab.nodes["g1"].machine.inside(twice)
    assert NETLINK_NETFILTER not in closed


def trace_table_is_there(lab: Lab) -> bool:
    return ids.NFT_TRACE in lab.nodes["g1"].machine.inside(lambda: nft.run("list", "tables"))


def test_what_a_killed_process_has_left_of_a_trace_is_removed(lab: Lab) -> None:
    node = lab.nodes["g1"].machine

    def killed_during_a_trace() -> int:
        pid = os.fork()
        if not pid:
            with Trace(ids.device(PROBE.vni)):
                os.kill(os.getpid(), signal.SIGKILL)
        return os.waitpid(pid, 0)[1]

    assert node.inside(killed_during_a_trace) == signal.SIGKILL
    assert trace_table_is_there(lab)
    node.inside(PathProbe(4799).remove_trace)
    assert not trace_table_is_there(lab)


REFUSING = """#!/bin/sh
text=$(cat)
case "$text" in
*chain*) ;;
"add table inet {table}"*) echo "refused" >&2; exit 1 ;;
esac
printf '%s\\n' "$text" | exec {nft} "$@"
"""
"""An nft that does not remove the table of a trace."""


def test_a_refusal_to_remove_the_table_hides_no_result_and_is_made_up_for(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, path = lab.nodes["g1"].machine, PathProbe(4799)
    program = shutil.which("nft")
    assert program
    (tmp_path / "nft").write_text(REFUSING.format(table=ids.NFT_TRACE, nft=program))
    (tmp_path / "nft").chmod(0o755)
    lab.nodes["g1"].nft(
        "table inet site { chain late { type filter hook forward priority 100; policy drop; }; }"
    )
    try:
        with monkeypatch.context() as refusing:
            refusing.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
            dropped = node.inside(lambda: path.dropped_by(NODES["g1"], PROBE, ids.device(PROBE.vni)))
            assert dropped is not None
            assert (dropped.table, dropped.chain) == ("site", "late")
            assert trace_table_is_there(lab)
        assert node.inside(lambda: path.passing(NODES["g1"], [PROBE])) == frozenset()
        assert not trace_table_is_there(lab)
    finally:
        lab.nodes["g1"].nft("delete table inet site")
