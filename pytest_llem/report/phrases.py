"""Short texts that several reports share: verdicts, changes, marks of a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.report.quantities import UNKNOWN, with_uncertainty
from pytest_llem.verdict.decision import Status

if TYPE_CHECKING:
    from pytest_llem.measurement.result import ExperimentResult
    from pytest_llem.report.data import ExperimentPage
    from pytest_llem.report.estimates import Estimate, Ratio
    from pytest_llem.report.histories import HistoryPoint, Shift
    from pytest_llem.verdict.decision import Verdict
    from pytest_llem.verdict.judging import Judged

SIGNS = {
    Status.REGRESSED: "\N{BLACK UP-POINTING TRIANGLE}",
    Status.INCONCLUSIVE: "?",
    Status.NO_BASELINE: "\N{EN DASH}",
    Status.IMPROVED: "\N{BLACK DOWN-POINTING TRIANGLE}",
    Status.OK: "\N{CHECK MARK}",
}
"""Beside the word, for who looks for one at a glance."""


def estimate(quantity: Estimate | None, unit: str) -> str:
    """A value with the half-width of its interval."""
    if quantity is None:
        return with_uncertainty(None, None, unit)
    return with_uncertainty(quantity.value, quantity.half_width, unit)


def change(verdict: Verdict) -> str:
    """``+6.1% [+4.2%, +8.0%]``; a dash where nothing is known."""
    if verdict.change is None:
        return "-"
    return percent(verdict.change, verdict.interval)


def percent(value: float, interval: tuple[float, float] | None) -> str:
    """A relative change with its interval."""
    return f"{value:+.1%}" + (f" [{interval[0]:+.1%}, {interval[1]:+.1%}]" if interval is not None else "")


def times(ratio: Ratio | None) -> str:
    """A ratio as a factor with its interval, for points of a sweep, which may lie far apart."""
    if ratio is None:
        return "-"
    text = f"{ratio.value:.3g}\N{MULTIPLICATION SIGN}"
    return text if ratio.interval is None else f"{text} [{ratio.interval[0]:.3g}, {ratio.interval[1]:.3g}]"


def runs(judged: Judged) -> str:
    """``1 run vs 10 saved``, or ``4 pairs vs main``."""
    verdict = judged.verdict
    if judged.candidate.against:
        return f"{verdict.runs} pair{'' if verdict.runs == 1 else 's'} vs {judged.candidate.against}"
    return f"{verdict.runs} run{'' if verdict.runs == 1 else 's'} vs {verdict.saved} saved"


def meter(result: ExperimentResult) -> str:
    """The meter, marked where its joules are modelled or its windows were joined."""
    marks = ["estimated"] * result.estimated + ["joined"] * (result.boundaries == "joined")
    return f"{result.meter} ({', '.join(marks)})" if marks else result.meter


def share(fraction: float | None) -> str:
    """A part of a whole in percent; a dash where it is not known."""
    return UNKNOWN if fraction is None else f"{fraction:.0%}"


def marks(page: ExperimentPage) -> list[tuple[str, str]]:
    """What a reader must not miss about a result, each with its class."""
    result, warnings = page.result, len(page.result.warnings)
    found = [
        ("invalid", "invalid", not result.valid),
        ("estimated", "estimated joules", result.estimated),
        ("remote", "trust_remote_code", page.remote_code),
        ("warned", f"{warnings} warning{'' if warnings == 1 else 's'}", warnings > 0),
    ]
    return [(style, text) for style, text, shown in found if shown]


def run_name(point: HistoryPoint) -> str:
    """Which run it is."""
    return "this session" if point.current else short_commit(point.commit)


def shift(change: Shift) -> str:
    """A change of level with its interval."""
    return percent(change.point.change, change.point.interval)


def short_commit(commit: str | None) -> str:
    """What people write of a commit."""
    return "unknown" if commit in (None, "unversioned") else commit[:8]
