"""States of the kernel for property tests, and a model of how the kernel takes changes."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st

from cni.kernel import ids
from cni.kernel.diff import Change
from cni.kernel.state import Address, Fdb, KernelState, Key, Neighbour, Object, Route, Rule, Setting, Vxlan

DEVICES = ("egw-000001", "egw-000002", ids.BACK_DEVICE)
NODES = ("10.0.0.1", "10.0.0.2", "10.0.0.3")


@st.composite
def vxlans(draw: st.DrawFn) -> Vxlan:
    number = draw(st.integers(0, len(DEVICES) - 1))
    local = draw(st.sampled_from(NODES[:2]))
    mtu, alias = draw(st.sampled_from((1400, 1450))), draw(st.sampled_from(("egress-gateway a", "egress-gateway b")))
    return Vxlan(DEVICES[number], number + 1, local, 4799, ids.node_mac(local), mtu, alias)


@st.composite
def states(draw: st.DrawFn) -> KernelState:
    """A state that a kernel can be in: what hangs on a device is there only with the device."""
    devices = draw(st.lists(vxlans(), max_size=3, unique_by=lambda device: device.name))
    names = [device.name for device in devices]
    settings, addresses, fdb, neighbours = set(), set(), set(), set()
    for name in names:
        settings |= {Setting(name, "ipv4", "rp_filter", draw(st.sampled_from("02")))}
        settings |= {Setting(name, "ipv4", "forwarding", "1"), Setting(name, "ipv6", "disable_ipv6", "1")}
        some = st.sets(st.sampled_from(NODES))
        # Never without one: with the last address the kernel removes a device's routes and neighbours.
        addresses |= {Address(name, address, 32) for address in (ids.DEVICE_ADDRESS, *draw(some))}
        fdb |= {Fdb(name, ids.node_mac(node), node) for node in draw(some)}
        neighbours |= {Neighbour(name, node, ids.node_mac(draw(st.sampled_from(NODES)))) for node in draw(some)}
        if draw(st.booleans()):
            neighbours.add(Neighbour(name, ids.NEXT_HOP, ids.node_mac(draw(st.sampled_from(NODES)))))
    return KernelState(
        vxlans=frozenset(devices),
        settings=frozenset(settings),
        addresses=frozenset(addresses),
        fdb=frozenset(fdb),
        neighbours=frozenset(neighbours),
        routes=frozenset(draw(st.lists(_routes(names), max_size=4, unique_by=lambda route: route.key))),
        rules=frozenset(draw(st.sets(_RULES, max_size=3))),
    )


def _routes(devices: list[str]) -> st.SearchStrategy[Route]:
    tables = st.integers(ids.TABLE_BASE, ids.TABLE_BASE + 2)
    families = st.sampled_from((4, 6))
    unreachable = st.builds(Route, families, tables, st.just("unreachable"), st.just(ids.UNREACHABLE_METRIC))
    throw = st.builds(Route, st.just(4), tables, st.just("throw"))
    if not devices:
        return unreachable | throw
    device, via = st.sampled_from(devices), st.sampled_from(("", ids.NEXT_HOP))
    return unreachable | throw | st.builds(Route, st.just(4), tables, st.just("unicast"), st.just(0), device, via)


_RULES = st.builds(
    Rule,
    st.sampled_from((4, 6)),
    st.integers(900, 902),
    st.sampled_from((0x100000, 0x200000)),
    st.just(0x0FF00000),
    st.integers(7000, 7002),
)


def after(state: KernelState, changes: Iterable[Change]) -> KernelState:
    """What the kernel makes of the changes. Raises :class:`ValueError` where it would refuse one."""
    there: dict[Key, Object] = {item.key: item for item in state}
    for change in changes:
        target = change.target
        device = "" if isinstance(target, (Vxlan, Rule)) else target.device
        if device and ("vxlan", device) not in there:
            raise ValueError(f"{change}: no such device")
        if change.action == "delete":
            del there[target.key]
            if isinstance(target, Vxlan):
                there = {key: item for key, item in there.items() if not _hangs_on(item, target.name)}
            continue
        old = there.get(target.key)
        if isinstance(target, Vxlan) and isinstance(old, Vxlan) and old.identity != target.identity:
            raise ValueError(f"{change}: it exists")
        there[target.key] = target
    return made_of(there.values())


def made_of(items: Iterable[Object]) -> KernelState:
    sorts: dict[type, set[Object]] = {}
    for item in items:
        sorts.setdefault(type(item), set()).add(item)
    kinds = (Vxlan, Setting, Address, Fdb, Neighbour, Route, Rule)
    return KernelState(*(frozenset(sorts.get(kind, ())) for kind in kinds))  # type: ignore[arg-type]


def _hangs_on(item: Object, device: str) -> bool:
    return not isinstance(item, (Vxlan, Rule)) and item.device == device


def kept_masters(observed: KernelState, desired: KernelState) -> KernelState:
    """``desired``, but with the masters that :func:`cni.kernel.diff.diff` must leave as they are."""
    identities = {device.identity for device in desired.vxlans}
    staying = {device.name for device in observed.vxlans if device.identity in identities}
    kept = {item for item in observed.neighbours if item.address == ids.NEXT_HOP and item.device in staying}
    keys = {item.key for item in kept}
    rest = [item for item in desired if item.key not in keys]
    return made_of([*rest, *kept])
