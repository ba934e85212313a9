"""Why a result is as it is: a board that waited for its host, rounds that differ.

All of it is told from what a record holds, so that saved and merged results have it, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pytest_llem.config import ExperimentConfig
from pytest_llem.config.kv_cache import STATIC_CACHES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_llem.measurement.result import ExperimentResult, Round
    from pytest_llem.records.record import Record

# Of a board's energy, what it would have drawn at rest: from here on it had little to do.
_WAITED = 0.6
# Rounds that differ by more than that are explained; a clock that differs by less is the same.
_DIFFER, _SAME_CLOCK = 0.03, 0.01
_MEGAHERTZ = 1e6


@dataclass(frozen=True)
class Waiting:
    """A board that drew little more than at rest.

    Attributes:
        idle_share: of the energy.
        remedies: fields of the experiment's file that may change it, as they would be set.
    """

    idle_share: float
    remedies: tuple[str, ...]


def waiting(record: Record) -> Waiting | None:
    """How much a board has waited; ``None`` unless a board's own meter says so and the model ran on it."""
    result = record.result
    share = result.idle_share
    on_boards = {board.get("uuid") for board in record.environment.get("boards") or ()} & set(result.boards)
    if share is None or share <= _WAITED or result.estimated:
        return None
    if record.environment.get("device") != "cuda" or not on_boards:
        return None
    return Waiting(share, tuple(_remedies(record.config or {})))


def explanations(record: Record) -> tuple[str, ...]:
    """All that there is to explain of a result, a sentence each."""
    found = waiting(record)
    texts = (None if found is None else waiting_line([found.idle_share], found.remedies), rounds_differ(record.result))
    return tuple(text for text in texts if text is not None)


def waiting_line(shares: Sequence[float], remedies: Sequence[str]) -> str:
    """What waiting means and what may be done, for results of these idle shares that have the same remedies."""
    low, high = f"{min(shares):.0%}", f"{max(shares):.0%}"
    text = f"idle power is {low if low == high else f'{low} to {high}'} of the energy: the board waited for the host"
    return f"{text}; what may change that: {', '.join(remedies)}" if remedies else text


def _remedies(values: Mapping[str, Any]) -> Iterator[str]:
    """What keeps a board busier and is neither set nor refused beside what is set.

    Args:
        values: the resolved configuration.
    """
    config = _valid(values)
    if config is None or config.backend != "pytorch":
        return
    options = values.get("pytorch") or {}

    def allowed(**changes: Any) -> bool:
        return _valid({**values, "pytorch": {**options, **changes}}) is not None

    # The other kinds save memory, which a static cache would not.
    if options.get("cache_implementation") in (None, "dynamic") and allowed(cache_implementation="static"):
        yield "pytorch.cache_implementation: static"
    # generate() compiles by itself with a static cache.
    compiles = options.get("cache_implementation") in STATIC_CACHES and "torch_compile" not in options
    if not options.get("torch_compile") and not compiles and allowed(torch_compile=True):
        yield "pytorch.torch_compile: true"
    size, prompts = options.get("batch_size", 1), config.prompt_count
    if (prompts is None or size < prompts) and allowed(batch_size=size + 1):
        bound = f"where there are more than {size} prompts" if prompts is None else f"up to {prompts}"
        yield f"a larger pytorch.batch_size ({bound})"


def _valid(values: Mapping[str, Any]) -> ExperimentConfig | None:
    """The configuration; ``None`` for one that this version refuses, as a result's of another version may be."""
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError:
        return None


def rounds_differ(result: ExperimentResult) -> str | None:
    """``rounds differ by 8%: the time by 8%, the power by 1%; the SM clock stayed at 1980 MHz``.

    A difference is the largest value over the least one, less 1; the first that of energy or time, whichever differs
    more. ``None`` where neither does by more than 3%.
    """
    rounds = result.per_round
    known = [window for window in rounds if window.joules is not None and window.seconds > 0]
    time = _difference([window.seconds for window in rounds])
    moved = {"time": time}
    most = time
    if len(known) == len(rounds):
        most = max(time, _difference([window.joules or 0.0 for window in known]))
        moved["power"] = _difference([(window.joules or 0.0) / window.seconds for window in known])
    if most <= _DIFFER:
        return None
    # Where sequences end by themselves, rounds may differ in their work.
    if tokens := _difference([window.output_tokens or 0 for window in rounds]):
        moved["output tokens"] = tokens
    text = f"rounds differ by {most:.0%}: " + ", ".join(f"the {name} by {value:.0%}" for name, value in moved.items())
    clock = _clock(rounds)
    return text if clock is None else f"{text}; {clock}"


def _difference(values: Sequence[float]) -> float:
    """The largest over the least, less 1; 0 where a value is not known."""
    return max(values) / min(values) - 1 if values and min(values) > 0 else 0.0


def _clock(rounds: Sequence[Round]) -> str | None:
    """What the clocks did from round to round; ``None`` where fewer than two rounds have them."""
    clocks: dict[str, list[float]] = {}
    for window in rounds:
        for board, hertz in window.sm_clock_hz.items():
            clocks.setdefault(board, []).append(hertz)
    followed = [values for values in clocks.values() if len(values) > 1]
    if not followed:
        return None
    moved = max(followed, key=_difference)
    if _difference(moved) > _SAME_CLOCK:
        return f"the SM clock was {_megahertz(min(moved))} to {_megahertz(max(moved))} MHz"
    texts = dict.fromkeys(_megahertz(values[-1]) for values in followed)
    return f"the SM clock stayed at {' and '.join(texts)} MHz"


def _megahertz(hertz: float) -> str:
    return f"{hertz / _MEGAHERTZ:.0f}"
