"""States of the kernel for property tests, and a model of how the kernel takes changes."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st

from cni.kernel import ids
from cni.kernel.diff import Change
from cni.kernel.state import Address, Fdb, KernelState, Key, Neighbour, Object, Route, Rule, Setting, Vxlan

DEVICES = ("egw-000001", "egw-000002", ids.RETURN_DEVICE)
NODES = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00:10::1", "fd00:10::2")


@st.composite
def vxlans(draw: st.DrawFn) -> Vxlan:
    number = draw(st.integers(0, len(DEVICES) - 1))
    local = draw(st.sampled_from(NODES[1:4]))
    mtu, alias = (
        draw(st.sampled_from((1400, 1450))),
        draw(st.sampled_from(("egress-gateway a", "egress-gateway b"))),
    )
    return Vxlan(DEVICES[number], number + 1, local, 4799, ids.node_mac(local), mtu, alias)


@st.composite
def states(draw: st.DrawFn) -> KernelState:
    """Return a state that a kernel can be in: what hangs on a device is there only with the device."""
    devices = draw(st.lists(vxlans(), max_size=3, unique_by=lambda device: device.name))
    names = [device.name for device in devices]
    six = {name for name in names if draw(st.booleans())}
    settings, addresses, fdb, neighbours = set(), set(), set(), set()
    for device in devices:
        name = device.name
        settings |= {Setting(name, "ipv4", "rp_filter", draw(st.sampled_from("02")))}
        settings |= {Setting(name, "ipv4", "forwarding", "1"), Setting(name, "ipv6", "addr_gen_mode", "1")}
        settings |= {Setting(name, "ipv6", "accept_ra", "0"), Setting(name, "ipv6", "autoconf", "0")}
        settings |= {Setting(name, "ipv6", "disable_ipv6", "0" if name in six else "1")}
        # The kernel takes only nodes of the tunnel's own family.
        reached = [node for node in NODES if (":" in node) == (":" in device.local)]
        fdb |= {Fdb(name, ids.node_mac(node), node) for node in draw(st.sets(st.sampled_from(reached)))}
        some = st.sets(st.sampled_from(NODES[:3]))
        # Never without one: with the last address the kernel removes a device's routes and neighbours.
        addresses |= {Address(name, address, 32) for address in (ids.DEVICE_ADDRESS, *draw(some))}
        next_hops = [*NODES[:3], ids.NEXT_HOP, *((*NODES[3:], ids.NEXT_HOP6) if name in six else ())]
        for address in draw(st.sets(st.sampled_from(next_hops))):
            neighbours.add(Neighbour(name, address, ids.node_mac(draw(st.sampled_from(NODES)))))
    return KernelState(
        vxlans=frozenset(devices),
        settings=frozenset(settings),
        addresses=frozenset(addresses),
        fdb=frozenset(fdb),
        neighbours=frozenset(neighbours),
        routes=frozenset(
            draw(st.lists(_routes(names, sorted(six)), max_size=4, unique_by=lambda route: route.key))
        ),
        rules=frozenset(draw(st.sets(_RULES, max_size=3))),
    )


def _routes(devices: list[str], six: list[str]) -> st.SearchStrategy[Route]:
    tables = st.integers(ids.TABLE_BASE, ids.TABLE_BASE + 2)
    families = st.sampled_from((4, 6))
    found = st.builds(Route, families, tables, st.just("unreachable"), st.just(ids.UNREACHABLE_METRIC))
    for family, able in ((4, devices), (6, six)):
        metric = st.just(0 if family == 4 else 1024)
        found |= st.builds(Route, st.just(family), tables, st.just("throw"), metric)
        if able:
            device, via = st.sampled_from(able), st.sampled_from(("", ids.NEXT_HOPS[family]))
            found |= st.builds(Route, st.just(family), tables, st.just("unicast"), metric, device, via)
    return found


_RULES = st.builds(
    Rule,
    st.sampled_from((4, 6)),
    st.integers(900, 902),
    st.sampled_from((0x100000, 0x200000)),
    st.just(0x0FF00000),
    st.integers(7000, 7002),
)


def after(state: KernelState, changes: Iterable[Change]) -> KernelState:
    """Return the kernel's state after the changes. Raises :class:`ValueError` if it would refuse one."""
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
        if isinstance(target, Setting) and (target.name, target.value) == ("disable_ipv6", "1"):
            there = {key: item for key, item in there.items() if not _is_ipv6_of(item, target.device)}
    return made_of(there.values())


def made_of(items: Iterable[Object]) -> KernelState:
    sorts: dict[type, set[Object]] = {}
    for item in items:
        sorts.setdefault(type(item), set()).add(item)
    kinds = (Vxlan, Setting, Address, Fdb, Neighbour, Route, Rule)
    return KernelState(*(frozenset(sorts.get(kind, ())) for kind in kinds))  # type: ignore[arg-type]


def _hangs_on(item: Object, device: str) -> bool:
    return not isinstance(item, (Vxlan, Rule)) and item.device == device


def _is_ipv6_of(item: Object, device: str) -> bool:
    """Return True for objects that the kernel removes when a device loses IPv6."""
    if isinstance(item, Neighbour):
        return item.device == device and ":" in item.address
    return isinstance(item, Route) and item.family == 6 and item.device == device


def kept_masters(observed: KernelState, desired: KernelState) -> KernelState:
    """``desired``, but with the masters that :func:`cni.kernel.diff.diff` must leave as they are."""
    identities = {device.identity for device in desired.vxlans}
    staying = {device.name for device in observed.vxlans if device.identity in identities}
    six = {item.device for item in desired.settings if (item.name, item.value) == ("disable_ipv6", "0")}
    kept = {
        item
        for item in observed.neighbours
        if (item.address == ids.NEXT_HOP and item.device in staying)
        or (item.address == ids.NEXT_HOP6 and item.device in staying & six)
    }
    keys = {item.key for item in kept}
    rest = [item for item in desired if item.key not in keys]
    return made_of([*rest, *kept])
