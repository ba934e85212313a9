"""In which order a budget is spent, and on what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.session.priorities import Task, Urgency, in_order, reserved_s

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

OPEN, CLEAR, UNGATED = Urgency


def ordered(tasks: list[Task], item_s: Mapping[str, float], load_s: Mapping[Hashable, float]) -> str:
    return "".join(task.nodeid for task in in_order(tasks, item_s.__getitem__, lambda load: load_s.get(load, 0.0)))


def test_the_more_urgent_and_of_these_the_shorter_come_first_within_a_model() -> None:
    tasks = [
        Task(name, urgency, "m")
        for name, urgency in zip("abcdef", (UNGATED, CLEAR, OPEN, OPEN, UNGATED, CLEAR), strict=True)
    ]
    assert ordered(tasks, {"a": 1, "b": 1, "c": 9, "d": 2, "e": 1, "f": 1}, {}) == "dcbfae"


def test_models_stay_together_and_the_one_that_decides_more_per_second_comes_first() -> None:
    tasks = [Task("a", OPEN, "m"), Task("b", OPEN, "n"), Task("c", UNGATED, "m"), Task("d", OPEN, "n")]
    same = dict.fromkeys("abcd", 10.0)
    assert ordered(tasks, same, {}) == "acbd"
    # With a load of 10 s, m decides one in 20 s, n two in 30 s; with a costly load of n, two in 60 s.
    assert ordered(tasks, same, {"m": 10.0, "n": 10.0}) == "bdac"
    assert ordered(tasks, same, {"m": 10.0, "n": 40.0}) == "acbd"
    # What is not gated costs nothing that is decided.
    assert ordered(tasks, {**same, "c": 1000.0}, {"m": 0.0, "n": 10.0}) == "acbd"


def test_items_without_a_model_stand_for_themselves() -> None:
    assert ordered([Task("a", UNGATED), Task("b", CLEAR), Task("c", OPEN)], dict.fromkeys("abc", 1.0), {}) == "cba"


def test_time_is_kept_for_what_is_more_urgent_as_far_as_it_fits() -> None:
    later = [Task("b", CLEAR, "m"), Task("c", OPEN, "n"), Task("d", OPEN, "n"), Task("e", OPEN, "o")]

    def kept(urgency: Urgency, left_s: float) -> float:
        return reserved_s(Task("a", urgency, "m"), later, "m", left_s, lambda _: 10.0, lambda _: 5.0)

    # c with its load, d, e with its load, b, whose model is there.
    assert kept(UNGATED, 100.0) == 15 + 10 + 15 + 10
    assert kept(CLEAR, 100.0) == 15 + 10 + 15
    assert kept(OPEN, 100.0) == 0
    assert kept(CLEAR, 24.0) == 15
    assert kept(UNGATED, 35.0) == 15 + 10 + 10
