"""The tutorial, done: its files are written, its commands run, and its outputs are what comes out but for numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

PAGE = Path(__file__).parents[3] / "docs" / "tutorial.md"

# A marker, then a block of code. Blocks without one are not run: installing, which .ci/run does, and a workflow.
_STEP = re.compile(r"^<!-- tutorial: ([^\n]+) -->\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# What was measured: fractions, in any unit. Whole numbers are counts, or belong to a name.
_MEASURED = re.compile(r"([\[+-]*)\d+\.\d+(%?[\],]*)")
_UNIT = r"[mkµ]?(?:J|s)"


def pattern(line: str) -> str:
    """What a line of an output that is shown has in common with that of another run."""
    words = []
    for word in line.split():
        if measured := _MEASURED.fullmatch(word):
            words.append(r"[\[+-]*[\d.,]+" + re.escape(measured[2]))
        else:
            words.append(_UNIT if re.fullmatch(_UNIT, word) else re.escape(word))
    return r"\s+".join(words)


def test_the_tutorial_holds(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pytester.mkdir("project")
    for variable, value in {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "200",
        # Other tests may run beside this one.
        "OMP_NUM_THREADS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }.items():
        monkeypatch.setenv(variable, value)
    # Where its pull requests go.
    hub = pytester.mkdir("hub")
    for command in (["init", "-q", "--bare", hub], ["init", "-q", "-b", "main"], ["remote", "add", "origin", hub]):
        subprocess.run(["git", *command], cwd=folder, check=True)

    steps = _STEP.findall(PAGE.read_text(encoding="utf-8"))
    assert len(steps) == PAGE.read_text(encoding="utf-8").count("<!-- tutorial:")
    printed = ""
    for step, text in steps:
        kind, _, argument = step.partition(" ")
        if kind in ("file", "append"):
            path = folder / argument
            path.parent.mkdir(exist_ok=True)
            path.write_text((path.read_text() if kind == "append" else "") + text, encoding="utf-8")
        elif kind == "output":
            for line in text.splitlines():
                assert re.search(pattern(line), printed), f"{line}\n\nis not in\n\n{printed}"
        else:
            assert kind.rstrip(",") == "run"
            done = subprocess.run(
                ["bash", "-euc", text], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            printed = done.stdout
            assert done.returncode == int(argument.removeprefix("exit ") or 0), printed
    assert (folder / "report.html").stat().st_size > 0
