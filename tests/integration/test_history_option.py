"""``--llem-history``: a page of what is saved, and nothing else."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.simulators.store import Night, saved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NIGHT = Night(0)


def errors(result: pytest.RunResult) -> str:
    """What a usage error says."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stdout.str() + result.stderr.str()
    assert "INTERNALERROR" not in text
    assert "Traceback" not in text
    return text


@pytest.fixture
def store(pytester: pytest.Pytester) -> Path:
    """Four nights of one machine, and four of another one."""
    folder = pytester.path / ".benchmarks"
    for number in range(8):
        night = replace(NIGHT, number=number)
        machine = folder / ("Linux-CPython-3.13-64bit" if number < 4 else "Linux-CPython-3.14-64bit")
        machine.mkdir(parents=True, exist_ok=True)
        (machine / night.name).write_text(json.dumps(saved(night)))
    return folder


@pytest.mark.usefixtures("store")
def test_a_page_is_written_from_the_store_alone(pytester: pytest.Pytester, write: Callable[..., Path]) -> None:
    # Neither collected, nor run.
    write("broken.llem.yaml", base="model: [")
    pytester.makepyfile("raise SystemExit('imported')")
    result = pytester.runpytest_inprocess("--llem-history=out/page.html", "--llem-cpu")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["llem: wrote out/page.html: 8 results of 1 experiment, from 8 saved sessions"])
    result.stdout.no_fnmatch_line("*experiments run on*")
    assert "llama.llem.yaml" in (pytester.path / "out" / "page.html").read_text(encoding="utf-8")


@pytest.mark.processes
@pytest.mark.usefixtures("store")
def test_torch_is_not_imported(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import sys\ndef pytest_unconfigure():\n    print('torch' in sys.modules, 'transformers' in sys.modules)\n"
    )
    result = pytester.runpytest_subprocess("--llem-history=page.html", "-s")
    result.stdout.fnmatch_lines(["*False False"])


def test_what_is_left_out_is_said(pytester: pytest.Pytester, store: Path) -> None:
    folder = store / "Linux-CPython-3.13-64bit"
    (folder / "0090_cut.json").write_text(json.dumps(saved(NIGHT))[:-40])
    (folder / "0091_other.json").write_text(json.dumps({**saved(NIGHT), "benchmarks": [{"stats": {}}]}))
    (folder / "0092_deep.json").write_text("[" * 200_000)
    (folder / "0093_bytes.json").write_bytes(b"\xff\xfe")
    (folder / "notes.json").write_text("{}")
    result = pytester.runpytest_inprocess("--llem-history=page.html")
    assert result.ret == pytest.ExitCode.OK
    (line,) = [line for line in result.outlines if line.startswith("llem: left out")]
    page = (pytester.path / "page.html").read_text(encoding="utf-8")
    for name in ("0090_cut", "0091_other", "0092_deep", "0093_bytes", "notes"):
        assert f"Linux-CPython-3.13-64bit/{name}.json" in line
        assert f"{name}.json" in page
    assert "5 saved files are not shown here" in page


@pytest.mark.usefixtures("store")
def test_gates_judge_what_has_no_verdict(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nllem_fail = energy:2%..5%\n    output:same\n")
    assert pytester.runpytest_inprocess("--llem-history=page.html").ret == pytest.ExitCode.OK
    page = (pytester.path / "page.html").read_text(encoding="utf-8")
    assert "8 of them were given afterwards, on the newest results, by energy:2%..5%." in " ".join(page.split())


def test_an_empty_store_says_how_to_save_runs(pytester: pytest.Pytester) -> None:
    said = errors(pytester.runpytest_inprocess("--llem-history=page.html"))
    assert "no saved result of an experiment in" in said
    assert "--benchmark-autosave" in said
    assert not (pytester.path / "page.html").exists()


@pytest.mark.usefixtures("store")
def test_a_page_that_cannot_be_written_is_a_usage_error(pytester: pytest.Pytester) -> None:
    pytester.mkdir("folder")
    pytester.path.joinpath("file").touch()
    assert "Is a directory" in errors(pytester.runpytest_inprocess("--llem-history=folder"))
    assert "--llem-history" in errors(pytester.runpytest_inprocess("--llem-history=file/page.html"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--llem-history="], "its value is empty"),
        (["--llem-merge=a.jsonl"], "leave out --llem-merge"),
        (["--llem-plan"], "leave out --llem-plan"),
        (["--llem-against=main"], "leave out --llem-against"),
        (["--llem-report=r.html", "--llem-csv=r.csv"], "leave out --llem-report, --llem-csv"),
        (["--llem-accept"], "leave out --llem-accept"),
        (["--llem-export=parquet:x"], "leave out --llem-export"),
        (["-p", "no:benchmark"], "pytest-benchmark"),
    ],
)
@pytest.mark.usefixtures("store")
def test_what_would_not_happen_is_refused(pytester: pytest.Pytester, arguments: list[str], said: str) -> None:
    assert said in errors(pytester.runpytest_inprocess("--llem-history=page.html", *arguments))


@pytest.mark.skipif(sys.platform == "win32", reason="has no such names")
def test_a_name_cannot_drive_the_terminal(pytester: pytest.Pytester, store: Path) -> None:
    (store / "0009_\x1b[31m.json").write_text("{}")
    result = pytester.runpytest_inprocess("--llem-history=page.html")
    assert "\x1b" not in result.stdout.str()
