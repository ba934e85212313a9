"""The union of journals."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.measurement.result import ExperimentResult
from pytest_llem.records.record import Record
from pytest_llem.session.journal_line import as_line
from pytest_llem.session.merge import union
from pytest_llem.verdict.history import read_files

if TYPE_CHECKING:
    from pathlib import Path

RESULT: dict[str, Any] = {"meter": "estimate", "estimated": True, "rounds": 1, "calls_per_round": 1}


def record(
    nodeid: str, *, latency_s: float = 0.1, split: str | None = "s", more_runs: int = 0, work: str = "w"
) -> Record:
    result = ExperimentResult(**RESULT, latency_s=latency_s)
    made = Record(nodeid, nodeid, "f", result, work, environment={}, fingerprint="f", split=split)
    return replace(made, more_runs=(result,) * more_runs, accepted=more_runs > 0)


def write(path: Path, *records: Record) -> Path:
    path.write_text("".join(map(as_line, records)))
    return path


def test_each_experiment_is_there_once_with_its_further_runs(tmp_path: Path) -> None:
    first = write(tmp_path / "1", record("a", more_runs=2), record("b"))
    second = write(tmp_path / "2", record("a"), record("c"))
    records, notes, missing = union([first, second])
    assert [merged.nodeid for merged in records] == ["a", "b", "c"]
    assert len(records[0].more_runs) == 2
    assert notes == ["merged 3 experiments of 2 journals; nothing was run"]
    assert not missing


def test_parts_of_different_divisions_are_said(tmp_path: Path) -> None:
    paths = [write(tmp_path / split, record(split, split=split)) for split in ("x", "y")]
    assert "divided differently" in union(paths)[2][0]


def test_a_session_of_its_own_beside_all_parts_leaves_nothing_missing(tmp_path: Path) -> None:
    parts = [write(tmp_path / name, record(name, split="2-hash")) for name in ("a", "b")]
    whole = write(tmp_path / "c", record("c", split=None))
    assert not union([*parts, whole])[2]
    assert "of 2 parts, 1 left a journal" in union([parts[0], whole])[2][0]


def test_a_line_that_is_dropped_may_be_a_result(tmp_path: Path) -> None:
    torn = tmp_path / "torn"
    torn.write_text(as_line(record("a"))[:-20])
    (problem,) = union([torn])[2]
    assert "dropped a torn last line" in problem


@pytest.mark.parametrize("other", [{"latency_s": 2.0}, {"work": "another"}])
def test_results_that_disagree_are_refused_with_their_files(tmp_path: Path, other: dict[str, Any]) -> None:
    paths = [write(tmp_path / "1", record("n")), write(tmp_path / "2", record("n", **other))]
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
