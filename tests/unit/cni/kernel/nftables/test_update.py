"""The steps from one nftables text to another. What the kernel makes of them: ``tests/netns/test_nft_update.py``."""

from __future__ import annotations

import time

import pytest

from cni.datapath.nft_blocks import chain, dispatch, mapping, transaction
from cni.kernel.nftables.update import preparation, replacement, tables, update

HOOK = "filter hook forward priority filter"


def table(*blocks: str, name: str = "t") -> str:
    return transaction("inet", name, blocks)


def test_a_text_is_read_back_block_by_block() -> None:
    text = table(mapping("m", "mark", ["1 : drop"]), chain("c", ["accept"], HOOK)) + table(
        chain("d", []), name="u"
    )
    assert tables(text) == {
        "inet t": {
            ("map", "m"): "\t\ttype mark : verdict\n\t\telements = { 1 : drop }\n",
            ("chain", "c"): f"\t\ttype {HOOK}; policy accept;\n\t\taccept\n",
        },
        "inet u": {("chain", "d"): ""},
    }


def test_what_both_have_is_not_touched() -> None:
    assert update(table(chain("c", ["accept"])), table(chain("c", ["accept"]))) == ()


def test_first_what_is_new_then_the_change_over_then_the_removal() -> None:
    before = table(chain("c", ["goto old"]), chain("old", ["accept"]))
    after = table(chain("c", ["goto new"]), chain("new", ["drop"]))
    assert update(before, after) == (
        "add chain inet t new\ntable inet t {\n\tchain new {\n\t\tdrop\n\t}\n}\n",
        "flush chain inet t c\ntable inet t {\n\tchain c {\n\t\tgoto new\n\t}\n}\n",
        "flush chain inet t old\ndelete chain inet t old\n",
    )


def test_a_new_base_chain_comes_last_because_packets_come_to_it_at_once() -> None:
    before = table(chain("c", []))
    after = table(
        chain("c", []), chain("b", ["meta mark vmap @m"], HOOK), mapping("m", "mark", ["1 : goto c"])
    )
    assert update(before, after) == (
        "table inet t {\n\tmap m {\n\t\ttype mark : verdict\n\t\telements = { 1 : goto c }\n\t}\n}\n",
        f"table inet t {{\n\tchain b {{\n\t\ttype {HOOK}; policy accept;\n\t\tmeta mark vmap @m\n\t}}\n}}\n",
    )
    assert update(after, before) == ("flush chain inet t b\ndelete map inet t m\ndelete chain inet t b\n",)


def test_a_set_whose_elements_come_at_run_time_is_left_alone() -> None:
    timed = "\tset s {\n\t\ttype mark\n\t\tflags timeout\n\t}\n"
    assert tables(table(timed)) == {"inet t": {("set", "s"): "\t\ttype mark\n\t\tflags timeout\n"}}
    assert update(table(timed), table(timed, chain("c", []))) == (
        "add chain inet t c\ntable inet t {\n\tchain c {\n\t}\n}\n",
    )
    assert update(table(timed), table(timed.replace("mark", "ifname"))) is None
    assert update(table(timed, chain("c", [])), table(chain("c", []))) == ("delete set inet t s\n",)


def test_elements_come_and_go_alone() -> None:
    before = table(dispatch("d", "meta mark", "mark", {"1": "a", "2": "b"}))
    after = table(dispatch("d", "meta mark", "mark", {"2": "b", "3": "c"}))
    assert update(before, after) == (
        "delete element inet t d_to { 1 : goto a }\nadd element inet t d_to { 3 : goto c }\n",
    )


def test_a_map_may_become_empty_and_be_filled_again() -> None:
    empty, full = (table(mapping("m", "mark", elements)) for elements in ([], ["1 : drop"]))
    assert update(full, empty) == ("delete element inet t m { 1 : drop }\n",)
    assert update(empty, full) == ("add element inet t m { 1 : drop }\n",)


def test_what_is_no_update() -> None:
    base = table(chain("c", ["accept"], HOOK))
    assert update(base, table(chain("c", ["accept"], HOOK.replace("forward", "input")))) is None
    assert update(table(mapping("m", "mark", [])), table(mapping("m", "ifname", []))) is None
    assert update(base, base + table(chain("d", []), name="u")) is None
    assert update(base, table()) is None


def test_a_replacement_keeps_the_elements_that_come_at_run_time() -> None:
    timed = "\tset s {\n\t\ttype mark\n\t\tflags timeout\n\t}\n"
    after = table(timed, chain("c", ["meta mark @s drop"])) + table(chain("d", []), name="u")
    chains, sets = ("c", "old"), (("set", "s", True), ("set", "gone", True), ("map", "m", False))
    assert replacement(after, "inet t", chains, sets, True) == (
        "flush chain inet t c\nflush chain inet t old\n"
        "delete set inet t gone\ndelete map inet t m\n"
        "delete chain inet t c\ndelete chain inet t old\n"
        f"table inet t {{\n{timed}{chain('c', ['meta mark @s drop'])}}}\n{table(chain('d', []), name='u')}"
    )


def test_a_set_that_has_become_one_of_run_time_elements_is_made_anew() -> None:
    timed = "\tset s {\n\t\ttype mark\n\t\tflags timeout\n\t}\n"
    assert "delete set inet t s\n" in replacement(table(timed), "inet t", (), (("set", "s", False),), True)
    fixed = timed.replace("timeout", "interval")
    assert "delete set inet t s\n" in replacement(table(fixed), "inet t", (), (("set", "s", True),), True)


RANGES = mapping("m_1", "ipv4_addr", ["0.0.0.0-192.0.2.1 : goto a", "192.0.2.2 : goto b"], interval=True)
ROUTED = chain("c", ["ip saddr vmap @m_1", "drop"], HOOK) + chain("a", ["accept"]) + chain("b", ["drop"])


def test_an_interval_map_is_whole_before_a_replacement_leads_to_it() -> None:
    after = table(RANGES, mapping("m", "mark", ["1 : goto a"]), ROUTED)
    sets = (("map", "m_0", False), ("map", "m", False))
    assert (
        preparation(after, "inet t", ("c", "a"), sets) == f"add chain inet t b\ntable inet t {{\n{RANGES}}}\n"
    )
    assert preparation(after, "inet t", ("c",), (("map", "m_1", False),)) == ""
    assert preparation(after, "inet u", (), ()) == ""


@pytest.mark.parametrize("intact", [True, False])
def test_an_interval_map_of_the_same_name_stays_in_an_unchanged_table(intact: bool) -> None:
    after = table(RANGES, ROUTED)
    text = replacement(
        after, "inet t", ("c", "a", "b", "old"), (("map", "m_1", False), ("map", "m_0", False)), intact
    )
    assert "delete map inet t m_0\n" in text
    assert ("delete map inet t m_1\n" in text) != intact
    assert ("delete chain inet t a\n" in text) != intact
    assert text.count("flush chain") == 4
    assert "delete chain inet t c\n" in text
    assert text.endswith(f"table inet t {{\n{RANGES}{ROUTED}}}\n")


def test_one_element_among_those_of_thousands_of_nodes_is_found_at_once() -> None:
    """Each with each would take a minute."""
    numbers = [f"{number} : drop" for number in range(60_000)]
    before, after = (
        table(mapping("m", "mark", numbers)),
        table(mapping("m", "mark", [*numbers[:0:-1], "x : drop"])),
    )
    began = time.monotonic()
    assert update(before, after) == (
        "delete element inet t m { 0 : drop }\nadd element inet t m { x : drop }\n",
    )
    assert time.monotonic() - began < 5
