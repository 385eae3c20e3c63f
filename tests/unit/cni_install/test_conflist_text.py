"""Our entry in a CNI configuration that is somebody else's."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import config
from gateway_agent.cni_install.conflist_text import VERSIONS, InUse, NotChainable, chained, in_use, unchained

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
        (conflist(BRIDGE, cniVersion="1.2.0"), "cniVersion 1.2.0 is too new"),
        (
            json.dumps({"cniVersions": ["0.1.0", "0.2.0"], "plugins": [BRIDGE]}),
            "cniVersion 0.1.0, 0.2.0 is too old",
        ),
        (conflist(BRIDGE, cniVersion="one"), "cniVersion one is too old"),
        (conflist(BRIDGE, cniVersion=None), r"cniVersion \(none\) is too old"),
        (conflist(), "it lists no other plugin"),
        (conflist(OURS), "it lists no other plugin"),
        (conflist(OURS, {**OURS, "socket": "/x"}), "it lists no other plugin"),
        (conflist(BRIDGE, cniVersion="1.0." + "9" * 5000), "cniVersion 1.0.9999999999999999 is too old"),
        (conflist(BRIDGE, cniVersion="１.0.0"), "is too old"),
        (conflist(BRIDGE, x="@").replace('"@"', "NaN"), "it is not JSON: NaN is no number"),
        (conflist(BRIDGE, x="@").replace('"@"', "1e999"), "it is not JSON: 1e999 is no number"),
        (conflist(BRIDGE, cniVersions="1.0.0"), "its cniVersions is no list of versions"),
        (conflist(BRIDGE, cniVersions=["1.0.0", "new"]), "its cniVersions is no list of versions"),
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
    files = {name: conflist(BRIDGE) if name.endswith(".conflist") else json.dumps(BRIDGE) for name in names}
    assert in_use(files, {}) == InUse(used)


@pytest.mark.parametrize("name", ["10-a.conf", "10-a.json"])
def test_a_single_plugin_has_no_room(name: str) -> None:
    with pytest.raises(NotChainable, match=f"{name} is in use.*make a .conflist of it"):
        in_use({name: json.dumps(BRIDGE), "20-b.conflist": conflist(BRIDGE)}, {})


def test_what_is_skipped_is_named() -> None:
    found = in_use(
        {"00-empty.conflist": "", "20-b.conflist": conflist(BRIDGE), "30-c.conf": ""}, {"05-x.conf": "gone"}
    )
    assert found.name == "20-b.conflist"
    assert [(problem.source, problem.message) for problem in found.skipped] == [
        ("00-empty.conflist", "it is empty"), ("05-x.conf", "gone"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("10-a.conflist", conflist(BRIDGE, name=5)),
        ("10-a.conflist", conflist(BRIDGE, cniVersion=1.0)),
        ("10-a.conflist", conflist(BRIDGE, disableCheck=1)),
        ("10-a.conflist", conflist(BRIDGE, disableGC="perhaps")),
        ("10-a.conflist", conflist(BRIDGE, loadOnlyInlinedPlugins=None)),
        ("10-a.conflist", conflist(BRIDGE, x=float("nan"))),
        ("10-a.conflist", conflist(BRIDGE, x=10**400)),
        ("10-a.conf", json.dumps({"type": "bridge", "name": ["a"]})),
    ],
)
def test_what_no_runtime_can_load_is_not_taken_for_the_one_in_use(name: str, text: str) -> None:
    found = in_use({name: text, "20-b.conflist": conflist(BRIDGE, disableCheck="True")}, {})
    assert found.name == "20-b.conflist"
    assert [problem.source for problem in found.skipped] == [name]


def test_the_key_of_a_plugins_type_counts_in_any_case() -> None:
    """Go's JSON package reads it so, and the file is in use."""
    files = {"10-a.conflist": conflist({"Type": "bridge"}), "20-b.conflist": conflist(BRIDGE)}
    assert in_use(files, {}) == InUse("10-a.conflist")


def test_half_a_pair_of_surrogates_can_be_written_again() -> None:
    text = chained(conflist(BRIDGE, x="\ud800"), OURS)
    assert json.loads(text.encode())["x"] == "\ud800"


CRIO = {
    "the first": (
        {"20-b.conflist": conflist(BRIDGE, name="b"), "10-a.conflist": conflist(BRIDGE)}, "", "10-a.conflist",
    ),
    "a broken one before": ({"10-a.conflist": "{", "20-b.conflist": conflist(BRIDGE)}, "", "20-b.conflist"),
    "no plugins before": ({"10-a.conflist": conflist(), "20-b.conflist": conflist(BRIDGE)}, "", "20-b.conflist"),
    "a list in a file for one plugin": (
        {"10-a.conf": conflist(BRIDGE), "20-b.conflist": conflist(BRIDGE)}, "", "20-b.conflist",
    ),
    "by its name": (
        {"10-a.conflist": conflist(BRIDGE), "20-b.conflist": conflist(BRIDGE, name="crio")}, "crio", "20-b.conflist",
    ),
    "two of one name": (
        {"20-b.conflist": conflist(BRIDGE, name="crio"), "10-a.conflist": conflist(PORTMAP, name="crio")},
        "crio", "10-a.conflist",
    ),
    "not there yet": ({"10-a.conflist": conflist(BRIDGE)}, "crio", ""),
    "Multus by its name": (
        {
            "00-multus.conf": json.dumps({"type": "multus", "name": "multus-cni", "clusterNetwork": "ovn"}),
            "10-a.conflist": conflist(BRIDGE), "20-b.conflist": conflist(BRIDGE, name="ovn"),
        },
        "multus-cni", "20-b.conflist",
    ),
}  # fmt: skip
"""Files, name of the default network (``cni_default_network``), and the file with the network that CRI-O gives to pods.

By ``loadNetworks`` of its library ocicni: what it cannot load is skipped; of two networks with one name the first
counts; with a default network no other one is taken in its place.
"""


@pytest.mark.parametrize("case", CRIO)
def test_cri_o_gives_pods_the_network_of(case: str) -> None:
    files, network, used = CRIO[case]
    assert in_use(files, {}, network).name == used


@pytest.mark.parametrize(
    ("network", "used"),
    [
        ("/host/etc/cni/net.d/20-b.conflist", "20-b.conflist"),
        ("/host/etc/cni/net.d/30-c.conflist", "30-c.conflist"),
        ("/etc/cni/net.d", "20-b.conflist"),
        ("other", "30-c.conflist"),
    ],
)
def test_multus_names_its_default_network(network: str, used: str) -> None:
    multus = json.dumps({"type": "multus-shim", "name": "multus", "clusterNetwork": network})
    files = {"20-b.conflist": conflist(BRIDGE), "30-c.conflist": conflist(PORTMAP, name="other")}
    assert in_use({"00-multus.conf": multus, **files}, {}).name == used


@pytest.mark.parametrize(
    "network", ["/host/elsewhere/40-d.conflist", "a-definition", "/host/x/00-multus.conf"]
)
def test_a_default_network_that_is_not_seen_is_refused(network: str) -> None:
    multus = json.dumps({"type": "multus", "clusterNetwork": network})
    with pytest.raises(NotChainable, match="the default network of multus"):
        in_use({"00-multus.conf": multus, "20-b.conflist": conflist(BRIDGE)}, {})


def test_a_default_network_written_out_for_multus_gets_the_entry() -> None:
    multus = {"type": "multus", "name": "m", "delegates": [json.loads(conflist(BRIDGE)), {"type": "macvlan"}]}
    text = json.dumps(multus)
    assert in_use({"00-multus.conf": text, "20-b.conflist": conflist(BRIDGE)}, {}).name == "00-multus.conf"
    assert json.loads(chained(text, OURS))["delegates"][0]["plugins"] == [BRIDGE, OURS]
    assert json.loads(unchained(chained(text, OURS))) == multus
    single = json.dumps({"type": "multus", "delegates": [BRIDGE]})
    with pytest.raises(NotChainable, match="room for one plugin"):
        in_use({"00-multus.conf": single}, {})


@pytest.mark.parametrize("versions", [["0.4.0", "1.0.0", "1.1.0"], ["0.1.0", "0.3.1", "9.0.0"]])
def test_versions_may_be_a_list(versions: list[str]) -> None:
    text = json.dumps({"cniVersions": versions, "name": "n", "plugins": [BRIDGE]})
    assert plugins(chained(text, OURS)) == [BRIDGE, OURS]


def test_the_versions_are_those_of_the_plugin() -> None:
    assert tuple(".".join(map(str, version)) for version in VERSIONS) == config.VERSIONS


KEYS = ("type", "plugins", "delegates", "name", "cniVersion", "cniVersions", "clusterNetwork")
values = st.recursive(
    st.none() | st.integers() | st.sampled_from(["", "multus", "1.0.0", "a/b", "egress-gateway"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.parametrize("depth", [300, 490, 900, 930, 950, 970, 5000])
def test_deep_nesting_ends_in_nothing_but_a_reason(depth: int) -> None:
    text = conflist(BRIDGE, OURS, x="@").replace('"@"', "[" * depth + "]" * depth)
    for change in (lambda whole: chained(whole, {**OURS, "socket": "/x"}), unchained):
        with contextlib.suppress(NotChainable):
            assert change(text) != text


@given(values)
def test_no_configuration_ends_in_anything_but_a_reason(value: Any) -> None:
    text = json.dumps(value)
    with contextlib.suppress(NotChainable):
        in_use({"0.conf": text, "1.conflist": text}, {})
    with contextlib.suppress(NotChainable):
        chained(text, OURS)
    with contextlib.suppress(NotChainable):
        unchained(text)
