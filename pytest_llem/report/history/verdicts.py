"""Verdicts on saved results that were saved without one, as a gate would have judged them then."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_llem.verdict import pools
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.judging import Candidate, ErrorRates, judge_candidates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_llem.report.history.data import SavedResult, Store
    from pytest_llem.verdict.history import SavedRow
    from pytest_llem.verdict.limits import Limit

JUDGED = 50
"""Newest sessions whose results are judged: each takes milliseconds an experiment."""

_OWN, _OTHERS = 100, 50
"""Newest results that a verdict looks at, of the same environment, and of other boards of its model."""


def judge_afterwards(
    store: Store, gates: Mapping[str, Limit], rates: ErrorRates, last: int | None
) -> dict[tuple[SavedResult, str], str]:
    """The statuses by result and metric of those among the newest :data:`JUDGED` sessions that have none.

    Each is judged against what was saved before it. As with a gate, what is found to have regressed is no baseline.

    Args:
        gates: limits by metric; without one of it, a metric is not judged.
        rates, last: as of :func:`pytest_llem.verdict.judging.judge_candidates`.
    """
    by_session: dict[object, list[SavedResult]] = {session: [] for session in store.sessions}
    for result in store.results:
        by_session[result.session].append(result)
    first = len(store.sessions) - JUDGED
    history: dict[tuple[str, str], list[SavedRow]] = {}
    pooled: dict[tuple[str, str], bool] = {}
    judged = {}
    for number, results in enumerate(by_session.values() if gates else ()):
        rows = [(result, metric, row) for result in results for metric, row in result.rows.items()]
        gated = [
            (result, Candidate(row.fullname, row.fullname, metric, gates[metric], row))
            for result, metric, row in rows
            if number >= first and row.valid and metric in gates and metric not in result.verdicts
        ]
        candidates = [candidate for _, candidate in gated]
        before = {
            (row.fullname, row.metric): _before(row, history.get((row.fullname, row.metric), ()), pooled)
            for candidate in candidates
            if (row := candidate.row) is not None
        }
        for (result, _), found in zip(gated, judge_candidates(candidates, before, rates=rates, last=last), strict=True):
            judged[result, found.candidate.metric] = found.verdict.status.value
        for result, metric, row in rows:
            regressed = row.regressed or judged.get((result, metric)) == Status.REGRESSED.value
            history.setdefault((row.fullname, metric), []).append(replace(row, regressed=regressed))
    return judged


def _before(row: SavedRow, saved: Sequence[SavedRow], pooled: dict[tuple[str, str], bool]) -> list[SavedRow]:
    """Those of the saved rows, oldest first, that a verdict on ``row`` needs: to tell environments apart takes time.

    Args:
        pooled: whether two environments are of one pool, as far as it is known; what is found out is added.
    """
    own: list[int] = []
    others: list[int] = []
    for place in range(len(saved) - 1, -1, -1):
        known = saved[place]
        if known.environment_hash == row.environment_hash:
            own.append(place)
        elif len(others) < _OTHERS:
            key = (row.environment_hash, known.environment_hash)
            if key not in pooled:
                pooled[key] = pools.is_pooled(row, known)
            if pooled[key]:
                others.append(place)
        if len(own) == _OWN:
            break
    # The newest of another environment says why there is no baseline.
    places = sorted((*own, *others)) or range(len(saved))[-1:]
    return [saved[place] for place in places]
