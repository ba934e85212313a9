"""``--llem-plan``: what a session would run, load and need, found out without running anything."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.config.backends import BACKENDS
from pytest_llem.config.base import fields_of
from pytest_llem.config.files import Experiment
from pytest_llem.engines import get_engine
from pytest_llem.engines.base import MemoryPlan
from pytest_llem.errors import UnavailableError, printable
from pytest_llem.items import parameters
from pytest_llem.session.past_runs import past_runs, predictable
from pytest_llem.session.prediction import Duration, Predictor, in_words
from pytest_llem.sizes import size
from pytest_llem.verdict.pairs import MIN_PAIRS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pytest_llem.config import ExperimentConfig, LoadConfig
    from pytest_llem.settings import Settings


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
        config, settings = session.config, self._settings
        made = make_plan(session.items)
        planned = {item.nodeid for items in made.loads for item in items}
        runs = past_runs(config, settings) if config.pluginmanager.has_plugin("benchmark") else []
        asked = predictable((item for item in session.items if item.nodeid in planned), settings)
        predictor = Predictor(asked, runs)
        text = render(made, predictor)
        if made.loads and (what := _states(settings)) is not None:
            text += f"{pairs_line(made, predictor, settings.pairs, what)}\n"
        if settings.ray is not None:
            text += "these are the times of one machine; with --llem-ray several loads run at a time\n"
        config.get_terminal_writer().write(text)
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
        experiment = parameters(item).get("llem_experiment")
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
            load = parameters(item).get("llem_model")
            planned.append(PlannedItem(item.nodeid, experiment.valid_config, experiment.path.parent, load))
    loads = [list(group) for _, group in itertools.groupby(planned, key=lambda item: item.load)]
    return Plan(loads, skipped, invalid, others)


def render(plan: Plan, predictor: Predictor) -> str:
    """The plan as text, several lines."""
    lines: list[str] = []
    memory = _Memory()
    durations: list[Duration] = []
    for number, items in enumerate(plan.loads, 1):
        load = items[0].load
        loading = predictor.load(load)
        known = load is not None and loading.runs
        lines.append(f"load {number}: {_load_text(load)}{f' ({loading})' if known else ''}")
        if known:
            durations.append(loading)
        for item in items:
            duration = predictor.item(item.nodeid)
            durations.append(duration)
            lines += (f"  {item.nodeid}", f"    memory: {memory.of(item)}; time: {_time_text(duration)}")
    lines += _listed("skipped", plan.skipped)
    lines += _listed("not valid", plan.invalid)
    return "\n".join([*map(printable, lines), *_totals(plan, durations, memory)]) + "\n"


def _states(settings: Settings) -> str | None:
    """The option by which states of the code would be compared."""
    if settings.bisect is not None:
        return "--llem-bisect"
    return None if settings.against is None else "--llem-against"


def _listed(title: str, found: Sequence[tuple[str, str]]) -> Iterator[str]:
    if found:
        yield f"{title}:"
    for nodeid, reason in found:
        yield f"  {nodeid}"
        yield f"    {reason}"


def _totals(plan: Plan, durations: Sequence[Duration], memory: _Memory) -> Iterator[str]:
    """The last lines.

    Args:
        durations: of the items, and of the loads that are known.
    """
    loaded = [items for items in plan.loads if items[0].load is not None]
    distinct = len({items[0].load for items in loaded})
    again = f" ({distinct} different models)" if distinct < len(loaded) else ""
    counts = [
        _counted(sum(map(len, plan.loads)), "item"),
        f"{_counted(len(loaded), 'load')}{again}",
        f"{len(plan.skipped)} skipped",
        f"{len(plan.invalid)} not valid",
    ]
    if plan.others:
        counts.append(_counted(plan.others, "other test"))
    yield f"llem plan: {', '.join(counts)}"
    least = [duration for duration in durations if not duration.runs]
    total_s = sum(duration.seconds or 0.0 for duration in durations)
    if durations and not least:
        yield f"time: about {in_words(total_s)}, as earlier runs took"
    else:
        unknown = sum(duration.seconds is None for duration in least)
        beside = f", and {_counted(unknown, 'item')} whose windows the sensor decides" if unknown else ""
        earlier_s = sum(duration.seconds or 0.0 for duration in durations if duration.runs)
        earlier = f"; {in_words(earlier_s)} of it as earlier runs took, of the rest" if earlier_s else ";"
        yield f"time: at least {in_words(total_s)}{beside}{earlier} loading, warming up and whole passes come on top"
    if memory.largest_bytes is not None:
        yield f"memory: up to {size(memory.largest_bytes)} of weights and KV cache; activations come on top"


def pairs_line(plan: Plan, predictor: Predictor, most: int, what: str) -> str:
    """What pairs of processes take, in each of which both sides load every model and measure all.

    Args:
        most: pairs that there may be.
        what: the option that asks for them.
    """
    items = [item for items in plan.loads for item in items]
    loads = {item.load for item in items}
    durations = [*map(predictor.load, loads), *(predictor.item(item.nodeid) for item in items)]
    pair_s = 2 * sum(duration.seconds or 0.0 for duration in durations)
    counts = " or ".join(f"{in_words(pairs * pair_s)} for {pairs}" for pairs in dict.fromkeys((MIN_PAIRS, most)))
    about = "about" if all(duration.runs for duration in durations) else "at least"
    further = ", and then pairs of single commits" if what == "--llem-bisect" else ""
    return (
        f"{what}: a pair of all takes {about} {in_words(pair_s)}, on both sides together: {counts} pairs{further}; "
        "starting the processes comes on top"
    )


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
        **({"parallel.tensor": load.tensor} if load.tensor > 1 else {}),
        **load.pytorch.model_dump(exclude_none=True),
        **load.from_pretrained,
        **load.backend_options,
    }
    engine = [] if load.backend == BACKENDS[0] else [load.backend]
    return ", ".join(
        [load.model, load.precision, *engine, *(f"{name}: {_spelt(value)}" for name, value in options.items())]
    )


def _spelt(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _time_text(duration: Duration) -> str:
    if not duration.runs:
        return str(duration)
    return f"{duration} (as the last {'run' if duration.runs == 1 else f'{duration.runs} runs'})"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
