from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cni.files import named

PATH = Path("/run/egress-gateway/plan.json")


def raised_by(error: OSError) -> OSError:
    with pytest.raises(OSError) as caught, named(PATH):
        raise error
    return caught.value


def test_a_full_disk_names_the_file() -> None:
    error = raised_by(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert (error.errno, error.filename) == (errno.ENOSPC, str(PATH))
    assert str(error).endswith(f"'{PATH}'")


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "No such file", "/another"), OSError("without a number")]
)
def test_an_error_that_says_more_stays_as_it_is(error: OSError) -> None:
    assert raised_by(error) is error


def test_an_error_has_its_kind() -> None:
    assert isinstance(raised_by(OSError(errno.EACCES, "Permission denied")), PermissionError)
