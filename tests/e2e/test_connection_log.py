"""The log of connections through egress IPs, against the list that the service outside keeps itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..lab import documents, topology
from ..lab.agent import EGRESSCTL
from ..lab.lab import SELECTED, UNSELECTED, Lab
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.topology import OUTSIDE, OUTSIDE6
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, LOGS
from .metric_values import value

SECONDS = float(os.environ.get("CONNECTION_LOG_SECONDS", "3"))
RATE = 2000
ASKED = int(os.environ.get("CONNECTION_LOG_ASKED", "100"))
"""Connections of the list that ``whois`` is asked about."""
PORTS = range(9100, 9116)
ADDRESS = "172.16.0.50"
ADDRESS6 = topology.beside(ADDRESS)
OBJECTS = [
    documents.virtual_gateway(GATEWAY, [ADDRESS, ADDRESS6]),
    documents.policy("backend", GATEWAY, BACKEND, ["203.0.113.0/24", "2001:db8:113::/64"]),
]
Line = dict[str, Any]


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    """Yield a worker and two egress nodes that write logs, and a gateway with an address of each family."""
    with Lab(topology.dual_stack(workers=1, gateways=2)) as made:
        try:
            for node in made.nodes.values():
                configuration = yaml.safe_load(node.agent.config.read_text())
                configuration["connectionLog"] = {"file": str(log_of(node)), "maxSize": "1GB"}
                node.agent.config.write_text(yaml.safe_dump(configuration))
            made.publish_nodes()
            made.publish("objects", OBJECTS)
            made.start_agents()
            made.wait_settled(GATEWAY, 40)
            until(
                lambda: all(report_of(node).exists() for node in made.nodes.values()), "all logs have begun"
            )
            yield made
        finally:
            made.save_logs(LOGS / "test_connection_log")


@pytest.fixture(scope="module")
def pod(lab: Lab) -> Pod:
    return lab.nodes["w1"].pod("logged", BACKEND)


def report_of(node: Node) -> Path:
    return node.agent.run_dir / "connection-log.json"


def log_of(node: Node) -> Path:
    return node.directory / "connections.log"


def lines(node: Node) -> list[Line]:
    return (
        [json.loads(text) for text in log_of(node).read_text().splitlines()] if log_of(node).exists() else []
    )


def master(lab: Lab, address: str) -> Node:
    status = json.loads(lab.nodes["w1"].egressctl("-o", "json", "status"))
    return lab.nodes[next(each["master"] for each in status["egressIPs"] if each["ip"] == address)]


def forget(node: Node) -> None:
    """Let all connections end: the kernel keeps closed ones for up to two minutes."""
    node.machine.run("conntrack", "-F")


def about(node: Node, event: str, destination: str, ports: Sequence[int]) -> list[Line]:
    return [
        line
        for line in lines(node)
        if (line["event"], line["destination"]) == (event, destination) and line["destinationPort"] in ports
    ]


@pytest.mark.parametrize(("address", "service"), [(ADDRESS, OUTSIDE), (ADDRESS6, OUTSIDE6)])
def test_each_node_logs_its_half(lab: Lab, pod: Pod, address: str, service: str) -> None:
    """One connection: start and end on worker and master, which share the source behind the worker's source NAT."""
    serving, worker = master(lab, address), lab.nodes["w1"]
    assert pod.request(SELECTED, address=service).address == address
    until(lambda: about(serving, "start", service, [SELECTED]), "the master has the start")
    until(lambda: about(worker, "start", service, [SELECTED]), "the worker has the start")
    for node in (serving, worker):
        forget(node)
        until(lambda node=node: about(node, "end", service, [SELECTED]), "the node has the end")  # type: ignore[misc]
    halves = {node.name: about(node, "end", service, [SELECTED])[-1] for node in (serving, worker)}
    outer, inner = halves[serving.name], halves["w1"]
    assert (outer["egressIP"], outer["gateway"]) == (address, GATEWAY)
    assert outer["egressPort"] > 0
    assert (inner["namespace"], inner["pod"]) == ("prod", "logged")
    assert (outer["node"], inner["node"], inner["egressIP"]) == ("w1", "w1", address)
    assert (outer["nodeAddress"], outer["nodePort"]) == (inner["nodeAddress"], inner["nodePort"])
    for half in (outer, inner):
        assert half["bytesOut"] > 0
        assert half["bytesIn"] > 0
        written = partial(value, node, "connection_log_lines_total", result="written")
        until(lambda node=node, written=written: written() == len(lines(node)), "all lines are counted", 20)  # type: ignore[misc]
    assert log_of(worker).stat().st_mode & 0o777 == 0o600


def shown(line: Line) -> tuple[str, int, int]:
    return line["egressIP"], line["egressPort"], line["destinationPort"]


def inside(line: Line) -> tuple[str, int, int]:
    return line["nodeAddress"], line["nodePort"], line["destinationPort"]


def check_whois(lab: Lab, witnessed: list[Any]) -> None:
    """Ask all nodes in turn about connections of the list, of which each has an end line by now."""
    unique = sorted(set(map(tuple, witnessed)))
    asked = unique[:: max(1, len(unique) // ASKED)][:ASKED]
    nodes = sorted(lab.nodes.values(), key=lambda node: node.name)
    for turn, (ip, port, to_port) in enumerate(asked):
        node = nodes[turn % len(nodes)]
        question = {"ip": ip, "port": str(port), "to": OUTSIDE, "toPort": str(to_port)}
        answer = node.agent.call("whois", **question)
        found = answer["connections"]
        assert {(one["namespace"], one["pod"], one["node"]) for one in found} == {("prod", "logged", "w1")}, (
            answer
        )
        assert len(found) == witnessed.count([ip, port, to_port])
        assert all(one["start"] and one["end"] and one["bytesOut"] for one in found)
        assert not answer["silent"]
    print(f"whois found {len(asked)} of {len(asked)}")


def test_2000_connections_a_second_are_all_in_the_log(lab: Lab, pod: Pod) -> None:
    """The list of the service outside is the witness. ``CONNECTION_LOG_SECONDS=30`` for longer."""
    serving, worker = master(lab, ADDRESS), lab.nodes["w1"]
    module = (sys.executable, "-m", "tests.lab.many_connections")
    number = int(RATE * SECONDS)
    log = lab.directory / "many.log"
    server = lab.machines["outside"].spawn(*module, "serve", OUTSIDE, *map(str, PORTS), log=log, reads=True)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    command = (*module, "open", OUTSIDE, str(number), str(RATE), *map(str, PORTS))
    done = json.loads(pod.machine.run(*command, seconds=SECONDS + 60))
    seen, _ = server.communicate()
    # A source port may come again.
    witnessed = json.loads(seen)
    print(
        f"{done['answered']} of {number} connections in {done['seconds']:.1f} s, {len(witnessed)} seen outside"
    )
    assert done["answered"] == len(witnessed) == number
    for node in (serving, worker):
        forget(node)
        until(lambda node=node: len(about(node, "end", OUTSIDE, PORTS)) >= number, "all have ended", 30)  # type: ignore[misc]
    for event in ("start", "end"):
        outer, inner = (about(node, event, OUTSIDE, PORTS) for node in (serving, worker))
        assert Counter(map(shown, outer)) == Counter(map(tuple, witnessed))
        assert Counter(map(inside, outer)) == Counter(map(inside, inner))
        assert {line["pod"] for line in inner} == {"logged"}
    check_whois(lab, witnessed)
    for node in (serving, worker):
        status = json.loads(node.egressctl("-o", "json", "status"))
        assert not [problem for problem in status["problems"] if problem["source"] == "connectionLog"]


@pytest.mark.parametrize("name", ["w1", "g1", "g2"])
def test_whois_of_an_open_connection(lab: Lab, pod: Pod, name: str) -> None:
    """Each node says which pod it is: worker, master and standby."""
    serving, node = master(lab, ADDRESS), lab.nodes[name]
    held = pod.connect(SELECTED)
    try:
        port = open_port(serving, SELECTED)
        text = node.egressctl("whois", f"{ADDRESS}:{port}", "--to", f"{OUTSIDE}:{SELECTED}")
        found = json.loads(node.egressctl("-o", "json", "whois", f"{ADDRESS}:{port}"))
    finally:
        held.close()
    [one] = found["connections"]
    assert (one["open"], one["namespace"], one["pod"], one["node"], one["by"]) == (
        True, "prod", "logged", "w1", serving.name
    )  # fmt: skip
    assert not found["silent"]
    assert "prod/logged" in text


def open_port(serving: Node, to: int) -> int:
    """Return the source port outside of the only open connection to a port of the service."""
    listed = serving.machine.run(
        "conntrack", "-L", "-p", "tcp", "--state", "ESTABLISHED", "--orig-port-dst", str(to)
    )
    [line] = [text for text in listed.splitlines() if f"dst={ADDRESS} " in text]
    return int(line.rpartition("dport=")[2].split()[0])


def test_whois_of_a_pod_of_the_master(lab: Lab) -> None:
    """It is the worker as well, so it knows all: now, and when the port is free again."""
    serving = master(lab, ADDRESS)
    own = serving.pod("own", BACKEND)
    held = own.connect(SELECTED)
    port = open_port(serving, SELECTED)
    [now] = json.loads(serving.egressctl("-o", "json", "whois", f"{ADDRESS}:{port}"))["connections"]
    held.close()
    assert (now["open"], now["pod"], now["node"], now["by"]) == (True, "own", serving.name, serving.name)
    forget(serving)
    until(
        lambda: [line for line in lines(serving) if line["pod"] == "own" and line["event"] == "end"],
        "it has ended",
    )
    text = serving.egressctl(
        "whois", f"{ADDRESS}:{port}", "--to", f"{OUTSIDE}:{SELECTED}", "--at", now["start"]
    )
    assert "prod/own" in text
    # The port has had other destinations, too.
    answer = serving.egressctl("-o", "json", "whois", f"{ADDRESS}:{port}", "--to", f"{OUTSIDE}:{SELECTED}")
    then = json.loads(answer)["connections"][0]
    assert (then["open"], then["pod"], then["start"]) == (False, "own", now["start"])
    assert then["bytesOut"] > 0


def test_whois_at_a_time(lab: Lab, pod: Pod) -> None:
    """The port is free again, and the log knows who had it."""
    serving = master(lab, ADDRESS)
    before = about(serving, "end", OUTSIDE, [UNSELECTED])
    pod.request(UNSELECTED)
    for node in (serving, lab.nodes["w1"]):
        forget(node)
    until(lambda: len(about(serving, "end", OUTSIDE, [UNSELECTED])) > len(before), "the end is logged")
    line = about(serving, "end", OUTSIDE, [UNSELECTED])[-1]
    end = f"{ADDRESS}:{line['egressPort']}"

    def found(node: Node, at: str) -> list[Line]:
        message = node.machine.command(str(EGRESSCTL), "--config", str(node.agent.config), "-o", "json")
        asked = [*message, "whois", end, "--to", f"{OUTSIDE}:{UNSELECTED}", "--at", at]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
        connections: list[Line] = json.loads(done.stdout)["connections"]
        assert done.returncode == (0 if connections else 1)
        return connections

    for node in lab.nodes.values():
        ask = partial(found, node)
        until(lambda ask=ask: [one["pod"] for one in ask(line["time"])] == ["logged"], "found")  # type: ignore[misc]
        assert not ask("2020-01-01T00:00:00Z")


def test_lines_that_cannot_be_written_are_counted(lab: Lab, pod: Pod) -> None:
    """A directory in the place of the file takes no line."""
    serving = master(lab, ADDRESS)
    log, kept = log_of(serving), serving.directory / "kept.log"

    def unwritten() -> float:
        return value(serving, "connection_log_lines_total", result="unwritten") or 0

    before = unwritten()
    log.rename(kept)
    log.mkdir()
    try:
        pod.request(SELECTED)
        until(lambda: unwritten() > before, "the line is counted", 20)
    finally:
        log.rmdir()
        kept.rename(log)
