"""Parse YAML text into documents. Unlike in PyYAML, a duplicate key in a mapping is an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from .model import Problem

# libyaml is ten times faster. Some builds of PyYAML lack it.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DumperBase: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
MAX_ALIASES = 1_000
"""Aliases of one file. An alias costs four characters and expands to any number of values."""
MAX_DOCUMENTS = 50_000
"""Documents of one file."""
MAX_VALUES = 1_500_000
"""Lines and commas of one file: each may end a value, and a value takes two characters and 300 bytes of memory."""
MAX_INTEGER = 1 << 64
MAX_INTEGER_CHARS = 100
"""Length of an integer that is converted. The time that PyYAML takes for one in base 60 grows with its square."""
_ALIAS = re.compile(r"[\s,:\[{-]\*[^\s,\]}]")


class _Loader(_Base):  # type: ignore[misc]
    """A loader that reads times as texts, like JSON, and refuses duplicate keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in _Base.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    message = f"the key {key.value!r} is given twice"
                    raise yaml.MarkedYAMLError(None, None, message, key.start_mark)
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        """Return an integer, or its text if it is too long to be converted or shown."""
        if len(node.value) > MAX_INTEGER_CHARS:
            return node.value
        try:
            number = self.construct_yaml_int(node)
        except (ValueError, IndexError):
            return node.value
        return number if abs(number) <= MAX_INTEGER else node.value


class _Dumper(_DumperBase):  # type: ignore[misc]
    """A dumper without aliases: the aliases of several texts could together exceed :data:`MAX_ALIASES`."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)


def load(source: str, text: str) -> tuple[list[tuple[str, Any]], list[Problem]]:
    """Return the ``(source, document)`` pairs of one file, and the problem that ended reading, if there was one.

    ``source`` of a document: the file's name, with the number of the document if there are several. Empty documents
    are counted and left out. Never raises for any content.
    """
    found: list[Any] = []
    problems = []
    try:
        _check_values(text)
        _check_aliases(text)
        for document in _documents(text):
            if len(found) == MAX_DOCUMENTS:
                raise yaml.YAMLError(f"more than {MAX_DOCUMENTS} documents: make several files of it")
            _check_size(document, len(text))
            found.append(document)
    except yaml.YAMLError as error:
        problems.append(_problem(source, error))
    except Exception as error:
        # PyYAML's constructors raise any exception of Python: KeyError, IndexError, AttributeError …
        problems.append(Problem(source, "", f"not YAML: {type(error).__name__}: {error}"))
    many = len(found) > 1
    named = [(f"{source} (document {i})" if many else source, value) for i, value in enumerate(found, 1)]
    return [(name, value) for name, value in named if value is not None], problems


def dump(document: Any) -> str:
    """Return YAML text that :func:`load` reads as this document. Shared values are written out, without aliases."""
    text: str = yaml.dump(document, Dumper=_Dumper, allow_unicode=True, sort_keys=False)
    return text


def _documents(text: str) -> Iterator[Any]:
    loader = _Loader(text)
    try:
        while loader.check_data():
            yield loader.get_data()
    finally:
        loader.dispose()


def _check_values(text: str) -> None:
    """Raise :class:`yaml.YAMLError` if a file may have more than :data:`MAX_VALUES` values."""
    values = text.count("\n") + text.count(",")
    if values > MAX_VALUES:
        raise yaml.YAMLError(f"{values} lines and commas; {MAX_VALUES} are allowed: make several files of it")


def _check_aliases(text: str) -> None:
    """Raise :class:`yaml.YAMLError` if a file has more than :data:`MAX_ALIASES` aliases."""
    if len(_ALIAS.findall(text)) <= MAX_ALIASES:
        return
    # The pattern also matches stars inside of texts, so the slow and exact count follows.
    aliases = sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=_Base))
    if aliases > MAX_ALIASES:
        raise yaml.YAMLError(f"{aliases} aliases; {MAX_ALIASES} are allowed: write the values out")


def _check_size(document: Any, characters: int) -> None:
    """Raise :class:`yaml.YAMLError` if aliases expand a document beyond its text's size, or make it recursive.

    ``characters``: length of the whole text.
    """
    sizes: dict[int, int] = {}
    pending = [(document, False)]
    while pending:
        value, measured = pending.pop()
        if not isinstance(value, (dict, list)):
            continue
        inner = value if isinstance(value, list) else list(value.values())
        if measured:
            sizes[id(value)] = 1 + sum(sizes.get(id(each), 1) or characters for each in inner)
        elif id(value) not in sizes:
            # Zero marks a value that is being measured.
            sizes[id(value)] = 0
            pending.append((value, True))
            pending.extend((each, False) for each in inner)
        elif not sizes[id(value)]:
            raise yaml.YAMLError("an alias refers to a value that contains it")
    if sizes.get(id(document), 1) > characters:
        raise yaml.YAMLError("aliases make it larger than the whole file: write the values out")


def _problem(source: str, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return Problem(source, "", f"not YAML: {where}{what}")
