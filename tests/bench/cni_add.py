"""How long a whole ADD takes, from the start of the process to its end, against the reference ``tuning`` plugin.

``python tests/bench/cni_add.py --config AGENT.yaml`` measures against the agent that runs with this configuration;
start it in that agent's network namespace. Without ``--config`` a socket that only says OK stands for the agent:
that is the plugin's own share. All plugins take turns in one run, so what else the machine does hits them alike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PLUGIN = Path(__file__).parents[2] / "dist" / "egress-gateway"
TUNING = Path("/usr/lib/cni/tuning")
PYTHON = "/usr/bin/python3"
HOST_INTERFACE = f"egwb{os.getpid()}"
POD = f"egwbench-{os.getpid()}"
ADDRESS = "10.254.254.254"


@dataclass(frozen=True)
class Contender:
    name: str
    command: tuple[str, ...]
    configuration: Path
    undo: bool = True
    """A DEL, which is not measured, follows each ADD."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Measures a whole CNI ADD against the reference tuning plugin."
    )
    parser.add_argument("--config", type=Path, help="agent.yaml of the running agent")
    parser.add_argument("--labels", default="app=backend", help="of the selected pod (default: %(default)s)")
    parser.add_argument("--namespace", default="prod", help="of both pods (default: %(default)s)")
    parser.add_argument("--plugin", type=Path, default=PLUGIN, help="default: dist/egress-gateway")
    parser.add_argument("-n", type=int, default=200, help="runs of each (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON and no table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        work = Path(directory)
        if options.config:
            settings = yaml.safe_load(options.config.read_text()) or {}
            path = Path(settings.get("runDir", "/run/egress-gateway"), "agent.sock")
            require_agent(path)
            stack.enter_context(interfaces())
            pods = {"unselected": "bench=unselected", "selected": options.labels}
        else:
            path = work / "agent.sock"
            stack.enter_context(answering(path))
            stack.enter_context(namespace())
            pods = {"minimal socket": options.labels}
        contenders = reference(work) + [
            ours(work, options.plugin, path, name, labels) for name, labels in pods.items()
        ]
        times = measure(contenders, options.namespace, options.n)
    report(
        times, f"agent at {path}" if options.config else "no agent: a socket that only says OK", options.json
    )
    return 0


def require_agent(path: Path) -> None:
    """Without it the plugin would act alone, which is another thing to measure."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError as error:
            raise SystemExit(f"no agent at {path}: {error}; start egress-gateway-agent --config …") from None


def result() -> dict[str, Any]:
    """Return the result of a plugin like ``bridge``."""
    interfaces = [{"name": HOST_INTERFACE}, {"name": "eth0", "sandbox": f"/run/netns/{POD}"}]
    addresses = [{"interface": 1, "address": f"{ADDRESS}/24"}]
    return {"cniVersion": "1.0.0", "interfaces": interfaces, "ips": addresses, "routes": [], "dns": {}}


def reference(work: Path) -> list[Contender]:
    configuration = {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}
    empty = work / "empty"
    empty.touch()
    return [
        Contender("tuning", (str(TUNING),), written(work, "tuning", configuration)),
        Contender("python3 -ISEc pass", (PYTHON, "-ISEc", "pass"), empty, undo=False),
    ]


def ours(work: Path, plugin: Path, path: Path, name: str, labels: str) -> Contender:
    pairs = (pair.split("=", 1) for pair in labels.split(","))
    listed = [{"key": key, "value": value} for key, value in pairs]
    configuration = {"type": "egress-gateway", "socket": str(path), "args": {"cni": {"labels": listed}}}
    return Contender(f"egress-gateway, {name}", (str(plugin),), written(work, name, configuration))


def written(work: Path, name: str, configuration: dict[str, Any]) -> Path:
    path = work / f"{name}.json"
    path.write_text(
        json.dumps({"cniVersion": "1.0.0", "name": "bench", "prevResult": result(), **configuration})
    )
    return path


def measure(contenders: list[Contender], namespace: str, runs: int) -> dict[str, list[float]]:
    """Milliseconds of each run, by name."""
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(runs):
        for contender in contenders:
            times[contender.name].append(call(contender, "ADD", namespace) * 1000)
            if contender.undo:
                call(contender, "DEL", namespace)
    return times


def call(contender: Contender, command: str, namespace: str) -> float:
    """Seconds from the start of the process to its end."""
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": POD,
        "CNI_NETNS": f"/run/netns/{POD}",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={POD}",
        "CNI_PATH": str(TUNING.parent),
    }
    with tempfile.TemporaryFile() as output:
        files = [
            (os.POSIX_SPAWN_OPEN, 0, str(contender.configuration), os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
        ]
        began = time.perf_counter()
        pid = os.posix_spawn(contender.command[0], contender.command, environment, file_actions=files)
        _, status = os.waitpid(pid, 0)
        took = time.perf_counter() - began
        if status:
            output.seek(0)
            raise SystemExit(f"{contender.name}: {command} failed: {output.read().decode()}")
    return took


def report(times: dict[str, list[float]], agent: str, as_json: bool) -> None:
    base = statistics.median(times["tuning"])
    rows = [
        {
            "name": name,
            "runs": len(taken),
            "median_ms": round(statistics.median(taken), 2),
            "p95_ms": round(statistics.quantiles(taken, n=20)[-1], 2),
            "ratio": round(statistics.median(taken) / base, 2),
        }
        for name, taken in times.items()
    ]
    if as_json:
        print(json.dumps({"agent": agent, "rows": rows}, indent=1))
        return
    print(f"{agent}; {rows[0]['runs']} runs of each, in turn\n")
    print(f"{'':32}{'median':>10}{'95 %':>10}{'× tuning':>10}")
    for row in rows:
        print(f"{row['name']:32}{row['median_ms']:7.2f} ms{row['p95_ms']:7.2f} ms{row['ratio']:10.2f}")


@contextlib.contextmanager
def namespace() -> Iterator[None]:
    subprocess.run(["ip", "netns", "add", POD], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "netns", "del", POD], check=True)


@contextlib.contextmanager
def interfaces() -> Iterator[None]:
    """Yield a pod's interface with its host side in this network namespace."""
    with namespace():
        peer = ["peer", "name", "eth0", "netns", POD]
        subprocess.run(["ip", "link", "add", HOST_INTERFACE, "type", "veth", *peer], check=True)
        yield


@contextlib.contextmanager
def answering(path: Path) -> Iterator[None]:
    """Says OK to whatever comes."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while connection.recv(1 << 16):
                    pass
                connection.sendall(b"OK")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


if __name__ == "__main__":
    sys.exit(main())
