"""Try the kernel: reconcile a new network namespace with the plan of an egress node.

``python -m gateway_agent.node_install.kernel_trial`` runs in a new network namespace, which ends with the process.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing

from cni.kernel import ids
from cni.kernel.errors import KernelError
from cni.kernel.netlink import links
from cni.plan import Destination, Plan, PlanEgressIP, PlanNode, PolicySet

from ..adapters.kernel.kernel_thread import Kernel
from ..lease_daemon.kernel.vip_addresses import Addresses

INTERFACE = "lo"
HERE, OTHER, VIRTUAL = "192.0.2.1", "192.0.2.2", "192.0.2.3"
"""Addresses for documentation (RFC 5737): no packet is sent to them."""


def plan() -> Plan:
    """Return the plan of an egress node with a virtual address, and with a policy."""
    identity = ids.egress_id("trial", VIRTUAL)
    egress_ip = PlanEgressIP(
        id=identity,
        gateway="trial",
        address=VIRTUAL,
        slot=1,
        vni=ids.vni(identity),
        eligible=("here", "other"),
        master="here",
        interface=INTERFACE,
        source=VIRTUAL,
    )
    return Plan(
        "here",
        0x0FF00000,
        4799,
        1450,
        (PlanNode("here", HERE), PlanNode("other", OTHER)),
        (egress_ip,),
        (),
        (PolicySet(1, ("trial",), (identity,), (Destination("198.51.100.0/24", identity),)),),
        uplinks=(INTERFACE,),
        reserved_sources=(HERE, OTHER, VIRTUAL),
        node_links=(INTERFACE,),
        cluster_port=7947,
        sets_port=7947,
    )


def main() -> int:
    """Create every object, and print the kernel's error if there is one. Return the exit code."""
    try:
        for refusal in asyncio.run(Kernel().reconcile(plan(), (INTERFACE,))).refused:
            raise refusal.error
        with closing(Addresses()) as addresses:
            addresses.add(VIRTUAL, INTERFACE)
        links.tag(INTERFACE, ids.GROUP_BASE + 1)
    except KernelError as error:
        print(error.message, file=sys.stderr)
        return 1
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
