"""The sections that show all experiments at once: verdicts, results, sweeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.report import words
from pytest_llem.report.markup import Child, Html, element, join
from pytest_llem.report.plots import Axis, Layer, Plots
from pytest_llem.report.quantities import number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_llem.report.data import ExperimentPage, Report
    from pytest_llem.report.estimates import Estimate
    from pytest_llem.report.sweeps import Sweep, Variant
    from pytest_llem.report.tables import Tables
    from pytest_llem.verdict import Status

_MANY_TICKS = 10
_ORDER_OF_MAGNITUDE = 10.0


def verdicts_section(report: Report, tables: Tables) -> Html:
    """How many verdicts of each kind, then each, worst first."""
    if not report.judged:
        return element("p", "Nothing was gated: see --llem-fail, and compare: in an experiment file.")
    numbers = {page.source.nodeid: page.number for page in report.experiments}
    tiles = [
        element("li", status_mark(status), element("strong", str(count)))
        for status, count in report.counts.items()
        if count
    ]
    rows = [
        (
            status_mark(one.verdict.status),
            _link(numbers.get(one.candidate.nodeid), one.candidate.name),
            one.candidate.metric,
            words.change(one.verdict),
            str(one.verdict.limit),
            words.runs(one.verdict),
            one.verdict.reason,
        )
        for one in report.judged
    ]
    headings = ("verdict", "experiment", "metric", "change", "limit", "runs", "why")
    return join(
        element("ul", *tiles, class_="tiles"),
        tables.table("Verdicts, worst first; a positive change is worse", headings, rows, text_columns=7),
    )


def status_mark(status: Status) -> Html:
    """The word of a verdict with its sign."""
    sign = element("span", words.SIGNS[status], aria_hidden="true")
    return element("span", sign, " ", status.value, class_=f"status {status.value.lower()}")


def _link(number_: int | None, name: str) -> Html:
    return join(name) if number_ is None else element("a", name, href=f"#e{number_}")


def marks(page: ExperimentPage) -> Html:
    """What a reader must not miss about a result."""
    result = page.result
    found = [
        ("invalid", "invalid", not result.valid),
        ("estimated", "estimated joules", result.estimated),
        ("remote", "trust_remote_code", page.remote_code),
        ("warned", f"{len(result.warnings)} warning{'' if len(result.warnings) == 1 else 's'}", bool(result.warnings)),
    ]
    return join(*(element("span", text, class_=f"mark {name}") for name, text, shown in found if shown), separator=" ")


def results_section(report: Report, plots: Plots, tables: Tables) -> Html:
    """Energy and latency of all experiments."""
    pages = report.experiments
    if not pages:
        return Html("")
    rows = [
        (
            str(page.number),
            _link(page.number, page.source.name),
            words.estimate(page.energy, "J"),
            number(page.result.energy_per_output_token_j, "J"),
            words.estimate(page.latency, "s"),
            number(page.result.time_to_first_token_s, "s"),
            number(page.result.output_tokens_per_s, ""),
            number(page.result.mean_power_w, "W"),
            words.meter(page.result),
            marks(page),
        )
        for page in pages
    ]
    headings = (
        "no.",
        "experiment",
        "energy/call",
        "energy/token",
        "latency/call",
        "first token",
        "tokens/s",
        "power",
        "meter",
        "notes",
    )
    return join(
        element(
            "div",
            _overview(plots, "Energy of a call", "J", pages, lambda page: page.energy),
            _overview(plots, "Latency of a call", "s", pages, lambda page: page.latency),
            class_="plots",
        ),
        tables.table("Results of all experiments", headings, rows, text_columns=2),
    )


def _overview(
    plots: Plots,
    title: str,
    unit: str,
    pages: Sequence[ExperimentPage],
    of: Callable[[ExperimentPage], Estimate | None],
) -> Html:
    """One quantity of all experiments by their number."""
    known = [(float(page.number), page, estimate) for page in pages if (estimate := of(page)) is not None]
    layers = _estimate_layers([(x, estimate, page, page.source.name) for x, page, estimate in known], unit)
    step = -(-len(pages) // _MANY_TICKS)
    return plots.figure(
        title,
        f"{title} of {len(known)} experiments by their number in the table below, with intervals of 95%.",
        layers,
        Axis("number of the experiment", ticks=[(float(x), str(x)) for x in range(1, len(pages) + 1, step)]),
        Axis(title.lower(), unit, logarithmic=_wide([estimate for _, _, estimate in known])),
        *(["Logarithmic scale."] if _wide([estimate for _, _, estimate in known]) else []),
    )


def _wide(estimates: Sequence[Estimate]) -> bool:
    values = [one.value for one in estimates] + [bound for one in estimates if one.bounds for bound in one.bounds]
    return bool(values) and min(values) > 0 and max(values) > _ORDER_OF_MAGNITUDE * min(values)


def point_style(page: ExperimentPage, unit: str) -> tuple[str, str]:
    """The style of a result's mark and its name in a legend; seconds are measured even where joules are modelled."""
    if not page.result.valid:
        return "invalid", "invalid"
    return ("estimated", "estimated") if page.result.estimated and unit == "J" else ("saved", "measured")


def _estimate_layers(points: Sequence[tuple[float, Estimate, ExperimentPage, str]], unit: str) -> list[Layer]:
    """Marks with vertical intervals, a layer for each kind of result."""
    segments = [(x, bound) for x, one, _, _ in points if one.bounds for bound in one.bounds]
    layers = [Layer("segments", "interval", segments, "interval of 95%")]
    for style, name in dict.fromkeys(point_style(page, unit) for _, _, page, _ in points):
        alike = [one for one in points if point_style(one[2], unit) == (style, name)]
        labels = [f"{label}: {words.estimate(estimate, unit)}" for _, estimate, _, label in alike]
        layers.append(Layer("points", style, [(x, one.value) for x, one, _, _ in alike], name, labels))
    return layers


def sweeps_section(report: Report, plots: Plots, tables: Tables) -> Html:
    """Each sweep: energy against latency, and its points against the first."""
    return join(*(_sweep(sweep, plots, tables) for sweep in report.sweeps))


def _sweep(sweep: Sweep, plots: Plots, tables: Tables) -> Html:
    energy = "energy per output token" if sweep.per_token else "energy per call"
    headings = (
        "point",
        energy,
        "latency/call",
        "energy/call, ratio",
        "energy/token, ratio",
        "latency/call, ratio",
        "notes",
    )
    first = sweep.variants[0].label
    caption = f"Points of {sweep.name}, and their ratios to the first ({first}) with intervals of 95%"
    rows = [_variant_row(variant, reference=number_ == 0) for number_, variant in enumerate(sweep.variants)]
    return join(
        element("h3", sweep.name),
        element("p", element("code", sweep.file)),
        _scatter(sweep, energy, plots),
        tables.table(caption, headings, rows),
    )


def _variant_row(variant: Variant, *, reference: bool) -> Sequence[Child]:
    ratios: list[Child] = [
        "1" if reference else words.times(one)
        for one in (variant.energy_ratio, variant.energy_per_token_ratio, variant.latency_ratio)
    ]
    notes = join(marks(variant.page), variant.reason, separator=" ") if variant.reason else marks(variant.page)
    return (
        element("a", variant.label, href=f"#e{variant.page.number}"),
        words.estimate(variant.energy, "J"),
        words.estimate(variant.latency, "s"),
        *ratios,
        notes,
    )


def _scatter(sweep: Sweep, energy: str, plots: Plots) -> Html:
    """Energy against latency, with the intervals of both."""
    known = [
        (variant.latency, variant.energy, variant.page, variant.label)
        for variant in sweep.variants
        if variant.latency is not None and variant.energy is not None
    ]
    if len(known) < 2:
        return Html("")
    layers = _estimate_layers([(time.value, joules, page, label) for time, joules, page, label in known], "J")
    across = [(bound, joules.value) for time, joules, _, _ in known if time.bounds for bound in time.bounds]
    layers.insert(0, Layer("segments", "interval", across, "interval of 95%"))
    return plots.figure(
        f"{energy.capitalize()} against latency",
        f"{len(known)} points of the sweep; lower and further left is better. The table below holds the numbers.",
        layers,
        Axis("latency of a call", "s", logarithmic=_wide([time for time, _, _, _ in known])),
        Axis(energy, "J", logarithmic=_wide([joules for _, joules, _, _ in known])),
        "Lower and further left is better.",
    )
