from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.bench.report import Row, machine, plot, table, write_section

ROWS = [
    Row("node cut off", "default timers", [230.0, 250.0, 240.0], 250, 0.0),
    Row("node cut off", "keepalived", [160.0], 160, 0.0),
    Row("node frozen", "default timers", [0.0], 0, 0.0),
    Row("node frozen", "keepalived", [0.0], 0, 4842.1),
]


def test_two_owners_are_named_in_the_table() -> None:
    lines = table(ROWS).splitlines()
    assert lines[2] == "| node cut off | default timers | 3 | 240 | 250 | 250 | never |"
    assert lines[-1] == "| node frozen | keepalived | 1 | 0 | 0 | 0 | **4842.1 ms** |"


def test_a_section_is_written_again_in_its_place(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text("# Benchmarks\n\nhead\n")
    write_section(document, "a", "first")
    write_section(document, "b", "other")
    document.write_text(document.read_text() + "\ntail\n")
    before = document.read_text()
    write_section(document, "a", "second")
    assert document.read_text() == before.replace("first", "second")
    assert before.startswith("# Benchmarks\n\nhead\n\n<!-- a")


def test_a_document_is_made_where_there_is_none(tmp_path: Path) -> None:
    write_section(tmp_path / "new.md", "a", "text")
    assert "text" in (tmp_path / "new.md").read_text()


def test_a_section_without_an_end_is_left_alone(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    write_section(document, "a", "first")
    broken = document.read_text().replace("<!-- a: end -->", "")
    document.write_text(broken)
    with pytest.raises(ValueError, match="has no end"):
        write_section(document, "a", "second")
    assert document.read_text() == broken


def test_the_plot_is_a_picture_with_something_on_it(tmp_path: Path) -> None:
    plot(tmp_path / "plot.png", "Silence", ROWS)
    with Image.open(tmp_path / "plot.png") as image:
        assert image.format == "PNG"
        colours = image.getcolors(1 << 16)
    assert colours is not None
    assert len(colours) > 3


def test_the_machine_is_described_with_its_versions() -> None:
    assert "nftables 1." in machine()
    assert "Linux" in machine()
