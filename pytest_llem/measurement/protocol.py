"""From a workload to its result: measure, count, time the tokens, put the quantities together.

The same code measures an experiment of a YAML file, a user's own test and any callable.
"""

from __future__ import annotations

import hashlib
import statistics
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_llem.errors import MeasurementError
from pytest_llem.measurement.account import Account
from pytest_llem.measurement.generated import generated_sequences, tokens_of, watch_pass
from pytest_llem.measurement.phases import Phases, by_power_samples, cross_checked, split_phases
from pytest_llem.measurement.result import ExperimentResult
from pytest_llem.measurement.summary import summarise
from pytest_llem.measurement.windows import Protocol, measure_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_llem.engines.base import CallTiming, Workload
    from pytest_llem.measurement.generated import Watched
    from pytest_llem.measurement.warm_up import Progress
    from pytest_llem.measurement.windows import AwaitTurn
    from pytest_llem.meters.base import Disturbance, IdlePower, Meter


def measure_workload(
    workload: Workload,
    protocol: Protocol,
    meter: Meter,
    *,
    idle: IdlePower | None = None,
    disturbances: Sequence[Disturbance] = (),
    phases: Phases = False,
    progress: Progress | None = None,
    await_turn: AwaitTurn | None = None,
    account: Account | None = None,
    keeps_generated: bool = False,
) -> ExperimentResult:
    """Measure one experiment.

    Args:
        idle: power with the model loaded and nothing running, where it was measured.
        disturbances: what was at work on the device just before; it makes the result invalid.
        phases: measure prefill apart from decoding as well, see :data:`pytest_llem.measurement.phases.Phases`.
        progress, await_turn: called between the windows, see
            :func:`pytest_llem.measurement.windows.measure_windows`.
        account: where the seconds are accounted for.
        keeps_generated: keep what the first pass generated, with the logits of one more pass, which runs just before
            the rounds.

    Raises:
        MeasurementError: the calls did not generate what the configuration fixes.
    """
    account = account or Account(meter.clock.now_s)
    timed: list[list[CallTiming]] = []
    watched: Watched = None, None

    def before_rounds() -> None:
        nonlocal watched
        if keeps_generated:
            with account.of("checks"):
                watched = watch_pass(workload)
                workload.synchronize()
        workload.reset_peak_memory()

    measured = measure_windows(
        _calls(workload),
        protocol,
        meter,
        workload.synchronize,
        # In passes that run before the rounds anyway: watching tokens appear slows the calls.
        timed_pass=lambda: timed.append([workload.time_tokens(index) for index in range(workload.calls)]),
        time_again=phases in (True, "both"),
        before_rounds=before_rounds,
        progress=progress,
        await_turn=await_turn,
        account=account,
    )
    peak_memory_bytes, no_memory = workload.peak_memory_bytes()
    tokens = [_count_tokens(workload, window) for window in measured.outputs]
    _check_tokens(tokens, workload.expected_output_tokens, measured.passes)
    # The first such pass follows a cold one.
    warm = timed[1:] or timed
    timings = [timing for passed in warm for timing in passed]
    per_token_s = [t.time_per_output_token_s for t in timings if t.time_per_output_token_s is not None]
    notes = [disturbance.text for disturbance in disturbances]
    warnings = [*measured.warnings, *notes, *workload.prompts.notes]
    missing: dict[str, str] = {}
    if not per_token_s:
        missing |= {"time_per_output_token_s": "no sequence has a token after those of its first step"}
    if no_memory:
        missing["peak_memory_bytes"] = no_memory
    if workload.prompts.truncated:
        warnings.append(f"{workload.prompts.truncated} prompts were longer than max_input_tokens and lost their end")
    # The first and the last pass that was measured: every pass is to generate the same tokens.
    first, last = (tokens_of(workload, outputs) for outputs in (measured.outputs[0][0], measured.outputs[-1][-1]))
    if first != last:
        warnings.append("output_tokens_hash: the first and the last pass generated different tokens")
    _check_lengths(first, workload.prompts.output_tokens)
    seen = None if watched[0] is None else [sequence.tokens for sequence in watched[0]]
    if seen is not None and seen != first:
        missing["logit_gaps"] = "the pass that watched the logits generated other tokens than the first one"
    elif watched[1] is not None:
        missing["logit_gaps"] = watched[1]
    if len(set(tokens)) > 1:
        warnings.append(f"output tokens differ between rounds: {min(tokens)} to {max(tokens)} a window")
    result = replace(
        summarise(
            measured.windows,
            calls_per_round=measured.passes * workload.calls,
            meter=meter,
            output_tokens=tokens,
            starts_s=_since(measured.starts_s[0], measured.starts_s),
            calls_s=[[call.start_s for call in calls] for calls in measured.timed_calls],
            warnings=warnings,
            idle=idle if disturbances else meter.idle_power_seen() or idle,
            total=measured.total,
            sequential=measured.sequential,
        ),
        input_tokens=workload.prompts.input_tokens / workload.calls,
        prompts=len(workload.prompts) / workload.calls,
        time_to_first_token_s=statistics.median(t.time_to_first_token_s for t in timings),
        time_per_output_token_s=statistics.median(per_token_s) if per_token_s else None,
        peak_memory_bytes=peak_memory_bytes,
        ranks=list(workload.ranks()),
        output_tokens_hash=_hash_tokens(first),
        output_repeats=first == last and seen in (None, first),
        generated=generated_sequences(workload, first, watched) if keeps_generated else [],
    ).lacking(**missing)
    if disturbances:
        result = replace(result, valid=False)
    if not phases:
        return result
    first_tokens_s = {
        index: [passed[index].time_to_first_token_s for passed in warm] for index in range(workload.calls)
    }
    with account.of("phases"):
        by_samples = why_not = None
        if phases != "one-token":
            sequences = _sequences(workload, measured.outputs[0][0])
            if all(timing.at_once for timing in timings):
                by_samples, why_not = by_power_samples(result, measured, first_tokens_s, sequences)
            else:
                why_not = "sequences of a call may have their first tokens apart: some decode while others prefill"
            if by_samples is not None and phases is True:
                return by_samples
        # As many rounds: what precision needs was decided by whole calls.
        as_many = replace(protocol, rounds=result.rounds)
        by_calls = _by_one_token_calls(result, workload, as_many, meter, measured.starts_s[0], progress)
    if phases is True:
        note = f"phases: measured by calls of one token, not by the board's power samples: {why_not}"
        return replace(by_calls, warnings=[*by_calls.warnings, note])
    if phases == "one-token":
        return by_calls
    return cross_checked(by_samples, by_calls, why_not)


def _by_one_token_calls(
    result: ExperimentResult,
    workload: Workload,
    protocol: Protocol,
    meter: Meter,
    origin_s: float,
    progress: Progress | None,
) -> ExperimentResult:
    """Prefill from calls that stop after one token; decoding is the rest of the whole call.

    Args:
        origin_s: when the experiment's first window began.
    """
    shortened = workload.prefill()
    measured = measure_windows(_calls(shortened), protocol, meter, shortened.synchronize, progress=progress)
    prefill = summarise(
        measured.windows,
        calls_per_round=measured.passes * shortened.calls,
        meter=meter,
        starts_s=_since(origin_s, measured.starts_s),
        warnings=measured.warnings,
        total=measured.total,
        sequential=measured.sequential,
    )
    sequences = _count_tokens(shortened, measured.outputs[0]) / prefill.calls_per_round
    return split_phases(result, prefill, first_tokens=sequences, by="one-token calls")


def _sequences(workload: Workload, outputs: Sequence[Any]) -> float:
    """Sequences of a call that have a token, in the mean over a pass."""
    found = [workload.output_tokens(index, output) for index, output in enumerate(outputs)]
    return sum(bool(tokens) for sequences in found for tokens in sequences) / workload.calls


def _calls(workload: Workload) -> list[Callable[[], Any]]:
    return [partial(workload.run, index) for index in range(workload.calls)]


def _since(origin_s: float, times_s: Sequence[float]) -> list[float]:
    return [time_s - origin_s for time_s in times_s]


def _hash_tokens(sequences: Sequence[Sequence[int]]) -> str:
    digest = hashlib.sha256()
    for sequence in sequences:
        digest.update(",".join(map(str, sequence)).encode() + b";")
    return digest.hexdigest()


def _count_tokens(workload: Workload, passes: Sequence[Sequence[Any]]) -> int:
    outputs = ((index, output) for pass_outputs in passes for index, output in enumerate(pass_outputs))
    return sum(len(sequence) for index, output in outputs for sequence in workload.output_tokens(index, output))


def run_once(workload: Workload, meter: Meter) -> ExperimentResult:
    """One plain call without statistics, for ``--benchmark-disable``."""
    tokens = _count_tokens(workload, [[workload.run(0)]])
    return ExperimentResult(
        output_tokens=float(tokens),
        meter=meter.name,
        estimated=meter.estimated,
        rounds=0,
        calls_per_round=1,
        warnings=["nothing was measured: benchmarks are disabled"],
    )


def _check_lengths(sequences: Sequence[list[int]], output_tokens: Sequence[int] | None) -> None:
    """That each sequence of a pass has the number of tokens that its prompt asks for, whatever engine it is of."""
    if output_tokens is None:
        return
    a_prompt = max(len(sequences) // len(output_tokens), 1)
    found = [len(sequence) for sequence in sequences]
    wanted = [length for length in output_tokens for _ in range(a_prompt)]
    if found != wanted:
        at = next((at for at, (one, other) in enumerate(zip(found, wanted, strict=False)) if one != other), len(wanted))
        raise MeasurementError(f"sequence {at + 1} has not the number of tokens that is asked for it")


def _check_tokens(tokens: Sequence[int], expected_a_pass: int | None, passes: int) -> None:
    if expected_a_pass is None:
        return
    for found in tokens:
        if found != expected_a_pass * passes:
            raise MeasurementError(
                f"wrong token count: the configuration fixes {expected_a_pass * passes} output tokens in "
                f"{passes} passes, generate() returned {found}"
            )
