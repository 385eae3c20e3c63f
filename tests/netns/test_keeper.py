"""Three lease daemons, each a real process in a network namespace of its own, on one bridge."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from gateway_agent.lease.ipc import EgressIPSpec, Facts, KeeperConfig, KeeperState, OwnKeys, Peer
from gateway_agent.lease.lifecycle import ORPHAN_NS
from gateway_agent.lease.messages.bodies import Hello, encode
from gateway_agent.lease.messages.keys import Key, Keyring
from gateway_agent.lease.messages.wire import Endpoint
from tests.lab.namespace import Namespace, existing
from tests.lab.waiting import until

PREFIX = "egwlk-"
NODES = {"g1": "10.83.0.1", "g2": "10.83.0.2", "g3": "10.83.0.3"}
OUTSIDER = "10.83.0.9"
PORT = 7947
ONE = "00000000000000aa"
MILLISECOND = 1_000_000
SECRET = b"the key of this test, nothing else"
LIMIT_MS = 400


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
        """Also the sign of life."""
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
        """By which keys the nodes talk, as somebody who only looks on is told."""
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
        self.switch.ip("link add br0 type bridge", "link set br0 up", f"addr add {OUTSIDER}/24 dev br0")
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
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
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
def cluster(standing: Cluster) -> Cluster:
    standing.settled()
    return standing


def failover_ms(successor: Node, since: float) -> float:
    """From ``since`` (wall clock, seconds) to the moment at which the successor says it took over."""
    assert successor.state is not None
    return (successor.state.egress[0].since - since) * 1000


def test_the_keeper_shuts_others_out(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        for path in node.run_dir.iterdir():
            assert path.stat().st_mode & 0o077 == 0, path
        second = node.namespace.command(sys.executable, "-m", "gateway_agent.lease_daemon", str(node.run_dir))
        assert os.spawnvp(os.P_WAIT, second[0], second) == 3


def test_a_killed_master_is_replaced_in_time(cluster: Cluster) -> None:
    old = cluster.settled()
    killed = time.time()
    os.kill(old.pid(), signal.SIGKILL)
    took = failover_ms(cluster.another(old), killed)
    until(lambda: not old.namespace.pids(), "the killed keeper is gone")
    old.start()
    assert 0 < took < LIMIT_MS
    cluster.settled()


def test_what_a_keeper_logged_outlives_it(cluster: Cluster) -> None:
    """Also a message that it could not handle: it goes on, and says why."""
    node = cluster.nodes["g3"]
    log = node.run_dir / "keeper.log"
    with log.open("a") as file:
        file.write("why it ended\n")
    os.kill(node.pid(), signal.SIGKILL)
    until(lambda: not node.namespace.pids(), "the killed keeper is gone")
    node.start()
    cluster.settled()
    assert "why it ended\n" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_log_that_has_grown_is_put_aside(cluster: Cluster) -> None:
    node = cluster.nodes["g3"]
    log = node.run_dir / "keeper.log"
    os.truncate(log, 2 << 20)
    os.kill(node.pid(), signal.SIGKILL)
    until(lambda: not node.namespace.pids(), "the killed keeper is gone")
    node.start()
    cluster.settled()
    assert log.stat().st_size < 1 << 20
    assert log.with_name("keeper.log.1").stat().st_size == 2 << 20


def test_a_stopped_master_is_replaced_and_wakes_up_as_nothing(cluster: Cluster) -> None:
    old = cluster.settled()
    pid, stopped = old.pid(), time.time()
    os.kill(pid, signal.SIGSTOP)
    try:
        successor = cluster.another(old)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert 0 < failover_ms(successor, stopped) < LIMIT_MS
    assert cluster.settled() is successor


@pytest.mark.parametrize("hook", ["input", "output"])
def test_one_way_loss_gives_a_new_master_and_never_two(cluster: Cluster, hook: str) -> None:
    old = cluster.settled()
    cut = time.time()
    rules = f"add table inet cut; add chain inet cut c {{ type filter hook {hook} priority 0; }}; "
    old.namespace.run("nft", "-f", "-", text=f"{rules}add rule inet cut c udp dport {PORT} drop\n")
    try:
        successor = cluster.another(old)
        until(lambda: not old.is_master(), "the old one says that it is not", seconds=2)
        assert old.state is not None
        assert not any(change.after == old.name and change.at > cut for change in old.state.changes)
        assert 0 < failover_ms(successor, cut) < LIMIT_MS
    finally:
        old.namespace.run("nft", "delete", "table", "inet", "cut")
    assert cluster.settled() is successor


def test_a_restart_of_the_agent_moves_nothing(cluster: Cluster) -> None:
    master = cluster.settled()
    assert master.state is not None
    before, pid = master.state.egress[0], master.pid()
    master.leave()
    gone = time.monotonic()
    until(
        lambda: time.monotonic() > gone + 2 and cluster_follows(cluster, master), "it is master on", seconds=5
    )
    master.connect()
    until(lambda: master.state and master.is_master(), "it says so")
    assert master.state.egress[0] == before
    assert master.pid() == pid


def test_agents_that_end_before_they_say_anything_are_signs_of_life_too(cluster: Cluster) -> None:
    """One that is killed again and again starts each time: what its node serves stays where it is."""
    master = cluster.settled()
    master.leave()
    gone = time.monotonic()

    def outlived() -> bool:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.connect(str(master.run_dir / "keeper.sock"))
        assert cluster_follows(cluster, master)
        return time.monotonic() > gone + ORPHAN_NS / 1e9 + 2

    until(outlived, "longer than a keeper waits for its agent", seconds=20)
    master.connect()
    until(master.is_master, "it says so")


def cluster_follows(cluster: Cluster, master: Node) -> bool:
    others = [node for node in cluster.nodes.values() if node is not master]
    for node in others:
        node.send_config()
    return all(node.follows() == master.name for node in others)


def test_forged_replayed_truncated_and_random_datagrams_are_counted_and_ignored(cluster: Cluster) -> None:
    """By the address of a node, and by one of none: of that, a few datagrams a second are looked into."""
    master = cluster.settled()
    target = (NODES[master.name], PORT)
    feigned = next(name for name in NODES if name != master.name)
    peers = {name: address for name, address in NODES.items() if name != feigned}
    rightful = Endpoint(feigned, 7, Keyring(Key.parse(SECRET)), peers).seal(master.name, encode(Hello()))
    wrong = Keyring(Key.parse(b"not the key of the cluster"))
    forged = Endpoint(feigned, 7, wrong, peers).seal(master.name, encode(Hello()))
    bad = (forged, rightful[:-1], os.urandom(16) + rightful[16:], rightful[:9], bytes(200))
    before = _counters(master)
    outsider = cluster.switch.socket(socket.AF_INET, socket.SOCK_DGRAM)
    insider = cluster.nodes[feigned].namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with contextlib.closing(outsider), contextlib.closing(insider):
        insider.bind((NODES[feigned], 0))
        for datagram in bad:
            insider.sendto(datagram, target)
        for datagram in (rightful, rightful, rightful[:9], bytes(200)):
            outsider.sendto(datagram, target)

    def counted() -> bool:
        after = _counters(master)
        more = {name: after[name] - before[name] for name in before}
        strangers = more["wrong_address"] + more["unknown_address"]
        return (more["bad_mac"], more["truncated"], more["malformed"], strangers) == (3, 2, 2, 2)

    until(counted, f"each by its kind, more than {before}")
    assert cluster.settled() is master


def test_a_replay_from_the_right_address_is_counted_and_ignored(cluster: Cluster) -> None:
    master = cluster.settled()
    sender = next(node for node in cluster.nodes.values() if node is not master)
    recorded = _record(sender, master)
    before = _counters(master)
    again = sender.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with contextlib.closing(again):
        again.bind((NODES[sender.name], 0))
        for _ in range(5):
            again.sendto(recorded, (NODES[master.name], PORT))
    until(lambda: _counters(master)["replayed"] >= before["replayed"] + 5, "five replays counted")
    assert cluster.settled() is master


def _record(sender: Node, receiver: Node) -> bytes:
    """Return a genuine datagram, off the wire, once it has been delivered."""
    sniffer = receiver.namespace.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    with contextlib.closing(sniffer):
        sniffer.settimeout(5)
        while True:
            packet, link = sniffer.recvfrom(65535)
            header = (packet[0] & 15) * 4
            mine = socket.inet_ntoa(packet[12:16]) == NODES[sender.name] and link[2] == socket.PACKET_HOST
            if mine and packet[9] == socket.IPPROTO_UDP:
                return packet[header + 8 :]


def _counters(node: Node) -> dict[str, int]:
    node.send_config()
    state = until(node.read_state, "a state")
    return state.counters


def test_a_key_is_replaced_and_no_master_changes(cluster: Cluster, tmp_path: Path) -> None:
    master = cluster.settled()
    assert master.state is not None
    before = master.state.egress[0]
    rejected = {name: _counters(node)["bad_mac"] for name, node in cluster.nodes.items()}
    old, new = master.key_file, tmp_path / "new.key"
    new.write_bytes(b"the next key of this test, nothing else")
    print_of = {path: Key.parse(path.read_bytes()).fingerprint for path in (old, new)}

    def has(node: Node, paths: tuple[Path, ...]) -> bool:
        return node.keys().accepts == tuple(print_of[path] for path in paths)

    def take(*paths: Path) -> None:
        for node in cluster.nodes.values():
            node.key_file, node.accepted = paths[0], tuple(map(str, paths[1:]))
            node.send_config()
            until(partial(has, node, paths), f"{node.name} has its keys")
            cluster.settled()

    def all_heard_by(path: Path) -> bool:
        rows = [row for node in cluster.nodes.values() for row in node.keys().heard]
        return len(rows) == 6 and all(row.fingerprint == print_of[path] and row.known for row in rows)

    try:
        take(old, new)
        take(new, old)
        until(lambda: all_heard_by(new), "all sign with the new key")
        take(new)
        assert cluster.settled() is master
        assert master.state.egress[0] == before
        assert {name: _counters(node)["bad_mac"] for name, node in cluster.nodes.items()} == rejected
        # A file whose content changes is read anew as well.
        new.write_bytes(SECRET)
        until(
            lambda: cluster.one_master() and all_heard_by(old),
            "the key is that of the test again",
            seconds=10,
        )
    finally:
        take(old)


def test_a_node_that_signs_with_another_key_is_named(cluster: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    other.write_bytes(b"a key that no other node has")
    odd, nodes = cluster.nodes["g2"], cluster.nodes
    right, odd.key_file = odd.key_file, other
    numbers = {"g2": Key.parse(other.read_bytes()).fingerprint, "g1": Key.parse(SECRET).fingerprint}

    def words(named: str, here: str) -> str:
        return (
            f"node {named} at {NODES[named]} signs with a key that this node ({here}) does not have: the fingerprint "
            f"of that key is {numbers[named]}; this node signs with {numbers[here]}"
        )

    try:
        odd.send_config()
        until(
            lambda: words("g2", "g1") in nodes["g1"].problems() and "node g2 at" in nodes["g3"].problems(),
            "g2 is named, with both fingerprints",
            seconds=5,
        )
        until(lambda: words("g1", "g2") in odd.problems(), "g2 names g1, with both fingerprints")
    finally:
        odd.key_file = right
        odd.send_config()
    cluster.settled()
    until(lambda: not any("signs with" in node.problems() for node in nodes.values()), "nothing to tell")


def test_a_node_with_another_tunnel_port_is_named_on_both_ends(cluster: Cluster) -> None:
    odd, other = cluster.nodes["g3"], cluster.nodes["g1"]
    right, odd.facts = odd.facts, Facts(4800, 250 * MILLISECOND, True, "")
    try:
        odd.send_config()
        words = "tunnel.port is 4799 on this node (g1) and 4800 on g3: it must be the same on all nodes"
        until(lambda: words in other.problems(), "g1 names g3", seconds=5)
        words = "tunnel.port is 4800 on this node (g3) and 4799 on g1"
        until(lambda: words in odd.problems(), "g3 names g1", seconds=5)
        assert "quorum is AvailabilityFirst on this node (g3) and Strict on g1" in odd.problems()
        until(
            lambda: odd.problems() and odd.state and "not that of most" in odd.state.unfit, "g3 cannot serve"
        )
        assert other.state is not None
        assert other.state.unfit == ""
    finally:
        odd.facts = right
        odd.send_config()
    until(
        lambda: not any("tunnel.port" in node.problems() for node in cluster.nodes.values()), "agreed again"
    )


def test_nodes_whose_tunnels_differ_are_named_on_both_ends(cluster: Cluster) -> None:
    odd = cluster.nodes["g3"]

    def said() -> dict[str, str]:
        return {name: node.problems() for name, node in cluster.nodes.items()}

    try:
        odd.vni, odd.sync = 78, True
        words = "the tunnel's number (VNI) of partner is 77 on this node (g1) and 78 on g3"
        until(lambda: words in said()["g1"], "g1 names g3", seconds=15)
        words = "the tunnel's number (VNI) of partner is 78 on this node (g3) and 77 on g1"
        until(lambda: words in said()["g3"], "g3 names g1", seconds=15)
        assert "connectionSync of partner is true on this node (g3) and false on g1" in odd.problems()
    finally:
        odd.vni, odd.sync = 77, False
    until(lambda: "of partner" not in "".join(said().values()), "agreed again", seconds=5)


def test_a_node_with_another_cluster_port_is_named_on_both_ends(cluster: Cluster) -> None:
    odd = cluster.nodes["g3"]
    right, odd.port = odd.port, PORT + 1

    def said() -> dict[str, str]:
        return {name: node.problems() for name, node in cluster.nodes.items()}

    def reason(node: str, of: str) -> str:
        state = cluster.nodes[node].read_state()
        return next(member.reason for member in state.members if member.node == of) if state else ""

    try:
        words = (
            f"cluster.port is {PORT} on this node (g1) and {PORT + 1} on g3: it must be the same on all nodes"
        )
        until(lambda: words in said()["g1"], "g1 names g3", seconds=25)
        words = (
            f"cluster.port is {PORT + 1} on this node (g3) and {PORT} on g1: it must be the same on all nodes"
        )
        until(lambda: words in said()["g3"], "g3 names g1", seconds=25)
        words = "g1 (10.83.0.1, where nobody listens)"
        until(lambda: words in said()["g3"], "g3 was told so", seconds=25)
        nobody = f"nobody listens at UDP port {PORT} of {NODES['g3']}"
        until(lambda: said() and nobody in reason("g1", "g3"), "g1 was told so", seconds=25)
    finally:
        odd.port = right
        odd.send_config()
    cluster.settled()
    until(lambda: "cluster.port" not in "".join(said().values()), "nothing to tell", seconds=10)


def test_a_node_that_hears_nobody_says_what_it_listens_on_and_sends_to(cluster: Cluster) -> None:
    deaf = cluster.nodes["g3"]
    right, deaf.port = deaf.port, PORT + 1
    try:
        words = f"hears no other node: it listens on UDP port {PORT + 1} of {NODES['g3']}, and sends to that port of g1"
        until(lambda: words in deaf.problems(), "it says so", seconds=12)
    finally:
        deaf.port = right
        deaf.send_config()
    cluster.settled()
    until(lambda: "hears no other node" not in deaf.problems(), "it hears again")
