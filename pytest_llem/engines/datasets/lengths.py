"""Lengths of prompts and outputs: the same for the same seed on every machine, and exact in their sum.

``n`` lengths of a truncated normal distribution are its quantiles at ``(i + 1/2) / n``, about the centre that gives the
mean, each rounded down; what is missing of ``round(n * mean)`` goes to those that lost most. Those of a histogram have
each length as often as its share of ``n`` says, rounded down, and what is missing goes to those that lost most (the
method of the largest remainder). Their order is that of a random number for each.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llem.distributions import truncated_normal_quantiles
from pytest_llem.engines.datasets.files import document, table
from pytest_llem.errors import PromptError, about

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_llem.config.lengths import Lengths

# What is told of them apart is far below a token, and far above what platforms make of a logarithm.
_DIGITS = 6
_NO_TOKENS = 1e-9
_STEPS = 60
_MOST_DIGITS = 18
# Farther than any centre that the configuration allows.
_FARTHEST_CENTRE = 6.0


def lengths_of(lengths: Lengths, n: int, *, of: str, seed: int, folder: Path, limit: int, limited_by: str) -> list[int]:
    """``n`` lengths, in an order that ``seed`` decides.

    Args:
        of: what they are lengths of; those of inputs and outputs have orders of their own.
        folder: where the relative path of a histogram starts.
        limit: the greatest length there may be.
        limited_by: the field that says so.

    Raises:
        PromptError: the histogram cannot be read, or has other lengths.
    """
    if lengths.file is not None:
        found = _as_in(_histogram(folder / Path(lengths.file).expanduser(), limit, limited_by), n)
    elif lengths.mean is not None and lengths.sd is not None:
        found = truncated_normal(n, lengths.mean, lengths.sd, lengths.least, lengths.greatest(limit))
    draw = random.Random(f"{of} lengths {seed}").random  # noqa: S311  (reproducible on purpose)
    # random() is the one method whose sequence is promised to stay.
    keys = [draw() for _ in found]
    return [found[place] for place in sorted(range(n), key=keys.__getitem__)]


def truncated_normal(n: int, mean: float, sd: float, low: int, high: int) -> list[int]:
    """``n`` lengths from ``low`` to ``high``, ascending, whose sum is ``round(n * mean)``.

    Args:
        sd: of the normal distribution before it is truncated.
    """
    exact = _of_mean(n, mean, sd, low, high) if sd and low < high else [mean] * n
    return _rounded([round(length, _DIGITS) for length in exact], round(n * mean))


def _of_mean(n: int, mean: float, sd: float, low: int, high: int) -> list[float]:
    """The quantiles about the centre that gives ``mean``, which is found by regula falsi (the Illinois algorithm)."""
    places = [(place + 0.5) / n for place in range(n)]

    def at(centre: float) -> tuple[list[float], float]:
        found = truncated_normal_quantiles(places, centre, sd, low, high)
        return found, math.fsum(found) / n - mean

    lowest, highest = low - _FARTHEST_CENTRE * sd, high + _FARTHEST_CENTRE * sd
    (exact, below), (longest, above) = at(lowest), at(highest)
    if not below < 0 < above:
        # The mean is a bound, but for rounding.
        return exact if below >= 0 else longest
    side = 0
    for _ in range(_STEPS):
        centre = (lowest * above - highest * below) / (above - below)
        exact, off = at(centre)
        if abs(off) < _NO_TOKENS:
            break
        # An end that stays twice counts half, so that both come nearer.
        if off < 0:
            lowest, below, above = centre, off, above / 2 if side < 0 else above
        else:
            highest, above, below = centre, off, below / 2 if side > 0 else below
        side = -1 if off < 0 else 1
    return exact


def _as_in(histogram: Sequence[tuple[int, int]], n: int) -> list[int]:
    total = sum(count for _, count in histogram)
    # In whole numbers, of which nothing is lost.
    lowest = [n * count // total for _, count in histogram]
    lost = [n * count % total for _, count in histogram]
    for place in _most(lost, n - sum(lowest)):
        lowest[place] += 1
    return [length for (length, _), times in zip(histogram, lowest, strict=True) for _ in range(times)]


def _rounded(exact: Sequence[float], total: int) -> list[int]:
    found = [math.floor(length) for length in exact]
    for place in _most([length - math.floor(length) for length in exact], total - sum(found)):
        found[place] += 1
    return found


def _most(values: Sequence[float], count: int) -> list[int]:
    """The places of the ``count`` greatest values; of equal ones the first."""
    return sorted(range(len(values)), key=lambda place: -values[place])[:count]


def _histogram(path: Path, limit: int, limited_by: str) -> list[tuple[int, int]]:
    """Lengths, ascending, and how often there is each."""
    found: dict[int, int] = {}
    read = {".csv": _from_csv, ".json": _from_json}.get(path.suffix.lower())
    with about(file=str(path)):
        if read is None:
            raise PromptError("a histogram of lengths is read from .csv or .json")
        for length, count, line in read(path):
            with about(file=str(path), line=line):
                if length < 1 or count < 0:
                    raise PromptError(f"{length},{count} is no length from 1 on and its count")
                if length > limit:
                    raise PromptError(f"{length} is above {limited_by} ({limit}); leave it out or raise {limited_by}")
                if length in found:
                    raise PromptError(f"has the length {length} twice; add up its counts")
                found[length] = count
        if not any(found.values()):
            raise PromptError("holds no lengths")
    return sorted(found.items())


def _from_csv(path: Path) -> Iterator[tuple[int, int, int | None]]:
    for row, line in table(path):
        cells = [cell.strip() for cell in row]
        if line == 1 and cells == ["length", "count"]:
            continue
        with about(file=str(path), line=line):
            if len(cells) != 2 or not all(map(_is_number, cells)):
                raise PromptError("expected a length and its count, such as 128,5")
        yield int(cells[0]), int(cells[1]), line


def _from_json(path: Path) -> Iterator[tuple[int, int, int | None]]:
    content = document(path)
    if not isinstance(content, dict):
        raise PromptError('expected {length: count}, such as {"128": 5}')
    for length, count in content.items():
        if not _is_number(length) or not isinstance(count, int) or isinstance(count, bool):
            raise PromptError(f'{length!r}: expected a length and its count, such as "128": 5')
        yield int(length), count, None


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= _MOST_DIGITS
