"""``egressctl validate``: files on disk, no agent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway_agent.ctl.__main__ import main

GATEWAY = """
apiVersion: egress-gateway.io/v1alpha1
kind: EgressGateway
metadata: {name: partner}
spec:
  nodeSelector: {node-role/egress: ""}
  sourceIP:
    mode: PrimaryIPFromEgressGatewayNodeInterface
    primaryIPFromEgressGatewayNodeInterface: {interfaceName: eth1}
"""
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
    assert [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()] == ["rundir", "lease.duration"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None) -> None:
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
