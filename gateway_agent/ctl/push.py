"""Implement ``egressctl push``: send valid manifests to this node's agent, and wait for the results of all nodes."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..manifest_sets.acceptance import Outcome
from .client import NoAnswer, ask
from .objects.validate import Outcome as Validated

POLL_INTERVAL_S = 0.1
DONE = (Outcome.APPLIED, Outcome.UNCHANGED)


def push(socket: Path, edit: Validated, to: Sequence[str], force: bool) -> dict[str, Any]:
    """Return the answer of ``egressctl push -o json``. On a terminal, show the progress. Raises :class:`NoAnswer`.

    ``edit``: the valid manifests. ``to``: names of nodes; empty: all.
    """
    files = _files(edit.texts)
    state = ask(socket, "push", files=files, to=list(to), force=force)
    with_progress = sys.stderr.isatty()
    while not state["done"]:
        time.sleep(POLL_INTERVAL_S)
        state = ask(socket, "pushed", push=state["push"])
        if with_progress:
            print(f"\r{len(state['nodes'])} of {state['total']} nodes", end="", file=sys.stderr, flush=True)
    if with_progress:
        # Erase the line of the progress.
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    failed = [row["node"] for row in state["nodes"] if row["outcome"] not in DONE]
    shown = {name: state[name] for name in ("set", "total", "failure", "hint", "nodes")}
    return {**shown, "failed": failed}


def _files(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the texts by the names of their files in the directory."""
    files = {Path(path).name: text for path, text in texts.items()}
    if not files:
        raise NoAnswer("there is no manifest to push")
    return files
