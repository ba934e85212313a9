"""Offline runs of Weights & Biases, read back record by record."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.exporters.wandb import WandbExporter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_llem.exporters.results import Exported

    Made = Callable[..., Exported]

pytest.importorskip("wandb")
pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")

# Its older versions leave sockets open.
pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("ignore")]

_HEADER, _BLOCK = 7, 32768


def records_of(path: Path) -> Iterator[Any]:
    """The records of a run's file, which is a log of LevelDB: blocks of 32 KiB with chunks in them, each after its
    checksum, its length, and whether it is whole (1), or the first (2), a middle (3) or the last (4) part."""
    data = path.read_bytes()
    position, parts = _HEADER, b""
    while position + _HEADER <= len(data):
        if _BLOCK - position % _BLOCK < _HEADER:
            position += _BLOCK - position % _BLOCK
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        parts += data[position + _HEADER : position + _HEADER + length]
        position += _HEADER + length
        if kind in (1, 4):
            yield pb.Record.FromString(parts)
            parts = b""


def read(path: Path) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The run itself, its configuration and its summary."""
    records = list(records_of(path))
    (run,) = [record.run for record in records if record.HasField("run")]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    changes = [record.summary for record in records if record.HasField("summary")]
    logged = [record.history for record in records if record.HasField("history")]
    items = [item for change in (*logged, *changes) for item in (change.item if change in logged else change.update)]
    return run, config, {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def runs_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def test_a_run_has_the_configuration_and_the_numbers(made: Made, tmp_path: Path) -> None:
    result = made(record={"verdicts": {"energy": "OK"}}, warnings=["a"])
    exporter = WandbExporter(str(tmp_path / "deep"))
    exporter.check()
    exporter.export([result])
    (path,) = runs_of(tmp_path / "deep")
    run, config, summary = read(path)
    assert (run.run_id, run.display_name, run.project) == (result.identity, "llama", "llama")
    assert config["pytorch"] == {"batch_size": 4}
    assert config["llem"]["commit"] == "5b8c3a1d9e4f7a60"
    assert (summary["energy_j"], summary["valid"], summary["energy_verdict"]) == (100.0, 1.0, "OK")
    assert summary["warnings"] == ["a"]


def test_the_same_again_adds_no_run_and_what_is_new_does(made: Made, tmp_path: Path) -> None:
    first, second = made(), made("other")
    exporter = WandbExporter(str(tmp_path))
    exporter.export([first])
    exporter.export([first])
    WandbExporter(str(tmp_path)).export([first, second])
    assert {path.stem for path in runs_of(tmp_path)} == {f"run-{result.identity}" for result in (first, second)}
    assert len(runs_of(tmp_path)) == 2


def test_nothing_of_the_environment_goes_along(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLEM_CANARY", "canary")
    monkeypatch.setenv("WANDB_MODE", "online")
    WandbExporter(str(tmp_path)).export([made()])
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]
    assert capfd.readouterr() == ("", "")
    assert len(runs_of(tmp_path)) == 1


def test_a_run_that_was_killed_on_its_way_is_written_again(made: Made, tmp_path: Path) -> None:
    (tmp_path / "wandb" / f"offline-run-20260101_000000-{made().identity}").mkdir(parents=True)
    WandbExporter(str(tmp_path)).export([made()])
    assert len(runs_of(tmp_path)) == 1
