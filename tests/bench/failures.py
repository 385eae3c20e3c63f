"""What can go wrong with a master, and how long selected pods are silent then."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ..lab.capture import Packet
from ..lab.lab import SELECTED, Lab
from ..lab.pod import Pod
from ..lab.silence import longest
from ..lab.waiting import until

CLUSTER_PORT = 7947
OBSERVED_S = 1.0
"""Seconds that are observed after each failure, at least: several times a lease."""
MID_ELECTION_S = 0.1
"""Seconds from a cut to a moment in the middle of the election: well inside a lease of 250 ms."""
Act = Callable[[Lab, str], None]


@dataclass(frozen=True)
class Failure:
    """``strike`` and ``heal`` are given the lab and the name of the master at that time."""

    name: str
    what: str
    strike: Act
    heal: Act
    moves: bool = True
    """True if another node must become master; else none may."""
    silent: bool = True
    """True if some probes are bound to be lost; else none may be."""
    at_all: bool = False
    """True if the other egress nodes are struck too."""


@dataclass(frozen=True)
class Run:
    """What one failure did to one pod."""

    failure: str
    before: str
    after: str
    """Name of the master at the end."""
    silence: float
    """Longest silence, milliseconds."""
    lost: int
    wrong: tuple[str, ...]
    """Addresses other than the two masters' from which packets of the selected pod arrived."""
    overlap: float
    """Milliseconds from the first packet by the new master to the last by the old one; 0 or less: none."""


def measure(lab: Lab, gateway: str, pod: Pod, failure: Failure) -> Run:
    """Lets a failure happen, waits until new connections pass again, heals it.

    Raises :class:`tests.lab.waiting.NotInTime` if they do not in time.
    """
    addresses = {node.name: node.host.egress_ip for node in lab.nodes.values() if node.host.is_egress}
    before = lab.wait_settled(gateway, 40)
    with lab.capture() as capture, lab.probing(pod) as probing:
        until(lambda: len(capture.packets(SELECTED)) > 100, "probes arrive", 5)
        struck = time.monotonic()
        try:
            failure.strike(lab, before)
            until(lambda: time.monotonic() - struck > OBSERVED_S, "the time of observation is over")
            passes = partial(_passes, lab, gateway, pod, addresses, failure, before)
            until(passes, f"{failure.name}: traffic passes")
            after = lab.master(gateway, asked="w1")
            probes = probing.stop()
        finally:
            failure.heal(lab, before)
        packets = capture.packets(SELECTED)
    silence = longest(probes)
    old, new = addresses[before], addresses[after]
    return Run(
        failure.name,
        before,
        after,
        silence.milliseconds,
        silence.lost,
        tuple(sorted({packet.source for packet in packets} - {old, new})),
        _overlap(packets, old, new),
    )


def _passes(
    lab: Lab, gateway: str, pod: Pod, addresses: dict[str, str], failure: Failure, before: str
) -> bool:
    master = lab.master(gateway, asked="w1")
    if not master or (master != before) != failure.moves:
        return False
    return pod.request(SELECTED, seconds=0.3).address == addresses[master]


def _overlap(packets: list[Packet], old: str, new: str) -> float:
    first = min((packet.at for packet in packets if packet.source == new), default=0)
    last = max((packet.at for packet in packets if packet.source == old), default=0)
    return (last - first) / 1e6 if old != new and first else 0.0


def _nothing(lab: Lab, master: str) -> None:
    """Heals by itself."""


def _cut(lab: Lab, master: str) -> None:
    lab.cut(master)


def _mend(lab: Lab, master: str) -> None:
    lab.mend(master)


def _die(lab: Lab, master: str) -> None:
    lab.cut(master)
    lab.nodes[master].die()


def _reboot(lab: Lab, master: str) -> None:
    lab.mend(master)
    lab.nodes[master].agent.start()


def _signal_agent(number: int) -> Act:
    return lambda lab, master: lab.nodes[master].agent.signal(number)


def _signal_all(number: int) -> Act:
    def act(lab: Lab, master: str) -> None:
        agent = lab.nodes[master].agent
        for pid in (agent.pid, *agent.keeper_pids()):
            os.kill(pid, number)

    return act


def _kill_agent(lab: Lab, master: str) -> None:
    lab.nodes[master].agent.kill()


def _kill_all(lab: Lab, master: str) -> None:
    agent = lab.nodes[master].agent
    keepers = agent.keeper_pids()
    agent.kill()
    for pid in keepers:
        os.kill(pid, signal.SIGKILL)


def _stop_agent(lab: Lab, master: str) -> None:
    lab.nodes[master].agent.stop()


def _start_agent(lab: Lab, master: str) -> None:
    lab.nodes[master].agent.start()


def _restart_agent(lab: Lab, master: str) -> None:
    lab.nodes[master].agent.restart()


def _interface_down(lab: Lab, master: str) -> None:
    lab.nodes[master].machine.ip(f"link set {lab.topology.egress_interface} down")


def _interface_up(lab: Lab, master: str) -> None:
    node = lab.nodes[master]
    # The kernel forgets the routes of an interface that is taken down.
    node.machine.ip(
        f"link set {lab.topology.egress_interface} up",
        f"route replace default via {node.host.gateway}",
    )


def _drop(*rules: str) -> Act:
    """Drop heartbeats on the master; ``OTHERS`` in a rule stands for the other egress nodes' addresses."""

    def act(lab: Lab, master: str) -> None:
        nodes = [node for node in lab.nodes.values() if node.host.is_egress and node.name != master]
        others = "{ " + ", ".join(node.host.ip for node in nodes) + " }"
        text = "\n".join(
            f"add table inet lab_loss\n"
            f"add chain inet lab_loss {hook} {{ type filter hook {hook} priority -400; }}\n"
            f"add rule inet lab_loss {rule.replace('OTHERS', others)} udp dport {CLUSTER_PORT} drop"
            for rule in rules
            for hook in [rule.split()[0]]
        )
        lab.nodes[master].machine.run("nft", "-f", "-", text=text + "\n")

    return act


def _drop_no_more(lab: Lab, master: str) -> None:
    lab.nodes[master].machine.run("nft", "delete", "table", "inet", "lab_loss")


def _restart_voters(lab: Lab, master: str) -> None:
    lab.cut(master)
    time.sleep(MID_ELECTION_S)
    for node in lab.nodes.values():
        if node.host.is_egress and node.name != master:
            for pid in node.agent.keeper_pids():
                os.kill(pid, signal.SIGKILL)


FAILURES = (
    Failure("node cut off", "all cables of the master are pulled", _cut, _mend),
    Failure("node dies", "cables pulled, all its processes killed", _die, _reboot),
    Failure(
        "agent stopped",
        "SIGSTOP to the agent; its keeper goes on",
        _signal_agent(signal.SIGSTOP),
        _signal_agent(signal.SIGCONT),
        moves=False,
        silent=False,
    ),
    Failure(
        "agent killed",
        "SIGKILL to the agent; its keeper goes on",
        _kill_agent,
        _start_agent,
        moves=False,
        silent=False,
    ),
    Failure(
        "node frozen",
        "SIGSTOP to agent and keeper",
        _signal_all(signal.SIGSTOP),
        _signal_all(signal.SIGCONT),
        silent=False,
    ),
    Failure("keeper killed", "SIGKILL to agent and keeper", _kill_all, _start_agent, silent=False),
    Failure("egress interface down", "the node is otherwise healthy", _interface_down, _interface_up),
    Failure("graceful stop", "SIGTERM", _stop_agent, _start_agent, silent=False),
    Failure("restart", "SIGHUP", _restart_agent, _nothing, moves=False, silent=False),
    Failure("deaf", "the master hears no heartbeats", _drop("input"), _drop_no_more, silent=False),
    Failure("mute", "nobody hears the master's heartbeats", _drop("output"), _drop_no_more, silent=False),
    Failure(
        "partition 1+2",
        "the master and the other egress nodes do not hear each other",
        _drop("input ip saddr OTHERS", "output ip daddr OTHERS"),
        _drop_no_more,
        silent=False,
    ),
    Failure(
        "voters restarted",
        "in the middle of the election after a cut",
        _restart_voters,
        _mend,
        at_all=True,
    ),
)
