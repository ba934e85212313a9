"""One flat table, which a spreadsheet does not run."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import pytest

from pytest_llem.report.csv_table import write_csv
from tests.unit.report.examples import experiment, in_pairs, judged, judged_pairs, result, saved_runs

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.records.record import Record
    from pytest_llem.verdict.judging import Judged


def read(path: Path, experiments: list[Record], verdicts: list[Judged] | None = None) -> list[dict[str, str]]:
    write_csv(experiments, path / "deep" / "results.csv", verdicts or [])
    with (path / "deep" / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_one_line_an_experiment(tmp_path: Path) -> None:
    one, other = experiment("one"), experiment("other", result=result(None, warnings=["a, b", 'c "d"']))
    lines = read(tmp_path, [one, other], judged(one, saved_runs(one, [99.0, 100.0, 101.0, 100.0]), 120.0))
    assert [line["name"] for line in lines] == ["one", "other"]
    assert float(lines[0]["energy_j"]) == 100.0
    assert lines[1]["energy_j"] == ""
    assert lines[1]["warnings"] == 'a, b; c "d"'
    assert [line["energy_verdict"] for line in lines] == ["REGRESSED", ""]
    assert float(lines[0]["energy_change"]) == pytest.approx(0.2, abs=0.01)
    assert "per_round" not in lines[0]


def test_the_account_has_a_column_for_each_entry(tmp_path: Path) -> None:
    spent_s = {"measured": 3.5, "warm-up": 1.25}
    (line,) = read(tmp_path, [experiment(result=result(spent_s=spent_s, idle_share=0.7, boundaries="joined"))])
    spent = {name: text for name, text in line.items() if name.startswith("spent_")}
    assert spent.pop("spent_measured_s") == "3.5"
    assert spent.pop("spent_warm_up_s") == "1.25"
    assert len(spent) == 8
    assert set(spent.values()) == {""}
    assert (line["idle_share"], line["boundaries"]) == ("0.7", "joined")


def test_pairs_have_their_columns(tmp_path: Path) -> None:
    record, young = in_pairs(change=0.1), in_pairs("young", pairs=1)
    verdicts = judged_pairs(record) + judged_pairs(young)
    lines = read(tmp_path, [record, young, experiment("alone")], verdicts)
    names = ("against", "pairs", "energy_verdict")
    assert [[line[name] for name in names] for line in lines] == [
        ["main", "4", "REGRESSED"],
        ["main", "1", "INCONCLUSIVE"],
        ["", "0", ""],
    ]
    ends = [float(lines[0][f"energy_change{end}"]) for end in ("_low", "", "_high")]
    assert ends == sorted(set(ends))
    assert (lines[1]["energy_change"], lines[1]["energy_change_low"]) == ("0.0", "")
    assert "against" not in read(tmp_path, [experiment()])[0]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_no_cell_begins_a_formula(tmp_path: Path, start: str) -> None:
    (line,) = read(tmp_path, [experiment(name=f"{start}HYPERLINK(1)", result=result(warnings=[f"{start}1"]))])
    assert line["name"] == f"'{start}HYPERLINK(1)"
    assert line["warnings"] == f"'{start}1"


def test_negative_numbers_stay_numbers(tmp_path: Path) -> None:
    (line,) = read(tmp_path, [experiment(result=result(energy_net_j=-1.5))])
    assert line["energy_net_j"] == "-1.5"


def test_no_result_leaves_a_heading(tmp_path: Path) -> None:
    assert read(tmp_path, []) == []
    assert (tmp_path / "deep" / "results.csv").read_bytes() == b"nodeid,name,file\r\n"


def test_names_that_are_no_text(tmp_path: Path) -> None:
    (line,) = read(tmp_path, [experiment(name="caf\udce9")])
    assert line["name"] == "caf\\udce9"
