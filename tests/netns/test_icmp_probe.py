"""The upstream probe against a real kernel: both families, the source of its packets, and who is silent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from gateway_agent.adapters.probes.icmp_probe import UpstreamProbe, has
from tests.lab.capture import Capture

from .link import VIRTUAL, VIRTUAL6, Wire, wire

NEAR, FAR = {4: "172.16.0.1", 6: "2001:db8::1"}, {4: "172.16.0.2", 6: "2001:db8::2"}
UNUSED = {4: "172.16.0.9", 6: "2001:db8::9"}
SHOWN = {4: VIRTUAL, 6: VIRTUAL6}


@pytest.fixture(scope="module")
def lan() -> Iterator[Wire]:
    with wire("egwup") as made:
        yield made


def silent(lan: Wire, addresses: tuple[str, ...], source: str = "") -> tuple[str, ...]:
    """Return the addresses that do not answer in two rounds."""

    async def probe() -> tuple[str, ...]:
        changes = asyncio.Event()
        asked = UpstreamProbe("eth1", addresses, 0.3, 2, changes.set, source=source)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.9):
                await asked.run()
        return asked.silent

    return lan.near.inside(lambda: asyncio.run(probe()))


def test_who_answers_is_not_silent_in_both_families(lan: Wire) -> None:
    assert silent(lan, (*FAR.values(), *UNUSED.values())) == tuple(UNUSED.values())


def test_a_link_local_router_is_asked_on_the_interface(lan: Wire) -> None:
    shown = lan.far.run("ip", "-6", "-o", "address", "show", "dev", "eth1", "scope", "link")
    router = shown.split()[3].partition("/")[0]
    assert silent(lan, (router, "fe80::9")) == ("fe80::9",)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("nonlocal_bind", ["0", "1"])
def test_the_probe_comes_from_the_source_where_the_node_has_it(
    lan: Wire, family: int, nonlocal_bind: str
) -> None:
    version = "ipv6" if family == 6 else "ipv4"
    lan.near.sysctl({f"net/{version}/ip_nonlocal_bind": nonlocal_bind})
    source, length = SHOWN[family], 128 if family == 6 else 32

    def sources() -> set[str]:
        with Capture(lan.far, "eth1") as seen:
            assert silent(lan, (FAR[family],), source) == ()
            return seen.sources() & {NEAR[family], source}

    assert not lan.near.inside(lambda: has(source))
    assert source not in sources()
    lan.near.ip(f"address add {source}/{length} dev eth1{' nodad' * (family == 6)}")
    try:
        assert lan.near.inside(lambda: has(source))
        assert source in sources()
    finally:
        lan.near.ip(f"address del {source}/{length} dev eth1")
        lan.near.sysctl({f"net/{version}/ip_nonlocal_bind": "0"})
