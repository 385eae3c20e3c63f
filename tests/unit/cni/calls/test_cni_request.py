"""The whole of a call: pod, host-side interfaces, addresses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cni import contract
from cni.calls.cni_request import Call, CallError, parse_call

BRIDGE = {
    "cniVersion": "1.0.0",
    "interfaces": [
        {"name": "cni0", "mac": "02:00:00:00:00:01"},
        {"name": "veth1a2b", "mac": "02:00:00:00:00:02", "sandbox": ""},
        {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/run/netns/p"},
    ],
    "ips": [
        {"interface": 2, "address": "10.1.0.5/24", "gateway": "10.1.0.1"},
        {"interface": 2, "address": "FD00::5/64"},
        {"interface": 0, "address": "10.1.0.1/24"},
    ],
}
OLD = {"interfaces": [{"name": "veth9"}], "ips": [{"version": "4", "address": "10.1.0.5/24"}]}


def parse(command: str = "ADD", cni_args: str = "", **keys: Any) -> Call:
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/p",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": cni_args,
        "CNI_PATH": "",
    }
    return parse_call(environment, json.dumps({"cniVersion": "1.1.0", "name": "pods", **keys}).encode())


def labels(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"cni": {"labels": [{"key": key, "value": value} for key, value in pairs]}}


def test_pod_of_the_reference_bridge() -> None:
    cni_args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-0;K8S_POD_UID=u-1;K8S_POD_INFRA_CONTAINER_ID=c1"
    call = parse(cni_args=cni_args, prevResult=BRIDGE, failurePolicy="Ignore")
    assert call == Call(
        command="ADD",
        container_id="c1",
        ifname="eth0",
        netns="/run/netns/p",
        network="pods",
        failure_policy="Ignore",
        namespace="prod",
        name="web-0",
        uid="u-1",
        labels=None,
        host_interfaces=("cni0", "veth1a2b"),
        addresses=("10.1.0.5", "fd00::5"),
    )


@pytest.mark.parametrize("cni_args", ["", "IgnoreUnknown=1;K8S_POD_NAME=web", "K8S_POD_NAMESPACE="])
def test_a_runtime_without_namespaces_means_the_default_one(cni_args: str) -> None:
    """Podman and nerdctl give none; ``tests/unit/agent/test_unknown_labels.py`` has the other end."""
    assert parse(cni_args=cni_args, prevResult=BRIDGE).namespace == "default"


def test_result_of_an_old_version() -> None:
    call = parse(prevResult=OLD)
    assert (call.host_interfaces, call.addresses) == (("veth9",), ("10.1.0.5",))


@pytest.mark.parametrize("result", [{}, {"interfaces": None, "ips": None}, {"interfaces": [], "ips": []}])
def test_result_of_the_host_network(result: dict[str, Any]) -> None:
    call = parse(prevResult=result)
    assert (call.host_interfaces, call.addresses) == ((), ())


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (None, None),
        ({}, None),
        ({"cni": {}}, None),
        ({"cni": {"labels": None}}, None),
        (labels(), {}),
        (labels(("app", "backend"), ("tier", "")), {"app": "backend", "tier": ""}),
        (labels(("app", "a"), ("app", "b")), {"app": "b"}),
    ],
)
def test_no_labels_and_unknown_labels_are_two_things(args: object, expected: dict[str, str] | None) -> None:
    call = parse(args=args, prevResult={})
    assert call.labels == expected
    assert call.pod.labels == expected


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
@pytest.mark.parametrize(
    ("container_id", "ifname"),
    [
        ("", "eth0"), ("../../x", "eth0"), ("/etc/x", "eth0"), (".c", "eth0"), ("c\n", "eth0"), ("c@d", "eth0"),
        ("é", "eth0"), ("c", ""), ("c", "../eth0"), ("c", "."), ("c", ".."), ("c", "eth:0"), ("c", "eth 0"),
        ("c", "eth0\n"), ("c", "e" * 16), ("c", "é" * 8), ("c", "e\0"),
    ],
)  # fmt: skip
def test_names_that_the_specification_forbids_are_refused(
    command: str, container_id: str, ifname: str
) -> None:
    environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": container_id, "CNI_IFNAME": ifname}
    with pytest.raises(CallError) as refused:
        parse_call(environment, b'{"prevResult": {}}')
    assert refused.value.code == contract.INVALID_ENVIRONMENT


def test_a_command_that_is_none_is_refused() -> None:
    with pytest.raises(CallError) as refused:
        parse("VERSION")
    assert refused.value.code == contract.INVALID_ENVIRONMENT


@pytest.mark.parametrize("command", ["DEL", "STATUS"])
def test_del_asks_for_nothing(command: str) -> None:
    call = parse(command, cni_args="broken", prevResult=[])
    assert (call.container_id, call.ifname, call.host_interfaces) == ("c1", "eth0", ())


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_valid_attachments(key: str) -> None:
    listed = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1"}]
    assert parse("GC", **dict[str, Any]({key: listed})).valid_attachments == (("a", "eth0"), ("b", "net1"))
    assert parse("GC", **dict[str, Any]({key: None})).valid_attachments == ()


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({}, "prevResult: is missing"),
        ({"prevResult": [1]}, "prevResult: is not an object"),
        ({"prevResult": {"interfaces": {}}}, "prevResult.interfaces: is not a list"),
        ({"prevResult": {"interfaces": ["veth1"]}}, "prevResult.interfaces[0]: is not an object"),
        ({"prevResult": {"interfaces": [{"name": 3}]}}, "prevResult.interfaces[0].name: is not a string"),
        ({"prevResult": {"ips": [{}]}}, "prevResult.ips[0].address: is missing"),
        ({"prevResult": {"ips": [{"address": "10.0.0.300/24"}]}}, "prevResult.ips[0].address"),
        ({"prevResult": {}, "args": []}, "args: is not an object"),
        ({"prevResult": {}, "args": 1}, "args: is not an object"),
        ({"prevResult": {}, "args": {"cni": "x"}}, "args.cni: is not an object"),
        ({"prevResult": {}, "args": {"cni": {"labels": {"a": "b"}}}}, "args.cni.labels: is not a list"),
        (
            {"prevResult": {}, "args": {"cni": {"labels": [{"key": "a"}]}}},
            "args.cni.labels[0].value: is missing",
        ),
    ],
)
def test_errors_name_the_field(keys: dict[str, Any], path: str) -> None:
    with pytest.raises(CallError) as caught:
        parse(**keys)
    assert caught.value.code == contract.INVALID_CONFIGURATION
    assert caught.value.msg.startswith(path)


def test_garbage_collection_without_a_list_would_collect_all() -> None:
    with pytest.raises(CallError, match="valid-attachments"):
        parse("GC")


def test_pairs_of_cni_args() -> None:
    with pytest.raises(CallError) as caught:
        parse(cni_args="K8S_POD_NAME", prevResult={})
    assert caught.value.code == contract.INVALID_ENVIRONMENT
    assert parse(cni_args="A=b=c;;K8S_POD_NAME=x", prevResult={}).name == "x"


@pytest.mark.parametrize("raw", [b"", b"[", b"\xff", b"[" * 100_000])
def test_not_json(raw: bytes) -> None:
    with pytest.raises(CallError) as caught:
        parse_call({"CNI_COMMAND": "DEL"}, raw)
    assert caught.value.code == contract.NOT_JSON
