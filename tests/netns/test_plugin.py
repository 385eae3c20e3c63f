"""The built plugin behind the reference plugins, on a real kernel, while the agent is away."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cni import contract, plan
from cni.calls import attachments
from cni.kernel import ids
from cni.plan import Destination, Plan, PlanEgressIP, PlanNode, PlanPolicy, PolicySet, Requirement, Selector

ROOT = Path(__file__).parents[2]
REFERENCE = Path("/usr/lib/cni")
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")

EGRESS = ids.egress_id("partner", "")
SET = PolicySet(3, ("backend",), (EGRESS,), (Destination("203.0.113.0/24", EGRESS),))
PLAN = Plan(
    node="w1",
    mask=0xFF00000,
    port=4799,
    mtu=1450,
    nodes=(PlanNode("g1", "192.0.2.7"), PlanNode("w1", "192.0.2.1")),
    egress_ips=(
        PlanEgressIP(EGRESS, "partner", "", 1, ids.vni(EGRESS), eligible=("g1",), master="g1", epoch=1),
    ),
    policies=(PlanPolicy("backend", "partner", (Selector((Requirement("app", "In", ("backend",)),)),)),),
    policy_sets=(SET,),
)
BACKEND = {"app": "backend"}
OTHER = {"app": "web"}


def ip(*arguments: str, namespace: str = "") -> str:
    inside = ["-n", namespace] if namespace else []
    return subprocess.run(["ip", *inside, *arguments], check=True, capture_output=True, text=True).stdout


@dataclass
class Node:
    """A worker without an agent."""

    name: str
    run_dir: Path
    plugin: Path

    def run(self, program: Path, command: str, pod: str, configuration: dict[str, Any]) -> tuple[int, Any]:
        """Exit status and parsed output of one call."""
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod,
            "CNI_NETNS": f"/run/netns/{pod}",
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME={pod}",
            "CNI_PATH": str(REFERENCE),
            "PATH": os.environ["PATH"],
        }
        outcome = subprocess.run(
            ["ip", "netns", "exec", self.name, str(program)],
            env=environment,
            check=False,
            timeout=60,
            input=json.dumps(configuration),
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in outcome.stderr
        return outcome.returncode, json.loads(outcome.stdout) if outcome.stdout else None

    def create(self, kind: str, pod: str) -> dict[str, Any]:
        """Return the result of the reference plugin ``kind``."""
        subnet = "10.91.0.0/24" if kind == "bridge" else "10.92.0.0/24"
        ipam = {"type": "host-local", "subnet": subnet, "dataDir": str(self.run_dir / "ipam")}
        configuration: dict[str, Any] = {"cniVersion": "1.0.0", "name": "pods", "type": kind, "ipam": ipam}
        if kind == "bridge":
            configuration |= {"bridge": "cni0", "isGateway": True}
        status, result = self.run(REFERENCE / kind, "ADD", pod, configuration)
        assert status == 0, result
        return dict(result)

    def call(
        self, command: str, pod: str, result: dict[str, Any], labels: dict[str, str] | None, **keys: Any
    ) -> tuple[int, Any]:
        """One call of ours, chained behind ``result``."""
        configuration: dict[str, Any] = {
            "cniVersion": "1.0.0",
            "name": "pods",
            "type": "egress-gateway",
            "socket": str(self.run_dir / "agent.sock"),
            "prevResult": result,
            **keys,
        }
        if labels is not None:
            configuration["args"] = {"cni": {"labels": [{"key": k, "value": v} for k, v in labels.items()]}}
        return self.run(self.plugin, command, pod, configuration)

    def refusal(self, *arguments: Any, **keys: Any) -> dict[str, Any]:
        status, error = self.call(*arguments, **keys)
        assert status == 1, error
        return dict(error)

    def leave(self, what: Plan) -> None:
        (self.run_dir / "plan.json").write_text(plan.dumps(what))

    def group(self, interface: str) -> int:
        (link,) = json.loads(ip("-j", "link", "show", "dev", interface, namespace=self.name))
        return 0 if link.get("group", "default") == "default" else int(str(link["group"]), 0)

    def records(self) -> tuple[attachments.Attachment, ...]:
        found, problems = attachments.load_all(self.run_dir)
        assert problems == ()
        return found

    def devices(self) -> set[str]:
        return {
            link["ifname"]
            for link in json.loads(ip("-j", "link", "show", "type", "vxlan", namespace=self.name))
        }

    def wipe(self) -> None:
        """Take away all that a reboot would, but for the pod's interfaces."""
        for device in self.devices():
            ip("link", "del", device, namespace=self.name)
        for family in ("-4", "-6"):
            ip(family, "rule", "flush", "protocol", str(ids.PROTOCOL), namespace=self.name)
        subprocess.run(["ip", "netns", "exec", self.name, "nft", "flush", "ruleset"], check=True)


def veth_of(result: dict[str, Any]) -> str:
    return str(next(i["name"] for i in result["interfaces"] if i["name"].startswith("veth")))


@pytest.fixture(scope="module", params=["zipapp", "standalone"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("built") / "egress-gateway"
    builder = ROOT / "packaging" / f"build_{request.param}.py"
    subprocess.run([sys.executable, str(builder), "--output", str(output)], check=True)
    return output


@pytest.fixture
def namespaces() -> Iterator[Callable[[str], str]]:
    made: list[str] = []

    def make(role: str) -> str:
        name = f"egwplug-{os.getpid()}-{role}"
        ip("netns", "add", name)
        made.append(name)
        ip("link", "set", "lo", "up", namespace=name)
        return name

    yield make
    for name in made:
        ip("netns", "del", name)


@pytest.fixture
def node(namespaces: Callable[[str], str], built: Path, tmp_path: Path) -> Node:
    name = namespaces("node")
    ip("addr", "add", "192.0.2.1/24", "dev", "lo", namespace=name)
    made = Node(name, tmp_path, built)
    made.leave(PLAN)
    return made


@pytest.fixture
def pod(namespaces: Callable[[str], str]) -> str:
    return namespaces("pod")


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_a_selected_pod_is_tagged_and_routed(kind: str, node: Node, pod: str) -> None:
    result = node.create(kind, pod)
    assert node.call("ADD", pod, result, BACKEND) == (0, result)
    assert node.group(veth_of(result)) == SET.group
    assert ids.device(ids.vni(EGRESS)) in node.devices()
    (record,) = node.records()
    assert (record.name, record.host_interface, record.group) == (pod, veth_of(result), SET.group)
    assert record.addresses == (result["ips"][0]["address"].split("/")[0],)
    assert node.call("CHECK", pod, result, BACKEND) == (0, None)


def test_all_of_it_twice(node: Node, pod: str) -> None:
    result = node.create("bridge", pod)
    for _ in range(2):
        assert node.call("ADD", pod, result, BACKEND) == (0, result)
    assert len(node.records()) == 1
    for _ in range(2):
        assert node.call("DEL", pod, result, BACKEND) == (0, None)
    assert node.records() == ()
    assert node.group(veth_of(result)) == SET.group, "what still runs in the pod must not leak"


def test_after_a_reboot(node: Node, pod: str) -> None:
    result = node.create("bridge", pod)
    node.call("ADD", pod, result, BACKEND)
    node.wipe()
    assert node.devices() == set()
    error = node.refusal("CHECK", pod, result, BACKEND)
    assert error["code"] == contract.NOT_AS_ADDED
    assert node.call("ADD", pod, result, BACKEND) == (0, result)
    assert node.call("CHECK", pod, result, BACKEND) == (0, None)


def test_check_names_what_is_missing(node: Node, pod: str) -> None:
    result = node.create("ptp", pod)
    node.call("ADD", pod, result, BACKEND)
    ip("link", "set", "dev", veth_of(result), "group", "0", namespace=node.name)
    ip("rule", "del", "priority", str(ids.RULE_PRIORITY_BASE + 1), namespace=node.name)
    error = node.refusal("CHECK", pod, result, BACKEND)
    assert error["code"] == contract.NOT_AS_ADDED
    assert f"interface {veth_of(result)} has group 0" in error["msg"]
    assert "rule" in error["msg"]


def test_an_unselected_pod_starts(node: Node, pod: str) -> None:
    result = node.create("bridge", pod)
    assert node.call("ADD", pod, result, OTHER) == (0, result)
    assert node.group(veth_of(result)) == ids.GROUP_UNSELECTED
    assert node.devices() == set(), "a node without selected pods keeps its kernel as it is"
    (record,) = node.records()
    assert (record.labels, record.host_interface, record.group) == (OTHER, veth_of(result), 0)
    assert node.call("CHECK", pod, result, OTHER) == (0, None)


def test_a_tag_of_other_software_is_left_alone(node: Node, pod: str) -> None:
    result = node.create("bridge", pod)
    ip("link", "set", "dev", veth_of(result), "group", "77", namespace=node.name)
    assert node.call("ADD", pod, result, OTHER)[0] == 0
    assert node.group(veth_of(result)) == 77


def test_a_pod_that_is_no_longer_selected_loses_our_tag(node: Node, pod: str) -> None:
    result = node.create("bridge", pod)
    node.call("ADD", pod, result, BACKEND)
    assert node.call("ADD", pod, result, OTHER)[0] == 0
    assert node.group(veth_of(result)) == ids.GROUP_UNSELECTED


@pytest.mark.parametrize("known_plan", [True, False])
def test_a_pod_that_may_be_selected(known_plan: bool, node: Node, pod: str) -> None:
    if not known_plan:
        (node.run_dir / "plan.json").unlink()
    result = node.create("bridge", pod)
    error = node.refusal("ADD", pod, result, None)
    assert error["code"] == contract.TRY_AGAIN_LATER
    assert node.records() == ()
    assert node.group(veth_of(result)) == 0, "the guard of unknown pods holds it"
    assert node.call("ADD", pod, result, None, failurePolicy="Ignore") == (0, result)
    assert node.group(veth_of(result)) == ids.GROUP_UNSELECTED
    (record,) = node.records()
    assert (record.labels, record.host_interface, record.group) == (None, veth_of(result), 0)


def test_a_combination_that_the_plan_does_not_have(node: Node, pod: str) -> None:
    second = PlanPolicy("all", "partner", (Selector(),))
    node.leave(Plan(**{**vars(PLAN), "policies": (*PLAN.policies, second)}))
    error = node.refusal("ADD", pod, node.create("bridge", pod), BACKEND)
    assert error["code"] == contract.TRY_AGAIN_LATER
    assert "all, backend" in error["msg"]


def attach(node: Node, pod: str, inside: str, outside: str) -> None:
    """One more veth of the pod."""
    peer = ("peer", "name", outside, "netns", node.name)
    ip("link", "add", inside, "type", "veth", *peer, namespace=pod)
    ip("link", "set", outside, "up", namespace=node.name)


def test_all_veths_of_a_pod_are_tagged_and_nothing_else(
    namespaces: Callable[[str], str], node: Node, pod: str
) -> None:
    """The node's own uplink is a veth too, and the result names it as if it were the pod's."""
    switch = namespaces("switch")
    attach(node, switch, "port", "eth0")
    result = node.create("bridge", pod)
    attach(node, pod, "net1", "vsec")
    ip("link", "add", "inner0", "type", "veth", "peer", "name", "inner1", namespace=pod)
    result["interfaces"] += [{"name": "eth0"}, {"name": "vsec"}]
    assert node.call("ADD", pod, result, BACKEND) == (0, result)
    tags = {name: node.group(name) for name in (veth_of(result), "vsec", "eth0", "cni0")}
    assert tags == {veth_of(result): SET.group, "vsec": SET.group, "eth0": 0, "cni0": 0}
    (record,) = node.records()
    assert set(record.host_interfaces) == {veth_of(result), "vsec"}
    assert node.call("CHECK", pod, result, BACKEND) == (0, None)
    ip("link", "set", "dev", "vsec", "group", "0", namespace=node.name)
    assert "interface vsec has group 0" in node.refusal("CHECK", pod, result, BACKEND)["msg"]
    assert node.call("ADD", pod, result, OTHER) == (0, result)
    assert {node.group(veth_of(result)), node.group("vsec")} == {ids.GROUP_UNSELECTED}


def test_without_a_plan_no_name_is_that_of_a_pod_whose_namespace_cannot_be_seen(
    namespaces: Callable[[str], str], node: Node, pod: str
) -> None:
    """The plan alone names the uplinks among the veths: no pod may bring one into its record, or tag it."""
    attach(node, namespaces("switch"), "port", "eth0")
    result = node.create("bridge", pod)
    result["interfaces"].append({"name": "eth0"})
    veth, unseen = veth_of(result), f"{pod}-elsewhere"
    (node.run_dir / "plan.json").unlink()
    assert node.refusal("ADD", unseen, result, BACKEND)["code"] == contract.TRY_AGAIN_LATER
    assert node.records() == ()
    assert node.call("ADD", unseen, result, BACKEND, failurePolicy="Ignore") == (0, result)
    assert [record.host_interfaces for record in node.records()] == [()]
    assert (node.group(veth), node.group("eth0")) == (0, 0)
    node.leave(dataclasses.replace(PLAN, uplinks=("eth0",)))
    assert node.call("ADD", unseen, result, BACKEND) == (0, result)
    assert [record.host_interfaces for record in node.records()] == [(veth,)]
    assert (node.group(veth), node.group("eth0")) == (SET.group, 0)


def test_check_looks_at_what_add_has_tagged(node: Node, pod: str) -> None:
    """A network that came later, by other plugins, is none of this ADD's business; an interface that is gone is."""
    result = node.create("bridge", pod)
    assert "was not added" in node.refusal("CHECK", pod, result, BACKEND)["msg"]
    attach(node, pod, "net1", "vsec")
    assert node.call("ADD", pod, result, BACKEND) == (0, result)
    attach(node, pod, "net2", "later")
    assert node.call("CHECK", pod, result, BACKEND) == (0, None)
    ip("link", "del", "vsec", namespace=node.name)
    assert "interface vsec is gone" in node.refusal("CHECK", pod, result, BACKEND)["msg"]


def test_a_result_that_names_only_the_container_side(node: Node, pod: str) -> None:
    result = node.create("ptp", pod)
    host = veth_of(result)
    result["interfaces"] = [{"name": "eth0", "sandbox": f"/run/netns/{pod}"}]
    for address in result["ips"]:
        address["interface"] = 0
    assert node.call("ADD", pod, result, BACKEND) == (0, result)
    assert node.group(host) == SET.group
    assert node.call("CHECK", pod, result, BACKEND) == (0, None)


def test_without_a_host_side_veth(node: Node, pod: str) -> None:
    result = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": f"/run/netns/{pod}"}]}
    error = node.refusal("ADD", pod, result, BACKEND)
    assert error["code"] == contract.NO_HOST_INTERFACE
    assert "macvlan" in error["details"]
    assert node.call("ADD", pod, result, OTHER) == (0, result)


def test_what_the_kernel_refuses_is_an_error_of_its_own(node: Node, pod: str) -> None:
    result = node.create("bridge", pod)
    vni, port = str(ids.vni(EGRESS)), str(PLAN.port)
    ip("link", "add", "taken", "type", "vxlan", "id", vni, "dstport", port, namespace=node.name)
    error = node.refusal("ADD", pod, result, BACKEND)
    assert error["code"] == contract.KERNEL_REFUSED
    assert node.group(veth_of(result)) == 0
