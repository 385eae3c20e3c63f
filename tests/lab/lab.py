"""A whole lab: machines, wires, the outside service, agents. Complete on entry, gone on exit."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from . import documents, registry
from .apiserver.client import Cluster
from .apiserver.upstream import reached
from .bridge import bridge
from .capture import Capture
from .documents import Document
from .namespace import Namespace
from .node import Node
from .pod import PORT, Client, Probing
from .topology import OUTSIDE, OUTSIDE6, Host, Interface, Topology, api_host
from .waiting import PATIENCE_S, NotInTime, until

SELECTED = 9000
"""Port of the outside service, without whitelist, for selected pods only: a capture can tell them apart."""
UNSELECTED = 9001
API_PORT = 6443
_HOST_SETTINGS = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "2",
    "net/ipv6/conf/default/accept_dad": "0",
}


class Lab:
    """Use it in a ``with`` statement. ``options`` go into every agent's configuration.

    ``store``: ``files`` or ``kubernetes``; with this one the lab has one machine more, on which an API server runs.
    """

    def __init__(
        self,
        topology: Topology,
        options: Mapping[str, Any] | None = None,
        store: str = "files",
        group: str = documents.GROUP,
    ) -> None:
        """``group``: of our kinds, as the cluster has them."""
        self.topology = topology
        self.store = store
        self.group = group
        self.cluster: Cluster | None = None
        """Content of the API server; None with the files store."""
        self.machines: dict[str, Namespace] = {}
        self.nodes: dict[str, Node] = {}
        self.kept = False
        self._options = dict(options or {})
        self._files: dict[str, list[Document]] = {}
        self._services: list[subprocess.Popen[bytes]] = []
        self._upstream = contextlib.ExitStack()

    def __enter__(self) -> Lab:
        registry.sweep()
        self.directory, self._owner = registry.claim()
        self.key = self.directory / "cluster.key"
        self.whitelist = self.directory / "whitelist"
        try:
            self._build()
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.kept:
            registry.keep(self.directory)
            self._owner.close()
        else:
            self._clear()

    # -- machines and wires

    def machine(self, name: str, settings: Mapping[str, str] | None = None) -> Namespace:
        """Return a new machine without wires."""
        machine = Namespace(f"{self.directory.name}-{name}")
        machine.create(settings)
        self.machines[name] = machine
        return machine

    def add_host(self, host: Host) -> None:
        """Create a machine with its wires; a node gets its files and its agent, which is not started."""
        settings = {**_HOST_SETTINGS, **({"net/ipv4/ip_forward": "1"} if host.forwards else {})}
        if host.forwards and host.ip6:
            settings["net/ipv6/conf/all/forwarding"] = "1"
        machine = self.machine(host.name, settings)
        for interface in host.interfaces:
            self._wire(host, machine, interface)
        if host.gateway:
            machine.ip(f"route add default via {host.gateway}")
        if host.gateway6:
            machine.ip(f"route add default via {host.gateway6}")
        if host.labels is not None:
            node = Node(host, machine, self.directory / host.name, self.key, self._options, self.cluster)
            self.nodes[host.name] = node
            for name, content in self._files.items():
                node.write(name, content)

    def _wire(self, host: Host, machine: Namespace, interface: Interface) -> None:
        lan, segment = self.machines["lan"], f"br-{interface.segment}"
        if segment not in self._bridges:
            lan.ip(*bridge(segment))
            self._bridges.add(segment)
        port = _port(host.name, interface.name)
        lan.ip(
            f"link add {port} type veth peer name {interface.name} netns {machine.name}",
            f"link set {port} master {segment} up",
        )
        machine.ip(f"link set {interface.name} up")
        if interface.address:
            machine.ip(f"address add {interface.address} dev {interface.name}")
        if interface.address6:
            machine.ip(f"address add {interface.address6} dev {interface.name} nodad")

    def cut(self, host: str, interface: str = "") -> None:
        """Pull a host's cable at the far end; all of its cables where none is named."""
        self._set_ports(host, interface, "down")

    def mend(self, host: str, interface: str = "") -> None:
        """Put the cable back; routes come back with the carrier."""
        self._set_ports(host, interface, "up")

    def _set_ports(self, host: str, interface: str, state: str) -> None:
        names = [interface] if interface else [i.name for i in self._host(host).interfaces]
        self.machines["lan"].ip(*(f"link set {_port(host, name)} {state}" for name in names))

    def _host(self, name: str) -> Host:
        return next(host for host in (*self.topology.hosts, *self.topology.spare) if host.name == name)

    # -- the store

    def publish(self, name: str, content: Sequence[Document]) -> None:
        """Write a file of the store on every node, and on those that come later; or the objects into the cluster."""
        if self.cluster is not None:
            self.cluster.publish(name, (documents.of_group(document, self.group) for document in content))
            return
        self._files[name] = list(content)
        for node in self.nodes.values():
            node.write(name, content)

    def publish_nodes(self, *names: str, unlabelled: str = "") -> None:
        """Publish the inventory: these nodes, or all. A node in ``unlabelled`` cannot be an egress node."""
        hosts = [self._host(name) for name in names] if names else [node.host for node in self.nodes.values()]
        labelled = (replace(host, labels={}) if host.name == unlabelled else host for host in hosts)
        self.publish("nodes", [documents.node(host) for host in labelled])

    # -- the outside

    def allow(self, *addresses: str) -> None:
        """Set the outside service's whitelist."""
        draft = self.whitelist.with_suffix(".draft")
        draft.write_text("\n".join(addresses) + "\n")
        os.replace(draft, self.whitelist)

    def serve(self, machine: str, *ports: int, whitelist: bool = False, address: str = "0.0.0.0") -> None:
        """Start the service on a machine and waits until it listens."""
        guarded = ("--whitelist", str(self.whitelist)) if whitelist else ()
        arguments = ("-m", "tests.lab.service", "--address", address, *guarded, *map(str, ports))
        log = self.directory / f"service-{machine}.log"
        process = self.machines[machine].spawn(sys.executable, *arguments, log=log, reads=True)
        self._services.append(process)
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the service did not start: {log.read_text()}")

    def capture(self, machine: str = "outside", interface: str = "eth0") -> Capture:
        """Return a witness there, by default at the outside service."""
        return Capture(self.machines[machine], interface)

    def probing(self, pod: Client, port: int = SELECTED, address: str = OUTSIDE) -> Probing:
        """One probe each millisecond from a pod to the outside service."""
        return Probing(pod.machine, address, port, self.directory / "prober.log")

    # -- agents

    def start_agents(self) -> None:
        for node in self.nodes.values():
            if not node.agent.running:
                node.agent.start()

    def master(self, gateway: str, asked: str = "") -> str:
        """Return the master by the word of one node, or of all with a running agent; empty if they differ."""
        nodes = [self.nodes[asked]] if asked else [node for node in self.nodes.values() if node.agent.running]
        said = {_master(node.agent.status(), gateway) for node in nodes}
        return said.pop() if len(said) == 1 else ""

    def settled(self, gateway: str) -> str:
        """Return the master that all agents name while every egress node with an agent is ready; else empty."""
        running = [node for node in self.nodes.values() if node.agent.running]
        expected = {node.name for node in running if node.host.is_egress}
        for node in running:
            members = node.agent.status()["members"]
            ready = {member["node"] for member in members if member["ready"] and member["alive"]}
            if node.host.is_egress and not expected - {node.name} <= ready:
                return ""
        return self.master(gateway)

    def wait_settled(self, gateway: str, seconds: float = PATIENCE_S) -> str:
        try:
            return until(lambda: self.settled(gateway), f"one master of {gateway}, all ready", seconds)
        except NotInTime as error:
            raise NotInTime("\n".join((str(error), *map(_description, self.nodes.values())))) from None

    def save_logs(self, path: Path) -> None:
        """Copy the agents' logs to a directory, for reading after the lab is gone."""
        path.mkdir(parents=True, exist_ok=True)
        for node in self.nodes.values():
            (path / f"{node.name}.log").write_text(node.log())

    # -- life

    def _build(self) -> None:
        self.key.touch(mode=0o600)
        self.key.write_text(secrets.token_hex(32) + "\n")
        self._bridges: set[str] = set()
        self.machine("lan")
        if self.store == "kubernetes":
            self._serve_api(api_host(self.topology))
        for host in self.topology.hosts:
            self.add_host(host)
        self.allow()
        if "outside" in self.machines:
            self.serve("outside", PORT, whitelist=True)
            self.serve("outside", SELECTED, UNSELECTED)
            if self._host("outside").ip6:
                self.serve("outside", SELECTED, UNSELECTED, address=OUTSIDE6)

    def _serve_api(self, host: Host) -> None:
        self.topology = replace(self.topology, spare=(*self.topology.spare, host))
        self.add_host(host)
        token, socket, kubeconfig = (self.directory / name for name in ("token", "api.sock", "kubeconfig"))
        for path, text in (
            (token, secrets.token_hex(16)),
            (kubeconfig, _kubeconfig(host.internal_ip, token)),
        ):
            path.touch(mode=0o600)
            path.write_text(text)
        self._options["store"] = {"kind": "kubernetes", "kubeconfig": str(kubeconfig), "apiGroup": self.group}
        options = ["--address", host.internal_ip, "--token-file", str(token), "--socket", str(socket)]
        upstream = self._upstream.enter_context(reached(self.directory / "upstream.sock"))
        if upstream is not None:
            options += ["--upstream", str(upstream)]
        program = (sys.executable, "-m", "tests.lab.apiserver", *options)
        log = self.directory / "api.log"
        process = self.machines[host.name].spawn(*program, log=log, reads=True)
        self._services.append(process)
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the API server did not start: {log.read_text()}")
        self.cluster = Cluster(socket)

    def _clear(self) -> None:
        # A second Ctrl-C would leave half of the lab behind.
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        try:
            registry.remove(self.directory)
            for process in self._services:
                process.communicate()
        finally:
            self._upstream.close()
            self._owner.close()
            for number, handler in before.items():
                signal.signal(number, handler)


def _port(host: str, interface: str) -> str:
    return f"{host}-{interface}"


def _kubeconfig(address: str, token: Path) -> str:
    server = f"[{address}]" if ":" in address else address
    config = {
        "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": f"http://{server}:{API_PORT}"}}],
        "users": [{"name": "lab", "user": {"tokenFile": str(token)}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
    }
    return json.dumps(config)


def _description(node: Node) -> str:
    """Return a node's masters and members in words, for the message of a failing test."""
    try:
        status = node.agent.status()
    except OSError as error:
        return f"{node.name}: {error}"
    masters = {egress["gateway"]: egress["master"] for egress in status["egressIPs"]}
    unready = {member["node"]: member["reason"] for member in status["members"] if not member["ready"]}
    return f"{node.name}: masters {masters}, not ready {unready}, problems {status['problems']}"


def _master(status: Mapping[str, Any], gateway: str) -> str:
    for egress in status["egressIPs"]:
        if egress["gateway"] == gateway:
            return str(egress["master"] or "")
    return ""
