"""Short texts that several reports share: verdicts, changes, marks of a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.report.pairs import THIS
from pytest_llem.report.quantities import UNKNOWN, number, with_uncertainty
from pytest_llem.sizes import size
from pytest_llem.verdict.decision import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_llem.measurement.result import ExperimentResult
    from pytest_llem.report.data import ExperimentPage
    from pytest_llem.report.estimates import Estimate, Ratio
    from pytest_llem.report.histories import HistoryPoint, Shift
    from pytest_llem.report.joules import Joules, Part
    from pytest_llem.report.pairs import Changed, PairPoint
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
        return f"{_pairs(verdict.runs)} vs {judged.candidate.against}"
    return f"{verdict.runs} run{'' if verdict.runs == 1 else 's'} vs {verdict.saved} saved"


def changed(quantity: Changed | None) -> str:
    """A change from the other side with its interval; a dash where it is not known."""
    return UNKNOWN if quantity is None or quantity.change is None else percent(quantity.change, quantity.interval)


def amount(value: float | None, unit: str) -> str:
    """A quantity, memory in binary units; a dash where it is not known."""
    if value is not None and unit == "B":
        return size(value)
    return number(value, unit)


def began(point: PairPoint, against: str) -> str:
    """Which side began a pair."""
    return against if point.other_first else THIS


def detectable_line(changes: Mapping[int, float]) -> str:
    """How small a change the pairs could find, once some have shown how much they differ.

    Args:
        changes: the true change, as a fraction, that would be REGRESSED four times in five, by the number of pairs.
    """
    parts = [f"{change:.1%} by {_pairs(pairs)}" for pairs, change in sorted(changes.items())]
    return f"changes that would be found four times in five: {', '.join(parts)}"


def pairs_line(pair: int, most: int, still_open: int, gates: int, pair_s: float | None) -> str:
    """``pair 3 of at most 10: 2 of 5 gates open, about 4 min a pair``.

    Args:
        pair: that which runs, from 1; ``most``: how many there may be.
        still_open: of the ``gates``, how many are not decided.
        pair_s: seconds that one takes; ``None`` where that is not known. How many there will be is not known either.
    """
    gates_open = f"{still_open} of {gates} gate{'' if gates == 1 else 's'} open"
    duration = "" if pair_s is None else f", about {_duration(pair_s)} a pair"
    return f"pair {pair} of at most {most}: {gates_open}{duration}"


def _pairs(count: int) -> str:
    return f"{count} pair{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def meter(result: ExperimentResult) -> str:
    """The meter, marked where its joules are modelled or its windows were joined."""
    marks = ["estimated"] * result.estimated + ["joined"] * (result.boundaries == "joined")
    return f"{result.meter} ({', '.join(marks)})" if marks else result.meter


def share(fraction: float | None) -> str:
    """A part of a whole in percent; a dash where it is not known."""
    return UNKNOWN if fraction is None else f"{round(fraction, 2) + 0.0:.0%}"


def part(of: Part | None, joules: Joules) -> str:
    """A part of the joules of a call with its share; a dash where it is not known apart."""
    if of is None:
        return UNKNOWN
    return f"{with_uncertainty(of.joules, of.half_width_j, 'J')}, {share(of.joules / joules.whole_j)}"


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
