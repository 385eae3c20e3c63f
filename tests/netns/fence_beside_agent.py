"""Refreshes of the fence beside an agent's changes of other tables, in one process: how long each refresh takes.

``python -m tests.netns.fence_beside_agent stay|go CHANGES`` prints the milliseconds of each refresh as JSON. ``stay``:
the process keeps its sockets of netfilter, as an agent does.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from cni.kernel.nftables import nft
from gateway_agent.adapters.kernel.kernel_thread import keep_sockets
from gateway_agent.gateway_rules.fence import fence_nft
from gateway_agent.lease_daemon.kernel.vip_fence import Fence

from ..lab.witness import run_in_real_time
from .link import VIRTUAL

LIFETIME_NS = 1_000_000_000
PACE_S = 0.002
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


def main() -> None:
    if sys.argv[1] == "stay":
        keep_sockets()
    nft.run("-f", "-", text="add table inet changing\n")
    nft.apply(fence_nft([VIRTUAL], ["lo"]))
    ended, taken = threading.Event(), list[float]()
    refreshing = threading.Thread(target=refresh, args=(ended, taken))
    refreshing.start()
    for number in range(int(sys.argv[2])):
        nft.ensure(TABLE.format(number))
    ended.set()
    refreshing.join()
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
