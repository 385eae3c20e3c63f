"""The story of the basic egress gateway, told while it happens: real agents, real plugins, real packets.

``python -m tests.lab.demo [--keep | --clean]``. Exit code 1 where the story does not come true.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from dataclasses import replace
from types import FrameType

from . import documents, registry, topology
from .agent import EGRESSCTL
from .lab import SELECTED, Lab
from .namespace import REPOSITORY
from .pod import Connection, Pod
from .screen import Screen, StoryFailed
from .silence import longest
from .waiting import NotInTime, until

GATEWAY = "partner"
LOGS = REPOSITORY / "build" / "demo"
PICTURE = """\
 workers                    egress nodes                    outside
┌──────────────┐  tunnel   ┌───────────────┐              ┌──────────────┐
│ w1  ○ bridge ├══════════►│ g1 172.16.0.7 ├──┐           │ 203.0.113.10 │
│     ○ other  │           ├───────────────┤  │           │ lets in only │
├──────────────┤           │ g2 172.16.0.8 ├──┼─ router ─►│  172.16.0.7  │
│ w2  ○ ptp    ├══════════►├───────────────┤  │           │  172.16.0.8  │
└──────────────┘           │ g3 172.16.0.9 ├──┘           │  172.16.0.9  │
                           └───────────────┘              └──────────────┘
Each machine is a network namespace; all else is as on real ones."""


class Story:
    def __init__(self, lab: Lab, screen: Screen) -> None:
        self.lab = lab
        self.screen = screen
        self.addresses = {host.name: host.ip for host in (*lab.topology.nodes, *lab.topology.spare)}

    def tell(self) -> None:
        self.election()
        self.selected()
        self.unselected()
        self.failure()
        self.newcomer()
        self.replacement()

    def election(self) -> None:
        self.screen.scene("The platform assigns a master node")
        self.lab.publish_nodes()
        self.lab.publish("story", documents.story(self.lab.topology.egress_interface, GATEWAY))
        began = time.monotonic()
        self.lab.start_agents()
        until(lambda: self.lab.master(GATEWAY), "a master", 30)
        master = self.lab.wait_settled(GATEWAY)
        took = time.monotonic() - began
        self.screen.fact(f"all {len(self.lab.nodes)} agents name {master} ({self.addresses[master]})")
        self.screen.quiet(f"{took:.1f} s after the start of their processes, warm-up included")

    def selected(self) -> None:
        self.screen.scene("A request of a selected pod leaves through the master")
        self.bridged = self.lab.nodes["w1"].pod("backend-1", {"app": "backend"}, "bridge")
        self.routed = self.lab.nodes["w2"].pod("backend-2", {"app": "backend"}, "ptp")
        self._accepted(self.bridged, "on w1 (bridge plugin)")
        self._accepted(self.routed, "on w2 (ptp plugin)")

    def unselected(self) -> None:
        self.screen.scene("A pod that no policy selects leaves as its worker")
        other = self.lab.nodes["w1"].pod("other-1", {"app": "other"}, "bridge")
        answer = other.request()
        self.screen.expect(
            answer.address == self.addresses["w1"] and not answer.accepted,
            f"other-1 on w1: arrives from {answer.address}, refused",
            f"the outside answered {answer}",
        )

    def failure(self) -> None:
        before = self.lab.master(GATEWAY)
        self.screen.scene(f"The master's node dies: {before} loses its links, its processes are killed")
        connection = self.bridged.connect()
        connection.echo("anybody there?")
        allowed = set(self.addresses.values())
        with self.lab.capture() as capture, self.lab.probing(self.bridged) as probing:
            until(lambda: capture.packets(SELECTED), "a probe at the outside")
            self.lab.cut(before)
            self.lab.nodes[before].die()
            after = until(lambda: self._other_than(before), "a new master", 10)
            until(lambda: self.bridged.request().address == self.addresses[after], "requests pass again", 10)
            probes = probing.stop()
            witnessed = capture.sources(SELECTED)
        silence = longest(probes)
        self.screen.expect(_ended(connection), "the open connection through it has ended")
        connection.close()
        took = f"{silence.milliseconds:.0f} ms"
        self.screen.expect(silence.ended, f"new master: {after}; requests pass again after {took}")
        self._accepted(self.bridged, "on w1")
        self._accepted(self.routed, "on w2")
        self.screen.expect(
            witnessed == {self.addresses[before], self.addresses[after]} and witnessed <= allowed,
            f"{len(probes)} probes, one each ms: none left by any address but the two masters'",
            f"the outside saw {', '.join(sorted(witnessed))}",
        )

    def newcomer(self) -> None:
        [host] = self.lab.topology.spare
        self.screen.scene(f"A fourth egress node joins: {host.name}, {host.ip}")
        self.lab.add_host(host)
        self.lab.publish_nodes()
        self.lab.nodes[host.name].agent.start()
        until(lambda: self._sees_ready(host.name), f"{host.name} is ready", 30)
        self.screen.fact("one Node document for each node's directory; egressctl status says:")
        _, heading, members = self.lab.nodes["w1"].egressctl("status").partition("EGRESS NODE")
        self.screen.quiet(heading + members)

    def replacement(self) -> None:
        [host] = self.lab.topology.spare
        self.screen.scene(f"Once on the whitelist, {host.name} can serve: the others are retired")
        self.lab.allow(*(self.addresses[name] for name in ("g1", "g2", "g3", host.name)))
        self.screen.fact(f"the outside service adds {host.ip} to its whitelist")
        others = [replace(h, labels={}) for h in self.lab.topology.nodes]
        with self.lab.probing(self.bridged) as probing:
            self.lab.publish("nodes", [documents.node(h) for h in (*others, host)])
            until(lambda: self.lab.master(GATEWAY) == host.name, f"{host.name} is master", 20)
            until(lambda: self.bridged.request().address == host.ip, "requests arrive from it")
            silence = longest(probing.stop())
        self._accepted(self.bridged, "on w1")
        self.screen.fact(
            f"the handover: {silence.milliseconds:.0f} ms of silence, {silence.lost} probes lost"
        )

    def _accepted(self, pod: Pod, where: str) -> None:
        master = self.lab.master(GATEWAY)
        answer = pod.request()
        self.screen.expect(
            answer.accepted and answer.address == self.addresses.get(master),
            f"{pod.name} {where}: arrives from {answer.address} ({master}), accepted",
            f"the outside answered {answer}, the master is {master or 'unknown'}",
        )

    def _other_than(self, before: str) -> str:
        master = self.lab.master(GATEWAY)
        return "" if master == before else master

    def _sees_ready(self, name: str) -> bool:
        members = self.lab.nodes["w1"].agent.status()["members"]
        return any(member["node"] == name and member["ready"] for member in members)


def _ended(connection: Connection) -> bool:
    try:
        connection.echo("still there?")
    except OSError:
        return True
    return False


def look_around(lab: Lab, screen: Screen) -> None:
    """Says what can be done in a lab that was kept."""
    prefix, w1 = lab.directory.name, lab.nodes["w1"]
    screen.scene("The lab is left standing: look around")
    screen.say(f"machines:  ip netns list | grep {prefix}")
    screen.say(f"files:     {lab.directory}/<node>/: agent.yaml, agent.log, manifests/, run/")
    screen.say(f"status:    {EGRESSCTL} --config {w1.agent.config} status")
    screen.say(f"pods:      {EGRESSCTL} --config {w1.agent.config} pods")
    client = f"bash -c 'head -1 </dev/tcp/{topology.OUTSIDE}/8080'"
    screen.say(f"request:   ip netns exec {prefix}-w1-backend-1 {client}")
    screen.say(f"packets:   ip netns exec {prefix}-outside tcpdump -ni eth0")
    screen.say(f"kernel:    ip netns exec {prefix}-w1 nft list ruleset")
    screen.say(f"cable:     ip -n {prefix}-lan link set g4-eth0 down")
    screen.say("clear:     ./install.sh demo --clean")


def play(lab: Lab, screen: Screen, keep: bool) -> None:
    """The whole story in a lab. Raises :class:`StoryFailed`."""
    screen.fact(f"{len(lab.machines)} network namespaces, wired; the outside service listens")
    egress = [host.egress_ip for host in lab.topology.nodes if host.is_egress]
    lab.allow(*egress)
    screen.fact(f"whitelist: {', '.join(egress)}")
    try:
        Story(lab, screen).tell()
        if keep:
            lab.kept = True
            look_around(lab, screen)
    except (StoryFailed, NotInTime, RuntimeError, OSError) as error:
        lab.save_logs(LOGS)
        raise StoryFailed(f"{error}\n   the agents' logs are in {LOGS}") from error


def _interrupted(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./install.sh demo", description=__doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--keep", action="store_true", help="leave the lab standing, say how to look around")
    choice.add_argument("--clean", action="store_true", help="only clear away labs that were kept")
    options = parser.parse_args()
    screen = Screen()
    if options.clean:
        screen.say(f"cleared: {', '.join(registry.sweep(kept=True)) or 'nothing was left'}")
        return 0
    signal.signal(signal.SIGTERM, _interrupted)
    screen.say(PICTURE)
    began = time.monotonic()
    try:
        screen.scene("Machines and wires")
        with Lab(topology.flat()) as lab:
            play(lab, screen, options.keep)
    except StoryFailed as error:
        screen.fail(str(error))
        return 1
    except KeyboardInterrupt:
        screen.fail("interrupted; the lab is cleared away")
        return 130
    screen.say("")
    cleared = "" if options.keep else "; the lab is cleared away"
    screen.fact(f"done in {time.monotonic() - began:.0f} s{cleared}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
