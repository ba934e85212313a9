from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_llem.meters.nvidia.counter.calibration import Calibration, CounterTiming
from pytest_llem.meters.nvidia.counter.calibration_store import CalibrationStore, default_path

if TYPE_CHECKING:
    from pathlib import Path

KNOWN = Calibration(CounterTiming(0.1, 0.005, 0.001, 0.0005), under_reports=True)


def test_what_was_saved_is_loaded_by_the_next_session() -> None:
    CalibrationStore().save("GPU-1", "580", KNOWN)
    CalibrationStore().save("GPU-2", "580", Calibration(KNOWN.timing))
    assert CalibrationStore().load("GPU-1", "580") == KNOWN
    assert CalibrationStore().load("GPU-2", "580") == Calibration(KNOWN.timing, under_reports=False)
    assert CalibrationStore().load("GPU-3", "580") is None


def test_whether_a_counter_keeps_a_lattice_is_saved_too() -> None:
    for number, regular in enumerate((True, False)):
        known = Calibration(CounterTiming(0.1, 0.005, 0.001, 0.0005, regular))
        CalibrationStore().save(f"GPU-{number}", "580", known)
        assert CalibrationStore().load(f"GPU-{number}", "580") == known


def test_another_driver_asks_again_and_replaces_the_old_one() -> None:
    store = CalibrationStore()
    store.save("GPU-1", "580", KNOWN)
    assert store.load("GPU-1", "590") is None
    store.save("GPU-1", "590", KNOWN)
    assert store.load("GPU-1", "580") is None


def test_the_file_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    assert default_path() == tmp_path / "here/pytest-llem/counters.json"
    for unusable in ("relative", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert default_path() == tmp_path / ".cache/pytest-llem/counters.json"


def test_nothing_but_the_file_is_left() -> None:
    store = CalibrationStore()
    store.save("GPU-1", "580", KNOWN)
    assert list(store.path.parent.iterdir()) == [store.path]


ENTRY = {
    "period_s": 0.1,
    "jitter_s": 0,
    "resolution_j": 0.001,
    "read_cost_s": 0,
    "regular": True,
    "under_reports": False,
}


def _file(**changes: object) -> str:
    return json.dumps({"format": 2, "counters": {"GPU-1 580": {**ENTRY, **changes}}})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "\x00",
        '{"format": 2, "counters": []}',
        '{"format": 2, "counters": {"GPU-1 580": null}}',
        json.dumps({"format": 1, "counters": {"GPU-1 580": ENTRY}}),
        json.dumps({"format": 2, "counters": {"GPU-1 580": {"period_s": 0.1}}}),
        _file(period_s=0),
        _file(period_s=-0.1),
        _file(period_s="NaN"),
        _file(resolution_j=0),
        _file(jitter_s=None),
        _file(under_reports="no"),
        _file(regular=1),
    ],
)
def test_what_cannot_be_understood_is_found_out_again(content: str) -> None:
    store = CalibrationStore()
    store.path.parent.mkdir(parents=True)
    store.path.write_text(content)
    assert store.load("GPU-1", "580") is None
    store.save("GPU-1", "580", KNOWN)
    assert CalibrationStore().load("GPU-1", "580") == KNOWN


def test_the_entry_that_those_are_variations_of_is_understood() -> None:
    store = CalibrationStore()
    store.path.parent.mkdir(parents=True)
    store.path.write_text(_file())
    assert store.load("GPU-1", "580") is not None


def test_where_nothing_can_be_written_the_process_remembers(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of the folder")
    path = tmp_path / "file/counters.json"
    CalibrationStore(path).save("GPU-1", "580", KNOWN)
    assert CalibrationStore(path).load("GPU-1", "580") == KNOWN
    assert CalibrationStore(tmp_path / "other.json").load("GPU-1", "580") is None
