"""Three machines on a bridge."""

from __future__ import annotations

import json
import socket

from tests.lab.bridge import bridge
from tests.lab.namespace import Namespace


class Lan:
    """Machines ``a``, ``b`` and ``c``, each with ``eth1`` on one bridge; .1 to .3 and ::1 to ::3."""

    def __init__(self) -> None:
        self.switch, self.a, self.b, self.c = (
            Namespace(f"egwar-{name}") for name in ("switch", "a", "b", "c")
        )

    def create(self) -> None:
        self.switch.create()
        self.switch.ip(*bridge("lan", "mcast_snooping 0"))
        for number, machine in enumerate((self.a, self.b, self.c), 1):
            machine.create({"net/ipv6/conf/default/accept_dad": "0", "net/ipv6/conf/all/accept_dad": "0"})
            port = f"port{number}"
            machine.ip(
                f"link add eth1 type veth peer name {port} netns {self.switch.name}", "link set eth1 up"
            )
            self.switch.ip(f"link set {port} master lan", f"link set {port} up")
            machine.ip(f"address add 172.16.0.{number}/24 dev eth1")
            machine.ip(f"address add 2001:db8::{number}/64 dev eth1 nodad")

    def delete(self) -> None:
        for machine in (self.switch, self.a, self.b, self.c):
            machine.delete()


def mac(machine: Namespace) -> str:
    return str(json.loads(machine.run("ip", "-j", "link", "show", "dev", "eth1"))[0]["address"])


def known(machine: Namespace, address: str) -> str:
    listed = json.loads(machine.run("ip", "-j", "neighbour", "show", address))
    return str(listed[0].get("lladdr", "")) if listed else ""


def send(machine: Namespace, frame: bytes) -> None:
    with machine.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        machine.inside(lambda: raw.sendto(frame, ("eth1", 0)))
