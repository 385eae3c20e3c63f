"""A node of the cluster: a machine with an agent, a container runtime and pods."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from gateway_agent.ctl.__main__ import NOT_OK

from .agent import EGRESSCTL, Agent
from .apiserver.client import Cluster
from .cnirun import Attachment, Network, Runtime, bridged, routed
from .documents import Document
from .namespace import Namespace, run
from .pod import Pod
from .topology import POD_NETWORKS, POD_NETWORKS6, Host


class Node:
    """``directory`` holds all its files; ``options`` are put over the agent's configuration.

    ``cluster``: where its pods are objects too; None with the files store.
    """

    def __init__(
        self,
        host: Host,
        machine: Namespace,
        directory: Path,
        key: Path,
        options: Mapping[str, Any],
        cluster: Cluster | None = None,
    ) -> None:
        self.host = host
        self.cluster = cluster
        self.machine = machine
        self.directory = directory
        self.manifests = directory / "manifests"
        self.manifests.mkdir(parents=True)
        self.pods: dict[str, Pod] = {}
        self.runtime = Runtime(machine, directory / "cni-cache")
        configuration = {
            "nodeName": host.name,
            "store": {"kind": "files", "path": str(self.manifests)},
            "clusterCIDRs": [POD_NETWORKS, *([POD_NETWORKS6] if host.ip6 else [])],
            "cluster": {"keyFile": str(key)},
            # This machine may have engines of its own.
            "engines": {"podman": "", "containerd": ""},
            **options,
        }
        self.agent = Agent(machine, directory, configuration)

    @property
    def name(self) -> str:
        return self.host.name

    def has(self, address: str) -> bool:
        """Return True if the node's kernel takes in what comes for an address, on whatever interface."""
        family = "-6" if ":" in address else "-4"
        return bool(
            self.machine.run("ip", family, "route", "show", "table", "local", "type", "local", address)
        )

    def write(self, name: str, documents: Sequence[Document]) -> None:
        """Put a file of the store into place, whole."""
        path = self.manifests / f"{name}.yaml"
        draft = path.with_suffix(".draft")
        draft.write_text(yaml.safe_dump_all(documents, sort_keys=False))
        os.replace(draft, path)

    def network(self, kind: str, *subnets: str) -> Network:
        """``bridge`` or ``ptp``, our plugin chained behind. Default: this node's own subnets for the kind."""
        third = {"bridge": 244, "ptp": 245}[kind]
        ours = {"type": "egress-gateway", "socket": str(self.agent.socket)}
        make = {"bridge": bridged, "ptp": routed}[kind]
        if not subnets:
            subnets = (f"10.{third}.{self.host.number}.0/24",)
            if self.host.ip6:
                subnets += (f"fd00:{third}:{self.host.number}::/64",)
        return make(f"{kind}-net", subnets, self.directory / "ipam", [ours])

    def new_pod(
        self,
        name: str,
        labels: Mapping[str, str] | None = None,
        kind: str = "bridge",
        namespace: str = "prod",
        network: Network | None = None,
    ) -> Pod:
        """Return a pod that is not connected yet: ``start`` it. Labels None: the CNI call tells none."""
        machine = Namespace(f"{self.machine.name}-{name}")
        machine.create()
        named = {"IgnoreUnknown": "1", "K8S_POD_NAMESPACE": namespace, "K8S_POD_NAME": name}
        if self.cluster is not None:
            # No runtime tells the labels of a pod.
            named["K8S_POD_UID"] = self.cluster.run(namespace, name, self.name, dict(labels or {}))
            labels = None
        listed = [{"key": key, "value": value} for key, value in (labels or {}).items()]
        attachment = Attachment(
            container_id=machine.name,
            netns=machine.path,
            cni_args=named,
            args=None if labels is None else {"cni": {"labels": listed}},
        )
        gone = partial(self.cluster.remove, namespace, name) if self.cluster else lambda: None
        pod = Pod(name, machine, self.runtime, network or self.network(kind), attachment, gone)
        self.pods[name] = pod
        return pod

    def pod(
        self,
        name: str,
        labels: Mapping[str, str] | None = None,
        kind: str = "bridge",
        namespace: str = "prod",
        network: Network | None = None,
    ) -> Pod:
        """Return a started pod."""
        pod = self.new_pod(name, labels, kind, namespace, network)
        pod.start()
        return pod

    def die(self) -> None:
        """Every process of the machine is killed. Its wires are the lab's: :meth:`.Lab.cut`."""
        self.agent.end(signal.SIGKILL)
        self.machine.kill_all()

    def egressctl(self, *arguments: str) -> str:
        """Return the output of the operator's tool on this node. A verdict that is not OK is no failure."""
        command = (str(EGRESSCTL), "--config", str(self.agent.config), *arguments)
        return run(self.machine.command(*command), accepted=(0, NOT_OK))

    def log(self) -> str:
        """Return the agent's log so far, for messages of failing tests."""
        return self.agent.log.read_text() if self.agent.log.exists() else ""

    def plan(self) -> dict[str, Any]:
        """Return the plan that the agent left for the plugin."""
        return dict(json.loads((self.agent.run_dir / "plan.json").read_text()))
