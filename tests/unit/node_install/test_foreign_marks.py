"""Rules as other programs write them, and the bits that they use."""

from __future__ import annotations

import pytest

from cni.kernel import ids
from gateway_agent.node_install import foreign_marks

OURS = 0x0FF00000
CALICO = "-A cali-PREROUTING -m mark --mark 0x40000/0x40000 -j ACCEPT"
CALICO_WIDE = "-A cali-PREROUTING -j MARK --set-xmark 0x0/0xf00000"


@pytest.mark.parametrize(
    "line",
    [
        CALICO_WIDE,
        "32764:\tfrom all fwmark 0x800000/0x800000 lookup 100",
        "\t\tmeta mark & 0x00f00000 == 0x00100000 accept",
        "\t\tmeta mark set meta mark | 0x00100000",
        "\t\tmeta mark and 0x0f000000 == 0x01000000 drop",
        "\t\tct mark set ct mark & 0xffefffff",
        "-A PREROUTING -j CONNMARK --save-mark --nfmask 0xff00000 --ctmask 0xff00000",
    ],
)
def test_a_rule_with_our_bits_is_found(line: str) -> None:
    [found] = foreign_marks.in_rules(OURS, {"list": f"first\n{line}\n"})
    assert found == f"list: {line.strip()}"


@pytest.mark.parametrize(
    "line",
    [
        CALICO,
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
        # The whole mark: no bits are named.
        "-A PREROUTING -j MARK --set-xmark 0x1/0xffffffff",
        "100:\tfrom all fwmark 0xca6c lookup 51820",
        "\t\tct mark set ct mark & 0xffffefff",
        "\t\tmeta mark 0x00100000 accept",
        "",
    ],
)
def test_a_rule_without_our_bits_is_not(line: str) -> None:
    assert foreign_marks.in_rules(OURS, {"list": line}) == ()


def test_our_own_rules_are_left_out() -> None:
    ours = f"table inet {ids.NFT_NODE_INET} {{\n\tmeta mark & 0x0ff00000 == 0x00100000 accept\n}}\n"
    rule = f"900:\tfrom all fwmark 0x100000/0xff00000 lookup 7001 proto {ids.PROTOCOL}\n"
    other = "table inet other {\n\tmeta mark & 0x00f00000 == 0x00100000 drop\n}\n"
    kept = foreign_marks.without_ours(ours + other + rule)
    assert foreign_marks.in_rules(OURS, {"list": kept}) == (
        "list: meta mark & 0x00f00000 == 0x00100000 drop",
    )


def test_the_other_mask_is_free_and_as_wide() -> None:
    texts = {"a": CALICO_WIDE, "b": CALICO, "c": "fwmark 0x80000000/0x80000000"}
    mask = foreign_marks.free_mask(OURS, texts)
    assert mask.bit_count() == OURS.bit_count()
    assert foreign_marks.in_rules(mask, texts) == ()


def test_there_may_be_no_free_mask() -> None:
    assert foreign_marks.free_mask(OURS, {"a": "fwmark 0x1111111/0x11111111"}) == 0
