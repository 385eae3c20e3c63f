"""Egress nodes of a cluster come and go while traffic flows, and some do not hear of it: never two owners."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway_agent.kubernetes import voter_configmap
from gateway_agent.lease.voting import recorded_voter_set

from ..lab import documents, topology
from ..lab.lab import Lab
from ..lab.observing import Observers
from ..lab.pod import Pod
from ..lab.silence import longest
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

OLD, NEW, LAST = ("g1", "g2", "g3"), ("g4", "g5", "g6"), "g7"
CONFIGMAP = f"/api/v1/namespaces/egress-gateway/configmaps/{recorded_voter_set.NAME}"
PORTS = iter(range(9800, 9900))
"""Ports of the outside service, one for each test: entries of one test in a connection table do not disturb another."""


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    objects = documents.virtual_ip([VIRTUAL], GATEWAY, connection_sync=True)
    more = tuple(host for host in topology.separate(workers=1, gateways=7).nodes if host.name in (*NEW, LAST))
    machines = dataclasses.replace(topology.separate(workers=1), spare=more)
    with settled("test_kubernetes_nodes", machines, objects=objects, store="kubernetes") as made:
        for host in more:
            made.add_host(host)
        yield made


@pytest.fixture(scope="module")
def pod(lab: Lab) -> Pod:
    return lab.nodes["w1"].pod("talking", BACKEND)


@contextmanager
def deaf(lab: Lab, *names: str) -> Iterator[None]:
    """Cut off these nodes from the API."""
    address = topology.api_host(lab.topology).internal_ip
    for name in names:
        lab.machines[name].ip(f"route add blackhole {address}/32")
    try:
        yield
    finally:
        for name in names:
            lab.machines[name].ip(f"route del blackhole {address}/32")


def master(lab: Lab) -> str:
    return lab.wait_settled(GATEWAY, 40)


@pytest.mark.parametrize("who", ["the master", "all but the master"])
def test_a_failover_while_the_api_is_away_for_some(lab: Lab, pod: Pod, who: str) -> None:
    before = master(lab)
    others = [name for name in (*OLD, "w1") if name != before]
    lab.serve("outside", port := next(PORTS))
    with (
        lab.capture() as capture,
        Observers(lab, OLD, [VIRTUAL]) as observers,
        deaf(lab, *([before] if who == "the master" else others)),
    ):
        lab.cut(before)
        try:
            after = until(lambda: (now := lab.master(GATEWAY, asked="w1")) != before and now, "a new master")
            until(lambda: pod.request(port, 0.3).address == VIRTUAL, "requests pass again")
        finally:
            lab.mend(before)
        assert master(lab) == after
        assert capture.sources(port) == {VIRTUAL}
        assert observers.overlaps() == []


def test_every_egress_node_is_replaced_while_traffic_flows(lab: Lab, pod: Pod) -> None:
    lab.serve("outside", port := next(PORTS))
    master(lab)
    with (
        lab.capture() as capture,
        Observers(lab, (*OLD, *NEW), [VIRTUAL], held=True) as observers,
        lab.probing(pod, port) as probing,
    ):
        until(lambda: len(capture.packets(port)) > 200, "probes arrive")
        for old, new in zip(OLD, NEW, strict=True):
            replace(lab, old, new)
        assert master(lab) in NEW
        seen = len(capture.packets(port))
        until(lambda: len(capture.packets(port)) > seen + 200, "probes go on arriving")
        silence = longest(probing.stop())
        assert silence.lost == 0, silence
        assert capture.sources(port) == {VIRTUAL}
        assert observers.overlaps() == []
    until(lambda: published(lab) == agreed(lab, "w1"), "the cluster names the voters")
    assert agreed(lab, "w1")[0] > 2 * len(OLD)


def test_a_wrong_voter_set_in_the_cluster_makes_no_second_owner(lab: Lab, pod: Pod) -> None:
    """One that was never true at that, and newer: nobody goes by it, and in the end it is written over."""
    assert lab.cluster is not None
    before = master(lab)
    fresh, *others = sorted(set(NEW) - {before})
    lab.serve("outside", port := next(PORTS))
    with lab.capture() as capture, Observers(lab, NEW, [VIRTUAL], held=True) as observers:
        # Who could write it anew does not hear of it.
        lab.cluster.strike(match="configmaps?", deaf=True)
        try:
            old = {"version": "99", "members": " ".join(sorted((fresh, others[0], OLD[0])))}
            lab.cluster.call("PATCH", CONFIGMAP, {"data": old})
            node = lab.nodes[fresh]
            node.die()
            for name in ("voters.json", "last-known.json"):
                (node.agent.run_dir / name).unlink()
            node.agent.start()
            until(lambda: agreed(lab, fresh) == agreed(lab, "w1"), f"{fresh} has learned who votes now", 20)
            assert master(lab) == before
            assert pod.request(port, 0.3).address == VIRTUAL
        finally:
            lab.cluster.strike()
        assert capture.sources(port) == {VIRTUAL}
        assert observers.overlaps() == []
    lab.cluster.drop()
    until(lambda: published(lab) == agreed(lab, "w1"), "the cluster names the voters again", 40)


def published(lab: Lab) -> tuple[int, tuple[str, ...]]:
    """Return the voter set by the word of the cluster."""
    assert lab.cluster is not None
    found = voter_configmap.read(lab.cluster.call("GET", CONFIGMAP))
    return (found.version, found.members) if found else (0, ())


def agreed(lab: Lab, name: str) -> tuple[int, tuple[str, ...]]:
    """Return the voter set by the word of a node."""
    status = lab.nodes[name].agent.status()
    return status["voterSet"], tuple(status["voters"])


def test_a_node_that_has_not_learned_of_a_replacement_makes_no_second_owner(lab: Lab, pod: Pod) -> None:
    """It takes the new node for none of the cluster's, and the old one for a voter. So it may be that there is none."""
    before = master(lab)
    late, *others = sorted(set(NEW) - {before})
    lab.serve("outside", port := next(PORTS))
    with lab.capture() as capture, Observers(lab, (*NEW, LAST), [VIRTUAL], held=True) as observers:
        with deaf(lab, late):
            replace(lab, others[0], LAST)
            lab.cut(before)
            try:
                until(lambda: lab.master(GATEWAY, asked="w1") != before, "the master is lost")
            finally:
                lab.mend(before)
        until(lambda: received(lab, late), f"{late} hears the API again", 60)
        assert master(lab)
        until(lambda: pod.request(port, 0.3).address == VIRTUAL, "requests pass")
        assert capture.sources(port) == {VIRTUAL}
        assert observers.overlaps() == []


def received(lab: Lab, name: str) -> bool:
    """Whether a node knows the one that has come last."""
    return LAST in {member["node"] for member in lab.nodes[name].agent.status()["members"]}


def replace(lab: Lab, old: str, new: str) -> None:
    """As an administrator does: the new one joins, the old one is cordoned, stopped and deleted."""
    assert lab.cluster is not None
    lab.publish(f"node-{new}", [documents.node(lab.nodes[new].host)])
    lab.nodes[new].agent.start()
    until(lambda: new in ready(lab), f"{new} is ready", 30)
    lab.cluster.call("PATCH", f"/api/v1/nodes/{old}", {"spec": {"unschedulable": True}})
    until(lambda: lab.master(GATEWAY, asked="w1") != old, f"{old} has handed over", 10)
    lab.nodes[old].agent.stop()
    lab.cluster.call("DELETE", f"/api/v1/nodes/{old}")
    until(lambda: old not in lab.nodes["w1"].agent.status()["voters"], f"{old} votes no more", 40)


def ready(lab: Lab) -> set[str]:
    members = lab.nodes["w1"].agent.status()["members"]
    return {member["node"] for member in members if member["ready"] and member["alive"]}
