from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import contract

field = st.binary(max_size=20).filter(lambda raw: b"\0" not in raw)
SIX = (b"ADD", b"id", b"/run/netns/a", b"eth0", b"K8S_POD_NAME=a", b"/opt/cni/bin")


@given(st.tuples(*[field] * len(contract.ENVIRONMENT)), st.binary(max_size=200))
def test_a_request_is_read_as_it_was_written(environment: tuple[bytes, ...], configuration: bytes) -> None:
    """A configuration with NUL, too: the last field goes to the end."""
    texts, found = contract.split_cni_request(contract.cni_request(environment, configuration))
    assert found == configuration
    assert list(texts) == list(contract.ENVIRONMENT)
    assert tuple(os.fsencode(text) for text in texts.values()) == environment


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        contract.CNI,
        b"\0".join((contract.CNI, *SIX)),
        b"\0".join((contract.CONTROL, *SIX, b"{}")),
        b"\0".join((b"cni2", *SIX, b"{}")),
    ],
    ids=["empty", "kind alone", "no configuration", "control", "of a later version"],
)
def test_what_is_no_request_is_refused(request_: bytes) -> None:
    with pytest.raises(ValueError, match="not a cni1 request"):
        contract.split_cni_request(request_)


@given(st.binary(max_size=20))
def test_text_is_that_of_the_operating_system(raw: bytes) -> None:
    assert contract.os_text(raw).encode("utf-8", "surrogateescape") == raw
