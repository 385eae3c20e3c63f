"""The links of all documents lead to a file and a heading that exist; the index names every page."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\(([^)\s]+)\)")
DOCUMENTS = sorted(
    subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.split()
)  # fmt: skip


def prose(path: Path) -> list[str]:
    """Return the lines of a document outside of its code blocks."""
    lines, inside = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        fence = line.lstrip().startswith("```")
        if not inside and not fence:
            lines.append(line)
        inside ^= fence
    return lines


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = [line.lstrip("#").strip().lower() for line in prose(path) if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def broken(path: Path, link: str) -> bool:
    """Return True if a link leads to no file of the repository, or to no heading of its document."""
    name, _, anchor = link.partition("#")
    target = path.parent / name if name else path
    return not target.exists() or (bool(anchor) and anchor not in anchors(target))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str) -> None:
    path = REPOSITORY / name
    links = [link for line in prose(path) for link in LINK.findall(line)]
    inner = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in inner if broken(path, link)] == []


def test_a_missing_heading_is_found() -> None:
    assert broken(REPOSITORY / "README.md", "docs/limits.md#no-such-heading")
    assert broken(REPOSITORY / "README.md", "docs/no-such-page.md")


def test_the_index_names_every_page() -> None:
    index = REPOSITORY / "docs" / "README.md"
    named = {link for line in prose(index) for link in LINK.findall(line)}
    pages = {path.name for path in index.parent.glob("*.md")} - {index.name}
    assert pages <= named
