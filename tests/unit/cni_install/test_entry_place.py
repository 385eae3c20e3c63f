"""The place of our entry, by what a runtime has loaded."""

from __future__ import annotations

import json
from itertools import product

import pytest

from gateway_agent.cni_install.entry_place import DROP_IN, IN_FILE, TRIED, Places, decide, network

NONE = Places(False, False)
WITHOUT, ONCE, TWICE = (
    ("bridge",),
    ("bridge", "egress-gateway"),
    ("bridge", "egress-gateway", "egress-gateway"),
)


@pytest.mark.parametrize(
    ("found", "loaded", "wanted"),
    [
        (NONE, WITHOUT, TRIED),
        (NONE, None, IN_FILE),
        (IN_FILE, ONCE, TRIED),
        (IN_FILE, None, IN_FILE),
        (TRIED, WITHOUT, TRIED),
        (TRIED, ONCE, TRIED),
        (TRIED, TWICE, DROP_IN),
        (TRIED, None, IN_FILE),
        (DROP_IN, ONCE, DROP_IN),
        (DROP_IN, None, DROP_IN),
        (DROP_IN, WITHOUT, TRIED),
        (DROP_IN, (), TRIED),
    ],
)
def test_the_entry_leaves_a_place_only_if_the_runtime_has_loaded_the_other(
    found: Places, loaded: tuple[str, ...] | None, wanted: Places
) -> None:
    assert decide(found, loaded, ruled_out=False, proven=True) == wanted
    if found == DROP_IN and wanted == DROP_IN:
        wanted = IN_FILE if loaded is None else TRIED
    assert decide(found, loaded, ruled_out=False, proven=False) == wanted


def test_without_drop_ins_it_is_always_in_the_file() -> None:
    yes_no = (True, False)
    for in_file, in_drop_in, proven, loaded in product(yes_no, yes_no, yes_no, (None, (), ONCE, TWICE)):
        assert decide(Places(in_file, in_drop_in), loaded, True, proven) == IN_FILE


class OneRuntime:
    """A runtime that reads its configuration now and then, and may load drop-ins."""

    def __init__(self, loads_drop_ins: bool) -> None:
        self._loads_drop_ins = loads_drop_ins
        self.loaded: tuple[str, ...] | None = None

    def read(self, places: Places) -> None:
        times = places.in_file + (places.in_drop_in and self._loads_drop_ins)
        self.loaded = ("bridge", *["egress-gateway"] * times)


@pytest.mark.parametrize("loads_drop_ins", [True, False])
def test_whatever_the_order_a_runtime_that_reads_has_the_entry(loads_drop_ins: bool) -> None:
    """Only between a rewrite of the file and the next decision an entry in the file may be missing."""
    for steps in product(("read", "decide", "overwrite"), repeat=7):
        runtime, places, overwritten, proven = OneRuntime(loads_drop_ins), NONE, True, False
        for step in steps:
            if step == "read":
                runtime.read(places)
                assert overwritten or "egress-gateway" in (runtime.loaded or ()), steps
            elif step == "decide":
                places, overwritten = decide(places, runtime.loaded, False, proven), False
                proven = places == DROP_IN
            else:
                overwritten = overwritten or places.in_file
                places = Places(False, places.in_drop_in)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "net"),
        ({"name": "../net"}, ""),
        ({"name": ""}, ""),
        ({"name": 7}, ""),
        ({"loadOnlyInlinedPlugins": True}, ""),
        ({"loadOnlyInlinedPlugins": "True"}, ""),
        ({"loadOnlyInlinedPlugins": "false"}, "net"),
        ({"plugins": None}, ""),
        ({"plugins": [{"type": "multus"}]}, ""),
    ],
)
def test_the_network_whose_drop_ins_are_loaded(changed: dict[str, object], expected: str) -> None:
    whole = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}], **changed}
    assert network(json.dumps(whole)) == expected
