"""Read the fields of a document one by one, and collect all problems instead of stopping at the first."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .model import Problem

TYPE_NAMES = {
    bool: "a boolean", int: "a number", float: "a number", str: "a text", dict: "a mapping", list: "a list",
}  # fmt: skip


MAX_ITEMS = 65_536
"""Items of one list. Planning a policy with this many prefixes takes seconds."""
MAX_PROBLEMS = 50
"""Problems listed for one source: a list of a million wrong items has one cause."""
MAX_COMPARED_CHARS = 100
"""Leading characters of an unknown name that are compared with known names."""


class Report:
    """The problems of one source."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []

    def add(self, path: str, message: str, hint: str = "") -> None:
        """Add a problem with the field ``path``. After MAX_PROBLEMS problems, add one note that there are more."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(self.source, path, message, hint))
        elif len(self.problems) == MAX_PROBLEMS:
            self.problems.append(Problem(self.source, "", "has more problems than are listed"))


def resembling(name: str, known: Iterable[str]) -> str:
    """Return the hint for an unknown name: the most similar known name, else the list of known names."""
    names = sorted(known)
    folded = {candidate.lower(): candidate for candidate in reversed(names)}
    near = difflib.get_close_matches(name[:MAX_COMPARED_CHARS].lower(), folded, n=1, cutoff=0.6)
    if near:
        return f"did you mean {folded[near[0]]!r}?"
    return f"known: {', '.join(names)}" if names else ""


def is_unicode(text: str) -> bool:
    """Return True if ``text`` can be encoded as UTF-8. JSON allows lone surrogates, UTF-8 does not."""
    return not any("\ud800" <= character <= "\udfff" for character in text) if not text.isascii() else True


def kind_of(value: object) -> str:
    """Return the name, for a message, of the type that YAML gave to a value."""
    return "empty" if value is None else TYPE_NAMES.get(type(value), type(value).__name__)


class Fields:
    """The reader of one mapping. Each reading method marks its field as known; :meth:`end` reports the others.

    An invalid value is reported, and the reading method returns the default. ``null`` counts as absent, as in
    Kubernetes.
    """

    def __init__(self, value: Mapping[Any, Any], path: str, report: Report) -> None:
        self.value = value
        self.path = path
        self.report = report
        self._known: set[str] = set()

    def at(self, name: str) -> str:
        """Return the path of the field ``name``, as ``spec.sourceIP.mode``."""
        return f"{self.path}.{name}" if self.path else name

    def add(self, name: str, message: str, hint: str = "") -> None:
        """Report a problem with the field ``name``."""
        self.report.add(self.at(name), message, hint)

    def raw(self, name: str, required: bool = False, hint: str = "") -> Any:
        """Return the value of the field as YAML gave it; None if it is absent."""
        self._known.add(name)
        found = self.value.get(name)
        if found is None and required:
            self.add(name, "is required", hint)
        return found

    def text(self, name: str, default: str = "", *, required: bool = False, hint: str = "") -> str:
        """Return a text. A required text must not be empty."""
        found = self.raw(name, required, hint)
        if isinstance(found, str) and not is_unicode(found):
            self.add(name, f"{found!r} is no valid Unicode")
            return default
        if isinstance(found, str) and (found or not required):
            return found
        if found == "":
            self.add(name, "is empty", hint)
        elif found is not None:
            self.add(name, f"must be a text, not {kind_of(found)}", "quote it")
        return default

    def choice(self, name: str, among: Sequence[str], default: str = "", *, required: bool = False) -> str:
        """Return a text that is one of ``among``."""
        chosen = self.text(name, default, required=required, hint=f"one of {', '.join(among)}")
        if chosen in among or chosen == default:
            return chosen
        self.add(name, f"{chosen!r} is not known", resembling(chosen, among))
        return default

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a boolean."""
        found = self.raw(name)
        if isinstance(found, bool):
            return found
        if found is not None:
            self.add(name, f"must be true or false, not {kind_of(found)}")
        return default

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """Return an integer from ``low`` to ``high``, both included."""
        found = self.raw(name)
        if found is None:
            return default
        if isinstance(found, bool) or not isinstance(found, int) or not low <= found <= high:
            self.add(name, f"must be a whole number from {low} to {high}")
            return default
        return found

    def fields(self, name: str, *, required: bool = False, hint: str = "") -> Fields | None:
        """Return the fields of a nested mapping; None if it is absent or no mapping."""
        found = self.raw(name, required, hint)
        if isinstance(found, dict):
            return Fields(found, self.at(name), self.report)
        if found is not None:
            self.add(name, f"must be a mapping, not {kind_of(found)}", hint)
        return None

    def items(self, name: str, *, required: bool = False, hint: str = "") -> Iterator[tuple[str, Any]]:
        """Yield ``(path, item)`` of a list. An empty item (``null``) is reported and skipped."""
        found = self.raw(name, required, hint)
        if found is not None and not isinstance(found, list):
            self.add(name, f"must be a list, not {kind_of(found)}", hint)
        elif found == [] and required:
            self.add(name, "is empty", hint)
        elif isinstance(found, list) and len(found) > MAX_ITEMS:
            self.add(name, f"has {len(found)} items; {MAX_ITEMS} are allowed")
            return
        for index, item in enumerate(found if isinstance(found, list) else ()):
            path = f"{self.at(name)}[{index}]"
            if item is None:
                self.report.add(path, "is empty")
            else:
                yield path, item

    def texts(self, name: str, *, required: bool = False, hint: str = "") -> Iterator[tuple[str, str]]:
        """Yield ``(path, text)`` of a list of texts."""
        for path, item in self.items(name, required=required, hint=hint):
            if isinstance(item, str):
                yield path, item
            else:
                self.report.add(path, f"must be a text, not {kind_of(item)}", "quote it")

    def end(self, besides: Iterable[str] = ()) -> None:
        """Report the fields that no reading method has read. ``besides``: known fields that are ignored."""
        known = self._known | set(besides)
        unknown = [str(name) for name in self.value if name not in known]
        for name in unknown[: MAX_PROBLEMS + 1]:
            self.add(name, "unknown field", resembling(name, known))
