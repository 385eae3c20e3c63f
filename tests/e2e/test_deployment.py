"""The manifests, rendered and run: the DaemonSet's pods by a real containerd on each node, with exactly its rights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway_agent.cni_install import conflist_text
from gateway_agent.ctl import doctor
from gateway_agent.ctl.clean import RUNNING
from gateway_agent.kubernetes.node_marks import CONDITION, TAINT
from gateway_agent.lease.ipc import LOCK

from ..lab import documents, topology
from ..lab.cri.kubelet import RT_GROUPS
from ..lab.cri.sandbox import Sandbox
from ..lab.lab import SELECTED, Lab
from ..lab.silence import longest
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, LOGS, PLUGIN
from .deployed_nodes import Deployed, rendered

DAC_OVERRIDE = 1
CAPABILITIES = {12: "NET_ADMIN", 13: "NET_RAW", 23: "SYS_NICE"}
"""Capabilities by their numbers in linux/capability.h."""
OTHER = {"app": "other"}
PYTHON = Path("/usr/bin/python3")
CHAINED_AGAIN_S = 3.0
FRESH = 9700
"""Port without connections in any kernel: an earlier master's entries do not disturb a new one."""


@pytest.fixture(scope="module")
def lab(plugin: Path, standalone: Path) -> Iterator[Lab]:
    with Lab(topology.separate(workers=1), store="kubernetes") as made:
        made.publish_nodes()
        made.publish("objects", documents.virtual_ip([VIRTUAL], GATEWAY, connection_sync=True))
        yield made
        made.save_logs(LOGS / "test_deployment")


@pytest.fixture(scope="module")
def nodes(lab: Lab, request: pytest.FixtureRequest) -> Iterator[dict[str, Deployed]]:
    image = request.config.getoption("--image", default=None)
    deployed = {name: Deployed(node, lab, image) for name, node in lab.nodes.items()}
    try:
        with ThreadPoolExecutor(len(deployed)) as pool:
            list(pool.map(Deployed.start, deployed.values()))
        master_of(lab)
        yield deployed
    finally:
        for each in deployed.values():
            for name in ("agent", "keeper", "cni"):
                (LOGS / "test_deployment").mkdir(parents=True, exist_ok=True)
                (LOGS / "test_deployment" / f"{each.node.name}-{name}.log").write_text(each.pod.log(name))
            each.end()


def settled(lab: Lab) -> str:
    """Return the master, where all agents name it and all egress nodes are ready."""
    said = [node.agent.status() for node in lab.nodes.values()]
    masters = {status["egressIPs"][0]["master"] for status in said if status["egressIPs"]}
    ready = all(member["ready"] for status in said for member in status["members"])
    return masters.pop() if len(masters) == 1 and ready else ""


def master_of(lab: Lab) -> str:
    return str(until(lambda: settled(lab), "a master, and all others ready"))


def epoch(lab: Lab) -> int:
    return int(lab.nodes["w1"].agent.status()["egressIPs"][0]["epoch"])


def test_pods_leave_by_the_virtual_address(lab: Lab, nodes: dict[str, Deployed]) -> None:
    worker = nodes["w1"]
    with lab.capture() as capture:
        selected = Sandbox(worker.node, worker.runtime, "selected", BACKEND)
        assert selected.request(SELECTED).address == VIRTUAL
        assert capture.sources(SELECTED) == {VIRTUAL}
    other = Sandbox(worker.node, worker.runtime, "other", OTHER)
    assert other.request(SELECTED).address == worker.node.host.ip
    for sandbox in (selected, other):
        sandbox.stop()


def test_nothing_is_missing_and_no_right_is_too_many(lab: Lab, nodes: dict[str, Deployed]) -> None:
    wanted = sum(1 << number for number in CAPABILITIES)
    for each in nodes.values():
        problems = [problem["message"] for problem in each.node.agent.status()["problems"]]
        refused = [message for message in problems if message.startswith("no real-time scheduling")]
        # Where the kernel has real-time groups, the budget may come a moment too late.
        assert problems == (refused if RT_GROUPS.exists() else [])
        for name in ("agent", "keeper"):
            assert rights(each.pod.pid(name)) == wanted
        assert rights(each.pod.pid("cni")) == 1 << DAC_OVERRIDE
        assert os.sched_getscheduler(each.pod.pid("keeper")) == os.SCHED_FIFO
        assert "Traceback" not in "".join(map(each.pod.log, ("agent", "keeper", "cni")))


def test_a_node_without_python_serves_pods(lab: Lab, nodes: dict[str, Deployed]) -> None:
    """Its runtime finds no Python to start the plugin with, as on Talos, Flatcar and Bottlerocket."""
    worker = nodes["w1"]
    worker.runtime.end()
    worker.runtime.start(without=PYTHON)
    try:
        here = ["nsenter", f"--mount=/proc/{worker.runtime.pid}/ns/mnt"]
        by_python = subprocess.run(
            [*here, PLUGIN], env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=False
        )
        assert b"Permission denied" in by_python.stderr
        assert worker.plugins() == ["bridge", conflist_text.TYPE]
        sandbox = Sandbox(worker.node, worker.runtime, "no-python", BACKEND)
        assert sandbox.request(SELECTED).address == VIRTUAL
        sandbox.stop()
    finally:
        worker.runtime.end()
        worker.runtime.start()


def rights(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert fields["CapBnd"] == fields["CapEff"]
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    return int(fields["CapEff"], 16)


def test_an_agent_that_crashes_moves_nothing(lab: Lab, nodes: dict[str, Deployed]) -> None:
    master, before = master_of(lab), epoch(lab)
    worker = nodes["w1"]
    sandbox = Sandbox(worker.node, worker.runtime, "talking", BACKEND)
    try:
        with lab.probing(sandbox, SELECTED) as probing:
            for name in (master, "w1"):
                nodes[name].pod.restart("agent")
            until(lambda: settled(lab) == master, "all agents are back")
            assert longest(probing.stop()).lost == 0
    finally:
        sandbox.stop()
    assert epoch(lab) == before


def test_the_agent_sees_the_network_namespaces_of_pods_that_started_after_it(
    lab: Lab, nodes: dict[str, Deployed]
) -> None:
    """Else it would go by the names in the CNI result."""
    worker = nodes["w1"]
    sandbox = Sandbox(worker.node, worker.runtime, "seen", BACKEND)
    try:
        records = [
            json.loads(path.read_text()) for path in worker.node.agent.run_dir.glob("attachments/*.json")
        ]
        [netns] = [record["netns"] for record in records if record["name"] == "seen"]
        inside = Path(f"/proc/{worker.pod.pid('agent')}/root{netns}")
        assert inside.stat().st_ino == Path(netns).stat().st_ino
        assert inside.stat().st_dev == Path(netns).stat().st_dev
    finally:
        sandbox.stop()


def test_a_keeper_that_crashes_is_followed(lab: Lab, nodes: dict[str, Deployed]) -> None:
    worker = nodes["w1"]
    sandbox = Sandbox(worker.node, worker.runtime, "talking", BACKEND)
    try:
        crashed = nodes[master_of(lab)]
        crashed.pod.restart("keeper")
        until(lambda: sandbox.request(SELECTED, 0.3).address == VIRTUAL, "requests pass again", 5)
        until(lambda: settled(lab), "all are ready again")
        # A daemon of the agent's container may have no real-time priority.
        until(lambda: holder(crashed) == crashed.pod.pid("keeper"), "the container's daemon has the lock")
    finally:
        sandbox.stop()


def holder(deployed: Deployed) -> int:
    """Return the process that holds the lock of the run directory; 0 if none does."""
    file = (deployed.node.agent.run_dir / LOCK).stat()
    name = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return next((int(pid) for _, kind, *_, pid, of, _, _ in locks if (kind, of) == ("FLOCK", name)), 0)


def test_an_update_hands_over_and_loses_nothing(lab: Lab, nodes: dict[str, Deployed]) -> None:
    """The pod of the master is deleted and made anew, and nothing comes back to it by itself."""
    master = master_of(lab)
    worker = nodes["w1"]
    sandbox = Sandbox(worker.node, worker.runtime, "talking", BACKEND)
    try:
        lab.serve("outside", FRESH)
        with lab.capture() as capture, lab.probing(sandbox, FRESH) as probing:
            until(lambda: len(capture.packets(FRESH)) > 200, "probes arrive")
            nodes[master].pod.stop()
            seen = len(capture.packets(FRESH))
            until(lambda: len(capture.packets(FRESH)) > seen + 200, "probes go on arriving")
            assert longest(probing.stop()).lost == 0
            assert capture.sources(FRESH) == {VIRTUAL}
    finally:
        sandbox.stop()
    after = lab.nodes["w1"].agent.status()["egressIPs"][0]["master"]
    assert after not in ("", master)
    nodes[master].pod.start()
    until(lambda: settled(lab) == after, "the node is ready again and takes nothing")


def test_what_overwrites_the_configuration_is_chained_again(nodes: dict[str, Deployed]) -> None:
    worker = nodes["w1"]
    assert worker.plugins() == ["bridge", conflist_text.TYPE]
    network = worker.node.network("bridge")
    worker.runtime.use(type(network)(network.name, network.plugins[:1], network.cni_version))
    until(lambda: worker.plugins() == ["bridge", conflist_text.TYPE], "ours is back", CHAINED_AGAIN_S)


def test_a_selected_pod_on_its_nodes_network_is_reported_by_an_event_that_counts(
    lab: Lab, nodes: dict[str, Deployed]
) -> None:
    """It leaves by the node's address: nothing can steer it, so its owner must hear of it, once."""
    assert lab.cluster is not None
    cluster, agent = lab.cluster, nodes["w1"].node.agent

    def problems() -> list[str]:
        return [p["source"] for p in agent.status()["problems"] if p["path"] == "spec.hostNetwork"]

    def count() -> int:
        events = cluster.events("SelectsHostNetwork")
        assert len(events) <= 1
        return sum(event["count"] for event in events)

    cluster.run("default", "proxy", "w1", BACKEND, on_host=True)
    until(lambda: problems() == ["pod default/proxy"], "the problem")
    assert agent.call("explain", pod="proxy", destination="")["verdict"] == "direct"
    until(lambda: count() == 1, "the Event", seconds=10)
    # An agent that starts anew says it again; times of Events have whole seconds.
    written = int(time.time())
    until(lambda: int(time.time()) > written, "the next second")
    nodes["w1"].pod.restart("agent")
    until(lambda: count() == 2, "the Event is counted", seconds=20)
    cluster.remove("default", "proxy")
    until(lambda: not problems(), "the problem is over")


def test_every_right_in_the_cluster_is_used_and_none_is_missing(lab: Lab, nodes: dict[str, Deployed]) -> None:
    """Of all that the agents of this module have asked for, one by one for a pod that the watch is late with too."""
    assert lab.cluster is not None
    lab.cluster.strike(match="pods", deaf=True)
    try:
        sandbox = Sandbox(nodes["w1"].node, nodes["w1"].runtime, "early", BACKEND)
        assert sandbox.request(SELECTED).address == VIRTUAL
        sandbox.stop()
    finally:
        lab.cluster.strike()
    # An Event was written at the latest when the first master was elected, or soon is.
    until(lambda: "POST /api/v1/namespaces/default/events" in asked(lab), "an Event")
    until(
        lambda: len([what for what in asked(lab) if what.endswith("/status") and "/egress" in what]) == 2,
        "the status of both objects",
    )
    wanted = granted()
    if not lab.cluster.has("networking.k8s.io/v1", "servicecidrs"):
        # What a server does not have is asked for by a list, and not watched.
        wanted.remove(("networking.k8s.io", "servicecidrs", "watch"))
    assert {right(what) for what in asked(lab)} == wanted


def asked(lab: Lab) -> set[str]:
    assert lab.cluster is not None
    return set(lab.cluster.requests())


Right = tuple[str, str, str]
"""API group, resource, verb."""


def right(request: str) -> Right:
    """By the rules of Kubernetes: which right a request needs."""
    method, path, *watch = request.split()
    parts = path.split("/")
    group, rest = ("", parts[3:]) if parts[1] == "api" else (parts[2], parts[4:])
    if rest[0] == "namespaces" and len(rest) > 2:
        rest = rest[2:]
    named = len(rest) > 1
    verb = {"GET": "watch" if watch else "get" if named else "list", "PATCH": "patch", "POST": "create"}[
        method
    ]
    return group, "/".join((rest[0], *rest[2:])), verb


def granted() -> set[Right]:
    documents = [*rendered(), *rendered("node-readiness")]
    roles = [document for document in documents if document["kind"] in ("ClusterRole", "Role")]
    return {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def schedulable(lab: Lab, name: str) -> bool | None:
    """Return what the taint and the condition of a node say; None if they do not say the same."""
    assert lab.cluster is not None
    node = lab.cluster.call("GET", f"/api/v1/nodes/{name}")
    tainted = any(taint["key"] == TAINT for taint in node.get("spec", {}).get("taints") or ())
    statuses = {each["type"]: each["status"] for each in node["status"].get("conditions") or ()}
    return not tainted if statuses.get(CONDITION) == ("False" if tainted else "True") else None


def test_a_node_takes_pods_while_its_agent_runs_and_the_plugin_is_in_the_chain(
    lab: Lab, nodes: dict[str, Deployed]
) -> None:
    worker = nodes["w1"]
    for name in nodes:
        until(lambda name=name: schedulable(lab, name) is True, f"{name} takes pods")  # type: ignore[misc]
    conflist, hidden = worker.conflist, worker.conflist.with_suffix(".hidden")
    conflist.rename(hidden)
    until(lambda: schedulable(lab, "w1") is False, "a node without a network configuration takes none")
    hidden.rename(conflist)
    until(lambda: schedulable(lab, "w1") is True, "w1 takes pods again")
    worker.pod.stop()
    assert schedulable(lab, "w1") is False
    worker.pod.start()
    until(lambda: schedulable(lab, "w1") is True, "w1 takes pods after a restart")


def test_a_node_that_boots_after_a_crash_takes_no_pods_before_its_plan_is_there(
    lab: Lab, nodes: dict[str, Deployed]
) -> None:
    worker = nodes["w1"]
    until(lambda: schedulable(lab, "w1") is True, "w1 takes pods")
    for name in ("agent", "keeper", "cni"):
        os.kill(worker.pod.pid(name), signal.SIGKILL)
    worker.pod.stop()
    # A crash says nothing. The boot empties the run directory, and the main network plugin comes late.
    assert schedulable(lab, "w1") is True
    for path in worker.node.agent.run_dir.rglob("*"):
        if not path.is_dir():
            path.unlink()
    conflist, hidden = worker.conflist, worker.conflist.with_suffix(".hidden")
    conflist.rename(hidden)
    worker.pod.start()
    until(lambda: schedulable(lab, "w1") is False, "w1 takes no pods")
    hidden.rename(conflist)
    until(lambda: schedulable(lab, "w1") is True, "w1 takes pods again")
    assert worker.node.plan()["node"] == "w1"
    assert "egress-gateway" in worker.plugins()


def test_uninstalling_leaves_nothing_behind(lab: Lab, nodes: dict[str, Deployed]) -> None:
    """On a worker and on an egress node, at last. A pod that runs goes its own way from then on."""
    master = master_of(lab)
    worker = nodes["w1"]
    running = Sandbox(worker.node, worker.runtime, "running", BACKEND)
    assert running.request(SELECTED).address == VIRTUAL
    for deployed in (nodes[master], worker):
        assert ours(deployed)
        deployed.pod.stop()
        deployed.uninstall()
        assert ours(deployed) == []
        assert {path.name for path in deployed.node.agent.run_dir.iterdir()} <= {*RUNNING}
        assert deployed.plugins() == ["bridge"]
        assert not (deployed.runtime.directory / "bin" / conflist_text.TYPE).exists()
    assert running.request(SELECTED).address == worker.node.host.ip
    running.stop()


def ours(deployed: Deployed) -> list[str]:
    found = deployed.node.machine.inside(lambda: doctor.examine(None))
    return [finding.found for finding in found if finding.what == "ours"]
