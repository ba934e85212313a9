"""From a workload to its result, in simulated time: seconds are then known exactly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_llem.engines.base import CallTiming, WatchedSequence, Workload
from pytest_llem.engines.prompts import Prompts
from pytest_llem.errors import MeasurementError
from pytest_llem.measurement.account import Account
from pytest_llem.measurement.protocol import measure_workload, run_once
from pytest_llem.measurement.result import ExperimentResult
from pytest_llem.measurement.windows import Protocol
from pytest_llem.meters import open_meter
from pytest_llem.verdict.outputs import GeneratedSequence
from tests.simulators import SimulatedClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_llem.meters import Meter


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def meter(clock: SimulatedClock) -> Meter:
    return open_meter("none", clock=clock)


PROMPTS = Prompts(token_ids=((1, 2, 3), (4, 5, 6, 7)), truncated=0)


@dataclass
class FakeWorkload(Workload):
    """Two calls a pass that take a second each, with counted tokens."""

    clock: SimulatedClock
    tokens: Callable[[int], int] = lambda _: 5
    expected_output_tokens: int | None = None
    calls: int = 2
    prompts: Prompts = PROMPTS
    seconds: float = 1.0
    runs: int = 0

    def run(self, index: int) -> int:
        self.runs += 1
        self.clock.sleep(self.seconds)
        return self.tokens(self.runs - 1)

    def output_tokens(self, index: int, output: int) -> list[list[int]]:
        return [list(range(output))]

    def time_tokens(self, index: int) -> CallTiming:
        return CallTiming(0.25 + 0.5 * index, 0.125)

    def prefill(self) -> FakeWorkload:
        return FakeWorkload(self.clock, tokens=lambda _: 2, seconds=0.25)

    def synchronize(self) -> None:
        pass

    def reset_peak_memory(self) -> None:
        pass

    def peak_memory_bytes(self) -> tuple[int | None, str | None]:
        return None, "no sensor"


ONE_PASS = Protocol(rounds=3, warmup_rounds=1, min_window_s=0)


def test_a_result_describes_calls(clock: SimulatedClock, meter: Meter) -> None:
    result = measure_workload(FakeWorkload(clock), ONE_PASS, meter)
    assert result.latency_s == pytest.approx(1.0)
    assert result.input_tokens == 3.5
    assert result.output_tokens == 5
    assert result.output_tokens_per_s == pytest.approx(5.0)
    assert result.time_to_first_token_s == 0.5
    assert result.time_per_output_token_s == 0.125
    assert (result.rounds, result.calls_per_round) == (3, 2)
    assert [one.output_tokens for one in result.per_round] == [10, 10, 10]
    assert [one.calls_s for one in result.per_round] == [[0.0, 1.0]] * 3
    assert result.peak_memory_bytes is None
    assert "peak_memory_bytes: no sensor" in result.warnings
    assert result.energy_j is None
    assert result.valid


def test_tokens_of_warm_up_do_not_count(clock: SimulatedClock, meter: Meter) -> None:
    result = measure_workload(FakeWorkload(clock, tokens=lambda run: 100 if run < 3 else 5), ONE_PASS, meter)
    assert result.output_tokens == 5


def test_rounds_with_other_tokens_are_named(clock: SimulatedClock, meter: Meter) -> None:
    result = measure_workload(FakeWorkload(clock, tokens=lambda run: 5 + (run - 1) // 2), ONE_PASS, meter)
    assert "output tokens differ between rounds: 13 to 17 a window" in result.warnings


def test_passes_that_generate_other_tokens_are_named(clock: SimulatedClock, meter: Meter) -> None:
    same = measure_workload(FakeWorkload(clock), ONE_PASS, meter)
    other = measure_workload(FakeWorkload(clock, tokens=lambda _: 6), ONE_PASS, meter)
    assert same.output_tokens_hash != other.output_tokens_hash
    assert same.warnings == [warning for warning in same.warnings if "output_tokens_hash" not in warning]
    changing = measure_workload(FakeWorkload(clock, tokens=lambda run: 5 + (run - 1) // 2), ONE_PASS, meter)
    assert any("output_tokens_hash" in warning for warning in changing.warnings)


class Told(FakeWorkload):
    """Its tokens have logits, and are letters."""

    def watch_tokens(self, index: int) -> tuple[list[WatchedSequence] | None, str | None]:
        tokens = self.output_tokens(index, self.run(index))
        return [WatchedSequence(sequence, [1 / 3] * len(sequence)) for sequence in tokens], None

    def text(self, tokens: list[int]) -> str | None:
        return "".join(chr(ord("a") + token) for token in tokens)


def test_what_was_generated_is_kept_where_it_is_asked_for(clock: SimulatedClock, meter: Meter) -> None:
    plain, kept = Told(clock), Told(clock)
    without = measure_workload(plain, ONE_PASS, meter)
    account = Account(clock.now_s)
    result = measure_workload(kept, ONE_PASS, meter, keeps_generated=True, account=account)
    assert result.generated == [GeneratedSequence(prompt, [0, 1, 2, 3, 4], "abcde", [0.3333] * 5) for prompt in (1, 2)]
    assert result.output_repeats is True
    assert ExperimentResult.from_dict(json.loads(json.dumps(result.as_dict()))) == result
    assert without.generated == []
    assert without.output_tokens_hash == result.output_tokens_hash
    # One more pass, in an entry of its own, and none of it in what was measured.
    assert kept.runs == plain.runs + 2
    assert account.spent_s()["checks"] == pytest.approx(2.0)
    assert result.latency_s == without.latency_s


def test_an_engine_that_does_not_tell_leaves_logits_out_with_the_reason(clock: SimulatedClock, meter: Meter) -> None:
    result = measure_workload(FakeWorkload(clock), ONE_PASS, meter, keeps_generated=True)
    assert result.generated == [GeneratedSequence(prompt, [0, 1, 2, 3, 4]) for prompt in (1, 2)]
    assert result.missing["logit_gaps"] == "this engine does not tell"
    assert result.output_repeats is True


@pytest.mark.parametrize("odd_runs", [range(4, 6), range(10, 12)])  # the pass that watches; the last one
def test_passes_that_generate_other_tokens_are_data(clock: SimulatedClock, meter: Meter, odd_runs: range) -> None:
    workload = Told(clock, tokens=lambda run: 4 if run in odd_runs else 5)
    result = measure_workload(workload, ONE_PASS, meter, keeps_generated=True)
    assert workload.runs == 12
    assert result.output_repeats is False
    assert [len(one.tokens) for one in result.generated] == [5, 5]
    # Logits of other tokens are not those of these.
    watched = 4 not in odd_runs
    assert [one.logit_gaps is not None for one in result.generated] == [watched, watched]
    assert ("logit_gaps" in result.missing) is not watched


def test_several_sequences_of_a_prompt_have_its_number(clock: SimulatedClock, meter: Meter) -> None:
    class Twice(Told):
        def output_tokens(self, index: int, output: int) -> list[list[int]]:
            return [list(range(output))] * 2

    result = measure_workload(Twice(clock), ONE_PASS, meter, keeps_generated=True)
    assert [one.prompt for one in result.generated] == [1, 1, 2, 2]


def test_run_once_is_one_call(clock: SimulatedClock, meter: Meter) -> None:
    workload = FakeWorkload(clock)
    result = run_once(workload, meter)
    assert workload.runs == 1
    assert (result.output_tokens, result.rounds, result.latency_s) == (5, 0, None)


def test_prompts_that_were_cut_are_named(clock: SimulatedClock, meter: Meter) -> None:
    result = measure_workload(FakeWorkload(clock, prompts=Prompts(((1,),), truncated=3)), ONE_PASS, meter)
    assert any("3 prompts" in warning and "max_input_tokens" in warning for warning in result.warnings)


def test_what_is_to_be_said_of_the_prompts_is_in_the_result(clock: SimulatedClock, meter: Meter) -> None:
    prompts = Prompts(((1,),), truncated=0, notes=("a note",))
    assert "a note" in measure_workload(FakeWorkload(clock, prompts=prompts), ONE_PASS, meter).warnings


def test_a_wrong_token_count_is_no_result(clock: SimulatedClock, meter: Meter) -> None:
    assert measure_workload(FakeWorkload(clock, expected_output_tokens=10), ONE_PASS, meter).output_tokens == 5
    with pytest.raises(MeasurementError, match="wrong token count"):
        measure_workload(FakeWorkload(clock, expected_output_tokens=11), ONE_PASS, meter)


def test_phases_split_the_call(clock: SimulatedClock, meter: Meter) -> None:
    result = measure_workload(FakeWorkload(clock), ONE_PASS, meter, phases=True)
    assert result.latency_s == pytest.approx(1.0)
    assert result.prefill_latency_s == pytest.approx(0.25)
    assert result.decode_latency_s == pytest.approx(0.75)
    assert result.prefill_energy_j is None
    assert result.decode_energy_j is None
    assert measure_workload(FakeWorkload(clock), ONE_PASS, meter).prefill_latency_s is None
