"""Many mutated files in one pytest session: what a user sees of each, and what the session costs."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.effort import FACTOR, FIRST_SEED
from tests.fuzz.mutations import corpus, mutated, real_files
from tests.fuzz.outcome import check_message

FILES = 1000
MAX_MEMORY_BYTES = 2**30

# Notes what became of each collector and item, with the text that the terminal would show.
CONFTEST = """\
import json
from pathlib import Path

outcomes = Path(__file__).with_name("outcomes.jsonl").open("w")


def note(kind, report):
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr or "")
    line = {"kind": kind, "nodeid": report.nodeid, "outcome": report.outcome, "text": text}
    outcomes.write(json.dumps(line) + "\\n")


def pytest_collectreport(report):
    note("collect", report)


def pytest_runtest_logreport(report):
    if report.outcome != "passed":
        note("item", report)


def pytest_unconfigure():
    outcomes.close()
"""


@pytest.mark.parametrize("part", range(FACTOR))
def test_a_thousand_mutated_files_in_one_session(tmp_path: Path, part: int) -> None:
    # Of the real files as often as of the traps.
    seeds = [path.read_bytes() for path in real_files() * 15]
    seeds += [path.read_bytes() for path in corpus()]
    for number in range(FILES):
        rng = random.Random(FIRST_SEED + part * FILES + number)  # noqa: S311
        (tmp_path / f"m{number:05}.llem.yaml").write_bytes(mutated(seeds, rng))
    (tmp_path / "conftest.py").write_text(CONFTEST)

    status, memory_bytes, output = _pytest(tmp_path)

    assert status == 1, output[-2000:]
    assert "INTERNALERROR" not in output
    assert "Traceback" not in output
    assert memory_bytes < MAX_MEMORY_BYTES
    outcomes = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    for one in outcomes:
        _check(one)
    seen = {one["nodeid"].partition("::")[0] for one in outcomes}
    assert len([name for name in seen if name.endswith(".llem.yaml")]) == FILES
    # All three ends are there, or the mutations have lost their bite.
    kinds = {(one["kind"], one["outcome"]) for one in outcomes}
    assert kinds >= {("collect", "failed"), ("item", "failed"), ("item", "skipped")}


def _check(one: dict[str, Any]) -> None:
    if one["outcome"] == "failed":
        messages = one["text"].split("\n")
        # An item may have several mistakes, each with the place in the file below it.
        first = [line for line in messages if re.match(r"(?! |\d+ \|).+?:\d+: ", line)]
        assert first, one
        if one["kind"] == "collect":
            text = one["text"].strip()
            # With the place below it, where there is one to show.
            check_message(text, lines=5 if "\n" in text else 1)
        for line in first:
            check_message(line, lines=1)
        assert "pytest_llem" not in one["text"], one
    elif one["outcome"] == "skipped":
        assert one["text"], one


def _pytest(folder: Path) -> tuple[int, int, str]:
    """Exit status, greatest memory in bytes, and output of a session over ``folder``."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--continue-on-collection-errors"]
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [*command, "-p", "no:cacheprovider", str(folder)],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": root, "PYTEST_ADDOPTS": ""},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    # Linux counts in KiB.
    return process.returncode, usage.ru_maxrss * 1024, (folder / "output.txt").read_text(errors="replace")
