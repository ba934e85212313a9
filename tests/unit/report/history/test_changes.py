"""Where saved results moved, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_llem.report.history.changes import events_of, moves_of
from pytest_llem.report.history.data import read_store
from pytest_llem.report.history.verdicts import JUDGED, judge_afterwards
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.judging import Candidate, ErrorRates, judge_candidates
from pytest_llem.verdict.limits import parse_limit
from tests.simulators.store import Night, saved
from tests.unit.report.history.test_data import store_of

LIMIT = parse_limit("2%..5%")
NIGHT = Night(0)


def nights(count: int, first: int = 0, **changes: object) -> list[Night]:
    return [replace(NIGHT, number=number, **changes) for number in range(first, first + count)]  # type: ignore[arg-type]


def test_a_level_that_moved_names_the_commits_and_what_else_changed() -> None:
    worse = {"levels": {"llama": 1.08}, "plugin": "0.10.0"}
    store = store_of([*nights(12), *nights(12, 12, **worse)])
    moves = moves_of(store.experiments[0])
    (event,) = events_of(moves.changes)
    assert (event.before.session.name, event.after.session.name) == ("0012_nightly.json", "0013_nightly.json")
    assert event.differences == ("pytest-llem 0.9.0 \N{RIGHTWARDS ARROW} 0.10.0",)
    ((change, by_quantity),) = event.moved
    assert set(by_quantity) == {"energy"}
    assert change.change == pytest.approx(0.08, abs=0.01)
    assert change.interval[0] < 0.08 < change.interval[1]
    # Joules a token move with joules, and are no event of their own.
    series = store.experiments[0].series[0]
    assert [len(level.results) for level in moves.levels[series, "energy_per_token"]] == [12, 12]
    assert [len(level.results) for level in moves.levels[series, "latency"]] == [24]


def test_a_new_environment_begins_a_series_that_is_held_against_the_last_level() -> None:
    later = {"levels": {"llama": 0.94}, "torch": "2.14.0"}
    store = store_of([*nights(8), *nights(8, 8, **later)])
    (experiment,) = store.experiments
    moves = moves_of(experiment)
    (event,) = events_of(moves.changes)
    assert event.differences == ("torch 2.13.0 \N{RIGHTWARDS ARROW} 2.14.0",)
    assert event.changes[0].change == pytest.approx(-0.06, abs=0.01)
    before, differences = moves.beginnings[experiment.series[1]]
    assert (before.session.name, tuple(differences)) == ("0008_nightly.json", event.differences)


ALL = {"energy", "latency", "energy_total"}


@pytest.mark.parametrize(
    ("environment", "result", "moved"),
    [
        ({"cpu": "another one"}, {}, ALL),
        ({}, {"boundaries": "joined"}, set()),
        ({"meter": "rapl"}, {}, {"latency"}),
        ({}, {"estimated": True}, {"latency"}),
        ({"host_sensor": "hwmon"}, {}, {"energy", "latency"}),
    ],
)
def test_what_was_measured_in_another_way_has_not_moved(
    environment: dict[str, str], result: dict[str, object], moved: set[str]
) -> None:
    contents = [saved(night) for night in [*nights(8, host_j=True), *nights(8, 8, host_j=True, torch="2.14.0")]]
    for info in (bench["extra_info"] for content in contents[8:] for bench in content["benchmarks"]):
        info["environment"] |= {key: environment[key] for key in environment if key in info["environment"]}
        info["result"] |= result
        for window in info["result"]["per_round"]:
            window |= {key: window[key] / 2 for key in ("joules", "seconds", "host_j")}
    (experiment,) = read_store((f"{number:04}_a.json", content) for number, content in enumerate(contents)).experiments
    assert {change.quantity for change in moves_of(experiment).changes} == moved


def test_a_series_is_held_against_the_same_board_where_that_was_there_before() -> None:
    boards = ("GPU-a", "GPU-b")
    found = [
        replace(NIGHT, number=number, board=boards[number % 2], torch="2.13.0" if number < 16 else "2.14.0")
        for number in range(32)
    ]
    (experiment,) = store_of(found).experiments
    beginnings = moves_of(experiment).beginnings
    assert [differences for _, differences in beginnings.values()] == [
        ["board uuid GPU-a \N{RIGHTWARDS ARROW} GPU-b"],
        ["torch 2.13.0 \N{RIGHTWARDS ARROW} 2.14.0"],
        ["torch 2.13.0 \N{RIGHTWARDS ARROW} 2.14.0"],
    ]


def test_a_board_that_comes_later_is_held_against_one_that_goes_on() -> None:
    found = [
        replace(NIGHT, number=number, board="GPU-b" if number > 9 and number % 2 else "GPU-a", levels=levels)
        for number in range(30)
        if (levels := {"llama": 1.1 if number > 9 and number % 2 else 1.0})
    ]
    (event,) = events_of(moves_of(store_of(found).experiments[0]).changes)
    assert event.differences == ("board uuid GPU-a \N{RIGHTWARDS ARROW} GPU-b",)
    assert (event.before.session.name, event.after.session.name) == ("0011_nightly.json", "0012_nightly.json")


def test_nothing_is_said_of_a_series_of_fewer_runs_than_a_level() -> None:
    store = store_of([*nights(8), *nights(2, 8, levels={"llama": 2.0}, torch="2.14.0")])
    assert not moves_of(store.experiments[0]).changes


def test_what_moved_between_the_same_sessions_is_one_event() -> None:
    names = ("llama", "mistral")
    worse = {"levels": {"llama": 1.08, "mistral": 1.06}}
    store = store_of([*nights(12, experiments=names), *nights(12, 12, experiments=names, **worse)])
    (event,) = events_of([change for one in store.experiments for change in moves_of(one).changes])
    assert [change.experiment.name for change, _ in event.moved] == ["llama", "mistral"]


def test_invalid_results_move_no_level() -> None:
    store = store_of([*nights(12), *nights(5, 12, levels={"llama": 3.0}, valid=False), *nights(12, 17)])
    assert not moves_of(store.experiments[0]).changes


def test_a_result_without_a_verdict_is_judged_as_a_gate_would_have() -> None:
    store = store_of([*nights(12), *nights(1, 12, levels={"llama": 1.1}), *nights(1, 13)])
    found = judge_afterwards(store, {"energy": LIMIT}, ErrorRates(), 20)
    rows = [result.rows["energy"] for result in store.results]
    for place, result in enumerate(store.results):
        gated = Candidate("", "", "energy", LIMIT, rows[place])
        expected = judge_candidates([gated], {("", "energy"): rows[:place]}, rates=ErrorRates(), last=20)
        assert found[result, "energy"] == expected[0].verdict.status.value
        # What regressed is no baseline.
        rows[place] = replace(rows[place], regressed=expected[0].verdict.status is Status.REGRESSED)
    assert [found[result, "energy"] for result in store.results][-2:] == ["REGRESSED", "OK"]
    assert {metric for _, metric in found} == {"energy"}


def test_only_the_newest_are_judged_and_none_that_has_a_verdict_or_is_invalid() -> None:
    store = store_of([*nights(JUDGED), *nights(1, JUDGED, saved_verdict="OK"), *nights(1, JUDGED + 1, valid=False)])
    found = judge_afterwards(store, {"latency": LIMIT}, ErrorRates(), 20)
    judged = {result.session.name for result, _ in found}
    assert judged == {session.name for session in store.sessions[2:JUDGED]}
    assert not judge_afterwards(store, {}, ErrorRates(), 20)


def judged(found: list[Night]) -> str:
    """The verdict on the last of these."""
    return list(judge_afterwards(store_of(found), {"energy": LIMIT}, ErrorRates(), 20).values())[-1]


def test_a_verdict_looks_at_what_a_gate_looks_at() -> None:
    others = nights(9, board="GPU-b")
    # The spread of other boards of the model decides, where one run of this one has a mean.
    assert judged([*others, *nights(2, 9)]) == "OK"
    assert judged(nights(2)) == "INCONCLUSIVE"
    # A board without one, and another environment.
    assert judged([*others, *nights(1, 9)]) == "INCONCLUSIVE"
    assert judged([*nights(9, torch="2.14.0"), *nights(1, 9)]) == "INCONCLUSIVE"
    assert judged(nights(1)) == "NO-BASELINE"
    # What was saved as REGRESSED is no baseline.
    worse = nights(9, levels={"llama": 1.2}, saved_verdict="REGRESSED")
    assert judged([*worse, *nights(3, 9), *nights(1, 12, levels={"llama": 1.2})]) == "REGRESSED"
