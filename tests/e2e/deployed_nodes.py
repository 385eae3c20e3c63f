"""Nodes whose containerd runs the pod of the DaemonSet, rendered from the manifests."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..lab import topology
from ..lab.cri.containerd import Containerd
from ..lab.cri.kubelet import KubeletPod
from ..lab.lab import Lab
from ..lab.namespace import REPOSITORY
from ..lab.node import Node
from .conftest import STANDALONE

MANIFESTS = REPOSITORY / "packaging" / "kubernetes"


@cache
def rendered(directory: str = "") -> list[dict[str, Any]]:
    command = ["kubectl", "kustomize", str(MANIFESTS / directory)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(done.stdout))


def daemon_set(directory: str = "") -> dict[str, Any]:
    return next(document for document in rendered(directory) if document["kind"] == "DaemonSet")


class Deployed:
    """A node with a container runtime that runs the DaemonSet's pod; its agent is the lab's, started otherwise."""

    def __init__(self, node: Node, lab: Lab, image: Path | None) -> None:
        self.node = node
        self.runtime = Containerd(node.machine, node.directory / "cri")
        network = node.network("bridge")
        # As the network plugin has written it, without ours.
        self.runtime.use(type(network)(network.name, network.plugins[:1], network.cni_version))
        spec = daemon_set()["spec"]["template"]["spec"]
        self._image, self._has = image, self._volumes(lab)
        self.pod = KubeletPod(self.runtime, node.name, spec, self._has, self._more(image), image, ["keeper"])

    def _volumes(self, lab: Lab) -> dict[str, Path]:
        config, key = self.node.directory / "config", self.node.directory / "key"
        state = self.node.directory / "state"
        for directory in (config, key, state, self.node.agent.run_dir, self.node.agent.run_dir / "cni"):
            directory.mkdir()
        (key / "cluster.key").write_text("a key that all nodes of this lab have in common")
        (key / "cluster.key").chmod(0o400)
        # What stands in the manifest, and where this lab has its API server.
        document = yaml.safe_load((MANIFESTS / "config" / "agent.yaml").read_text())
        store = yaml.safe_load(self.node.agent.config.read_text())["store"]
        account = "/var/run/secrets/kubernetes.io/serviceaccount/kubeconfig"
        document["store"] |= {"kubeconfig": account, "notReadyTaint": True, "readyCondition": True}
        document["clusterCIDRs"] = [topology.POD_NETWORKS]
        (config / "agent.yaml").write_text(yaml.safe_dump(document))
        token = self.node.directory / "token"
        token.mkdir()
        text = Path(store["kubeconfig"]).read_text()
        (token / "token").write_bytes((lab.directory / "token").read_bytes())
        (token / "kubeconfig").write_text(
            text.replace(str(lab.directory / "token"), "/var/run/secrets/kubernetes.io/serviceaccount/token")
        )
        return {
            "run": self.node.agent.run_dir,
            "state": state,
            "sysctl": Path("/proc/sys/net"),
            "cni-bin": self.runtime.directory / "bin",
            "cni-conf": self.runtime.directory / "net.d",
            "cni-report": self.node.agent.run_dir / "cni",
            "netns": Path("/run/netns"),
            "containerd": self.runtime.socket.parent,
            "config": config,
            "key": key,
            "token": token,
        }

    def _more(self, image: Path | None) -> dict[str, list[str]]:
        # On a machine with several nodes the socket has another place on each.
        options = ["--socket", str(self.node.agent.socket), *([] if image else ["--plugin", str(STANDALONE)])]
        options += ["--cri-socket", f"/run/containerd/{self.runtime.socket.name}"]
        return {"install-cni": options, "cni": options}

    def start(self) -> None:
        self.runtime.start()
        self.pod.start()

    def uninstall(self) -> None:
        spec = daemon_set("uninstall")["spec"]["template"]["spec"]
        pod = KubeletPod(self.runtime, self.node.name, spec, self._has, {}, self._image)
        pod.start()
        pod.stop()

    def end(self) -> None:
        for sandbox in self.runtime.sandboxes():
            self.runtime.stop(sandbox)
        self.runtime.end()

    @property
    def conflist(self) -> Path:
        [found] = (self.runtime.directory / "net.d").glob("*.conflist")
        return found

    def plugins(self) -> list[str]:
        return [plugin["type"] for plugin in json.loads(self.conflist.read_text())["plugins"]]
