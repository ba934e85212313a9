"""Saved rows: read, matched, and told apart when they cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_llem.verdict.history import Baseline, SavedRow, baseline, difference, read_files, read_row


def bench(metric: str = "energy", **changes: Any) -> dict[str, Any]:
    result = {
        "calls_per_round": 2,
        "per_round": [{"joules": 4.0, "seconds": 2.0}, {"joules": 6.0, "seconds": 2.2}],
        "output_tokens": 64.0,
        "labels": [],
        "valid": True,
        **changes.pop("result", {}),
    }
    info = {
        "nodeid": "a.llem.yaml::a",
        "metric": metric,
        "workload_hash": "w",
        "environment_hash": "e",
        "environment": {"meter": "nvml", "boards": [{"name": "A"}]},
        "result": result,
        **changes,
    }
    return {"name": f"a:{metric}", "fullname": f"a.llem.yaml::a:{metric}", "extra_info": info}


def row(**changes: Any) -> SavedRow:
    found = read_row(bench(**changes), {"commit_info": {"id": "abc"}, "datetime": "2026-01-01"})
    assert found is not None
    return found


def test_a_row_is_its_rounds_per_call() -> None:
    found = row()
    assert (found.fullname, found.metric) == ("a.llem.yaml::a", "energy")
    assert found.runs == ((2.0, 3.0),)
    assert row(metric="latency").runs == ((1.0, 1.1),)
    assert (found.commit, found.when) == ("abc", "2026-01-01")


def test_a_run_outside_of_a_repository_has_no_commit_to_compare_with() -> None:
    for name in ("unversioned", "unknown"):
        then = read_row(bench(environment={"meter": "rapl"}, environment_hash="f"), {"commit_info": {"id": name}})
        assert then is not None
        reason = baseline(row(), [then], last=20).reason
        assert reason is not None
        assert reason.endswith("; --llem-against decides it now")


def test_runs_of_fresh_processes_are_runs_of_their_own() -> None:
    again = {"calls_per_round": 1, "per_round": [{"joules": 5.0, "seconds": 1.0}]}
    assert row(more_runs=[again]).runs == ((2.0, 3.0), (5.0,))


def test_the_memory_of_its_boards_is_that_of_the_saved_machine() -> None:
    saved = bench(environment={"boards": [{"uuid": "a", "name": "A"}]})
    machine = {"llem": {"gpus": [{"uuid": "b", "total_memory_bytes": 40}, {"uuid": "a", "total_memory_bytes": 80}]}}
    for file, expected in (({"machine_info": machine}, (80,)), ({"machine_info": {}}, ()), ({}, ())):
        found = read_row(saved, file)
        assert found is not None
        assert found.memory_bytes == expected


@pytest.mark.parametrize(
    "foreign",
    [{"name": "x", "fullname": "x"}, {"fullname": "x", "extra_info": {"metric": "energy"}}, {"extra_info": None}],
)
def test_rows_of_other_plugins_are_left_alone(foreign: dict[str, Any]) -> None:
    assert read_row(foreign) is None
    assert read_files([{"benchmarks": [foreign]}]) == {}


def test_windows_were_settled_before_they_could_be_joined() -> None:
    assert row().boundaries == "settled"
    assert row(result={"boundaries": "joined"}).boundaries == "joined"


@pytest.mark.parametrize(("now", "then"), [("settled", "joined"), ("joined", "settled")])
def test_joined_and_settled_windows_are_never_compared(now: str, then: str) -> None:
    one, saved = row(result={"boundaries": now}), row(result={"boundaries": then})
    assert baseline(one, [saved], 20).reason == f"the saved runs' windows were {then}, now they are {now}"
    assert list(baseline(one, [saved, one], 20).rows) == [one]


def test_files_keep_their_order() -> None:
    files = [{"benchmarks": [bench(), bench("latency")], "datetime": str(day)} for day in (1, 2, 3)]
    history = read_files(files)
    assert [one.when for one in history["a.llem.yaml::a", "energy"]] == ["1", "2", "3"]
    assert len(history["a.llem.yaml::a", "latency"]) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workload_hash": "other"}, "another workload"),
        (
            {"environment_hash": "other", "environment": {"meter": "nvml", "boards": [{"name": "B"}]}},
            "boards.0.name B then, A now",
        ),
        (
            {"environment_hash": "other", "environment": {"meter": "estimate", "boards": [{"name": "A"}]}},
            "meter estimate then, nvml now",
        ),
        ({"result": {"output_tokens": 60.0}}, "60 a call then, 64 now"),
        ({"result": {"labels": ["power capped"]}}, "power capped then, none now"),
    ],
)
def test_what_cannot_be_compared_says_why(changes: dict[str, Any], words: str) -> None:
    reason = difference(row(), row(**changes))
    assert reason is not None
    assert words in reason
    found = baseline(row(), [row(**changes)], last=None)
    offer = "; --llem-against=abc decides it now" if "environment" in changes else ""
    assert found == Baseline((), reason=reason + offer)


def test_alike_rows_are_the_baseline_and_the_last_ones_count() -> None:
    saved = [replace(row(), when=str(day)) for day in range(5)]
    assert [one.when for one in baseline(row(), saved, last=3).rows] == ["2", "3", "4"]
    assert len(baseline(row(), saved, last=None).rows) == 5


def test_an_invalid_run_is_never_a_baseline() -> None:
    invalid = row(result={"valid": False})
    assert baseline(row(), [invalid], last=None).rows == ()
    assert baseline(row(), [invalid], last=None).reason == "every saved run of it is invalid"
    assert len(baseline(row(), [invalid, row()], last=None).rows) == 1
    assert baseline(row(), [], last=None) == Baseline(())


def test_an_accepted_change_restarts_the_mean_and_keeps_what_was_before() -> None:
    saved = [row(), row(), row(accepted=True), row(), row(accepted=True)]
    found = baseline(row(), saved, last=None)
    assert [len(stretch) for stretch in (found.rows, *found.before)] == [1, 2, 2]
    assert found.rows[0].accepted


def test_what_regressed_is_no_baseline_until_it_is_accepted() -> None:
    regressed = row(verdict="REGRESSED")
    assert len(baseline(row(), [row(), regressed, regressed], last=None).rows) == 1
    accepted = row(verdict="REGRESSED", accepted=True)
    assert baseline(row(), [row(), regressed, accepted], last=None).rows == [accepted]
    assert baseline(row(), [regressed], last=None).reason is not None


def test_other_rows_between_alike_ones_do_not_hide_them() -> None:
    saved = [row(), row(workload_hash="other"), row(environment_hash="other")]
    assert len(baseline(row(), saved, last=None).rows) == 1
