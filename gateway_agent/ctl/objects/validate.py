"""Implement ``egressctl validate``: report every problem of files, without an agent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cni.plan import PodIdentity

from ... import config
from ...manifests import parsing, yaml_documents
from ...manifests.model import Inventory, Problem
from .stored_objects import manifest_text

READ = (*parsing.OUR_KINDS, *parsing.CORE_KINDS, parsing.SERVICE_CIDR)
ANY_NODE = "localhost"
"""Name of the node if the configuration has none: an agent would use the name of its machine."""


@dataclass(frozen=True)
class Outcome:
    """The result of a validation."""

    objects: int
    """Number of valid objects; an agent's configuration counts as one."""
    problems: tuple[Problem, ...]
    """Problems that an agent with all these objects would report."""
    notes: tuple[str, ...] = ()
    """Checks that could not be made."""
    inventory: Inventory = field(default_factory=Inventory)
    """The valid objects."""
    bound: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Nodes of the pods that have a document, by (namespace, name); empty: the document names none."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """The texts of the manifests that were read, by path."""


def validate(paths: Iterable[Path]) -> Outcome:
    """Validate files and directories together, as the files store reads them. References must resolve among them."""
    problems: list[Problem] = []
    contents: dict[str, parsing.FileContent] = {}
    texts: dict[str, str] = {}
    configurations: list[config.AgentConfig] = []
    for path, named in _files(paths, problems).items():
        source = str(path)
        try:
            text = manifest_text(path, named)
        except (OSError, UnicodeDecodeError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else "not UTF-8"
            problems.append(Problem(source, "", f"cannot be read: {reason}"))
            continue
        if not _is_configuration(source, text):
            texts[source] = text
            contents[source] = content = parsing.parse_file(source, text)
            empty = _is_empty(text)
            if not (content.objects or content.problems) and (named or empty):
                what = "is empty" if empty else "holds nothing that an agent reads"
                problems.append(Problem(source, "", what, f"kinds: {', '.join(READ)}"))
            continue
        try:
            configurations.append(config.parse(source, text, ANY_NODE))
        except config.ConfigError as error:
            problems += error.problems
    inventory = parsing.assemble(contents)
    problems += inventory.problems
    bound = _nodes_of_pods(contents)
    problems += _of_plans(inventory, configurations, bound)
    notes = []
    if inventory.gateways and not inventory.nodes:
        notes.append("no Node is among the files: gateways were not compared with nodes")
    objects = sum(len(content.objects) for content in contents.values())
    objects += len(configurations)
    return Outcome(objects, tuple(problems), tuple(notes), inventory, bound, texts)


def _is_empty(text: str) -> bool:
    """Return True if a manifest has only comments and marks of documents."""
    lines = (line.strip() for line in text.splitlines())
    return all(line in ("", "---", "...") or line.startswith("#") for line in lines)


def _of_plans(
    inventory: Inventory, configurations: Iterable[config.AgentConfig], bound: Mapping[tuple[str, str], str]
) -> list[Problem]:
    """Return the problems of plans with each of the configurations, or with the defaults if there is none."""
    if not (inventory.gateways or inventory.policies or inventory.nodes):
        return []
    # Only here: a configuration alone needs neither the planner nor the rules.
    from .trial_plans import Trial

    tried = tuple(configurations) or (config.AgentConfig(ANY_NODE, config.FilesStoreConfig()),)
    found = (
        problem
        for each in tried
        for problem in Trial(
            inventory, each, bound, "" if each.node_name == ANY_NODE else each.node_name
        ).problems()
    )
    return list(dict.fromkeys(found))


def _nodes_of_pods(contents: Mapping[str, parsing.FileContent]) -> dict[tuple[str, str], str]:
    """Return the node of each pod by (namespace, name); of two documents of one pod the first one counts."""
    bound: dict[tuple[str, str], str] = {}
    for source in sorted(contents):
        for item in contents[source].objects:
            if isinstance(item.value, PodIdentity):
                bound.setdefault((item.value.namespace, item.value.name), item.node)
    return bound


def _files(paths: Iterable[Path], problems: list[Problem]) -> dict[Path, bool]:
    """Return the files, each with True if the command line names the file, False if only its directory."""
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
