"""A watch over virtual addresses: what must never happen is looked for on the wires as long as it is open."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType

from . import frames
from .flow import Flow
from .lab import SELECTED, Lab
from .observing import Observers
from .overlap import Tenure, overlaps_among, takeovers_among
from .pod import Pod
from .silence import longest

INTERVAL_MS = 20.0
"""Milliseconds between two datagrams of a pod's flow."""
_NO_FLOOD = f"""\
table bridge lab_watch {{
    chain in {{
        type filter hook prerouting priority -300; policy accept;
        ether daddr {frames.FLOODED.hex(":")} drop
    }}
}}
"""
"""Rules against a flood: the observers' frames are captured where a node's cable ends; from there on they would only
be a load.
"""


class Watch:
    """Observers on every egress node, a capture outside, a flow from each pod; use it in a ``with`` statement.

    Each pod is to keep the address by which it arrives at the beginning.
    """

    def __init__(self, lab: Lab, addresses: Sequence[str], pods: Sequence[Pod] = ()) -> None:
        self.nodes = [node.name for node in lab.nodes.values() if node.host.is_egress]
        self.addresses = tuple(addresses)
        self.pauses: dict[str, float] = {}
        """Longest pause of each node's observer, milliseconds; known at the end."""
        self.silences: dict[str, float] = {}
        """Longest silence of each pod's flow, milliseconds; known at the end."""
        self._pods = {pod: pod.request(SELECTED, seconds=2).address for pod in pods}
        lan = lab.machines["lan"]
        with contextlib.ExitStack() as made:
            lan.run("nft", "-f", "-", text=_NO_FLOOD)
            made.callback(lan.run, "nft", "delete", "table", "bridge", "lab_watch")
            self._capture = made.enter_context(lab.capture())
            self._observers = made.enter_context(Observers(lab, self.nodes, addresses, brief=True))
            self._flows = {
                pod: made.enter_context(
                    Flow(pod.machine, lab.directory / f"flow-{pod.name}.log", SELECTED, interval=INTERVAL_MS)
                )
                for pod in pods
            }
            self._stack = made.pop_all()

    def owners(self, milliseconds: float) -> dict[str, tuple[str, ...]]:
        """By address the nodes that got a frame out within the last ``milliseconds``."""
        speaking = self._observers.speaking(milliseconds)
        return {address: speaking.get(address, ()) for address in self.addresses}

    def alone(self, milliseconds: float) -> bool:
        """Whether each address had exactly one owner in the last ``milliseconds``."""
        return all(len(nodes) == 1 for nodes in self.owners(milliseconds).values())

    def owner(self, milliseconds: float) -> str:
        """Return the only owner of the first address; empty if there is none or another."""
        found = self.owners(milliseconds)[self.addresses[0]]
        return found[0] if len(found) == 1 else ""

    def passes(self) -> bool:
        """Whether a new connection of each pod arrives by the pod's address."""
        return all(
            pod.request(SELECTED, seconds=0.3).address == address for pod, address in self._pods.items()
        )

    def recovered(self, milliseconds: float) -> Callable[[], bool]:
        """Return a condition for :func:`tests.lab.waiting.until`.

        It is true when, counted from now, each address has had exactly one owner for so long, and a new connection of
        each pod has arrived by its address.
        Not all in one moment: with several addresses one may be on its way to another node by a planned handover.
        """
        addresses, pods = set(self.addresses), dict(self._pods)

        def condition() -> bool:
            for address, nodes in self.owners(milliseconds).items():
                if len(nodes) == 1:
                    addresses.discard(address)
            for pod, own in list(pods.items()) if not addresses else ():
                with contextlib.suppress(OSError):
                    if pod.request(SELECTED, seconds=0.3).address == own:
                        del pods[pod]
            return not addresses and not pods

        return condition

    def failovers(self) -> list[tuple[int, str]]:
        """Each change of an owner since the beginning: when (ns since 1970), and the address; by time."""
        return sorted((change.at, change.address) for change in takeovers_among(self._tenures()))

    def wrong(self) -> list[str]:
        """Return everything forbidden that was seen since the beginning: two owners, packets by another address."""
        found = [str(overlap) for overlap in overlaps_among(self._tenures())]
        others = self._capture.sources(SELECTED) - set(self.addresses)
        return [*found, *(f"packets left by {address}" for address in sorted(others))]

    def end(self) -> list[str]:
        """As :meth:`wrong`, and what the pods say; afterwards nobody observes any more."""
        probes = {pod: flow.stop() for pod, flow in self._flows.items()}
        seen = {pod: {probe.address for probe in row} - {""} for pod, row in probes.items()}
        self.silences = {pod.name: longest(row).milliseconds for pod, row in probes.items()}
        self.pauses = {node: each.pause for node, each in self._observers.end().items()}
        return [
            *self.wrong(),
            *(f"{pod.name} arrived by {seen[pod]}, not only by {own}" for pod, own in self._pods.items()
              if seen[pod] != {own}),
        ]  # fmt: skip

    def _tenures(self) -> list[Tenure]:
        return self._observers.tenures()

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
