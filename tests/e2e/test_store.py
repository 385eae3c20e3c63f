"""Edits of the files store and what they do to pods that run: what changes, changes soon; the rest feels nothing."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from cni import contract
from cni.kernel.nftables.nft import STAMP

from ..lab import documents, topology
from ..lab.agent import PROGRAM
from ..lab.cnirun import CniError
from ..lab.documents import Document
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.silence import longest
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

EDIT_S = 1.0
"""Seconds within which an edit takes effect."""
OTHER = {"app": "other"}


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_store", topology.separate(workers=1, gateways=2)) as made:
        yield made


@pytest.fixture
def node(lab: Lab) -> Iterator[Node]:
    """Yield the worker. Afterwards no pod is left, and the store is as the lab made it."""
    node = lab.nodes["w1"]
    node.pods.clear()
    yield node
    for pod in node.pods.values():
        pod.stop()
    lab.publish("objects", objects(lab))
    lab.publish("more", [])
    lab.publish_nodes()
    lab.wait_settled(GATEWAY)


def objects(lab: Lab) -> list[Document]:
    return documents.basic_mode(lab.topology.egress_interface, GATEWAY)


def egress_ip(lab: Lab) -> str:
    return lab.nodes[lab.wait_settled(GATEWAY)].host.egress_ip


def described(pod: str, labels: Mapping[str, str]) -> Document:
    """Its ``Pod`` document."""
    metadata = {"name": pod, "namespace": "prod", "labels": dict(labels)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}


def namespace(name: str, labels: Mapping[str, str]) -> Document:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels)}}


def leaves_by(pod: Pod, address: str) -> Callable[[], bool]:
    return lambda: pod.request(SELECTED, 0.3).address == address


def tag(node: Node, pod: Pod) -> str:
    [link] = json.loads(node.machine.run("ip", "-j", "link", "show", "dev", pod.host_interface))
    return str(link["group"])


@contextmanager
def undisturbed(lab: Lab, node: Node, pod: Pod) -> Iterator[None]:
    """Yield the pod keeps its tag and its address, and loses no packet."""
    before, address = tag(node, pod), pod.request(SELECTED).address
    with lab.probing(pod) as probing:
        yield
        probes = probing.stop()
    assert len(probes) > 100
    assert longest(probes).lost == 0
    assert {probe.address for probe in probes} == {address}
    assert tag(node, pod) == before


def test_pod_documents_select_running_pods_and_leave_others_alone(lab: Lab, node: Node) -> None:
    served, worker = egress_ip(lab), node.host.ip
    pod, bystander = node.pod("edited", OTHER), node.pod("bystander", BACKEND)
    with undisturbed(lab, node, bystander):
        lab.publish("more", [described("edited", BACKEND)])
        until(leaves_by(pod, served), "its new document selects it", EDIT_S)
        lab.publish("more", [described("edited", {"app": "third"})])
        until(leaves_by(pod, worker), "its document lets it go", EDIT_S)
        lab.publish("more", [described("edited", BACKEND)])
        until(leaves_by(pod, served), "its document selects it again", EDIT_S)
        lab.publish("more", [])
        until(leaves_by(pod, worker), "without it the labels of its CNI call count", EDIT_S)
        pod.check()


def test_without_labels_a_pod_does_not_start_and_status_names_it(lab: Lab, node: Node) -> None:
    with pytest.raises(CniError, match="labels are not known") as refused:
        node.pod("nameless")
    assert refused.value.code == contract.TRY_AGAIN_LATER
    problems = [
        problem for problem in node.agent.status()["problems"] if problem["source"] == "pod prod/nameless"
    ]
    assert ["not started" in problem["message"] for problem in problems] == [True]
    lab.publish("more", [described("nameless", BACKEND)])
    try:
        again = node.pods["nameless"]
        again.start()
        assert again.request(SELECTED).address == egress_ip(lab)
        assert not any(
            problem["source"] == "pod prod/nameless" for problem in node.agent.status()["problems"]
        )
        again.stop()
    finally:
        lab.publish("more", [])


def test_policies_come_and_go_beside_a_pod_that_they_do_not_concern(lab: Lab, node: Node) -> None:
    pod, bystander = node.pod("edited", {"app": "late"}), node.pod("bystander", BACKEND)
    late = documents.policy("a-late", GATEWAY, {"app": "late"})
    with undisturbed(lab, node, bystander):
        lab.publish("more", [late])
        until(leaves_by(pod, egress_ip(lab)), "the new policy selects it", EDIT_S)
        lab.publish("more", [])
        until(leaves_by(pod, node.host.ip), "the policy is gone", EDIT_S)


def test_the_first_round_after_an_add_forgets_no_connection(lab: Lab, node: Node) -> None:
    pod = node.pod("fresh", BACKEND)
    assert pod.datagram(SELECTED).address == egress_ip(lab)
    command = ("conntrack", "-L", "-p", "udp", "--src", pod.address, "-o", "id")

    def connections() -> set[str]:
        return {line.rpartition("id=")[2].split()[0] for line in node.machine.run(*command).splitlines()}

    before = connections()
    assert before
    lab.publish("more", [documents.policy("a-late", GATEWAY, {"app": "late"})])
    until(lambda: len(node.plan()["policies"]) == 2, "a round has begun", EDIT_S)
    node.pod("after", BACKEND)
    assert connections() >= before


def test_labels_of_namespaces(lab: Lab, node: Node) -> None:
    policy = documents.policy("pay", GATEWAY, {"app": "pay"})
    policy["spec"]["selectors"][0]["namespaceSelector"] = {"matchLabels": {"team": "pay"}}
    pod = node.pod("pay", {"app": "pay"})
    lab.publish("more", [policy, namespace("prod", {"team": "play"})])
    until(lambda: len(node.plan()["policies"]) == 2, "the policy is in the plan", EDIT_S)
    assert pod.request(SELECTED).address == node.host.ip
    lab.publish("more", [policy, namespace("prod", {"team": "pay"})])
    until(leaves_by(pod, egress_ip(lab)), "the namespace's label selects it", EDIT_S)
    lab.publish("more", [policy])
    until(leaves_by(pod, node.host.ip), "the namespace has no labels any more", EDIT_S)


def test_a_nodes_address_changes(lab: Lab, node: Node) -> None:
    """The master's tunnels end at another of its addresses from now on."""
    master = lab.nodes[lab.wait_settled(GATEWAY)]
    pod = node.pod("talker", BACKEND)
    master.machine.ip("address add 10.0.0.99/24 dev eth0")
    try:
        moved = [documents.node(each.host) for each in lab.nodes.values()]
        for document in moved:
            if document["metadata"]["name"] == master.name:
                document["status"]["addresses"] = [{"type": "InternalIP", "address": "10.0.0.99"}]
        lab.publish("nodes", moved)
        fdb = ("bridge", "fdb", "show")
        until(lambda: "10.0.0.99" in node.machine.run(*fdb), "the worker's tunnel follows", EDIT_S)
        assert master.host.ip not in node.machine.run(*fdb).split()
        lab.wait_settled(GATEWAY)
        until(leaves_by(pod, egress_ip(lab)), "traffic passes by the new address")
    finally:
        lab.publish_nodes()
        until(lambda: master.host.ip in node.machine.run(*fdb), "the worker's tunnel is back", 5)
        master.machine.ip("address del 10.0.0.99/24 dev eth0")


def test_the_gateways_interface_changes(lab: Lab, node: Node) -> None:
    pod = node.pod("talker", BACKEND)
    outer = {lab.nodes[name].host.egress_ip for name in ("g1", "g2")}
    gateway, policy = documents.basic_mode("eth0", GATEWAY)
    lab.publish("objects", [gateway, policy])
    inner = {lab.nodes[name].host.ip for name in ("g1", "g2")}
    # The routers of the lab lead outside by both interfaces; eth0's default route is by the router there.
    for name in ("g1", "g2"):
        lab.nodes[name].machine.ip("route replace 203.0.113.0/24 via 10.0.0.1")
    try:
        until(
            lambda: pod.request(SELECTED, 0.3).address in inner, "the other interface's address", 2 * EDIT_S
        )
    finally:
        for name in ("g1", "g2"):
            lab.nodes[name].machine.ip("route del 203.0.113.0/24 via 10.0.0.1")
    lab.publish("objects", objects(lab))
    # A master that has to change its interface lets go; which of the two serves then is open.
    until(
        lambda: pod.request(SELECTED, 0.3).address in outer, "a first interface's address again", 2 * EDIT_S
    )
    lab.wait_settled(GATEWAY)


def test_an_egress_interface_that_appears_later_counts_at_once(lab: Lab, node: Node) -> None:
    standby = lab.nodes[next(name for name in ("g1", "g2") if name != lab.wait_settled(GATEWAY))]

    def reason() -> str:
        return next(str(m["reason"]) for m in standby.agent.status()["members"] if m["node"] == standby.name)

    standby.machine.ip("link set eth1 down", "link set eth1 name away")
    until(lambda: "eth1" in reason(), "it is not ready", EDIT_S)
    until(lambda: "does not exist" in reason(), "it says why", EDIT_S)
    standby.machine.ip("link set away name eth1", "link set eth1 up", "route add default via 172.16.0.1")
    until(lambda: reason() == "", "it is ready again", EDIT_S)


def test_a_broken_file_keeps_its_last_state_and_is_a_problem(lab: Lab, node: Node) -> None:
    pod = node.pod("talker", BACKEND)
    path = node.manifests / "objects.yaml"
    with undisturbed(lab, node, pod):
        path.write_text(path.read_text() + "---\n- [")
        until(lambda: problems(node), "it is told", EDIT_S)
    [problem] = problems(node)
    assert problem["source"].startswith(str(path))
    gateway, policy = objects(lab)
    policy["spec"]["destinationCIDRs"] = ["203.0.113.0/42"]
    with undisturbed(lab, node, pod):
        node.write("objects", [gateway, policy])
        until(lambda: problems(node) not in ([], [problem]), "another problem is told", EDIT_S)
    [problem] = problems(node)
    assert problem["path"] == "spec.destinationCIDRs[0]"
    text = node.egressctl("status")
    assert str(path) in text
    assert "spec.destinationCIDRs[0]" in text
    node.write("objects", objects(lab))
    until(lambda: problems(node) == [], "nothing is wrong any more", EDIT_S)


def problems(node: Node) -> list[dict[str, str]]:
    return list(node.agent.status()["problems"])


def test_a_broken_file_does_not_let_pods_out_after_a_restart(lab: Lab, node: Node) -> None:
    pod = node.pod("talker", BACKEND)
    with undisturbed(lab, node, pod):
        (node.manifests / "objects.yaml").write_text("spec: [")
        until(lambda: problems(node), "it is told", EDIT_S)
        node.agent.kill()
        node.agent.start()
        until(lambda: problems(node), "it is told again")


def test_files_edited_in_place_let_no_pod_out(lab: Lab, node: Node) -> None:
    """As an editor does it: the file is empty for a moment."""
    pod = node.pod("talker", BACKEND)
    path = node.manifests / "objects.yaml"
    text = path.read_text()
    address = egress_ip(lab)
    with lab.capture() as capture, undisturbed(lab, node, pod):
        for prefix in ("203.0.112.0/23", "203.0.113.0/24") * 4:
            path.write_text("")
            path.write_text(text.replace("203.0.113.0/24", prefix))
            until(partial(leads, node, prefix), "the edit counts", EDIT_S)
        assert capture.sources(SELECTED) == {address}


def test_the_first_edit_after_a_restart_replaces_no_rules(lab: Lab, node: Node) -> None:
    """A replacement costs packets; that another process has made the rules is no reason for one."""
    pod = node.pod("talker", BACKEND)
    # Rules that are not finished are replaced, whatever the next process finds else.
    until(lambda: finished(node), "the rules are finished")
    node.agent.kill()
    node.agent.start()
    lab.wait_settled(GATEWAY)
    before = len(node.log())
    gateway, policy = objects(lab)
    policy["spec"]["destinationCIDRs"] = ["203.0.112.0/23"]
    with undisturbed(lab, node, pod):
        node.write("objects", [gateway, policy])
        until(partial(leads, node, "203.0.112.0/23"), "the edit counts", EDIT_S)
        until(lambda: "nftables" in node.log()[before:], "the kernel follows", EDIT_S)
    assert "updated nftables table inet egress_gateway" in node.log()[before:]
    assert "replaced" not in node.log()[before:]


def finished(node: Node) -> bool:
    """Return True if each of our tables bears the stamp that ends its making."""
    listed = node.machine.run("nft", "list", "chains")
    return listed.count(f"chain {STAMP}") == len(
        re.findall(r"^table \w+ egress_gateway", listed, re.MULTILINE)
    )


def leads(node: Node, prefix: str) -> bool:
    return any(
        each["prefix"] == prefix for policy_set in node.plan()["policy_sets"] for each in policy_set["ways"]
    )


def test_a_second_agent_on_the_same_directory_refuses_to_start(lab: Lab, node: Node) -> None:
    command = node.machine.command(str(PROGRAM), "--config", str(node.agent.config))
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert f"another agent runs: it holds {node.agent.run_dir / 'agent.lock'}" in done.stderr
    assert "Errno" not in done.stderr
    assert node.agent.answers()


def test_a_restart_with_a_broken_configuration_does_not_happen(lab: Lab, node: Node) -> None:
    """SIGHUP is the way of an upgrade: what could not start again goes on."""
    good = node.agent.config.read_text()
    pid = node.agent.pid
    try:
        node.agent.config.write_text(good + "unknown: 1\n")
        node.agent.signal(1)
        until(lambda: "unknown" in node.log().rpartition("\n")[0][-2000:], "the log says so", 5)
        assert node.agent.answers()
        assert node.agent.pid == pid
    finally:
        node.agent.config.write_text(good)
    node.agent.restart()


def test_an_agent_that_starts_while_links_change_moves_nothing(lab: Lab, node: Node) -> None:
    """Its keeper serves on; what the new process has not looked at yet is no reason to let go."""
    master = lab.nodes[lab.wait_settled(GATEWAY)]
    before = master.agent.status()["egressIPs"][0]["epoch"]
    end = threading.Event()

    def unrest() -> None:
        while not end.is_set():
            for action in ("add", "del"):
                master.machine.ip(f"address {action} 172.16.0.200/32 dev eth1")

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(unrest)
        try:
            for _ in range(3):
                master.agent.kill()
                master.agent.start()
                until(lambda: lab.settled(GATEWAY), "it serves again")
        finally:
            end.set()
        working.result()
    after = master.agent.status()["egressIPs"][0]
    assert (after["master"], after["epoch"]) == (master.name, before)
