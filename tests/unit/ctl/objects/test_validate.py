"""``egressctl validate``: files on disk, no agent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gateway_agent.ctl.__main__ import main

from ...manifests.manifest_texts import GATEWAY

POLICY = """
apiVersion: egress-gateway.io/v1alpha1
kind: EgressGatewayPolicy
metadata: {name: a}
spec: {egressGatewayName: partner, selectors: [{podSelector: {}}]}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "gateway.yaml").write_text(GATEWAY)
    (tmp_path / "policy.yml").write_text(POLICY)
    (tmp_path / "notes.txt").write_text("not: [yaml")
    (tmp_path / ".hidden.yaml").write_text("not: [yaml")
    return tmp_path


def test_valid(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(directory)]) == 0
    assert capsys.readouterr().out == "2 objects, all valid\n"
    assert main(["validate", str(directory), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_the_same_file_twice_is_read_once(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(directory), str(directory / "gateway.yaml")]) == 0
    assert capsys.readouterr().out == "2 objects, all valid\n"


def test_problems(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = directory / "policy.yml"
    broken.write_text(POLICY.replace("partner", "partnr"))
    assert main(["validate", str(directory)]) == 1
    assert capsys.readouterr().out == (
        f"{broken}: spec.egressGatewayName: there is no EgressGateway 'partnr': what the policy selects is dropped"
        " (did you mean 'partner'?)\n"
    )
    assert main(["-o", "json", "validate", str(directory)]) == 1
    assert json.loads(capsys.readouterr().out) == [
        {
            "source": str(broken),
            "path": "spec.egressGatewayName",
            "message": "there is no EgressGateway 'partnr': what the policy selects is dropped",
            "hint": "did you mean 'partner'?",
        }
    ]


def test_configuration_of_the_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("store: {kind: files}\n")
    assert main(["validate", str(config)]) == 0
    assert capsys.readouterr().out == "1 object, all valid\n"
    config.write_text("store: {kind: files}\nlease: {heartbeat: 1s}\nrundir: /x\n")
    assert main(["validate", str(config)]) == 1
    assert [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "rundir",
        "lease.duration",
    ]


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_files_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    file = tmp_path / "x.yaml"
    if content is not None:
        file.write_bytes(content)
    assert main(["validate", str(file)]) == 1
    assert f"{file}: cannot be read: " in capsys.readouterr().out


def test_directory_without_manifests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(tmp_path)]) == 1
    assert "holds no manifests" in capsys.readouterr().out


def test_a_node_that_no_tunnel_would_reach(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = (
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {}}}\n"
        "status: {{addresses: [{{type: InternalIP, address: '{}'}}]}}\n"
    )
    path = tmp_path / "nodes.yaml"
    addresses = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "fd00::3"}
    path.write_text("---\n".join(node.format(*item) for item in addresses.items()))
    assert main(["validate", str(path)]) == 1
    assert capsys.readouterr().out.startswith(
        f"{path} (document 3): status.addresses: node c has no IPv4 address, and the tunnels of this cluster are over"
    )
    path.write_text("---\n".join(node.format(name, f"fd00::{name}") for name in addresses))
    assert main(["validate", str(path)]) == 0


NODES = """
apiVersion: v1
kind: Node
metadata: {name: g1, labels: {node-role/egress: ""}}
status: {addresses: [{type: InternalIP, address: 172.16.0.7}]}
"""
VIRTUAL = """
apiVersion: egress-gateway.io/v1alpha1
kind: EgressGateway
metadata: {name: bank}
spec:
  nodeSelector: {node-role/egress: ""}
  sourceIP: {mode: VirtualIPAddress, virtualIPAddress: {ips: [172.16.0.50, 172.16.0.51]}}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("172.16.0.51", "127.0.0.1", "127.0.0.1 cannot be a host's address: loopback"),
        ("172.16.0.51", "224.0.0.9", "224.0.0.9 cannot be a host's address: multicast"),
        (
            "172.16.0.51",
            "255.255.255.255",
            "255.255.255.255 cannot be a host's address: reserved, and broadcast",
        ),
        ("172.16.0.51", "0.0.0.0", "0.0.0.0 cannot be a host's address: this network"),
        ("172.16.0.51", "169.254.1.1", "169.254.1.1 cannot be a host's address: link-local"),
        ("172.16.0.51", "'fe80::1'", "fe80::1 cannot be a host's address: link-local"),
        ("172.16.0.51", "172.16.0.7", "172.16.0.7 is the address of node g1"),
        ("172.16.0.51", "172.16.0.60", "172.16.0.60 is an address of gateway acme too, which keeps it"),
        ("node-role/egress", "node-role/egres", "gateway bank: selects no node"),
        ("egress-gateway.io/v1alpha1", "egress-gateway.io/v1", "'egress-gateway.io/v1' is not known"),
    ],
)
def test_what_an_agent_would_refuse_is_invalid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    other = VIRTUAL.replace("name: bank", "name: acme").replace("172.16.0.50, 172.16.0.51", "172.16.0.60")
    (tmp_path / "nodes.yaml").write_text(NODES)
    (tmp_path / "acme.yaml").write_text(other)
    (tmp_path / "bank.yaml").write_text(VIRTUAL)
    assert main(["validate", str(tmp_path)]) == 0
    capsys.readouterr()
    (tmp_path / "bank.yaml").write_text(VIRTUAL.replace(old, new))
    assert main(["validate", str(tmp_path)]) == 1
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(str(tmp_path / "bank.yaml"))
    assert message in line


def test_without_nodes_that_is_said_and_addresses_are_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bank.yaml"
    path.write_text(VIRTUAL)
    assert main(["validate", str(path)]) == 0
    assert "no Node is among the files" in capsys.readouterr().err
    path.write_text(VIRTUAL.replace("172.16.0.51", "127.0.0.1"))
    assert main(["validate", str(path)]) == 1
    assert "loopback" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("# nothing\n---\n  # more\n...\n", "is empty"),
        ("kind: ConfigMap\n", "holds nothing"),
    ],
)
def test_a_file_without_an_object_is_invalid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(content)
    assert main(["validate", str(path)]) == 1
    assert message in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "# all is commented out\n---\n"])
def test_in_a_directory_other_objects_are_passed_over_and_empty_files_are_not(
    directory: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (directory / "other.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n")
    assert main(["validate", str(directory)]) == 0
    (directory / "empty.yaml").write_text(content)
    capsys.readouterr()
    assert main(["validate", str(directory)]) == 1
    assert capsys.readouterr().out.startswith(f"{directory / 'empty.yaml'}: is empty")


def test_a_stray_file_does_not_fill_the_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "/dev/zero"]) == 1
    assert "larger than" in capsys.readouterr().out


@pytest.mark.parametrize(
    "value", ["9" * 5000, "0x" + "f" * 5000, "!!timestamp x", "[" * 5000, "9" * 400 + ".9s"]
)
@pytest.mark.parametrize(
    "key", ["tunnel: {port: %s}", "mark: {mask: %s}", "lease: {duration: %s}", "nodeName: %s"]
)
def test_no_value_of_a_configuration_ends_in_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: str
) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(f"store: {{kind: files}}\n{key % value}\n")
    assert main(["validate", str(path)]) == 1
    assert str(path) in capsys.readouterr().out
    # Commands need the run directory alone: the rest is a warning if it can be read.
    assert main(["--config", str(path), "status"]) in (1, 2)
    assert str(path) in capsys.readouterr().err


def pods(*documents: tuple[str, str, str]) -> str:
    """Return pods as (name, labels, rest of their spec)."""
    template = "apiVersion: v1\nkind: Pod\nmetadata: {{name: {}, labels: {{{}}}}}\nspec: {{{}}}\n"
    return "---\n".join(template.format(*document) for document in documents)


def policies(*names: str) -> str:
    return "---".join(
        POLICY.replace("{name: a}", f"{{name: {name}}}")
        .replace("partner", "bank")
        .replace("podSelector: {}", f"podSelector: {{matchLabels: {{{name}: 'yes'}}}}")
        for name in names
    )


def found(capsys: pytest.CaptureFixture[str], *paths: Path) -> list[str]:
    """Return the problems of files, one line each."""
    assert main(["validate", *map(str, paths)]) in (0, 1)
    output = capsys.readouterr().out.splitlines()
    return [] if output[-1].endswith("valid") else output


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """Return a directory with a node, and with a gateway that has two addresses."""
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "nodes.yaml").write_text(NODES)
    (directory / "bank.yaml").write_text(VIRTUAL)
    return directory


def test_more_egress_ips_than_the_mark_has_numbers_for(
    cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("store: {kind: files}\nmark: {mask: 0xf0}\n")
    assert found(capsys, cluster, config) == []
    addresses = ", ".join(f"172.16.0.{last}" for last in range(50, 58))
    (cluster / "bank.yaml").write_text(VIRTUAL.replace("172.16.0.50, 172.16.0.51", addresses))
    assert found(capsys, cluster, config) == [], "only what the pods of a node use has numbers"
    (cluster / "policies.yaml").write_text(policies("p"))
    (cluster / "pods.yaml").write_text(pods(*((f"web-{number}", "p: 'yes'", "") for number in range(40))))
    assert found(capsys, cluster) == []
    lines = found(capsys, cluster, config)
    assert len(lines) == 2, "each of the eight addresses has pods, and the mask has six numbers"
    for line in lines:
        assert line.startswith(f"{cluster / 'bank.yaml'}: spec.sourceIP.virtualIPAddress.ips[")
        assert "no number is left for it: mark mask 0xf0 holds 6 (widen mark.mask" in line


def test_more_policy_sets_than_the_mark_has_numbers_for(
    cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pods that run on different nodes do not add up; those whose node is not known count on each."""
    config = tmp_path / "agent.yaml"
    config.write_text("store: {kind: files}\nmark: {mask: 0xf0}\n")
    (cluster / "nodes.yaml").write_text(
        NODES + "---" + NODES.replace("g1", "w1").replace("0.7", "0.21").replace('node-role/egress: ""', "")
    )
    names = [f"p{number}" for number in range(20)]
    (cluster / "bank.yaml").write_text(VIRTUAL.replace("172.16.0.50, 172.16.0.51", "172.16.0.50"))
    (cluster / "policies.yaml").write_text(policies(*names))
    nodes = ["g1", "w1"] * 10
    (cluster / "pods.yaml").write_text(
        pods(
            *((name, f"{name}: 'yes'", f"nodeName: {node}") for name, node in zip(names, nodes, strict=True))
        )
    )
    assert found(capsys, cluster, config) == []
    (cluster / "pods.yaml").write_text(pods(*((name, f"{name}: 'yes'", "nodeName: w9") for name in names)))
    [line] = found(capsys, cluster, config)
    assert line.startswith(
        "configuration: mark.mask: 20 policy sets are needed, mark mask 0xf0 holds 15 (widen it"
    )
    (cluster / "pods.yaml").write_text(pods(*((name, f"{name}: 'yes'", "") for name in names)))
    assert found(capsys, cluster, config) == [line]
    assert found(capsys, cluster) == []


@pytest.mark.parametrize("node", ["g1", "elsewhere", ""])
def test_a_selected_pod_on_its_nodes_network(
    cluster: Path, capsys: pytest.CaptureFixture[str], node: str
) -> None:
    (cluster / "policies.yaml").write_text(policies("p"))
    where = f", nodeName: {node}" if node else ""
    (cluster / "pods.yaml").write_text(pods(("web", "p: 'yes'", f"hostNetwork: true{where}")))
    [line] = found(capsys, cluster)
    assert line.startswith(
        "pod default/web: spec.hostNetwork: policy p selects it, but it uses the node's network"
    )
    (cluster / "pods.yaml").write_text(pods(("web", "q: 'yes'", f"hostNetwork: true{where}")))
    assert found(capsys, cluster) == []


def test_a_configuration_for_a_node_that_is_not_among_the_files(
    cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("nodeName: w9\nstore: {kind: files}\n")
    assert [line.partition(" (")[0] for line in found(capsys, cluster, config)] == [
        "node w9: the inventory has no such node with an address"
    ]
    assert found(capsys, cluster / "bank.yaml", config) == []
    config.write_text("nodeName: g1\nstore: {kind: files}\n")
    assert found(capsys, cluster, config) == []


def test_a_pipe_in_a_directory_is_not_waited_for(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(cluster / "pipe.yaml")
    assert found(capsys, cluster) == [f"{cluster / 'pipe.yaml'}: cannot be read: is no regular file"]
