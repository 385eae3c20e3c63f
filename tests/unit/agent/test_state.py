"""Each fact that the parts of an agent share has one writer; pods' records and tags too."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import gateway_agent.agent
from gateway_agent.agent.state import NodeState

PACKAGE = Path(gateway_agent.agent.__file__).parent
MODULES = {path.stem: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
WRITER = re.compile(r"Writer[^:]*: ``(\w+)``")


def named_writers(module: str, name: str) -> dict[str, str]:
    """Return the writer that the text below each field of a class names."""
    [fields] = [
        node.body for node in MODULES[module].body if isinstance(node, ast.ClassDef) and node.name == name
    ]
    found = {}
    for field, text in itertools.pairwise(fields):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            assert isinstance(field.target, ast.Name)
            if match := WRITER.search(str(text.value.value)):
                found[field.target.id] = match[1]
    return found


def assigned(tree: ast.AST) -> Iterator[str]:
    """Yield the name of each attribute that is set, other than those of ``self``, as ``OBJECT.NAME``."""
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(each, ast.Attribute) and not isinstance(each.value, ast.Constant):
                    owner = each.value
                    yield f"{owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, 'id', '')}.{each.attr}"


def writers(*names: str) -> set[str]:
    return {module for module, tree in MODULES.items() if not {*names}.isdisjoint(assigned(tree))}


def test_each_fact_of_the_node_is_written_by_the_module_that_its_text_names() -> None:
    named = named_writers("state", "NodeState")
    assert {*named} == {*NodeState.__dataclass_fields__}
    assert {field: writers(f"state.{field}", f"_state.{field}") for field in named} == {
        field: {writer} for field, writer in named.items()
    }


def test_tags_are_written_by_one_module() -> None:
    named = named_writers("records", "Pod")
    assert named == {"tag": "tagging", "entries": "tagging"}
    for field in named:
        assert writers(f"pod.{field}") - {"records"} == {"tagging"}
    setting = {
        module
        for module, tree in MODULES.items()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and (
            any(keyword.arg == "group" for keyword in call.keywords)
            or (
                isinstance(call.func, ast.Attribute)
                and call.func.attr == "tag"
                and "_kernel" in ast.dump(call.func)
            )
        )
    }
    assert setting == {"tagging"}


def test_records_are_written_by_one_module() -> None:
    writing = {
        module
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in {("attachments", "write"), ("attachments", "remove")}
    }
    assert writing == {"records"}
    assert writers("pod.record") == {"records"}
