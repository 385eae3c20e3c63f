"""Refreshes of the fence beside what else an agent does in netfilter, in one process: how long each refresh takes.

``python -m tests.netns.fence_beside_agent stay|go WORK TIMES`` prints the milliseconds of each refresh as JSON.
``stay``: the process keeps its sockets of netfilter, as an agent does. WORK: ``rules``, changes of another table;
``connections``, all that an agent does with connections.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from cni.kernel.netlink.conntrack import ctnetlink
from cni.kernel.nftables import nft
from gateway_agent.adapters.kernel.kernel_thread import keep_sockets
from gateway_agent.gateway_rules.fence import fence_nft
from gateway_agent.lease_daemon.kernel.vip_fence import Fence

from ..lab.witness import run_in_real_time
from .link import VIRTUAL

POD = "10.244.0.10"
LIFETIME_NS = 1_000_000_000
PACE_S = 0.002
PAUSE_S = 0.01
"""Seconds between two works with connections, which take less than one millisecond each."""
MARK = 0x08000000
TABLE = "delete table inet changing\ntable inet changing {{\n\tchain c {{\n\t\tmeta mark {} drop\n\t}}\n}}\n"


def refresh(ended: threading.Event, taken: list[float]) -> None:
    """Refresh the fence until ``ended``, and note the milliseconds of each time."""
    run_in_real_time()
    fence, number = Fence(), 0
    while not ended.wait(PACE_S):
        number += 1
        begun = time.monotonic()
        fence.ticket(number, LIFETIME_NS)
        fence.open(number, [VIRTUAL], LIFETIME_NS)
        taken.append((time.monotonic() - begun) * 1000)


def change_rules(number: int) -> None:
    """Replace a table."""
    nft.ensure(TABLE.format(number))


def forget_connections(_: int) -> None:
    """Find and delete connections by each filter that an agent uses."""
    ctnetlink.delete_opened({POD: lambda _: True})
    ctnetlink.delete_shown(VIRTUAL, MARK)
    ctnetlink.set_tcp_liberal(VIRTUAL, MARK)
    ctnetlink.delete_of(POD)
    ctnetlink.delete_marked(MARK, MARK)
    time.sleep(PAUSE_S)


WORK = {"rules": change_rules, "connections": forget_connections}


def main() -> None:
    if sys.argv[1] == "stay":
        keep_sockets()
    nft.run("-f", "-", text="add table inet changing\n")
    nft.apply(fence_nft([VIRTUAL], ["lo"]))
    ended, taken = threading.Event(), list[float]()
    refreshing = threading.Thread(target=refresh, args=(ended, taken))
    refreshing.start()
    for number in range(int(sys.argv[3])):
        WORK[sys.argv[2]](number)
    ended.set()
    refreshing.join()
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
