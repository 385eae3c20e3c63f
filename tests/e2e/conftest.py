"""Whole scenarios: labs with real agents, the built plugin and real packets. They need root."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ..lab import documents, topology
from ..lab.documents import Document
from ..lab.lab import Lab
from ..lab.namespace import REPOSITORY
from ..lab.node import Node
from ..lab.pod import Pod

GATEWAY = "partner"
BACKEND = {"app": "backend"}
UNPLANNED_MS = 200
"""Milliseconds. A failover that is no planned handover is silent for longer: a lease lasts for 250."""
PLUGIN = REPOSITORY / "dist" / "egress-gateway"
STANDALONE = PLUGIN.with_name("egress-gateway-standalone")
STORES = ("files", "kubernetes")
BOTH_STORES = ("test_basic_mode", "test_busy_edits")
"""Modules that run with both stores, with the option or without it."""
LOGS = REPOSITORY / "build" / "e2e"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-store", action="store_true", help="run all labs that can with both stores")
    parser.addoption(
        "--outage",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="how long the API of a cluster is away at least, where test_kubernetes has a failover in that time",
    )
    parser.addoption(
        "--conflist-rewrites",
        type=int,
        default=100,
        metavar="NUMBER",
        help="how often the CNI configuration is written without our entry while pods start, in test_containerd",
    )
    parser.addoption(
        "--boots",
        type=int,
        default=2,
        metavar="NUMBER",
        help="how often a node boots, its programs in a random order, in test_containerd",
    )
    parser.addoption(
        "--boots-seed", type=int, default=1, metavar="NUMBER", help="of the first of these boots"
    )
    parser.addoption(
        "--earlier",
        type=Path,
        metavar="DIRECTORY",
        help="test_versions upgrades nodes from the version of this checkout, whose plugin is in its dist/",
    )
    parser.addoption(
        "--image",
        type=Path,
        metavar="ARCHIVE",
        help="test_deployment runs this OCI image, a file of 'podman save --format oci-archive', in the place of this "
        "machine's programs",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    if not config.getoption("--every-store", default=False):
        fewer = [item for item in items if _in_both(item) and item.path.stem not in BOTH_STORES]
        config.hook.pytest_deselected(items=fewer)
        items[:] = [item for item in items if item not in fewer]
    if os.geteuid():
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="network namespaces need root"))


def _in_both(item: pytest.Item) -> bool:
    """Whether it is the second run of a test, with the other store."""
    called = getattr(item, "callspec", None)
    return called is not None and called.params.get("lab") == "kubernetes"


@pytest.fixture(scope="session", autouse=True)
def terminated_like_interrupted() -> None:
    """SIGTERM ends the session as Ctrl-C does: fixtures clear their labs away."""

    def end(number: int, frame: FrameType | None) -> None:
        pytest.exit("terminated", returncode=128 + number)

    signal.signal(signal.SIGTERM, end)


@pytest.fixture(scope="session")
def plugin() -> Path:
    """Return the plugin file, built anew where its source is younger."""
    return _built(PLUGIN, "build_zipapp.py")


@pytest.fixture(scope="session")
def standalone() -> Path:
    """Return the plugin with its own interpreter, likewise."""
    return _built(STANDALONE, "build_standalone.py")


def _built(file: Path, builder: str) -> Path:
    packaging = REPOSITORY / "packaging"
    sources = [
        *(REPOSITORY / "cni").rglob("*.py"),
        *packaging.glob("*.py"),
        *(packaging / "standalone").rglob("*.*"),
    ]
    youngest = max(source.stat().st_mtime for source in sources)
    if not file.exists() or file.stat().st_mtime < youngest:
        subprocess.run([sys.executable, str(packaging / builder), "--output", str(file)], check=True)
    return file


@contextmanager
def settled(
    name: str,
    machines: topology.Topology,
    options: Mapping[str, Any] | None = None,
    objects: Sequence[Document] | None = None,
    store: str = "files",
    group: str = documents.GROUP,
) -> Iterator[Lab]:
    """Yield a lab with one gateway and one policy, its master settled; the agents' logs are kept under ``name``.

    ``objects``: the gateway and the policy where they are others than those of basic mode.
    """
    with Lab(machines, options, store, group) as made:
        try:
            made.publish_nodes()
            made.publish("objects", objects or documents.basic_mode(made.topology.egress_interface, GATEWAY))
            made.start_agents()
            made.wait_settled(GATEWAY, 40)
            yield made
        finally:
            made.save_logs(LOGS / name)


@pytest.fixture(scope="module", params=STORES)
def lab(request: pytest.FixtureRequest, plugin: Path) -> Iterator[Lab]:
    """Two workers, three egress nodes, one gateway and one policy; a master is settled."""
    name = f"{request.module.__name__.rpartition('.')[2]}-{request.param}"
    with settled(name, topology.separate(), store=request.param) as made:
        yield made


@pytest.fixture(scope="module")
def pod(lab: Lab) -> Pod:
    """Return a selected pod of the first worker."""
    return lab.nodes["w1"].pod("backend-1", BACKEND)


@pytest.fixture
def master(lab: Lab) -> Node:
    """Return the master, with all other egress nodes ready to follow."""
    return lab.nodes[lab.wait_settled(GATEWAY, 40)]
