"""What the fixtures hand out: loading the model, measuring the experiment, measuring any callable."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from pytest_llem.collection import NotLoadedError, display_path
from pytest_llem.engines import get_engine
from pytest_llem.engines.library_warnings import library_warnings
from pytest_llem.errors import LlemError, UnavailableError
from pytest_llem.items import gates_of
from pytest_llem.measurement.experiment import checked_meanwhile, measure_experiment, rounds_by_turns, turns_of
from pytest_llem.measurement.protocol import run_once
from pytest_llem.measurement.summary import summarise
from pytest_llem.measurement.windows import Protocol, measure_windows
from pytest_llem.meters.base import COOL_DOWN_LIMIT_S, no_synchronize
from pytest_llem.records import identity, machine
from pytest_llem.records.record import Record
from pytest_llem.records.rows import Recorder
from pytest_llem.report import junit
from pytest_llem.report.progress import ProgressLine
from pytest_llem.verdict.gates import OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_llem.config import Experiment, LoadConfig
    from pytest_llem.engines.base import LoadedModel
    from pytest_llem.measurement.result import ExperimentResult
    from pytest_llem.meters.base import Meter, Synchronize, Window
    from pytest_llem.meters.joined import JoinedWindows
    from pytest_llem.session.deadline import Deadline
    from pytest_llem.session.state import LlemSession

T = TypeVar("T")

_DEFAULT_ROUNDS = 10
_DEFAULT_WARMUP_ROUNDS = 1


@contextmanager
def loaded(config: LoadConfig, session: LlemSession) -> Iterator[LoadedModel]:
    """Load a model for the body. What cannot run here is skipped; what cannot be loaded fails."""
    __tracebackhide__ = True
    device = session.settings.device
    if device is None:
        pytest.skip("pass --llem-gpu to load the model on the GPU or --llem-cpu to load it on the CPU")
    started_s = time.perf_counter()
    with _reported(failure=NotLoadedError):
        engine = session.engines.setdefault(config.backend, get_engine(config.backend))
        model = engine.load(config, device)
    session.note_load(time.perf_counter() - started_s)
    try:
        yield model
    finally:
        # A test that failed is kept for debuggers, with the frames that hold its tensors.
        failure = getattr(sys, "last_value", None)
        if failure is not None:
            engine.release(failure)
        model.close()


@contextmanager
def _reported(
    where: str | None = None, failure: Callable[..., BaseException] = pytest.fail.Exception
) -> Iterator[None]:
    """Turn this package's errors into pytest's outcomes: one message, no traceback, no chain of causes."""
    __tracebackhide__ = True
    try:
        yield
    except LlemError as error:
        message = f"{where}: {error}" if where else str(error)
        if isinstance(error, UnavailableError):
            raise pytest.skip.Exception(message) from None
        failed = failure(message, pytrace=False)
        if isinstance(failed, NotLoadedError):
            failed.field = error.field
        raise failed from None


class _ItemMeter:
    """The session's meter, whose windows wait for the boards of this item's model by default, and which does not let
    them cool down for longer than the session's time lasts."""

    def __init__(self, meter: Meter, synchronize: Synchronize, deadline: Deadline | None) -> None:
        self._meter = meter
        self._synchronize = synchronize
        self._deadline = deadline

    def window(self, synchronize: Synchronize | None = None) -> AbstractContextManager[Window]:
        return self._meter.window(synchronize or self._synchronize)

    def joined_windows(self, synchronize: Synchronize | None = None) -> AbstractContextManager[JoinedWindows]:
        return self._meter.joined_windows(synchronize or self._synchronize)

    def cool_down(self, limit_s: float = COOL_DOWN_LIMIT_S) -> bool:
        # A board takes up to a minute, which a session's budget may not have.
        if self._deadline is not None:
            limit_s = min(limit_s, max(self._deadline.left_s, 0.0))
        return self._meter.cool_down(limit_s)

    def close(self) -> None:
        """Nothing to do: the session owns the sensor."""

    def __enter__(self) -> _ItemMeter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._meter, name)


def item_meter(model: LoadedModel | None, session: LlemSession) -> Any:
    """The meter for one item: of the model's boards, or of all that the session may see."""
    with _reported("llem_meter"):
        meter = session.meter(()) if model is None else session.meter(model.gpu_uuids, model.processes)
    synchronize = _synchronize_cuda if session.settings.device == "cuda" else no_synchronize
    return _ItemMeter(meter, synchronize, session.deadline)


def _synchronize_cuda() -> None:
    """Wait for whatever the callable queued on any visible GPU; nothing was queued if torch was never imported."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            torch.cuda.synchronize(index)


class ExperimentRun:
    """Measures one experiment and records it; an item's ``llem_run``."""

    def __init__(
        self,
        *,
        item: pytest.Item,
        session: LlemSession,
        benchmark: Any,
        experiment: Experiment,
        model: LoadedModel,
        meter: Meter,
    ) -> None:
        self._item = item
        self._session = session
        self._recorder = Recorder(benchmark)
        self._experiment = experiment
        self._config = experiment.valid_config
        self._model = model
        self._meter = meter
        self._account = session.open_account()

    def __call__(self) -> ExperimentResult:
        """Measure and record.

        Returns:
            The result. With ``--benchmark-disable`` one plain call runs, and only its tokens are known.
        """
        __tracebackhide__ = True
        experiment, config = self._experiment, self._config
        gates = gates_of(self._item, self._session.settings)
        self._recorder.claim("llem_run")
        where = f"{display_path(experiment.path, self._item.config)}:{experiment.line}: {self._item.name}"
        folder, session = experiment.path.parent, self._session
        with _reported(where):
            if self._recorder.disabled:
                with library_warnings():
                    return run_once(self._model.prepare(config, folder), self._meter)
            session.require_time()
            shown = ProgressLine(self._item.config, self._item.name)

            def progress(phase: str, done: int, total: int, last_s: float) -> None:
                shown(phase, done, total, last_s)
                session.watch_time(phase, done, total, last_s)

            try:
                result, workload = measure_experiment(
                    config,
                    folder,
                    self._model,
                    self._meter,
                    idle_power=session.idle_power,
                    account=self._account,
                    rounds=session.settings.rounds,
                    min_window_s=session.settings.min_window_s,
                    left_s=session.left_s,
                    progress=progress,
                    await_turn=session.await_turn,
                    # Between engines it is said where they part, too.
                    keeps_generated=OUTPUT in gates or "backend" in experiment.swept,
                )
            finally:
                shown.erase()
            workload_hash = identity.workload_hash(config, self._model, workload)
            environment = identity.environment(self._model.gpu_uuids, self._meter, device=session.settings.device)
        record = Record(
            nodeid=self._item.nodeid,
            name=self._item.name,
            file=self._item.location[0],
            result=result,
            workload_hash=workload_hash,
            environment=environment,
            config=config.model_dump(mode="json", exclude_none=True),
            swept=experiment.swept,
            labels=self._recorder.labels(dict(experiment.swept)),
            gates=gates,
        )
        return _keep(record, self._item, self._session, self._recorder)


def _keep(record: Record, item: pytest.Item, session: LlemSession, recorder: Recorder) -> ExperimentResult:
    """Hand over what an item measured: to the session, to JUnit's report and to the test's own ``benchmark``.

    Returns:
        The result that the session keeps.
    """
    record = session.keep(record)
    item.user_properties.extend(junit.properties(record.result))
    recorder.show(record)
    return record.result


class BenchmarkRun:
    """Measures any callable; an item's ``llem_benchmark``."""

    def __init__(self, *, item: pytest.Item, session: LlemSession, benchmark: Any, meter: Meter) -> None:
        self._item = item
        self._session = session
        self._benchmark = benchmark
        self._recorder = Recorder(benchmark)
        self._meter = meter
        self._account = session.open_account()
        self.result: ExperimentResult | None = None

    @property
    def extra_info(self) -> dict[str, Any]:
        """Saved with each row of this item."""
        info: dict[str, Any] = self._benchmark.extra_info
        return info

    def __call__(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Measure ``function(*args, **kwargs)`` with the session's rounds and windows.

        Returns:
            What the last call returned.
        """
        return self.pedantic(function, args, kwargs)

    def pedantic(
        self,
        target: Callable[..., T],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        rounds: int | None = None,
        warmup_rounds: int = _DEFAULT_WARMUP_ROUNDS,
        min_window_s: float | None = None,
    ) -> T:
        """Measure ``target(*args, **kwargs)`` with a protocol of its own.

        Args:
            rounds: windows; default: ``--llem-rounds``, else 10.
            warmup_rounds: calls before the rounds, at least.
            min_window_s: least seconds of a window; default: ``--llem-min-window``, else what the meter needs.

        Returns:
            What the last call returned. ``.result`` then holds the measurement.
        """
        self._recorder.claim("llem_benchmark")
        settings = self._session.settings
        last: list[T] = []

        def call() -> None:
            last[:] = [target(*args, **(kwargs or {}))]

        if self._recorder.disabled:
            call()
            return last[0]
        self._session.require_time()
        turns = turns_of(self._session.await_turn, self._meter)
        window_s = settings.min_window_s if min_window_s is None else min_window_s
        with _reported("llem_benchmark"), library_warnings() as heard:
            with checked_meanwhile(self._meter, self._account) as disturbances:
                asked = rounds or settings.rounds or _DEFAULT_ROUNDS
                if turns is not None:
                    asked = rounds_by_turns(asked)
            with self._account.of("sensor"):
                least_s = self._meter.auto_window_s if window_s is None else window_s
            measured = measure_windows(
                [call],
                Protocol(None if asked == "auto" else asked, warmup_rounds, least_s),
                self._meter,
                progress=self._session.watch_time,
                await_turn=turns,
                account=self._account,
                keeps_outputs=False,
            )
        notes = [*measured.warnings, *(disturbance.text for disturbance in disturbances), *heard.texts]
        result = replace(
            summarise(
                measured.windows,
                calls_per_round=measured.passes,
                meter=self._meter,
                warnings=notes,
                sequential=measured.sequential,
            ),
            spent_s=self._account.spent_s(),
            timestamp_s=time.time(),
        )
        if disturbances:
            result = replace(result, valid=False)
        boards = [board["uuid"] for board in machine.boards()] if settings.device == "cuda" else []
        record = Record(
            nodeid=self._item.nodeid,
            name=self._item.name,
            file=self._item.location[0],
            result=result,
            workload_hash=identity.callable_hash(self._item.nodeid),
            environment=identity.environment(boards, self._meter, device=settings.device, runs_model=False),
            labels=self._recorder.labels(),
            gates=gates_of(self._item, settings),
        )
        self.result = _keep(record, self._item, self._session, self._recorder)
        return last[0]
