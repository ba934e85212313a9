"""Rows of the tables about one experiment, as texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.report import phrases
from pytest_llem.report.joules import PARTS
from pytest_llem.report.quantities import UNKNOWN, number, with_uncertainty
from pytest_llem.report.time_spent import MEASURED, ORDER, duration, total
from pytest_llem.sizes import size

if TYPE_CHECKING:
    from pytest_llem.engines.base import Rank
    from pytest_llem.report.data import ExperimentPage, Report
    from pytest_llem.report.histories import History
    from pytest_llem.report.joules import Joules
    from pytest_llem.report.pairs import Compared, ComparedMetric

# What it is, the fields of its value and of the half-width, and the unit.
_QUANTITIES = (
    ("energy of a call", "energy_j", "energy_uncertainty_j", "J"),
    ("energy of a call beyond idle", "energy_net_j", "energy_net_uncertainty_j", "J"),
    ("energy of the host, a call", "energy_host_j", "energy_host_uncertainty_j", "J"),
    ("energy of boards and host, a call", "energy_total_j", "energy_total_uncertainty_j", "J"),
    ("energy per output token", "energy_per_output_token_j", None, "J"),
    ("prefill energy of a call", "prefill_energy_j", "prefill_energy_uncertainty_j", "J"),
    ("prefill energy, one-token calls", "prefill_energy_one_token_j", "prefill_energy_one_token_uncertainty_j", "J"),
    ("prefill energy per input token", "energy_per_input_token_j", None, "J"),
    ("prefill latency", "prefill_latency_s", None, "s"),
    ("decode energy of a call", "decode_energy_j", "decode_energy_uncertainty_j", "J"),
    ("decode energy per output token", "decode_energy_per_output_token_j", None, "J"),
    ("decode latency", "decode_latency_s", None, "s"),
    ("time to first token", "time_to_first_token_s", None, "s"),
    ("time per output token", "time_per_output_token_s", None, "s"),
    ("mean power", "mean_power_w", None, "W"),
    ("idle power", "idle_power_w", "idle_power_uncertainty_w", "W"),
    ("output tokens per second", "output_tokens_per_s", None, ""),
    ("loading the model", "load_s", None, "s"),
)


def quantities(page: ExperimentPage) -> list[tuple[str, str]]:
    """All numbers of a result; of what is not known, energy and latency are named with a dash."""
    result, calls = page.result, page.result.calls_per_round
    rows = []
    for name, key, uncertainty, unit in _QUANTITIES:
        value = getattr(result, key)
        if key == "time_to_first_token_s":
            rows.append(("latency of a call", phrases.estimate(page.latency, "s")))
        if key == "output_tokens_per_s" and result.idle_share is not None:
            rows.append(("idle power's share of the energy", phrases.share(result.idle_share)))
        if value is not None and uncertainty:
            rows.append((name, with_uncertainty(value, getattr(result, uncertainty), unit)))
        elif value is not None or key == "energy_j":
            rows.append((name, number(value, unit)))
    for name, tokens in (("input", result.input_tokens), ("output", result.output_tokens)):
        if tokens is not None:
            rows.append((f"{name} tokens of a call", f"{tokens:.6g}"))
    rows.append(("meter", phrases.meter(result)))
    of = f"each of {calls} call{'' if calls == 1 else 's'}"
    rows.append(("windows", f"{result.rounds}, {of}, {result.boundaries}"))
    if result.phases_by is not None:
        rows.append(("phases by", result.phases_by))
    if result.peak_memory_bytes is not None:
        rows.append(("peak memory", size(result.peak_memory_bytes)))
    rows += [(f"process {index} of the model", _rank(rank)) for index, rank in enumerate(result.ranks)]
    if result.labels:
        rows.append(("conditions", ", ".join(result.labels)))
    if page.source.workload_hash:
        rows.append(("workload hash", page.source.workload_hash))
    return rows + [(f"energy of a call, {board}", number(joules, "J")) for board, joules in result.boards.items()]


def result_values(report: Report) -> list[tuple[float | None, ...]]:
    """By what the rows of the results are sorted, cell by cell; ``None`` for a text, and for what is not known."""
    return [
        (
            page.number,
            None,
            page.result.energy_j,
            page.result.energy_per_output_token_j,
            page.result.latency_s,
            page.result.time_to_first_token_s,
            page.result.output_tokens_per_s,
            page.result.mean_power_w,
            page.result.idle_share,
            None,
            None,
        )
        for page in report.experiments
    ]


def _rank(rank: Rank) -> str:
    share = None if rank.parameter_share is None else f"{phrases.share(rank.parameter_share)} of the parameters"
    peak = None if rank.peak_memory_bytes is None else f"peak memory {size(rank.peak_memory_bytes)}"
    return ", ".join(part for part in (share, peak, rank.board) if part is not None) or "-"


def changes(compared: Compared) -> list[tuple[str, str, str, str, str]]:
    """What changed: the quantity, the change, both sides, and of how many pairs where not of all."""
    return [
        (
            found.name,
            phrases.changed(found),
            phrases.amount(found.this, found.unit),
            phrases.amount(found.other, found.unit),
            f"{found.pairs} of {compared.pairs} pairs" if found.pairs < compared.pairs else "",
        )
        for found in compared.changed
    ]


def pairs(metric: ComparedMetric, against: str) -> list[tuple[str, ...]]:
    """Each pair of a metric: who began, the change, what is known after it, both sides, and what sets it apart."""
    looks = dict(metric.looks)
    rows: list[tuple[str, ...]] = []
    for point in metric.points:
        seen = looks.get(point.number)
        notes = [("disturbed", not point.valid), ("one process after the other", not point.by_turns)]
        rows.append(
            (
                str(point.number),
                phrases.began(point, against),
                UNKNOWN if point.change is None else phrases.percent(point.change, None),
                UNKNOWN if seen is None else phrases.change(seen),
                number(point.this, metric.unit),
                number(point.other, metric.unit),
                ", ".join(text for text, applies in notes if applies),
            )
        )
    return rows


JOULE_HEADINGS = ("no.", "experiment", "of", "whole", *PARTS.values(), "notes")


def joules(page: ExperimentPage, found: Joules) -> tuple[str, ...]:
    """What goes below :data:`JOULE_HEADINGS`, after the number and the name."""
    of = "boards and host" if found.with_host else phrases.meter(page.result)
    parts = [phrases.part(found.part(name), found) for name in PARTS]
    return of, with_uncertainty(found.whole_j, found.half_width_j, "J"), *parts


TIME_HEADINGS = ("no.", "experiment", "total", "measured", *ORDER[1:])


def times(report: Report) -> list[tuple[int | str, ...]]:
    """What goes below :data:`TIME_HEADINGS`, for each experiment whose account is known."""
    rows: list[tuple[int | str, ...]] = []
    for page in report.experiments:
        spent_s = total([page.result.spent_s])
        whole_s = sum(spent_s.values())
        if whole_s > 0:
            measured_s = spent_s.get(MEASURED, 0.0)
            cells = [duration(spent_s[entry]) if entry in spent_s else UNKNOWN for entry in ORDER[1:]]
            share = f"{duration(measured_s)}, {phrases.share(measured_s / whole_s)}"
            rows.append((page.number, page.source.name, duration(whole_s), share, *cells))
    return rows


def runs(history: History) -> list[tuple[str, str, str, str]]:
    """The runs of a history: commit, when, mean, and what sets one apart."""
    shifts = {shift.at: phrases.shift(shift) for shift in history.shifts}
    rows = []
    for at, point in enumerate(history.points):
        notes = [
            ("invalid", not point.valid),
            ("another board", point.another_board),
            (
                "not comparable: another workload, environment or way to bound windows",
                not point.comparable and not point.another_board,
            ),
            ("accepted change", point.accepted),
            (f"level changed {shifts.get(at)}", at in shifts),
        ]
        mean = with_uncertainty(point.mean, point.half_width, history.unit)
        remarks = ", ".join(text for text, applies in notes if applies)
        rows.append((phrases.run_name(point), (point.when or "")[:19], mean, remarks))
    return rows


def windows(page: ExperimentPage) -> list[tuple[str, str, str, str, str]]:
    """Start, length, mean power and phase of each window, and whether it was disturbed."""
    return [
        (
            number(window.start_s, "s"),
            number(window.seconds, "s"),
            number(window.power_w, "W"),
            "prefill" if window.prefill else "whole calls",
            "" if window.valid else "disturbed",
        )
        for window in page.power.windows
    ]
