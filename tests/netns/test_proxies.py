"""A node that answers for addresses of others (proxy ARP, proxy neighbour discovery) does not for a virtual one."""

from __future__ import annotations

import pytest

from cni.kernel.nftables import nft
from gateway_agent.gateway_rules.fence import fence_nft
from tests.lab.namespace import Namespace
from tests.lab.waiting import until

from .link import wire

ADDRESS, ADDRESS6 = "198.51.100.50", "2001:db8:5::50"
PROXY = {
    "net/ipv4/conf/eth1/proxy_arp": "1", "net/ipv4/conf/eth1/forwarding": "1",
    "net/ipv6/conf/eth1/proxy_ndp": "1", "net/ipv6/conf/all/forwarding": "1",
    "net/ipv4/neigh/eth1/proxy_delay": "0", "net/ipv6/neigh/eth1/proxy_delay": "0",
}  # fmt: skip


def answered(asking: Namespace, address: str) -> bool:
    asking.ip("neighbour flush dev eth1")
    question = f"ping -n -c 1 -W 1 {address} >/dev/null; ip neighbour show {address} dev eth1"
    return "lladdr" in asking.run("sh", "-c", question)


@pytest.mark.parametrize("address", [ADDRESS, ADDRESS6])
def test_a_standby_does_not_answer_for_an_address_that_it_leads_elsewhere(address: str) -> None:
    with wire("egwpx") as line:
        line.near.sysctl(PROXY)
        line.near.ip(f"route add {address} dev eth2", f"neighbour add proxy {ADDRESS6} dev eth1")
        line.far.ip(f"route add {address} dev eth1")
        until(lambda: answered(line.far, address), "without the fence it answers")
        line.near.inside(lambda: nft.apply(fence_nft([address], ["eth1", "eth2"])))
        assert not answered(line.far, address)
