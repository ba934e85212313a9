"""``--llem-plan``: what a session would run, load and need, found out without running anything."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.config.base import fields_of
from pytest_llem.config.files import Experiment
from pytest_llem.engines import get_engine
from pytest_llem.engines.base import MemoryPlan
from pytest_llem.errors import UnavailableError, printable
from pytest_llem.measurement.precision import FEWEST_ROUNDS
from pytest_llem.sizes import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pytest_llem.config import ExperimentConfig, LoadConfig
    from pytest_llem.settings import Settings

# Length of a window in seconds where neither the file nor an option says it and the meter needs no longer one.
_PLAIN_WINDOW_S = 1.0
_METERS_WITH_PLAIN_WINDOWS = ("rapl", "estimate", "none")


@dataclass(frozen=True)
class PlannedItem:
    """An item that would run.

    Attributes:
        nodeid: pytest's name of it.
        config: its experiment.
        folder: where relative paths of it start.
        load: the model it needs, ``None`` for a test without one.
    """

    nodeid: str
    config: ExperimentConfig
    folder: Path
    load: LoadConfig | None


@dataclass(frozen=True)
class Plan:
    """The items of a session in run order.

    Attributes:
        loads: items that share a loaded model and run back to back; a model that is needed again later is loaded
            again.
        skipped: node id and reason of what is skipped, as far as it is known before anything is loaded.
        invalid: node id and first message of what does not validate.
        others: number of tests that are no experiments.
    """

    loads: Sequence[Sequence[PlannedItem]]
    skipped: Sequence[tuple[str, str]]
    invalid: Sequence[tuple[str, str]]
    others: int


class Planner:
    """The plugin of a session that prints its plan."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of the tests: print the plan."""
        made = make_plan(session.items)
        session.config.get_terminal_writer().write(render(made, self._settings))
        session.testsfailed += len(made.invalid)
        return True


def make_plan(items: Sequence[pytest.Item]) -> Plan:
    """Sort the collected ``items``."""
    from pytest_llem.collection import NOT_RUN

    planned: list[PlannedItem] = []
    skipped: list[tuple[str, str]] = []
    invalid: list[tuple[str, str]] = []
    others = 0
    for item in items:
        parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
        experiment = parameters.get("llem_experiment")
        if not isinstance(experiment, Experiment):
            others += 1
            continue
        reasons = [str(mark.kwargs.get("reason") or "skipped") for mark in item.iter_markers("skip")]
        # Without a device everything is skipped; the plan is what would run with one.
        reasons = [reason for reason in reasons if reason != NOT_RUN]
        if experiment.errors:
            invalid.append((item.nodeid, experiment.errors[0].splitlines()[0]))
        elif reasons:
            skipped.append((item.nodeid, "; ".join(reasons)))
        else:
            load = parameters.get("llem_model")
            planned.append(PlannedItem(item.nodeid, experiment.valid_config, experiment.path.parent, load))
    loads = [list(group) for _, group in itertools.groupby(planned, key=lambda item: item.load)]
    return Plan(loads, skipped, invalid, others)


def least_s(config: ExperimentConfig, settings: Settings) -> float | None:
    """Seconds that measuring ``config`` takes at least: its rounds, each of its shortest window.

    Loading, warming up and filling a window with whole passes come on top. ``None`` where the length of a window is
    known only once the sensor is probed.
    """
    window_s = config.measure.min_window_s if settings.min_window_s is None else settings.min_window_s
    if window_s is None or window_s == "auto":
        is_plain = settings.meter in _METERS_WITH_PLAIN_WINDOWS or (
            settings.meter == "auto" and settings.device == "cpu"
        )
        if not is_plain:
            return None
        window_s = _PLAIN_WINDOW_S
    rounds = settings.rounds or config.measure.rounds
    return (FEWEST_ROUNDS if rounds == "auto" else rounds) * window_s


def render(plan: Plan, settings: Settings) -> str:
    """The plan as text, several lines."""
    lines: list[str] = []
    memory = _Memory()
    seconds: list[float | None] = []
    for number, items in enumerate(plan.loads, 1):
        lines.append(f"load {number}: {_load_text(items[0].load)}")
        for item in items:
            seconds.append(least_s(item.config, settings))
            lines += (f"  {item.nodeid}", f"    memory: {memory.of(item)}; time: {_time_text(seconds[-1])}")
    lines += _listed("skipped", plan.skipped)
    lines += _listed("not valid", plan.invalid)
    return "\n".join([*map(printable, lines), *_totals(plan, seconds, memory)]) + "\n"


def _listed(title: str, found: Sequence[tuple[str, str]]) -> Iterator[str]:
    if found:
        yield f"{title}:"
    for nodeid, reason in found:
        yield f"  {nodeid}"
        yield f"    {reason}"


def _totals(plan: Plan, seconds: Sequence[float | None], memory: _Memory) -> Iterator[str]:
    loaded = [items for items in plan.loads if items[0].load is not None]
    distinct = len({items[0].load for items in loaded})
    again = f" ({distinct} different models)" if distinct < len(loaded) else ""
    counts = [
        _counted(len(seconds), "item"),
        f"{_counted(len(loaded), 'load')}{again}",
        f"{len(plan.skipped)} skipped",
        f"{len(plan.invalid)} not valid",
    ]
    if plan.others:
        counts.append(_counted(plan.others, "other test"))
    yield f"llem plan: {', '.join(counts)}"
    known = [item_s for item_s in seconds if item_s is not None]
    unknown = len(seconds) - len(known)
    beside = f", and {_counted(unknown, 'item')} whose windows the sensor decides" if unknown else ""
    yield (f"time: at least {_duration(sum(known))}{beside}; loading, warming up and whole passes come on top")
    if memory.largest_bytes is not None:
        yield f"memory: up to {size(memory.largest_bytes)} of weights and KV cache; activations come on top"


class _Memory:
    """Predictions, made once for experiments that need the same.

    Attributes:
        largest_bytes: weights and key-value cache of the largest item so far; ``None`` while none is known.
    """

    def __init__(self) -> None:
        self.largest_bytes: int | None = None
        self._texts: dict[Any, str] = {}

    def of(self, item: PlannedItem) -> str:
        """What ``item`` needs, for people."""
        if item.load is None:
            return "no model"
        beside_work = fields_of(type(item.config), "measurement", "session")
        key = (item.load, item.config.model_copy(update=dict.fromkeys(beside_work)))
        if key not in self._texts:
            self._texts[key] = self._predicted(item)
        return self._texts[key]

    def _predicted(self, item: PlannedItem) -> str:
        try:
            found = get_engine(item.config.backend).predict_memory(item.config, item.folder)
        except UnavailableError as error:
            found = MemoryPlan(None, None, str(error))
        if found.weights_bytes is None:
            return f"unknown: {found.reason}"
        if found.total_bytes is None or found.kv_cache_bytes is None:
            return f"{size(found.weights_bytes)} weights + unknown KV cache: {found.reason}"
        self.largest_bytes = max(found.total_bytes, self.largest_bytes or 0)
        return f"{size(found.weights_bytes)} weights + {size(found.kv_cache_bytes)} KV cache"


def _load_text(load: LoadConfig | None) -> str:
    if load is None:
        return "no model"
    options = {
        **({"weights": load.weights} if load.weights != "pretrained" else {}),
        **load.pytorch.model_dump(exclude_none=True),
        **load.from_pretrained,
        **load.backend_options,
    }
    return ", ".join([load.model, load.precision, *(f"{name}: {_spelt(value)}" for name, value in options.items())])


def _spelt(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _time_text(seconds: float | None) -> str:
    return "windows as long as the sensor needs" if seconds is None else f"at least {_duration(seconds)}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
