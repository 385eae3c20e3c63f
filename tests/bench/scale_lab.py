"""One cluster of a size in the lab, and what it costs its nodes: for :mod:`tests.bench.scale`.

Three nodes have agents: a worker and two egress nodes. The others are ``Node`` documents only.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil

from cni import contract

from ..lab import documents, topology
from ..lab.cnirun import CniError
from ..lab.documents import Document
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.topology import EGRESS_LABEL, VIRTUAL
from ..lab.waiting import until

GATEWAY = "partner"
PREFIXES = 20
"""Destinations of each policy."""
GATEWAY_ADDRESSES = 64
"""Addresses of one gateway, at most."""
LIMIT_S = 300.0
"""Seconds until a cluster of any size must answer."""
EDITS = 5
ADDS = 7
TRY_S = 0.05
"""Seconds that a datagram of an edited pod waits for its answer."""
WORKER = "w1"
EDITED = {"app": "edited"}


@dataclass(frozen=True)
class Size:
    """How large a cluster is. ``pods``: of the worker."""

    nodes: int = 10
    addresses: int = 1
    policies: int = 1
    pods: int = 1


class Costs(msgspec.Struct, frozen=True):
    """What one cluster costs. Shares of a processor are in percent, memory is proportional set size in MiB."""

    first_answer: float
    """Seconds from the start of all agents to the first answer that a pod gets through its gateway."""
    edit: float
    """Median of the seconds from an edited policy to the first packet of its pod that follows it."""
    add: float
    """Median of the seconds of a pod's ADD."""
    worker_agent: float
    worker_daemon: float
    egress_agent: float
    egress_daemon: float
    worker_memory: float
    egress_memory: float
    objects: Mapping[str, int]
    """Number of kernel objects on the worker and on the master, by kind."""


@dataclass
class _Clock:
    began: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        return time.monotonic() - self.began


def measure(size: Size, rest_s: float, adds: int = ADDS) -> Costs:
    """Return what a cluster of this size costs. ``rest_s``: seconds over which processor time at rest is taken."""
    with cluster(size) as lab:
        worker = lab.nodes[WORKER]
        clock = _Clock()
        lab.start_agents()
        until(worker.agent.answers, "the worker's agent answers", LIMIT_S)
        pod = worker.new_pod("edited", EDITED)
        until(lambda: _started(pod), "a pod starts", LIMIT_S)
        until(lambda: _leaves_by(pod, VIRTUAL), "the first answer", LIMIT_S)
        first = clock.seconds()
        lab.wait_settled(GATEWAY, LIMIT_S)
        for number in range(size.pods - 1):
            worker.pod(f"pod-{number}", {"app": f"app-{number % size.policies}"})
        edit = statistics.median(_edit(lab, pod, number % 2 == 0) for number in range(EDITS))
        add = statistics.median(_add(worker, number) for number in range(adds))
        master = lab.nodes[lab.wait_settled(GATEWAY, LIMIT_S)]
        shares = _shares((worker, master), rest_s)
        memory = _memory(worker), _memory(master)
        objects = {
            f"{name}, {kind}": count
            for name, node in (("worker", worker), ("egress", master))
            for kind, count in kernel_objects(node).items()
        }
        return Costs(first, edit, add, *shares, *memory, objects=objects)


@contextmanager
def cluster(size: Size) -> Iterator[Lab]:
    """Yield a lab of this size whose agents have not been started."""
    with Lab(topology.separate(workers=1, gateways=2)) as lab:
        real = [documents.node(host) for host in lab.topology.nodes]
        lab.publish("nodes", [*real, *map(other_node, range(size.nodes - len(real)))])
        lab.publish("gateways", list(gateways(size.addresses)))
        lab.publish("edit", [_policy(True)])
        lab.publish("policies", [other_policy(number) for number in range(size.policies - 1)])
        yield lab


def other_node(number: int) -> Document:
    """Return the document of a node that has no machine.

    Its name comes behind those of the worker and the egress nodes: the first voters must be machines. Else no voter set
    is founded before the lease daemons have waited ``GRACE_NS`` for one that never comes.
    """
    name = f"x-other-{number}"
    address = f"10.{100 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def other_policy(number: int) -> Document:
    """Return a policy that selects no pod that is measured, with :data:`PREFIXES` destinations."""
    prefixes = [f"{20 + number % 100}.{number // 100}.{each}.0/24" for each in range(PREFIXES)]
    return documents.policy(f"other-{number}", GATEWAY, {"app": f"app-{number}"}, prefixes)


def gateways(addresses: int) -> Iterator[Document]:
    """Yield gateways with that many addresses together. The first one has the address that is looked for alone."""
    yield documents.virtual_gateway(GATEWAY, [VIRTUAL], ["eth1"])
    more = [f"172.17.{number // 250}.{number % 250 + 1}" for number in range(addresses - 1)]
    for first in range(0, len(more), GATEWAY_ADDRESSES):
        own = more[first : first + GATEWAY_ADDRESSES]
        yield documents.virtual_gateway(f"more-{first}", own, ["eth1"], nodes=EGRESS_LABEL)


def _policy(selecting: bool) -> Document:
    pods = EDITED if selecting else {"app": "nobody"}
    return documents.policy("edit", GATEWAY, pods, ["203.0.113.0/24"])


def _started(pod: Pod) -> bool:
    """Start a pod. Return False if the agent asks the runtime to try again: the first plan may be under way."""
    try:
        pod.start()
    except CniError as error:
        if error.code != contract.TRY_AGAIN_LATER:
            raise
        return False
    return True


def _leaves_by(pod: Pod, address: str) -> bool:
    return pod.datagram(SELECTED, TRY_S).address == address


def _edit(lab: Lab, pod: Pod, away: bool) -> float:
    """Return the seconds from a changed policy to the first packet that leaves by the other address."""
    clock = _Clock()
    lab.publish("edit", [_policy(not away)])
    until(lambda: _leaves_by(pod, VIRTUAL) != away, "a packet follows the edited policy", LIMIT_S)
    return clock.seconds()


def _add(node: Node, number: int) -> float:
    pod = node.new_pod(f"added-{number}", {"app": "app-0"})
    clock = _Clock()
    pod.start()
    taken = clock.seconds()
    pod.stop()
    return taken


def processes(node: Node) -> dict[str, list[psutil.Process]]:
    """Return the agent of a node, its lease daemon, and what is left: the standby of the daemon."""
    agent, daemons = node.agent.pid, node.agent.keeper_pids()
    others = [pid for pid in node.machine.pids() if pid not in (agent, *daemons)]
    kinds = {"agent": [agent], "daemon": daemons, "standby": others}
    return {kind: [psutil.Process(pid) for pid in pids] for kind, pids in kinds.items()}


def _shares(nodes: tuple[Node, Node], seconds: float) -> tuple[float, float, float, float]:
    """Return for each of two nodes the shares of agent and daemon, percent of one processor."""
    found = [each for node in nodes for kind, each in processes(node).items() if kind != "standby"]
    before, clock = [_used(each) for each in found], _Clock()
    time.sleep(seconds)
    taken = clock.seconds()
    first, second, third, fourth = (
        100 * (_used(each) - used) / taken for each, used in zip(found, before, strict=True)
    )
    return first, second, third, fourth


def _used(of: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in of)


def _memory(node: Node) -> float:
    """Return the proportional set size of agent, daemon and standby, MiB."""
    return sum(_pss_kib(each.pid) for of in processes(node).values() for each in of) / 1024


def _pss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def kernel_objects(node: Node) -> dict[str, int]:
    """Return how many objects of some kinds a node's kernel has."""
    run = node.machine.run
    ruleset = json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]
    links = json.loads(run("ip", "-j", "link", "show", "type", "vxlan"))
    routes = [line for family in "46" for line in _lines(node, f"ip -{family} route show table all")]
    return {
        "nft rules": sum("rule" in each for each in ruleset),
        "tunnels": len(links),
        "routes": sum("egw-" in line or "unreachable" in line for line in routes),
        "rules": sum(len(_lines(node, f"ip -{family} rule show")) for family in "46"),
        "neighbours": len(_lines(node, "ip neigh show nud permanent")),
        "forwarding entries": sum("egw-" in line for line in _lines(node, "bridge fdb show")),
    }


def _lines(node: Node, command: str) -> list[str]:
    return node.machine.run(*command.split()).splitlines()
