"""The identifiers of the product: none is made of words that are no terms of the field."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BANNED = {
    "hear",
    "hears",
    "heard",
    "hearing",
    "unheard",
    "tell",
    "tells",
    "told",
    "stand",
    "stands",
    "stood",
    "standing",
}
BANNED |= {"nobody", "somebody", "wish", "heir", "gift", "word", "words"}
ALLOWED = {"LOAD_WORD", "LOAD_WORD_AT_INDEX"}
"""Instructions of classic BPF, as the kernel names them: they load a machine word."""
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def banned(source: str) -> Iterator[str]:
    """Yield the identifiers of a module, also those inside f-strings, that have a banned word as a part."""
    names = {
        t.string for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.NAME
    }
    names |= {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    for name in sorted(names - ALLOWED):
        if BANNED & {part.lower() for part in PART.findall(name)}:
            yield name


def test_no_identifier_of_the_product_is_made_of_banned_words() -> None:
    files = [path for package in ("cni", "gateway_agent") for path in (REPOSITORY / package).rglob("*.py")]
    assert files
    found = {str(path.relative_to(REPOSITORY)): [*banned(path.read_text())] for path in files}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("_last_heard_at = 0", ["_last_heard_at"]),
        ("class KeysHeard: ...", ["KeysHeard"]),
        ("def f(told): ...", ["told"]),
        ('text = f"{words}"', ["words"]),
        ("LOAD_WORD = outstanding = keywords = 1", []),
        ("'a string that was heard'  # a comment that nobody reads", []),
    ],
)
def test_banned_identifiers_are_found(source: str, found: list[str]) -> None:
    assert [*banned(source)] == found
