"""``python -m tests.bench.daemon_rest``: what lease daemons take of a processor at rest, beside another version.

All daemons of a cluster run on this machine, on addresses of ``lo`` in a network of their own, without virtual
addresses. ``--beside`` names a checkout of another version: a second cluster runs it in the same seconds, so what else
the machine does hits both alike. It needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway_agent.lease.ipc import SOCKET, EgressIPSpec, KeeperConfig, KeeperState, Peer

from ..lab.namespace import REPOSITORY, Namespace
from ..lab.waiting import until
from . import report

SECTION = "daemon rest"
COMMAND = ".venv/bin/python -m tests.bench.daemon_rest"
PORT = 7947
MILLISECOND = 1_000_000
SIGN_OF_LIFE_S = 1.0
SETTLE_S = 18.0
"""Seconds after the first master: by then its announcements are over, and no egress IP moves for an even spread."""
NAMESPACE = "egw-daemon-rest"
LIMIT_S = 60.0


@dataclass(frozen=True)
class Used:
    """The use of one daemon: nanoseconds of a processor, and waits for the next event."""

    processor_ns: int
    waits: int


class Daemon:
    """One lease daemon, and the connection of its agent."""

    def __init__(self, machine: Namespace, checkout: Path, directory: Path, config: KeeperConfig) -> None:
        self.name = config.node
        self._directory = directory
        self._line = msgspec.json.encode(config) + b"\n"
        self._state = self._rest = b""
        directory.mkdir(parents=True)
        python = str(checkout / ".venv" / "bin" / "python")
        command = (python, "-I", "-m", "gateway_agent.lease_daemon", str(directory), "--stay")
        self._process = machine.spawn(*command, log=directory / "log")

    def connect(self) -> None:
        """Connect as the agent does, once the daemon listens."""
        until(self._connects, f"{self.name} listens", LIMIT_S)
        self._agent.setblocking(False)

    def _connects(self) -> bool:
        self._agent = socket.socket(socket.AF_UNIX)
        self._agent.connect(str(self._directory / SOCKET))
        return True

    def attend(self) -> None:
        """Repeat the configuration, as a sign of life, and take what the daemon says."""
        self._agent.send(self._line)
        with contextlib.suppress(BlockingIOError):
            while data := self._agent.recv(1 << 20):
                *lines, self._rest = (self._rest + data).split(b"\n")
                self._state = lines[-1] if lines else self._state

    @property
    def master(self) -> str:
        """Return the master that the daemon follows; empty if there is none, or not one of each egress IP."""
        egress = msgspec.json.decode(self._state, type=KeeperState).egress if self._state else ()
        return egress[0].master if egress and all(each.master for each in egress) else ""

    def used(self) -> Used:
        """Return what the process has used since its start."""
        status = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        waits = next(line.split()[1] for line in status if line.startswith("voluntary_ctxt_switches"))
        processor = Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[0]
        return Used(int(processor), int(waits))


def attend(daemons: Sequence[Daemon], seconds: float) -> None:
    """Be the agent of all daemons for a while."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for daemon in daemons:
            daemon.attend()
        time.sleep(min(SIGN_OF_LIFE_S, left))


def configs(
    egress: int, workers: int, port: int, key: Path, heartbeat_ms: int, addresses: int = 1
) -> Iterator[KeeperConfig]:
    """Yield the configuration of each node. ``addresses``: egress IPs, each of which every egress node can serve."""
    nodes = [f"g{number}" for number in range(1, egress + 1)]
    names = [*nodes, *(f"w{number}" for number in range(1, workers + 1))]
    peers = tuple(Peer(name, f"127.0.0.{at}", name in nodes) for at, name in enumerate(names, 1))
    for name in names:
        specs = tuple(
            EgressIPSpec(
                f"{number:016x}", "gateway", "", tuple(nodes), ready=name in nodes, shown="192.0.2.1"
            )
            for number in range(1, addresses + 1)
        )
        heartbeat = heartbeat_ms * MILLISECOND
        yield KeeperConfig(name, port, str(key), heartbeat, 5 * heartbeat, False, peers, specs)


def measure(checkouts: Sequence[Path], options: argparse.Namespace) -> list[tuple[float, float]]:
    """Return for each checkout the share of a processor, percent, and the waits in a second, of an egress node."""
    machine = Namespace(NAMESPACE)
    machine.create()
    try:
        with tempfile.TemporaryDirectory() as place:
            key = Path(place, "key")
            key.write_bytes(b"only for this bench")
            key.chmod(0o600)
            clusters = [
                [
                    Daemon(machine, checkout, Path(place, str(number), config.node), config)
                    for config in configs(
                        options.egress,
                        options.workers,
                        PORT + number,
                        key,
                        options.heartbeat,
                        options.addresses,
                    )
                ]
                for number, checkout in enumerate(checkouts)
            ]
            return _shares(clusters, options.seconds)
    finally:
        machine.delete()


def _shares(clusters: Sequence[Sequence[Daemon]], seconds: float) -> list[tuple[float, float]]:
    daemons = [daemon for cluster in clusters for daemon in cluster]
    for daemon in daemons:
        daemon.connect()

    def agreed() -> bool:
        attend(daemons, 0.5)
        return all(daemon.master for daemon in daemons)

    until(agreed, "all daemons follow a master", LIMIT_S)
    attend(daemons, SETTLE_S)
    egress = [[daemon for daemon in cluster if daemon.name.startswith("g")] for cluster in clusters]
    before, began = [[each.used() for each in cluster] for cluster in egress], time.monotonic()
    attend(daemons, seconds)
    after, taken = [[each.used() for each in cluster] for cluster in egress], time.monotonic() - began
    found = []
    for first, last in zip(before, after, strict=True):
        pairs = list(zip(first, last, strict=True))
        share = statistics.mean(b.processor_ns - a.processor_ns for a, b in pairs) / taken / 1e7
        found.append((share, statistics.mean(b.waits - a.waits for a, b in pairs) / taken))
    return found


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(
        prog="tests.bench.daemon_rest", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--egress", type=int, default=3, help="nodes that can be master (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--addresses", type=int, default=1, help="egress IPs (default: %(default)s)")
    parser.add_argument("--heartbeat", type=int, default=50, metavar="MS", help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="at rest (default: %(default)s)")
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", help="another version, at the same time")
    parser.add_argument("--document", type=Path, metavar="FILE", help="writes the table into it")
    options = parser.parse_args()
    checkouts = {"this version": REPOSITORY}
    if options.beside:
        checkouts["other version"] = options.beside.resolve()
    found = measure(list(checkouts.values()), options)
    lines = ["| egress node at rest | of a processor | times | waits in a second |", "|---|---|---|---|"]
    base = found[-1][0]
    for name, (share, waits) in zip(checkouts, found, strict=True):
        lines.append(f"| {name} | {share:.2f} % | {share / base:.2f} | {waits:.0f} |")
    print("\n".join(lines))
    if options.document:
        head = (f"`{COMMAND}`", "", report.machine(), "")
        report.write_section(options.document, SECTION, "\n".join((*head, *lines)))


if __name__ == "__main__":
    main()
