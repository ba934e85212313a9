"""Histories over boards of one model."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.verdict import pools
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.history import SavedRow, baseline, difference
from pytest_llem.verdict.judging import Candidate, ErrorRates, Judged, detectable, judge_candidates
from pytest_llem.verdict.limits import parse_limit
from pytest_llem.verdict.spread import log_mean, summarize

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = "abcdefghijkl"


def on_boards(uuids: str, driver: str = "580.1", **changes: Any) -> dict[str, Any]:
    models = {"name": "H100", "driver_version": driver, "power_limit_w": 700.0}
    return {"boards": [{"uuid": uuid} | models | changes for uuid in uuids], "meter": "nvml"}


def row(board: str, *levels: float, environment: dict[str, Any] | None = None, **changes: Any) -> SavedRow:
    environment = environment or on_boards(board)
    runs = tuple((level,) for level in levels or (100.0,))
    return SavedRow("a", "energy", runs, "w", repr(environment), environment, **changes)


def a_day(day: int, boards: str = NAMES) -> list[SavedRow]:
    """A run on each board; boards differ by some per cent, the runs of each by 0.7%."""
    return [
        row(board, 100 * (1 + 0.03 * math.sin(ord(board))) * (1 + 0.007 * math.sin(7.0 * day + ord(board))))
        for board in boards
    ]


def days(number: int, boards: str = NAMES) -> list[SavedRow]:
    return [one for day in range(number) for one in a_day(day, boards)]


def judged(new: SavedRow, saved: Sequence[SavedRow], limit: str = "5%", last: int | None = 20) -> Judged:
    candidate = Candidate("a", "a", "energy", parse_limit(limit), new)
    return judge_candidates([candidate], {("a", "energy"): list(saved)}, rates=ErrorRates(), last=last)[0]


@pytest.mark.parametrize(
    ("other", "pooled"),
    [
        (on_boards("b"), True),
        (on_boards("b", driver="580.9.1"), True),
        (on_boards("b", driver="590.1"), False),
        (on_boards("b", name="H200"), False),
        (on_boards("b", power_limit_w=500.0), False),
        (on_boards("bc"), False),
        (on_boards("b") | {"meter": "rapl"}, False),
        (on_boards("b") | {"threads": 4}, False),
    ],
)
def test_a_pool_differs_in_uuid_and_minor_driver_version_alone(other: dict[str, Any], pooled: bool) -> None:
    saved = row("b", environment=other)
    assert pools.is_pooled(row("a"), saved) == pooled
    assert (difference(row("a"), saved, pooled=True) is None) == pooled
    assert difference(row("a"), saved) is not None


def test_boards_of_another_memory_have_another_pool_where_both_are_known() -> None:
    assert not pools.is_pooled(row("a", memory_bytes=(80,)), row("b", memory_bytes=(40,)))
    assert pools.is_pooled(row("a", memory_bytes=(80,)), row("b", memory_bytes=(80,)))
    assert pools.is_pooled(row("a", memory_bytes=(80,)), row("b"))


def test_memory_is_known_where_that_of_each_board_is() -> None:
    gpus = [{"uuid": "a", "total_memory_bytes": 80}, {"uuid": "b", "total_memory_bytes": 40}]
    assert pools.memory_bytes(on_boards("ab"), gpus) == (40, 80)
    assert pools.memory_bytes(on_boards("ax"), gpus) == ()
    assert pools.memory_bytes(on_boards("a"), []) == ()


@pytest.mark.parametrize("boards", [[], [{"uuid": "MIG-1"}]])
def test_what_names_no_board_has_no_pool(boards: list[Any]) -> None:
    one, other = on_boards("a") | {"boards": boards}, on_boards("a") | {"boards": boards, "cpu": None}
    assert not pools.pooled_environments(one, other)


def test_several_boards_count_together_whatever_their_order() -> None:
    assert pools.boards_of(on_boards("ab")) == pools.boards_of(on_boards("ba")) != pools.boards_of(on_boards("ac"))
    assert pools.pooled_environments(on_boards("ab"), on_boards("ca"))
    assert not pools.is_elsewhere(row("ab"), row("ba"))
    mixed = on_boards("a")["boards"] + on_boards("b", name="H200")["boards"]
    assert pools.pooled_environments(on_boards("") | {"boards": mixed}, on_boards("") | {"boards": mixed[::-1]})


def test_a_known_board_is_held_against_its_own_mean_with_the_spread_of_all() -> None:
    """Three runs, a year ago for all that lies between them."""
    saved = [*days(3, "a"), *days(3, NAMES[1:])]
    mean = log_mean(summarize([run for one in days(3, "a") for run in one.runs]))
    found = judged(row("a", 1.044 * math.exp(mean)), saved)
    assert found.verdict.change == pytest.approx(0.044)
    assert found.verdict.saved == 3
    assert found.verdict.spread is not None
    assert found.verdict.spread.degrees_of_freedom == 2 * len(NAMES)
    assert found.verdict.status is Status.REGRESSED
    assert judged(row("a", math.exp(mean)), saved).verdict.status is Status.OK
    assert judged(row("a", 1.044 * math.exp(mean)), days(3, "a")).verdict.status is Status.INCONCLUSIVE


def test_the_spread_on_other_boards_is_the_experiments_own_in_a_suite_of_unlike_ones() -> None:
    unlike = [0.001, 0.1, 0.01, 0.3]
    history = {
        (str(noise), "energy"): [
            replace(row("a", 100.0 * (1 + sign * noise)), fullname=str(noise)) for sign in (-1, 0, 1)
        ]
        for noise in unlike
    } | {("a", "energy"): days(3)}
    candidates = [Candidate(name, name, metric, parse_limit("5%"), row("a")) for name, metric in history]
    spread = judge_candidates(candidates, history, rates=ErrorRates(), last=20)[-1].verdict.spread
    expected = [(name, metric, parse_limit("5%")) for name, metric in history]
    known = detectable(expected, history, rates=ErrorRates(), last=20, may_recur=lambda _: True)
    for found in (spread, known[-1][2].spread):
        assert found is not None
        assert found.degrees_of_freedom == 2 * len(NAMES)


def test_one_run_on_a_board_decides_beside_others() -> None:
    found = judged(row("a", 110.0 * (1 + 0.03 * math.sin(ord("a")))), [*days(3, "bcdef"), *a_day(0, "a")])
    assert (found.verdict.status, found.verdict.saved) == (Status.REGRESSED, 1)


def test_the_last_ones_are_of_the_board_and_do_not_cut_off_the_pool() -> None:
    found = baseline(row("a"), [*days(5, "a"), *days(5, "bc")], last=3)
    assert [len(rows) for rows in (found.rows, *found.before)] == [3, 5, 5]
    assert {one.environment_hash for one in found.rows} == {row("a").environment_hash}


def test_a_board_that_is_noisier_than_its_pool_is_judged_by_its_own_runs() -> None:
    own = [row("a", level) for level in (100.0, 108.0, 95.0, 103.0, 91.0)]
    found = judged(row("a", 108.0), [*days(3, NAMES[1:]), *own])
    assert found.verdict.status is not Status.REGRESSED
    assert found.verdict.spread is not None
    assert found.verdict.spread.degrees_of_freedom == 4


def test_a_board_never_seen_decides_nothing_and_says_what_the_pool_shows() -> None:
    saved = [row("b", 100.0), row("c", 102.0), row("d", 101.0, commit="0123456789abcdef")]
    for limit in ("5%", "5%;rule=point"):
        verdict = judged(row("a", 140.0), saved, limit).verdict
        assert verdict.status is Status.INCONCLUSIVE
        assert not verdict.needs_more_runs
        assert verdict.change is None
    # V = 1%^2 of three means; 4.303 = t[.975; 2].
    reach = 4.3026527 * math.sqrt(math.log(1.02) ** 2 / 4 * (1 + 1 / 3))
    low, high = (math.expm1(math.log(1.4 / 1.01) + sign * reach) for sign in (-1, 1))
    assert verdict.reason == (
        f"this board has no saved run; +38.6% [{low:+.1%}, {high:+.1%}] from the mean of 3 of the same model, which "
        "tells no change from a difference between boards; --llem-against=0123456 decides it now"
    )
    few = judged(row("a"), saved[:2]).verdict
    assert few.reason == (
        "this board has no saved run, and 2 of the same model: 3 would show how much they differ; "
        "--llem-against decides it now"
    )
    together = judged(row("ab"), [row("ac")]).verdict.reason
    assert together.startswith("these boards together have no saved run, and 1 of the same model")


def test_fewer_runs_than_the_others_have_widen_the_interval() -> None:
    others = [[(100.0 * level * noise,) for noise in (0.98, 1.0, 1.02)] for level in (0.99, 1.0, 1.01)]
    one, three = (pools.deviation([(100.0,)] * runs, others, 0.05) for runs in (1, 3))
    assert one is not None
    assert three is not None
    # A mean of three runs is all the noise that is in the others' variance.
    within = math.fsum(math.log(noise) ** 2 for noise in (0.98, 1.0, 1.02)) / 2
    between = (math.log(1.01 / 0.99) / 2) ** 2
    ratio = math.sqrt(1 + within * (1 - 1 / 3) / (between * 4 / 3))
    widths = [math.log1p(found.interval[1]) - math.log1p(found.interval[0]) for found in (one, three)]
    assert widths[0] / widths[1] == pytest.approx(ratio, rel=0.01)


def test_another_driver_on_the_board_says_so_and_not_that_it_is_new() -> None:
    saved = [row("b"), row("a", environment=on_boards("a", driver="580.2")), row("c")]
    reason = judged(row("a"), saved).verdict.reason
    assert "boards.0.driver_version 580.2 then, 580.1 now" in reason
    assert reason.endswith("; --llem-against decides it now")


def test_another_library_is_named_with_the_same_offer_but_another_workload_is_not() -> None:
    library = row("a", environment=on_boards("a") | {"cuda": "13"}, commit="abcdef0123")
    assert judged(row("a"), [library]).verdict.reason.endswith("now; --llem-against=abcdef0 decides it now")
    assert "--llem-against" not in judged(row("a"), [replace(library, workload_hash="x")]).verdict.reason


def test_the_commit_that_is_offered_is_none_that_regressed() -> None:
    saved = [row("b", commit="good"), row("b", commit="bad", regressed=True)]
    assert "--llem-against=good " in judged(row("a"), saved).verdict.reason
    library = [replace(one, environment=on_boards("b") | {"cuda": "13"}, environment_hash="13") for one in saved]
    assert "--llem-against=good " in judged(row("a"), library).verdict.reason


def test_what_was_accepted_on_one_board_restarts_the_mean_of_all() -> None:
    saved = [*days(3, "abcd"), row("b", 110.0, accepted=True)]
    found = judged(row("a", 110.0), saved)
    assert found.verdict.status is Status.INCONCLUSIVE
    assert found.verdict.reason.startswith("no run on this board was saved since a change was accepted on another one")
    again = judged(row("a", 110.0), [*saved, row("a", 110.0)])
    assert (again.verdict.status, again.verdict.saved) == (Status.OK, 1)
    assert {one.environment["boards"][0]["uuid"] for one in again.baseline.pool} == {"a", "b"}


def test_what_could_be_caught_is_of_the_board_that_is_here_with_the_spread_of_all() -> None:
    history = {("a", "energy"): [*days(3, "a"), *days(3, "bcde")]}
    expected = [("a", "energy", parse_limit("5%"))]

    def caught(board: str) -> list[float | None]:
        def may_recur(saved: SavedRow) -> bool:
            return saved.environment == on_boards(board)

        found = detectable(expected, history, rates=ErrorRates(), last=20, may_recur=may_recur)
        return [verdict.detectable_change for _, _, verdict in found]

    (change,) = caught("a")
    assert change is not None
    assert change < 0.055
    assert caught("x") == []


def test_a_board_that_stands_out_is_named_beside_its_verdict() -> None:
    saved = days(3, "bcdefghi") + [row("a", level) for level in (150.0, 151.0, 149.0)]
    found = judged(row("a", 150.0), saved)
    assert found.verdict.status is Status.OK
    (remark,) = found.remarks
    assert remark.startswith("its board stands out: +")
    assert remark.endswith("from the mean of 8 of the same model")
    # Beside three others nothing is said, however far it is.
    beside_three = [one for one in saved if one.environment["boards"][0]["uuid"] in "abcd"]
    assert judged(row("a", 150.0), beside_three).remarks == ()


def test_another_board_is_where_it_was_with_its_last_driver() -> None:
    before = [row(board, 50.0, environment=on_boards(board, driver="580.0")) for board in "bcd"]
    now = [row(board, level) for board, level in zip("bcd", (99.0, 100.0, 101.0), strict=True)]
    assert "; +0.0% [" in judged(row("a"), [*before, *now]).verdict.reason


def test_boards_like_the_others_do_not_stand_out() -> None:
    """The 99.9% interval, 2000 times: more than 8 false remarks are as rare as one in 10,000."""
    draw = random.Random(1)  # noqa: S311
    false = 0
    for _ in range(2000):
        saved = [row(board, math.exp(draw.gauss(0, 0.04))) for board in "abcdef"]
        false += bool(pools.remarks(saved[:1], saved, 0.025))
    assert false <= 8


class TestAging:
    """A board whose mean moves over its runs."""

    def remarks(self, seed: int, own: float, others: float, step: float = 0.0) -> tuple[str, ...]:
        """Twelve runs of board a among three of each of ten others, in any order."""
        draw = random.Random(seed)  # noqa: S311
        boards = [*"a" * 12, *(NAMES[1:11] * 3)]
        draw.shuffle(boards)
        pool = []
        for place, board in enumerate(boards):
            part = place / (len(boards) - 1)
            moved = (own if board == "a" else others) * part + step * (part > 0.5)
            level = 0.01 * ord(board) + math.log1p(moved) + draw.gauss(0, 0.007)
            pool.append(row(board, math.exp(level)))
        mine = [one for one in pool if one.environment == on_boards("a")]
        return pools.remarks(mine, pool, 0.025)

    def count(self, **moves: float) -> int:
        return sum(any("ages" in remark for remark in self.remarks(seed, **moves)) for seed in range(50))

    def test_one_that_moves_alone_ages(self) -> None:
        assert self.count(own=0.08, others=0.0) >= 45
        assert "its board ages: +" in "".join(self.remarks(1, own=0.08, others=0.0))

    def test_what_moves_all_boards_is_no_ageing(self) -> None:
        assert self.count(own=0.08, others=0.08) <= 1
        assert self.count(own=0.0, others=0.0, step=0.06) <= 1

    def test_a_movement_that_is_tolerated_is_not_named(self) -> None:
        own = [row("a", 100.0 + 0.15 * place) for place in range(12)]
        pool = [one for mine in own for one in (mine, row("b"))]
        moved = pools.movement(own, pool)
        assert moved is not None
        assert moved.is_certain
        assert pools.remarks(own, pool, 0.025) == ()
        assert pools.remarks(own, pool, 0.01) == (
            "its board ages: +1.6% over its 12 saved runs, beside +0.0% on others",
        )

    def test_others_that_were_not_measured_meanwhile_tell_nothing(self) -> None:
        """Or a change of the code would be the age of the only board that saw it."""
        own = [row("a", 100.0 * (1 + 0.01 * place)) for place in range(12)]
        assert pools.movement(own, own) is None
        assert pools.movement(own, [*days(5, "bcdef"), *own]) is None
        mixed = list(itertools.chain(own[:6], days(2, "b"), own[6:]))
        assert pools.movement(own, mixed) is not None
        assert pools.movement(own[:7], mixed) is None
