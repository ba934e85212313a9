"""Verdicts on pairs: what is compared, and what is said of pairs that are not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.session.against.verdicts import judge_record
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.limits import parse_limit
from tests.unit.report.examples import experiment, in_pairs, result

if TYPE_CHECKING:
    from pytest_llem.records.record import Record

SETTINGS: Any = SimpleNamespace(pairs=10, error_rates=(0.05, 0.025))
GATES = {"energy": parse_limit("5%")}


def status(record: Record) -> Status:
    (judged,) = judge_record(replace(record, gates=GATES), SETTINGS)
    return judged.verdict.status


def test_pairs_that_were_measured_alike_are_compared() -> None:
    assert status(in_pairs(change=0.2)) is Status.REGRESSED


@pytest.mark.parametrize(
    "changes",
    [
        {"result": result(estimated=True)},
        {"result": result(meter="codecarbon")},
        {"result": result(boundaries="joined")},
        {"environment": {**experiment().environment, "watts_per_core": 9.0}},
        {"workload_hash": "another"},
    ],
)
def test_a_pair_whose_sides_were_measured_in_unlike_ways_says_nothing(changes: dict[str, Any]) -> None:
    record = in_pairs(change=0.2)
    *others, last = record.other_runs
    assert status(replace(record, other_runs=(*others, replace(last, **changes)))) is Status.INCONCLUSIVE


def test_another_number_of_tokens_is_other_work_and_says_on_which_side() -> None:
    record = in_pairs(change=0.2)
    first, *others = record.other_runs
    there = replace(first, result=replace(first.result, output_tokens=(record.result.output_tokens or 0.0) * 1.02))
    (judged,) = judge_record(replace(record, gates=GATES, other_runs=(there, *others)), SETTINGS)
    assert judged.verdict.status is Status.INCONCLUSIVE
    assert f"{there.result.output_tokens:g} a call on {record.against}" in judged.why


@pytest.mark.parametrize("changes", [{"estimated": True}, {"meter": "codecarbon"}, {"boundaries": "joined"}])
def test_this_side_may_not_be_measured_in_another_way_later(changes: dict[str, Any]) -> None:
    record = in_pairs(change=0.2)
    *more, last = record.more_runs
    assert status(replace(record, more_runs=(*more, replace(last, **changes)))) is Status.INCONCLUSIVE


def test_pairs_that_do_not_count_are_named_with_what_disturbed_them() -> None:
    hot = "GPU-1 was throttled in the window: hardware thermal slowdown"
    (judged,) = judge_record(replace(in_pairs(), gates=GATES, disturbed=("a pause", hot)), SETTINGS)
    assert judged.verdict.status is Status.OK
    assert judged.why.startswith(f"2 pairs of it were disturbed and do not count, the last: {hot}; ")


@pytest.mark.parametrize("side", ["this", "other"])
def test_a_pair_of_which_a_window_has_no_joules_is_not_judged_by_its_other_windows(side: str) -> None:
    record = in_pairs(change=0.2)
    rounds = result().per_round
    partly = result(None, per_round=[replace(rounds[0], joules=None), *rounds[1:]])
    if side == "this":
        record = replace(record, more_runs=(*record.more_runs[:-1], partly))
    else:
        *others, last = record.other_runs
        record = replace(record, other_runs=(*others, replace(last, result=partly)))
    (judged,) = judge_record(replace(record, gates=GATES), SETTINGS)
    assert judged.verdict.status is Status.INCONCLUSIVE
    assert judged.verdict.reason.startswith("pair 4 has a side without windows")
