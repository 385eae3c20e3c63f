"""What a node does with a set: its directory is replaced only if nobody has edited it by hand."""

from __future__ import annotations

from gateway_agent.manifest_sets import acceptance, sets
from gateway_agent.manifest_sets.acceptance import Decision, Local, Outcome, decide
from gateway_agent.manifest_sets.sets import NONE, ManifestSet

OLD, NEW, BY_HAND = ({"a.yaml": text} for text in ("old", "new", "by hand"))


def after(last: ManifestSet | None, files: dict[str, str]) -> ManifestSet:
    """Return the set of a push on a node that has the files of ``last``."""
    return acceptance.next_set(Local(last, dict(last.files) if last else OLD), files, "w1", 0)


FIRST = after(None, OLD)
SECOND = after(FIRST, NEW)
THIRD = after(SECOND, {"b.yaml": "third"})


def outcome(local: Local, offered: ManifestSet, force: bool = False) -> Outcome:
    return decide(local, offered, "w2", force).outcome


def test_the_next_set_replaces_the_last_one() -> None:
    assert [each.number for each in (FIRST, SECOND, THIRD)] == [1, 2, 3]
    assert outcome(Local(FIRST, OLD), SECOND) is Outcome.APPLIED
    assert outcome(Local(SECOND, NEW), SECOND) is Outcome.UNCHANGED


def test_an_older_set_replaces_nothing() -> None:
    refused = decide(Local(SECOND, NEW), FIRST, "w2")
    assert refused.outcome is Outcome.NEWER
    assert SECOND.version.text in refused.detail
    assert outcome(Local(SECOND, NEW), FIRST, force=True) is Outcome.NEWER


def test_a_node_that_never_had_a_set_takes_it_if_its_files_are_old_ones() -> None:
    assert outcome(Local(None, {}), THIRD) is Outcome.APPLIED
    assert outcome(Local(None, OLD), THIRD) is Outcome.APPLIED
    assert outcome(Local(None, dict(THIRD.files)), THIRD) is Outcome.UNCHANGED
    assert decide(Local(None, BY_HAND), THIRD, "w2") == Decision(Outcome.EDITED, "made by hand: a.yaml")


def test_a_directory_that_was_edited_by_hand_stays_but_by_force() -> None:
    edited = Local(SECOND, {**NEW, "more.yaml": "x"})
    assert decide(edited, THIRD, "w2") == Decision(Outcome.EDITED, "edited by hand: more.yaml")
    assert outcome(edited, THIRD, force=True) is Outcome.APPLIED
    assert outcome(Local(SECOND, {}), THIRD) is Outcome.APPLIED, "nothing is lost"


def test_a_file_that_cannot_be_read_counts_as_edited() -> None:
    assert outcome(Local(SECOND, {"a.yaml": None}), THIRD) is Outcome.EDITED


def test_the_hand_edit_of_a_pushing_node_is_no_state_that_others_are_expected_to_have() -> None:
    pushed = acceptance.next_set(Local(FIRST, BY_HAND), NEW, "w1", 0)
    assert outcome(Local(FIRST, BY_HAND), pushed) is Outcome.EDITED
    assert outcome(Local(FIRST, OLD), pushed) is Outcome.APPLIED


def test_a_set_for_other_nodes_is_not_taken() -> None:
    targeted = acceptance.next_set(Local(FIRST, OLD), NEW, "w1", 0, ("w3",))
    assert outcome(Local(FIRST, OLD), targeted, force=True) is Outcome.NOT_MEANT
    assert decide(Local(FIRST, OLD), targeted, "w3").outcome is Outcome.APPLIED


def test_a_set_is_above_every_number_that_a_node_has_named() -> None:
    assert acceptance.next_set(Local(FIRST, OLD), NEW, "w1", 41).number == 42
    assert Local(None, {}).version == NONE < FIRST.version


def test_ancestors_are_bounded_and_the_newest_stay() -> None:
    last = FIRST
    for number in range(2 * sets.ANCESTORS):
        last = after(last, {"a.yaml": str(number)})
    assert len(last.ancestors) == sets.ANCESTORS
    before = {"a.yaml": str(2 * sets.ANCESTORS - 2)}
    assert outcome(Local(None, before), last) is Outcome.APPLIED
    assert outcome(Local(None, OLD), last) is Outcome.EDITED
