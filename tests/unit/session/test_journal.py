"""Lines of the journal, and what the file survives."""

from __future__ import annotations

import fcntl
import json
import math
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_llem.measurement.result import ExperimentResult, Round
from pytest_llem.records.record import BenchmarkLabels, Record
from pytest_llem.records.rows import dumps, rows_of
from pytest_llem.session.journal import Contents, Journal, read_journal
from pytest_llem.session.journal_line import OtherVersionError


def recorded(nodeid: str = "a.llem.yaml::a", latency_s: float = 0.1) -> Record:
    windows = [
        Round(seconds=latency_s * 3, joules=joules, uncertainty_j=None, output_tokens=6) for joules in (0.7, 1.1)
    ]
    result = ExperimentResult(
        energy_j=0.3,
        latency_s=latency_s,
        meter="estimate",
        estimated=True,
        rounds=2,
        calls_per_round=3,
        per_round=windows,
        warnings=["ünsure"],
        boards={"GPU-a": 0.3},
    )
    return Record(
        nodeid=nodeid,
        name="a",
        file="a.llem.yaml",
        result=result,
        workload_hash="w",
        environment={"boards": [], "cpu": None},
        config={"model": "gpt2"},
        swept={"pytorch.batch_size": 4},
        more_runs=(result,),
        accepted=True,
        labels=BenchmarkLabels("a", nodeid, param="x", params={"p": 1}, extra_info={"own": Path("x")}),
    )


def journal(path: Path, notes: list[str] | None = None, said: list[str] | None = None) -> Journal:
    fingerprints = {"a": "1", "b": "2", "a.llem.yaml::a": "3"}
    notes, said = (list[str]() if lines is None else lines for lines in (notes, said))
    return Journal(path, fingerprints, say=notes.append, say_now=said.append)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "journal.jsonl"


def as_saved(record: Record) -> Any:
    """What pytest-benchmark would save of it."""
    return json.loads(dumps([row.as_dict() for row in rows_of(record)]))


def test_a_line_is_the_record_and_its_rows_are_the_same(path: Path) -> None:
    writer = journal(path)
    first = writer.signed(recorded())
    writer.append(first)
    (again,) = read_journal(path).records.values()
    labels = replace(first.labels, extra_info={"own": "UNSERIALIZABLE[PosixPath('x')]"})
    assert again == replace(first, fingerprint="3", labels=labels)
    assert again.from_journal
    assert as_saved(again) == as_saved(first)
    assert as_saved(first)[0]["extra_info"]["fingerprint"] == "3"
    assert [row["extra_info"]["metric"] for row in as_saved(again)] == ["latency", "energy"]


def test_a_record_is_written_again_when_there_is_more_to_keep_and_not_else(path: Path) -> None:
    writer, first = journal(path), recorded("a")
    writer.append(first)
    writer.append(replace(first, verdicts={"energy": "OK"}, trouble=("x",)))
    assert len(path.read_text().splitlines()) == 1
    writer.append(replace(first, more_runs=()))
    writer.close()
    assert len(path.read_text().splitlines()) == 2
    contents = read_journal(path)
    resumed = journal(path)
    resumed.open(contents)
    resumed.append(contents.records["a"])
    assert len(path.read_text().splitlines()) == 2


def test_each_line_is_on_the_disk_when_append_returns_and_the_last_one_holds(path: Path) -> None:
    writer = journal(path)
    assert not path.exists()
    for count, record in enumerate([recorded("a"), recorded("b"), recorded("a", latency_s=0.2)], 1):
        writer.append(record)
        assert len(path.read_text().splitlines()) == count
    records = read_journal(path).records
    assert list(records) == ["b", "a"]
    assert records["a"].result.latency_s == 0.2


@pytest.mark.parametrize("cut", [1, 40, 700, -2])
def test_a_torn_last_line_is_dropped(path: Path, cut: int) -> None:
    writer = journal(path)
    writer.append(recorded("a"))
    whole = path.stat().st_size
    writer.append(recorded("b"))
    path.write_bytes(path.read_bytes()[: whole + cut] if cut > 0 else path.read_bytes()[:cut])
    contents = read_journal(path)
    assert list(contents.records) == ["a"]
    assert [problem.split(": ")[1] for problem in contents.problems] == ["dropped a torn last line"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"journal": 2, "nodeid": "a"}',
        b'{"journal": 2, "nodeid": "a", "name": "", "file": "", "environment": {}, "result": []}',
    ],
)
def test_a_corrupt_line_is_dropped_with_its_number(path: Path, line: bytes) -> None:
    writer = journal(path)
    writer.append(recorded("a"))
    path.write_bytes(path.read_bytes() + line + b"\n")
    writer.append(recorded("b"))
    contents = read_journal(path)
    assert list(contents.records) == ["a", "b"]
    (problem,) = contents.problems
    assert problem.startswith(f"{path}:2: dropped a line: ")


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        (("nodeid",), [], "nodeid"),
        (("fingerprint",), None, "fingerprint"),
        (("result", "latency_s"), "x", "result.latency_s"),
        (("result", "warnings"), None, "result.warnings"),
        (("result", "per_round", 0, "seconds"), "x", "result.per_round.0.seconds"),
        (("environment",), [], "environment"),
        (("more_runs",), 3, "more_runs"),
        (("labels",), None, "not complete"),
        (("labels", "odd"), 1, "not complete"),
        (("config",), {"compare": 3}, "not complete"),
        (("config",), {"compare": {"latency": "much"}}, "'much' is no limit"),
        (("swept",), 3, "swept"),
    ],
)
def test_a_value_of_another_type_drops_its_line(
    path: Path, where: tuple[str | int, ...], value: object, named: str
) -> None:
    journal(path).append(recorded("a"))
    line = json.loads(path.read_text())
    place = line
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    path.write_text(json.dumps(line) + "\n")
    contents = read_journal(path)
    assert not contents.records
    assert contents.problems[0].startswith(f"{path}:1: dropped a line: {named}")


@pytest.mark.parametrize("number", ["NaN", "-Infinity"])
def test_a_number_that_is_none_drops_its_line(path: Path, number: str) -> None:
    journal(path).append(recorded("a", latency_s=0.125))
    text = path.read_text()
    assert '"latency_s":0.125' in text
    path.write_text(text.replace('"latency_s":0.125', f'"latency_s":{number}'))
    (problem,) = read_journal(path).problems
    assert problem.startswith(f"{path}:1: dropped a line: Out of range float values")


@pytest.mark.parametrize("odd", [math.inf, math.nan, "\ud800", [1, {"a": None}]], ids=repr)
def test_what_users_add_to_a_row_is_any(path: Path, odd: object) -> None:
    labels = BenchmarkLabels("a", "a", 7, str(odd), {"odd": odd}, {"odd": odd})
    journal(path).append(replace(recorded("a"), labels=labels))
    again = read_journal(path).records["a"].labels
    assert repr(again) == repr(labels)


def test_what_users_add_is_not_copied(path: Path) -> None:
    labels = BenchmarkLabels("a", "a", extra_info={"lock": threading.Lock()})
    journal(path).append(replace(recorded("a"), labels=labels))
    assert str(read_journal(path).records["a"].labels.extra_info["lock"]).startswith("UNSERIALIZABLE")


def test_a_journal_of_another_version_is_refused_whole(path: Path) -> None:
    journal(path).append(recorded("a"))
    path.write_text(path.read_text().replace('"journal":2', '"journal":1').replace('"version":"', '"version":"older '))
    with pytest.raises(OtherVersionError, match=r"pytest-llem older .* wrote it as version 1 of the journal, and .* 2"):
        read_journal(path)


def test_a_line_that_is_nested_too_deeply_is_dropped(path: Path) -> None:
    journal(path).append(recorded("a"))
    path.write_bytes(b"[" * 100_000 + b"\n" + path.read_bytes())
    contents = read_journal(path)
    assert list(contents.records) == ["a"]
    assert [problem.partition(": ")[2] for problem in contents.problems] == ["dropped a line: nested too deeply"]


def test_taking_up_keeps_what_is_whole_and_goes_on_behind_it(path: Path) -> None:
    killed = journal(path)
    killed.append(recorded("a"))
    killed.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"torn')
    contents = read_journal(path)
    notes: list[str] = []
    writer = journal(path, notes)
    writer.open(contents)
    assert path.read_bytes() == whole
    assert "previous" in notes[0]
    assert path.with_name("journal.jsonl.previous").read_bytes() == whole + b'{"torn'
    writer.append(recorded("b"))
    assert list(read_journal(path).records) == ["a", "b"]
    writer.close()
    # Nothing to mend: the file is left as it is.
    notes.clear()
    journal(path, notes).open(read_journal(path))
    assert not notes
    assert list(read_journal(path).records) == ["a", "b"]


def test_a_journal_in_use_is_never_written_by_two(path: Path) -> None:
    first, notes = journal(path), list[str]()
    first.append(recorded("a"))
    second = journal(path, notes)
    second.append(recorded("b"))
    assert second.path != path
    assert str(second.path) in notes[0]
    assert list(read_journal(path).records) == ["a"]
    assert list(read_journal(second.path).records) == ["b"]
    with pytest.raises(OSError, match="in use by another session"):
        journal(path).open(Contents({}))
    first.close()
    journal(path).open(Contents({}))


def test_a_file_system_without_locks_still_has_a_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    writer = journal(path)
    writer.append(recorded("a"))
    writer.append(recorded("b"))
    assert list(read_journal(path).records) == ["a", "b"]


def test_a_full_disk_is_said_at_once_and_noted_once(path: Path) -> None:
    notes, said = list[str](), list[str]()
    writer = journal(Path("/dev/full"), notes, said)
    writer._file = os.open("/dev/full", os.O_WRONLY)
    writer.append(recorded("a"))
    assert len(said) == 1
    writer.append(recorded("b"))
    assert notes == said
    assert "No space left" in notes[0]
