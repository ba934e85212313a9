"""One experiment: its quantities, its history, its power in time, what it ran and where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.report import words
from pytest_llem.report.markup import Html, element, join
from pytest_llem.report.overview import marks, point_style, status_mark
from pytest_llem.report.plots import Axis, Layer, Plots
from pytest_llem.report.quantities import number, with_uncertainty
from pytest_llem.report.tables import Tables, folded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_llem.report.data import ExperimentPage
    from pytest_llem.report.histories import History, HistoryPoint, Shift

# What it is, the fields of its value and of the half-width, and the unit.
_QUANTITIES = (
    ("energy of a call", "energy_j", "energy_uncertainty_j", "J"),
    ("energy of a call beyond idle", "energy_net_j", "energy_net_uncertainty_j", "J"),
    ("energy per output token", "energy_per_output_token_j", None, "J"),
    ("prefill energy of a call", "prefill_energy_j", "prefill_energy_uncertainty_j", "J"),
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


def experiment_section(page: ExperimentPage, plots: Plots, tables: Tables, *, opened: bool) -> Html:
    """Everything about one experiment, folded up unless ``opened``."""
    result = page.result
    verdicts = [join(status_mark(one.verdict.status), " ", one.candidate.metric) for one in page.judged]
    warnings = [element("li", text) for text in result.warnings]
    summary = element(
        "summary", element("h3", f"{page.number}. {page.source.name}"), " ", join(*verdicts, marks(page), separator=" ")
    )
    content = element(
        "div",
        element("p", element("code", page.source.nodeid)),
        _invalid(page),
        element("p", "Code from the model's repository was allowed to run: trust_remote_code.", class_="alert")
        if page.remote_code
        else None,
        join(element("h4", "Warnings"), element("ul", *warnings)) if warnings else None,
        tables.table("Quantities", ("quantity", "value"), _quantity_rows(page)),
        element(
            "div", *(_history_plot(one, plots) for one in page.histories), _power_plot(page, plots), class_="plots"
        ),
        *(folded(f"Saved runs of {one.metric} as a table", _history_table(one, tables)) for one in page.histories),
        folded("Windows as a table", _power_table(page, tables)) if page.power else None,
        folded("Configuration", tables.pairs("Resolved configuration", page.settings)) if page.settings else None,
        folded("Environment", tables.pairs("Environment", page.environment)) if page.environment else None,
        id=f"e{page.number}",
    )
    return element("details", summary, content, class_="experiment", open=opened)


def _invalid(page: ExperimentPage) -> Html | None:
    if page.result.valid:
        return None
    return element("p", "Invalid: something disturbed the measurement. It is never a baseline.", class_="alert")


def _quantity_rows(page: ExperimentPage) -> Iterator[tuple[str, str]]:
    result = page.result
    for name, key, uncertainty, unit in _QUANTITIES:
        value = getattr(result, key)
        if name.startswith("time to first"):
            yield "latency of a call", words.estimate(page.latency, "s")
        if value is not None:
            known = with_uncertainty(value, getattr(result, uncertainty), unit) if uncertainty else number(value, unit)
            yield name, known
        elif key == "energy_j":
            yield name, "-"
    for name, tokens in (("input", result.input_tokens), ("output", result.output_tokens)):
        if tokens is not None:
            yield f"{name} tokens of a call", f"{tokens:.6g}"
    yield "meter", words.meter(result)
    yield (
        "windows",
        f"{result.rounds}, each of {result.calls_per_round} call{'' if result.calls_per_round == 1 else 's'}",
    )
    if result.peak_memory_bytes is not None:
        yield "peak memory", f"{result.peak_memory_bytes / 2**30:.2f} GiB"
    if result.labels:
        yield "conditions", ", ".join(result.labels)
    if page.source.workload_hash:
        yield "workload hash", page.source.workload_hash
    for board, joules in result.boards.items():
        yield f"energy of a call, {board}", number(joules, "J")


def _history_plot(history: History, plots: Plots) -> Html:
    numbered = [(float(number_), point) for number_, point in enumerate(history.points)]
    layers = []
    if history.band is not None and numbered:
        last = max(len(numbered) - 1.0, 0.5)
        band = history.band
        low, high = band.tolerated, band.limit
        layers.append(Layer("area", "band", [(0.0, low), (last, low), (last, high), (0.0, high)], "tolerance..limit"))
        layers.append(Layer("line", "mean", [(0.0, band.mean), (last, band.mean)], "saved mean"))
    layers += _level_layers(history)
    segments = [
        (x, point.mean + sign * point.half_width)
        for x, point in numbered
        if point.half_width is not None
        for sign in (-1, 1)
    ]
    layers.append(Layer("segments", "interval", segments, "interval of its rounds"))
    for style, name in (
        ("apart", "not comparable"),
        ("invalid", "invalid"),
        ("saved", "saved"),
        ("now", "this session"),
    ):
        alike = [(x, point) for x, point in numbered if _style(point) == style]
        labels = [_point_label(point, history.unit) for _, point in alike]
        layers.append(Layer("points", style, [(x, point.mean) for x, point in alike], name, labels))
    title = f"{history.metric.capitalize()} of a call over saved runs"
    notes = [f"The newest {len(history.points)} of {len(history.points) + history.omitted} runs."] * bool(
        history.omitted
    )
    shifts = [_shift_text(history, one) for one in history.shifts]
    return plots.figure(
        title,
        " ".join([f"{len(history.points)} runs, oldest first.", *(f"{text}." for text in shifts)]),
        layers,
        Axis("commit", ticks=_commit_ticks(history)),
        Axis(f"{history.metric} of a call", history.unit),
        *notes,
        *(f"{text}." for text in shifts),
    )


def _style(point: HistoryPoint) -> str:
    if point.current:
        return "now"
    if not point.valid:
        return "invalid"
    return "saved" if point.comparable else "apart"


def _level_layers(history: History) -> list[Layer]:
    """A vertical line where each new level began."""
    means = [point.mean for point in history.points]
    return [
        Layer("line", "shift", [(one.at - 0.5, min(means)), (one.at - 0.5, max(means))], "level changed")
        for one in history.shifts
    ]


def _shift_text(history: History, shift: Shift) -> str:
    commit = words.short_commit(history.points[shift.at].commit)
    return f"Level changed by {words.percent(shift.point.change, shift.point.interval)} at commit {commit}"


def _commit_ticks(history: History) -> list[tuple[float, str]]:
    """A few commits: the first, the last, and some between."""
    count = len(history.points)
    step = max(1, -(-(count - 1) // 3))
    ticks = [*range(0, count - 1, step)]
    if ticks and count - 1 - ticks[-1] < step:
        ticks.pop()
    return [(float(at), _tick(history.points[at])) for at in (*ticks, count - 1)]


def _tick(point: HistoryPoint) -> str:
    return "now" if point.current else words.short_commit(point.commit)


def _point_label(point: HistoryPoint, unit: str) -> str:
    where = "this session" if point.current else words.short_commit(point.commit)
    return f"{where}: {with_uncertainty(point.mean, point.half_width, unit)}"


def _history_table(history: History, tables: Tables) -> Html:
    shifts = {one.at: words.percent(one.point.change, one.point.interval) for one in history.shifts}
    rows = [
        (
            "this session" if point.current else words.short_commit(point.commit),
            (point.when or "")[:19],
            with_uncertainty(point.mean, point.half_width, history.unit),
            _run_notes(point, shifts.get(number_)),
        )
        for number_, point in enumerate(history.points)
    ]
    caption = f"Runs of {history.metric} of a call, oldest first"
    return tables.table(caption, ("commit", "saved", history.metric, "notes"), rows, text_columns=2)


def _run_notes(point: HistoryPoint, shift: str | None) -> str:
    notes = [
        ("invalid", not point.valid),
        ("not comparable: another workload or environment", not point.comparable),
        ("accepted change", point.accepted),
        (f"level changed {shift}", shift is not None),
    ]
    return ", ".join(text for text, shown in notes if shown)


def _power_plot(page: ExperimentPage, plots: Plots) -> Html:
    """Mean power of each window in time; what lies between windows was not measured and is not drawn."""
    if not page.power:
        return Html("")
    layers = []
    idle_w = page.result.idle_power_w
    end_s = max(window.start_s + window.seconds for window in page.power)
    if idle_w is not None:
        layers.append(Layer("line", "mean", [(0.0, idle_w), (end_s, idle_w)], "idle power"))
    estimated = point_style(page, "J")[0] == "estimated"
    for style, name, prefill, valid in (
        ("window", "estimated" if estimated else "whole calls", False, True),
        ("prefill", "prefill alone", True, True),
        ("disturbed", "disturbed", False, False),
        ("disturbed", "disturbed", True, False),
    ):
        segments = [
            (at_s, window.power_w)
            for window in page.power
            if (window.prefill, window.valid) == (prefill, valid)
            for at_s in (window.start_s, window.start_s + window.seconds)
        ]
        layers.append(Layer("segments", style, segments, name))
    omitted = [f"The first {len(page.power)} of {len(page.power) + page.power_omitted} windows."] * bool(
        page.power_omitted
    )
    return plots.figure(
        "Mean power of the windows in time",
        f"{len(page.power)} windows; each step is the mean power of one. The table below holds the numbers.",
        layers,
        Axis("time since the first window", "s", from_zero=True),
        Axis("power", "W", from_zero=True),
        *omitted,
    )


def _power_table(page: ExperimentPage, tables: Tables) -> Html:
    rows = [
        (
            number(window.start_s, "s"),
            number(window.seconds, "s"),
            number(window.power_w, "W"),
            "prefill" if window.prefill else "whole calls",
            "" if window.valid else "disturbed",
        )
        for window in page.power
    ]
    headings = ("start", "length", "mean power", "phase", "notes")
    return tables.table("Mean power of the windows", headings, rows, text_columns=0)
