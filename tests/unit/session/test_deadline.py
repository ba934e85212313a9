"""When what runs is given up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llem.session import deadline
from pytest_llem.session.deadline import Deadline
from pytest_llem.session.isolation.time_limit import TimeLimit

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds since a budget of 100 s began."""
    now_s = [0.0]
    monkeypatch.setattr(deadline, "now_s", lambda: now_s[0])
    monkeypatch.setattr("pytest_llem.session.isolation.time_limit.now_s", lambda: now_s[0])
    return now_s


BUDGET = Deadline(100.0, 100.0)


def reason_of(ask: Callable[[], None]) -> str | None:
    """Why it skips the item, which is this test otherwise."""
    try:
        ask()
    except pytest.skip.Exception as skipped:
        return str(skipped)
    return None


@pytest.mark.parametrize(
    ("now_s", "phase", "done", "total", "last_s", "goes_on"),
    [
        (50, "round", 1, 10, 6.0, True),  # ends at 104
        (50, "round", 1, 10, 7.0, False),  # at 113
        (102, "round", 9, 10, 5.0, True),
        (102, "round", 9, 10, 9.0, False),
        (104, "round", 1, 10, 0.1, False),  # would still end in time, but there is none left
        (109, "round", 10, 10, 5.0, True),  # all is measured
        (102, "warm-up", 3, 3, 1.0, True),
        (50, "warm-up", 3, 100, 5.0, True),  # ends when it is steady
        (95, "warm-up", 3, 3, 20.0, False),
    ],
)
def test_what_cannot_end_in_time_is_given_up_between_two_windows(
    at: list[float], now_s: float, phase: str, done: int, total: int, last_s: float, goes_on: bool
) -> None:
    at[0] = now_s
    given_up = reason_of(lambda: BUDGET.watch(phase, done, total, last_s))
    expected = (
        f"llem-budget: given up: {now_s} s of 100 s are over, and {phase} {done} of {total} has taken {last_s:g} s"
    )
    assert given_up == (None if goes_on else expected)


def test_nothing_is_begun_after_a_load_that_took_all(at: list[float]) -> None:
    at[0] = 102.0
    assert reason_of(BUDGET.require_time) is None
    at[0] = 104.0
    assert "has not begun to measure" in (reason_of(BUDGET.require_time) or "")


def test_children_know_of_it_until_the_session_is_over() -> None:
    try:
        BUDGET.tell_children()
        assert Deadline.of_parent() == BUDGET
    finally:
        Deadline.forget()
    assert Deadline.of_parent() is None


def test_a_child_is_ended_by_whichever_limit_comes_first(at: list[float]) -> None:
    limit = TimeLimit(BUDGET)
    assert limit.until_s == BUDGET.kill_s == pytest.approx(107.0)
    at[0] = 20.0
    limit.begin(5.0)
    assert limit.until_s == 25.0
    assert limit.passed() == "timeout_s: still running after 5 s"
    limit.begin(500.0)
    assert limit.until_s == BUDGET.kill_s
    at[0] = 107.0
    assert limit.passed() == "llem-budget: given up: 107 s of 100 s are over"
    limit.end()
    assert limit.until_s == BUDGET.kill_s
    without = TimeLimit(None)
    assert without.until_s is None
    without.begin(3.0)
    assert without.until_s == 110.0
