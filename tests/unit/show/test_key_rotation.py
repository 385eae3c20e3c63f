from __future__ import annotations

from gateway_agent.lease.ipc import OwnKeys, PeerKey
from gateway_agent.show.key_rotation import next_step, shown

OLD, NEW = "0" * 15 + "1", "0" * 15 + "2"


def received(node: str, signs: str, *accepts: str) -> PeerKey:
    return PeerKey(node, signs, 5, accepts=(signs, *accepts))


def own(signs: str, *accepts: str, peers: tuple[PeerKey, ...] = ()) -> OwnKeys:
    return OwnKeys(signs, (signs, *accepts), peers)


def test_the_steps_of_a_rotation_are_named_in_turn() -> None:
    both = (received("g2", OLD, NEW), received("w1", OLD, NEW))
    assert "step 1 of 3" in next_step("g1", own(OLD, peers=(received("g2", OLD), received("w1", OLD))))
    step = next_step("g1", own(OLD, NEW, peers=(received("g2", OLD, NEW), received("w1", OLD))))
    assert step.startswith(f"w1 do not accept {NEW}")
    assert "step 2 of 3" in next_step("g1", own(OLD, NEW, peers=both))
    step = next_step("g1", own(NEW, OLD, peers=both))
    assert f"g2, w1 with {OLD}, g1 with {NEW}" in step
    step = next_step("g1", own(NEW, OLD, peers=(received("g2", NEW, OLD), received("w1", NEW, OLD))))
    assert "drop it (step 3 of 3)" in step
    assert next_step("g1", own(NEW, peers=(received("g2", NEW), received("w1", NEW)))).startswith("nothing")


def test_a_node_whose_key_does_not_fit_comes_first() -> None:
    odd = PeerKey("w1", NEW, 5, known=False)
    assert next_step("g1", own(OLD, peers=(received("g2", OLD), odd))).startswith("w1 sign with a key")


def test_nodes_that_never_sent_are_shown() -> None:
    answer = shown("g1", {"g2": "10.0.0.2", "w1": "10.0.0.3"}, own(OLD, peers=(received("g2", OLD),)))
    assert [(peer["node"], peer["signs"], peer["lastHeardMs"]) for peer in answer["peers"]] == [
        ("g2", OLD, 5),
        ("w1", "", -1),
    ]
