"""The verdicts of a session: each gated metric of each result against its history."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_llem.verdict import pools
from pytest_llem.verdict.decision import Status, Verdict, judge, pooled_spread
from pytest_llem.verdict.gates import OUTPUT
from pytest_llem.verdict.history import Baseline, SavedRow, baseline
from pytest_llem.verdict.output_history import judge_against_saved, saved_outputs
from pytest_llem.verdict.outputs import output_verdict, why_not_judged

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from pytest_llem.verdict.limits import Limit
    from pytest_llem.verdict.spread import Run, Spread


_RESTARTED = "the baseline's mean starts again with this run"


@dataclass(frozen=True)
class Candidate:
    """A gated metric of one result.

    Attributes:
        nodeid: the item.
        name: its last part, for people.
        metric: ``energy``, ``latency`` or ``output``.
        limit: its gate.
        row: what was measured; ``None`` when the metric was not, then ``missing`` says why. What was generated is in
            the row of the latency.
        missing: why there is no row.
        disturbed: why the row is not valid.
        remarks: what a reader of the verdict must know.
        against: what it was compared with in pairs; empty for saved runs.
    """

    nodeid: str
    name: str
    metric: str
    limit: Limit
    row: SavedRow | None
    missing: str | None = None
    disturbed: str | None = None
    remarks: tuple[str, ...] = ()
    against: str = ""


@dataclass(frozen=True)
class Judged:
    """A verdict and what it is about.

    Attributes:
        remarks: what a reader must know of it beside its reason.
    """

    candidate: Candidate
    verdict: Verdict
    baseline: Baseline
    remarks: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """The verdict's reason and the remarks."""
        return "; ".join((*self.remarks, self.verdict.reason))


@dataclass(frozen=True)
class ErrorRates:
    """How often a verdict may be wrong: see :func:`pytest_llem.verdict.decision.judge`."""

    alpha: float = 0.05
    beta: float = 0.025


def judge_candidates(
    candidates: Sequence[Candidate],
    history: Mapping[tuple[str, str], Sequence[SavedRow]],
    *,
    rates: ErrorRates,
    last: int | None,
) -> list[Judged]:
    """Judge a session's results. Of one that is accepted, what would be REGRESSED is OK, and says that the baseline
    starts again.

    Args:
        history: saved rows by experiment and metric, oldest first.
        last: how many of the newest comparable runs an experiment is judged against; ``None`` for all.
    """
    baselines = [_baseline(gated, history, last) for gated in candidates]
    spreads = {
        metric: _pooled(base for gated, base in zip(candidates, baselines, strict=True) if gated.metric == metric)
        for metric in {gated.metric for gated in candidates} - {OUTPUT}
    }
    judged = []
    for candidate, base in zip(candidates, baselines, strict=True):
        is_output = candidate.metric == OUTPUT
        verdict = _judge_output(candidate, base) if is_output else _judge(candidate, base, rates, spreads)
        remarks = list(candidate.remarks)
        if verdict.status is not Status.OK and _is_accepted(candidate):
            verdict = replace(verdict, status=Status.OK, needs_more_runs=False)
            restarted = "the tokens of this run are the baseline" if is_output else _RESTARTED
            remarks.append(f"accepted: {restarted}")
        if candidate.row is not None and not is_output and _generated_something_else(candidate.row, base.rows):
            # As many, but not the same: the work may be another.
            remarks.append("it generated other tokens than the saved runs")
        remarks += pools.remarks(base.rows, base.pool, candidate.limit.tolerance)
        judged.append(Judged(candidate, verdict, base, tuple(remarks)))
    return judged


def follow_moves(
    rows: Iterable[SavedRow], history: dict[tuple[str, str], list[SavedRow]], here: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """Find the saved rows of experiments that were saved under another node id, because their file was moved or pytest
    started in another folder: they have the same name and the same workload, and end before any of its own.

    Args:
        rows: what was measured.
        history: saved rows by experiment and metric; those that are found are put before an experiment's own.
        here: node ids of this session, none of which has moved.

    Returns:
        By node id what a reader of its verdict must know: where its rows were found, or which may be meant.
    """
    saved_as: dict[tuple[str, str, str], set[str]] = {}
    for (nodeid, metric), saved in history.items():
        for workload in {row.workload_hash for row in saved} if nodeid not in here else ():
            saved_as.setdefault((_name(nodeid), metric, workload), set()).add(nodeid)
    remarks: dict[str, tuple[str, ...]] = {}
    for row in rows:
        own = history.get((row.fullname, row.metric), [])
        # Those of one experiment lie one after the other in time, and before its own.
        parts = [
            history[nodeid, row.metric]
            for nodeid in saved_as.get((_name(row.fullname), row.metric, row.workload_hash), ())
            if nodeid != row.fullname
        ]
        parts.sort(key=lambda part: (part[0].when or "", part[0].fullname))
        names = [part[0].fullname for part in parts]
        if all((a[-1].when or "") < (b[0].when or "") for a, b in pairwise([*parts, own] if own else parts)):
            history[row.fullname, row.metric] = [saved for part in parts for saved in part] + own
            remarks |= {row.fullname: (f"saved as {' and as '.join(names)}",)} if names else {}
        elif not own:
            places = " and as ".join(names)
            remarks[row.fullname] = (f"the same workload was saved as {places}: which of them is meant is unknown",)
    return remarks


def _name(nodeid: str) -> str:
    return nodeid.rpartition("::")[2]


def _generated_something_else(row: SavedRow, saved: Sequence[SavedRow]) -> bool:
    return bool(
        saved
        and row.output_tokens_hash
        and saved[-1].output_tokens_hash
        and row.output_tokens_hash != saved[-1].output_tokens_hash
    )


def _pooled(baselines: Iterable[Baseline]) -> Spread | None:
    """The spread between runs that the suite has in common. Runs before an accepted change still count."""
    histories = []
    for base in baselines:
        for rows in (base.rows, *base.before):
            runs = [run for row in rows for run in row.runs]
            if len(runs) > 1:
                histories.append(runs)
    return pooled_spread(histories) if histories else None


def _baseline(gated: Candidate, history: Mapping[tuple[str, str], Sequence[SavedRow]], last: int | None) -> Baseline:
    if gated.row is None:
        return Baseline(())
    saved = history.get((gated.nodeid, gated.row.metric), ())
    return saved_outputs(gated.row, saved) if gated.metric == OUTPUT else baseline(gated.row, saved, last)


def _is_accepted(candidate: Candidate) -> bool:
    row = candidate.row
    if row is None or not row.accepted or candidate.disturbed:
        return False
    # What no run can be held against is no baseline.
    return candidate.metric != OUTPUT or why_not_judged(row, "now") is None


def _judge_output(candidate: Candidate, base: Baseline) -> Verdict:
    reason = candidate.missing or candidate.disturbed
    if candidate.row is None or reason is not None:
        return output_verdict(Status.INCONCLUSIVE, reason or "it was not measured", runs=int(candidate.row is not None))
    return judge_against_saved(candidate.row, base)


def _judge(candidate: Candidate, base: Baseline, rates: ErrorRates, spreads: Mapping[str, Spread | None]) -> Verdict:
    runs = candidate.row.runs if candidate.row else ()
    saved = [run for row in base.rows for run in row.runs]
    verdict = judge(
        saved,
        runs,
        candidate.limit,
        alpha=rates.alpha,
        beta=rates.beta,
        pooled_spread=spreads[candidate.metric],
        elsewhere=_elsewhere(base),
    )
    reason = candidate.missing or candidate.disturbed or base.reason
    if reason is None:
        return verdict
    return replace(verdict, status=Status.INCONCLUSIVE, reason=reason, needs_more_runs=False)


def _elsewhere(base: Baseline) -> list[list[Run]]:
    return [[run for row in rows for run in row.runs] for rows in base.before]


def detectable(
    expected: Iterable[tuple[str, str, Limit]],
    history: Mapping[tuple[str, str], Sequence[SavedRow]],
    *,
    rates: ErrorRates,
    last: int | None,
    may_recur: Callable[[SavedRow], bool],
) -> list[tuple[str, str, Verdict]]:
    """What could be caught, before anything is measured: the newest saved run that may recur takes the place of the
    coming one.

    Args:
        expected: node id, metric and limit of what is going to be judged.
        may_recur: whether a saved row may be from this session's environment. What may not gives no mean, but others of
            its model's boards still a spread.
    """
    known = []
    for nodeid, metric, limit in expected:
        rows = history.get((nodeid, metric), ())
        if (newest := next((row for row in reversed(rows) if may_recur(row)), None)) is not None:
            known.append((nodeid, metric, limit, baseline(newest, rows, last)))
    spreads = {metric: _pooled(b for _, m, _, b in known if m == metric) for metric in {m for _, m, _, _ in known}}
    return [
        (
            nodeid,
            metric,
            judge(
                [run for row in base.rows for run in row.runs],
                [],
                limit,
                alpha=rates.alpha,
                beta=rates.beta,
                pooled_spread=spreads[metric],
                elsewhere=_elsewhere(base),
            ),
        )
        for nodeid, metric, limit, base in known
    ]
