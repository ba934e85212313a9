"""Two saved runs side by side: what changed, against what is known of chance, and what else is not the same."""

from __future__ import annotations

import html
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.records.identity import environment_hash
from pytest_llem.report.figures import change_plots
from pytest_llem.report.html import render_two_runs
from pytest_llem.report.two_runs import TwoRuns, two_runs
from pytest_llem.verdict.decision import Status
from tests.unit.report.examples import experiment, result
from tests.unit.report.test_html import ATTACK, Page

if TYPE_CHECKING:
    from pytest_llem.records.record import Record


def saved(*records: Record, **session: Any) -> dict[str, Any]:
    """A session as pytest-benchmark saves it, as far as is read of it."""
    rows = [
        {
            "fullname": record.nodeid,
            "extra_info": {
                "metric": metric,
                "nodeid": record.nodeid,
                "workload_hash": record.workload_hash,
                "environment_hash": environment_hash(record.environment),
                "environment": record.environment,
                "result": record.result.as_dict(),
                **({"config": record.config} if metric == "latency" else {}),
                **({"verdict": record.verdicts[metric]} if metric in record.verdicts else {}),
                "accepted": record.accepted,
                **({"commit_info": record.commit} if record.commit else {}),
            },
        }
        for record in records
        for metric in record.metrics
    ]
    return {"benchmarks": rows, "datetime": "2026-02-03T04:05:06.7", "commit_info": {"id": "5b8c3a1d"}, **session}


def runs_about(level: float) -> list[dict[str, Any]]:
    """Further runs that differ by 1%."""
    noises = (0.99, 0.995, 1.01, 1.005)
    return [saved(experiment(result=result(level * noise, 2.0 * noise**0.1))) for noise in noises]


def compared(earlier: Record, later: Record, others: list[dict[str, Any]] | None = None) -> TwoRuns:
    return two_runs(("0001_main", saved(earlier)), ("0002_branch", saved(later)), others or [])


def test_a_change_has_the_interval_of_a_verdict_where_other_runs_show_chance() -> None:
    latency, energy = sorted(
        compared(experiment(), experiment(result=result(120.0)), runs_about(100.0)).changes,
        key=lambda change: change.metric == "energy",
    )
    assert energy.verdict.status is Status.REGRESSED
    assert energy.verdict.change == pytest.approx(0.2)
    assert energy.verdict.interval is not None
    assert energy.verdict.interval[0] < 0.2 < energy.verdict.interval[1]
    assert latency.verdict.status is Status.OK
    assert [energy.earlier.value, energy.later.value] == pytest.approx([100.0, 120.0])


def test_two_runs_alone_do_not_tell_chance() -> None:
    changes = compared(experiment(), experiment(result=result(120.0))).changes
    assert {change.verdict.status for change in changes} == {Status.INCONCLUSIVE}
    assert {change.verdict.interval for change in changes} == {None}
    assert all("unknown spread between runs" in change.verdict.reason for change in changes)


def test_runs_of_another_environment_make_a_stretch_of_their_own() -> None:
    # 20% apart, and each steady: taken together they would hide any change.
    here, there = experiment(), experiment(environment={"boards": [{"uuid": "GPU-2"}], "meter": "nvml"})
    others = [
        saved(replace(side, result=result(level * noise)))
        for side, level in ((here, 100.0), (there, 120.0))
        for noise in (0.99, 1.0, 1.01)
    ]
    (energy,) = (
        c for c in compared(here, replace(there, result=result(120.0)), others).changes if c.metric == "energy"
    )
    assert energy.verdict.interval is not None
    assert energy.verdict.interval[0] > 0.1
    assert energy.verdict.status is Status.INCONCLUSIVE
    assert "another environment" in energy.verdict.reason


@pytest.mark.parametrize("accepted", ["another run", "the later run"])
def test_an_accepted_change_is_no_chance_and_what_regressed_is_not_counted(accepted: str) -> None:
    levels: list[tuple[float, dict[str, Any]]] = [
        *((level, {}) for level in (99.0, 100.0, 101.0)),
        (200.0, {"verdicts": {"energy": "REGRESSED"}}),
        (130.0, {"accepted": accepted == "another run"}),
        *((level, {}) for level in (131.0, 129.0)),
    ]
    others = [
        saved(experiment(result=result(level), **changes), datetime=f"2026-01-{2 * day:02}")
        for day, (level, changes) in enumerate(levels, 1)
    ]
    sides = [
        saved(experiment(result=result(100.5)), datetime="2026-01-01"),
        saved(experiment(result=result(130.5), accepted=accepted == "the later run"), datetime="2026-01-09"),
    ]
    changes = two_runs(("0001", sides[0]), ("0009", sides[1]), others[::-1]).changes
    (energy,) = (change for change in changes if change.metric == "energy")
    assert energy.verdict.status is Status.REGRESSED
    assert energy.verdict.interval is not None
    assert energy.verdict.interval[0] > 0.25


def test_a_run_that_two_sessions_saved_is_one() -> None:
    once = experiment(result=result(101.0))
    again = saved(once, datetime="2026-01-02", llem_from_journal=[once.nodeid])
    others = [again, saved(once, datetime="2026-01-01"), runs_about(100.0)[0]]
    found = compared(experiment(), experiment(result=result(120.0)), others)
    assert {change.verdict.interval for change in found.changes} == {None}


def test_the_two_runs_are_no_others() -> None:
    first, second = experiment(), experiment(result=result(120.0))
    found = compared(first, second, [saved(first), saved(second), *runs_about(100.0)[:2]])
    assert {change.verdict.interval for change in found.changes} == {None}
    assert found.others == 2


def test_what_was_measured_in_another_way_has_no_change() -> None:
    (energy,) = (
        change
        for change in compared(experiment(), experiment(result=result(meter="zeus")), runs_about(100.0)).changes
        if change.metric == "energy"
    )
    assert (energy.verdict.change, energy.verdict.interval) == (None, None)


def test_an_invalid_run_is_not_judged() -> None:
    for earlier, later, which in ((True, False, "later"), (False, True, "earlier")):
        found = compared(
            experiment(result=result(valid=earlier)), experiment(result=result(valid=later)), runs_about(100.0)
        )
        assert {change.verdict.reason for change in found.changes} == {
            f"it is invalid in the {which} run: something disturbed it"
        }


def test_an_interval_without_an_end_takes_none_from_the_next_one() -> None:
    names = ("first", "second")
    sides = [saved(*(experiment(name, result=result(level)) for name in names)) for level in (100.0, 120.0)]
    found = two_runs(("0001", sides[0]), ("0002", sides[1]))
    intervals = {"first": (0.1, math.inf), "second": (0.1, 0.3)}
    judged = [
        replace(
            both,
            changes=tuple(replace(c, verdict=replace(c.verdict, interval=intervals[c.name])) for c in both.changes),
        )
        for both in found.experiments
    ]
    for plot in change_plots(replace(found, experiments=tuple(judged))):
        (drawn,) = (layer.points for layer in plot.layers if layer.kind == "segments")
        assert drawn == [(2.0, 0.1), (2.0, 0.3)]


def test_the_page_holds_both_sides_and_what_differs() -> None:
    earlier = saved(experiment(), experiment("gone"), machine_info={"node": "a", "cpu": "x"})
    other = experiment(
        result=result(120.0, warnings=["hot"]),
        workload_hash="other",
        config={"model": "m", "pytorch": {"batch_size": 8}},
    )
    later = saved(other, experiment("new"), machine_info={"node": "b", "cpu": "x"})
    page = Page(render_two_runs(two_runs(("0001_main", earlier), ("0002_branch", later))))
    for expected in (
        "0002_branch against 0001_main",
        "1 experiment in both runs",
        "energy+20.0%120.0 ± 1.6 J100.0 ± 1.3 J",
        "INCONCLUSIVE",
        "the saved runs are of another workload",
        "workload hashotherwork of llama",
        "pytorch.batch_size84",
        "0001_main bench/llama.llem.yaml::gone",
        "0002_branch bench/llama.llem.yaml::new",
        "nodeba",
        "0002_branch: hot",
        "2026-02-03T04:05:06",
    ):
        assert expected in page.text
    assert "cpu" not in page.text


def test_a_run_names_the_commits_that_were_measured() -> None:
    merged, session = {"id": "merged"}, {"id": "5b8c3a1d", "branch": "main"}
    records = [experiment(name, commit=commit) for name, commit in (("a", {}), ("b", merged), ("c", merged))]
    found = two_runs(("0001", saved(*records[1:])), ("0002", saved(*records, commit_info=session)))
    assert found.earlier.commit == (("id", "merged"),)
    assert found.later.commit == (*session.items(), ("id", "merged"))
    assert two_runs(("0001", saved()), ("0002", saved())).later.commit == (("id", "5b8c3a1d"),)


def test_an_old_run_without_its_configuration_says_so() -> None:
    old = saved(experiment())
    for bench in old["benchmarks"]:
        bench["extra_info"].pop("config", None)
    text = render_two_runs(two_runs(("0001", old), ("0002", saved(experiment()))))
    assert "saved without its configuration" in text


def test_rows_that_are_not_ours_or_broken_are_left_out_and_told() -> None:
    later = saved(experiment())
    stranger = {"fullname": "test_x", "extra_info": {}, "stats": {}}
    broken = {"fullname": "broken", "extra_info": {"metric": "energy", "nodeid": "b", "result": {"per_round": [3]}}}
    later["benchmarks"] += [stranger, broken]
    found = two_runs(("0001", saved(experiment())), ("0002", later), [later])
    assert len(found.experiments) == 1
    assert [text.partition(": ")[0] for text in found.unread] == ["0002"]
    assert "Not read" in render_two_runs(found)
    assert "No experiment was measured in both runs." in render_two_runs(two_runs(("a", saved()), ("b", later)))


def test_hostile_text_stays_text() -> None:
    hostile = experiment(
        ATTACK, nodeid=ATTACK, result=result(warnings=[ATTACK]), config={ATTACK: ATTACK}, environment={ATTACK: ATTACK}
    )
    other = replace(hostile, config={ATTACK: 1}, environment={ATTACK: 2})
    sides = [
        saved(one, experiment(f"{ATTACK}2"), machine_info={ATTACK: number}, commit_info={ATTACK: ATTACK})
        for number, one in enumerate((hostile, other))
    ]
    page = Page(render_two_runs(two_runs((ATTACK, sides[0]), (f"{ATTACK}3", sides[1]))))
    assert page.all("script") == [{}]
    assert not page.all("img")
    assert html.unescape("alert(1)") in page.text
