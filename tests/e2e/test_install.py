"""``install.sh install`` and ``uninstall`` on machines with a real systemd."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..lab import documents, topology
from ..lab.cnirun import Attachment, CniError, Network, Runtime, bridged
from ..lab.lab import SELECTED, Lab
from ..lab.namespace import REPOSITORY, Namespace
from ..lab.pod import Client
from ..lab.silence import longest
from ..lab.systemd import Systemd
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND

INSTALL = str(REPOSITORY / "install.sh")
CONFLIST = "/etc/cni/net.d/10-pods.conflist"
UNITS = ("egress-gateway-agent", "egress-gateway-lease")
FRESH = 9700
WITHOUT_PYTHON = "g2"
"""The node whose own Python is older than the agent's."""
OLDER = "#!/bin/sh\nexit 1\n"
"""A Python that is too old, as ``install.sh`` asks for its version."""


@dataclass
class Node:
    """A machine, and the command that installs on it."""

    name: str
    machine: Systemd
    command: tuple[str, ...]

    host: topology.Host

    def status(self) -> Any:
        return json.loads(self.machine.run("egressctl", "status", "-o", "json"))

    def version(self) -> str:
        return os.path.basename(self.machine.run("readlink", "/opt/egress-gateway/current").strip())

    def install(self, bundle: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command, with another bundle if one is given."""
        parts = (str(bundle) if bundle and part.endswith(".tar.gz") else part for part in self.command)
        return self.machine.attempt(*parts, seconds=180)


class Inside(Namespace):
    """The machine with its own files, for programs that a container runtime runs there."""

    def __init__(self, machine: Systemd) -> None:
        super().__init__(machine.machine.name)
        self._machine = machine

    def command(self, *argv: str) -> list[str]:
        return [*self._machine.entering(), *argv]


class Installed(Runtime):
    """A runtime that finds our plugin where it was installed."""

    def _find(self, kind: str) -> Path:
        return Path("/opt/cni/bin", kind) if kind == "egress-gateway" else super()._find(kind)


@pytest.fixture(scope="module")
def bundle() -> Path:
    """Return the bundle, built as the manual says unless it is younger than its sources. A build needs a network."""
    built = REPOSITORY / "dist" / "egress-gateway-bundle.tar.gz"
    folders = (REPOSITORY / name for name in ("cni", "gateway_agent", "packaging"))
    sources = [REPOSITORY / "install.sh", *(path for folder in folders for path in folder.rglob("*.*"))]
    youngest = max(path.stat().st_mtime for path in sources if path.suffix != ".pyc" and path.is_file())
    if not built.exists() or built.stat().st_mtime < youngest:
        done = subprocess.run([INSTALL, "build", "--bundle"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return built


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with Lab(topology.separate(workers=1, gateways=2)) as made:
        yield made


@pytest.fixture(scope="module")
def nodes(lab: Lab, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Node]]:
    """Yield three nodes with systemd, without anything of ours. None of them has a route to a package index."""
    given = tmp_path_factory.mktemp("given")
    (given / "store").mkdir()
    found = [*map(documents.node, lab.topology.nodes), *documents.virtual_ip([VIRTUAL])]
    (given / "store" / "all.yaml").write_text(yaml.safe_dump_all(found))
    (given / "key").write_text("a key that all nodes of this lab have in common")
    (given / "agent.yaml").write_text(
        yaml.safe_dump(
            {"store": {"kind": "files", "path": "/etc/egress-gateway/manifests"},
             "clusterCIDRs": [topology.POD_NETWORKS], "engines": {"podman": "", "containerd": ""}}
        )
    )  # fmt: skip
    options = (
        "--config",
        str(given / "agent.yaml"),
        "--store",
        str(given / "store"),
        "--key",
        str(given / "key"),
    )
    made = {}
    with contextlib.ExitStack() as stack:
        for host in lab.topology.nodes:
            directory = tmp_path_factory.mktemp(host.name)
            machine = Systemd(lab.machines[host.name], directory, host.name)
            stack.callback(machine.end)
            machine.start()
            if host.name == WITHOUT_PYTHON:
                (given / "python").write_text(OLDER)
                (given / "python").chmod(0o755)
                machine.run("mount", "--bind", str(given / "python"), str(Path("/usr/bin/python3").resolve()))
            command = (INSTALL, "install", *options, "--bundle", str(bundle))
            made[host.name] = Node(host.name, machine, command, host)
        subnets, data = [f"10.244.{made['w1'].host.number}.0/24"], made["w1"].machine.directory / "ipam"
        network = bridged("pods", subnets, data)
        worker = made["w1"].machine
        worker.run("mkdir", "-p", "/etc/cni/net.d")
        worker.place(CONFLIST).write_text(
            json.dumps(
                {"cniVersion": network.cni_version, "name": network.name, "plugins": network.plugins},
                indent=2,
            )
            + "\n"
        )
        yield made


@pytest.fixture(scope="module")
def before(nodes: dict[str, Node]) -> dict[str, tuple[dict[str, tuple[int, str]], str]]:
    """State of files and kernel before anything is installed."""
    return {name: state(node) for name, node in nodes.items()}


@pytest.fixture(scope="module")
def installed(nodes: dict[str, Node], before: object) -> dict[str, Node]:
    with ThreadPoolExecutor() as pool:  # as on machines of their own
        for done in pool.map(Node.install, nodes.values()):
            assert done.returncode == 0, done.stdout + done.stderr
    return nodes


def state(node: Node) -> tuple[dict[str, tuple[int, str]], str]:
    return node.machine.written(), kernel(node)


def conflist(node: Node) -> Any:
    return json.loads(node.machine.place(CONFLIST).read_text())


def master(nodes: dict[str, Node]) -> str:
    """Return the master that all nodes name, while every egress node is ready."""

    def named() -> str:
        found = set()
        for node in nodes.values():
            status = node.status()
            found |= {entry["master"] for entry in status["egressIPs"]}
            ready = sum(member["alive"] and member["ready"] for member in status["members"])
            if node.host.is_egress and ready < 2:
                return ""
        return found.pop() if len(found) == 1 else ""

    return until(named, "one master that all name")


@contextlib.contextmanager
def started(node: Node, name: str) -> Iterator[Client]:
    """Yield a selected container of the network that the node's configuration has."""
    network = conflist(node)
    machine = Namespace(f"{node.machine.machine.name}-{name}")
    machine.create()
    runtime = Installed(Inside(node.machine), node.machine.directory / "cni-cache")
    labels = [{"key": key, "value": value} for key, value in BACKEND.items()]
    attachment = Attachment(
        machine.name, machine.path, cni_args={"IgnoreUnknown": "1", "K8S_POD_NAMESPACE": "prod", "K8S_POD_NAME": name},
        args={"cni": {"labels": labels}},
    )  # fmt: skip
    whole = Network(network["name"], tuple(network["plugins"]), network["cniVersion"])
    try:
        runtime.add(whole, attachment)
        yield Client(machine)
    finally:
        # After an uninstallation the plugin is not there any more.
        with contextlib.suppress(CniError):
            runtime.delete(whole, attachment)
        machine.delete()


def changed(bundle: Path, target: Path, old: str, new: str) -> Path:
    """Return a bundle whose agent's unit has other words; its version is another one, too."""
    unit = "egress-gateway/packaging/systemd/egress-gateway-agent.service"
    with tarfile.open(bundle) as archive, tarfile.open(target, "w:gz", compresslevel=1) as other:
        files = {
            entry.name: (entry, (archive.extractfile(entry) or io.BytesIO()).read()) for entry in archive
        }
        entry, content = files[unit]
        assert old.encode() in content
        files[unit] = entry, content.replace(old.encode(), new.encode())
        sums = "".join(
            f"{hashlib.sha256(data).hexdigest()}  {name.removeprefix('egress-gateway/')}\n"
            for name, (_, data) in files.items() if not name.endswith("SHA256SUMS")
        )  # fmt: skip
        files["egress-gateway/SHA256SUMS"] = files["egress-gateway/SHA256SUMS"][0], sums.encode()
        for entry, content in files.values():
            entry.size = len(content)
            other.addfile(entry, io.BytesIO(content))
    return target


def files(node: Node) -> dict[str, tuple[int, str]]:
    """Return what is installed, without what the services write while they run."""
    written = node.machine.written()
    return {name: found for name, found in written.items() if not name.startswith(("run/", "var/"))}


def kernel(node: Node) -> str:
    commands = (
        "ip -o -d link", "ip -o address", "ip rule", "ip -6 rule", "ip route show table all",
        "nft list ruleset", "sysctl net.ipv4.conf net.ipv6.conf",
    )  # fmt: skip
    text = node.machine.machine.run("sh", "-c", "; ".join(commands))
    # Times that only pass.
    return re.sub(
        r"(expires|valid_lft|preferred_lft|gc_timer|hello_timer|topology_change_timer) \S+", "", text
    )


@contextlib.contextmanager
def sysctl_off(machine: Namespace) -> Iterator[None]:
    machine.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    yield
    machine.run("sysctl", "-qw", "net.ipv4.ip_forward=1")


@contextlib.contextmanager
def rule_of_another(machine: Namespace) -> Iterator[None]:
    rule = ("fwmark", "0x100000/0x100000", "lookup", "99")
    machine.run("ip", "rule", "add", *rule)
    yield
    machine.run("ip", "rule", "del", *rule)


@contextlib.contextmanager
def port_in_use(machine: Namespace) -> Iterator[None]:
    with machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        machine.inside(lambda: taken.bind(("0.0.0.0", 7947)))
        yield


FAULTS = {
    "g1": (sysctl_off, "net.ipv4.ip_forward", "net.ipv4.ip_forward=1"),
    "w1": (rule_of_another, "fwmark 0x100000/0x100000", "mark: {mask"),
    "g2": (port_in_use, "UDP port 7947", "set cluster.port"),
}
"""A fault for each node, and what the installation says about it: the finding and the hint."""


def test_a_check_that_fails_changes_nothing(nodes: dict[str, Node], before: dict[str, object]) -> None:
    with contextlib.ExitStack() as faults, ThreadPoolExecutor() as pool:
        for name, (fault, _, _) in FAULTS.items():
            faults.enter_context(fault(nodes[name].machine.machine))
        attempts = dict(zip(nodes, pool.map(Node.install, nodes.values()), strict=True))
    for name, (_, finding, hint) in FAULTS.items():
        done = attempts[name]
        assert done.returncode == 1
        assert finding in done.stdout and hint in done.stdout, done.stdout
        # The faults of the other nodes are none of this one.
        assert not [other for node, (_, _, other) in FAULTS.items() if node != name and other in done.stdout]
        assert "nothing was changed" in done.stderr
        assert state(nodes[name]) == before[name]


def test_a_node_is_ready_and_serves(installed: dict[str, Node], lab: Lab) -> None:
    master(installed)
    for node in installed.values():
        assert node.machine.run("systemctl", "is-active", *UNITS).split() == ["active"] * len(UNITS)
        assert node.machine.run("systemctl", "is-enabled", *UNITS).split() == ["enabled"] * len(UNITS)
        until(lambda node=node: node.status()["problems"] == [], "no problems")  # type: ignore[misc]
    worker = installed["w1"]
    assert [plugin["type"] for plugin in conflist(worker)["plugins"]] == ["bridge", "egress-gateway"]
    with started(worker, "first") as pod:
        assert pod.request(SELECTED).address == VIRTUAL


def test_the_confined_services_take_manifests_that_are_pushed(installed: dict[str, Node]) -> None:
    machine = installed["w1"].machine
    manifests, edit = "/etc/egress-gateway/manifests", machine.place("/etc/edit")
    shutil.copytree(machine.place(manifests), edit)
    before = {path.name: path.read_text() for path in edit.iterdir()}
    try:
        for extra in ("{apiVersion: v1, kind: Namespace, metadata: {name: more}}", ""):
            (edit / "more.yaml").write_text(extra) if extra else (edit / "more.yaml").unlink()
            answer = json.loads(machine.run("egressctl", "push", "/etc/edit", "-o", "json"))
            assert {row["node"]: row["outcome"] for row in answer["nodes"]} == dict.fromkeys(
                installed, "applied"
            )
            wanted = {**before, "more.yaml": extra} if extra else before
            for node in installed.values():
                place = node.machine.place(manifests)
                assert {path.name: path.read_text() for path in place.iterdir()} == wanted
    finally:
        shutil.rmtree(edit)


def test_a_node_without_a_python_has_that_of_the_bundle(installed: dict[str, Node]) -> None:
    for name, node in installed.items():
        program = node.machine.run("readlink", "-f", f"/proc/{node.machine.pid(UNITS[0])}/exe").strip()
        assert program.startswith("/opt/egress-gateway/versions/") == (name == WITHOUT_PYTHON)


def test_the_service_has_what_a_node_needs_and_no_more(installed: dict[str, Node]) -> None:
    libraries = next(installed["w1"].machine.place("/opt/egress-gateway/current/lib").glob("*/site-packages"))
    names = {re.split(r"[-.]", path.name)[0].lower() for path in libraries.glob("*.dist-info")}
    wanted = re.findall(
        r"^([a-z0-9_-]+)==", (REPOSITORY / "packaging/constraints.txt").read_text(), re.MULTILINE
    )
    assert names <= {name.replace("-", "_") for name in wanted} | {"egress_gateway"}


def test_the_kernel_confines_the_services(installed: dict[str, Node]) -> None:
    """The limits of the units hold for the processes that systemd has started."""
    machine = installed["g1"].machine
    for unit in UNITS:
        status = (machine.place("/proc") / str(machine.pid(unit)) / "status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines())
        assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", "1")
        assert int(fields["CapBnd"], 16) == int(fields["CapEff"], 16) < 1 << 24
        mounts = (machine.place("/proc") / str(machine.pid(unit)) / "mountinfo").read_text().splitlines()
        # Of several mounts at one place the last one counts.
        options = {fields[4]: fields[5].split(",")[0] for fields in map(str.split, mounts)}
        assert [options[path] for path in ("/", "/etc", "/run", "/run/egress-gateway")] == [
            "ro",
            "ro",
            "ro",
            "rw",
        ]


def test_installing_again_changes_nothing(installed: dict[str, Node]) -> None:
    node = installed[master(installed)]
    before = files(node), [node.machine.pid(unit) for unit in UNITS], node.status()["egressIPs"]
    done = node.install()
    assert done.returncode == 0, done.stdout + done.stderr
    assert (files(node), [node.machine.pid(unit) for unit in UNITS], node.status()["egressIPs"]) == before


def test_an_upgrade_of_the_master_loses_no_packet(
    installed: dict[str, Node], lab: Lab, bundle: Path, tmp_path: Path
) -> None:
    newer = changed(bundle, tmp_path / "newer.tar.gz", "WatchdogSec=30", "WatchdogSec=31")
    serving = master(installed)
    node = installed[serving]
    old = node.version()
    lab.serve("outside", FRESH)
    with (
        started(installed["w1"], "talking") as pod,
        lab.capture() as capture,
        lab.probing(pod, FRESH) as probing,
    ):
        until(lambda: len(capture.packets(FRESH)) > 200, "probes arrive")
        done = node.install(newer)
        assert done.returncode == 0, done.stdout + done.stderr
        assert longest(probing.stop()).lost == 0
        assert capture.sources(FRESH) == {VIRTUAL}
    assert node.version() != old
    assert [path.name for path in node.machine.place("/opt/egress-gateway/versions").iterdir()] == [
        node.version()
    ]
    assert master(installed) != serving


def test_a_failed_upgrade_goes_back_by_itself(
    installed: dict[str, Node], bundle: Path, tmp_path: Path
) -> None:
    broken = changed(
        bundle, tmp_path / "broken.tar.gz", "egress-gateway-agent --await", "no-such-program --await"
    )
    node = installed[master(installed)]
    before = files(node), node.version()
    done = node.install(broken)
    assert done.returncode == 1
    assert "going back" in done.stderr
    assert node.machine.run("systemctl", "is-active", *UNITS).split() == ["active"] * len(UNITS)
    until(lambda: node.status()["problems"] == [], "the old version serves again")
    assert (files(node), node.version()) == before
    with started(installed["w1"], "later") as pod:
        assert pod.request(SELECTED).address == VIRTUAL


def test_uninstalling_leaves_nothing_behind(
    installed: dict[str, Node], lab: Lab, before: dict[str, tuple[dict[str, tuple[int, str]], str]]
) -> None:
    worker = installed["w1"]
    with started(worker, "running") as pod:
        assert pod.request(SELECTED).address == VIRTUAL
        for name, node in installed.items():
            done = node.machine.attempt(INSTALL, "uninstall")
            assert done.returncode == 0, done.stdout + done.stderr
            assert node.machine.written() == before[name][0]
            if name != "w1":
                assert kernel(node) == before[name][1]
        left = kernel(worker)
        assert not re.search(
            r"egw-(back|sync|[0-9a-f]{6})\b|egress_gateway|proto 233|group 0x4547|172\.16\.0\.50", left
        )
        assert pod.request(SELECTED).address == worker.host.ip
