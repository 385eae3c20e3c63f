"""What the demo prints: numbered scenes and, below each, what came true."""

from __future__ import annotations

import os
import sys
from typing import TextIO


class DemoFailed(Exception):
    """A scene did not come true."""


class Screen:
    """Colour only where ``out`` is a terminal and ``NO_COLOR`` is not set."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._colour = out.isatty() and not os.environ.get("NO_COLOR")
        self._number = 0

    def scene(self, title: str) -> None:
        self._number += 1
        self._print("")
        self._print(self._paint("1", f"{self._number}  {title}"))

    def say(self, text: str) -> None:
        for line in text.splitlines():
            self._print(f"   {line}")

    def quiet(self, text: str) -> None:
        for line in text.splitlines():
            self._print("   " + self._paint("2", line))

    def fact(self, text: str) -> None:
        self._print(f"   {self._paint('32', '✓')} {text}")

    def expect(self, true: bool, text: str, otherwise: str = "") -> None:
        """Print a fact, or raises :class:`DemoFailed`; ``otherwise`` says what happened instead."""
        if not true:
            raise DemoFailed(f"not so: {text}" + (f" ({otherwise})" if otherwise else ""))
        self.fact(text)

    def fail(self, text: str) -> None:
        self._print(f"   {self._paint('31', '✗')} {text}")

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)
