"""The yardstick: keepalived moves an address between two egress nodes (VRRP 3, adverts each 100 ms)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from ..lab.lab import Lab
from ..lab.pod import Probing
from ..lab.silence import longest
from ..lab.waiting import until

ADDRESS = "172.16.0.99"
PORT = 9100
INTERFACE = "eth1"
PAIR = ("g1", "g2")
_CONFIGURATION = """\
global_defs {{
  router_id {name}
  vrrp_version 3
}}
vrrp_instance lab {{
  state BACKUP
  nopreempt
  interface {interface}
  virtual_router_id 51
  priority {priority}
  advert_int 0.1
  virtual_ipaddress {{
    {address}/32 dev {interface}
  }}
}}
"""


@contextmanager
def running(lab: Lab) -> Iterator[None]:
    """keepalived and an echo service for its address on both nodes; none of it is left afterwards."""
    processes = []
    try:
        for priority, name in zip((100, 90), PAIR, strict=True):
            processes.append(_start(lab, name, priority))
            lab.serve(name, PORT, address=ADDRESS)
        until(lambda: holder(lab), "keepalived has a master", 10)
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait(timeout=10)


def _start(lab: Lab, name: str, priority: int) -> subprocess.Popen[bytes]:
    folder = lab.directory / f"keepalived-{name}"
    folder.mkdir()
    configuration = folder / "keepalived.conf"
    configuration.write_text(
        _CONFIGURATION.format(name=name, interface=INTERFACE, priority=priority, address=ADDRESS)
    )
    configuration.chmod(0o600)
    return lab.machines[name].spawn(
        *("keepalived", "--dont-fork", "--log-console", "--vrrp", f"--use-file={configuration}"),
        *(f"--pid={folder}/pid", f"--vrrp_pid={folder}/vrrp.pid"),
        log=folder / "log",
    )


def holder(lab: Lab) -> str:
    """The node that alone has the address; empty while none or both have it."""
    having = [name for name in PAIR if ADDRESS in lab.machines[name].run("ip", "-4", "address", "show")]
    return having[0] if len(having) == 1 else ""


def measure(lab: Lab) -> float:
    """Milliseconds of silence, seen from outside, when the node that has the address is cut off."""
    before = until(lambda: holder(lab), "one node has the address")
    outside, log = lab.machines["outside"], lab.directory / "prober.log"
    with lab.capture() as capture, Probing(outside, ADDRESS, PORT, log) as probing:
        until(lambda: len(capture.packets()) > 100, "answers arrive", 5)
        lab.cut(before)
        try:
            until(lambda: _taken(lab, before), "keepalived has a new master")
            probes = probing.stop()
        finally:
            lab.mend(before)
    until(lambda: holder(lab) not in ("", before), "the old holder has let go")
    return longest(probes).milliseconds


def _taken(lab: Lab, before: str) -> bool:
    return any(
        ADDRESS in lab.machines[name].run("ip", "-4", "address", "show") for name in PAIR if name != before
    )
