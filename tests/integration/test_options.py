"""The command line and its ini keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., Path]
Run = Callable[..., pytest.RunResult]
Saved = Callable[[], list[dict[str, Any]]]


def errors(result: pytest.RunResult) -> str:
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    return "\n".join(line for line in result.errlines if line.startswith("ERROR:") or "error:" in line)


def test_both_devices_are_a_usage_error(run: Run) -> None:
    assert "exclude each other" in errors(run("--llem-gpu"))


def test_collecting_for_the_gpu_needs_none(pytester: pytest.Pytester, write: Write) -> None:
    write()
    assert pytester.runpytest_inprocess("--llem-gpu", "--collect-only").ret == pytest.ExitCode.OK


@pytest.mark.parametrize("how", ["option", "ini"])
def test_a_meter_that_cannot_work_is_a_usage_error_with_the_reason(
    pytester: pytest.Pytester, run: Run, write: Write, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write()
    pytester.makeini("[pytest]\nllem_meter = nvml\n" if how == "ini" else "[pytest]\n")
    assert "nvml" in errors(run(*([] if how == "ini" else ["--llem-meter=nvml"])))


def test_an_unknown_meter_is_a_usage_error_that_lists_the_meters(run: Run, pytester: pytest.Pytester) -> None:
    assert "estimate" in errors(run("--llem-meter=joulemeter"))
    pytester.makeini("[pytest]\nllem_meter = joulemeter\n")
    assert "estimate" in errors(run())


@pytest.mark.parametrize(
    "arguments",
    [["--llem-rounds=0"], ["--llem-rounds=two"], ["--llem-min-window=-1"], ["--llem-min-window=nan"]],
)
def test_numbers_out_of_range_are_usage_errors(run: Run, arguments: list[str]) -> None:
    assert errors(run(*arguments))


def test_rounds_and_windows_override_the_file(run: Run, write: Write, saved: Saved) -> None:
    write()
    run("--llem-meter=none", "--llem-rounds=3", "--llem-min-window=0", "--benchmark-json=out.json")
    result = saved()[0]["extra_info"]["result"]
    assert result["rounds"] == 3
    # A window of no least length is a single pass: two prompts, one a call.
    assert result["calls_per_round"] == 2


def test_the_command_line_wins_over_the_ini_file(
    pytester: pytest.Pytester, run: Run, write: Write, saved: Saved
) -> None:
    write()
    pytester.makeini("[pytest]\nllem_rounds = 4\nllem_min_window = 0\nllem_meter = none\n")
    run("--benchmark-json=out.json")
    assert saved()[0]["extra_info"]["result"]["rounds"] == 4
    run("--benchmark-json=out.json", "--llem-rounds=1")
    assert saved()[0]["extra_info"]["result"]["rounds"] == 1


def test_windows_are_filled_with_whole_passes(run: Run, write: Write, saved: Saved) -> None:
    write(extra="")
    run("--llem-meter=none", "--llem-min-window=0.1", "--benchmark-json=out.json")
    result = saved()[0]["extra_info"]["result"]
    assert result["calls_per_round"] % 2 == 0
    assert result["calls_per_round"] > 2
    for one in result["per_round"]:
        assert one["output_tokens"] == 4 * result["calls_per_round"]


def test_help_names_every_option(run: Run) -> None:
    result = run("--help")
    for name in (
        "--llem-gpu",
        "--llem-cpu",
        "--llem-meter",
        "--llem-rounds",
        "--llem-min-window",
        "llem_files",
    ):
        result.stdout.fnmatch_lines([f"*{name}*"])


def test_without_pytest_benchmark_the_message_says_what_to_do(
    pytester: pytest.Pytester, run: Run, write: Write
) -> None:
    write()
    # The file that users copy names a hook that is not there then.
    (pytester.path / "conftest.py").write_text((Path(__file__).parents[2] / "conftest.py").read_text())
    result = run("-p", "no:benchmark")
    assert result.ret != pytest.ExitCode.OK
    assert "pytest-benchmark" in result.stdout.str() + result.stderr.str()
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


@pytest.mark.parametrize("option", ["--llem-journal", "--llem-baseline", "--llem-csv", "--llem-merge"])
@pytest.mark.parametrize("tests", [[], ["suite"]])
def test_a_path_that_leads_pytest_to_another_root_is_a_usage_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, option: str, tests: list[str]
) -> None:
    project = pytester.mkdir("project")
    (project / "pytest.ini").write_text("[pytest]\nllem_strict = true\n")
    (project / "suite").mkdir()
    outside = pytester.path / "part.jsonl"
    outside.touch()
    monkeypatch.chdir(project)
    lost = pytester.runpytest_inprocess("-q", option, str(outside), "--collect-only")
    assert f"write {option}={outside}" in errors(lost)
    # With tests of the project, pytest finds its ini file in spite of the path.
    for arguments in ([*tests, f"{option}={outside}"], ["suite", option, str(outside)]):
        result = pytester.runpytest_inprocess(*arguments, "--collect-only")
        assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
        result.stdout.fnmatch_lines([f"rootdir: {project}"])
    given = pytester.runpytest_inprocess(option, str(outside), "--rootdir=.", "--collect-only")
    assert given.ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize("ini", ["", "[pytest]\n"])
def test_another_root_is_told_where_nothing_is_lost_with_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, run: Run, write: Write, ini: str
) -> None:
    project = write("project/tiny.llem.yaml").parent
    if ini:
        (project / "pytest.ini").write_text(ini)
    monkeypatch.chdir(project)
    outside = pytester.path / "part.jsonl"
    outside.touch()
    told = f"llem: *write --llem-journal={outside}"
    result = run("-q", "--llem-journal", str(outside))
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([told])
    merged = run("--llem-merge", str(outside))
    assert merged.ret == pytest.ExitCode.OK
    merged.stdout.fnmatch_lines(["llem: merged 1 experiment of 1 journal*"])
    merged.stdout.no_fnmatch_line("llem: *write --llem-*")


def test_paths_of_the_project_may_follow_a_space(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeini("[pytest]\nllem_strict = true\n")
    parts = pytester.mkdir("parts")
    names = [f"parts/{name}.jsonl" for name in "ab"]
    for name in names:
        Path(name).touch()
    for folder, paths in ((pytester.path, names), (pytester.mkdir("sub"), [f"../{name}" for name in names])):
        monkeypatch.chdir(folder)
        result = pytester.runpytest_inprocess("--llem-merge", *paths)
        assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
        result.stdout.fnmatch_lines([f"rootdir: {pytester.path}", "llem: merged 0 experiments of 2 journals*"])
    # A folder with an ini file of its own is another root.
    (parts / "pytest.ini").touch()
    monkeypatch.chdir(pytester.path)
    assert "--llem-merge=parts/a.jsonl --llem-merge=parts/b.jsonl" in errors(
        pytester.runpytest_inprocess("--llem-merge", *names)
    )
