"""A file that grows by what is new."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.errors import LlemError
from pytest_llem.exporters.parquet import ParquetExporter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_llem.exporters.results import Exported

    Made = Callable[..., Exported]

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Export results to one file, and read its rows."""
    path = tmp_path / "results.parquet"

    def write(*results: Exported) -> list[dict[str, Any]]:
        exporter = ParquetExporter(str(path))
        exporter.check()
        exporter.export(results)
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return rows

    return write


def test_a_row_has_types_and_units(made: Made, export: Callable[..., Any], tmp_path: Path) -> None:
    (row,) = export(made(warnings=["a"], record={"verdicts": {"energy": "OK"}}))
    assert (row["experiment"], row["commit"], row["energy_verdict"]) == ("llama", "5b8c3a1d9e4f7a60", "OK")
    assert row["timestamp"] == datetime.fromtimestamp(1_750_000_000.25, UTC)
    assert (row["energy_j"], row["carbon_g"], row["valid"], row["warnings"]) == (100.0, None, True, ["a"])
    assert json.loads(row["json"])["result"]["per_round"][0]["joules"] > 0
    schema = parquet.read_schema(tmp_path / "results.parquet")
    assert schema.field("energy_j").metadata == {b"unit": b"J"}
    assert schema.field("carbon_g").type == pa.float64()


def test_the_same_again_adds_nothing_and_what_is_new_is_added(made: Made, export: Callable[..., Any]) -> None:
    first, second = made(), made(timestamp_s=1_750_000_001.0)
    export(first)
    export(first)
    rows = export(first, second)
    assert [row["identity"] for row in rows] == [first.identity, second.identity]
    assert [row["identity"] for row in export(second)] == [first.identity, second.identity]


def test_the_last_session_knows_the_verdict(made: Made, export: Callable[..., Any]) -> None:
    export(made(record={"verdicts": {"energy": "INCONCLUSIVE"}}))
    (row,) = export(made(record={"verdicts": {"energy": "OK"}}))
    assert row["energy_verdict"] == "OK"


def test_a_file_of_another_version_keeps_its_columns(made: Made, export: Callable[..., Any], tmp_path: Path) -> None:
    old = made(timestamp_s=1.0)
    table = pa.table({"identity": [old.identity, "gone"], "energy_j": [1, 2], "later_w": [3.0, 4.0]})
    parquet.write_table(table, tmp_path / "results.parquet")
    rows = export(old)
    assert [(row["identity"], row["energy_j"], row["later_w"]) for row in rows] == [
        (old.identity, 100.0, None),
        ("gone", 2.0, 4.0),
    ]
    assert parquet.read_schema(tmp_path / "results.parquet").field("energy_j").metadata == {b"unit": b"J"}


def test_a_link_stays_one(made: Made, export: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "results.parquet").symlink_to("elsewhere.parquet")
    export(made())
    assert (tmp_path / "results.parquet").is_symlink()
    assert (tmp_path / "elsewhere.parquet").is_file()


@pytest.mark.parametrize("content", [pa.table({"a": [1]}), b"no parquet"], ids=["others", "damaged"])
def test_a_file_of_something_else_is_left_alone(
    made: Made, export: Callable[..., Any], tmp_path: Path, content: Any
) -> None:
    path = tmp_path / "results.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        parquet.write_table(content, path)
    before = path.read_bytes()
    with pytest.raises((LlemError, pa.ArrowInvalid)):
        export(made())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if not file.name.startswith(".")] == ["results.parquet"]


def test_results_without_a_time_have_none(made: Made, export: Callable[..., Any]) -> None:
    (row,) = export(replace(made(), timestamp_s=None))
    assert row["timestamp"] is None
