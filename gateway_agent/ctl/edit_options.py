"""The commands of ``egressctl`` for edits of the manifests, with their options and examples."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .objects.validate import Outcome

Run = Callable[[argparse.Namespace], int]
"""Runs a command and returns the exit code."""
PUSH_EXAMPLES = """examples:
  egressctl push ./manifests
  egressctl push ./manifests --to w1 w2
  egressctl push ./manifests --to w3 --force"""
DIFF_EXAMPLES = """examples:
  egressctl diff ./manifests
  egressctl diff ./manifests -o json"""
DIRECTORY = "a directory with all manifests"


def add(command: Callable[[str, Run, str], argparse.ArgumentParser], push: Run, diff: Run) -> None:
    """Add the commands. ``command``: adds one, by its name, its function and its description."""
    pushing = command("push", push, "send manifests to all nodes, over connections between the agents")
    pushing.epilog = PUSH_EXAMPLES
    pushing.add_argument("path", metavar="PATH", type=Path, help=DIRECTORY)
    pushing.add_argument("--to", metavar="NODE", nargs="+", default=[], help="only these; default: all nodes")
    text = "replace directories that were edited by hand, too"
    pushing.add_argument("--force", action="store_true", help=text)
    text = "the pods, addresses and connections that an edit of the manifests would change"
    comparing = command("diff", diff, text)
    comparing.epilog = DIFF_EXAMPLES
    comparing.add_argument("path", metavar="PATH", type=Path, help=DIRECTORY)


def report(outcome: Outcome, output: str) -> None:
    """Print the outcome of a validation, as ``output`` says: ``text``, ``wide`` or ``json``."""
    from ..show.status import problem

    if output == "json":
        print(json.dumps([problem(found) for found in outcome.problems], indent=2))
    elif outcome.problems:
        print("\n".join(map(str, outcome.problems)))
    else:
        print(f"{outcome.objects} object{'s' * (outcome.objects != 1)}, all valid")
    for note in outcome.notes:
        print(f"egressctl: {note}", file=sys.stderr)
