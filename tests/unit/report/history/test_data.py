"""Saved results: which of them are shown, and what is compared with what."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.report.history.data import Store, changed, letter, read_store
from tests.simulators.store import Night, saved

if TYPE_CHECKING:
    from collections.abc import Iterable

NIGHT = Night(0)


def store_of(nights: Iterable[Night]) -> Store:
    return read_store((night.name, saved(night)) for night in nights)


def test_what_can_be_compared_is_a_series_and_boards_are_never_joined() -> None:
    boards = ["GPU-aaaa", "GPU-bbbb"]
    store = store_of(replace(NIGHT, number=number, board=boards[number % 2]) for number in range(6))
    (experiment,) = store.experiments
    assert [[one.session.name[:4] for one in series.valid] for series in experiment.series] == [
        ["0001", "0003", "0005"],
        ["0002", "0004", "0006"],
    ]
    assert [experiment.label(series) for series in experiment.series] == [
        "A: NVIDIA H100 GPU-aaaa",
        "B: NVIDIA H100 GPU-bbbb",
    ]


def test_another_sensor_of_the_host_begins_a_series() -> None:
    sensors = [None, "rapl", None, "hwmon", "hwmon", "rapl"]
    store = store_of(
        replace(NIGHT, number=number, host_j=sensor is not None, host_sensor=sensor or "")
        for number, sensor in enumerate(sensors)
    )
    (experiment,) = store.experiments
    # It says nothing of results without the host.
    assert [[one.session.name[:4] for one in series.valid] for series in experiment.series] == [
        ["0001", "0002", "0003", "0006"],
        ["0004", "0005"],
    ]
    named = [experiment.label(series).rpartition(", ")[2] for series in experiment.series]
    assert named == ["host sensor rapl", "host sensor hwmon"]


def test_a_value_is_the_mean_of_all_runs() -> None:
    content = saved(replace(NIGHT, host_j=True))
    once = read_store([("0001_a.json", content)]).results[0].values
    for bench in content["benchmarks"]:
        again = json.loads(json.dumps(bench["extra_info"]["result"]))
        for window in again["per_round"]:
            window |= {key: 4 * window[key] for key in ("joules", "seconds", "host_j")}
        bench["extra_info"]["more_runs"] = [again]
    twice = read_store([("0001_a.json", content)]).results[0].values
    for quantity in ("energy", "latency", "energy_total"):
        assert twice[quantity].value == pytest.approx(2 * once[quantity].value)


def test_a_result_is_of_the_commit_that_was_measured_and_not_of_the_one_that_saved_it() -> None:
    content = saved(replace(NIGHT, experiments=("llama", "mistral"), branch="merges"))
    for bench in content["benchmarks"]:
        if "mistral" in bench["name"]:
            bench["extra_info"]["commit_info"] = {"id": "1a2b3c4", "branch": "main", "dirty": True}
    store = read_store([("0001_a.json", content)])
    found = [(one.session.commit, one.session.branch, one.session.dirty) for one in store.results]
    assert found == [(content["commit_info"]["id"], "merges", False), ("1a2b3c4", "main", True)]
    assert [one.row.commit for one in store.results] == [content["commit_info"]["id"], "1a2b3c4"]
    assert (store.files, len(store.sessions)) == (1, 2)


def test_an_invalid_result_is_apart_in_the_series_of_its_like() -> None:
    store = store_of(replace(NIGHT, number=number, valid=number != 1) for number in range(3))
    (series,) = store.experiments[0].series
    assert (len(series.valid), len(series.invalid)) == (2, 1)
    assert series.invalid[0].warnings == ("the board throttled: its temperature was too high",)


def test_what_either_copy_of_a_result_knows_of_a_verdict_is_kept() -> None:
    judged = replace(NIGHT, saved_verdict="REGRESSED", accepted=True)
    for nights in ([judged, NIGHT], [NIGHT, judged]):
        copies = [(f"000{place}_a.json", saved(night)) for place, night in enumerate(nights)]
        (found,) = read_store(copies).results
        assert all(row.regressed and row.accepted for row in found.rows.values())


def test_the_same_result_saved_twice_counts_once_where_it_was_measured() -> None:
    again = {**saved(NIGHT), "datetime": "2026-02-01T00:00:00", "commit_info": {"id": "later"}}
    for bench in again["benchmarks"]:
        bench["extra_info"] = {**bench["extra_info"], "verdict": "OK"}
    store = read_store([("0002_again.json", again), (NIGHT.name, saved(NIGHT))])
    (result,) = store.results
    assert store.saved_twice == 1
    assert result.session.commit == saved(NIGHT)["commit_info"]["id"]
    # What either session found out of it is kept.
    assert result.verdicts == {"latency": "OK", "energy": "OK"}
    again["datetime"] = "2025-02-01T00:00:00"
    assert read_store([("0002_again.json", again), (NIGHT.name, saved(NIGHT))]).results[0].verdicts == result.verdicts


def test_joules_of_a_coarse_sensor_that_are_the_same_are_two_results() -> None:
    contents = [(night.name, saved(night)) for night in (NIGHT, replace(NIGHT, number=1))]
    for bench in (bench for _, content in contents for bench in content["benchmarks"]):
        for window in bench["extra_info"]["result"]["per_round"]:
            window["joules"] = 400.0
    assert len(read_store(contents).results) == 2


def test_order_is_by_date_and_not_by_name() -> None:
    contents = [("0009_a.json", saved(NIGHT)), ("0001_b.json", saved(replace(NIGHT, number=3)))]
    assert [session.name for session in read_store(contents).sessions] == ["0009_a.json", "0001_b.json"]


def test_a_quantity_that_was_not_measured_is_unknown() -> None:
    content = saved(NIGHT)
    for bench in content["benchmarks"]:
        for window in bench["extra_info"]["result"]["per_round"]:
            window["joules"] = None
    (result,) = read_store([("0001_a.json", content)]).results
    assert set(result.values) == {"latency", "energy_per_token"}
    assert "energy_total" in store_of([replace(NIGHT, host_j=True)]).results[0].values


def broken(path: str, value: Any) -> dict[str, Any]:
    """A saved session with one value of its first row replaced."""
    content = json.loads(json.dumps(saved(NIGHT)))
    at: Any = content
    *keys, last = path.split(".")
    for key in keys:
        at = at[int(key) if key.isdecimal() else key]
    at[last] = value
    return content  # type: ignore[no-any-return]


INFO = "benchmarks.0.extra_info"


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("datetime", "yesterday", "'yesterday' is no date"),
        ("datetime", None, "None is no date"),
        ("benchmarks", [{"stats": {}, "extra_info": {}}], "no result of an experiment in it"),
        ("benchmarks", [3], "cannot be read"),
        (f"{INFO}.result.per_round", "many", "cannot be read"),
        (f"{INFO}.result.per_round", [{"seconds": "1 s"}], "cannot be read"),
        (f"{INFO}.result.output_tokens", "64", "cannot be read"),
        pytest.param(f"{INFO}.result.output_tokens", 10**400, "cannot be read", id="too large"),
        (f"{INFO}.result.energy_per_output_token_j", "64", "cannot be read"),
        (f"{INFO}.result.labels", [1], "cannot be read"),
        (f"{INFO}.environment", ["torch"], "cannot be read"),
        (f"{INFO}.environment.boards", ["GPU-1"], "cannot be read"),
        (f"{INFO}.environment_hash", {}, "cannot be read"),
        (f"{INFO}.nodeid", 7, "cannot be read"),
        ("machine_info", {"llem": 3}, "cannot be read"),
        ("commit_info", "1a2b3c4", "cannot be read"),
    ],
)
def test_a_file_that_holds_something_else_is_left_out_and_named(path: str, value: Any, reason: str) -> None:
    other = saved(replace(NIGHT, number=1))
    store = read_store([("0001_a.json", broken(path, value)), ("0002_b.json", other), ("x.json", "not readable")])
    assert len(store.results) == 1
    assert [name for name, _ in store.left_out] == ["0001_a.json", "x.json"]
    assert reason in store.left_out[0][1]
    assert store.left_out[1][1] == "not readable"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_number_that_has_no_place_in_a_plot_is_none(value: float) -> None:
    content = broken(f"{INFO}.result.per_round", [{"seconds": value, "joules": value}])
    for bench in content["benchmarks"]:
        bench["extra_info"]["result"]["energy_per_output_token_j"] = value
    (result,) = read_store([("0001_a.json", content)]).results
    assert not {"latency", "energy_per_token"} & set(result.values)


def test_what_changed_between_two_results_is_named() -> None:
    then, now = store_of(
        [
            replace(NIGHT, torch="2.13.0", driver="550.54", plugin="0.9.0"),
            replace(NIGHT, number=1, torch="2.14.0", driver="560.28", plugin="0.10.0"),
        ]
    ).results
    assert changed(then, now) == [
        "torch 2.13.0 \N{RIGHTWARDS ARROW} 2.14.0",
        "pytest-llem 0.9.0 \N{RIGHTWARDS ARROW} 0.10.0",
        "board driver version 550.54 \N{RIGHTWARDS ARROW} 560.28",
    ]
    assert changed(then, then) == []


def test_letters_go_on_after_z() -> None:
    assert [letter(number) for number in (0, 25, 26, 51, 52, 702)] == ["A", "Z", "AA", "AZ", "BA", "AAA"]
