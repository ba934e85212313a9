"""What becomes of pairs that are disturbed, or that nobody has the time for; their processes are made up."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from pytest_llem.session.against import comparison as module
from pytest_llem.session.against.comparison import BY_TURNS, Comparison
from pytest_llem.session.against.pair import Outcome, Pair
from tests.unit.session.test_journal import recorded

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD = replace(recorded("a"), more_runs=())
DISTURBED = replace(RECORD, result=replace(RECORD.result, valid=False, warnings=["throttled"]))
NOBODY_REFUSES: Any = lambda *_: None  # noqa: E731


class FakeSides:
    """Processes of which the other side's are disturbed as told, while both are alive and alone."""

    by_turns: Any = RECORD
    alone: Any = RECORD
    asked: ClassVar[list[tuple[bool, bool]]] = []

    def __init__(self, *_: Any) -> None: ...

    def close(self) -> None: ...

    def measure(self, timeouts_s: Mapping[str, Any], *, other_first: bool, by_turns: bool = True) -> dict[str, Pair]:
        self.asked.append((by_turns, other_first))
        other = Outcome(self.by_turns if by_turns else self.alone)
        return {nodeid: Pair(Outcome(RECORD), other, other_first, by_turns) for nodeid in timeouts_s}


@pytest.fixture(autouse=True)
def sides(monkeypatch: pytest.MonkeyPatch) -> type[FakeSides]:
    made = type("Sides", (FakeSides,), {"asked": []})
    monkeypatch.setattr(module, "Sides", made)
    return made


@pytest.fixture
def comparison() -> Comparison:
    settings = SimpleNamespace(pairs=4, gates={}, compares=True, meter="none")
    state: Any = SimpleNamespace(settings=settings, records={}, deadline=None, say=lambda _: None)
    state.count = lambda record: state.records.update({record.nodeid: record})
    item: Any = SimpleNamespace(
        nodeid="a", fixturenames=["llem_benchmark"], get_closest_marker=lambda _: None, callspec=None
    )
    there: Any = SimpleNamespace(name="main")
    config: Any = None
    return Comparison(config, state, (there, there), [item], lambda _: True)


def go_on(comparison: Comparison) -> None:
    while open_items := comparison.open_items():
        comparison.next_round(open_items, NOBODY_REFUSES)


def test_each_side_begins_one_pair_of_two_until_there_are_enough(
    comparison: Comparison, sides: type[FakeSides]
) -> None:
    go_on(comparison)
    assert comparison.pairs_of("a") == 4
    began = [other_first for _, other_first in sides.asked]
    assert began[0] != began[1]
    assert began[2] != began[3]
    record = comparison._state.records["a"]
    assert [run.first for run in record.other_runs] == began
    assert all(BY_TURNS in run.labels for run in (record.result, *record.more_runs))


def test_a_disturbed_pair_is_tried_again_apart_and_so_are_those_after_it(
    comparison: Comparison, sides: type[FakeSides]
) -> None:
    sides.by_turns = DISTURBED
    go_on(comparison)
    assert [by_turns for by_turns, _ in sides.asked] == [True, False, False, False, False]
    record = comparison._state.records["a"]
    assert not any(run.by_turns for run in record.other_runs)
    assert BY_TURNS not in record.result.labels


def test_what_is_always_disturbed_is_given_up_and_counts_for_nothing(
    comparison: Comparison, sides: type[FakeSides]
) -> None:
    sides.by_turns = sides.alone = DISTURBED
    go_on(comparison)
    assert comparison.pairs_of("a") == 0
    assert comparison.progress["a"].trouble == "3 pairs of it were disturbed: throttled"


def test_what_is_refused_keeps_its_pairs_and_says_why(comparison: Comparison) -> None:
    comparison.next_round(["a"], NOBODY_REFUSES)
    comparison.next_round(["a"], lambda *_: "no time")
    assert comparison.open_items() == []
    assert comparison._state.records["a"].trouble == ("no time",)
    assert comparison.pairs_of("a") == 1


def test_what_fails_has_no_result(comparison: Comparison, sides: type[FakeSides]) -> None:
    comparison.next_round(["a"], NOBODY_REFUSES)
    sides.by_turns = sides.alone = None
    go_on(comparison)
    assert comparison._state.records == {}
    assert comparison.progress["a"].failure == Outcome(None)
