"""The union of journals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.session.journal import Entry
from pytest_llem.session.merge import union
from pytest_llem.verdict.history import read_files

if TYPE_CHECKING:
    from pathlib import Path

RESULT = {"meter": "estimate", "estimated": True, "rounds": 1, "calls_per_round": 1}


def entry(
    nodeid: str, *, latency_s: float = 0.1, split: str | None = "s", more_runs: int = 0, work: str = "w"
) -> Entry:
    info: dict[str, Any] = {"metric": "latency", "unit": "s", "workload_hash": work}
    info |= {"environment_hash": "e", "environment": {}}
    if more_runs:
        info |= {"more_runs": [RESULT] * more_runs, "accepted": True, "verdict": "OK"}
    row = dict.fromkeys(("group", "param", "params")) | {
        "name": nodeid,
        "fullname": nodeid,
        "extra_info": info,
        "iterations": 1,
        "options": {},
        "data": [latency_s],
    }
    return Entry(nodeid, nodeid, "f", "asked", {**RESULT, "latency_s": latency_s}, [row], split=split)


def write(path: Path, *entries: Entry) -> Path:
    path.write_text("".join(one.as_line() for one in entries))
    return path


def test_each_experiment_is_there_once_with_its_further_runs(tmp_path: Path) -> None:
    first = write(tmp_path / "1", entry("a", more_runs=2), entry("b"))
    second = write(tmp_path / "2", entry("a"), entry("c"))
    entries, notes, missing = union([first, second])
    assert [one.nodeid for one in entries] == ["a", "b", "c"]
    assert len(entries[0].rows[0]["extra_info"]["more_runs"]) == 2
    assert notes == ["merged 3 experiments of 2 journals; nothing was run"]
    assert not missing


def test_parts_of_different_divisions_are_said(tmp_path: Path) -> None:
    paths = [write(tmp_path / split, entry(split, split=split)) for split in ("x", "y")]
    assert "divided differently" in union(paths)[2][0]


def test_a_session_of_its_own_beside_all_parts_leaves_nothing_missing(tmp_path: Path) -> None:
    parts = [write(tmp_path / name, entry(name, split="2-hash")) for name in ("a", "b")]
    whole = write(tmp_path / "c", entry("c", split=None))
    assert not union([*parts, whole])[2]
    assert "of 2 parts, 1 left a journal" in union([parts[0], whole])[2][0]


def test_a_line_that_is_dropped_may_be_a_result(tmp_path: Path) -> None:
    torn = tmp_path / "torn"
    torn.write_text(entry("a").as_line()[:-20])
    (problem,) = union([torn])[2]
    assert "dropped a torn last line" in problem


@pytest.mark.parametrize("other", [{"latency_s": 2.0}, {"work": "another"}])
def test_results_that_disagree_are_refused_with_their_files(tmp_path: Path, other: dict[str, Any]) -> None:
    paths = [write(tmp_path / "1", entry("n")), write(tmp_path / "2", entry("n", **other))]
    with pytest.raises(pytest.UsageError, match=rf"{paths[0]} and {paths[1]} hold different results of n"):
        union(paths)


def test_a_result_that_was_saved_again_from_a_journal_counts_once_in_the_history() -> None:
    def saved(seconds: float, *, accepted: bool = False, from_journal: bool = False) -> dict[str, Any]:
        result = {**RESULT, "per_round": [{"seconds": seconds, "joules": None}], "valid": True}
        info = {"metric": "latency", "nodeid": "n", "result": result, "accepted": accepted}
        return {"benchmarks": [{"extra_info": info}], **({"llem_from_journal": ["n"]} if from_journal else {})}

    (rows,) = read_files([saved(1.0), saved(2.0), saved(1.0, accepted=True, from_journal=True)]).values()
    assert [(row.runs, row.accepted) for row in rows] == [(((2.0,),), False), (((1.0,),), True)]
    # Runs that merely measured the same are runs of their own.
    (rows,) = read_files([saved(1.0), saved(1.0)]).values()
    assert len(rows) == 2
