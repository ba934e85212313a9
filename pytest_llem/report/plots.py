"""A plot as its template draws it: layers of marks, each at its place in the picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pytest_llem.report.scales import Axis, Scale

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Point = tuple[float, float]
Kind = Literal["points", "line", "curve", "segments", "area"]
"""A ``curve`` was measured; a ``line`` is drawn for comparison."""

SHAPES = {
    "circle": "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "estimated": "m0-5.5l5.5 5.5l-5.5 5.5l-5.5-5.5z",
    "invalid": "m-4.5-4.5l9 9m-9 0l9-9",
    "apart": "m-3-3h6v6h-6z",
    "dominated": "m-3-3h6v6h-6z",
    "board": "m-5 0h10m-5-5v10",
    "now": "m0-6l5.5 10.5h-11z",
    "improved": "m0 6l5.5-10.5h-11z",
    "accepted": "m-2 7v-13h8l-2.5 3l2.5 3h-8",
}
"""Marks differ in shape, so that they differ without colours. Each is drawn about where a path has come to, so that one
path can hold many."""

WIDTH, HEIGHT = 480, 280
_TOP, _RIGHT, _BOTTOM = 16, 452, 232  # beside it is room for half a tick's text
_BAR_STEP, _GAP = 18, 1  # from bar to bar, and between stretches of one
_TITLE, _LETTER = 34, 8  # of an axis at the side, and of a tick's text of 13 px, at most; % is two


@dataclass(frozen=True)
class Layer:
    """Marks of one kind in a plot, drawn in the order of the layers.

    Attributes:
        style: the classes that give marks their colour and shape.
        points: positions; two for each of ``segments``, the corners of an ``area``.
        name: in the legend; ``None`` keeps it out.
        labels: what each of ``points`` shows to a mouse; for the kind ``points`` only.
    """

    kind: Kind
    style: str
    points: Sequence[Point]
    name: str | None = None
    labels: Sequence[str] = ()

    @property
    def shape(self) -> str:
        """Which of :data:`SHAPES` marks its points."""
        return next((word for word in self.style.split() if word in SHAPES), "circle")


@dataclass
class Plot:
    """A plot with its legend.

    Attributes:
        title: what it shows.
        description: what a reader who does not see it needs; the table beside it holds the numbers.
        notes: sentences for the caption.
        x_ticks, y_ticks: positions in the picture and texts.
    """

    title: str
    description: str
    layers: Sequence[Layer]
    x: Axis
    y: Axis
    notes: Sequence[str] = ()
    left: float = field(init=False)
    x_ticks: list[tuple[str, str]] = field(init=False)
    y_ticks: list[tuple[str, str]] = field(init=False)
    top, right, bottom, width, height = _TOP, _RIGHT, _BOTTOM, WIDTH, HEIGHT

    def __post_init__(self) -> None:
        self.layers = [layer for layer in self.layers if layer.points]
        if self.empty:
            return
        points = [point for layer in self.layers for point in layer.points]
        self._x_scale, self._y_scale = Scale(self.x, [x for x, _ in points]), Scale(self.y, [y for _, y in points])
        self.left = _TITLE + _LETTER * max(len(text) + text.count("%") for _, text in self._y_scale.ticks)
        self.x_ticks = [(self._across(at), text) for at, text in self._x_scale.ticks]
        self.y_ticks = [(self._down(at), text) for at, text in self._y_scale.ticks]

    @property
    def empty(self) -> bool:
        """Whether there is nothing that was measured."""
        return not any(layer.kind in ("points", "segments", "curve") for layer in self.layers)

    @property
    def legend(self) -> list[Layer]:
        """A layer for each name and style."""
        return list({(layer.name, layer.style): layer for layer in self.layers if layer.name}.values())

    def marks(self, layer: Layer) -> Iterator[tuple[str, str, str]]:
        """The place of each point, with its label."""
        labels = layer.labels or [""] * len(layer.points)
        return ((self._across(x), self._down(y), text) for (x, y), text in zip(layer.points, labels, strict=True))

    def path(self, layer: Layer) -> str:
        """What joins the points."""
        per_stroke = 2 if layer.kind == "segments" else len(layer.points)
        strokes = [
            f"{'L' if number % per_stroke else 'M'}{self._across(x)} {self._down(y)}"
            for number, (x, y) in enumerate(layer.points)
        ]
        return "".join(strokes) + ("Z" if layer.kind == "area" else "")

    def _across(self, x: float) -> str:
        return _short(self.left + self._x_scale(x) * (_RIGHT - self.left))

    def _down(self, y: float) -> str:
        return _short(_BOTTOM + self._y_scale(y) * (_TOP - _BOTTOM))


@dataclass(frozen=True)
class Stretch:
    """A part of a bar.

    Attributes:
        style: the class that gives it its colour, and dashes, so that stretches differ without colours.
        length: in the axis' unit.
        label: what it shows to a mouse.
    """

    style: str
    length: float
    label: str


@dataclass(frozen=True)
class Bar:
    """A horizontal bar of stretches, one after the other from 0."""

    name: str
    stretches: Sequence[Stretch]


@dataclass
class Bars:
    """Horizontal bars beside one another, with their legend.

    Attributes:
        title, description, notes: as of a :class:`Plot`.
        legend: a layer for each style, with its name.
        x: what their lengths are.
    """

    title: str
    description: str
    bars: Sequence[Bar]
    legend: Sequence[Layer]
    x: Axis
    notes: Sequence[str] = ()
    left: float = field(init=False)
    bottom: float = field(init=False)
    height: float = field(init=False)
    x_ticks: list[tuple[str, str]] = field(init=False)
    top, right, width = _TOP, _RIGHT, WIDTH

    def __post_init__(self) -> None:
        ends = [sum(stretch.length for stretch in bar.stretches) for bar in self.bars]
        self._scale = Scale(self.x, [0.0, *ends])
        self.left = 12 + _LETTER * max((len(bar.name) for bar in self.bars), default=0)
        self.bottom = _TOP + _BAR_STEP * len(self.bars)
        self.height = self.bottom + HEIGHT - _BOTTOM
        self.x_ticks = [(_short(self._across(at)), text) for at, text in self._scale.ticks]

    def drawn(self) -> Iterator[tuple[str, str, list[tuple[str, str, str]]]]:
        """Where the middle of each bar lies and its name; for each stretch its style, stroke and label."""
        for number, bar in enumerate(self.bars):
            middle = _short(self.top + _BAR_STEP * (number + 0.5))
            begun = 0.0
            strokes = []
            for stretch in bar.stretches:
                left, right = self._across(begun), self._across(begun + stretch.length)
                begun += stretch.length
                strokes.append(
                    (stretch.style, f"M{_short(left)} {middle}H{_short(max(right - _GAP, left))}", stretch.label)
                )
            yield middle, bar.name, strokes

    def _across(self, x: float) -> float:
        return self.left + self._scale(x) * (self.right - self.left)


def _short(pixels: float) -> str:
    """A tenth of a pixel is enough."""
    return f"{round(pixels, 1):g}"
