"""A session's verdicts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_llem.report.verdicts import verdict_lines
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.gates import parse_gates, resolve
from pytest_llem.verdict.history import SavedRow
from pytest_llem.verdict.judging import Candidate, ErrorRates, Judged, detectable, follow_moves, judge_candidates
from pytest_llem.verdict.limits import SAME, parse_limit

RATES = ErrorRates()


def row(value: float, name: str = "a", metric: str = "energy") -> SavedRow:
    rounds = tuple(value * factor for factor in (0.999, 1.0, 1.001))
    return SavedRow(name, metric, (rounds,), workload_hash="w", environment_hash="e")


def saved(name: str = "a", count: int = 10) -> list[SavedRow]:
    return [row(100 * (1 + 0.007 * (-1) ** number), name) for number in range(count)]


def candidate(value: float | None, name: str = "a", limit: str = "5%", *, accepted: bool = False) -> Candidate:
    found = None if value is None else replace(row(value, name), accepted=accepted)
    missing = "below resolution" if value is None else None
    return Candidate(name, name, "energy", parse_limit(limit), found, missing)


def statuses(*candidates: Candidate, history: dict[tuple[str, str], list[SavedRow]]) -> list[str]:
    judged = judge_candidates(candidates, history, rates=RATES, last=20)
    return [one.verdict.status.value for one in judged]


def test_each_candidate_is_judged_against_its_own_history() -> None:
    history = {("a", "energy"): saved("a"), ("b", "energy"): [replace(one, fullname="b") for one in saved()]}
    assert statuses(candidate(100), candidate(130, "b"), candidate(1, "c"), history=history) == [
        "OK",
        "REGRESSED",
        "NO-BASELINE",
    ]


def test_what_was_not_measured_or_was_disturbed_is_inconclusive_whatever_the_number() -> None:
    history = {("a", "energy"): saved()}
    disturbed = replace(candidate(130), disturbed="a foreign process")
    judged = judge_candidates([candidate(None), disturbed], history, rates=RATES, last=20)
    assert [one.verdict.status for one in judged] == [Status.INCONCLUSIVE] * 2
    assert [one.verdict.reason for one in judged] == ["below resolution", "a foreign process"]
    assert not any(one.verdict.needs_more_runs for one in judged)
    lines = verdict_lines(judged)
    assert lines[0].startswith("INCONCLUSIVE  a  energy  ")
    assert lines[0].endswith("(below resolution)")
    output = Candidate("a", "a", "output", SAME, None, "skipped")
    (line,) = verdict_lines(judge_candidates([output], {}, rates=RATES, last=20))
    assert "  0 runs vs 0 saved  " in line


def test_an_accepted_change_is_ok_and_says_so_but_a_disturbed_one_is_not() -> None:
    history = {("a", "energy"): saved()}
    accepted = candidate(130, accepted=True)
    assert statuses(accepted, history=history) == ["OK"]
    assert statuses(replace(accepted, disturbed="throttled"), history=history) == ["INCONCLUSIVE"]


def test_a_short_history_is_judged_with_the_spread_of_the_suite() -> None:
    lone = {("a", "energy"): saved(count=2)}
    assert statuses(candidate(130), history=lone) == ["INCONCLUSIVE"]
    suite = {(name, "energy"): saved(name) for name in "bcdefgh"}
    others = [candidate(100, name) for name in "bcdefgh"]
    assert statuses(candidate(130), *others, history={**lone, **suite})[0] == "REGRESSED"


def test_what_could_be_caught_is_known_before_measuring() -> None:
    history = {("a", "energy"): saved()}
    expected = [("a", "energy", parse_limit("5%")), ("b", "energy", parse_limit("5%"))]
    ((nodeid, metric, verdict),) = detectable(expected, history, rates=RATES, last=20, may_recur=lambda _: True)
    assert (nodeid, metric) == ("a", "energy")
    assert verdict.detectable_change is not None
    assert 0.025 < verdict.detectable_change < 0.05


def test_the_command_line_replaces_the_files_limit_for_its_metric() -> None:
    gates = parse_gates(["energy:3%", "energy:4%"])
    resolved = resolve(gates, {"energy": "5%", "latency": "6%", "output": "same"})
    texts = {metric: str(limit) for metric, limit in resolved.items()}
    assert texts == {"energy": "2%..4%", "latency": "3%..6%", "output": "same"}
    assert parse_gates(["output: same"]) == {"output": resolved["output"]}


@pytest.mark.parametrize(
    "text", ["energy", "joules:5%", "energy:", "energy:5", ":5%", "output:5%", "output:", "energy:same"]
)
def test_a_malformed_gate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|use one of"):
        parse_gates([text])


def test_other_tokens_than_the_saved_runs_are_seen() -> None:
    history = {("a", "energy"): [replace(one, output_tokens_hash="then") for one in saved()]}
    now = candidate(100)
    assert now.row is not None
    same, other = (replace(now, row=replace(now.row, output_tokens_hash=tokens)) for tokens in ("then", "now"))
    lines = verdict_lines(judge_candidates([same, other], history, rates=RATES, last=20))
    assert "other tokens" not in lines[0]
    assert lines[1].startswith("OK ")
    assert "it generated other tokens than the saved runs" in lines[1]


class TestMoved:
    """A file that was moved, or pytest started in another folder."""

    def judge(self, *runs: tuple[str, str, int], value: float = 100, here: tuple[str, ...] = ()) -> Judged:
        """The verdict on ``new/a.yaml::a`` of workload w, after five runs a day under each node id and workload."""
        history: dict[tuple[str, str], list[SavedRow]] = {}
        for nodeid, workload, day in runs:
            days = [replace(run, workload_hash=workload) for run in saved(nodeid, 5)]
            timed = [replace(run, when=f"2026-01-{day:02}T0{hour}") for hour, run in enumerate(days)]
            history.setdefault((nodeid, "energy"), []).extend(timed)
        measured = candidate(value, "new/a.yaml::a")
        assert measured.row is not None
        remarks = follow_moves([measured.row], history, {"new/a.yaml::a", *here})
        measured = replace(measured, remarks=remarks.get(measured.nodeid, ()))
        return judge_candidates([measured], history, rates=RATES, last=20)[0]

    def test_the_same_name_and_workload_is_the_same_experiment(self) -> None:
        found = self.judge(("old/a.yaml::a", "w", 1), ("old/b.yaml::b", "w", 1), ("other/a.yaml::a", "x", 1))
        assert found.verdict.status is Status.OK
        assert found.remarks == ("saved as old/a.yaml::a",)
        assert verdict_lines([found])[0].partition("  (")[2].startswith("saved as old/a.yaml::a; ")

    def test_its_rows_stay_before_its_own(self) -> None:
        """Or a regression would be the whole of the new history."""
        runs = [("oldest/a.yaml::a", "w", 1), ("old/a.yaml::a", "w", 2), ("new/a.yaml::a", "w", 3)]
        found = self.judge(*runs, value=130)
        assert found.verdict.status is Status.REGRESSED
        assert len(found.baseline.rows) == 15
        assert found.remarks == ("saved as oldest/a.yaml::a and as old/a.yaml::a",)

    def test_more_than_one_at_a_time_are_named(self) -> None:
        found = self.judge(("old/a.yaml::a", "w", 1), ("y/a.yaml::a", "w", 1))
        assert found.verdict.status is Status.NO_BASELINE
        (remark,) = found.remarks
        assert remark.startswith("the same workload was saved as old/a.yaml::a and as y/a.yaml::a: ")

    @pytest.mark.parametrize(
        "runs",
        [
            [("old/a.yaml::a", "x", 1)],  # another workload
            [("new/a.yaml::a", "w", 1), ("old/a.yaml::a", "w", 2)],  # a copy that went on
            [("here/a.yaml::a", "w", 1)],  # a copy that is measured, too
        ],
    )
    def test_what_has_not_moved_keeps_its_rows(self, runs: list[tuple[str, str, int]]) -> None:
        found = self.judge(*runs, here=("here/a.yaml::a",))
        assert len(found.baseline.rows) == sum(nodeid == "new/a.yaml::a" for nodeid, _, _ in runs) * 5
        assert not found.remarks
