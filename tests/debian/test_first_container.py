"""From bare machines to the first selected container, by the script that the manual names."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from ..lab import documents, topology
from ..lab.cri.containerd import IMAGE, PAUSE, image
from ..lab.debian import Debian
from ..lab.lab import SELECTED, Lab
from ..lab.namespace import REPOSITORY
from ..lab.pod import Answer
from ..lab.topology import VIRTUAL
from .conftest import Machines

SCRIPT = REPOSITORY / "packaging" / "install_nodes.sh"
BUNDLE = REPOSITORY / "dist" / "egress-gateway-bundle.tar.gz"
PACKAGES = ("nftables", "podman", "python3-venv", "runc")
MAY_RAISE_NO_LIMIT = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
pids_limit = 0
[engine]
runtime = "runc"
"""
"""Settings of podman for a machine without CAP_SYS_RESOURCE, as the tests' own may be."""
PODMAN_NETWORK = "10.88.0.0/16"
LIMIT_S = 180
MAX_LINES = 10


def prepare(directory: Path, lab: Lab) -> Path:
    """Write the files that an administrator has at hand to a new directory, and return the directory."""
    directory.mkdir()
    shutil.copy(BUNDLE, directory)
    (directory / "cluster.key").write_text("6b" * 32)
    store = {"kind": "files", "path": "/etc/egress-gateway/manifests"}
    (directory / "agent.yaml").write_text(yaml.safe_dump({"store": store, "clusterCIDRs": [PODMAN_NETWORK]}))
    (directory / "manifests").mkdir()
    found = [*map(documents.node, lab.topology.nodes), *documents.virtual_ip([VIRTUAL])]
    (directory / "manifests" / "all.yaml").write_text(yaml.safe_dump_all(found))
    (directory / "image.tar").write_bytes(image())
    return directory


def test_four_bare_machines_serve_a_container_within_three_minutes(
    lab: Lab,
    machines: Machines,
    reach: Callable[[dict[str, Debian]], dict[str, str]],
    tmp_path: Path,
) -> None:
    given = prepare(tmp_path / "given", lab)
    commands = [line for line in SCRIPT.read_text().splitlines() if line and not line.startswith("#")]
    assert len(commands) <= MAX_LINES
    nodes = machines("bookworm", PACKAGES, ("w1", "w2", "g1", "g2"))
    environment = reach(nodes)
    # The image is the user's; a machine of the lab reaches no registry.
    for name, node in nodes.items():
        subprocess.run(["scp", "-qr", "image.tar", f"root@{name}:"], cwd=given, env=environment, check=True)
        node.run("apt-get", "-qq", "install", "--no-install-recommends", "runc")
        node.run("mkdir", "-p", "/etc/containers/containers.conf.d")
        node.place("/etc/containers/containers.conf.d/limits.conf").write_text(MAY_RAISE_NO_LIMIT)
    began = time.monotonic()
    done = subprocess.run(
        [SCRIPT, *nodes], cwd=given, env=environment, capture_output=True, text=True, check=False
    )
    installed = time.monotonic() - began
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    worker = nodes["w1"]
    worker.run("podman", "load", "--quiet", "--input", "/root/image.tar")
    container = ("podman", "run", "--rm", "--label", "app=backend", "--entrypoint", PAUSE, IMAGE)
    with lab.capture() as capture:
        answer = Answer.of(worker.run(*map(str, container), "nc", topology.OUTSIDE, str(SELECTED)))
        seconds = time.monotonic() - began
        assert capture.sources(SELECTED) == {VIRTUAL}
    print(f"installed after {installed:.0f} s, the first container answered after {seconds:.0f} s: {answer}")
    assert answer.address == VIRTUAL
    assert seconds <= LIMIT_S
