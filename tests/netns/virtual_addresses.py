"""A machine whose virtual addresses are added and removed by the code of the lease daemon."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from gateway_agent.lease_daemon.kernel.vip_addresses import Addresses
from tests.lab.namespace import Namespace

from .link import Wire, wire

OTHER_SUBNET = "192.0.2.50"
OTHER_SUBNET6 = "2001:db8:5::50"


@pytest.fixture
def line() -> Iterator[Wire]:
    with wire("egwad") as made:
        yield made


class Inside:
    """An :class:`Addresses` whose calls are made inside a machine."""

    def __init__(self, machine: Namespace) -> None:
        self._machine = machine
        self._addresses = machine.inside(Addresses)

    def add(self, address: str, interface: str) -> None:
        self._machine.inside(lambda: self._addresses.add(address, interface))

    def add_together(self, targets: Iterable[tuple[str, str]]) -> None:
        def add() -> None:
            with self._addresses.listed_once():
                for address, interface in targets:
                    self._addresses.add(address, interface)

        self._machine.inside(add)

    def remove_together(self, targets: Iterable[tuple[str, str]]) -> None:
        def remove() -> None:
            with self._addresses.listed_once():
                for address, interface in targets:
                    self._addresses.remove(address, interface)

        self._machine.inside(remove)

    def remove(self, address: str, interface: str) -> None:
        self._machine.inside(lambda: self._addresses.remove(address, interface))

    def ours(self) -> tuple[tuple[str, str], ...]:
        return self._machine.inside(self._addresses.ours)

    def misplaced(self, interface: str) -> tuple[str, ...]:
        return self._machine.inside(lambda: self._addresses.misplaced(interface))

    def close(self) -> None:
        self._addresses.close()


@pytest.fixture
def addresses(line: Wire) -> Iterator[Inside]:
    made = Inside(line.near)
    yield made
    made.close()
