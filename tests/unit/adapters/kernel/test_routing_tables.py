"""The names that a node has for routing tables."""

from __future__ import annotations

from pathlib import Path

from gateway_agent.adapters.kernel.routing_tables import names


def test_the_later_directory_counts_and_what_is_wrong_is_left_out(tmp_path: Path) -> None:
    vendor, own = tmp_path / "usr", tmp_path / "etc"
    (own / "rt_tables.d").mkdir(parents=True)
    vendor.mkdir()
    (vendor / "rt_tables").write_text("254\tmain\n500 external # an uplink\n")
    (own / "rt_tables").write_text("# reserved\n\n501\texternal\nmany words\n0x1f4 hex\n600\n")
    (own / "rt_tables.d" / "vrf.conf").write_text("700 vrf-blue\n")
    assert names([vendor, own, tmp_path / "none"]) == {
        "main": 254,
        "external": 501,
        "hex": 500,
        "vrf-blue": 700,
    }
