"""Implement ``egressctl validate``: report every problem of files, without an agent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import config
from ..manifests import parsing, yaml_documents
from ..manifests.model import Inventory, Problem
from ..policy import egress_ips, underlay

READ = (*parsing.OUR_KINDS, *parsing.CORE_KINDS, parsing.SERVICE_CIDR)


@dataclass(frozen=True)
class Outcome:
    """The result of a validation."""

    objects: int
    """Number of valid objects; an agent's configuration counts as one."""
    problems: tuple[Problem, ...]
    """Problems that an agent with all these objects would report."""
    notes: tuple[str, ...] = ()
    """Checks that could not be made."""


def validate(paths: Iterable[Path]) -> Outcome:
    """Validate files and directories together, as the files store reads them. References must resolve among them."""
    problems: list[Problem] = []
    contents: dict[str, parsing.FileContent] = {}
    configurations = 0
    for path, named in _files(paths, problems).items():
        source = str(path)
        try:
            text = _text(path)
        except (OSError, UnicodeDecodeError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else "not UTF-8"
            problems.append(Problem(source, "", f"cannot be read: {reason}"))
            continue
        if not _is_configuration(source, text):
            contents[source] = content = parsing.parse_file(source, text)
            if not (content.objects or content.problems) and (named or not text.strip()):
                what = "holds nothing that an agent reads" if text.strip() else "is empty"
                problems.append(Problem(source, "", what, f"kinds: {', '.join(READ)}"))
            continue
        try:
            config.parse(source, text, "localhost")
            configurations += 1
        except config.ConfigError as error:
            problems += error.problems
    inventory = parsing.assemble(contents)
    objects = sum(len(content.objects) for content in contents.values())
    problems += inventory.problems
    notes = _look_at_addresses(inventory, problems)
    return Outcome(objects + configurations, tuple(problems), tuple(notes))


def _look_at_addresses(inventory: Inventory, problems: list[Problem]) -> list[str]:
    """Add the problems that planning finds: in nodes, and between gateways and nodes. Return notes."""
    notes = []
    found: list[Problem] = []
    list(egress_ips.of(inventory, underlay.place(inventory.nodes, found), found))
    if inventory.gateways and not inventory.nodes:
        # In a cluster the nodes are not among the manifests.
        found = [problem for problem in found if problem.path != egress_ips.SELECTOR]
        notes.append("no Node is among the files: gateways were not compared with nodes")
    problems += found
    return notes


def _text(path: Path) -> str:
    """Return the text of a file. Raises OSError and UnicodeDecodeError."""
    with path.open("rb") as file:
        raw = file.read(parsing.MAX_FILE_BYTES + 1)
    if len(raw) > parsing.MAX_FILE_BYTES:
        raise OSError(f"larger than {parsing.MAX_FILE_BYTES} bytes")
    return raw.decode("utf-8")


def _files(paths: Iterable[Path], problems: list[Problem]) -> dict[Path, bool]:
    """Return the files, each with True if it was named itself, False if only its directory was."""
    found: dict[Path, bool] = {}
    for path in paths:
        if not path.is_dir():
            found[path] = True
            continue
        try:
            names = sorted(
                p for p in path.iterdir() if p.name.endswith(parsing.SUFFIXES) and p.name[0] != "."
            )
        except OSError as error:
            problems.append(Problem(str(path), "", f"cannot be read: {error.strerror}"))
            continue
        if not names:
            hint = f"files *{', *'.join(parsing.SUFFIXES)}"
            problems.append(Problem(str(path), "", "holds no manifests", hint))
        for name in names:
            found.setdefault(name, False)
    return found


def _is_configuration(source: str, text: str) -> bool:
    """Return True if the text is an ``agent.yaml``: it has no kind, but keys of the agent's configuration."""
    found, _ = yaml_documents.load(source, text)
    value = found[0][1] if found else None
    if not isinstance(value, dict) or value.keys() & {"kind", "apiVersion"}:
        return False
    return bool(value.keys() & set(config.KEYS))
