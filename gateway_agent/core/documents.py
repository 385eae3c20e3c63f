"""YAML text to documents. Stricter than PyYAML: a key that stands twice in a mapping is an error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from .model import Problem

# libyaml is ten times faster; PyYAML is built without it on some machines.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """Times stay texts, as they are in JSON."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in _Base.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    message = f"the key {key.value!r} stands twice"
                    raise yaml.MarkedYAMLError(None, None, message, key.start_mark)
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def load(source: str, text: str) -> tuple[list[tuple[str, Any]], list[Problem]]:
    """The documents of one file, each with the source to report, and why reading stopped, if it did.

    A source is the file's name, with the number of the document where there are several. Empty documents are
    left out, but counted.
    """
    found: list[Any] = []
    problems = []
    try:
        found.extend(_documents(text))
    except yaml.YAMLError as error:
        problems.append(_problem(source, error))
    except (RecursionError, ValueError) as error:
        # ValueError: a number that Python refuses to convert, for its length.
        problems.append(Problem(source, "", f"not YAML: {error}"))
    many = len(found) > 1
    named = [(f"{source} (document {i})" if many else source, value) for i, value in enumerate(found, 1)]
    return [(name, value) for name, value in named if value is not None], problems


def _documents(text: str) -> Iterator[Any]:
    loader = _Loader(text)
    try:
        while loader.check_data():
            yield loader.get_data()
    finally:
        loader.dispose()


def _problem(source: str, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return Problem(source, "", f"not YAML: {where}{what}")
