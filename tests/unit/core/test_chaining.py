"""Our entry in a CNI configuration that is somebody else's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.core.chaining import NotChainable, chained, in_use, unchained

OURS = {"type": "egress-gateway"}
BRIDGE = {"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local"}}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}


def conflist(*plugins: Any, **more: Any) -> str:
    return json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": plugins, **more})


def plugins(text: str) -> list[Any]:
    return list(json.loads(text)["plugins"])


def test_ours_comes_last_and_once() -> None:
    text = chained(conflist(BRIDGE, PORTMAP), OURS)
    assert plugins(text) == [BRIDGE, PORTMAP, OURS]
    assert chained(text, OURS) == text


def test_an_entry_with_other_settings_is_replaced() -> None:
    other = {**OURS, "socket": "/run/other.sock"}
    assert plugins(chained(conflist(OURS, BRIDGE, OURS), other)) == [BRIDGE, other]


def test_what_is_not_ours_stays_to_the_letter() -> None:
    text = conflist(BRIDGE, disableCheck=True)
    assert unchained(text) == text
    assert unchained("  " + text) == "  " + text


others = st.lists(
    st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=5), max_size=3).filter(
        lambda plugin: plugin.get("type") != "egress-gateway"
    ),
    min_size=1,
    max_size=4,
)


@given(others)
def test_taken_out_again_nothing_is_left(listed: list[Any]) -> None:
    text = conflist(*listed, disableCheck=True)
    assert json.loads(unchained(chained(text, OURS))) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{", "it is not JSON"),
        ("[]", "it has no list of plugins"),
        ('{"cniVersion": "1.0.0", "type": "bridge"}', "it has no list of plugins"),
        ('{"cniVersion": "1.0.0", "plugins": ["bridge"]}', "it has no list of plugins"),
        (conflist(BRIDGE, cniVersion="0.3.0"), "cniVersion 0.3.0 is too old"),
        (conflist(BRIDGE, cniVersion="one"), "cniVersion one is too old"),
        (conflist(BRIDGE, cniVersion=None), r"cniVersion \(none\) is too old"),
        (conflist(), "it lists no other plugin"),
        (conflist(OURS, {**OURS, "socket": "/x"}), "it lists no other plugin"),
    ],
)
def test_what_cannot_be_chained(text: str, wrong: str) -> None:
    with pytest.raises(NotChainable, match=wrong):
        chained(text, OURS)


@pytest.mark.parametrize(
    ("names", "used"),
    [
        ([], ""),
        (["README", ".10-calico.conflist.draft"], ""),
        (["20-b.conflist", "10-a.conflist"], "10-a.conflist"),
        (["20-b.conf", "10-a.conflist"], "10-a.conflist"),
    ],
)
def test_the_runtime_takes_the_first(names: list[str], used: str) -> None:
    assert in_use(names) == used


@pytest.mark.parametrize("name", ["10-a.conf", "10-a.json"])
def test_a_single_plugin_has_no_room(name: str) -> None:
    with pytest.raises(NotChainable, match=f"{name} is in use.*make a .conflist of it"):
        in_use([name, "20-b.conflist"])
