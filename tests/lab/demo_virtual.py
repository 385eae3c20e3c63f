"""The second part of the demo: the outside sees virtual addresses, whichever node serves them. Needs the first part."""

from __future__ import annotations

from dataclasses import replace

from . import documents
from .connections import Connections, Outcome
from .demo_part import GATEWAY, DemoPart, Measured
from .lab import SELECTED, Lab
from .pod import Pod
from .screen import Screen
from .silence import longest
from .topology import VIRTUAL
from .waiting import until

ADDRESSES = (VIRTUAL, "172.16.0.78", "172.16.0.43")
ELIGIBLE = ("g1", "g2", "g3")
FRESH = 9002
"""Port of the outside service to which the scenes before have left no connection in any kernel."""
DOWNLOAD_INTERVAL_MS = 2.0
"""Milliseconds between two lines of the download."""


class VirtualDemo(DemoPart):
    def __init__(self, lab: Lab, screen: Screen, measured: Measured) -> None:
        super().__init__(lab, screen, measured)
        self.interface = lab.topology.egress_interface
        self.bridged = lab.nodes["w1"].pods["backend-1"]
        self.routed = lab.nodes["w2"].pods["backend-2"]

    def run(self) -> None:
        self.election()
        self.selected()
        self.failure()
        self.several()
        self.drain()

    def election(self) -> None:
        self.screen.scene(f"One virtual address in place of the nodes' own: {VIRTUAL}")
        self._as_at_first()
        self.lab.publish("objects", documents.virtual_ip([VIRTUAL], GATEWAY))
        self.lab.allow(VIRTUAL)
        self.screen.fact(f"EgressGateway {GATEWAY}: mode VirtualIPAddress, ip {VIRTUAL}")
        self.screen.fact(f"whitelist: {VIRTUAL}")
        until(lambda: self._masters().get(VIRTUAL), "a master of the address", 30)
        master = self.lab.wait_settled(GATEWAY, 30)
        until(lambda: self._holding(VIRTUAL) == [master], f"{master} alone has the address")
        for pod in (self.bridged, self.routed):
            until(lambda pod=pod: pod.request().address == VIRTUAL, f"{pod.name} follows the edit")  # type: ignore[misc]
        self.screen.fact(
            f"all {len(ELIGIBLE) + 2} agents name {master}; it has the address on {self.interface}"
        )

    def selected(self) -> None:
        self.screen.scene("Requests of selected pods arrive from it")
        self._accepted(self.bridged, "on w1")
        self._accepted(self.routed, "on w2")

    def failure(self) -> None:
        before = self._masters()[VIRTUAL]
        self.screen.scene(f"The master's node dies during a download: {before} is cut off and killed")
        with (
            self.witnessing(self.bridged, VIRTUAL) as witnessed,
            Connections(
                self.bridged.machine, self.lab.directory / "download.log", SELECTED, 1, DOWNLOAD_INTERVAL_MS
            ) as download,
        ):
            self.lab.cut(before)
            self.lab.nodes[before].die()
            after = until(lambda: self._other_than(before), "a new master", 10)
            until(lambda: self.bridged.request(seconds=0.3).address == VIRTUAL, "requests pass again", 10)
            silence = longest(witnessed.stop())
            took = f"{silence.milliseconds:.0f} ms"
            self.screen.expect(
                silence.ended, f"new master: {after}, same address; requests pass again after {took}"
            )
            [outcome] = download.stop()
            self._went_on(outcome)
            self.measured.silences["virtual address, the master's node dies"] = silence
            self.measured.pause = outcome.pause
            self._accepted(self.bridged, "on w1")
            self._accepted(self.routed, "on w2")
        self.revive(before)

    def several(self) -> None:
        self.screen.scene(f"Three addresses, spread over three nodes: {', '.join(ADDRESSES)}")
        self.lab.wait_settled(GATEWAY, 30)
        self.lab.publish("objects", documents.virtual_ip(ADDRESSES, GATEWAY))
        self.lab.allow(*ADDRESSES)
        until(self._spread, "one address on each node", 30)
        until(lambda: self.lab.settled(GATEWAY), "all are ready", 30)
        masters = self._masters()
        until(lambda: all(self._holding(a) == [masters[a]] for a in ADDRESSES), "each alone has its own")
        for address in ADDRESSES:
            self.screen.fact(f"{address}: {masters[address]} ({self.addresses[masters[address]]})")
        self.late = self.lab.nodes["w1"].pod("backend-3", {"app": "backend"}, "bridge")
        for pod in (self.bridged, self.routed, self.late):
            until(lambda pod=pod: pod.request().address in ADDRESSES, f"{pod.name} follows")  # type: ignore[misc]
            seen = {pod.request().address for _ in range(10)}
            self.screen.expect(
                len(seen) == 1 and seen <= set(ADDRESSES),
                f"{pod.name}: 10 requests, all from {' and '.join(sorted(seen))}",
            )

    def drain(self) -> None:
        address = self.late.request().address
        before = self._masters()[address]
        self.lab.serve("outside", FRESH)
        self.screen.scene(f"Maintenance: egressctl drain on {before}, the master of {address}")
        with (
            self.witnessing(self.late, address, port=FRESH) as witnessed,
            Connections(
                self.late.machine, self.lab.directory / "download.log", FRESH, 1, DOWNLOAD_INTERVAL_MS
            ) as download,
        ):
            self.screen.quiet(self.lab.nodes[before].egressctl("drain"))
            until(lambda: self._masters().get(address) not in ("", before), "another master")
            until(lambda: before not in self._holding(address), f"{before} has let go of the address")
            probes = witnessed.stop()
            [outcome] = download.stop()
            silence = longest(probes)
            self.screen.expect(
                witnessed.arrived() == len(probes),
                f"{len(probes):,} probes, one each ms: every one arrives outside",
                f"{witnessed.arrived():,} of {len(probes):,}",
            )
            if silence.lost:
                # Without connectionSync the new master drops the answer to a question that the old one has sent.
                self.screen.quiet(
                    f"{silence.lost} are not answered: without connectionSync an answer that comes"
                )
                self.screen.quiet("after the address has moved finds no connection")
            self._went_on(outcome)
            self.measured.silences["virtual address, drain"] = silence
        self.lab.nodes[before].egressctl("undrain")
        self.screen.fact(f"egressctl undrain: {before} can be master again")

    def _as_at_first(self) -> None:
        """Three egress nodes, all alive; who joined them leaves."""
        [host] = self.lab.topology.spare
        for name in ELIGIBLE:
            self.revive(name)
        until(lambda: all(self.lab.nodes[name].agent.answers() for name in ELIGIBLE), "all agents answer", 20)
        nodes = (*self.lab.topology.nodes, replace(host, labels={}))
        self.lab.publish("nodes", [documents.node(each) for each in nodes])
        until(lambda: self.lab.master(GATEWAY) in ELIGIBLE, f"{host.name} has handed over", 30)
        self.lab.nodes[host.name].agent.stop()
        self.lab.publish_nodes(*(each.name for each in self.lab.topology.nodes))
        self.screen.fact(f"{', '.join(ELIGIBLE)} serve again; {host.name} has handed over and leaves")

    def _went_on(self, outcome: Outcome) -> None:
        self.screen.expect(
            outcome.alive,
            f"the download goes on: {outcome.echoed:,} bytes, longest pause {outcome.pause:.0f} ms",
            f"it ended: {outcome.error or 'no answer'}",
        )

    def _accepted(self, pod: Pod, where: str) -> None:
        answer = pod.request()
        self.screen.expect(
            answer.accepted and answer.address == VIRTUAL,
            f"{pod.name} {where}: arrives from {answer.address} ({self._masters()[VIRTUAL]}), accepted",
            f"the outside answered {answer}",
        )

    def _masters(self) -> dict[str, str]:
        """By address, as w1 sees them."""
        return {egress["ip"]: egress["master"] for egress in self.lab.nodes["w1"].agent.status()["egressIPs"]}

    def _other_than(self, before: str) -> str:
        master = self._masters().get(VIRTUAL, "")
        return "" if master == before else master

    def _spread(self) -> bool:
        return sorted(self._masters().values()) == sorted(ELIGIBLE)

    def _holding(self, address: str) -> list[str]:
        """Return the nodes that have it in their kernel."""
        shown = ("ip", "-o", "address", "show", "to", f"{address}/32")
        return [name for name in ELIGIBLE if self.lab.nodes[name].machine.run(*shown).strip()]
