"""``egressctl validate``: everything that is wrong with files, without an agent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import config
from ..core import documents, manifests, underlay
from ..core.model import Problem


@dataclass(frozen=True)
class Outcome:
    objects: int
    """How many were understood; an agent's configuration counts as one."""
    problems: tuple[Problem, ...]


def validate(paths: Iterable[Path]) -> Outcome:
    """Reads files, and directories as the files store does. References must be met among all of them."""
    problems: list[Problem] = []
    contents: dict[str, manifests.FileContent] = {}
    configurations = 0
    for path in dict.fromkeys(_files(paths, problems)):
        source = str(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            problems.append(Problem(source, "", f"cannot be read: {reason}"))
            continue
        if not _is_configuration(source, text):
            contents[source] = manifests.parse_file(source, text)
            continue
        try:
            config.parse(source, text, "localhost")
            configurations += 1
        except config.ConfigError as error:
            problems += error.problems
    inventory = manifests.assemble(contents)
    objects = sum(len(content.objects) for content in contents.values())
    problems += inventory.problems
    underlay.place(inventory.nodes, problems)
    return Outcome(objects + configurations, tuple(problems))


def _files(paths: Iterable[Path], problems: list[Problem]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        ours = (p for p in path.iterdir() if p.name.endswith(manifests.ENDINGS) and p.name[0] != ".")
        found = sorted(ours)
        if not found:
            hint = f"files *{', *'.join(manifests.ENDINGS)}"
            problems.append(Problem(str(path), "", "holds no manifests", hint))
        yield from found


def _is_configuration(source: str, text: str) -> bool:
    """Whether it is an ``agent.yaml``: it has no kind, but keys of the agent's configuration."""
    found, _ = documents.load(source, text)
    value = found[0][1] if found else None
    if not isinstance(value, dict) or value.keys() & {"kind", "apiVersion"}:
        return False
    return bool(value.keys() & set(config.KEYS))
