"""The first part of the demo: the outside sees the address of the master's own interface."""

from __future__ import annotations

import time
from dataclasses import replace

from . import documents
from .demo_part import GATEWAY, DemoPart, ended
from .pod import Pod
from .silence import longest
from .waiting import until


class BasicDemo(DemoPart):
    def run(self) -> None:
        self.election()
        self.selected()
        self.unselected()
        self.failure()
        self.newcomer()
        self.replacement()

    def election(self) -> None:
        self.screen.scene("The platform assigns a master node")
        self.lab.publish_nodes()
        self.lab.publish("objects", documents.basic_mode(self.lab.topology.egress_interface, GATEWAY))
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
        with self.witnessing(self.bridged, self.addresses[before]) as witnessed:
            self.lab.cut(before)
            self.lab.nodes[before].die()
            after = until(lambda: self._other_than(before), "a new master", 10)
            witnessed.allowed.add(self.addresses[after])
            until(lambda: self.bridged.request().address == self.addresses[after], "requests pass again", 10)
            silence = longest(witnessed.stop())
            self.screen.expect(ended(connection), "the open connection through it has ended")
            connection.close()
            took = f"{silence.milliseconds:.0f} ms"
            self.screen.expect(silence.ended, f"new master: {after}; requests pass again after {took}")
            self.measured.silences["basic mode, the master's node dies"] = silence
            self._accepted(self.bridged, "on w1")
            self._accepted(self.routed, "on w2")

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
        before = self.lab.master(GATEWAY)
        self.lab.allow(*(self.addresses[name] for name in ("g1", "g2", "g3", host.name)))
        self.screen.fact(f"the outside service adds {host.ip} to its whitelist")
        others = [replace(h, labels={}) for h in self.lab.topology.nodes]
        with self.witnessing(self.bridged, self.addresses[before], host.ip) as witnessed:
            self.lab.publish("nodes", [documents.node(h) for h in (*others, host)])
            until(lambda: self.lab.master(GATEWAY) == host.name, f"{host.name} is master", 20)
            until(lambda: self.bridged.request().address == host.ip, "requests arrive from it")
            silence = longest(witnessed.stop())
            self._accepted(self.bridged, "on w1")
            self.screen.fact(
                f"the handover: {silence.milliseconds:.0f} ms of silence, {silence.lost} probes unanswered"
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
