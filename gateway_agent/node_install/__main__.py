"""``python -m gateway_agent.node_install install|uninstall``: do the part of ``install.sh`` that changes a node.

It runs in the environment of the version to install, which ``install.sh`` has put under
``/opt/egress-gateway/versions``. Nothing else of the node is changed before every check has passed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from ..config import DEFAULT_PATH, AgentConfig, ConfigError, FilesStoreConfig, load
from ..ctl.__main__ import NOT_OK
from ..ctl.output import render
from . import installation, preflight, services, sources
from .file_changes import FileChanges
from .services import Failed

DONE, FAILED = 0, 1


def main() -> int:
    """Run the command. Return the exit code: 0 done, 1 failed, with no change or all changes undone."""
    parser = argparse.ArgumentParser(prog="install.sh")
    commands = parser.add_subparsers(required=True)
    install = commands.add_parser("install")
    install.set_defaults(run=_install)
    for option, metavar in (("--config", "FILE"), ("--store", "DIR"), ("--key", "FILE")):
        install.add_argument(option, type=Path, metavar=metavar)
    install.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="for the agent to be ready"
    )
    commands.add_parser("uninstall").set_defaults(run=_uninstall)
    options = parser.parse_args()
    try:
        return int(options.run(options))
    except (Failed, OSError) as error:
        _complain(error)
        return FAILED


def _install(options: argparse.Namespace) -> int:
    given = sources.read(options.config, options.store, options.key)
    replaces = services.is_active(services.AGENT)
    findings = preflight.examine(given.config, given.inventory, replaces)
    render.doctor(findings, render.Page(wide=True))
    if any(finding.wrong for finding in findings):
        print("install.sh: a check failed, and nothing was changed", file=sys.stderr)
        return FAILED
    changes = FileChanges()
    before = installation.current()
    try:
        _switch(changes, given, replaces, options.timeout)
    except (Failed, OSError) as error:
        _complain(error)
        _go_back(changes, before, replaces)
        return FAILED
    installation.remove_others()
    code = subprocess.run([installation.PROGRAMS / "egressctl", "status"], check=False).returncode
    # An installed node may still lack what depends on other nodes, such as a master of each egress IP.
    return 0 if code == NOT_OK else code


def _switch(changes: FileChanges, given: sources.Sources, replaces: bool, timeout_s: float) -> None:
    """Make this version the current one, start it and chain the plugin. Raises :class:`Failed` and OSError."""
    changed = {path for path, (content, mode) in given.files.items() if changes.put(path, content, mode)}
    if installation.put(changes) or not replaces:
        print("Starting the services", flush=True)
        services.start(installation.units())
    elif DEFAULT_PATH in changed:
        # The agent notices changed manifests and keys.
        services.systemctl("reload", services.AGENT)
    installation.chain(changes, installation.THIS)
    seconds = services.wait_ready(given.config.metrics_listen, timeout_s)
    print(f"Ready after {seconds:.1f} s", flush=True)


def _go_back(changes: FileChanges, before: Path | None, replaces: bool) -> None:
    """Undo everything, and start the previous version again if it was running."""
    print("install.sh: going back to the state before", file=sys.stderr)
    if not replaces:
        with suppress(Failed):
            services.stop(installation.units())
    if before is None:
        installation.unchain(installation.THIS)
    changes.undo()
    services.systemctl("daemon-reload")
    if replaces:
        services.start(
            tuple(unit for unit in installation.units() if (installation.UNIT_DIR / unit).exists())
        )
        if before is not None:
            installation.chain(FileChanges(), before)


def _uninstall(_: argparse.Namespace) -> int:
    """Unchain the plugin, hand over, stop, and remove all files. From then on, running pods use no gateway."""
    try:
        config = load(DEFAULT_PATH)
    except ConfigError as error:
        # Without a usable configuration, the files in the default directories are removed.
        config = error.rest or AgentConfig("", FilesStoreConfig())
    installation.unchain(installation.THIS)
    services.stop(installation.units())
    if subprocess.run([installation.THIS / "bin" / "egressctl", "clean"], check=False).returncode:
        raise Failed("not all could be removed", "run it again: it goes on where it ended")
    installation.remove_all((config.run_dir, config.state_dir))
    services.systemctl("daemon-reload")
    return DONE


def _complain(error: Exception) -> None:
    hint = getattr(error, "hint", "")
    print(f"install.sh: {error}" + (f" ({hint})" if hint else ""), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
