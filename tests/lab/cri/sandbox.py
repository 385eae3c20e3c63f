"""A pod that a node's containerd runs."""

from __future__ import annotations

from ..namespace import Namespace, run
from ..node import Node
from ..pod import Client
from .containerd import Containerd


class Sandbox(Client):
    """A pod that is bound to the node, and its sandbox."""

    def __init__(self, node: Node, containerd: Containerd, name: str, labels: dict[str, str]) -> None:
        super().__init__(Namespace(f"{node.machine.name}-{name}"))
        assert node.cluster is not None
        self.name = name
        self.cluster = node.cluster
        self._containerd = containerd
        uid = self.cluster.run("prod", name, node.name, labels)
        self.id = containerd.run("prod", name, uid)
        self.address, self.pid = containerd.status(self.id)
        run(["ip", "netns", "attach", self.machine.name, str(self.pid)])

    def stop(self) -> None:
        self.forget()
        self._containerd.stop(self.id)
        self.cluster.remove("prod", self.name)

    def forget(self) -> None:
        """Its namespace has no name for us any more; what runs in it goes on."""
        run(["ip", "netns", "delete", self.machine.name])
