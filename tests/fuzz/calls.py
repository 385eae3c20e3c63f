"""Calls of the CNI and requests to the agent's socket: each is carried out or refused by a CNI error object."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cni import config, contract, protocol
from cni.calls import cni_request
from gateway_agent.__main__ import ports
from gateway_agent.adapters.files.files_store import FilesStore
from gateway_agent.agent.parts import build
from gateway_agent.config import AgentConfig, FilesStoreConfig

from .values import HOSTILE, mutated

CONFIGURATION: dict[str, Any] = {
    "cniVersion": "1.1.0", "name": "pods", "type": "egress-gateway", "socket": "/run/x.sock", "failurePolicy": "Fail",
    "args": {"cni": {"labels": [{"key": "app", "value": "backend"}]}},
    "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}],
    "prevResult": {
        "interfaces": [{"name": "no-such-veth"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
        "ips": [{"interface": 1, "address": "10.1.0.5/24"}, {"address": "fd00::5/64"}],
    },
}  # fmt: skip
ENVIRONMENT: dict[str, Any] = {
    "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0",
    "CNI_ARGS": "K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-0", "CNI_PATH": "/opt/cni/bin",
}  # fmt: skip
CONTROL: tuple[dict[str, Any], ...] = (
    {"call": "explain", "pod": "prod/web-0", "destination": "203.0.113.7"},
    {"call": "handover", "gateway": "partner", "ip": "", "to": "g2"},
    {"call": "status"},
)
COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
VALUES = (
    "../../x",
    "/etc/x",
    "",
    ".",
    "..",
    "a" * 300,
    "x\0y",
    "\x1b[2J",
    "ADD",
    "é\udc80",
    ";;=",
    "=;K8S_POD_NAME",
)
RAW = (
    b"",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"\xff\xfe",
    b"9" * 5000,
    b'{"cniVersion": NaN}',
    b"null",
    b"{}{}",
)


def once(rng: random.Random) -> None:
    """Try one random call at the plugin, and one random request at the agent."""
    environment = {**ENVIRONMENT, "CNI_COMMAND": rng.choice(COMMANDS)}
    if rng.random() < 0.5:
        environment[rng.choice(list(environment))] = rng.choice(VALUES)
    check_plugin(environment, text(mutated(CONFIGURATION, rng), rng))
    request = contract.cni_request(
        tuple(map(raw, environment.values())), text(mutated(CONFIGURATION, rng), rng)
    )
    if rng.random() < 0.3:
        request = contract.CONTROL + b"\0" + text(mutated(rng.choice(CONTROL), rng), rng)
    check_agent([damaged(request, rng)])


def check_plugin(environment: dict[str, str], configuration: bytes) -> None:
    """Read one call as the plugin does that goes to the agent, and as the one that acts alone."""
    command = environment["CNI_COMMAND"]
    for reader in (_read, cni_request.parse_call):
        try:
            reader(environment, configuration)
        except contract.CNIError as error:
            json.loads(protocol.error_object("1.1.0", error))
            assert error.code and error.msg, command


def _read(environment: dict[str, str], configuration: bytes) -> None:
    command = protocol._command({b"CNI_COMMAND": raw(environment["CNI_COMMAND"]) or b"x"})
    protocol._check_environment(command, {name.encode(): raw(value) for name, value in environment.items()})
    document = config.read(configuration)
    config.version(command, document)
    config.parse(command, document)


def check_agent(requests: list[bytes]) -> None:
    """Send requests to an agent that knows nothing yet: each is answered, and no file is made outside ``runDir``."""
    with _quiet(), tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory) / "a" / "run"
        run_dir.mkdir(parents=True)
        settings = AgentConfig(
            "w1",
            FilesStoreConfig(run_dir / "none"),
            run_dir=run_dir,
            state_dir=run_dir,
            podman=None,
            containerd=None,
        )

        async def scenario() -> list[bytes]:
            store = FilesStore(run_dir / "none", run_dir / "last-good")
            parts = build(settings, ports(settings, store))
            tasks = [asyncio.create_task(run()) for run in (parts.reconciler.run, parts.pod_rounds.run)]
            try:
                async with asyncio.timeout(contract.DEADLINE_S):
                    return [await parts.requests.handle(request) for request in requests]
            finally:
                for task in tasks:
                    task.cancel()

        for request, answer in zip(requests, asyncio.run(scenario()), strict=True):
            if request.split(b"\0")[0] == contract.CONTROL:
                assert isinstance(json.loads(answer), dict)
            elif answer != contract.OK:
                assert json.loads(answer.removeprefix(contract.ERROR)).keys() == {
                    "cniVersion", "code", "msg", "details",
                }  # fmt: skip
        made = {path.parent for path in Path(directory).rglob("*") if path.is_file()}
        assert made <= {run_dir / "attachments"}, made


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def text(value: Any, rng: random.Random) -> bytes:
    """Return ``value`` as JSON, as far as that is possible, or something that is none."""
    if rng.random() < 0.1:
        return rng.choice(RAW)
    try:
        return json.dumps(value).encode()
    except (TypeError, ValueError):
        return json.dumps(str(value)).encode()


def raw(value: Any) -> bytes:
    """Return a value of the environment as bytes."""
    return str(value).encode("utf-8", "surrogateescape")


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return ``data``, mostly whole, else with some bytes changed, left out or repeated."""
    if rng.random() < 0.6 or not data:
        return data
    at = rng.randrange(len(data))
    if rng.random() < 0.5:
        return data[:at]
    some = rng.choice(
        [b"\0", b"\xff", b"", b"{", str(rng.choice(HOSTILE))[:50].encode(errors="replace"), data[:at]]
    )
    return data[:at] + some + data[at + rng.randint(0, 4) :]
