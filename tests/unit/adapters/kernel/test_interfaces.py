from __future__ import annotations

import pytest

from gateway_agent.adapters.kernel import interfaces


@pytest.mark.parametrize(
    ("address", "local"), [("127.0.0.1", True), ("192.0.2.77", False), ("2001:db8::77", False)]
)
def test_an_address_is_local_if_an_interface_has_it(address: str, local: bool) -> None:
    assert interfaces.is_local(address) is local
