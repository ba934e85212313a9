"""Saved runs in pytest-benchmark's storage, which anybody may have written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pytest_llem.records.rows import stored

if TYPE_CHECKING:
    from pathlib import Path


def test_a_run_without_a_proper_date_is_among_the_others(tmp_path: Path) -> None:
    dates = [3, "2026-01-02", None]
    (tmp_path / "Linux").mkdir()
    for number, date in enumerate(dates):
        content = json.dumps({"benchmarks": [], "datetime": date})
        (tmp_path / "Linux" / f"000{number}_a.json").write_text(content)
    _, newest = stored(f"file://{tmp_path}", (), 9)
    assert sorted(str(saved["datetime"]) for saved in newest) == sorted(map(str, dates))
