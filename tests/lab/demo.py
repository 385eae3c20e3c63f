"""The demo of the egress gateway, explained while it runs: real agents, real plugins, real packets.

``python -m tests.lab.demo [--keep | --clean]``. Exit code 1 if an expectation fails.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from types import FrameType

from . import registry, topology
from .agent import EGRESSCTL
from .demo_basic import BasicDemo
from .demo_part import Measured
from .demo_virtual import VirtualDemo
from .lab import Lab
from .namespace import REPOSITORY
from .screen import DemoFailed, Screen
from .waiting import NotInTime

LOGS = REPOSITORY / "build" / "demo"
PICTURE = """\
 workers                    egress nodes                    outside
┌──────────────┐  tunnel   ┌───────────────┐              ┌──────────────┐
│ w1  ○ bridge ├══════════►│ g1 172.16.0.7 ├──┐           │ 203.0.113.10 │
│     ○ other  │           ├───────────────┤  │           │ lets in only │
├──────────────┤           │ g2 172.16.0.8 ├──┼─ router ─►│  172.16.0.7  │
│ w2  ○ ptp    ├══════════►├───────────────┤  │           │  172.16.0.8  │
└──────────────┘           │ g3 172.16.0.9 ├──┘           │  172.16.0.9  │
                           └───────────────┘              └──────────────┘
Each machine is a network namespace; all else is as on real ones."""


def look_around(lab: Lab, screen: Screen) -> None:
    """Says what can be done in a lab that was kept."""
    prefix, w1 = lab.directory.name, lab.nodes["w1"]
    screen.scene("The lab is left standing: look around")
    screen.say(f"machines:  ip netns list | grep {prefix}")
    screen.say(f"files:     {lab.directory}/<node>/: agent.yaml, agent.log, manifests/, run/")
    screen.say(f"status:    {EGRESSCTL} --config {w1.agent.config} status")
    screen.say(f"pods:      {EGRESSCTL} --config {w1.agent.config} pods")
    client = f"bash -c 'head -1 </dev/tcp/{topology.OUTSIDE}/8080'"
    screen.say(f"request:   ip netns exec {prefix}-w1-backend-1 {client}")
    screen.say(f"packets:   ip netns exec {prefix}-outside tcpdump -ni eth0")
    screen.say(f"kernel:    ip netns exec {prefix}-w1 nft list ruleset")
    screen.say(f"cable:     ip -n {prefix}-lan link set g1-eth0 down")
    screen.say("clear:     ./install.sh demo --clean")


def conclude(screen: Screen, measured: Measured) -> None:
    """Print the final table: the measurements of this run, on this machine."""
    screen.scene("Measured in this run")
    width = max(len(what) for what, _ in measured.rows())
    for what, found in measured.rows():
        screen.say(f"{what:<{width}}  {found}")


def play(lab: Lab, screen: Screen, keep: bool) -> None:
    """Run both parts in a lab. Raises :class:`DemoFailed`."""
    screen.fact(f"{len(lab.machines)} network namespaces, wired; the outside service listens")
    egress = [host.egress_ip for host in lab.topology.nodes if host.is_egress]
    lab.allow(*egress)
    screen.fact(f"whitelist: {', '.join(egress)}")
    try:
        measured = Measured()
        BasicDemo(lab, screen, measured).run()
        VirtualDemo(lab, screen, measured).run()
        conclude(screen, measured)
        if keep:
            lab.kept = True
            look_around(lab, screen)
    except (DemoFailed, NotInTime, RuntimeError, OSError) as error:
        lab.save_logs(LOGS)
        raise DemoFailed(f"{error}\n   the agents' logs are in {LOGS}") from error


def _interrupted(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./install.sh demo", description=__doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--keep", action="store_true", help="leave the lab standing, say how to look around")
    choice.add_argument("--clean", action="store_true", help="only clear away labs that were kept")
    options = parser.parse_args()
    screen = Screen()
    if options.clean:
        screen.say(f"cleared: {', '.join(registry.sweep(kept=True)) or 'nothing was left'}")
        return 0
    signal.signal(signal.SIGTERM, _interrupted)
    screen.say(PICTURE)
    began = time.monotonic()
    try:
        screen.scene("Machines and wires")
        with Lab(topology.flat()) as lab:
            play(lab, screen, options.keep)
    except DemoFailed as error:
        screen.fail(str(error))
        return 1
    except KeyboardInterrupt:
        screen.fail("interrupted; the lab is cleared away")
        return 130
    screen.say("")
    cleared = "" if options.keep else "; the lab is cleared away"
    screen.fact(f"done in {time.monotonic() - began:.0f} s{cleared}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
