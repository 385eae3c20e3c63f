"""Three lease daemons, each a real process in a network namespace of its own, on one bridge."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway_agent.lease.ipc import EgressIPSpec, EgressState, Facts, KeeperConfig, KeeperState, OwnKeys, Peer
from tests.lab.bridge import bridge
from tests.lab.namespace import Namespace, existing
from tests.lab.waiting import until

PREFIX = "egwlk-"
NODES = {"g1": "10.83.0.1", "g2": "10.83.0.2", "g3": "10.83.0.3"}
OUTSIDER = "10.83.0.9"
PORT = 7947
ONE = "00000000000000aa"
MILLISECOND = 1_000_000
SECRET = b"the key of this test, nothing else"


class Node:
    """A namespace with a keeper in it, and this process as its agent."""

    def __init__(self, name: str, run_dir: Path, key_file: Path) -> None:
        self.name = name
        self.namespace = Namespace(f"{PREFIX}{name}")
        self.run_dir = run_dir
        self.key_file = key_file
        self.port = PORT
        self.accepted: tuple[str, ...] = ()
        self.facts: Facts | None = Facts(4799, 250 * MILLISECOND, False, "")
        self.vni, self.sync = 77, False
        self.state: KeeperState | None = None
        self._agent: socket.socket | None = None
        self._rest = b""

    def start(self) -> None:
        self.namespace.run(sys.executable, "-m", "gateway_agent.lease_daemon", str(self.run_dir))
        self.connect()

    def connect(self) -> None:
        agent = socket.socket(socket.AF_UNIX)
        agent.connect(str(self.run_dir / "keeper.sock"))
        agent.setblocking(False)
        self._agent, self._rest = agent, b""
        self.send_config()

    def leave(self) -> None:
        """Disconnect the agent; the daemon stays."""
        if self._agent is not None:
            self._agent.close()
            self._agent = None

    def send_config(self) -> None:
        """Send the configuration, which is the sign of life, too."""
        if self._agent is not None:
            with contextlib.suppress(OSError):
                self._agent.send(msgspec.json.encode(self.config()) + b"\n")

    def config(self) -> KeeperConfig:
        peers = tuple(Peer(name, address, True) for name, address in NODES.items())
        spec = EgressIPSpec(ONE, "partner", "", tuple(NODES), ready=True, vni=self.vni, sync=self.sync)
        return KeeperConfig(
            self.name, self.port, str(self.key_file), 50 * MILLISECOND, 250 * MILLISECOND, False, peers, (spec,),
            accept_key_files=self.accepted, facts=self.facts,
        )  # fmt: skip

    def keys(self) -> OwnKeys:
        """Return the keys of the nodes, as a client that sends no configuration receives them."""
        with socket.socket(socket.AF_UNIX) as agent:
            agent.connect(str(self.run_dir / "keeper.sock"))
            state = msgspec.json.decode(agent.makefile("rb").readline(), type=KeeperState)
        assert state.keys is not None
        return state.keys

    def problems(self) -> str:
        self.send_config()
        state = self.read_state()
        return "\n".join(state.problems) if state else ""

    def read_state(self) -> KeeperState | None:
        """Return the newest state that has come."""
        with contextlib.suppress(BlockingIOError):
            while self._agent is not None and (data := self._agent.recv(1 << 20)):
                *lines, self._rest = (self._rest + data).split(b"\n")
                if lines:
                    self.state = msgspec.json.decode(lines[-1], type=KeeperState)
        return self.state

    def egress(self) -> EgressState:
        """Return the last received state of the egress IP without what is another at each renewal."""
        assert self.state is not None
        return msgspec.structs.replace(self.state.egress[0], margin_ms=None)

    def counters(self) -> dict[str, int]:
        """Return how many datagrams the daemon has counted, by their kind."""
        self.send_config()
        return until(self.read_state, "a state").counters

    def pid(self) -> int:
        (pid,) = self.namespace.pids()
        return pid

    def is_master(self) -> bool:
        state = self.read_state()
        return state is not None and state.egress[0].state == "master"

    def follows(self) -> str:
        state = self.read_state()
        return state.egress[0].master if state else ""


class Cluster:
    def __init__(self, directory: Path) -> None:
        key_file = directory / "cluster.key"
        key_file.write_bytes(SECRET)
        self.nodes = {}
        for name in NODES:
            run_dir = directory / name
            run_dir.mkdir(mode=0o700)
            self.nodes[name] = Node(name, run_dir, key_file)
        self.switch = Namespace(f"{PREFIX}switch")

    def lay_out(self) -> None:
        self.switch.create()
        self.switch.ip(*bridge("br0"), f"addr add {OUTSIDER}/24 dev br0")
        for name, address in NODES.items():
            node = self.nodes[name]
            node.namespace.create()
            self.switch.ip(
                f"link add {name} type veth peer name eth0 netns {node.namespace.name}",
                f"link set {name} master br0 up",
            )
            node.namespace.ip(f"addr add {address}/24 dev eth0", "link set eth0 up")

    def one_master(self) -> Node | None:
        """Return the master that all three follow."""
        for node in self.nodes.values():
            node.send_config()
        masters = [node for node in self.nodes.values() if node.is_master()]
        agreed = {node.follows() for node in self.nodes.values()}
        return masters[0] if len(masters) == 1 and agreed == {masters[0].name} else None

    def settled(self) -> Node:
        return until(self.one_master, "one master, followed by all", seconds=10)

    def another(self, old: Node) -> Node:
        """Wait for a new master; at no time it may share its office with the one before."""
        others = [node for node in self.nodes.values() if node is not old]

        def found() -> Node | None:
            for node in others:
                node.send_config()
            return next((node for node in others if node.is_master()), None)

        return until(found, f"a master other than {old.name}", seconds=5)

    def delete(self) -> None:
        for node in self.nodes.values():
            node.leave()
            node.namespace.delete()
        self.switch.delete()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if os.geteuid():
        pytest.skip("needs root: network namespaces")
    for name in existing(PREFIX):
        Namespace(name).delete()
    cluster = Cluster(tmp_path_factory.mktemp("keeper"))
    try:
        cluster.lay_out()
        for node in cluster.nodes.values():
            node.start()
        yield cluster
    finally:
        cluster.delete()


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    shared.settled()
    return shared
