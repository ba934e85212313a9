"""What pairs show, as plain values."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.report.figures import pairs_plot
from pytest_llem.report.pairs import ENERGY, LATENCY, POWER, Changed, compared_of, mean_ratio
from pytest_llem.report.phrases import detectable_line, pairs_line
from pytest_llem.verdict.limits import Limit
from tests.unit.report.examples import (
    ENVIRONMENT,
    OTHER_FIRST,
    PAIR_NOISE,
    experiment,
    in_pairs,
    judged_pairs,
    look,
    other_run,
    result,
)

if TYPE_CHECKING:
    from pytest_llem.records.record import Record
    from pytest_llem.report.pairs import Compared


def compared(record: Record, **arguments: Any) -> Compared:
    found = compared_of(record, **arguments)
    assert found is not None
    return found


def quantity(record: Record, name: str) -> Changed:
    found = compared(record).quantity(name)
    assert found is not None
    return found


def one_pair(this: dict[str, Any], other: dict[str, Any], **changes: Any) -> Record:
    one = experiment(against="main", result=result(**this))
    return replace(one, other_runs=(other_run(one, result(**other), **changes),))


def test_a_mean_ratio_is_geometric_with_the_t_interval_of_its_logarithms() -> None:
    found = mean_ratio([1.0, 1.21])
    assert found.value == pytest.approx(1.1)
    # t(0.975, 1) = 12.706; the standard error of two logarithms is half of their distance.
    factor = math.exp(12.7062 * math.log(1.21) / 2)
    assert found.interval == pytest.approx((1.1 / factor, 1.1 * factor), rel=1e-4)
    assert mean_ratio([1.2]).interval is None


def test_a_ratio_beyond_all_floats_is_one_still() -> None:
    found = mean_ratio([1e-200, 1e200])
    assert found.interval is not None
    assert 0 <= found.interval[0] < found.interval[1] < math.inf


def test_energy_is_time_and_power() -> None:
    record = in_pairs(change=0.1)
    energy, latency, power = (quantity(record, name) for name in (ENERGY, LATENCY, POWER))
    assert energy.ratio is not None
    assert latency.ratio is not None
    assert power.ratio is not None
    assert power.ratio.value == pytest.approx(energy.ratio.value / latency.ratio.value, rel=1e-12)
    assert energy.change == pytest.approx(0.1, abs=0.001)
    assert latency.change == pytest.approx(math.sqrt(1.1) - 1, abs=0.001)
    assert energy.this == pytest.approx(110.0, rel=0.001)
    assert energy.other == pytest.approx(100.0)
    assert energy.moved


def test_the_pair_is_the_sample() -> None:
    # The windows within a process scatter, the pairs do not: their interval has no width.
    record = in_pairs(change=0.1)
    same = replace(record, more_runs=(record.result,) * 3)
    assert quantity(same, ENERGY).interval == pytest.approx((0.1, 0.1))
    assert quantity(in_pairs(change=0.1, pairs=1), ENERGY).interval is None
    assert not quantity(in_pairs(change=0.1, pairs=1), ENERGY).moved
    assert not quantity(in_pairs(), ENERGY).moved


def test_what_one_side_did_not_measure_is_left_out() -> None:
    phases = {"prefill_energy_j": 20.0, "phases_by": "power samples"}
    names = [changed.name for changed in compared(one_pair(phases, {})).changed]
    assert names == [ENERGY, LATENCY, POWER, "output tokens of a call"]
    assert quantity(one_pair(phases, phases), "prefill energy of a call").change == 0


def test_a_mean_is_of_the_pairs_that_know_it() -> None:
    record = in_pairs(change=0.1)
    first = replace(record.other_runs[0], result=replace(record.other_runs[0].result, idle_power_w=70.0))
    record = replace(
        record,
        result=replace(record.result, idle_power_w=77.0),
        other_runs=(first, *record.other_runs[1:]),
    )
    idle = quantity(record, "idle power")
    assert (idle.this, idle.other, idle.pairs) == (77.0, 70.0, 1)
    assert idle.change == pytest.approx(0.1)


def test_nothing_has_no_ratio() -> None:
    tokens = quantity(one_pair({"output_tokens": 0.0}, {}), "output tokens of a call")
    assert (tokens.this, tokens.other, tokens.change) == (0.0, 32.0, None)


@pytest.mark.parametrize(
    ("difference", "kept"),
    [
        ({"boundaries": "joined"}, []),
        ({"meter": "zeus"}, [LATENCY]),
        ({"estimated": True}, [LATENCY]),
    ],
)
def test_what_was_measured_in_unlike_ways_is_not_compared(difference: dict[str, Any], kept: list[str]) -> None:
    record = one_pair({}, difference)
    assert [one.name for one in compared(record).changed if one.name in (ENERGY, LATENCY, POWER)] == kept
    (energy, _) = compared(record, judged=judged_pairs(record)).metrics
    assert energy.points[0].change is None


def test_phases_that_were_measured_in_unlike_ways_are_not_compared() -> None:
    this, other = ({"prefill_energy_j": 20.0, "phases_by": way} for way in ("power samples", "one-token calls"))
    assert compared(one_pair(this, other)).quantity("prefill energy of a call") is None
    assert ("phases by", "power samples", "one-token calls") in compared(one_pair(this, other)).differences


def test_the_interval_closes_in_look_by_look() -> None:
    record = in_pairs(change=0.1)
    energy, latency = compared(record, judged=judged_pairs(record), look=look).metrics
    assert (energy.name, energy.unit, latency.name, latency.unit) == ("energy", "J", "latency", "s")
    assert [number for number, _ in energy.looks] == [3, 4]
    assert energy.looks[-1][1] == energy.judged.verdict
    assert [point.other_first for point in energy.points] == list(OTHER_FIRST)
    changes = [point.change for point in energy.points]
    assert changes == pytest.approx([1.1 * (1 + noise) - 1 for noise in PAIR_NOISE])


def test_without_a_judge_the_last_look_is_shown() -> None:
    record = in_pairs()
    metrics = compared(record, judged=judged_pairs(record)).metrics
    assert [[number for number, _ in metric.looks] for metric in metrics] == [[4], [4]]
    young = in_pairs(pairs=2)
    assert [metric.looks for metric in compared(young, judged=judged_pairs(young)).metrics] == [(), ()]


def test_windows_that_took_no_turns_are_judged_as_such() -> None:
    record = in_pairs()
    apart = replace(record, other_runs=(replace(record.other_runs[0], by_turns=False), *record.other_runs[1:]))
    for shown, reason in ((record, "in blocks"), (apart, "one after the other")):
        (energy, _) = compared(shown, judged=judged_pairs(shown), look=look).metrics
        assert {verdict.reason for _, verdict in energy.looks} == {reason}


def test_other_gates_and_verdicts_on_saved_runs_have_no_plot_of_pairs() -> None:
    record = in_pairs()
    energy, _ = judged_pairs(record)
    saved = replace(energy, candidate=replace(energy.candidate, against=""))
    output = replace(energy, candidate=replace(energy.candidate, metric="output"))
    assert compared(record, judged=[saved, output], look=look).metrics == ()


def test_what_is_not_the_same_is_listed_with_all_its_values() -> None:
    record = in_pairs(pairs=3)
    environments = [{**ENVIRONMENT, "libraries": {"torch": version}} for version in ("2.12", "2.13", "2.12")]
    others = [replace(run, environment=each) for run, each in zip(record.other_runs, environments, strict=True)]
    others[0] = replace(others[0], workload_hash="other work")
    changed = replace(record, other_runs=tuple(others), environment={**ENVIRONMENT, "driver": "580"})
    assert compared(changed).differences == (
        ("workload hash", "work of llama", "other work; work of llama"),
        ("driver", "580", "-"),
        ("libraries.torch", "-", "2.12; 2.13"),
    )
    assert compared(record).differences == ()


def test_warnings_name_their_side_once() -> None:
    record = in_pairs(pairs=3)
    noisy = [replace(run, result=replace(run.result, warnings=["hot"])) for run in record.other_runs]
    further = tuple(replace(run, warnings=["cold", "shared"]) for run in record.more_runs)
    warned = replace(
        record,
        result=replace(record.result, warnings=["shared"]),
        more_runs=further,
        other_runs=tuple(noisy),
    )
    assert compared(warned).warnings == (("this side, further runs", "cold"), ("main", "hot"))


def test_a_run_without_its_partner_is_in_no_pair() -> None:
    record = in_pairs(pairs=3)
    cut = replace(record, other_runs=record.other_runs[:2])
    assert compared(cut).pairs == 2
    assert len(cut.pairs("energy")) == 2
    assert quantity(cut, ENERGY).pairs == 2
    assert compared_of(experiment()) is None


@pytest.mark.parametrize("disturbed", ["this", "other"])
def test_disturbed_pairs_are_counted_and_marked(disturbed: str) -> None:
    record = in_pairs(pairs=3)
    if disturbed == "this":
        record = replace(record, more_runs=(replace(record.more_runs[0], valid=False), record.more_runs[1]))
    else:
        bad = replace(record.other_runs[1], result=result(valid=False))
        record = replace(record, other_runs=(record.other_runs[0], bad, record.other_runs[2]))
    found = compared(record, judged=judged_pairs(record))
    assert found.disturbed == 1
    assert [point.valid for point in found.metrics[0].points] == [True, False, True]
    styles = {layer.style: len(layer.points) for layer in pairs_plot(found.metrics[0], "main").layers}
    assert (styles["invalid"], styles["saved"], styles["now"]) == (1, 1, 1)


def test_the_bands_of_the_limit_lie_on_both_sides() -> None:
    record = in_pairs()
    (energy,) = compared(record, judged=judged_pairs(record, "energy", limit="2%..300%"), look=look).metrics
    assert energy.judged.verdict.limit == Limit(0.02, 3.0)
    bands = [
        sorted({y for _, y in layer.points}) for layer in pairs_plot(energy, "main").layers if layer.kind == "area"
    ]
    # Nothing gets better by more than all of it.
    assert bands == [[0.02, 3.0], [-1.0, -0.02]]


def test_what_can_be_found_by_how_many_pairs() -> None:
    assert detectable_line({10: 0.012, 3: 0.0351, 1: 0.2}) == (
        "changes that would be found four times in five: 20.0% by 1 pair, 3.5% by 3 pairs, 1.2% by 10 pairs"
    )


@pytest.mark.parametrize(
    ("pair_s", "text"), [(240.0, ", about 4 min a pair"), (89.0, ", about 89 s a pair"), (None, "")]
)
def test_how_far_the_pairs_are(pair_s: float | None, text: str) -> None:
    assert pairs_line(3, 10, 2, 5, pair_s) == f"pair 3 of at most 10: 2 of 5 gates open{text}"
    assert pairs_line(3, 10, 1, 1, None) == "pair 3 of at most 10: 1 of 1 gate open"
