"""Rows of results that were compared with another state of the code."""

from __future__ import annotations

import json
from dataclasses import replace

from pytest_llem.records.rows import dumps, rows_of
from pytest_llem.session.journal_line import as_line, from_line
from tests.unit.report.examples import experiment, in_pairs, result


def test_a_script_finds_the_pairs_of_the_row_s_metric() -> None:
    record = in_pairs(change=0.1, pairs=2, verdicts={"energy": "REGRESSED"}, changes={"energy": (0.1, (0.09, 0.11))})
    latency, energy = (row.extra_info for row in rows_of(record))
    found = json.loads(dumps(energy["against"]))
    pairs = found.pop("pairs")
    interval = [0.09, 0.11]
    assert found == {"name": "main", "unit": "J", "verdict": "REGRESSED", "change": 0.1, "interval": interval}
    assert [(pair["first"], pair["by_turns"]) for pair in pairs] == [("other", True), ("this", True)]
    assert [round(pair["this"], 6) for pair in pairs] == [110.0, 110.66]
    assert [round(pair["other"], 6) for pair in pairs] == [100.0, 100.0]
    against = latency["against"]
    assert (against["unit"], against["verdict"], against["change"], against["interval"]) == ("s", None, None, None)
    assert round(against["pairs"][0]["other"], 6) == 2.0


def test_nothing_of_the_other_side_is_a_row_or_a_run() -> None:
    record = in_pairs(pairs=2)
    rows = rows_of(replace(record, other_runs=tuple(replace(run, result=result(777.0)) for run in record.other_runs)))
    assert [row.extra_info["metric"] for row in rows] == ["latency", "energy"]
    for row in rows:
        info = {key: value for key, value in row.extra_info.items() if key != "against"}
        assert "777" not in dumps(info)
        assert len(info["more_runs"]) == 1


def test_what_the_other_side_did_not_measure_is_null() -> None:
    record = in_pairs(pairs=1)
    none = replace(record, other_runs=(replace(record.other_runs[0], result=result(None)),))
    (pair,) = rows_of(none)[1].extra_info["against"]["pairs"]
    assert pair["other"] is None
    assert "against" not in rows_of(experiment())[0].extra_info


def test_pairs_survive_the_journal() -> None:
    record = in_pairs(change=0.1)
    again = from_line(as_line(record))
    assert again.pairs("energy") == record.pairs("energy")
    assert again == record
