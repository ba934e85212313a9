"""``sweep:`` multiplies an experiment: axes of values and groups of variants, all crossed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_llem.config.backends import BACKENDS
from pytest_llem.config.document import Node
from pytest_llem.config.merge import REPLACED_WHOLE, put
from pytest_llem.config.messages import Problem, show
from pytest_llem.config.names import FILE_KEYS, flattened, is_known, suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_llem.config.document import Mark

MAX_POINTS = 100_000

_LABEL_CHARS = 60
_NO_ID_CHARACTER = re.compile(r"[^A-Za-z0-9_.:+/-]")


@dataclass(frozen=True)
class Variant:
    """One value of an axis, or one mapping of a group.

    Attributes:
        node: what is laid over the experiment at the axis's place.
        swept: the values it sets, by dotted name; an empty variant names its place.
    """

    node: Node
    swept: Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """One entry of a sweep."""

    name: str
    variants: Sequence[Variant]
    mark: Mark


@dataclass(frozen=True)
class Point:
    """One experiment of a sweep.

    Attributes:
        id: stable from run to run, of characters that ``-k`` accepts.
        node: the experiment's mapping.
        swept: the values that the sweep set, by dotted name.
    """

    id: str
    node: Node
    swept: Mapping[str, Any]


def read_sweep(sweep: Node, room: int = MAX_POINTS) -> tuple[list[Axis], list[Problem]]:
    """The axes of a ``sweep:`` mapping, and what is wrong with it.

    Args:
        room: points that the file may still have.
    """
    if not sweep.is_mapping:
        message = "expected a mapping of fields to lists of values, such as {pytorch.batch_size: [1, 4]}"
        return [], [Problem("sweep", f"{message}; got {show(sweep.plain)}", sweep.mark)]
    axes: list[Axis] = []
    problems: list[Problem] = []
    for key, values in sweep.content.items():
        name = str(key)
        mistake = _mistake(name, values)
        if mistake is not None:
            problems.append(Problem(f"sweep.{name}", mistake, values.key or values.mark))
            continue
        variants = [Variant(node, dict(flattened(name, node.plain))) for node in values.content]
        axes.append(Axis(name, variants, values.key or values.mark))
    problems += _overlaps(axes)
    total = math.prod(len(axis.variants) for axis in axes)
    if total > room:
        message = f"makes {total} experiments, and a file holds at most {MAX_POINTS}; sweep fewer values"
        problems.append(Problem("sweep", message, sweep.key or sweep.mark))
    return axes, problems


def _mistake(name: str, values: Node) -> str | None:
    if name == "name" or name in FILE_KEYS:
        return "cannot be swept; each point has its own id already"
    if not is_known(name):
        return suggestion(name)
    if not isinstance(values.content, list):
        return f"expected a list of values, such as [{show(values.plain)}]; got {show(values.plain)}"
    if not values.content:
        return "the list is empty; give at least one value or remove it"
    if name not in REPLACED_WHOLE and len({value.is_mapping for value in values.content}) > 1:
        return "mixes mappings with other values; use {} for the variant that changes nothing"
    seen: set[str] = set()
    for value in values.content:
        # What is passed through may tell 1 from 1.0; no field does.
        text = _canonical(value.plain if name.startswith("passthrough") else _whole(value.plain))
        if text in seen:
            return f"holds {show(value.plain)} twice; keep one"
        seen.add(text)
    return None


def _overlaps(axes: Sequence[Axis]) -> Iterator[Problem]:
    """Two entries that set one field: the second would silently overwrite the first."""
    owners: dict[str, Axis] = {}
    for axis in axes:
        names = {name for variant in axis.variants for name, value in variant.swept.items() if value != {}}
        for name in sorted(names):
            for taken, owner in owners.items():
                if name == taken or name.startswith(f"{taken}.") or taken.startswith(f"{name}."):
                    message = f"{name} is swept by {owner.name} as well; sweep a field in one place"
                    yield Problem(f"sweep.{axis.name}", message, axis.mark)
                    break
        owners |= dict.fromkeys(names, axis)


def points(base: Node, axes: Sequence[Axis]) -> list[Point]:
    """All points in the order of the file, the last axis fastest.

    Where ``backend`` itself is swept, every point keeps the section of its own, and what a sweep says of the others
    makes no further points of it.
    """
    labels = _Labels(axes)
    found = list(_expand(base, axes, {}, {}, labels))
    if any(axis.name == "backend" for axis in axes):
        found = list({_canonical(point.swept): point for point in found}.values())
    count = Counter(point.id for point in found)
    # Characters that an id cannot have may be all that tells two values apart.
    return [
        point if count[point.id] == 1 else Point(f"{point.id}.{_digest(point.swept)}", point.node, point.swept)
        for point in found
    ]


def _expand(
    node: Node, axes: Sequence[Axis], parts: Mapping[str, str], swept: Mapping[str, Any], labels: _Labels
) -> Iterator[Point]:
    if not axes:
        yield _point(node, parts, swept)
        return
    axis, *rest = axes
    path = axis.name.split(".")
    for variant in axis.variants:
        yield from _expand(
            put(node, path, variant.node),
            rest,
            {**parts, axis.name: labels.of(variant)},
            {**swept, **variant.swept},
            labels,
        )


def _point(node: Node, parts: Mapping[str, str], swept: Mapping[str, Any]) -> Point:
    """The point whose axes set ``swept``, and are spelt in its id as ``parts`` say by their names."""
    if "backend" not in swept:
        return Point("-".join(parts.values()), node, swept)
    backend = swept["backend"] or BACKENDS[0]
    foreign = [other for other in BACKENDS if other != backend]
    content = {key: value for key, value in node.content.items() if key not in foreign}
    return Point("-".join(_own(parts, foreign).values()), Node(content, node.mark, node.key), _own(swept, foreign))


def _own(by_name: Mapping[str, Any], foreign: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in by_name.items() if name.partition(".")[0] not in foreign}


class _Labels:
    """How swept values are spelt in an id: the last part of a name where that is enough, else all of it."""

    def __init__(self, axes: Sequence[Axis]) -> None:
        names = {name for axis in axes for variant in axis.variants for name in variant.swept}
        self._leaves = Counter(name.rpartition(".")[2] for name in names)

    def of(self, variant: Variant) -> str:
        return "+".join(self._label(name, value) for name, value in variant.swept.items())

    def _label(self, name: str, value: Any) -> str:
        leaf = name.rpartition(".")[2]
        shown = leaf if self._leaves[leaf] == 1 else name
        return _NO_ID_CHARACTER.sub("_", f"{shown}:{_spelt(value)}")


def _spelt(value: Any) -> str:
    if value == {}:
        return "base"
    if isinstance(value, list):
        text = "+".join(_spelt(item) for item in value)
    elif isinstance(value, dict):
        text = "+".join(f"{key}:{_spelt(item)}" for key, item in value.items())
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    return text[:_LABEL_CHARS]


def _whole(value: Any) -> Any:
    """The value with whole numbers as such, however they are written."""
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return int(value) if type(value) is float and value.is_integer() else value


def _canonical(value: Any) -> str:
    return json.dumps(value, default=repr)


def _digest(value: Any) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:8]
