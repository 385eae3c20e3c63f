"""keepalived on two egress nodes of a lab, at any advert interval (VRRP 3): started, signalled, asked who is master."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from ..lab.lab import Lab
from ..lab.waiting import until

ADDRESS = "172.16.0.99"
PORT = 9100
INTERFACE = "eth1"
PAIR = ("g1", "g2")
PRIORITIES = {"g1": 100, "g2": 99}
_CONFIGURATION = """\
global_defs {{
  router_id {name}
  vrrp_version 3
}}
vrrp_instance lab {{
  state BACKUP
  nopreempt
  interface {interface}
  virtual_router_id 52
  priority {priority}
  advert_int {interval}
  virtual_ipaddress {{
    {address}/32 dev {interface}
  }}
}}
"""


def master_down(interval: float, priority: int = max(PRIORITIES.values())) -> float:
    """Seconds without an advert after which a backup takes over: RFC 5798, 6.1, three adverts and the skew time.

    The lower the priority, the longer: by default the shortest of the pair.
    """
    return 3 * interval + (256 - priority) * interval / 256


class Keepalived:
    """The daemons of both nodes. ``interval`` between adverts, seconds."""

    def __init__(self, lab: Lab, interval: float) -> None:
        self.lab = lab
        self._interval = interval
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        folder = self.lab.directory / f"keepalived-{name}-{self._interval:g}"
        folder.mkdir(exist_ok=True)
        # A killed one leaves its files behind, and the next one takes them for its own that runs already.
        for pid_file in folder.glob("*pid"):
            pid_file.unlink()
        text = _CONFIGURATION.format(
            name=name,
            interface=INTERFACE,
            priority=PRIORITIES[name],
            interval=self._interval,
            address=ADDRESS,
        )
        configuration = folder / "keepalived.conf"
        configuration.write_text(text)
        configuration.chmod(0o600)
        self._processes[name] = self.lab.machines[name].spawn(
            *("keepalived", "--dont-fork", "--log-console", "--vrrp", f"--use-file={configuration}"),
            *(f"--pid={folder}/pid", f"--vrrp_pid={folder}/vrrp.pid"),
            log=folder / "log",
        )

    def signal(self, name: str, number: int) -> None:
        """To the child that does the work and to its parent."""
        process = self._processes[name]
        children = psutil.Process(process.pid).children() if process.poll() is None else []
        pids = [process.pid, *(child.pid for child in children)]
        if number == signal.SIGKILL:
            # Stopped before: a child that loses its parent cleans up, a parent that loses its child starts another.
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
        for pid in pids:
            os.kill(pid, number)

    def ended(self, name: str) -> None:
        """Wait for its end, then takes away what a killed one left, as a reboot would, and starts it anew."""
        self._processes[name].wait(timeout=10)
        machine = self.lab.machines[name]
        if ADDRESS in machine.run("ip", "-4", "address", "show"):
            machine.ip(f"address del {ADDRESS}/32 dev {INTERFACE}")
        self.start(name)

    @property
    def whole(self) -> bool:
        """Whether it runs on both nodes."""
        return all(process.poll() is None for process in self._processes.values())

    def stop(self) -> None:
        for name, process in self._processes.items():
            if process.poll() is None:
                self.signal(name, signal.SIGCONT)
                process.terminate()
                process.wait(timeout=10)


@contextmanager
def running(lab: Lab, interval: float) -> Iterator[Keepalived]:
    """``interval`` between adverts, seconds. It has a master; nothing of it is left afterwards."""
    daemons = Keepalived(lab, interval)
    try:
        for name in PAIR:
            daemons.start(name)
        until(lambda: holder(lab), "keepalived has a master", 20)
        yield daemons
    finally:
        daemons.stop()


def serve(lab: Lab) -> None:
    """Once for a lab: the echo service behind keepalived's address, on both nodes."""
    for name in PAIR:
        lab.serve(name, PORT, address=ADDRESS)


def holder(lab: Lab) -> str:
    """Return the node that alone has the address; empty while none or both have it."""
    having = [name for name in PAIR if ADDRESS in lab.machines[name].run("ip", "-4", "address", "show")]
    return having[0] if len(having) == 1 else ""
