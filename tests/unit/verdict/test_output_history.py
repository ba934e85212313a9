"""Which saved run an output is held against."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pytest_llem.report.verdicts import verdict_lines
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.history import SavedRow
from pytest_llem.verdict.judging import Candidate, ErrorRates, Judged, detectable, judge_candidates
from pytest_llem.verdict.limits import SAME
from pytest_llem.verdict.outputs import GeneratedSequence


def row(token: int, **changes: Any) -> SavedRow:
    saved = SavedRow(
        "a",
        "latency",
        ((1.0, 1.0),),
        workload_hash="w",
        environment_hash="e",
        environment={"cpu": "e"},
        output_tokens_hash=str(token),
        generated=(GeneratedSequence(1, [token]),),
        output_repeats=True,
    )
    return replace(saved, **changes)


def judged(now: SavedRow, *saved: SavedRow, disturbed: str | None = None) -> Judged:
    candidate = Candidate("a", "a", "output", SAME, now, disturbed=disturbed)
    (found,) = judge_candidates([candidate], {("a", "latency"): [*saved]}, rates=ErrorRates(), last=20)
    return found


def status(now: SavedRow, *saved: SavedRow) -> Status:
    return judged(now, *saved).verdict.status


ELSEWHERE: dict[str, Any] = {"environment_hash": "f", "environment": {"cpu": "f"}}


def test_the_newest_run_counts() -> None:
    assert status(row(2), row(1), row(2)) is Status.OK
    assert status(row(1), row(1), row(2)) is Status.REGRESSED
    assert status(row(1)) is Status.NO_BASELINE


def test_a_run_that_regressed_is_no_baseline_until_one_is_accepted() -> None:
    regressed = row(2, output_regressed=True)
    assert status(row(2), row(1), regressed) is Status.REGRESSED
    assert status(row(1), row(1), regressed) is Status.OK
    accepted = row(2, accepted=True)
    assert status(row(2), row(1), regressed, accepted) is Status.OK
    assert status(row(1), row(1), regressed, accepted) is Status.REGRESSED
    # What had regressed in energy alone has the right tokens.
    assert status(row(2), row(1), row(2, regressed=True)) is Status.OK
    alone = judged(row(2), regressed)
    assert alone.verdict.status is Status.INCONCLUSIVE
    assert "none was accepted" in alone.why


def test_runs_of_another_environment_are_asked_where_there_are_no_others() -> None:
    assert status(row(1), row(1, **ELSEWHERE)) is Status.OK
    different = judged(row(2), row(1, **ELSEWHERE))
    assert different.verdict.status is Status.INCONCLUSIVE
    assert "another environment: cpu f then, e now" in different.why
    assert "prompt 1, position 1: token 1 then, token 2 now" in different.why
    assert status(row(2), row(2), row(1, **ELSEWHERE)) is Status.OK
    assert status(row(1), row(2), row(1, **ELSEWHERE)) is Status.REGRESSED


def test_another_workload_is_inconclusive() -> None:
    found = judged(row(1), row(1, workload_hash="other"))
    assert found.verdict.status is Status.INCONCLUSIVE
    assert "another workload" in found.why


def test_what_changes_no_token_keeps_no_rows_apart_and_neither_does_the_number_of_tokens() -> None:
    assert status(row(1), row(1, boundaries="joined", labels=("power capped",))) is Status.OK
    assert status(row(2, output_tokens=3.0), row(1, output_tokens=4.0)) is Status.REGRESSED


def test_runs_whose_tokens_mean_nothing_are_passed_over() -> None:
    unsteady, invalid = row(2, output_repeats=False), row(2, valid=False)
    assert status(row(1), row(1), unsteady, invalid) is Status.OK
    assert status(row(1), unsteady, invalid) is Status.INCONCLUSIVE


def test_an_accepted_change_is_ok_but_not_where_it_is_no_baseline() -> None:
    accepted = judged(row(2, accepted=True), row(1))
    assert accepted.verdict.status is Status.OK
    assert "accepted: the tokens of this run are the baseline" in accepted.why
    assert status(row(2, accepted=True, output_repeats=False), row(1)) is Status.INCONCLUSIVE
    assert judged(row(2, accepted=True), row(1), disturbed="hot").verdict.status is Status.INCONCLUSIVE


def test_a_line_explains_a_regression_and_nothing_more() -> None:
    bad, good = judged(row(2), row(1)), judged(row(1), row(1))
    lines = verdict_lines([bad, good])
    assert lines[0].startswith("REGRESSED  a  output  -  limit same  1 run vs 1 saved  (prompt 1, position 1: token 1")
    assert lines[1] == "OK         a  output  -  limit same  1 run vs 1 saved"


def test_no_number_says_what_an_output_gate_can_catch() -> None:
    assert (
        detectable(
            [("a", "output", SAME)], {("a", "latency"): [row(1)]}, rates=ErrorRates(), last=20, may_recur=lambda _: True
        )
        == []
    )
