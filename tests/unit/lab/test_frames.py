from __future__ import annotations

from tests.lab import frames

MAC = bytes.fromhex("0a0000000001")
ADDRESS = "172.16.0.50"


def test_an_observers_frames_are_known_as_such() -> None:
    assert frames.speaker(frames.probe(MAC, ADDRESS, "g1") + bytes(4)) == (ADDRESS, "probe")
    assert frames.speaker(frames.claim(MAC, ADDRESS)) == (ADDRESS, "claim")


def test_the_lengths_in_a_probe_include_the_counter() -> None:
    frame = frames.probe(MAC, ADDRESS, "g1") + bytes(4)
    assert int.from_bytes(frame[16:18], "big") == len(frame) - frames.ETHERNET
    assert int.from_bytes(frame[38:40], "big") == len(frame) - frames.ETHERNET - 20


def test_a_name_that_is_too_long_is_cut() -> None:
    assert len(frames.probe(MAC, ADDRESS, "g" * 100)) == len(frames.probe(MAC, ADDRESS, "g"))


def test_other_traffic_counts_as_speaking_too() -> None:
    tcp = frames.probe(MAC, ADDRESS, "g1")[:23] + b"\x06" + frames.probe(MAC, ADDRESS, "g1")[24:]
    assert frames.speaker(tcp) == (ADDRESS, "traffic")
    question = frames.question(ADDRESS)
    assert frames.speaker(question) == ("0.0.0.0", "arp")


def test_what_is_neither_ipv4_nor_arp_claims_no_address() -> None:
    assert frames.speaker(b"") is None
    assert frames.speaker(bytes(60)) is None
    assert frames.speaker(frames.claim(MAC, ADDRESS)[:30]) is None


def test_only_an_answer_to_the_asker_is_an_answer() -> None:
    claim = frames.claim(MAC, ADDRESS)
    assert frames.answer(frames.ASKER + claim[6:]) == (ADDRESS, "0a:00:00:00:00:01")
    assert frames.answer(claim) is None
    assert frames.answer(frames.question(ADDRESS)) is None
    assert frames.answer(b"") is None
