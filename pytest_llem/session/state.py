"""The state of one pytest session: meters that are open, results that count."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.errors import SeveralBoardsError, UnavailableError
from pytest_llem.footprint import with_footprint
from pytest_llem.measurement.account import Account
from pytest_llem.measurement.open_meters import OpenMeters
from pytest_llem.meters.nvidia.lock import BoardLocks, lock_visible_boards, say_on_stderr
from pytest_llem.session.deadline import Deadline
from pytest_llem.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_llem.engines.base import Engine, LoadedModel
    from pytest_llem.measurement.windows import AwaitTurn
    from pytest_llem.meters.base import Disturbance, IdlePower, Meter
    from pytest_llem.records.record import Record
    from pytest_llem.session.budget import Budget
    from pytest_llem.session.journal import Journal
    from pytest_llem.settings import Settings
    from pytest_llem.verdict.history import SavedRow
    from pytest_llem.verdict.judging import Judged

    MeasureAgain = Callable[[Mapping[str, float | None]], tuple[dict[str, Record], str | None]]


@dataclass
class LlemSession:
    """Made when the first experiment or fixture needs it, closed at the end of the session.

    Attributes:
        say: prints a line at every verbosity.
        records: results that count by node id, in the order in which they were measured.
        judged: the verdicts on them, at the end.
        history: saved rows by node id and metric, as they were before this session's were saved.
        remarks: what a reader of a verdict must know of an experiment, by node id.
        notes: lines for the end of the terminal's summary.
        commit: the one that is measured, see :class:`~pytest_llem.records.record.Record`.
        journal: where results are kept as they finish; ``None`` where there is none.
        engines: those that models were loaded with, by backend.
        await_turn: waits for the turn of this process, where others share its device; ``None`` where it is alone.
        deadline: when the time of the session (in a child, of its parent's) is over; ``None`` where it has no limit.
        budget: what spends that time.
        measure_elsewhere: measures again what a verdict leaves open, where this process does not.
        idle_power_w: power of the last item's boards before its first window; ``None`` where it is not known.
        incomplete: parts of what is reported are known to be missing.
        device_lost: a GPU failed so that this process cannot use it any more.
    """

    settings: Settings
    say: Callable[[str], None] = say_on_stderr
    records: dict[str, Record] = field(default_factory=dict)
    judged: list[Judged] = field(default_factory=list)
    history: dict[tuple[str, str], list[SavedRow]] = field(default_factory=dict)
    remarks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    commit: Mapping[str, Any] = field(default_factory=dict)
    journal: Journal | None = None
    engines: dict[str, Engine] = field(default_factory=dict)
    await_turn: AwaitTurn | None = None
    deadline: Deadline | None = None
    budget: Budget | None = None
    measure_elsewhere: MeasureAgain | None = None
    idle_power_w: float | None = None
    incomplete: bool = False
    device_lost: bool = False
    _pending: dict[str, Record] = field(default_factory=dict)
    _outcomes: dict[str, dict[str | None, str]] = field(default_factory=dict)
    _load_s: float = 0.0
    _locks: BoardLocks | None = None
    _unread: SeveralBoardsError | None = None

    def require_hardware(self) -> None:
        """End the session with a usage error if the device or the meter it names cannot work here."""
        try:
            if self.settings.device == "cuda":
                from pytest_llem.records.machine import require_cuda

                if self.settings.isolate:
                    from pytest_llem.records.machine import require_cuda_apart

                    # With a CUDA context of its own, this process would hold memory that its children need.
                    require_cuda_apart()
                else:
                    require_cuda()
                self._locks = lock_visible_boards(say=self.say, timeout_s=self.settings.lock_timeout_s)
            self.meter(())
        except SeveralBoardsError as error:
            # A model in as many processes would read all of them: what is collected will say.
            self._unread = error
        except UnavailableError as error:
            raise pytest.UsageError(str(error)) from None

    def require_boards(self, processes: Iterable[int]) -> None:
        """End the session with a usage error if several boards are visible and no experiment reads them all.

        Args:
            processes: over how many the models of the session are divided.
        """
        if self._unread is None:
            return
        for count in set(processes):
            with suppress(SeveralBoardsError):
                self.meter((), count)
                return
        raise pytest.UsageError(str(self._unread))

    @cached_property
    def _meters(self) -> OpenMeters:
        settings = self.settings
        return OpenMeters(
            settings.meter,
            settings.device or "cpu",
            host=settings.host,
            lock_timeout_s=settings.lock_timeout_s,
            say=self.say,
        )

    def meter(self, gpu_uuids: Sequence[str], processes: int = 1) -> Meter:
        """See :meth:`pytest_llem.measurement.open_meters.OpenMeters.of`."""
        return self._meters.of(gpu_uuids, processes)

    def idle_power(self, model: LoadedModel, meter: Meter, disturbances: Sequence[Disturbance]) -> IdlePower:
        """See :meth:`pytest_llem.measurement.open_meters.OpenMeters.idle_power`."""
        idle = self._meters.idle_power(model, meter, disturbances)
        self.idle_power_w = idle.power_w
        return idle

    def note_load(self, seconds: float) -> None:
        """A model was loaded: the item that comes next has waited for it."""
        self._load_s += seconds

    def open_account(self) -> Account:
        """The account of an item's time, which begins with the load that it has waited for."""
        account = Account()
        account.add("load", self._load_s)
        self._load_s = 0.0
        return account

    def require_time(self) -> None:
        """Skip the item if the session's time is over."""
        if self.deadline is not None:
            self.deadline.require_time()

    def left_s(self) -> float:
        """Seconds that are left to the session."""
        return math.inf if self.deadline is None else self.deadline.left_s

    def watch_time(self, phase: str, done: int, total: int, last_s: float) -> None:
        """Between two windows, see :data:`pytest_llem.measurement.windows.Progress`: skip the item if it cannot end
        before the session's time is over."""
        if self.deadline is not None:
            self.deadline.watch(phase, done, total, last_s)

    def keep(self, record: Record) -> Record:
        """Note what an item measured; it counts once the item has passed.

        Returns:
            It with the session's carbon and cost.
        """
        record = self._pending[record.nodeid] = self._with_footprint(record)
        return record

    def _with_footprint(self, record: Record) -> Record:
        """With the session's grid, PUE and price; as it is where the session names none."""
        footprint = self.settings.footprint
        if footprint is None:
            return record
        more = tuple(with_footprint(run, footprint) for run in record.more_runs)
        return replace(record, result=with_footprint(record.result, footprint), more_runs=more)

    def note_report(self, report: pytest.TestReport) -> None:
        """Count an item's result after its last phase, or drop it if any phase did not pass."""
        # Of a phase the last report is its own: those of subtests come before it. One that failed fails the item.
        outcomes = self._outcomes.setdefault(report.nodeid, {})
        if outcomes.get(report.when) != "failed":
            outcomes[report.when] = report.outcome
        if report.when == "teardown":
            record = self._pending.pop(report.nodeid, None)
            if record is not None and set(outcomes.values()) == {"passed"}:
                self.count(record)
            del self._outcomes[report.nodeid]
            # A model that was loaded for an item which measures nothing was not waited for by the next one.
            self._load_s = 0.0

    def note_failure(self, failure: BaseException) -> None:
        """Find out whether a failure has cost this process its GPU: then other processes run the rest."""
        if self.device_lost:
            return
        self.device_lost = any(engine.is_device_lost(failure) for engine in self.engines.values())
        if self.device_lost and self.settings.child is None:
            self.notes.append(
                "llem: the GPU failed in this process, which cannot use it any more: the experiments after that ran in "
                "fresh processes"
            )

    def count(self, record: Record) -> None:
        """Every result that counts comes through here, however it came, and again when more is known of it. What there
        is of it to keep is in the journal when this returns."""
        if not (record.commit or record.from_journal):
            record = replace(record, commit=self.commit)
        record = self._with_footprint(record)
        if self.journal is not None:
            record = self.journal.signed(record)
        # Before it is written: what interrupts that does not take the result from the session.
        self.records[record.nodeid] = record
        if self.journal is not None:
            self.journal.append(record)

    def fail(self, session: pytest.Session, problem: str | None = None) -> None:
        """Make the session fail if it has not failed already, and say why in a line of its summary."""
        if problem is not None:
            self.notes.append(f"llem: {problem}")
        if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def close(self) -> None:
        """Release the meters, the boards and the journal."""
        if self.journal is not None:
            self.journal.close()
        self._meters.close()
        if self._locks is not None:
            self._locks.release()


SESSION = pytest.StashKey[LlemSession]()


def llem_session(config: pytest.Config) -> LlemSession:
    """The state of this pytest session, made when the first experiment or fixture needs it."""
    if SESSION not in config.stash:
        from pytest_llem.report.terminal import say_line

        settings = config.stash[SETTINGS]
        deadline = Deadline.of_parent() if settings.mode == "child" else None
        config.stash[SESSION] = LlemSession(settings, deadline=deadline)
        if settings.root_note is not None:
            config.stash[SESSION].notes.append(f"llem: {settings.root_note}")
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            config.stash[SESSION].say = partial(say_line, reporter)
    return config.stash[SESSION]
