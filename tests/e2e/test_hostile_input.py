"""What no manifest and no call should hold: it is a problem with its name, and the traffic of others feels nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cni import contract

from ..lab import topology
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.silence import longest
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

POLICY = """\
apiVersion: egress-gateway.io/v1alpha1
kind: EgressGatewayPolicy
metadata: {{name: {name}}}
spec: {{egressGatewayName: partner, selectors: [{{podSelector: {{}}}}], destinationCIDRs: [{prefix}]}}
"""
FILES = {
    "digits": POLICY.format(name="digits", prefix=f"10.0.0.0/{'9' * 5000}"),
    "number": POLICY.format(name="number", prefix="9" * 5000),
    "nested": POLICY.format(name="nested", prefix="[" * 900 + "]" * 900),
    "binary": POLICY.format(name="binary", prefix="!!binary x"),
    "aliases": f"a: &a x\nb: [{'*a, ' * 1_000_000}]\n",
    "laughs": "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 40)),
    "name": POLICY.format(name="x." * 200, prefix="10.0.0.0/8"),
    "escape": POLICY.format(name='"\\e[2J"', prefix="10.0.0.0/8"),
    "looks-like-ours": POLICY.format(name="other", prefix="10.0.0.0/8").replace("egress-", "egress"),
}


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_hostile_input", topology.separate(workers=1, gateways=2)) as made:
        yield made


def test_objects_that_cannot_be_read_end_no_agent_and_disturb_no_other_object(lab: Lab) -> None:
    pod = lab.nodes["w1"].pod("talker", BACKEND)
    served = pod.request(SELECTED).address
    keepers = {node.host.name: (node.agent.pid, node.agent.keeper_pids()) for node in lab.nodes.values()}
    with lab.probing(pod) as probing:
        for node in lab.nodes.values():
            for name, text in FILES.items():
                (node.manifests / f"{name}.yaml").write_text(text)
        for node in lab.nodes.values():
            until(partial(all_are_named, node), "each file is named in a problem", 60.0)
        probes = probing.stop()
    assert longest(probes).lost == 0
    assert {probe.address for probe in probes} == {served}
    assert {
        node.host.name: (node.agent.pid, node.agent.keeper_pids()) for node in lab.nodes.values()
    } == keepers, "the same processes"
    assert all(line.isprintable() for line in lab.nodes["w1"].egressctl("status").splitlines())
    for node in lab.nodes.values():
        for name in FILES:
            (node.manifests / f"{name}.yaml").unlink()
    until(lambda: not any(named(node) for node in lab.nodes.values()), "nothing is wrong any more")
    lab.wait_settled(GATEWAY)


def all_are_named(node: Node) -> bool:
    return named(node) >= FILES.keys()


def named(node: Node) -> set[str]:
    """Return the names of the files that the problems of a node name."""
    return {Path(problem["source"].partition(" ")[0]).stem for problem in node.agent.status()["problems"]}


@pytest.mark.parametrize(
    "configuration", [b"[" * 100_000, b'{"prevResult": ' * 50_000, b"9" * 5000, b"\xff", b"{}"]
)
def test_each_call_at_the_agents_socket_is_answered(lab: Lab, configuration: bytes) -> None:
    node = lab.nodes["w1"]
    before = {path for path in node.agent.run_dir.rglob("*") if path.parent.name == "attachments"}
    for container_id in (b"c1", b"../../../../tmp/outside", b"", b"c\n"):
        environment = (b"ADD", container_id, b"/run/netns/x", b"eth0", b"", b"")
        code, answer = asked(node, contract.cni_request(environment, configuration))
        assert code == contract.ERROR
        assert json.loads(answer)["code"] in (
            contract.NOT_JSON, contract.INVALID_ENVIRONMENT, contract.INVALID_CONFIGURATION,
        )  # fmt: skip
    assert json.loads(b"".join(asked(node, contract.CONTROL + b"\0" + configuration)))["error"]
    assert {path for path in node.agent.run_dir.rglob("*") if path.parent.name == "attachments"} == before
    assert not Path("/tmp/outside@eth0.json").exists()


def asked(node: Node, request: bytes) -> tuple[bytes, bytes]:
    """Return the kind and the content of an answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(contract.DEADLINE_S)
        connection.connect(str(node.agent.run_dir / "agent.sock"))
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    return answer[:2], answer[2:]
