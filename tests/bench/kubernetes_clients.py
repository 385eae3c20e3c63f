"""``python -m tests.bench.kubernetes_clients``: what an asynchronous client of the Kubernetes API costs an agent.

Each is loaded, and one client made, by Python processes of its own, in turn. What is not installed here comes from
PyPI into a directory that is removed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from . import report

SECTION = "kubernetes clients"
OTHER = "kubernetes-asyncio"
CLIENTS = {
    "none": "import asyncio, msgspec, yaml",
    "the agent's (`lightkube` for the configuration)": (
        "import asyncio, pathlib\n"
        "from gateway_agent.kubernetes.client import Api\n"
        "asyncio.run(Api(pathlib.Path(KUBECONFIG))._connected())"
    ),
    "`lightkube`, typed": (
        "import asyncio, lightkube\n"
        "from lightkube import KubeConfig\n"
        "from lightkube.resources.core_v1 import Namespace, Node, Pod\n"
        "async def main():\n    lightkube.AsyncClient(KubeConfig.from_file(KUBECONFIG))\n"
        "asyncio.run(main())"
    ),
    f"`{OTHER}`": (
        "import asyncio\n"
        "from kubernetes_asyncio import client, config\n"
        "async def main():\n"
        "    await config.load_kube_config(KUBECONFIG)\n"
        "    async with client.ApiClient() as api:\n        client.CoreV1Api(api)\n"
        "asyncio.run(main())"
    ),
}
_AROUND = """\
import time
began = time.perf_counter()
KUBECONFIG = {kubeconfig!r}
{body}
import psutil
print(time.perf_counter() - began, psutil.Process().memory_info().rss)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tests.bench.kubernetes_clients", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--document", type=Path, metavar="FILE", help="writes the table into it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        print(f"getting {OTHER} ...", file=sys.stderr, flush=True)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(directory / "packages"), OTHER]
        subprocess.run(pip, check=True)
        _write_kubeconfig(directory / "kubeconfig")
        found: dict[str, list[tuple[float, float]]] = {client: [] for client in CLIENTS}
        for _ in range(options.runs):
            for client, body in CLIENTS.items():
                found[client].append(_cost(body, directory))
    command = f"`.venv/bin/python -m {parser.prog} --runs {options.runs}`"
    message = "\n".join((command, "", report.machine(), "", _table(found)))
    print(message)
    if options.document:
        report.write_section(options.document, SECTION, message)


def _cost(body: str, directory: Path) -> tuple[float, float]:
    """Seconds to load it and make a client, and the memory of the process then, in MiB."""
    program = _AROUND.format(kubeconfig=str(directory / "kubeconfig"), body=body)
    environment = {**os.environ, "PYTHONPATH": str(directory / "packages")}
    said = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment
    ).stdout
    seconds, memory = said.split()
    return float(seconds), int(memory) / (1 << 20)


def _table(found: dict[str, list[tuple[float, float]]]) -> str:
    lines = ["| client | start, median | memory, median |", "|---|---|---|"]
    for client, costs in found.items():
        seconds, memory = (statistics.median(values) for values in zip(*costs, strict=True))
        lines.append(f"| {client} | {1000 * seconds:.0f} ms | {memory:.0f} MiB |")
    return "\n".join(lines) + "\n"


def _write_kubeconfig(path: Path) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "x", "user": {"token": "x"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }
    path.write_text(yaml.safe_dump(config))


if __name__ == "__main__":
    main()
