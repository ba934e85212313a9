"""What a report is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_llem.measurement.result import Round
from pytest_llem.report import tables
from pytest_llem.report.figures import history_plot
from pytest_llem.report.flat import flat
from pytest_llem.report.histories import Band
from pytest_llem.verdict.decision import Status
from tests.unit.report.examples import experiment, judged, on_both_engines, report, result, row, saved_runs, sweep

LEVELS = [99.0, 100.0, 101.0, 100.5, 99.5, 100.0]


def test_verdicts_are_counted_and_ordered_worst_first() -> None:
    good, bad, new, worse = (experiment(name) for name in ("good", "bad", "new", "worse"))
    history = saved_runs(good, LEVELS) | saved_runs(bad, LEVELS) | saved_runs(worse, LEVELS)
    verdicts = [
        *judged(good, history, 100.0),
        *judged(new, history, 100.0),
        *judged(bad, history, 120.0),
        *judged(worse, history, 130.0),
    ]
    made = report([good, new, bad, worse], verdicts, history)
    assert [one.candidate.name for one in made.judged] == ["worse", "bad", "new", "good"]
    assert {status: count for status, count in made.counts.items() if count} == {
        Status.REGRESSED: 2,
        Status.NO_BASELINE: 1,
        Status.OK: 1,
    }
    assert [one.candidate.name for one in made.experiments[2].judged] == ["bad"]


def test_history_ends_with_this_session_and_has_the_band_of_the_verdict() -> None:
    one = experiment()
    history = saved_runs(one, LEVELS)
    (shown,) = report([one], judged(one, history, 103.0), history).experiments[0].histories
    assert [point.current for point in shown.points] == [False] * 6 + [True]
    assert shown.points[-1].mean == pytest.approx(103.0)
    assert shown.points[1].commit == f"{1:040x}"
    mean = (99 * 100 * 101 * 100.5 * 99.5 * 100) ** (1 / 6)
    assert shown.band is not None
    expected = Band(mean, 1.02 * mean, 1.05 * mean)
    assert (shown.band.mean, shown.band.tolerated, shown.band.limit) == pytest.approx(
        (expected.mean, expected.tolerated, expected.limit)
    )


def test_what_is_not_gated_has_a_history_without_a_band() -> None:
    one = experiment()
    (shown,) = report([one], [], saved_runs(one, [1.9, 2.0], "latency")).experiments[0].histories
    assert (shown.metric, shown.unit, shown.band) == ("latency", "s", None)
    assert shown.points[-1].mean == pytest.approx(2.0)
    assert all(point.comparable for point in shown.points)


@pytest.mark.parametrize("gated", [True, False])
def test_runs_of_another_environment_are_shown_apart_and_make_no_change_point(gated: bool) -> None:
    one = experiment()
    history = saved_runs(one, [50.0, 50.2, 49.8, 50.1, *LEVELS])
    rows = history[one.nodeid, "energy"]
    rows[:4] = [replace(other, environment_hash="other", environment={"meter": "rapl"}) for other in rows[:4]]
    verdicts = judged(one, history, 100.0) if gated else []
    (shown,) = report([one], verdicts, history).experiments[0].histories
    assert [point.comparable for point in shown.points] == [False] * 4 + [True] * 7
    assert shown.shifts == ()


@pytest.mark.parametrize("gated", [True, False])
def test_runs_of_another_board_of_the_model_are_called_so_and_make_no_change_point(gated: bool) -> None:
    boards = [{"uuid": uuid, "name": "A", "driver_version": "580.1"} for uuid in ("GPU-1", "GPU-2")]
    one = experiment(environment={"boards": boards[:1]})
    history = saved_runs(one, [50.0, 50.2, 49.8, 50.1, *LEVELS])
    rows = history[one.nodeid, "energy"]
    elsewhere = {"boards": boards[1:]}
    rows[:3] = [replace(other, environment_hash="other", environment=elsewhere) for other in rows[:3]]
    # The same board with another driver is none.
    driver = {"boards": [boards[0] | {"driver_version": "580.2"}]}
    rows[3] = replace(rows[3], environment_hash="driver", environment=driver)
    made = report([one], judged(one, history, 100.0) if gated else [], history).experiments[0]
    (shown,) = made.histories
    assert [point.another_board for point in shown.points] == [True] * 3 + [False] * 8
    assert [point.comparable for point in shown.points] == [False] * 4 + [True] * 7
    assert shown.shifts == ()
    assert [remark for *_, remark in tables.runs(shown)][2:5] == [
        "another board",
        "not comparable: another workload, environment or way to bound windows",
        "",
    ]
    assert [layer.name for layer in history_plot(shown).layers if layer.style in ("apart", "board")] == [
        "not comparable",
        "another board",
    ]


def test_a_change_point_names_the_run_where_it_began() -> None:
    one = experiment(result=result(120.0))
    history = saved_runs(one, [*LEVELS, 120.0, 121.0, 119.0, 120.5])
    (shown,) = report([one], [], history).experiments[0].histories
    (shift,) = shown.shifts
    assert shown.points[shift.at].commit == f"{6:040x}"
    assert shift.point.change == pytest.approx(0.2, abs=0.01)


def test_this_session_does_not_hide_a_change_point_of_the_history() -> None:
    one = experiment(result=result(200.0))
    history = saved_runs(one, [100.0, 100.4, 99.6, 100.0, 103.0, 103.4, 102.6, 103.0])
    # Three runs of this session are no change point either: they are the verdict's.
    rows = replace(row(one, level=200.0), runs=row(one, level=200.0).runs * 3)
    verdict = judged(one, history, 200.0)[0]
    verdict = replace(verdict, candidate=replace(verdict.candidate, row=rows))
    (shown,) = report([one], [verdict], history).experiments[0].histories
    assert [point.current for point in shown.points] == [False] * 8 + [True] * 3
    assert [shown.points[shift.at].commit for shift in shown.shifts] == [f"{4:040x}"]


def test_a_change_point_is_found_behind_runs_that_are_not_shown_or_not_comparable() -> None:
    one = experiment(result=result(120.0))
    history = saved_runs(
        one, [100.0 + number % 3 for number in range(50)] + [120.0 + number % 3 for number in range(20)]
    )
    rows = history[one.nodeid, "energy"]
    rows[5:8] = [replace(other, environment={}) for other in rows[5:8]]
    (shown,) = report([one], [], history).experiments[0].histories
    assert shown.omitted == 11
    assert [shown.points[shift.at].commit for shift in shown.shifts] == [f"{50:040x}"]


def test_rows_that_cannot_be_drawn_are_left_out() -> None:
    one = experiment()
    broken = [row(one, runs=((),)), row(one, runs=((float("nan"), 1.0),)), row(one, runs=((0.0,),)), row(one)]
    (shown,) = report([one], [], {(one.nodeid, "energy"): broken}).experiments[0].histories
    assert len(shown.points) == 2


def test_many_experiments_are_told_briefly() -> None:
    many = [experiment(f"e{number}") for number in range(51)]
    history = saved_runs(many[0], [100.0 + number % 3 for number in range(80)])
    made = report(many, [], history)
    shown = made.experiments[0].histories[0]
    assert made.downsampled
    assert len(shown.points) + shown.omitted == 81
    assert len(shown.points) < 20
    assert shown.points[-1].current
    assert len(report(many[:1], [], history).experiments[0].histories[0].points) == 60


def test_power_is_known_where_start_and_joules_are() -> None:
    windows = result(100.0, 2.0)
    unknown = replace(windows.per_round[3], joules=None)
    empty = replace(windows.per_round[3], seconds=0.0)
    untimed = replace(windows.per_round[2], start_s=None)
    prefill = Round(seconds=1.0, joules=70.0, uncertainty_j=None, output_tokens=1, start_s=2.5, valid=False)
    changed = replace(windows, per_round=[*windows.per_round[:2], untimed, unknown, empty], prefill_rounds=[prefill])
    power = report([experiment(result=changed)]).experiments[0].power
    assert [(window.start_s, window.prefill, window.valid) for window in power.windows] == [
        (0.0, False, True),
        (2.5, True, False),
        (5.0, False, True),
    ]
    assert power.windows[1].power_w == 70.0
    assert power.windows[2].power_w == pytest.approx(200 / 4)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pytorch": {"trust_remote_code": True}}, True),
        ({"passthrough": {"from_pretrained": {"trust_remote_code": True}}}, True),
        ({"pytorch": {"trust_remote_code": False}}, False),
        (None, False),
    ],
)
def test_remote_code_is_found_wherever_it_was_allowed(config: dict[str, object] | None, expected: bool) -> None:
    assert report([experiment(config=config)]).experiments[0].remote_code is expected


def test_nested_values_become_dotted_names() -> None:
    nested = {"a": {"b": True, "c": None}, "d": [1, 2.5], "e": [{"f": "x"}], "g": [], "h": {}}
    assert flat(nested) == (("a.b", "true"), ("d", "1, 2.5"), ("e.0.f", "x"))


def test_a_sweep_is_compared_with_its_first_point() -> None:
    (found,) = report([*sweep(), experiment("alone")]).sweeps
    assert [variant.label for variant in found.variants] == ["batch_size: 1", "batch_size: 4", "batch_size: 16"]
    second = found.variants[1]
    assert second.energy_ratio is not None
    assert second.energy_per_token_ratio is not None
    assert second.latency_ratio is not None
    assert second.energy_ratio.value == pytest.approx(2.0)
    assert second.energy_per_token_ratio.value == pytest.approx(0.5)
    assert second.latency_ratio.value == pytest.approx(2**0.5)
    assert second.energy is not None
    assert found.per_token
    assert second.energy.value == pytest.approx(200 / 128)


def test_joules_of_another_meter_have_no_ratio() -> None:
    points = sweep()
    points[1] = replace(points[1], result=replace(points[1].result, meter="estimate", estimated=True))
    variant = report(points).sweeps[0].variants[1]
    assert variant.energy_ratio is None
    assert variant.energy_per_token_ratio is None
    assert variant.latency_ratio is not None
    assert variant.reason == "joules of another meter: estimate, the first is of nvml"


def test_a_sweep_is_held_against_its_best_point_per_output_token() -> None:
    # Times of a call 2, 2.8 and 4 s; the last call makes 16 times the tokens of the first.
    (found,) = report(sweep()).sweeps
    assert found.best_energy is found.best_time is found.variants[2]
    ratios = [(energy and energy.value, time and time.value) for _, energy, time in found.to_best()]
    assert ratios == [(pytest.approx(4.0), pytest.approx(8.0)), (pytest.approx(2.0), pytest.approx(8**0.5)), (1.0, 1.0)]


def test_points_without_tokens_are_held_against_the_best_call() -> None:
    points = [replace(one, result=replace(one.result, output_tokens=None)) for one in sweep()]
    (found,) = report(points).sweeps
    assert found.best_energy is found.best_time is found.variants[0]
    assert [time and time.value for _, _, time in found.to_best()] == [1.0, pytest.approx(2**0.5), pytest.approx(2.0)]


def test_what_is_invalid_or_not_comparable_is_not_the_best() -> None:
    points = sweep()
    points[2] = replace(points[2], result=replace(points[2].result, valid=False))
    (found,) = report(points).sweeps
    assert found.best_energy is found.best_time is found.variants[1]
    points[1] = replace(points[1], result=replace(points[1].result, meter="estimate", estimated=True))
    (found,) = report(points).sweeps
    assert (found.best_energy, found.best_time) == (found.variants[0], found.variants[1])
    assert [energy is None for _, energy, _ in found.to_best()] == [False, True, False]


def test_joined_and_settled_windows_are_not_compared_in_a_sweep() -> None:
    points = sweep()
    points[2] = replace(points[2], result=replace(points[2].result, boundaries="joined"))
    (found,) = report(points).sweeps
    last = found.variants[2]
    assert last.reason == "its windows were joined, those of the first settled"
    assert (last.energy_ratio, last.energy_per_token_ratio, last.latency_ratio) == (None, None, None)
    assert found.best_energy is found.best_time is found.variants[1]
    assert found.to_best()[2][1:] == (None, None)


def test_across_engines_no_call_is_compared_with_another_one() -> None:
    (found,) = report(on_both_engines()).sweeps
    first, second = found.variants
    assert found.across_engines
    assert (found.energy_name, found.latency_name) == ("energy per output token", "latency over output tokens")
    # A call of 100 J and 2 s for 32 tokens, and a pass of 150 J and 4 s for 128.
    assert [one.latency and one.latency.value for one in (first, second)] == [2 / 32, 4 / 128]
    assert second.energy_ratio is None
    assert second.energy_per_token_ratio is not None
    assert second.energy_per_token_ratio.value == pytest.approx(1.5 / 4)
    assert second.latency_ratio is not None
    assert second.latency_ratio.value == pytest.approx(2 / 4)


def test_across_engines_nothing_is_compared_where_tokens_are_not_known() -> None:
    points = [replace(one, result=replace(one.result, output_tokens=None)) for one in on_both_engines()]
    (found,) = report(points).sweeps
    assert [one.energy for one in found.variants] == [one.latency for one in found.variants] == [None, None]
    assert found.best_energy is found.best_time is None
    assert str(found.variants[1].reason).endswith("per output token, which is not known")


@pytest.mark.parametrize("gated", [True, False])
def test_runs_of_joined_windows_make_no_history_of_settled_ones(gated: bool) -> None:
    one = experiment()
    history = saved_runs(one, [50.0, 50.2, 49.8, 50.1, *LEVELS])
    rows = history[one.nodeid, "energy"]
    rows[:4] = [replace(other, boundaries="joined") for other in rows[:4]]
    (shown,) = report([one], judged(one, history, 100.0) if gated else [], history).experiments[0].histories
    assert [point.comparable for point in shown.points] == [False] * 4 + [True] * 7
    assert shown.shifts == ()


def test_one_point_of_a_sweep_is_no_sweep() -> None:
    assert report(sweep()[:1]).sweeps == ()


@pytest.mark.parametrize(
    ("swept", "boards", "compared"),
    [
        ({"parallel.tensor": 2}, {"GPU-a": 50.0, "GPU-b": 50.0}, True),
        ({"parallel": {"tensor": 2}}, {"GPU-a": 50.0, "GPU-b": 50.0}, True),
        ({"parallel.tensor": 2}, {"GPU-b": 50.0, "GPU-c": 50.0}, False),
        ({"pytorch.batch_size": 2}, {"GPU-a": 50.0, "GPU-b": 50.0}, False),
    ],
)
def test_a_division_is_compared_with_the_same_boards_and_more(
    swept: dict[str, Any], boards: dict[str, float], compared: bool
) -> None:
    names = ("llama[1]", "llama[2]")
    first = experiment(names[0], swept={next(iter(swept)): 1}, result=result(boards={"GPU-a": 100.0}))
    (found,) = report([first, experiment(names[1], swept=swept, result=result(boards=boards))]).sweeps
    assert (found.variants[1].energy_ratio is not None) is compared
