"""A refusal of the kernel names what was refused, and a hint if there is one."""

from __future__ import annotations

import errno

import pytest

from cni.kernel.errors import HINTS, refused


@pytest.mark.parametrize("code", HINTS)
def test_a_known_error_number_has_a_hint(code: int) -> None:
    error = refused("device egw-1", code)
    assert str(error) == f"{error.message} ({HINTS[code]})"
    assert error.message.startswith("device egw-1: ")


def test_another_error_number_has_the_kernels_text_only() -> None:
    assert str(refused("device egw-1", errno.EEXIST)) == "device egw-1: File exists"
