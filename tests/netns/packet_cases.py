"""One packet of each kind, and the rules of ours that it passes on a node: as data, and as a part of a document.

The kinds are those of a flow of UDP datagrams that both ends know already. A packet in a tunnel is two: the outer and
the inner one pass hooks of their own, and both are counted.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from cni.kernel import ids
from cni.kernel.netlink import links
from cni.plan import Destination, Plan, PlanEgressIP, PolicySet
from tests.lab.namespace import Namespace

from .datapath_lab import SERVICE, SOURCES, TAG, Lab, Pod, plan
from .rule_walk import Passed, Walk, walk

SINK_PORT = 9999
NODES = ("w1", "g1")
TRACED = {"inet": "meta nfproto ipv4 meta l4proto udp", "bridge": "ip protocol udp"}
FEW, MANY = 1, 64
"""Further virtual addresses, each with a gateway, a policy set and a prefix of its own."""


@dataclass(frozen=True)
class Case:
    """One packet on one node. ``traffic``: it has nothing to do with us if that is no selected pod's."""

    traffic: str
    direction: str
    node: str
    passed: tuple[Passed, ...]

    @property
    def name(self) -> str:
        return f"{self.traffic}, {self.direction}, on {'a worker' if self.node == 'w1' else 'the master'}"

    @property
    def count(self) -> int:
        return sum(len(chain.rules) for chain in self.passed)


def grown(node: str, further: int) -> Plan:
    """Return the lab's plan of a node with so many further virtual addresses, gateways, policy sets and prefixes."""
    planned = plan(node)
    made = tuple(_further(planned, number) for number in range(3, 3 + further))
    sets = tuple(
        PolicySet(
            egress.slot,
            (egress.gateway,),
            (egress.id,),
            (Destination(f"192.0.{egress.slot}.0/24", egress.id),),
        )
        for egress in made
    )
    reserved = (*planned.reserved_sources, *(egress.address for egress in made))
    return replace(
        planned,
        egress_ips=(*planned.egress_ips, *made),
        policy_sets=(*planned.policy_sets, *sets),
        reserved_sources=reserved,
    )


def _further(planned: Plan, number: int) -> PlanEgressIP:
    identity = ids.egress_id(f"more-{number}", address := f"172.16.0.{100 + number}")
    first = planned.egress_ips[0]
    return replace(
        first,
        id=identity,
        gateway=f"more-{number}",
        address=address,
        slot=number,
        inlet=number,
        vni=ids.vni(identity),
        source=address if planned.node in SOURCES else "",
    )


def cases(lab: Lab, further: int) -> list[Case]:
    """Return what each packet passes. ``further``: see :func:`grown`."""
    for name in NODES:
        lab.nodes[name].ensure(grown(name, further))
    found: list[Case] = []
    for pod, tag, traffic in (
        (lab.pods["routed"], ids.GROUP_UNSELECTED, "unselected pod"),
        (lab.pods["unselected"], ids.GROUP_UNSELECTED, "unselected pod on a bridge"),
        (lab.pods["routed"], ids.GROUP_BASE + TAG, "selected pod"),
        (lab.pods["bridged"], ids.GROUP_BASE + TAG, "selected pod on a bridge"),
    ):
        _tag(pod, tag)
        found += _exchange(lab, traffic, pod.machine)
    for name in NODES:
        found += _exchange(lab, "the node's own", lab.nodes[name].machine)
    return found


def _tag(pod: Pod, group: int) -> None:
    pod.node.machine.inside(lambda: links.tag(pod.host, group))


def _exchange(lab: Lab, traffic: str, sender: Namespace) -> Iterator[Case]:
    """Yield the cases of one flow from a pod or a node to the service and back, on each node that it passes."""
    with (
        lab.outside.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        sink.bind((SERVICE, SINK_PORT))
        sink.settimeout(5)
        client.settimeout(5)
        client.connect((SERVICE, SINK_PORT))
        source = _out(client, sink)
        _back(client, sink, source)
        with _walks(lab) as walks:
            steps: Mapping[str, Callable[[], object]] = {
                "out": lambda: _out(client, sink),
                "back": lambda: _back(client, sink, source),
            }
            for direction, step in steps.items():
                step()
                for node, followed in walks.items():
                    if passed := tuple(followed.passed()):
                        yield Case(traffic, direction, node, passed)


def _out(client: socket.socket, sink: socket.socket) -> tuple[str, int]:
    client.send(b"x")
    address: tuple[str, int] = sink.recvfrom(1)[1]
    return address


def _back(client: socket.socket, sink: socket.socket, source: tuple[str, int]) -> None:
    sink.sendto(b"y", source)
    client.recv(1)


@contextmanager
def _walks(lab: Lab) -> Iterator[dict[str, Walk]]:
    machines = [lab.nodes[name].machine for name in NODES]
    with walk(machines[0], TRACED) as first, walk(machines[1], TRACED) as second:
        yield dict(zip(NODES, (first, second), strict=True))


def document(found: list[Case]) -> str:
    """Return counts and rules as Markdown."""
    lines = ["| packet | rules | by base chain |", "|---|---|---|"]
    for case in found:
        chains = ", ".join(f"`{passed.chain}` {len(passed.rules)}" for passed in map(_named, case.passed))
        lines.append(f"| {case.name} | {case.count} | {chains} |")
    for case in found:
        if "bridge" not in case.traffic:
            lines += ["", f"### {case.name[:1].upper()}{case.name[1:]}", "", "```", *_listed(case), "```"]
    return "\n".join(lines)


def _listed(case: Case) -> Iterator[str]:
    for passed in map(_named, case.passed):
        yield f"{passed.hook} {passed.priority}, {passed.family} {passed.table}, {passed.chain}"
        for chain, rule in passed.rules:
            place = "" if chain == passed.chain else f"{chain}: "
            yield f"    {place}{re.sub(r'counter packets [0-9]+ bytes [0-9]+', 'counter', rule)}"


def _named(passed: Passed) -> Passed:
    """Return the same with the names of a device's chain and of maps without their hashes."""
    hashed = re.compile(r"_[0-9a-f]{16}\b")
    rules = tuple((hashed.sub("", chain), hashed.sub("", rule)) for chain, rule in passed.rules)
    return replace(passed, chain=hashed.sub("", passed.chain), rules=rules)
