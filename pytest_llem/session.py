"""The state of one pytest session: meters that are open, results that count."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.errors import UnavailableError
from pytest_llem.meters import open_meter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_llem.engines.base import LoadedModel
    from pytest_llem.judgement import Judged
    from pytest_llem.limit import Limit
    from pytest_llem.meters.base import IdlePower, Meter
    from pytest_llem.results import ExperimentResult
    from pytest_llem.settings import Settings


@dataclass
class Recorded:
    """A result that counts once all phases of its item have passed.

    Attributes:
        nodeid: pytest's name of the item.
        name: its last part, for people.
        file: the file that it is in, from the root of the session.
        result: what was measured.
        rows: pytest-benchmark's rows of it.
        gates: limits by metric.
        config: the resolved configuration as plain values; ``None`` for a callable.
        swept: the values of this point of a sweep.
        trouble: why further runs of it, which a verdict asked for, are missing.
    """

    nodeid: str
    name: str
    file: str
    result: ExperimentResult
    rows: Sequence[Any]
    gates: Mapping[str, Limit] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    swept: Mapping[str, Any] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)
    failed: bool = False


@dataclass
class LlemSession:
    """Made when the first experiment or fixture needs it, closed at the end of the session.

    Attributes:
        recorded: results that count, in the order in which they were measured.
        judged: the verdicts on them, at the end.
        notes: lines for the end of the terminal's summary.
    """

    settings: Settings
    recorded: list[Recorded] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _pending: dict[str, Recorded] = field(default_factory=dict)
    _meters: dict[tuple[str, ...], Meter] = field(default_factory=dict)
    _idle: tuple[weakref.ref[LoadedModel], IdlePower] | None = None

    def require_hardware(self) -> None:
        """End the session with a usage error if the device or the meter it names cannot work here."""
        try:
            if self.settings.device == "cuda":
                from pytest_llem.machine import require_cuda

                require_cuda()
            self.meter(())
        except UnavailableError as error:
            raise pytest.UsageError(str(error)) from None

    def meter(self, gpu_uuids: Sequence[str]) -> Meter:
        """The meter of the boards that a model lies on, opened once a session.

        Args:
            gpu_uuids: the boards; empty for all that this process may see, or none on the CPU.

        Raises:
            pytest_llem.errors.MeterUnavailableError: it cannot work on this machine.
        """
        key = tuple(gpu_uuids)
        if key not in self._meters:
            self._meters[key] = open_meter(
                self.settings.meter, device=self.settings.device or "cpu", gpu_uuids=gpu_uuids or None
            )
        return self._meters[key]

    def idle_power(self, model: LoadedModel, meter: Meter) -> IdlePower:
        """Power with ``model`` loaded and nothing running, measured once for each load."""
        if self._idle is None or self._idle[0]() is not model:
            self._idle = (weakref.ref(model), meter.idle_power())
        return self._idle[1]

    def keep(self, recorded: Recorded) -> None:
        """Note what an item measured; it counts once the item has passed."""
        self._pending[recorded.nodeid] = recorded

    def note_report(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Publish an item's result after its last phase, or drop it if any phase did not pass."""
        pending = self._pending.get(item.nodeid)
        if pending is None:
            return
        pending.failed |= report.outcome != "passed"
        if report.when != "teardown":
            return
        del self._pending[item.nodeid]
        if not pending.failed:
            from pytest_llem.benchmark import publish

            publish(item.config, pending.rows)
            self.recorded.append(pending)

    def close(self) -> None:
        """Release the meters."""
        for meter in self._meters.values():
            meter.close()
        self._meters.clear()
