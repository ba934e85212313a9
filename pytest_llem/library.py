"""``measure()``: experiments outside pytest, measured as a session measures them."""

from __future__ import annotations

import json
import numbers
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from pydantic import ValidationError

from pytest_llem.config import Experiment, ExperimentConfig, MeasureConfig, load_experiments
from pytest_llem.config.document import parse_document
from pytest_llem.config.files import parse_experiments
from pytest_llem.config.messages import place_of, problems
from pytest_llem.engines import get_engine
from pytest_llem.errors import ConfigError, ExperimentFileError, LlemError, MeasurementError, UnavailableError
from pytest_llem.footprint import MOST_FACTOR, Footprint, parse_price, with_footprint
from pytest_llem.grids import find_grid
from pytest_llem.measurement.account import Account
from pytest_llem.measurement.experiment import measure_experiment
from pytest_llem.measurement.open_meters import OpenMeters
from pytest_llem.meters.nvidia.lock import LOCK_TIMEOUT_S, lock_visible_boards, say_on_stderr
from pytest_llem.records.machine import require_cuda
from pytest_llem.verdict.gates import OUTPUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_llem.config import LoadConfig
    from pytest_llem.engines.base import LoadedModel
    from pytest_llem.measurement.result import ExperimentResult

T = TypeVar("T")

Config = Mapping[str, Any] | ExperimentConfig | Experiment | str | os.PathLike[str]
"""What :func:`measure` takes for an experiment."""

# What is none of these is a list of them; bytes are neither.
_CONFIG = (Mapping, ExperimentConfig, Experiment, str, os.PathLike, bytes)

Progress = Callable[[Experiment, str, int, int, float], None]
"""Called between passes and windows: with the experiment, what runs, such as ``round``, how many of them are over, of
how many at most, and the seconds of the last one."""

# One process has one set of boards and one processor.
_BUSY = threading.Lock()
# Its id, and those that it inherited.
_HAVE_MEASURED: set[int] = set()


@overload
def measure(  # type: ignore[overload-overlap]  # text is a path, not a list
    config: Config,
    *,
    device: Literal["cpu", "cuda"] | None = None,
    meter: str = "auto",
    host: str = "auto",
    rounds: int | Literal["auto"] | None = None,
    min_window_s: float | None = None,
    region: str | float | None = None,
    price: str | float | None = None,
    pue: float = 1.0,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    progress: Progress | None = None,
) -> ExperimentResult: ...


@overload
def measure(
    config: Iterable[Config],
    *,
    device: Literal["cpu", "cuda"] | None = None,
    meter: str = "auto",
    host: str = "auto",
    rounds: int | Literal["auto"] | None = None,
    min_window_s: float | None = None,
    region: str | float | None = None,
    price: str | float | None = None,
    pue: float = 1.0,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    progress: Progress | None = None,
) -> list[ExperimentResult]: ...


def measure(
    config: Config | Iterable[Config],
    *,
    device: Literal["cpu", "cuda"] | None = None,
    meter: str = "auto",
    host: str = "auto",
    rounds: int | Literal["auto"] | None = None,
    min_window_s: float | None = None,
    region: str | float | None = None,
    price: str | float | None = None,
    pue: float = 1.0,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    progress: Progress | None = None,
) -> ExperimentResult | list[ExperimentResult]:
    """Measure an experiment, or several, outside pytest: with the same checks, windows and locks as a session.

    Nothing is saved or judged. The model is loaded for the call and freed with it; experiments of a list that load the
    same thing share a load.

    Args:
        config: a mapping as in a file, an ``ExperimentConfig``, an ``Experiment``, or the path of a file. Relative
            paths in a mapping or an ``ExperimentConfig`` start at the working directory. Or a list of these, in which a
            file or a mapping may hold several experiments, by ``sweep:`` or ``experiments:``.
        device: ``cpu`` or ``cuda``. Default: what the experiments say; where they say ``any``, the GPU if torch can use
            one, else the CPU, with a warning in the result.
        meter: one of :func:`pytest_llem.meters.meter_names`, see :func:`pytest_llem.open_meter`.
        host: what reads the processor and its memory beside the boards, as of the same function.
        rounds: wins over ``measure.rounds``.
        min_window_s: wins over ``measure.min_window_s``, in seconds.
        region: with it results tell their carbon: ISO 3166 alpha 3 code of the country whose grid feeds this machine
            (extra ``carbon``), or grams of CO2 equivalent a kilowatt-hour.
        price: with it they tell their cost: of a kilowatt-hour, such as ``0.30`` or ``"0.30EUR"``.
        pue: power usage effectiveness of the data centre, at least 1, which multiplies both.
        lock_timeout_s: how long to wait for each GPU that another process measures, in seconds; who is waited for is
            written to the standard error.
        progress: called between passes and windows with the experiment, what runs, such as ``round``, how many of them
            are over, of how many at most, and the seconds of the last one.

    Returns:
        The result; of a list a list, in its order.

    Raises:
        ConfigError: what was given is no experiment, or several where it is no list.
        UnavailableError: it cannot run on this machine: a session would skip it.
        LlemError: it failed. Whatever ends the measuring of a list has what was measured until then as ``results``,
            with ``None`` for the rest.
    """
    several = isinstance(config, Iterable) and not isinstance(config, _CONFIG)
    entries: Iterable[Any] = config if several else [config]  # type: ignore[assignment]
    named = [(f"config[{index}]" if several else "config", entry) for index, entry in enumerate(entries)]
    experiments = [experiment for name, entry in named for experiment in _experiments(entry, name)]
    if not several and len(experiments) > 1:
        raise ConfigError(
            f"{experiments[0].path.name} holds {len(experiments)} experiments; for a list of their results write "
            "measure([...]) around it"
        )
    _require_valid(experiments)
    _require_overrides(rounds, min_window_s)
    footprint = _footprint(region, price, pue)
    with _alone(), ExitStack() as held:
        chosen, notes = _choose_device(device, experiments)
        _require_device(experiments, chosen)

        def finish(result: ExperimentResult) -> ExperimentResult:
            result = replace(result, warnings=[*notes, *result.warnings])
            return result if footprint is None else with_footprint(result, footprint)

        if chosen == "cuda" and (locks := lock_visible_boards(timeout_s=lock_timeout_s)) is not None:
            held.callback(locks.release)
        opened = OpenMeters(str(meter), chosen, host=str(host), lock_timeout_s=lock_timeout_s, say=say_on_stderr)
        meters = held.enter_context(closing(opened))
        for processes in {experiment.valid_config.parallel.tensor for experiment in experiments}:
            # One that cannot work says so before anything is loaded.
            meters.of((), processes)
        results = _measured(experiments, chosen, meters, rounds, min_window_s, progress, finish)
    return results if several else results[0]


def _measured(
    experiments: Sequence[Experiment],
    device: str,
    meters: OpenMeters,
    rounds: int | Literal["auto"] | None,
    min_window_s: float | None,
    progress: Progress | None,
    finish: Callable[[ExperimentResult], ExperimentResult],
) -> list[ExperimentResult]:
    """The results, in the order of the experiments; ``finish`` adds what the call knows of each."""
    found: list[Any] = [None] * len(experiments)
    try:
        for load, indices in _by_load(experiments).items():
            account = Account()
            with ExitStack() as held:
                with _at(experiments[indices[0]]), account.of("load"):
                    model = held.enter_context(_loaded(load, device))
                for index in indices:
                    experiment = experiments[index]
                    with _at(experiment):
                        # The work is not kept: it would keep the model.
                        result = measure_experiment(
                            experiment.valid_config,
                            experiment.path.parent,
                            model,
                            meters.of(model.gpu_uuids, model.processes),
                            idle_power=meters.idle_power,
                            account=account,
                            rounds=rounds,
                            min_window_s=min_window_s,
                            progress=progress and partial(progress, experiment),
                            keeps_generated=OUTPUT in experiment.valid_config.compare,
                        )[0]
                    found[index] = finish(result)
                    account = Account()
    except BaseException as failure:
        vars(failure).update(results=found)
        raise
    return found


def _experiments(config: object, name: str) -> list[Experiment]:
    """What :data:`Config` holds, valid or not; ``name`` is how messages call it."""
    folder = Path.cwd()
    try:
        if isinstance(config, Experiment):
            return [config]
        if isinstance(config, ExperimentConfig):
            return [Experiment(config.name or name, None, folder / name, 0, config)]
        if isinstance(config, Mapping):
            return parse_experiments(_yaml(config, name), name, folder)
        if isinstance(config, str | os.PathLike):
            return load_experiments(Path(config))
    except ExperimentFileError as error:
        raise ConfigError(error.shown) from None
    raise ConfigError(f"{name}: expected a mapping, an ExperimentConfig or the path of a file, got {config!r:.100}")


def _yaml(mapping: Mapping[str, Any], name: str) -> str:
    """The mapping as text that a file could hold, for messages that show the place: JSON, all of which is YAML."""
    try:
        return json.dumps(mapping, indent=2, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: {error}") from None


def _plain(value: object) -> object:
    """What a file would say for a value of another type, such as numpy's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"expected text, numbers, lists and mappings, got {value!r:.100}")


def _require_overrides(rounds: object, min_window_s: object) -> None:
    given = {"rounds": rounds, "min_window_s": min_window_s}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        MeasureConfig.model_validate(given)
    except ValidationError as error:
        # Their place is the call's.
        root = parse_document(json.dumps(given, default=repr), "").root
        raise ConfigError("\n".join(map(str, problems(error.errors(include_url=False), root)))) from None


def _footprint(region: str | float | None, price: str | float | None, pue: float) -> Footprint | None:
    if not isinstance(pue, int | float) or not 1 <= pue <= MOST_FACTOR:
        raise ConfigError(f"pue: expected a number, at least 1, got {pue!r}")
    if region is None and price is None:
        if pue != 1:
            raise ConfigError("pue: it multiplies carbon and cost; give region or price with it")
        return None
    grid = {} if region is None else vars(_read("region", find_grid, region))
    price_per_kwh, currency = (None, None) if price is None else _read("price", parse_price, price)
    return Footprint(**grid, pue=pue, price_per_kwh=price_per_kwh, currency=currency)


def _read(name: str, reader: Callable[[str], T], value: object) -> T:
    try:
        return reader(str(value))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


def _require_valid(experiments: Sequence[Experiment]) -> None:
    errors = [message for experiment in experiments for message in experiment.errors]
    if errors:
        raise ConfigError("\n".join(errors))
    for experiment in experiments:
        if experiment.contradiction is not None:
            message = f"{experiment.name}[{experiment.id}] contradicts itself: {experiment.contradiction}"
            raise UnavailableError(message, file=experiment.path.name, line=experiment.line)


def _choose_device(asked: str | None, experiments: Sequence[Experiment]) -> tuple[str, list[str]]:
    """Where to run, and what a reader of the results must know of that."""
    if asked not in (None, "cpu", "cuda"):
        raise ConfigError(f"device: expected cpu or cuda, got {asked!r}")
    wanted = {experiment.valid_config.device for experiment in experiments} - {"any"}
    device = asked or ("cuda" if "cuda" in wanted else "cpu" if wanted else None)
    if device == "cpu" or not experiments:
        return "cpu", []
    try:
        require_cuda("device")
    except UnavailableError as error:
        if device is not None:
            raise
        return "cpu", [f"measured on the CPU, because no GPU can be used; {error}"]
    return "cuda", []


def _require_device(experiments: Sequence[Experiment], device: str) -> None:
    for experiment in experiments:
        wanted = experiment.valid_config.device
        if wanted not in ("any", device):
            with _at(experiment):
                raise UnavailableError(f"{wanted}, and this runs on {device}", field="device")


def _by_load(experiments: Sequence[Experiment]) -> dict[LoadConfig, list[int]]:
    """Which experiments share a load, in the order of the first of each."""
    found: dict[LoadConfig, list[int]] = {}
    for index, experiment in enumerate(experiments):
        found.setdefault(experiment.valid_config.load_config(experiment.path.parent), []).append(index)
    return found


@contextmanager
def _loaded(load: LoadConfig, device: str) -> Iterator[LoadedModel]:
    engine = get_engine(load.backend)
    model = None
    try:
        model = engine.load(load, device)
        yield model
    except BaseException as failure:
        # A notebook keeps it for its debugger, with the frames that hold tensors.
        engine.release(failure)
        raise
    finally:
        if model is not None:
            model.close()


@contextmanager
def _at(experiment: Experiment) -> Iterator[None]:
    """Errors within the block say where the experiment stands in its file, if it stands in one."""
    try:
        yield
    except LlemError as error:
        if error.file is None and experiment.node is not None:
            mark = place_of(error.field or "", experiment.node)
            error.file = (mark or experiment.node.mark).source.display
            error.line = experiment.line if mark is None else mark.line
        raise


@contextmanager
def _alone() -> Iterator[None]:
    """One measurement at a time in this process: two would measure each other."""
    if _HAVE_MEASURED and os.getpid() not in _HAVE_MEASURED:
        raise MeasurementError(
            "this process was forked from one that has measured, and would wait for ever for threads that libraries "
            "have there; start it anew, as multiprocessing.get_context('spawn') does"
        )
    if not _BUSY.acquire(blocking=False):
        raise MeasurementError("this process measures already, in another thread; wait until that has ended")
    _HAVE_MEASURED.add(os.getpid())
    try:
        yield
    finally:
        _BUSY.release()
