"""Plots as inline SVG: drawn by pygal, coloured by the page's style sheet, told in words for who cannot see them.

pygal computes scales, ticks and coordinates. Its own style sheet, scripts and tooltips are taken out: a page of many
plots needs them once at most, and the page's style follows the reader's light or dark setting.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from pytest_llem.errors import LlemError
from pytest_llem.report.markup import Html, element, escape, join
from pytest_llem.report.quantities import number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Point = tuple[float, float]
Kind = Literal["points", "line", "segments", "area"]

WIDTH, HEIGHT = 480, 280
_SVG = "{http://www.w3.org/2000/svg}"
_LONG_FLOAT = re.compile(r"-?\d+\.\d+")
# Marks differ in shape, so that they can be told apart without colours. Each is drawn about (0, 0).
_SHAPES = {
    "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z",
    "estimated": "M0-5.5L5.5 0L0 5.5L-5.5 0Z",
    "invalid": "M-4.5-4.5L4.5 4.5M-4.5 4.5L4.5-4.5",
    "apart": "M-3-3H3V3H-3Z",
    "now": "M0-6L5.5 4.5H-5.5Z",
}


class MissingExtraError(LlemError):
    """A package that only reports need is not installed."""


@dataclass(frozen=True)
class Layer:
    """Marks of one kind in a plot, drawn in the order of the layers.

    Attributes:
        name: in the legend; ``None`` keeps it out.
        style: the class that gives marks their colour and shape.
        points: positions; two for each of ``segments``, the outline of an ``area``.
        labels: what each of ``points`` shows to a mouse; for the kind ``points`` only.
    """

    kind: Kind
    style: str
    points: Sequence[Point]
    name: str | None = None
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        title: the quantity.
        unit: its SI symbol; ticks get a prefix.
        ticks: positions and texts instead of computed ones.
        from_zero: whether 0 is in sight.
        logarithmic: for values that differ by orders of magnitude, all positive.
    """

    title: str
    unit: str = ""
    ticks: Sequence[tuple[float, str]] | None = None
    from_zero: bool = False
    logarithmic: bool = False


def require_pygal() -> Any:
    """Import pygal.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pygal
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"a report needs {error.name}, which is not installed: pip install 'pytest-llem[report]'"
        ) from None
    return pygal


class Plots:
    """Draws the plots of one page; their names for screen readers are numbered.

    Args:
        tooltips: whether points tell their value to a mouse; a page of very many plots is smaller without.
    """

    def __init__(self, *, tooltips: bool = True) -> None:
        self._pygal = require_pygal()
        self._numbers = itertools.count(1)
        self._tooltips = tooltips

    @staticmethod
    def shapes() -> Html:
        """What the marks of all plots refer to; once on the page, before the first plot."""
        shapes = "".join(f'<path id="mark-{name}" d="{path}"/>' for name, path in _SHAPES.items())
        return Html(f'<svg class="shapes" aria-hidden="true"><defs>{shapes}</defs></svg>')

    def figure(self, title: str, description: str, layers: Sequence[Layer], x: Axis, y: Axis, *notes: str) -> Html:
        """A plot with its legend; nothing where there is nothing to draw.

        Args:
            title: what it shows.
            description: what a reader who does not see it needs; the table beside it holds the numbers.
            notes: sentences for the caption.
        """
        layers = [layer for layer in layers if layer.points]
        if not any(layer.kind in ("points", "segments") for layer in layers):
            return Html("")
        legend = [
            element("li", _swatch(layer), " ", layer.name)
            for layer in {(one.name, one.style): one for one in layers if one.name}.values()
        ]
        return element(
            "figure",
            element("figcaption", element("strong", title), *(join(" ", note) for note in notes)),
            element("ul", *legend, class_="legend") if legend else None,
            self._svg(title, description, layers, x, y),
        )

    def _svg(self, title: str, description: str, layers: Sequence[Layer], x: Axis, y: Axis) -> Html:
        drawn = ElementTree.fromstring(_draw(self._pygal, layers, x, y))  # noqa: S314  (made by pygal from numbers)
        key = f"plot{next(self._numbers)}"
        groups = [_tidy(group) for group in drawn.iter(f"{_SVG}g") if "plot" in group.get("class", "").split()]
        back, overlay = groups[0], groups[1]
        content = [_axes(back), *_marks(layers, back, overlay, tooltips=self._tooltips), _titles(drawn, x, y)]
        return Html(
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{key}t {key}d">'
            f'<title id="{key}t">{escape(title)}</title><desc id="{key}d">{escape(description)}</desc>'
            f'<g transform="{_short(back.get("transform", ""))}">{"".join(content[:-1])}</g>{content[-1]}</svg>'
        )


def _draw(pygal: Any, layers: Sequence[Layer], x: Axis, y: Axis) -> bytes:
    """pygal's own SVG."""
    layers, x, y = _on_logarithms(layers, x, y)
    x_range = _range([point[0] for layer in layers for point in layer.points], x)
    y_range = _range([point[1] for layer in layers for point in layer.points], y)
    chart = pygal.XY(
        width=WIDTH,
        height=HEIGHT,
        show_legend=False,
        no_prefix=True,
        js=[],
        css=[],
        style=pygal.style.Style(label_font_size=13, major_label_font_size=13, title_font_size=13),
        range=y_range,
        xrange=x_range,
        min_scale=3,
        max_scale=6,
        allow_interruptions=True,
        x_title=" ",
        y_title=" ",
        x_value_formatter=_formatter(x_range, x.unit),
        value_formatter=_formatter(y_range, y.unit),
        truncate_label=-1,
        **{
            f"{name}_labels": [{"value": at, "label": text} for at, text in axis.ticks]
            for name, axis in (("x", x), ("y", y))
            if axis.ticks is not None
        },
    )
    for layer in layers:
        marks: list[tuple[float | None, float | None]] = list(layer.points)
        if layer.kind == "segments":
            marks = [one for pair in zip(marks[::2], marks[1::2], strict=True) for one in (*pair, (None, None))]
        elif layer.kind == "area":
            marks.append(marks[0])
        dots = layer.kind == "points"
        chart.add("", marks, stroke=not dots, show_dots=dots)
    svg: bytes = chart.render()
    return svg


def _range(values: Sequence[float], axis: Axis) -> tuple[float, float]:
    """What an axis shows: a little more than the values."""
    values = [*values, *(at for at, _ in axis.ticks or ())]
    low, high = min(values), max(values)
    if axis.from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return (low if axis.from_zero and low == 0 else low - margin), high + margin


def _on_logarithms(layers: Sequence[Layer], x: Axis, y: Axis) -> tuple[Sequence[Layer], Axis, Axis]:
    """Exponents instead of values along logarithmic axes; pygal's own logarithmic scale is that of both or none."""
    axes = []
    for side, axis in enumerate((x, y)):
        if axis.logarithmic:
            layers = [replace(layer, points=[_exponent(point, side) for point in layer.points]) for layer in layers]
            values = [point[side] for layer in layers for point in layer.points]
            axis = replace(axis, ticks=_decades(min(values), max(values), axis.unit))
        axes.append(axis)
    return layers, axes[0], axes[1]


def _exponent(point: Point, side: int) -> Point:
    return (math.log10(point[0]), point[1]) if side == 0 else (point[0], math.log10(point[1]))


def _decades(low: float, high: float, unit: str) -> list[tuple[float, str]]:
    """Ticks of a logarithmic axis between two powers of ten, given as exponents."""
    steps = (1, 2, 5) if high - low < 2 else (1,)
    exponents = range(math.floor(low), math.ceil(high) + 1)
    ticks = [step * 10.0**exponent for exponent in exponents for step in steps]
    return [(math.log10(tick), number(tick, unit, 3)) for tick in ticks if low - 0.1 <= math.log10(tick) <= high + 0.1]


def _formatter(shown: tuple[float, float], unit: str) -> Any:
    """Texts of ticks with as many digits as tell neighbours apart."""
    low, high = shown
    digits = max(3, 2 + math.ceil(math.log10(max(abs(low), abs(high)) / (high - low))))
    return lambda value: number(value, unit, digits)


def _tidy(group: ElementTree.Element) -> ElementTree.Element:
    """Without what only pygal's scripts read."""
    for parent in list(group.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}desc", f"{_SVG}title"):
                parent.remove(child)
    return group


def _axes(back: ElementTree.Element) -> str:
    """Guides and ticks."""
    parts = []
    for name in ("y", "x"):
        for axis in back.iter(f"{_SVG}g"):
            classes = axis.get("class", "").split()
            if "axis" not in classes or name not in classes:
                continue
            path = "".join(one.get("d", "") for one in axis.iter(f"{_SVG}path"))
            parts.append(f'<path class="guide" d="{_short(path)}"/>')
            parts += [
                f'<text class="tick-{name}" x="{_short(one.get("x", "0"))}" y="{_short(one.get("y", "0"))}">'
                f"{escape(one.text or '')}</text>"
                for one in axis.iter(f"{_SVG}text")
            ]
    return "".join(parts)


def _marks(
    layers: Sequence[Layer], back: ElementTree.Element, overlay: ElementTree.Element, *, tooltips: bool
) -> Iterator[str]:
    """Each layer's marks, in the style of the page."""
    for index, layer in enumerate(layers):
        wanted = f"serie-{index}"
        if layer.kind == "points":
            circles = [
                circle
                for group in overlay.iter(f"{_SVG}g")
                if wanted in group.get("class", "").split()
                for circle in group.iter(f"{_SVG}circle")
            ]
            labels = layer.labels if tooltips and layer.labels else [""] * len(circles)
            marks = "".join(
                _mark(layer, _short(f'x="{one.get("cx")}" y="{one.get("cy")}"'), label)
                for one, label in zip(circles, labels, strict=True)
            )
        else:
            path = "".join(
                one.get("d", "")
                for group in back.iter(f"{_SVG}g")
                if wanted in group.get("class", "").split()
                for one in group.iter(f"{_SVG}path")
            )
            marks = f'<path d="{_short(path)}"/>'
        yield f'<g class="{layer.kind} {layer.style}">{marks}</g>'


def _mark(layer: Layer, position: str, label: str) -> str:
    shape = f'<use href="#mark-{layer.style if layer.style in _SHAPES else "circle"}" {position}'
    return f"{shape}><title>{escape(label)}</title></use>" if label else f"{shape}/>"


def _titles(drawn: ElementTree.Element, x: Axis, y: Axis) -> str:
    """The names of the axes, where pygal left room for them."""
    titles = [text for text in drawn.iter(f"{_SVG}text") if "title" in text.get("class", "").split()]
    parts = []
    for text, axis in zip(titles, (x, y), strict=True):
        turn = f' transform="{_short(text.get("transform", ""))}"' if text.get("transform") else ""
        at_y = float(text.get("y", "0")) + (0 if turn else 4)
        at = f'x="{_short(text.get("x", "0"))}" y="{at_y:.1f}"{turn}'
        parts.append(f'<text class="axis-title" {at}>{escape(axis.title)}</text>')
    return "".join(parts)


def _swatch(layer: Layer) -> Html:
    """The mark of a layer, for the legend."""
    if layer.kind == "points":
        shape = _mark(layer, 'x="10" y="7"', "")
    elif layer.kind == "area":
        shape = '<path d="M1 2H19V12H1Z"/>'
    else:
        shape = '<path d="M1 7H19"/>'
    return Html(
        f'<svg class="swatch" viewBox="0 0 20 14" aria-hidden="true">'
        f'<g class="{layer.kind} {layer.style}">{shape}</g></svg>'
    )


def _short(text: str) -> str:
    """A tenth of a pixel is enough."""
    return _LONG_FLOAT.sub(lambda match: f"{float(match[0]):.1f}".removesuffix(".0"), text)
