"""Lease daemons whose keys, ports or tunnels differ: real ones replace a key, and name what differs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from gateway_agent.lease.ipc import Facts
from gateway_agent.lease.messages.keys import Key
from tests.lab.waiting import until

from .keeper_cluster import MILLISECOND, NODES, PORT, SECRET, Cluster, Node, cluster, shared

__all__ = ["cluster", "shared"]


def test_a_key_is_replaced_and_no_master_changes(cluster: Cluster, tmp_path: Path) -> None:
    master = cluster.settled()
    before = master.egress()
    rejected = {name: node.counters()["bad_mac"] for name, node in cluster.nodes.items()}
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

    def received_by_all(path: Path) -> bool:
        rows = [row for node in cluster.nodes.values() for row in node.keys().peers]
        return len(rows) == 6 and all(row.fingerprint == print_of[path] and row.known for row in rows)

    try:
        take(old, new)
        take(new, old)
        until(lambda: received_by_all(new), "all sign with the new key")
        take(new)
        assert cluster.settled() is master
        assert master.egress() == before
        assert {name: node.counters()["bad_mac"] for name, node in cluster.nodes.items()} == rejected
        # A file whose content changes is read anew as well.
        new.write_bytes(SECRET)
        until(
            lambda: cluster.one_master() and received_by_all(old),
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

    def message(named: str, here: str) -> str:
        return (
            f"node {named} at {NODES[named]} signs with a key that this node ({here}) does not have: the fingerprint "
            f"of that key is {numbers[named]}; this node signs with {numbers[here]}"
        )

    try:
        odd.send_config()
        until(
            lambda: message("g2", "g1") in nodes["g1"].problems() and "node g2 at" in nodes["g3"].problems(),
            "g2 is named, with both fingerprints",
            seconds=5,
        )
        until(lambda: message("g1", "g2") in odd.problems(), "g2 names g1, with both fingerprints")
    finally:
        odd.key_file = right
        odd.send_config()
    cluster.settled()
    until(lambda: not any("signs with" in node.problems() for node in nodes.values()), "no problem")


def test_a_node_with_another_tunnel_port_is_named_on_both_ends(cluster: Cluster) -> None:
    odd, other = cluster.nodes["g3"], cluster.nodes["g1"]
    right, odd.facts = odd.facts, Facts(4800, 250 * MILLISECOND, True, "")
    try:
        odd.send_config()
        message = "tunnel.port is 4799 on this node (g1) and 4800 on g3: it must be the same on all nodes"
        until(lambda: message in other.problems(), "g1 names g3", seconds=5)
        message = "tunnel.port is 4800 on this node (g3) and 4799 on g1"
        until(lambda: message in odd.problems(), "g3 names g1", seconds=5)
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
        message = "the tunnel's number (VNI) of partner is 77 on this node (g1) and 78 on g3"
        until(lambda: message in said()["g1"], "g1 names g3", seconds=15)
        message = "the tunnel's number (VNI) of partner is 78 on this node (g3) and 77 on g1"
        until(lambda: message in said()["g3"], "g3 names g1", seconds=15)
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
        message = (
            f"cluster.port is {PORT} on this node (g1) and {PORT + 1} on g3: it must be the same on all nodes"
        )
        until(lambda: message in said()["g1"], "g1 names g3", seconds=25)
        message = (
            f"cluster.port is {PORT + 1} on this node (g3) and {PORT} on g1: it must be the same on all nodes"
        )
        until(lambda: message in said()["g3"], "g3 names g1", seconds=25)
        message = "g1 (10.83.0.1, where no program listens)"
        until(lambda: message in said()["g3"], "g3 says so", seconds=25)
        unknown = f"no program listens at UDP port {PORT} of {NODES['g3']}"
        until(lambda: said() and unknown in reason("g1", "g3"), "g1 says so", seconds=25)
    finally:
        odd.port = right
        odd.send_config()
    cluster.settled()
    until(lambda: "cluster.port" not in "".join(said().values()), "no problem", seconds=10)


def test_a_node_that_receives_from_no_other_names_what_it_listens_on_and_sends_to(cluster: Cluster) -> None:
    deaf = cluster.nodes["g3"]
    right, deaf.port = deaf.port, PORT + 1
    try:
        message = (
            f"receives from no other node: it listens on UDP port {PORT + 1} of {NODES['g3']}, "
            "and sends to that port of g1"
        )
        until(lambda: message in deaf.problems(), "it says so", seconds=12)
    finally:
        deaf.port = right
        deaf.send_config()
    cluster.settled()
    until(lambda: "receives from no other node" not in deaf.problems(), "it receives again")
