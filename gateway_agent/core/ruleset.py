"""The gateway's nftables rules as text: what an egress node does with packets from the tunnels.

They stand on every node that can be master, so that taking over changes none of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP
from cni.ruleset import TUNNELS, Marks, chain, dispatch, transaction, way_out


def gateway_nft(plan: Plan) -> str:
    """One nft transaction that replaces the gateway's table; it removes it where this node can serve nothing."""
    ready = tuple(egress for egress in plan.egress_ips if way_out(egress)[0])
    return transaction("inet", ids.NFT_GATEWAY, _chains(plan, ready, Marks(plan)) if ready else ())


def _chains(plan: Plan, ready: tuple[PlanEgressIP, ...], marks: Marks) -> Iterator[str]:
    answer = f"ct direction reply ct mark and {marks.tunneled} != 0 {marks.put('meta', marks.reply)}"
    # Behind the node's own steering, which clears the mark of every answer.
    take_in = [answer, f'iifname "{ids.BACK_DEVICE}" accept', f"iifname {TUNNELS} goto from_tunnel"]
    yield chain("take_in", take_in, "filter hook prerouting priority dstnat + 20")
    yield dispatch("from_tunnel", "iifname", "ifname", {f'"{e.device}"': f"from_{e.slot}" for e in ready})
    for egress in ready:
        yield chain(f"from_{egress.slot}", _from_tunnel(plan, egress, marks))
    # Resets and errors by this node itself bear the service's address: outside the tunnel a cloud drops them.
    yield chain("answer", [answer], "route hook output priority mangle")
    yield chain("pick_up", _pick_up(ready), "filter hook forward priority filter - 10")
    yield chain("nat", _nat(ready, marks), "nat hook postrouting priority srcnat - 10")


def _from_tunnel(plan: Plan, egress: PlanEgressIP, marks: Marks) -> Iterator[str]:
    if plan.isolated:
        yield "ct state new counter drop"
    yield marks.put("ct", marks.of_tunneled(egress.slot))


def _pick_up(ready: tuple[PlanEgressIP, ...]) -> Iterator[str]:
    """A connection that another master opened had that master's address: it ends here, at once."""
    for egress in ready:
        if not egress.address:
            opening = "tcp flags & (fin | syn | rst | ack) != syn"
            yield f'iifname "{egress.device}" ct state new {opening} counter reject with tcp reset'


def _nat(ready: tuple[PlanEgressIP, ...], marks: Marks) -> Iterator[str]:
    for egress in ready:
        device, source = way_out(egress)
        slot = f"ct mark and {marks.numbers} == {marks.of(egress.slot)}"
        yield f"oifname {device} {slot} snat ip to {source}"
