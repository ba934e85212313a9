"""Boards of one model: what the saved runs of others say about a board.

Boards of one model differ by several per cent in energy for the same work, runs of one board by less than one. So runs
of several boards are never one sample. What boards have in common is how much their runs differ, and where the level of
an experiment moved; how they differ from one another says whether a board stands out, and how little can be said of
one that was never measured before.

A pool is the saved runs of an experiment whose environments differ in nothing but the boards' UUIDs and the minor
version of the driver. Where an experiment ran on several boards, they count together, as one.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_llem.distributions import t_quantile
from pytest_llem.verdict.spread import MIN_SPREAD, log_mean, summarize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_llem.verdict.history import SavedRow
    from pytest_llem.verdict.spread import Run, RunSummary

    Point = tuple[float, float]

_MIN_BOARDS = 3
"""Fewer boards do not show how much boards differ."""

_MIN_OTHERS = 4
"""Beside fewer boards none stands out."""

_MIN_RUNS = 8
"""Fewer runs are no trend."""

_ALPHA = 0.001
"""Of a remark on a board about which there is nothing to say: 6% for a suite of 60 experiments if boards differ in
another way in each, and less if they do not."""


def boards_of(environment: Mapping[str, Any]) -> tuple[str, ...]:
    """The UUIDs of the boards that an experiment ran on, which do not depend on the order of the boards."""
    return tuple(sorted(str(board.get("uuid")) for board in environment.get("boards") or ()))


def model_of(board: Mapping[str, Any]) -> dict[str, Any]:
    """What boards of one pool have in common: all of an environment's entry but the UUID and the driver's minor
    version."""
    model = {key: value for key, value in board.items() if key != "uuid"}
    return model | {"driver_version": str(model.get("driver_version")).partition(".")[0]}


def memory_bytes(environment: Mapping[str, Any], gpus: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """The memory of an environment's boards, smallest first; empty where that of one is unknown.

    Args:
        gpus: boards with their ``uuid`` and ``total_memory_bytes``.
    """
    known = {gpu.get("uuid"): gpu.get("total_memory_bytes") for gpu in gpus}
    sizes = [known.get(uuid) for uuid in boards_of(environment)]
    return () if None in sizes else tuple(sorted(size for size in sizes if size is not None))


def is_pooled(row: SavedRow, other: SavedRow) -> bool:
    """Whether the environments of two rows differ in nothing that boards of one model may differ in."""
    if row.memory_bytes and other.memory_bytes and row.memory_bytes != other.memory_bytes:
        return False
    return pooled_environments(row.environment, other.environment)


def pooled_environments(this: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """:func:`is_pooled` of environments; of boards that NVML does not show nothing is known, so that they have no
    pool."""
    boards = [environment.get("boards") or [] for environment in (this, other)]
    if not all(found and all("name" in board for board in found) for found in boards):
        return False
    models = [sorted(json.dumps(model_of(board), sort_keys=True) for board in found) for found in boards]
    return models[0] == models[1] and all(this.get(key) == other.get(key) for key in {*this, *other} if key != "boards")


def is_elsewhere(row: SavedRow, other: SavedRow) -> bool:
    """Whether two rows of one pool are of different boards."""
    return boards_of(row.environment) != boards_of(other.environment)


@dataclass(frozen=True)
class Deviation:
    """How far a board is from others of its model, all relative.

    Attributes:
        change: from the mean of their means.
        interval: in which a change beyond what boards and runs differ by lies.
        boards: how many others there are.
    """

    change: float
    interval: tuple[float, float]
    boards: int


def deviation(runs: Sequence[Run], others: Sequence[Sequence[Run]], error: float) -> Deviation | None:
    """Hold the runs of a board against those of others of its model.

    Their variance V holds that between boards and the noise of their runs; with fewer runs than the others have, the
    noise of this board's mean is larger: ``V (1 + 1/K) + max(0, s^2 (1/new - mean(1/h_k)))`` for K boards of h_k runs,
    which differ by s within boards. That is a prediction interval of Student's t with K - 1 degrees of freedom.

    Args:
        others: the runs of each other board.
        error: how often the interval may miss 0 for a board like the others.

    Returns:
        ``None`` without a run, or beside fewer than three other boards.
    """
    new = summarize(runs)
    boards = [board for board in map(summarize, others) if board]
    if not new or len(boards) < _MIN_BOARDS:
        return None
    means = [log_mean(board) for board in boards]
    mean = math.fsum(means) / len(means)
    between = math.fsum((value - mean) ** 2 for value in means) / (len(means) - 1)
    variance = max(between, MIN_SPREAD**2) * (1 + 1 / len(means))
    repeats = sum(len(board) - 1 for board in boards)
    if repeats:
        within = math.fsum(_squares(board, at) for board, at in zip(boards, means, strict=True)) / repeats
        variance += max(0.0, within * (1 / len(new) - math.fsum(1 / len(board) for board in boards) / len(boards)))
    reach = t_quantile(1 - error / 2, len(means) - 1) * math.sqrt(variance)
    difference = log_mean(new) - mean
    return Deviation(
        math.expm1(difference), (math.expm1(difference - reach), math.expm1(difference + reach)), len(means)
    )


def unseen(row: SavedRow, pool: Sequence[SavedRow]) -> str:
    """Why boards without a saved run cannot be judged by those of others, and what these show.

    Args:
        pool: rows of the pool, none of them of this row's boards.
    """
    subject = "these boards together have" if len(boards_of(row.environment)) > 1 else "this board has"
    others = [_runs(rows) for rows in _other_boards(row, pool)]
    found = deviation(row.runs, others, 0.05)
    if found is None:
        few = f": {_MIN_BOARDS} would show how much they differ" if len(others) < _MIN_BOARDS else ""
        return f"{subject} no saved run, and {len(others)} of the same model{few}"
    low, high = found.interval
    return (
        f"{subject} no saved run; {found.change:+.1%} [{low:+.1%}, {high:+.1%}] from the mean of {found.boards} of the "
        "same model, which tells no change from a difference between boards"
    )


def remarks(rows: Sequence[SavedRow], pool: Sequence[SavedRow], tolerance: float) -> tuple[str, ...]:
    """What the pool says of a board that has saved runs: that it stands out, or ages.

    Args:
        rows: this board's, oldest first, which its next run is judged against.
        pool: all rows of the pool, oldest first, this board's among them.
        tolerance: a movement up to here is no ageing.
    """
    if not rows:
        return ()
    others = _other_boards(rows[-1], pool)
    found = []
    if len(others) >= _MIN_OTHERS:
        apart = deviation(_runs(rows), [_runs(board) for board in others], _ALPHA)
        if apart is not None and not apart.interval[0] <= 0 <= apart.interval[1]:
            found.append(f"its board stands out: {apart.change:+.1%} from the mean of {apart.boards} of the same model")
    moved = movement(rows, pool)
    if moved is not None and moved.is_certain and abs(moved.change) > tolerance:
        found.append(
            f"its board ages: {moved.change:+.1%} over its {len(rows)} saved runs, beside {moved.others:+.1%} on others"
        )
    return tuple(found)


@dataclass(frozen=True)
class Movement:
    """How far a board's mean moved from its first row to its last, relative, by straight lines.

    Attributes:
        change: beyond that of the other boards meanwhile.
        others: of these.
        is_certain: chance explains so much in one of 1000 boards.
    """

    change: float
    others: float
    is_certain: bool


def movement(rows: Sequence[SavedRow], pool: Sequence[SavedRow]) -> Movement | None:
    """How a board's mean moved beside those of the others, which a change of the code moves as well.

    The slopes are over the order of the pool's rows, each of which counts once, and the other boards have one in
    common. The spread about the lines is that of all boards.

    Returns:
        ``None`` for fewer than eight rows, or where no other board was measured twice meanwhile.
    """
    if len(rows) < _MIN_RUNS:
        return None
    places = {id(row): place for place, row in enumerate(pool)}
    first, last = places[id(rows[0])], places[id(rows[-1])]
    meanwhile = [_points(board, places) for board in _other_boards(rows[-1], pool[first : last + 1])]
    own, others = _line([_points(rows, places)]), _line(meanwhile)
    if own is None or others is None:
        return None
    df = own.degrees_of_freedom + others.degrees_of_freedom
    variance = max((own.squares + others.squares) / df, MIN_SPREAD**2) * (1 / own.reach + 1 / others.reach)
    difference = own.slope - others.slope
    certain = abs(difference) > t_quantile(1 - _ALPHA / 2, df) * math.sqrt(variance)
    length = last - first
    return Movement(math.expm1(difference * length), math.expm1(others.slope * length), certain)


@dataclass(frozen=True)
class _Line:
    """A slope that several groups of points have in common, each about a mean of its own.

    Attributes:
        reach: sum of squares of the places about their means.
        squares: of the values about the lines.
    """

    slope: float
    reach: float
    squares: float
    degrees_of_freedom: int


def _line(groups: Sequence[Sequence[Point]]) -> _Line | None:
    about: list[Point] = []
    for group in groups:
        centre = [math.fsum(values) / len(group) for values in zip(*group, strict=True)]
        about += [(place - centre[0], value - centre[1]) for place, value in group]
    reach = math.fsum(place**2 for place, _ in about)
    if not reach:
        return None
    slope = math.fsum(place * value for place, value in about) / reach
    squares = math.fsum((value - slope * place) ** 2 for place, value in about)
    return _Line(slope, reach, squares, len(about) - len(groups) - 1)


def _points(rows: Sequence[SavedRow], places: Mapping[int, int]) -> list[Point]:
    return [(float(places[id(row)]), log_mean(runs)) for row in rows if (runs := summarize(row.runs))]


def _other_boards(row: SavedRow, pool: Sequence[SavedRow]) -> list[list[SavedRow]]:
    """The rows of each board but this row's. Of boards that were measured with several drivers, those with the last."""
    boards: dict[tuple[str, ...], list[SavedRow]] = {}
    for known in pool:
        if is_elsewhere(row, known) and any(known.runs):
            boards.setdefault(boards_of(known.environment), []).append(known)
    return [
        [known for known in rows if known.environment_hash == rows[-1].environment_hash] for rows in boards.values()
    ]


def _runs(rows: Sequence[SavedRow]) -> list[Run]:
    return [run for row in rows for run in row.runs]


def _squares(runs: Sequence[RunSummary], mean: float) -> float:
    return math.fsum((run.log_mean - mean) ** 2 for run in runs)
