"""Whose turn it is in a pair, and whose fault it is that one is not whole."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_llem.session.against.pair import Outcome, Pair, next_turn


def test_windows_come_in_blocks_and_who_began_anew_catches_up() -> None:
    done, order = [0, 0], ""
    for _ in range(8):
        number = next_turn(*done)
        done[number] += 1
        order += "AB"[number]
    assert order == "ABBAABBA"
    assert (next_turn(3, 1), next_turn(0, 2)) == (1, 0)


RECORD: Any = object()
DONE = Outcome(RECORD)
FAILED = Outcome(problem="on main: it failed")
SKIPPED = Outcome(problem="it was not collected", skipped=True)
GIVEN_UP = Outcome(problem="it did not run on main", is_due_to_partner=True)


@pytest.mark.parametrize(
    ("this", "other", "problem"),
    [
        (DONE, DONE, None),
        (FAILED, DONE, FAILED),
        (DONE, SKIPPED, SKIPPED),
        (SKIPPED, FAILED, FAILED),
        (FAILED, SKIPPED, FAILED),
        # It failed for the other one's sake, whatever became of that.
        (GIVEN_UP, SKIPPED, SKIPPED),
        (FAILED, GIVEN_UP, FAILED),
    ],
)
def test_a_pair_that_is_not_whole_is_due_to_one_side(this: Outcome, other: Outcome, problem: Outcome | None) -> None:
    assert Pair(this, other, other_first=False, by_turns=True).problem is problem
