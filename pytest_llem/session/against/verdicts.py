"""The verdicts of a comparison: each gated metric by the pairs that were measured of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_llem.records.identity import environment_hash
from pytest_llem.session.gating import row_of
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.history import Baseline, difference, values_per_call
from pytest_llem.verdict.judging import Candidate, Judged
from pytest_llem.verdict.pairs import judge_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.records.record import Record
    from pytest_llem.session.state import LlemSession
    from pytest_llem.settings import Settings
    from pytest_llem.verdict.decision import Verdict
    from pytest_llem.verdict.limits import Limit
    from pytest_llem.verdict.spread import Run


def judge(state: LlemSession, unmeasured: Sequence[Candidate], trouble: dict[str, str]) -> None:
    """Judge all that was measured; the records hold their verdicts afterwards.

    Args:
        unmeasured: what has a gate and no result.
        trouble: why there are no more pairs of some experiments, by node id.
    """
    state.judged = []
    for record in list(state.records.values()):
        found = [
            judge_record(record, metric, limit, state.settings, trouble.get(record.nodeid))
            for metric, limit in record.gates.items()
        ]
        state.judged += found
        statuses = {judged.candidate.metric: judged.verdict.status.value for judged in found}
        state.count(replace(record, verdicts={**record.verdicts, **statuses}))
    state.judged += [
        _judged(replace(candidate, against=state.settings.against or ""), [], state.settings, candidate.missing)
        for candidate in unmeasured
    ]


def judge_record(record: Record, metric: str, limit: Limit, settings: Settings, trouble: str | None = None) -> Judged:
    """The verdict on one gated metric of an experiment.

    Args:
        trouble: why there are no more pairs of it.
    """
    measured = metric in record.metrics
    candidate = Candidate(
        record.nodeid,
        record.name,
        metric,
        limit,
        row_of(record, metric) if measured else None,
        record.result.missing.get(f"{metric}_j") or f"{metric} was not measured",
        against=record.against,
    )
    if (different := differs(record)) is not None:
        return _judged(candidate, [], settings, different)
    if not measured:
        return _judged(candidate, [], settings, candidate.missing)
    pairs = pairs_of(record, metric)
    if len(pairs) < len(record.other_runs):
        return _judged(candidate, pairs, settings, f"{metric} was not measured on both sides of every pair")
    judged = _judged(candidate, pairs, settings, None, by_turns=all(run.by_turns for run in record.other_runs))
    if trouble is None or judged.verdict.status is not Status.INCONCLUSIVE:
        return judged
    return replace(judged, verdict=replace(judged.verdict, reason=f"{judged.verdict.reason}; {trouble}"))


def pairs_of(record: Record, metric: str) -> list[tuple[Run, Run]]:
    """The windows of both sides of each pair, as values per call; pairs that lack the metric are left out."""
    found = []
    for this, other in zip(record.runs(metric), record.other_runs, strict=True):
        values = values_per_call(
            {
                "calls_per_round": other.result.calls_per_round,
                "per_round": [vars(window) for window in other.result.per_round],
            },
            metric,
        )
        if this and values:
            found.append((this, values))
    return found


def differs(record: Record) -> str | None:
    """Why what both sides ran cannot be compared; ``None`` where it can."""
    row = row_of(record, "latency")
    for number, run in enumerate(record.other_runs):
        this = record.result if number == 0 else record.more_runs[number - 1]
        if run.workload_hash != record.workload_hash:
            return f"{record.against} runs another workload: the model, the prompts or an option differ there"
        other = replace(
            row,
            # Of other libraries, and under a power limit that this side's work does not reach: that is the question.
            environment_hash=row.environment_hash,
            output_tokens=run.result.output_tokens,
            boundaries=run.result.boundaries,
        )
        here = replace(row, output_tokens=this.output_tokens, boundaries=this.boundaries)
        if (different := difference(here, other)) is not None:
            return different
        boards = [[board.get("uuid") for board in env.get("boards", ())] for env in (record.environment, run.environment)]
        if boards[0] != boards[1] or record.environment.get("meter") != run.environment.get("meter"):
            return f"{record.against} was measured on other boards or by another meter"
    return None


def _judged(
    candidate: Candidate, pairs: Sequence[tuple[Run, Run]], settings: Settings, why_not: str | None, **how: bool
) -> Judged:
    alpha, beta = settings.error_rates
    verdict: Verdict = judge_pairs(
        pairs,
        candidate.limit,
        alpha=alpha,
        beta=beta,
        max_pairs=settings.pairs,
        interleaved=how.get("by_turns", True),
    )
    if why_not is not None:
        verdict = replace(verdict, status=Status.INCONCLUSIVE, reason=why_not, needs_more_runs=False)
    return Judged(candidate, verdict, Baseline(()))
