"""What each plot of a report shows."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_llem.measurement.account import ENTRIES
from pytest_llem.report import phrases
from pytest_llem.report.across_engines import PER_TOKEN, across_engines
from pytest_llem.report.joules import PARTS
from pytest_llem.report.pairs import THIS
from pytest_llem.report.plots import Bar, Bars, Layer, Plot, Stretch
from pytest_llem.report.quantities import number, with_uncertainty
from pytest_llem.report.scales import Axis
from pytest_llem.report.time_spent import ORDER, duration, total
from pytest_llem.verdict.decision import Status

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from pytest_llem.report.data import ExperimentPage, Report
    from pytest_llem.report.estimates import Estimate
    from pytest_llem.report.histories import History, HistoryPoint
    from pytest_llem.report.pairs import ComparedMetric, PairPoint
    from pytest_llem.report.plots import Point
    from pytest_llem.report.sweeps import Sweep
    from pytest_llem.report.two_runs import TwoRuns

_MANY_TICKS = 10
_ORDER_OF_MAGNITUDE = 10.0
_MOST_BARS = 50
_SENSOR = "the driver's samples, thinned out, follow the power with its sensor's lag"
_SHARES = [(count / 4, f"{count * 25}%") for count in range(5)]
_CHANGE_STYLES = {
    "apart": (Status.INCONCLUSIVE, Status.NO_BASELINE),
    "saved": (Status.OK,),
    "board": (Status.IMPROVED,),
    "invalid": (Status.REGRESSED,),
}
_BESIDE = 0.2  # of the step from pair to pair: what is known after one, beside its own mark


def overview_plots(report: Report) -> Iterator[Plot]:
    """Energy and latency of all experiments by their number."""
    pages = report.experiments
    apart = [f"{PER_TOKEN.capitalize()}."] if across_engines([page.source for page in pages]) else []
    step = -(-len(pages) // _MANY_TICKS)
    ticks = [(float(number), str(number)) for number in range(1, len(pages) + 1, step)]
    for title, unit, estimates in (
        ("Energy of a call", "J", [page.energy for page in pages]),
        ("Latency of a call", "s", [page.latency for page in pages]),
    ):
        known = [(page, estimate) for page, estimate in zip(pages, estimates, strict=True) if estimate is not None]
        wide = _wide([one for _, one in known])
        yield Plot(
            title,
            f"{title} of {len(known)} experiments by their number in the table below, with intervals of 95%.",
            _estimate_layers([(float(page.number), one, page, page.source.name) for page, one in known], unit),
            Axis("number of the experiment", ticks=ticks),
            Axis(title.lower(), unit, logarithmic=wide),
            [*(["Logarithmic scale."] if wide else []), *apart],
        )


def sweep_plot(sweep: Sweep) -> Plot | None:
    """Energy against time with their intervals, and the Pareto front of both; what is dominated is grey."""
    known = [
        (variant.latency, variant.energy, variant) for variant in sweep.variants if variant.latency and variant.energy
    ]
    if len(known) < 2:
        return None
    # Of the time between tokens no interval is stated.
    times = [replace(time, half_width=None) if sweep.timed_tokens else time for time, _, _ in known]
    across = [
        (bound, joules.value) for time, (_, joules, _) in zip(times, known, strict=True) for bound in time.bounds or ()
    ]
    best = [(one.latency.value, one.energy.value) for one in sweep.front if one.latency and one.energy]
    corners = [(x, y) for before, (x, below) in pairwise(best) for y in (before[1], below)]
    return Plot(
        f"{sweep.energy_name.capitalize()} against {sweep.latency_name}",
        f"{len(known)} points of the sweep, {len(best)} of them on the Pareto front; lower and further left is better. "
        "The table below holds the numbers.",
        [
            Layer("line", "front", [*best[:1], *corners] if corners else (), "Pareto front of the estimates"),
            Layer("segments", "interval", across, "interval of 95%"),
            *_estimate_layers(
                [(time.value, joules, variant.page, variant.label) for time, joules, variant in known],
                "J",
                dominated=sweep.dominated,
            ),
        ],
        Axis(sweep.latency_name, "s", logarithmic=_wide(times)),
        Axis(sweep.energy_name, "J", logarithmic=_wide([joules for _, joules, _ in known])),
        ["Lower and further left is better."],
    )


def _wide(estimates: Sequence[Estimate]) -> bool:
    values = [value for estimate in estimates for value in (estimate.value, *(estimate.bounds or ()))]
    return bool(values) and min(values) > 0 and max(values) > _ORDER_OF_MAGNITUDE * min(values)


def _estimate_layers(
    points: Sequence[tuple[float, Estimate, ExperimentPage, str]], unit: str, dominated: Container[int] = ()
) -> list[Layer]:
    """Marks with vertical intervals, a layer for each kind of result.

    Args:
        dominated: numbers of the experiments that are.
    """

    def style_of(page: ExperimentPage) -> tuple[str, str]:
        return ("dominated", "dominated") if page.number in dominated else _point_style(page, unit)

    segments = [(x, bound) for x, estimate, _, _ in points for bound in estimate.bounds or ()]
    layers = [Layer("segments", "interval", segments, "interval of 95%")]
    for style, name in dict.fromkeys(style_of(page) for _, _, page, _ in points):
        alike = [point for point in points if style_of(point[2]) == (style, name)]
        labels = [f"{label}: {phrases.estimate(estimate, unit)}" for _, estimate, _, label in alike]
        layers.append(Layer("points", style, [(x, estimate.value) for x, estimate, _, _ in alike], name, labels))
    return layers


def _point_style(page: ExperimentPage, unit: str) -> tuple[str, str]:
    """The style of a result's mark and its name in a legend; seconds are measured even where joules are modelled."""
    if not page.result.valid:
        return "invalid", "invalid"
    return ("estimated", "estimated") if page.result.estimated and unit == "J" else ("saved", "measured")


def time_bars(report: Report) -> Bars | None:
    """Where the seconds of each experiment went, those of the longest ones where there are many."""
    spent = [(page, total([page.result.spent_s])) for page in report.experiments]
    known = [(page, spent_s) for page, spent_s in spent if spent_s]
    if not known:
        return None
    shown = sorted(known, key=lambda pair: -sum(pair[1].values()))[:_MOST_BARS]
    shown.sort(key=lambda pair: pair[0].number)
    bars = [
        Bar(
            str(page.number),
            [
                Stretch(entry, spent_s[entry], f"{page.source.name}: {ENTRIES[entry]} {duration(spent_s[entry])}")
                for entry in ORDER
                if spent_s.get(entry, 0.0) > 0
            ],
        )
        for page, spent_s in shown
    ]
    there = {stretch.style for bar in bars for stretch in bar.stretches}
    return Bars(
        "Where the time went",
        f"Seconds of {len(bars)} experiments by what they were spent on. The table below holds the numbers.",
        bars,
        [Layer("segments", entry, (), ENTRIES[entry]) for entry in ORDER if entry in there],
        Axis("time, by the number of the experiment", "s", from_zero=True),
        [f"The longest {len(bars)} of {len(known)} experiments."] * (len(bars) < len(known)),
    )


def joule_bars(report: Report) -> Bars | None:
    """Where the joules of a call of each experiment went, as shares of the whole."""
    divided = [(page, page.joules) for page in report.experiments if page.joules]
    if not divided:
        return None
    shown = divided[:_MOST_BARS]
    bars = [
        Bar(
            str(page.number),
            [
                Stretch(
                    f"part-{part.name}",
                    part.joules / joules.whole_j,
                    f"{page.source.name}: {PARTS[part.name]} {phrases.part(part, joules)}",
                )
                for part in joules.parts
                if part.joules > 0
            ],
        )
        for page, joules in shown
    ]
    there = {stretch.style for bar in bars for stretch in bar.stretches}
    negative = {
        text: [str(page.number) for page, joules in shown if (part := joules.part(name)) and part.joules < 0]
        for name, text in PARTS.items()
    }
    missing = "; ".join(f"{text} of {', '.join(numbers)}" for text, numbers in negative.items() if numbers)
    return Bars(
        "Where the joules went",
        f"Shares of the energy of a call of {len(bars)} experiments. The table below holds the numbers.",
        bars,
        [Layer("segments", f"part-{name}", (), text) for name, text in PARTS.items() if f"part-{name}" in there],
        Axis("share of the energy of a call, by the number of the experiment", ticks=_SHARES, from_zero=True),
        [
            *[f"Less than nothing and not drawn, so that the others exceed 100%: {missing}."] * bool(missing),
            *[f"The first {len(bars)} of {len(divided)} experiments."] * (len(bars) < len(divided)),
        ],
    )


def history_plot(history: History) -> Plot:
    """The runs of one metric, with the band of the verdict and a vertical line where each new level began."""
    points = history.points
    layers = []
    if history.band is not None and points:
        last, low, high = max(len(points) - 1.0, 0.5), history.band.tolerated, history.band.limit
        corners = [(0.0, low), (last, low), (last, high), (0.0, high)]
        layers.append(Layer("area", "band", corners, "tolerance..limit"))
        layers.append(Layer("line", "mean", [(x, history.band.mean) for x in (0.0, last)], "saved mean"))
    for shift in history.shifts:
        ends = [end(point.mean for point in points) for end in (min, max)]
        layers.append(Layer("line", "shift", [(shift.at - 0.5, mean) for mean in ends], "level changed"))
    segments = [
        (float(x), point.mean + width)
        for x, point in enumerate(points)
        if point.half_width is not None
        for width in (-point.half_width, point.half_width)
    ]
    layers.append(Layer("segments", "interval", segments, "interval of its rounds"))
    for style, name in {
        "apart": "not comparable",
        "board": "another board",
        "invalid": "invalid",
        "saved": "saved",
        "now": "this session",
    }.items():
        alike = [(float(x), point) for x, point in enumerate(points) if _run_style(point) == style]
        labels = [
            f"{phrases.run_name(point)}: {with_uncertainty(point.mean, point.half_width, history.unit)}"
            for _, point in alike
        ]
        layers.append(Layer("points", style, [(x, point.mean) for x, point in alike], name, labels))
    newest = [f"The newest {len(points)} of {len(points) + history.omitted} runs."] * bool(history.omitted)
    shifts = [
        f"Level changed by {phrases.shift(shift)} at commit {phrases.short_commit(points[shift.at].commit)}."
        for shift in history.shifts
    ]
    return Plot(
        f"{history.metric.capitalize()} of a call over saved runs",
        " ".join([f"{len(points)} runs, oldest first.", *shifts]),
        layers,
        Axis("commit", ticks=_commit_ticks(points)),
        Axis(f"{history.metric} of a call", history.unit),
        [*newest, *shifts],
    )


def pairs_plot(metric: ComparedMetric, against: str) -> Plot:
    """The change of each pair, and what was known after it: the estimate, its interval and the bands of the limit."""
    limit, last = metric.judged.verdict.limit, len(metric.points) + 0.5
    layers = []
    for low, high in ((limit.tolerance, limit.limit), (-min(limit.limit, 1.0), -min(limit.tolerance, 1.0))):
        corners = [(0.5, low), (last, low), (last, high), (0.5, high)]
        layers.append(Layer("area", "band", corners, "tolerance..limit, worse and better"))
    layers.append(Layer("line", "mean", [(0.5, 0.0), (last, 0.0)], "no change"))
    looks = [(n + _BESIDE, verdict.change, verdict.interval) for n, verdict in metric.looks]
    ends = _ends((x, interval) for x, _, interval in looks)
    layers.append(Layer("segments", "interval", ends, "interval after that many pairs"))
    estimates = [(x, change) for x, change, _ in looks if change is not None]
    layers.append(Layer("points", "apart", estimates, "estimate after that many pairs"))
    for style, name in {"saved": f"{against} began", "now": f"{THIS} began", "invalid": "disturbed"}.items():
        alike = [point for point in metric.points if point.change is not None and _pair_style(point) == style]
        labels = [
            f"pair {point.number}, {phrases.began(point, against)} began: {phrases.percent(point.change, None)}"
            for point in alike
            if point.change is not None
        ]
        marks = [(float(point.number), point.change) for point in alike if point.change is not None]
        layers.append(Layer("points", style, marks, name, labels))
    step = -(-len(metric.points) // _MANY_TICKS)
    ticks = [(float(point.number), str(point.number)) for point in metric.points[::step]]
    return Plot(
        f"{metric.name.capitalize()} of a call against {against}",
        f"{len(metric.points)} pairs in the order in which they were measured. The table below holds the numbers.",
        layers,
        Axis("pair", ticks=ticks),
        Axis(f"change of {metric.name}", "%"),
        ["A positive change is worse."],
    )


def change_plots(runs: TwoRuns) -> Iterator[Plot]:
    """How each experiment changed from one saved run to another, a plot for each metric."""
    count = len(runs.experiments)
    step = -(-count // _MANY_TICKS)
    ticks = [(float(number), str(number)) for number in range(1, count + 1, step)]
    for metric in dict.fromkeys(change.metric for change in runs.changes):
        known = [
            (float(one.number), one.verdict.change, one)
            for one in runs.changes
            if one.metric == metric and one.verdict.change is not None
        ]
        ends = _ends((x, one.verdict.interval) for x, _, one in known)
        layers = [
            Layer("line", "mean", [(0.5, 0.0), (count + 0.5, 0.0)], "no change"),
            Layer("segments", "interval", ends, "interval"),
        ]
        for style, status in _CHANGE_STYLES.items():
            alike = [(x, change, one) for x, change, one in known if one.verdict.status in status]
            labels = [f"{one.name}: {phrases.change(one.verdict)}" for _, _, one in alike]
            name = ", ".join(one.value for one in status)
            layers.append(Layer("points", style, [(x, change) for x, change, _ in alike], name, labels))
        yield Plot(
            f"Change of {metric}",
            f"{len(known)} experiments by their number in the table below, with the intervals of their verdicts.",
            layers,
            Axis("number of the experiment", ticks=ticks),
            Axis(f"change of {metric}", "%"),
            ["A positive change is worse."],
        )


def _ends(intervals: Iterable[tuple[float, tuple[float, float] | None]]) -> list[Point]:
    """Both ends of each interval that can be drawn."""
    return [(x, end) for x, both in intervals if both and all(map(math.isfinite, both)) for end in both]


def _pair_style(point: PairPoint) -> str:
    if not point.valid:
        return "invalid"
    return "saved" if point.other_first else "now"


def _run_style(point: HistoryPoint) -> str:
    if point.current:
        return "now"
    if not point.valid:
        return "invalid"
    if point.another_board:
        return "board"
    return "saved" if point.comparable else "apart"


def _commit_ticks(points: Sequence[HistoryPoint]) -> list[tuple[float, str]]:
    """A few commits: the first, the last, and some between."""
    last = len(points) - 1
    step = max(1, -(-last // 3))
    shown = [at for at in range(0, last, step) if last - at >= step] + [last] * bool(points)
    return [(float(at), "now" if points[at].current else phrases.short_commit(points[at].commit)) for at in shown]


def power_plot(page: ExperimentPage) -> Plot | None:
    """Power in the windows as the boards' drivers sampled it; where none did, the mean of each window in time."""
    return _sampled_power(page) if page.power.lines else _mean_power(page)


def _sampled_power(page: ExperimentPage) -> Plot:
    """Windows one over the other, each from its own start: they do the same work, and it shows where they differ."""
    power = page.power
    boards = list(dict.fromkeys(line.board for line in power.lines))
    times_s = [time_s for line in power.lines for time_s, _ in line.points]
    highest_w = max(power_w for line in power.lines for _, power_w in line.points)
    layers = [
        Layer("area", style, [(start_s, 0.0), (end_s, 0.0), (end_s, highest_w), (start_s, highest_w)], style)
        for style, spans in (("prefill", power.prefill), ("decode", power.decode))
        for start_s, end_s in spans
    ]
    layers += [
        Layer("line", "edge", [(at_s, 0.0), (at_s, highest_w)], "begin and end of the first window")
        for at_s in (0.0, power.seconds)
    ]
    if (idle_w := page.result.idle_power_w) is not None:
        of_all = "idle power" if len(boards) == 1 else f"idle power of all {power.boards} boards"
        layers.append(Layer("line", "mean", [(min(times_s), idle_w), (max(times_s), idle_w)], of_all))
    for line in power.lines:
        style, name = f"board-{boards.index(line.board)}", line.board[:12]
        if not line.valid:
            style, name = "disturbed", "disturbed"
        layers.append(Layer("curve", style, line.points, name))
    notes = [f"The windows one over the other, each from its start; {_SENSOR}."]
    notes += [f"The first {power.lines_of} of {power.sampled} windows."] * (power.lines_of < power.sampled)
    notes += [f"The first {len(boards)} of {power.boards} boards."] * (len(boards) < power.boards)
    notes += ["Prefill as long as it takes in the mean, in the first window."] * bool(power.prefill)
    notes += [f"Prefill is not marked: {power.unmarked}."] * (power.unmarked is not None)
    return Plot(
        "Power in the windows",
        f"{power.lines_of} windows on {len(boards)} board{'' if len(boards) == 1 else 's'}, as sampled; at most "
        f"{number(highest_w, 'W', 3)}. The table below holds the mean of each window.",
        layers,
        Axis("time since the window's start", "s"),
        Axis("power", "W", from_zero=True),
        notes,
    )


def _mean_power(page: ExperimentPage) -> Plot | None:
    """Mean power of each window in time; what lies between windows was not measured and is not drawn."""
    windows = page.power.windows
    if not windows:
        return None
    layers = []
    if (idle_w := page.result.idle_power_w) is not None:
        end_s = max(window.start_s + window.seconds for window in windows)
        layers.append(Layer("line", "mean", [(0.0, idle_w), (end_s, idle_w)], "idle power"))
    whole = _point_style(page, "J")[0]
    for style, name, kinds in (
        ("window", "estimated" if whole == "estimated" else "whole calls", [(False, True)]),
        ("prefill", "prefill alone", [(True, True)]),
        ("disturbed", "disturbed", [(False, False), (True, False)]),
    ):
        segments: list[Point] = [
            (at_s, window.power_w)
            for window in windows
            if (window.prefill, window.valid) in kinds
            for at_s in (window.start_s, window.start_s + window.seconds)
        ]
        layers.append(Layer("segments", style, segments, name))
    return Plot(
        "Mean power of the windows in time",
        f"{len(windows)} windows; each step is the mean power of one. The table below holds the numbers.",
        layers,
        Axis("time since the first window", "s", from_zero=True),
        Axis("power", "W", from_zero=True),
        [f"The first {len(windows)} of {len(windows) + page.power.omitted} windows."] * bool(page.power.omitted),
    )
