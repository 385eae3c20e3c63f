"""A DHCP server and a client, both of busybox, which Debian's installer and many small systems use."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .namespace import Namespace
from .waiting import until

BUSYBOX = "/bin/busybox"
LEASE_S = 60
_SERVER = """start {address}
end {address}
interface {interface}
lease_file {directory}/leases
pidfile {directory}/pid
option subnet 255.255.255.0
option router {router}
option lease {lease}
"""
_SCRIPT = """#!/bin/sh
case "$1" in
deconfig) ip -4 address flush dev "$interface" ;;
bound)
    ip address add "$ip/24" dev "$interface"
    ip route replace default via "$router" dev "$interface"
    ;;
esac
echo "$1 $ip" >> {events}
"""


class Client:
    """A running client of one interface."""

    def __init__(self, machine: Namespace, interface: str, directory: Path) -> None:
        self._events = directory / "events"
        self._events.touch()
        script = directory / "script"
        script.write_text(_SCRIPT.format(events=self._events))
        script.chmod(0o755)
        command = (BUSYBOX, "udhcpc", "-f", "-t", "10", "-T", "1", "-i", interface, "-s", str(script))
        self.process = machine.spawn(*command, log=directory / "client.log")

    def events(self) -> list[str]:
        """Return what the client has told its script: ``bound ADDRESS``, ``renew ADDRESS`` and others."""
        return self._events.read_text().splitlines()

    def renew(self) -> None:
        """Ask the server for more time by one packet from the address, and wait for the answer."""
        before = len(self.events())
        self.process.send_signal(signal.SIGUSR1)
        until(
            lambda: any(event.startswith("renew") for event in self.events()[before:]), "the lease is renewed"
        )


@contextmanager
def leased(
    server: tuple[Namespace, str], client: tuple[Namespace, str], address: str, router: str, directory: Path
) -> Iterator[Client]:
    """Yield a client that has got ``address``. Machines come with the interface; ``directory`` holds all files."""
    machine, interface = server
    settings = directory / "server.conf"
    settings.write_text(
        _SERVER.format(
            address=address, interface=interface, directory=directory, router=router, lease=LEASE_S
        )
    )
    (directory / "leases").touch()
    running = machine.spawn(BUSYBOX, "udhcpd", "-f", str(settings), log=directory / "server.log")
    asking = Client(*client, directory)
    try:
        until(lambda: f"bound {address}" in asking.events(), "the client has the address", 20)
        yield asking
    finally:
        for process in (asking.process, running):
            process.kill()
            process.wait()
