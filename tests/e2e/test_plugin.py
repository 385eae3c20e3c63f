"""The plugin's calls, by an agent and without one."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cni import contract
from cni.kernel import ids

from ..lab import documents, topology
from ..lab.capture import Capture
from ..lab.cnirun import CniError
from ..lab.lab import SELECTED, Lab
from ..lab.namespace import CommandFailed
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled
from .plugin_node import OTHER, REPAIR_S, attached, capture, current, egress_ip, node, ours, refused, wipe

__all__ = ["capture", "node"]


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_plugin", topology.separate(workers=1, gateways=2)) as made:
        yield made


# -- by the agent


@pytest.mark.parametrize("away", [False, True], ids=["agent", "alone"])
def test_every_call_may_come_twice_and_out_of_order(lab: Lab, node: Node, away: bool) -> None:
    pod = node.new_pod("twice", BACKEND)
    if away:
        node.agent.kill()
    node.runtime.delete(pod.network, pod.attachment)
    pod.start()
    for _ in range(2):
        assert json.loads(ours(node, "ADD", pod)) == pod.result
        pod.check()
    assert pod.request(SELECTED).address == egress_ip(lab)
    for _ in range(2):
        assert ours(node, "DEL", pod) == ""


@pytest.mark.parametrize("away", [False, True], ids=["agent", "alone"])
def test_the_result_before_is_passed_on_byte_for_byte(node: Node, away: bool) -> None:
    pod = node.pod("bytes", BACKEND)
    if away:
        node.agent.kill()
    inner = json.dumps({**pod.result, "unknown": [1.50, "\u00e9", {"b": 1, "a": 2}]}, indent=3)
    # Not through a dict: what is compared is the text.
    plugin = {**node.network("bridge").plugins[1], "args": pod.attachment.args, "prevResult": "@"}
    whole = json.dumps({**plugin, "name": "bridge-net", "cniVersion": "1.0.0"}).replace('"@"', inner)
    output = node.machine.run(
        str(node.runtime.plugin_path[0] / "egress-gateway"), text=whole, environment=environment(pod)
    )
    assert output.strip() == inner


def environment(pod: Pod) -> dict[str, str]:
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CNI_COMMAND": "ADD", "CNI_PATH": "/usr/lib/cni",
        "CNI_CONTAINERID": pod.attachment.container_id, "CNI_NETNS": str(pod.attachment.netns),
        "CNI_IFNAME": "eth0", "CNI_ARGS": f"K8S_POD_NAMESPACE=prod;K8S_POD_NAME={pod.name}",
    }  # fmt: skip


@contextmanager
def again_and_again(node: Node, *command: str) -> Iterator[None]:
    """Somebody who takes the same thing away whenever it is there."""
    end = threading.Event()

    def work() -> None:
        while not end.is_set():
            try:
                node.machine.run(*command)
            except CommandFailed:
                # It is away already.
                end.wait(0.001)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            yield
        finally:
            end.set()
        working.result()


REMOVALS = {
    "tag": "ip link set {veth} group default",
    "rule": f"ip rule del priority {ids.RULE_PRIORITY_BASE + 1}",
    "route": f"ip route flush table {ids.TABLE_BASE + 1} type unicast",
    "inet table": f"nft delete table inet {ids.NFT_NODE_INET}",
    "bridge table": f"nft delete table bridge {ids.NFT_NODE_BRIDGE}",
    "device": f"ip link del {ids.device(ids.vni(ids.egress_id(GATEWAY, '')))}",
}


@pytest.mark.parametrize("removed", REMOVALS)
def test_check_names_what_is_missing_and_the_agent_repairs_it(lab: Lab, node: Node, removed: str) -> None:
    pod = node.pod("checked", BACKEND)
    pod.check()
    command = REMOVALS[removed].format(veth=pod.host_interface).split()

    def wrong() -> CniError | None:
        try:
            pod.check()
        except CniError as error:
            return error
        return None

    with again_and_again(node, *command):
        error = until(wrong, "CHECK sees it")
    assert error.code == contract.NOT_AS_ADDED
    assert error.details
    until(lambda: wrong() is None, "the agent has repaired it", REPAIR_S)
    assert pod.request(SELECTED).address == egress_ip(lab)


def test_the_agent_restores_a_rule_that_another_program_flushed(node: Node) -> None:
    node.pod("guarded", BACKEND)
    guard = ("chain", "inet", ids.NFT_NODE_INET, "forward_guard")
    before = node.machine.run("nft", "-s", "list", *guard)
    node.machine.run("nft", "flush", *guard)
    until(lambda: node.machine.run("nft", "-s", "list", *guard) == before, "the chain is as it was", REPAIR_S)


def connections(node: Node, pod: Pod) -> str:
    """Return the lines of the node's connection table that begin with the pod's address."""
    return node.machine.run("conntrack", "-L", "--orig-src", pod.address)


@pytest.mark.parametrize("away", [False, True], ids=["agent", "alone"])
def test_gc_forgets_what_the_runtime_no_longer_lists(node: Node, away: bool) -> None:
    stays, goes = node.pod("stays", BACKEND), node.pod("goes", BACKEND)
    routed = node.pod("routed", BACKEND, kind="ptp")
    for pod in (stays, goes):
        pod.datagram(SELECTED)
    if away:
        node.agent.kill()
    assert connections(node, goes)
    node.runtime.collect(current(node), [stays.attachment])
    # The next pod with the address must not go the way of this one.
    assert (bool(connections(node, stays)), connections(node, goes)) == (True, "")
    if away:
        node.agent.start()
        until(node.agent.answers, "the agent is back")
    assert attached(node) == {"stays": GATEWAY, "routed": GATEWAY}
    node.runtime.collect(current(node, "ptp"), [])
    assert attached(node) == {"stays": GATEWAY}
    for pod in (stays, goes, routed):
        assert pod.attachment.netns.exists()


def test_status_says_whether_an_add_has_a_chance(lab: Lab, node: Node) -> None:
    node.runtime.status(current(node))
    node.agent.kill()
    node.runtime.status(current(node))
    plan = node.agent.run_dir / "plan.json"
    plan.rename(plan.with_suffix(".away"))
    error = refused(lambda: node.runtime.status(current(node)))
    assert error.code == contract.NOT_AVAILABLE
    plan.with_suffix(".away").rename(plan)


def test_a_node_without_nft_says_so_and_starts_no_selected_pod(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of that name that always fails stands first in the agent's PATH."""
    (tmp_path / "nft").write_text("#!/bin/sh\necho out of order >&2\nexit 1\n")
    (tmp_path / "nft").chmod(0o700)
    node.agent.kill()
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin")
        node.agent.start()
        until(lambda: "out of order" in json.dumps(node.agent.status()["problems"]), "the agent tells")
    error = refused(lambda: node.runtime.status(current(node)))
    assert (error.code, "out of order" in error.details) == (contract.NOT_AVAILABLE, True)
    error = refused(lambda: node.pod("selected", BACKEND))
    assert (error.code, "out of order" in error.details) == (contract.TRY_AGAIN_LATER, True)
    node.pod("unselected", OTHER)
    node.agent.kill()


def test_a_node_that_has_never_read_its_store_starts_no_pod(node: Node) -> None:
    """Nobody knows which pods are selected."""
    node.agent.kill()
    away = node.manifests.rename(node.manifests.with_name("away"))
    shutil.rmtree(node.agent.run_dir / "last-good")
    node.agent.start()
    try:
        until(lambda: "cannot be read" in node.log()[-2000:], "the agent says so")
        error = refused(lambda: node.pod("too-early", OTHER))
        assert (error.code, "store" in error.message) == (contract.TRY_AGAIN_LATER, True)
        assert refused(lambda: node.runtime.status(current(node))).code == contract.NOT_AVAILABLE
    finally:
        away.rename(node.manifests)
    until(node.agent.answers, "the agent has read its store")


def test_a_pod_without_a_host_side_veth(lab: Lab, node: Node) -> None:
    """As ``macvlan`` leaves it: the result names nothing outside the pod."""
    selected, other = node.new_pod("macvlan", BACKEND), node.new_pod("macvlan-2", OTHER)
    result = {
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": str(selected.attachment.netns)}
        ],
        "ips": [{"interface": 0, "address": "192.0.2.9/24"}],
    }
    error = refused(lambda: ours(node, "ADD", selected, result))
    assert error.code == contract.NO_HOST_INTERFACE
    assert "macvlan" in error.details
    assert json.loads(ours(node, "ADD", other, result)) == result
    assert "macvlan" not in attached(node)
    lab.publish("more", [documents.policy("late", GATEWAY, OTHER)])
    try:
        until(
            lambda: "prod/macvlan-2" in str(node.agent.status()["problems"]),
            "that its packets use no gateway is a problem",
        )
    finally:
        lab.publish("more", [])
    until(lambda: node.agent.status()["problems"] == [], "nothing is wrong any more")
    ours(node, "DEL", other)


def test_every_veth_of_a_pod_is_tagged(lab: Lab, node: Node) -> None:
    """Also one that no result names."""
    pod = node.new_pod("two", BACKEND)
    bridge, _ = pod.network.plugins
    pod.result = json.loads(node.runtime.invoke("ADD", pod.network, bridge, pod.attachment, None))
    pod.machine.ip(f"link add net1 type veth peer name vsec netns {node.machine.name}")

    def tag(interface: str) -> str:
        return str(json.loads(node.machine.run("ip", "-j", "link", "show", "dev", interface))[0]["group"])

    ours(node, "ADD", pod)
    assert tag("vsec") == tag(pod.host_interface) != "default"
    assert pod.request(SELECTED).address == egress_ip(lab)
    node.machine.ip("link set dev vsec group 0")
    until(lambda: tag("vsec") == tag(pod.host_interface), "the agent puts the tag back", REPAIR_S)
    ours(node, "CHECK", pod)
    pod.machine.ip("link del net1")
    until(lambda: node.agent.call("pods")["pods"][0]["interfaces"] == [pod.host_interface], "one is left", 10)
    assert pod.request(SELECTED).address == egress_ip(lab)


def test_names_of_the_greatest_length(lab: Lab, node: Node) -> None:
    longest = "n" * 253
    pod = node.new_pod("long", BACKEND)
    arguments = {"IgnoreUnknown": "1", "K8S_POD_NAMESPACE": longest, "K8S_POD_NAME": longest}
    pod.attachment = replace(pod.attachment, cni_args=arguments)
    pod.start()
    assert attached(node) == {longest: GATEWAY}
    assert pod.request(SELECTED).address == egress_ip(lab)
    node.egressctl("explain", f"{longest}/{longest}")


@pytest.mark.parametrize("away", [False, True], ids=["agent", "alone"])
def test_many_pods_at_once(lab: Lab, node: Node, capture: Capture, away: bool) -> None:
    """The bridge plugin is none of the contest: pods are made first, ours are called all at once."""
    pods = [node.pod(f"crowd-{number}", OTHER) for number in range(10 if away else 25)]
    for pod in pods:
        listed = [{"key": "app", "value": "backend"}]
        pod.attachment = replace(pod.attachment, args={"cni": {"labels": listed}})
    if away:
        node.agent.kill()
        wipe(node)
    with ThreadPoolExecutor(len(pods)) as pool:
        for answer in pool.map(lambda pod: ours(node, "ADD", pod), pods):
            assert answer
    for pod in pods:
        assert pod.datagram(SELECTED).address == egress_ip(lab)
    assert capture.sources(SELECTED) == {egress_ip(lab)}


# -- right after an edit


@pytest.mark.parametrize("in_place", [False, True])
def test_a_pod_that_starts_right_after_its_policy(
    lab: Lab, node: Node, capture: Capture, in_place: bool
) -> None:
    objects = documents.basic_mode(lab.topology.egress_interface, GATEWAY)
    late = documents.policy("late", GATEWAY, {"app": "late"}, ["203.0.113.0/24"])
    served = egress_ip(lab)
    pod = node.new_pod("late", {"app": "late"})
    bridge, _ = pod.network.plugins
    pod.result = json.loads(node.runtime.invoke("ADD", pod.network, bridge, pod.attachment, None))
    try:
        if in_place:
            path = node.manifests / "objects.yaml"
            path.write_text("")
            path.write_text(yaml.safe_dump_all([*objects, late]))
        else:
            node.write("objects", [*objects, late])
        ours(node, "ADD", pod)
        assert pod.request(SELECTED).address == served
        assert capture.sources(SELECTED) == {served}
    finally:
        lab.publish("objects", objects)
