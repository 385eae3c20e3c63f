"""A bench for connection sync: three gateways with a ``conntrackd`` each, a worker and a server.

Run as a program, this file is the agent of one gateway: ``python -m tests.netns.conntrackd_lab RUN_DIR`` runs
what ``conntrackd.conf`` in it says, takes its part (``master`` or ``standby``) by lines on stdin, and leaves the
state in ``state.json``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import msgspec

from cni.plan import PlanNode
from gateway_agent.adapters.daemons.conntrackd import ConnectionSync
from gateway_agent.policy.egress_node import sync_groups
from gateway_agent.policy.egress_node.sync_groups import Syncing, SyncState
from tests.lab.bridge import bridge
from tests.lab.namespace import Namespace
from tests.lab.waiting import until

PREFIX = "egwct-"
WORKER, SERVER, VIRTUAL = "10.84.0.21", "203.0.113.10", "172.16.0.50"
NODES = {"g1": "10.84.0.7", "g2": "10.84.0.8", "g3": "10.84.0.9"}
DEVICE, ADDRESS = "egw-sync", "169.254.233.3"
TUNNELED = 0x08000000
REFRESH_S = 1.0
TIMEOUT_S = 15.0

RULES = """
table inet lab {{
  chain ingress {{
    type filter hook prerouting priority -90;
    ip saddr {worker} iifname "eth0" ct mark set {mark}
  }}
  chain leave {{
    type nat hook postrouting priority 90;
    oifname "eth1" ct mark and {tunneled} != 0 snat ip to {virtual}
  }}
  chain forward {{
    type filter hook forward priority 0;
    iifname "eth1" ct state new,invalid counter drop
  }}
  chain inbound {{
    type filter hook input priority 0;
    ip daddr {virtual} ct state new,invalid counter drop
  }}
}}
"""


class Gateway:
    def __init__(self, name: str, run_dir: Path) -> None:
        self.name = name
        self.namespace = Namespace(f"{PREFIX}{name}")
        self.run_dir = run_dir
        self.paths = sync_groups.files(str(run_dir), "sync")
        self.mark = TUNNELED | int(name[1:]) << 20
        self._agent: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        partners = tuple(PlanNode(name, address) for name, address in NODES.items() if name != self.name)
        text = sync_groups.configuration(Syncing(partners, (WORKER,)), self.paths, DEVICE, ADDRESS)
        (self.run_dir / "text").write_text(text)
        (self.run_dir / "state.json").unlink(missing_ok=True)
        program = (sys.executable, "-m", "tests.netns.conntrackd_lab", str(self.run_dir))
        self._agent = self.namespace.spawn(*program, log=self.run_dir / "log", reads=True)

    def set_role(self, part: str) -> None:
        assert self._agent is not None
        assert self._agent.stdin is not None
        self._agent.stdin.write(f"{part}\n".encode())
        self._agent.stdin.flush()

    def stop(self) -> None:
        """As a stop of the service; waits for its end."""
        if self._agent is not None:
            assert self._agent.stdin is not None
            self._agent.stdin.close()
            self._agent.wait(TIMEOUT_S)
            self._agent = None

    def kill(self) -> None:
        assert self._agent is not None
        self._agent.kill()
        self._agent.wait(TIMEOUT_S)
        self._agent = None

    def state(self) -> SyncState:
        with contextlib.suppress(FileNotFoundError):
            return msgspec.json.decode((self.run_dir / "state.json").read_bytes(), type=SyncState)
        return SyncState()

    def in_sync(self) -> None:
        until(lambda: self.state().in_sync, f"{self.name} in sync", TIMEOUT_S)

    def daemons(self) -> list[int]:
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.namespace.pids()}
        wanted = b"\0".join([b"conntrackd", b"-C", self.paths.configuration.encode(), b""])
        return [pid for pid, command in commands.items() if command == wanted]

    def entries(self, what: str = "") -> list[str]:
        """Entries of the worker's connections through gateways that have ``what`` in their text."""
        listed = self.namespace.run("conntrack", "-L", "--orig-src", WORKER, "--orig-dst", SERVER)
        return [line for line in listed.splitlines() if what in line]

    def flush(self) -> None:
        self.namespace.run("conntrack", "-F")


class Bench:
    def __init__(self, directory: Path) -> None:
        self.switch = Namespace(f"{PREFIX}switch")
        self.worker = Namespace(f"{PREFIX}worker")
        self.server = Namespace(f"{PREFIX}server")
        self.gateways = {}
        for name in NODES:
            (directory / name).mkdir()
            self.gateways[name] = Gateway(name, directory / name)
        self.log = directory / "server.log"

    def lay_out(self) -> None:
        self.switch.create()
        self.switch.ip(*(line for name in ("near", "far") for line in bridge(name)))
        self.worker.create()
        self._wire(self.worker, "near", "eth0", f"{WORKER}/24")
        self.server.create()
        self._wire(self.server, "far", "eth0", "172.16.0.100/24")
        self.server.ip(f"addr add {SERVER}/32 dev lo")
        for gateway in self.gateways.values():
            self._gateway(gateway)
        service = (sys.executable, "-m", "tests.lab.service", "--address", SERVER, "443")
        self.server.spawn(*service, log=self.log)
        until(lambda: b"ready" in self.log.read_bytes(), "the service listens")

    def _wire(self, host: Namespace, segment: str, device: str, address: str) -> None:
        port = f"{host.name.removeprefix(PREFIX)}-{device}"
        self.switch.ip(
            f"link add {port} type veth peer name {device} netns {host.name}",
            f"link set {port} master {segment} up",
        )
        host.ip(f"addr add {address} dev {device}", f"link set {device} up")

    def _gateway(self, gateway: Gateway) -> None:
        host, address = gateway.namespace, NODES[gateway.name]
        host.create({"net/ipv4/ip_forward": "1"})
        self._wire(host, "near", "eth0", f"{address}/24")
        self._wire(host, "far", "eth1", f"172.16.0.{address.rpartition('.')[2]}/24")
        host.ip(
            f"route add {SERVER}/32 via 172.16.0.100",
            f"link add {DEVICE} type vxlan id 15296173 local {address} dstport 4799 nolearning",
            f"addr add {ADDRESS}/32 dev {DEVICE}",
        )
        # Each has the same address on it, and no route leads back.
        host.sysctl(
            {
                f"net/ipv4/conf/{DEVICE}/{key}": value
                for key, value in (("accept_local", "1"), ("rp_filter", "2"))
            }
        )
        host.ip(f"link set {DEVICE} up")
        for partner in NODES.values():
            if partner != address:
                host.run("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", DEVICE, "dst", partner)
        rules = RULES.format(worker=WORKER, mark=gateway.mark, tunneled=TUNNELED, virtual=VIRTUAL)
        host.run("nft", "-f", "-", text=rules)

    def move(self, successor: str) -> None:
        """Move the virtual address and the worker's path to another gateway, at once."""
        for name, gateway in self.gateways.items():
            if name != successor:
                gateway.namespace.ip("addr flush dev eth1 to " + VIRTUAL)
        new = self.gateways[successor].namespace
        new.ip(f"addr replace {VIRTUAL}/32 dev eth1")
        (link,) = msgspec.json.decode(new.run("ip", "-json", "link", "show", "eth1"))
        self.server.ip(f"neigh replace {VIRTUAL} lladdr {link['address']} dev eth0")
        self.worker.ip(f"route replace {SERVER}/32 via {NODES[successor]}")

    def connect(self) -> socket.socket:
        sock = self.worker.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.settimeout(TIMEOUT_S)
        sock.connect((SERVER, 443))
        return sock

    def flows(self, first: int, count: int) -> None:
        """One datagram from each of ``count`` ports, each answered."""
        for port in range(first, first + count):
            with self.worker.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(TIMEOUT_S)
                sock.bind((WORKER, port))
                sock.sendto(b"x", (SERVER, 443))
                sock.recv(100)

    def delete(self) -> None:
        for gateway in self.gateways.values():
            gateway.namespace.delete()
        for host in (self.worker, self.server, self.switch):
            host.delete()


async def agent(run_dir: Path) -> None:
    def leave_state() -> None:
        for state in sync.state().values():
            (run_dir / "state.new").write_bytes(msgspec.json.encode(state))
            (run_dir / "state.new").replace(run_dir / "state.json")

    sync = ConnectionSync(run_dir, leave_state, refresh=REFRESH_S)
    sync.set({"sync": (run_dir / "text").read_text()})
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        sync.serve(line == b"master\n")
    await sync.stop()


if __name__ == "__main__":
    asyncio.run(agent(Path(sys.argv[1])))
