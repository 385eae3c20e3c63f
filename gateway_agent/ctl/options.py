"""Define the options of every command of ``egressctl``, and read the configuration that they name."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..config import DEFAULT_PATH, AgentConfig, ConfigError, load


def common_options() -> argparse.ArgumentParser:
    """Return the parser of the options that every command has."""
    everywhere = argparse.ArgumentParser(add_help=False)
    # No default: the default of the command's parser would override an option before the command.
    everywhere.add_argument("--config", type=Path, metavar="FILE", default=argparse.SUPPRESS,
                            help=f"the agent's configuration, default {DEFAULT_PATH}")  # fmt: skip
    everywhere.add_argument("-o", dest="output", choices=("text", "wide", "json"), default=argparse.SUPPRESS,
                            help="default text; wide: every column, nothing wrapped")  # fmt: skip
    return everywhere


def run_dir(options: argparse.Namespace) -> Path:
    """Return the run directory; the default one if there is no configuration. Raises ConfigError."""
    if options.config is None and not DEFAULT_PATH.exists():
        return AgentConfig.run_dir
    return configuration(options).run_dir


def configuration(options: argparse.Namespace) -> AgentConfig:
    """Return the agent's configuration. Raises ConfigError if ``runDir`` or ``cluster.keyFile`` is invalid.

    Commands need no other values, so any other error is only a warning.
    """
    try:
        return load(options.config or DEFAULT_PATH)
    except ConfigError as error:
        if error.rest is None or any(
            problem.path in ("runDir", "cluster.keyFile") for problem in error.problems
        ):
            raise
        for problem in error.problems:
            print(f"egressctl: warning: {problem}", file=sys.stderr)
        return error.rest
