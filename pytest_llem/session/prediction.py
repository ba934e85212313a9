"""How long experiments will take: as long as they took before, else at least what their protocol says.

Pure: saved results come in as plain values. Loading counts apart, because only the first experiment of a model pays
for it.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_llem.measurement.precision import FEWEST_ROUNDS
from pytest_llem.session.fingerprint import is_same_work

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from pytest_llem.config import ExperimentConfig
    from pytest_llem.settings import Settings

_LAST_RUNS = 3
# Length of a window in seconds where neither the file nor an option says it and the meter needs no longer one.
_PLAIN_WINDOW_S = 1.0
_METERS_WITH_PLAIN_WINDOWS = ("rapl", "estimate", "none")
# A single experiment that takes longer than it did says little of the others: until three have run, those that were
# "as predicted" before the first one ran outvote them.
_AS_PREDICTED = (1.0, 1.0)


@dataclass(frozen=True)
class PastRun:
    """What a saved result says of its time.

    Attributes:
        nodeid: of the item.
        fingerprint: see ``session.fingerprint``; empty where it was not saved.
        rounds: that were measured.
        own_s: seconds of the item without loading.
        paid_load_s: seconds that the item waited for its model; ``None`` where it was loaded already.
        load_s: seconds in which its engine loaded the model, whoever waited for that.
    """

    nodeid: str
    fingerprint: str
    rounds: int | None
    own_s: float
    paid_load_s: float | None
    load_s: float | None


@dataclass(frozen=True)
class Asked:
    """An item that is going to be measured.

    Attributes:
        nodeid: pytest's name of it.
        fingerprints: those of results of the same work, the best ones first.
        load: what its model is; equal where a model is shared, ``None`` where it has none.
        rounds: number of windows, where it is fixed.
        least_s: seconds that measuring it takes at least, where that is known.
    """

    nodeid: str
    fingerprints: Sequence[str]
    load: Hashable = None
    rounds: int | None = None
    least_s: float | None = None


@dataclass(frozen=True)
class Duration:
    """Predicted seconds.

    Attributes:
        seconds: ``None`` where not even the least is known.
        runs: so many runs took as long; 0 where ``seconds`` is a least duration.
    """

    seconds: float | None
    runs: int = 0

    def __str__(self) -> str:
        """In words, such as ``about 34 s`` or ``at least 12 s``."""
        if self.seconds is None:
            return "windows as long as the sensor needs"
        return f"{'about' if self.runs else 'at least'} {in_words(self.seconds)}"


def past_run(nodeid: str, fingerprint: str, result: Mapping[str, Any]) -> PastRun | None:
    """Read a saved result; ``None`` for one of a version that did not save where its seconds went."""
    spent_s = result.get("spent_s")
    if not spent_s:
        return None
    paid_load_s = spent_s.get("load", 0.0)
    own_s = math.fsum(spent_s.values()) - paid_load_s
    return PastRun(nodeid, fingerprint, result.get("rounds"), own_s, paid_load_s or None, result.get("load_s"))


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


class Predictor:
    """Predicts the items of a session, and learns from those of them that have run."""

    def __init__(self, asked: Iterable[Asked], past: Iterable[PastRun]) -> None:
        """Match results with items.

        Args:
            asked: all items whose loads or times are going to be asked for.
            past: saved results, the newest first.
        """
        by_nodeid: dict[str, list[PastRun]] = {}
        # A result may be in the journal and in pytest-benchmark's storage.
        newest_first = list(dict.fromkeys(past))
        for run in newest_first:
            by_nodeid.setdefault(run.nodeid, []).append(run)
        self._asked = {item.nodeid: item for item in asked}
        self._items: dict[str, Duration] = {}
        load_of: dict[PastRun, Hashable] = {}
        for item in self._asked.values():
            runs = _runs_of(item, by_nodeid.get(item.nodeid, ()))
            self._items[item.nodeid] = _as_the_last([run.own_s for run in runs]) or Duration(item.least_s)
            load_of |= dict.fromkeys(runs, item.load)
        paid_s: dict[Hashable, list[float]] = {}
        engines_s: dict[Hashable, list[float]] = {}
        for run in newest_first:
            for seconds, by_load in ((run.paid_load_s, paid_s), (run.load_s, engines_s)):
                if seconds is not None and run in load_of:
                    by_load.setdefault(load_of[run], []).append(seconds)
        loads = {load: _as_the_last(known_s) for load, known_s in {**engines_s, **paid_s}.items()}
        self._loads = {load: known for load, known in loads.items() if known is not None}
        self._ratios: list[float] = []
        self._starts_s: list[float] = []
        self._measured_s: dict[str, float] = {}

    def item(self, nodeid: str) -> Duration:
        """Seconds of an item without loading: of one that has run in this session, what it took."""
        if nodeid in self._measured_s:
            return Duration(self._measured_s[nodeid], 1)
        known = self._items[nodeid]
        if not known.runs or known.seconds is None:
            return known
        return Duration(known.seconds * statistics.median((*_AS_PREDICTED, *self._ratios)), known.runs)

    def load(self, load: Hashable) -> Duration:
        """Seconds until a model is there; 0 for no model, and at least 0 for one that is not known."""
        if load is None:
            return Duration(0.0, 1)
        known = self._loads.get(load, Duration(0.0))
        start_s = statistics.median(self._starts_s) if self._starts_s else 0.0
        return Duration((known.seconds or 0.0) + start_s, known.runs)

    def needed(self, nodeid: str, *, load: bool) -> Duration:
        """Seconds of an item, and of its load where it has to ``load``."""
        item = self.item(nodeid)
        if not load:
            return item
        loading = self.load(self._asked[nodeid].load)
        return Duration((item.seconds or 0.0) + (loading.seconds or 0.0), min(item.runs, loading.runs))

    def learn(self, nodeid: str, took_s: float, spent_s: Mapping[str, float]) -> None:
        """An item has run.

        Args:
            took_s: seconds on the clock.
            spent_s: of its result. What it does not account for belongs to loading, where the item did that: a process
                was started, the model before it was freed.
        """
        load_s = spent_s.get("load", 0.0)
        own_s = took_s
        if load_s:
            own_s = math.fsum(spent_s.values()) - load_s
            self._loads[self._asked[nodeid].load] = Duration(load_s, 1)
            self._starts_s.append(max(took_s - load_s - own_s, 0.0))
        predicted = self._items[nodeid]
        if predicted.runs and predicted.seconds:
            self._ratios.append(own_s / predicted.seconds)
        self._measured_s[nodeid] = own_s


def _as_the_last(newest_first_s: Sequence[float]) -> Duration | None:
    last = newest_first_s[:_LAST_RUNS]
    return Duration(statistics.median(last), len(last)) if last else None


def _runs_of(item: Asked, runs: Sequence[PastRun]) -> Sequence[PastRun]:
    """Those of the same work; where a fingerprint was not saved, of as many rounds."""
    for fingerprint in item.fingerprints:
        if same := [run for run in runs if run.fingerprint and is_same_work(run.fingerprint, fingerprint)]:
            return same
    return [run for run in runs if not run.fingerprint and item.rounds in (None, run.rounds)]


def in_words(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
