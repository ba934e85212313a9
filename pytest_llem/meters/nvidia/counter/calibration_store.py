"""Keeps what was measured of energy counters, so that only the first session with a board pays for it.

A JSON file in the user's cache folder (``$XDG_CACHE_HOME``, else ``~/.cache``). How a counter behaves depends on
the board and its driver, so both are its key. What cannot be read is measured again; where nothing can be
written, the process remembers it.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytest_llem.cache import cache_folder
from pytest_llem.meters.nvidia.counter.calibration import Calibration, CounterTiming

_FORMAT = 2
_NUMBERS = ("period_s", "jitter_s", "resolution_j", "read_cost_s")

_unwritten: dict[Path, dict[str, Any]] = {}
"""By file that could not be written: its counters."""


def default_path() -> Path:
    """The file in the cache folder of this user."""
    return cache_folder() / "counters.json"


class CalibrationStore:
    """Calibrations by board and driver."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = default_path() if path is None else path

    def load(self, uuid: str, driver_version: str | None) -> Calibration | None:
        """What is known of a board's counter under a driver; ``None`` where nothing is."""
        return _decode(self._counters().get(_key(uuid, driver_version)))

    def save(self, uuid: str, driver_version: str | None, calibration: Calibration) -> None:
        """Keep it for the next session; what was known under the board's other drivers is dropped."""
        counters = {key: entry for key, entry in self._counters().items() if not key.startswith(f"{uuid} ")}
        entry = {**asdict(calibration.timing), "under_reports": calibration.under_reports}
        counters[_key(uuid, driver_version)] = entry
        try:
            _replace(self.path, json.dumps({"format": _FORMAT, "counters": counters}, indent=1))
        except OSError:
            _unwritten[self.path] = counters
        else:
            _unwritten.pop(self.path, None)

    def _counters(self) -> dict[str, Any]:
        if self.path in _unwritten:
            return _unwritten[self.path]
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            return {}
        counters = content.get("counters")
        return counters if isinstance(counters, dict) else {}


def _key(uuid: str, driver_version: str | None) -> str:
    return f"{uuid} {driver_version or 'unknown driver'}"


def _decode(entry: Any) -> Calibration | None:
    """A calibration from its JSON; ``None`` where it is malformed or impossible."""
    try:
        numbers = {name: float(entry[name]) for name in _NUMBERS}
        regular, under_reports = entry["regular"], entry["under_reports"]
    except (KeyError, TypeError, ValueError):
        return None
    if not all(math.isfinite(number) and number >= 0 for number in numbers.values()):
        return None
    if not (isinstance(regular, bool) and isinstance(under_reports, bool)):
        return None
    if numbers["period_s"] == 0 or numbers["resolution_j"] == 0:
        return None
    return Calibration(CounterTiming(**numbers, regular=regular), under_reports)


def _replace(path: Path, text: str) -> None:
    """Write a file in one step, so that no other session ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
