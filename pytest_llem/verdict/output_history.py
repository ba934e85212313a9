"""What a run generated against the saved runs: which of them it is held against, and what a difference says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.history import Baseline, SavedRow, difference
from pytest_llem.verdict.outputs import judge_outputs, output_verdict, why_not_judged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.verdict.decision import Verdict


def saved_outputs(row: SavedRow, saved: Sequence[SavedRow]) -> Baseline:
    """The newest saved row of the same work that was not REGRESSED for its output: one of the same environment, else
    one of another.

    How the board ran, how windows were bounded and how many tokens there are do not keep rows apart here: the first
    two change no token, and another number of tokens is a difference.

    Args:
        saved: all saved rows of the experiment's latency, oldest first.

    Returns:
        That row alone, or why there is none.
    """
    usable = [known for known in saved if known.valid and why_not_judged(known, "then") is None]
    if not usable:
        return Baseline((), reason="no saved run of it has tokens to compare with" if saved else None)
    same = [known for known in usable if known.workload_hash == row.workload_hash]
    if not same:
        return Baseline((), reason=difference(row, usable[-1]))
    here = [known for known in same if known.environment_hash == row.environment_hash]
    right = [known for known in here or same if known.accepted or not known.output_regressed]
    if not right:
        return Baseline((), reason="every saved run of it had other tokens than before, and none was accepted")
    return Baseline(right[-1:])


def judge_against_saved(row: SavedRow, base: Baseline) -> Verdict:
    """Judge what a run generated against its :func:`saved_outputs`. In another environment (library, driver, board) a
    difference says nothing of the code."""
    saved = base.rows[-1] if base.rows else None
    if saved is None and base.reason is not None and why_not_judged(row, "now") is None:
        return output_verdict(Status.INCONCLUSIVE, base.reason)
    elsewhere = None
    if saved is not None and saved.environment_hash != row.environment_hash:
        elsewhere = difference(row, saved)
    return judge_outputs(row, saved, elsewhere=elsewhere)
