"""Whose transactions touch a table, counted while others go on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cni.kernel.nftables import generation, nft
from cni.kernel.nftables.generation import TransactionCounter
from tests.lab.namespace import Namespace, fresh

TABLE = "inet watched"


@pytest.fixture(scope="module")
def machine() -> Iterator[Namespace]:
    with fresh("egwdp-generation") as made:
        yield made


@pytest.fixture
def tables(machine: Namespace) -> Namespace:
    sets = "set s { type mark; flags timeout; }; map m { type mark : verdict; }; chain c { }"
    machine.run("nft", "flush", "ruleset")
    machine.run(
        "nft", f"table {TABLE} {{ {sets}; }}; table ip watched {{ {sets}; }}; table inet other {{ {sets}; }}"
    )
    return machine


def counted(machine: Namespace, *commands: str) -> int | None:
    def scenario() -> int | None:
        with TransactionCounter({TABLE: frozenset({"s"})}) as watch:
            for command in commands:
                nft.run(*command.split())
            return watch.transactions()

    return machine.inside(scenario)


def test_nothing_is_nothing(tables: Namespace) -> None:
    assert counted(tables) == 0


@pytest.mark.parametrize("table", ["ip watched", "inet other"])
def test_other_tables_do_not_count(tables: Namespace, table: str) -> None:
    assert counted(tables, f"add rule {table} c drop", f"add element {table} m {{ 1 : drop }}") == 0


def test_run_time_elements_do_not_count(tables: Namespace) -> None:
    assert counted(tables, f"add element {TABLE} s {{ 1 timeout 1h }}", f"flush set {TABLE} s") == 0


def test_all_else_counts(tables: Namespace) -> None:
    commands = (
        f"add rule {TABLE} c drop",
        "add rule inet other c drop",
        f"add element {TABLE} m {{ 1 : drop }}",
        f"add element {TABLE} s {{ 1 timeout 1h }}",
        f"add chain {TABLE} d",
        f"delete table {TABLE}",
    )
    assert counted(tables, *commands) == 4


def test_one_transaction_counts_once(tables: Namespace) -> None:
    assert (
        counted(tables, f"add rule {TABLE} c drop; add rule {TABLE} c drop; add rule ip watched c drop") == 1
    )


def test_news_that_is_lost_is_not_taken_for_none(tables: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "BUFFER_BYTES", 4096)
    many = ", ".join(str(number) for number in range(2000))
    assert counted(tables, f"add element inet other s {{ {many} }}", f"add rule {TABLE} c drop") is None


def test_numbers_begin_again() -> None:
    assert generation._after(0, 0xFFFFFFFF)
    assert not generation._after(0xFFFFFFFF, 0)
    assert not generation._after(5, 5)
