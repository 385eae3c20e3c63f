"""The plugin while no agent answers, as far as no interface is touched."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cni import contract, plan, protocol
from cni.calls import attachments
from cni.plan import Plan

from ..test_protocol import call, environment, error_of, stdin
from .test_attachments import RECORD

EMPTY = Plan(node="w1", mask=0xFF00000, port=4799, mtu=1450)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


def leave_plan(path: Path, text: str = plan.dumps(EMPTY)) -> None:
    path.with_name("plan.json").write_text(text)


@pytest.mark.parametrize("socket_there", [False, True])
def test_del_succeeds_twice(socket_there: bool, path: Path) -> None:
    if socket_there:
        path.write_text("no socket")
    attachments.write(path.parent, replace(RECORD, container_id="c-1_a.b"))
    for _ in range(2):
        assert call(environment("DEL", CNI_NETNS=None), stdin(path)) == (0, b"")
        assert attachments.load_all(path.parent) == ((), ())


def test_del_before_anything_was_ever_there(path: Path) -> None:
    gone = path.parent / "never" / "agent.sock"
    assert call(environment("DEL"), stdin(gone, args={"cni": 5})) == (0, b"")
    assert not gone.parent.exists()


def test_status_needs_a_plan(path: Path) -> None:
    raw = stdin(path, cniVersion="1.1.0")
    error = error_of(call(environment("STATUS"), raw))
    assert error["code"] == contract.NOT_AVAILABLE
    assert str(path) in error["details"] and "plan.json" in error["details"]
    leave_plan(path)
    assert call(environment("STATUS"), raw) == (0, b"")


def test_a_plan_that_is_older_than_what_the_agent_knew_starts_no_pod(path: Path) -> None:
    """The agent has died between an edit and its plan."""
    leave_plan(path)
    mark = path.with_name(contract.PLAN_OUTDATED)
    mark.touch()
    ready = stdin(path, cniVersion="1.1.0")
    assert error_of(call(environment("STATUS"), ready))["code"] == contract.NOT_AVAILABLE
    for command in ("ADD", "CHECK"):
        error = error_of(call(environment(command), stdin(path)))
        assert error["code"] == contract.TRY_AGAIN_LATER
        assert "older than the objects" in error["msg"] and str(path) in error["details"]
    assert attachments.load_all(path.parent) == ((), ())
    assert call(environment("DEL"), stdin(path)) == (0, b"")
    mark.unlink()
    assert call(environment("STATUS"), ready) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [("K8S_POD_NAMESPACE=prod;K8S_POD_NAME=a", "pod prod/a"), (None, "container c-1_a.b")],
    ids=["named", "unnamed"],
)
def test_an_error_names_the_pod_or_its_container(arguments: str | None, subject: str, path: Path) -> None:
    error = error_of(call(environment(CNI_ARGS=arguments), stdin(path)))
    assert error["msg"] == f"there is neither an agent nor a plan: a policy may select {subject}"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"version": 99}', plan.dumps(EMPTY).replace("mtu", "mut")]
)
def test_a_broken_plan_is_none(text: str, path: Path) -> None:
    leave_plan(path, text)
    error = error_of(call(environment("STATUS"), stdin(path, cniVersion="1.1.0")))
    assert error["code"] == contract.NOT_AVAILABLE
    assert "plan.json" in error["details"]


def test_garbage_collection_of_one_network(path: Path) -> None:
    def record(container_id: str, network: str) -> attachments.Attachment:
        return replace(RECORD, container_id=container_id, network=network)

    for container_id, network in (("kept", "pods"), ("gone", "pods"), ("other", "storage"), ("unknown", "")):
        attachments.write(path.parent, record(container_id, network))
    listed: dict[str, Any] = {"cni.dev/valid-attachments": [{"containerID": "kept", "ifname": "eth0"}]}
    assert call(environment("GC"), stdin(path, cniVersion="1.1.0", **listed)) == (0, b"")
    found, _ = attachments.load_all(path.parent)
    assert {r.container_id for r in found} == {"kept", "other"}


def test_unwritable_run_directory(path: Path) -> None:
    path.with_name("attachments").write_text("a file is in the way")
    error = error_of(call(environment("DEL"), stdin(path)))
    assert error["code"] == contract.IO_FAILURE
    assert str(path.parent) in error["details"]


def test_errors_of_the_call_are_the_same_as_by_the_agent(path: Path) -> None:
    error = error_of(call(environment(), stdin(path, args={"cni": {"labels": 5}})))
    assert (error["code"], error["msg"]) == (contract.INVALID_CONFIGURATION, "args.cni.labels: is not a list")


def test_output_is_one_object(path: Path) -> None:
    _, output = protocol.serve(environment("STATUS"), lambda: stdin(path, cniVersion="1.1.0"))
    assert json.loads(output)["cniVersion"] == "1.1.0"
