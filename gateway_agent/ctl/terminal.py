"""Help a person at a terminal: completion of the commands of ``egressctl`` by a shell, and a status that goes on.

The scripts for shells are made of the parser, so they have each command and option that it has.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..printable import printable
from .client import NoAnswer

SHELLS = ("bash", "zsh", "fish")
CLEAR = "\x1b[H\x1b[2J"
"""Moves the cursor to the top of the screen, and clears the screen (ECMA-48)."""
COMPLETION_EXAMPLES = """examples:
  source <(egressctl completion bash)
  egressctl completion zsh > "${fpath[1]}/_egressctl"
  egressctl completion fish > ~/.config/fish/completions/egressctl.fish"""
WATCH_EXAMPLES = """examples:
  egressctl watch
  egressctl watch --interval 0.5 -o wide
  egressctl watch > status.log         each status that differs from the one before, without heartbeats"""
BASH = """\
_egressctl() {{
  local words command="" word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case $word in
      {commands}) command=$word; break ;;
    esac
  done
  case "${{COMP_WORDS[COMP_CWORD-1]}}" in
    -o) COMPREPLY=($(compgen -W "text wide json" -- "${{COMP_WORDS[COMP_CWORD]}}")); return ;;
    --config) COMPREPLY=($(compgen -f -- "${{COMP_WORDS[COMP_CWORD]}}")); return ;;
  esac
  case $command in
{cases}
    *) words="{top}" ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
  case $command in
    {paths}) [[ ${{COMP_WORDS[COMP_CWORD]}} == -* ]] || COMPREPLY+=($(compgen -f -- "${{COMP_WORDS[COMP_CWORD]}}")) ;;
  esac
}}
complete -o filenames -F _egressctl egressctl
"""
ZSH = "#compdef egressctl\nautoload -U +X bashcompinit && bashcompinit\n"


def add_options(
    add: Callable[[str, Any, str], argparse.ArgumentParser], watching: Any, completing: Any
) -> None:
    """Add the commands. ``add``: adds one, by its name, its function and its description."""
    watch = add("watch", watching, "show the status again and again, until Ctrl-C")
    watch.epilog = WATCH_EXAMPLES
    watch.add_argument("--interval", type=_seconds, default=2.0, metavar="SECONDS", help="default 2")
    completion = add(
        "completion", completing, "print a script by which a shell completes commands and options"
    )
    completion.epilog = COMPLETION_EXAMPLES
    completion.add_argument("shell", choices=SHELLS)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 3600")
    return seconds


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for a shell."""
    commands = _commands(parser)
    if shell == "fish":
        return "\n".join(_fish(parser, commands)) + "\n"
    cases = "\n".join(f'    {name}) words="{" ".join(_values(each))}" ;;' for name, each in commands.items())
    paths = "|".join(name for name, each in commands.items() if _takes_paths(each))
    top = " ".join((*commands, *_values(parser)))
    script = BASH.format(commands="|".join(commands), cases=cases, paths=paths, top=top)
    return ZSH + script if shell == "zsh" else script


def _commands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    [found] = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    return found.choices


def _values(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the options of a command, and the values of an argument that has a list of them."""
    for action in parser._actions:
        yield from action.option_strings
        if (
            action.choices
            and not action.option_strings
            and not isinstance(action, argparse._SubParsersAction)
        ):
            yield from map(str, action.choices)


def _takes_paths(parser: argparse.ArgumentParser) -> bool:
    return any(action.metavar == "PATH" for action in parser._actions)


def _fish(parser: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser]) -> Iterator[str]:
    for name, command in commands.items():
        files = "" if _takes_paths(command) else " -f"
        yield f"complete -c egressctl -n __fish_use_subcommand -f -a {name} -d {_quoted(command.description or '')}"
        for action in command._actions:
            within = f"complete -c egressctl -n '__fish_seen_subcommand_from {name}'{files}"
            longs, shorts = _flags(action)
            value = f" -x -a {_quoted(' '.join(map(str, action.choices)))}" if action.choices else ""
            if longs or shorts:
                yield f"{within}{longs}{shorts}{value} -d {_quoted(action.help or '')}"
            elif value:
                yield f"{within}{value.removeprefix(' -x')}"
    for action in parser._actions:
        longs, shorts = _flags(action)
        if longs or shorts:
            yield f"complete -c egressctl -n __fish_use_subcommand{longs}{shorts} -d {_quoted(action.help or '')}"


def _flags(action: argparse.Action) -> tuple[str, str]:
    longs = "".join(f" -l {each[2:]}" for each in action.option_strings if each.startswith("--"))
    shorts = "".join(f" -s {each[1:]}" for each in action.option_strings if not each.startswith("--"))
    return longs, shorts


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def watch(look: Callable[[], Any], show: Callable[[Any], object], interval_s: float) -> None:
    """Show what ``look`` returns, until the terminal's user ends it. Off a terminal only what differs is shown.

    If no agent answers, that is shown.
    """
    screen, before = sys.stdout.isatty(), None
    try:
        while True:
            found, trouble = _seen(look)
            essence = trouble or _essence(found)
            if screen or essence != before:
                print(CLEAR if screen else "", end="")
                show(found) if found is not None else print(trouble)
                sys.stdout.flush()
            before = essence
            time.sleep(interval_s)
    except KeyboardInterrupt:
        return


def _seen(look: Callable[[], Any]) -> tuple[Any, str]:
    """Return the status, or None and why there is none."""
    try:
        return look(), ""
    except NoAnswer as error:
        return None, printable(str(error))


def _essence(found: Any) -> Any:
    """Return a status without what each heartbeat changes."""
    return (
        {key: found.get(key) for key in ("verdict", "egressIPs", "problems")}
        if isinstance(found, dict)
        else found
    )
