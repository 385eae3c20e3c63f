"""Run ``egressctl``: show what this node's agent knows, for people and for scripts."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cni.contract import DEADLINE_S
from cni.version import VERSION

from ..config import DEFAULT_PATH, AgentConfig, ConfigError
from ..printable import printable
from . import edit_options, questions, terminal
from .client import NoAnswer, ask
from .options import common_options, configuration, run_dir

if TYPE_CHECKING:
    from .objects.validate import Outcome

DONE, FAILED, WRONG_CALL, NOT_OK = 0, 1, 2, 3
Add = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Return the exit code: 0 done, 1 no answer or something is invalid, 2 wrong usage or config, 3 the verdict is not OK.
    """
    options = _parser().parse_args(arguments, argparse.Namespace(config=None, output="text"))
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        code = command(options)
        sys.stdout.flush()
        return code
    except ConfigError as error:
        for problem in error.problems:
            print(f"egressctl: {problem}", file=sys.stderr)
        return WRONG_CALL
    except questions.WrongCall as error:
        print(f"egressctl: {printable(str(error))}", file=sys.stderr)
        return WRONG_CALL
    except NoAnswer as error:
        hint = f"\n  {printable(error.hint)}" if error.hint else ""
        print(f"egressctl: {printable(str(error))}{hint}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # `egressctl … | head`: the reader has closed the pipe. Python would flush once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _parser() -> argparse.ArgumentParser:
    everywhere = common_options()
    parser = argparse.ArgumentParser(
        prog="egressctl",
        parents=[everywhere],
        description="Shows the state of the egress gateway's agent on this node, and moves the addresses it serves.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        shape = argparse.RawDescriptionHelpFormatter
        command = commands.add_parser(
            name, parents=[everywhere], help=text, description=text, formatter_class=shape
        )
        command.set_defaults(run=run)
        return command

    _add_queries(add)
    _add_actions(add)
    _add_local_commands(add)
    edit_options.add(add, _push, _diff)
    terminal.add_options(add, _watch, _completion)
    return parser


def _add_queries(add: Add) -> None:
    """Add the commands that show what the agent knows."""
    status = add("status", _status, "the verdict, egress IPs and their masters, egress nodes, problems")
    status.epilog = questions.STATUS_EXAMPLES
    status.add_argument("--all", action="store_true", help="ask all nodes, and show one table of them")
    add("pods", _pods, "the pods of this node and the addresses that they use")
    explain = add("explain", _explain, "explain the path of a pod's packets, step by step")
    explain.add_argument("pod", metavar="POD", help="namespace/name, or a name that is unique")
    explain.add_argument("destination", metavar="DESTINATION", nargs="?", default="", help="an IP address")
    explain.add_argument("--to", metavar="ADDRESS", default="", help="the same as DESTINATION")
    add("events", _events, "changes of masters, oldest first")
    add("key", _key, "the keys that nodes use, and the next step of a key rotation")
    test = add(
        "test", _test, "send packets as a pod of this node would, by each egress IP, and show the results"
    )
    questions.add_test_options(test)
    whois = add("whois", _whois, "which pod has, or had, an address and port outside")
    whois.add_argument(
        "end", metavar="IP:PORT", help="the egress IP and the source port of the connection outside"
    )
    whois.add_argument(
        "--to", metavar="ADDRESS[:PORT]", default="", help="only connections to this destination"
    )
    whois.add_argument(
        "--at", metavar="TIME", default="", help="as 2026-11-29T10:00:00Z; default: now, else the last"
    )


def _add_actions(add: Add) -> None:
    """Add the commands by which masters change."""
    add("drain", _drain, "hand over all egress IPs of this node; it gets none until undrain")
    add("undrain", _undrain, "let this node be master again")
    handover = add("handover", _handover, "make another node the master of a gateway's address")
    handover.add_argument("gateway", metavar="GATEWAY")
    handover.add_argument("--ip", default="", help="one of its addresses, if it has several")
    handover.add_argument("--to", required=True, metavar="NODE")


def _add_local_commands(add: Add) -> None:
    """Add the commands that need no agent."""
    add("doctor", _doctor, "list our objects in this node's kernel, and check the node's prerequisites")
    add(
        "guard",
        _guard,
        "set the guard of pods that neither plugin nor agent knows, before the first pod starts",
    )
    add("clean", _clean, "remove all our objects from this node, after agent and plugin")
    validate = add("validate", _validate, "check manifests and an agent.yaml, without an agent")
    validate.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="a file or a directory")


def _ask(options: argparse.Namespace, call: str, **arguments: str) -> dict[str, Any]:
    return ask(run_dir(options) / "agent.sock", call, **arguments)


def _show(options: argparse.Namespace, call: str, answer: Any) -> int:
    if options.output == "json":
        print(json.dumps(answer, indent=2))
        return DONE
    # Imported here, because JSON output does not need it.
    from .output import render, render_connections, render_edits

    {**render.FORMS, **render_connections.FORMS, **render_edits.FORMS}[call](
        answer, render.Page(wide=options.output == "wide")
    )
    return DONE


def _status(options: argparse.Namespace) -> int:
    if options.all:
        group = _ask(options, "group")
        return _show(options, "group", group) or (DONE if group["ok"] else NOT_OK)
    answer = _ask(options, "status")
    # JSON output contains the verdict. An agent of an older version gives none.
    ok = options.output == "json" or answer.get("verdict", {"ok": True})["ok"]
    return _show(options, "status", answer) or (DONE if ok else NOT_OK)


def _pods(options: argparse.Namespace) -> int:
    return _show(options, "pods", _ask(options, "pods")["pods"])


def _explain(options: argparse.Namespace) -> int:
    if options.to and options.destination:
        print("egressctl: explain takes one destination, in one of the two forms", file=sys.stderr)
        return WRONG_CALL
    answer = _ask(options, "explain", pod=options.pod, destination=options.to or options.destination)
    return _show(options, "explain", answer)


def _events(options: argparse.Namespace) -> int:
    return _show(options, "events", _ask(options, "events")["events"])


def _key(options: argparse.Namespace) -> int:
    return _show(options, "key", _ask(options, "key"))


def _test(options: argparse.Namespace) -> int:
    wait_s = questions.TEST_ALL_S if options.all else DEADLINE_S
    answer = ask(run_dir(options) / "agent.sock", "test", wait_s, **questions.of_test(options))
    return _show(options, "test", answer) or (DONE if answer["passed"] else FAILED)


def _whois(options: argparse.Namespace) -> int:
    answer = _ask(options, "whois", **questions.of_whois(options))
    return _show(options, "whois", answer) or (DONE if answer["connections"] else FAILED)


def _drain(options: argparse.Namespace) -> int:
    answer = _ask(options, "drain")
    return _show(options, "drain", answer) or (FAILED if answer["left"] else DONE)


def _undrain(options: argparse.Namespace) -> int:
    return _show(options, "undrain", _ask(options, "undrain"))


def _handover(options: argparse.Namespace) -> int:
    answer = _ask(options, "handover", gateway=options.gateway, ip=options.ip, to=options.to)
    return _show(options, "handover", answer)


def _guard(options: argparse.Namespace) -> int:
    from .guard import guard

    return _change(options, guard(configuration(options)))


def _clean(options: argparse.Namespace) -> int:
    from .clean import clean

    of = configuration(options) if options.config or DEFAULT_PATH.exists() else AgentConfig
    return _change(options, clean(of.run_dir, of.state_dir))


def _change(options: argparse.Namespace, changes: Iterator[str]) -> int:
    """Make changes, and print each one as it is made."""
    from cni.kernel.errors import KernelError

    done = []
    try:
        for message in changes:
            done.append(message)
            if options.output != "json":
                print(printable(message), flush=True)
    except KernelError as error:
        raise NoAnswer(error.message, error.hint) from error
    except OSError as error:
        raise NoAnswer(str(error)) from error
    if options.output == "json":
        print(json.dumps(done, indent=2))
    return DONE


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import examine

    config = configuration(options) if options.config or DEFAULT_PATH.exists() else None
    findings = examine(config)
    if options.output == "json":
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        from .output import render

        render.doctor(findings, render.Page(wide=options.output == "wide"))
    return FAILED if any(finding.wrong for finding in findings) else DONE


def _diff(options: argparse.Namespace) -> int:
    from .objects.diff import checked, diff

    edit = checked(options.path)
    if edit.problems:
        return _report(options, edit)
    answer, remarks = diff(configuration(options), edit)
    for remark in (*edit.notes, *remarks):
        print(f"egressctl: {printable(remark)}", file=sys.stderr)
    return _show(options, "diff", answer)


def _push(options: argparse.Namespace) -> int:
    from .objects.diff import checked
    from .push import push

    edit = checked(options.path)
    if edit.problems:
        return _report(options, edit)
    answer = push(run_dir(options) / "agent.sock", edit, options.to, options.force)
    _show(options, "push", answer)
    return FAILED if answer["failure"] or answer["failed"] else DONE


def _validate(options: argparse.Namespace) -> int:
    from .objects.validate import validate

    return _report(options, validate(options.paths))


def _watch(options: argparse.Namespace) -> int:
    terminal.watch(
        lambda: _ask(options, "status"), lambda found: _show(options, "status", found), options.interval
    )
    return DONE


def _completion(options: argparse.Namespace) -> int:
    print(terminal.completion(_parser(), options.shell), end="")
    return DONE


def _report(options: argparse.Namespace, outcome: Outcome) -> int:
    edit_options.report(outcome, options.output)
    return FAILED if outcome.problems else DONE


if __name__ == "__main__":
    sys.exit(main())
