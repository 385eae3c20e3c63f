"""The lease keeper's process: ``python -m gateway_agent.shell.keeper RUN_DIR``, started by the agent.

A plain loop under real-time scheduling, apart from all that may be slow. It outlives the agent for a while, so that
a restart or a crash of the agent moves nothing; it turns the tunnels to a new master itself, so that a failover
waits for nobody. It decides nothing: that is :mod:`gateway_agent.core.keeper`.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import secrets
import selectors
import socket
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

import msgspec

from cni.kernel import ids
from cni.kernel.errors import KernelError
from cni.kernel.neighbours import Neighbours

from ..core.keeper import Effect, Keeper, Remember, Send
from ..core.keeping import KeeperConfig, Peer
from ..core.report import report
from ..core.voters import Memory
from ..core.wire import LIMIT, Key

SOCKET = "keeper.sock"
LOCK = "keeper.lock"
LOG = "keeper.log"
VOTERS = "voters.json"
BUSY = 3
"""Exit code: another keeper holds the run directory."""
ORPHAN_NS = 10 * 1_000_000_000
"""How long leases are kept without a sign of life of the agent; then they are handed over."""
PRIORITY = 10
"""Of SCHED_FIFO."""
IP_FREEBIND = 15
NETWORK_CONTROL = 0xC0
"""IP precedence of routing protocols (RFC 4594, CS6): a busy link drops these last."""
BATCH = 64
"""Datagrams that are read before time is looked at again."""


class Connection:
    """An agent, or somebody who looks on."""

    def __init__(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        self.peer = peer
        self._rest = b""

    def lines(self) -> list[bytes] | None:
        """The lines that have come whole; None at the end."""
        try:
            data = self.peer.recv(1 << 20)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines

    def tell(self, line: bytes) -> bool:
        """False where the other side does not keep up: it is dropped, and may connect anew."""
        try:
            return self.peer.send(line) == len(line)
        except OSError:
            return False


class Process:
    """Sockets, clock and kernel around one :class:`Keeper`."""

    def __init__(self, run_dir: Path, listener: socket.socket) -> None:
        self._run_dir = run_dir
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._connections: dict[int, Connection] = {}
        self._listener = listener
        self._udp: socket.socket | None = None
        self._bound: tuple[str, int] = ("", 0)
        self._keeper: Keeper | None = None
        self._key = ("", Key(b""))
        self._neighbours = Neighbours()
        self._pointed: dict[str, str] = {}
        self._told = -1
        self._sign_of_life = boottime()
        self._problems: dict[str, str] = {}

    def run(self) -> None:
        """Until everything is handed over after the agent has asked for it, or has gone."""
        self._problems["scheduling"] = _real_time()
        gc.freeze()
        while not (self._keeper and self._keeper.finished(boottime())):
            for key, _ in self._selector.select(self._patience()):
                key.data(key.fileobj)
            now = boottime()
            if self._keeper is not None:
                if now >= self._keeper.next_wake():
                    self._carry_out(self._keeper.wake(now))
                self._point()
                self._tell()
            if now - self._sign_of_life > ORPHAN_NS and not self._orphaned():
                return

    def _patience(self) -> float:
        """Seconds until something is due."""
        until = self._sign_of_life + ORPHAN_NS
        if self._keeper is not None:
            until = min(until if not self._keeper.config.stopping else until + ORPHAN_NS, self._keeper.next_wake())
        return max(0.0, min((until - boottime()) / 1e9, 1.0))

    def _orphaned(self) -> bool:
        """Hands over as if the agent had asked for it; False where there is nothing to hand over."""
        if self._keeper is None:
            return False
        if not self._keeper.config.stopping:
            config = msgspec.structs.replace(self._keeper.config, stopping=True)
            self._carry_out(self._keeper.configure(config, self._key[1], boottime()))
        return True

    # --- the agent ---------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            peer, _ = listener.accept()
            self._connections[peer.fileno()] = Connection(peer)
            self._selector.register(peer, selectors.EVENT_READ, self._hear_agent)
            self._told = -1

    def _hear_agent(self, peer: socket.socket) -> None:
        lines = self._connections[peer.fileno()].lines()
        if lines is None:
            self._drop(peer)
            return
        # Only the last counts: each is the whole.
        for line in lines[-1:]:
            try:
                self._configure(msgspec.json.decode(line, type=KeeperConfig))
            except (msgspec.DecodeError, OSError, ValueError) as error:
                self._problems["configuration"] = f"the lease keeper cannot follow the agent: {error}"
            else:
                self._problems["configuration"] = ""
            self._told = -1

    def _drop(self, peer: socket.socket) -> None:
        self._selector.unregister(peer)
        del self._connections[peer.fileno()]
        peer.close()

    def _configure(self, config: KeeperConfig) -> None:
        now = boottime()
        self._sign_of_life = now
        # With each sign of life all tunnels are turned again: whatever became of the entries meanwhile.
        self._pointed.clear()
        if self._key[0] != config.key_file:
            self._key = (config.key_file, Key.parse(Path(config.key_file).read_bytes()))
        if self._keeper is None:
            incarnation = secrets.randbits(63) | 1
            self._keeper = Keeper(config, self._key[1], incarnation, self._remembered(), now)
        elif config == self._keeper.config or self._keeper.config.stopping:
            return
        self._bind(config)
        self._keeper.wall_offset_ns = time.time_ns() - now
        self._carry_out(self._keeper.configure(config, self._key[1], now))

    def _tell(self) -> None:
        """Tells everybody who is connected what has changed."""
        assert self._keeper is not None
        if self._keeper.revision == self._told:
            return
        self._told = self._keeper.revision
        problems = tuple(problem for problem in self._problems.values() if problem)
        line = msgspec.json.encode(report(self._keeper, boottime(), problems)) + b"\n"
        for connection in list(self._connections.values()):
            if not connection.tell(line):
                self._drop(connection.peer)

    # --- the other nodes ---------------------------------------------------------------------------------------

    def _bind(self, config: KeeperConfig) -> None:
        mine = _own(config)
        wanted = (mine.address if mine else "", config.port)
        if wanted == self._bound and self._udp is not None:
            return
        if self._udp is not None:
            self._selector.unregister(self._udp)
            self._udp.close()
            self._udp = None
        self._bound = wanted
        if not wanted[0]:
            return
        family = socket.AF_INET6 if ":" in wanted[0] else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        # The address may come later than this process, at boot.
        udp.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        with contextlib.suppress(OSError):
            udp.setsockopt(socket.SOL_IP, socket.IP_TOS, NETWORK_CONTROL)
        try:
            udp.bind(wanted)
        except OSError as error:
            udp.close()
            self._bound = ("", 0)
            raise OSError(error.errno, f"UDP {wanted[0]}:{wanted[1]}: {error.strerror}") from error
        self._udp = udp
        self._selector.register(udp, selectors.EVENT_READ, self._receive)

    def _receive(self, udp: socket.socket) -> None:
        assert self._keeper is not None
        for _ in range(BATCH):
            try:
                datagram, source = udp.recvfrom(LIMIT + 1)
            except BlockingIOError:
                return
            except OSError:
                # An ICMP error for an earlier datagram.
                continue
            self._carry_out(self._keeper.receive(datagram, source[0], boottime()))

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Remember):
                self._remember(effect.memory)
            elif isinstance(effect, Send) and self._udp is not None:
                # Lost like any datagram: full buffers, no route, a firewall.
                with contextlib.suppress(OSError):
                    self._udp.sendto(effect.data, (effect.address, self._bound[1]))

    def _point(self) -> None:
        """Turns each tunnel to the node that is master now."""
        assert self._keeper is not None
        addresses = {peer.name: peer.address for peer in self._keeper.config.peers}
        for wish in self._keeper.config.egress:
            master = self._keeper.followings.of(wish.id).master
            if not wish.device or master not in addresses or master == self._keeper.config.node:
                continue
            mac = ids.node_mac(addresses[master])
            if self._pointed.get(wish.device) != mac:
                try:
                    self._neighbours.set_master(wish.device, mac)
                except (KernelError, OSError) as error:
                    self._problems[wish.device] = str(error)
                else:
                    self._problems.pop(wish.device, None)
                    self._pointed[wish.device] = mac

    # --- what must outlive it ----------------------------------------------------------------------------------

    def _remembered(self) -> Memory | None:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode((self._run_dir / VOTERS).read_bytes(), type=Memory)
        return None

    def _remember(self, memory: Memory) -> None:
        new = self._run_dir / f".{VOTERS}"
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(msgspec.json.encode(memory))
            os.rename(new, self._run_dir / VOTERS)
        except OSError as error:
            self._problems[VOTERS] = f"{self._run_dir / VOTERS}: {error.strerror}"


def boottime() -> int:
    """Nanoseconds that go on while the machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _own(config: KeeperConfig) -> Peer | None:
    return next((peer for peer in config.peers if peer.name == config.node), None)


def _real_time() -> str:
    """Asks for real-time scheduling; says so where it is not to be had."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except OSError as error:
        with contextlib.suppress(OSError):
            os.nice(-20)
        return f"no real-time scheduling ({error.strerror}): heartbeats may be late under load"
    return ""


def _listen(run_dir: Path) -> socket.socket:
    path = run_dir / SOCKET
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen()
    return listener


def main() -> None:
    """Locks the run directory, listens, and only then goes into the background: who started it can connect."""
    run_dir = Path(sys.argv[1])
    lock = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(BUSY)
    listener = _listen(run_dir)
    if os.fork():
        os._exit(0)
    os.setsid()
    log = os.open(run_dir / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    nothing = os.open(os.devnull, os.O_RDWR)
    for target, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, target)
    os.chdir("/")
    status = 0
    try:
        Process(run_dir, listener).run()
    except Exception:
        traceback.print_exc()
        status = 1
    (run_dir / SOCKET).unlink(missing_ok=True)
    os._exit(status)


if __name__ == "__main__":
    main()
