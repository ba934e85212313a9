"""Rows in pytest-benchmark: what is saved, shown, compared and gated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import TINY

Write = Callable[..., Path]
Run = Callable[..., pytest.RunResult]
Saved = Callable[[], list[dict[str, Any]]]


def test_the_workload_hash_is_of_the_work_and_not_of_its_name_or_its_repetitions(
    pytester: pytest.Pytester, run: Run, write: Write, saved: Saved
) -> None:
    pytester.makeini("[pytest]\nmarkers = slow: takes long\n")
    write("a.llem.yaml")
    write("b.llem.yaml", "name: renamed\nmarks: [slow]\ncompare: {energy: 5%}\ntimeout_s: 9\n")
    write("c.llem.yaml", "random_seed: 7\n")
    run("--benchmark-json=out.json", "--llem-meter=none")
    a, b, c = (row["extra_info"]["workload_hash"] for row in saved())
    assert a == b != c


def test_without_a_meter_there_is_latency_and_no_energy(run: Run, write: Write, saved: Saved) -> None:
    write()
    run("--benchmark-json=out.json", "--llem-meter=none").assert_outcomes(passed=1)
    (row,) = saved()
    assert row["extra_info"]["metric"] == "latency"
    assert row["extra_info"]["result"]["energy_j"] is None
    assert row["extra_info"]["result"]["mean_power_w"] is None


def test_tables_of_joules_and_seconds_are_apart_and_say_so(run: Run, write: Write) -> None:
    write("a.llem.yaml")
    write("b.llem.yaml")
    result = run("--llem-meter=estimate")
    result.stdout.fnmatch_lines(
        [
            "*benchmark 'energy (estimated)': 2 tests*",
            "Name (energy in *J, estimated)*Calls/*J*",
            "*benchmark 'latency': 2 tests*",
            "Name (time in *s)*",
        ]
    )


@pytest.mark.parametrize("group_by", ["group", "name", "func", "fullname", "param"])
def test_no_grouping_mixes_units(run: Run, write: Write, group_by: str) -> None:
    write()
    result = run("--llem-meter=estimate", f"--benchmark-group-by={group_by}")
    tables = [line for line in result.outlines if line.startswith("Name (")]
    assert len(tables) == 2
    assert sum("energy in" in line for line in tables) == 1


def test_rows_are_grouped_by_a_parameter_that_some_lack(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write("swept.llem.yaml", "sweep: {pytorch.batch_size: [1, 2]}\n")
    write("plain.llem.yaml")
    pytester.makepyfile("def test_plain(benchmark): benchmark.pedantic(sum, ([1, 2],))")
    result = run("--llem-meter=none", "--benchmark-group-by=param:pytorch.batch_size")
    result.assert_outcomes(passed=4)
    tables = [line.split("'")[1] for line in result.outlines if line.startswith("---") and "benchmark '" in line]
    assert sorted(tables) == [f"pytorch.batch_size={size}" for size in ("1", "2", "None", "None latency")]


def test_options_without_an_effect_are_named(run: Run, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write()
    monkeypatch.setenv("PYTEST_ADDOPTS", f"{os.environ['PYTEST_ADDOPTS']} --benchmark-min-rounds=7")
    result = run("--llem-meter=none", "--benchmark-warmup=on", "--benchmark-sort=mean")
    result.stdout.fnmatch_lines(["llem: --benchmark-min-rounds, --benchmark-warmup: no effect on experiments*"])


def test_plain_benchmarks_beside_ours_keep_seconds(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write()
    pytester.makepyfile("def test_plain(benchmark): benchmark(sum, [1, 2])")
    result = run("--llem-meter=estimate", "--benchmark-group-by=param", "--benchmark-max-time=0.01")
    result.assert_outcomes(passed=2)
    assert sum(line.startswith("Name (time in") for line in result.outlines) == 2


def scale_energy(storage: Path, factor: float) -> None:
    """Rewrite the saved run as if it had used ``factor`` times the energy."""
    (path,) = storage.rglob("*.json")
    data = json.loads(path.read_text())
    for row in data["benchmarks"]:
        if row["extra_info"]["metric"] == "energy":
            for key in ("min", "max", "mean", "median", "q1", "q3", "ld15iqr", "hd15iqr", "total"):
                row["stats"][key] *= factor
    path.write_text(json.dumps(data))


def test_a_threefold_energy_is_caught_by_compare_fail(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write(extra="")
    run("--llem-meter=estimate", "--benchmark-save=base").assert_outcomes(passed=1)
    compare = ("--llem-meter=estimate", "--benchmark-compare=0001", "--benchmark-compare-fail=min:150%")
    scale_energy(pytester.path / ".benchmarks", 1 / 6)
    result = run(*compare)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*:energy*"])
    output = result.stdout.str() + result.stderr.str()
    failed = [line for line in output.splitlines() if "has failed" in line]
    assert failed
    assert all(":energy" in line for line in failed)


def test_modelled_and_measured_joules_are_never_compared(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write()
    run("--llem-meter=estimate", "--benchmark-save=base")
    (path,) = (pytester.path / ".benchmarks").rglob("*.json")
    data = json.loads(path.read_text())
    for row in data["benchmarks"]:  # as a meter that measures would have saved it
        for key in ("name", "fullname"):
            row[key] = row[key].replace("energy-estimated", "energy")
        row["extra_info"]["result"]["estimated"] = False
    path.write_text(json.dumps(data))
    scale_energy(pytester.path / ".benchmarks", 1e-3)
    result = run("--llem-meter=estimate", "--benchmark-compare=0001", "--benchmark-compare-fail=min:100000%")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.OK
    assert len([line for line in result.outlines if line.startswith("tiny:energy")]) == 1


def test_the_commands_print_joules(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write()
    run("--llem-meter=estimate", "--benchmark-save=base")
    own = [sys.executable, "-c", "from pytest_llem.benchmark import compare; compare()"]
    stock = [sys.executable, "-m", "pytest_benchmark", "compare"]
    root_conftest = (Path(__file__).parents[2] / "conftest.py").read_text()
    for command, conftest in ((own, ""), ([*own, "--storage", "file://.benchmarks"], ""), (stock, root_conftest)):
        (pytester.path / "conftest.py").write_text(conftest)
        done = subprocess.run(
            [*command, "--csv=out.csv"], cwd=pytester.path, capture_output=True, text=True, check=True
        )
        assert "Name (energy in" in done.stdout
        assert done.stdout.count("Name (time in") == 1
        assert "tiny:energy-estimated" in (pytester.path / "out.csv").read_text()


def test_histograms_name_the_unit(pytester: pytest.Pytester, write: Write) -> None:
    write()
    # In a process of its own: pygal replaces this interpreter's import hooks.
    result = pytester.runpytest_subprocess("--llem-cpu", "--llem-meter=estimate", "--benchmark-histogram=plots/h")
    result.assert_outcomes(passed=1)
    energy, latency = (
        (pytester.path / "plots" / f"h-{group}.svg").read_text() for group in ("energy_(estimated)", "latency")
    )
    assert "Energy in" in energy
    assert "joules" in energy.lower()
    assert ">Duration<" not in energy
    assert ">Duration<" in latency


def test_disabled_benchmarks_run_once_and_record_nothing(run: Run, write: Write, pytester: pytest.Pytester) -> None:
    write()
    pytester.makeconftest(
        """
        from tests.simulators.engine import FakeWorkload

        run = FakeWorkload.run

        def counting(self, index):
            print("CALL", index)
            return run(self, index)

        def pytest_configure():
            FakeWorkload.run = counting

        def pytest_unconfigure():
            FakeWorkload.run = run
        """
    )
    result = run("--benchmark-disable", "--benchmark-json=out.json", "-s")
    result.assert_outcomes(passed=1)
    assert len([line for line in result.outlines if "CALL" in line]) == 1
    result.stdout.no_fnmatch_line("*Name (*")
    assert not (pytester.path / "out.json").exists()


def test_benchmark_skip_and_only_know_experiments(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write()
    pytester.makepyfile("def test_other(): pass")
    run("--benchmark-skip").assert_outcomes(passed=1, skipped=1)
    run("--benchmark-only").assert_outcomes(passed=1, skipped=1)


@pytest.mark.parametrize("phase", ["call", "teardown"])
def test_an_item_that_fails_leaves_no_row(
    pytester: pytest.Pytester, run: Run, write: Write, saved: Saved, phase: str
) -> None:
    write("a.llem.yaml")
    write("b.llem.yaml")
    write("c.llem.yaml")
    pytester.makeconftest(
        f"""
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_{phase}(item):
            yield
            if item.name == "b":
                raise AssertionError("after the measurement")
        """
    )
    assert run("--benchmark-json=out.json", "--llem-meter=none").ret == pytest.ExitCode.TESTS_FAILED
    assert [row["name"] for row in saved()] == ["a", "c"]


def test_the_summary_shows_the_result_and_its_warnings(run: Run, write: Write) -> None:
    write()
    result = run("--llem-meter=estimate")
    result.stdout.fnmatch_lines(["experiment*energy/call*", "tiny * ± ? *J*estimate (estimated)", "tiny: *"])
    quiet = run("--llem-meter=estimate", "-q")
    quiet.stdout.no_fnmatch_line("experiment*energy/call*")


def test_the_reason_for_no_energy_shows_when_quiet_too(run: Run, write: Write) -> None:
    write()
    run("--llem-meter=none", "-q").stdout.fnmatch_lines(["tiny: energy_j: not measured: *"])


def test_the_summary_shows_when_the_comparison_fails(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write()
    run("--llem-meter=estimate", "--benchmark-save=base")
    scale_energy(pytester.path / ".benchmarks", 1e-3)
    result = run("--llem-meter=estimate", "--benchmark-compare=0001", "--benchmark-compare-fail=min:500%")
    assert result.ret != pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["experiment*energy/call*", "tiny *"])


def test_batches_that_the_prompts_do_not_fill_are_named(run: Run, write: Write, saved: Saved) -> None:
    write(extra="sweep: {pytorch.batch_size: [1, 3]}\n")
    run("--llem-meter=none", "--benchmark-json=out.json").assert_outcomes(passed=2)
    fitting, larger = (row["extra_info"]["result"] for row in saved())
    assert not any("batch_size" in warning for warning in fitting["warnings"])
    assert "batch_size 3 is above the number of prompts: each call has 2 of them" in larger["warnings"]


def with_windows(boundaries: str) -> str:
    return TINY.replace("measure: {", f"measure: {{boundaries: {boundaries}, ")


def test_joined_and_settled_windows_are_never_compared(
    pytester: pytest.Pytester, run: Run, write: Write, saved: Saved
) -> None:
    write(base=with_windows("settled"))
    run("--llem-meter=estimate", "--benchmark-save=base").assert_outcomes(passed=1)
    (path,) = (pytester.path / ".benchmarks").rglob("*.json")
    data = json.loads(path.read_text())
    for row in data["benchmarks"]:
        row["stats"] = {key: value * 1e-3 if key == "min" else value for key, value in row["stats"].items()}
    path.write_text(json.dumps(data))
    compare = ("--benchmark-compare=0001", "--benchmark-compare-fail=min:1000%", "--llem-fail=latency:5%")
    assert "has failed" in str(run("--llem-meter=estimate", *compare).stderr)

    write(base=with_windows("joined"))
    result = run("--llem-meter=estimate", *compare, "--benchmark-json=out.json")
    assert result.ret == pytest.ExitCode.OK
    assert [row["name"] for row in saved()] == ["tiny:latency-joined", "tiny:energy-estimated-joined"]
    result.stdout.fnmatch_lines(
        [
            "*benchmark 'energy (estimated, joined)': 1 tests*",
            "Name (energy in *J, estimated, joined)*",
            "*benchmark 'latency (joined)': 1 tests*",
            "tiny *estimate (estimated, joined)",
            "INCONCLUSIVE *the saved runs' windows were settled, now they are joined*",
        ]
    )


def test_the_command_shows_joined_and_settled_windows_in_tables_apart(
    pytester: pytest.Pytester, run: Run, write: Write
) -> None:
    for boundaries in ("settled", "joined"):
        write(base=with_windows(boundaries))
        run("--llem-meter=none", f"--benchmark-save={boundaries}").assert_outcomes(passed=1)
    command = [sys.executable, "-c", "from pytest_llem.benchmark import compare; compare()", "--group-by=func"]
    done = subprocess.run(command, cwd=pytester.path, capture_output=True, text=True, check=True)
    assert sum(line.startswith("Name (time in") for line in done.stdout.splitlines()) == 2


def test_the_command_writes_a_page_of_two_runs(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from pytest_llem.benchmark import compare; compare()", *arguments]
        return subprocess.run(command, cwd=pytester.path, capture_output=True, text=True)

    for name, length in (("base", 3), ("longer", 4)):
        write(extra=f"x-anything: {length}\n")
        run("--llem-meter=estimate", f"--benchmark-save={name}").assert_outcomes(passed=1)
    done = compare("0001", "0002", "--html=out/page.html")
    assert (done.returncode, done.stdout) == (0, "llem: wrote out/page.html\n"), done.stderr
    text = (pytester.path / "out" / "page.html").read_text()
    assert "<title>0002_longer against 0001_base</title>" in text
    assert text.count("unknown spread between runs: 1 of at least 3 saved runs") == 2
    for arguments, message in (
        (("0001", "0003"), "no saved run in file://./.benchmarks is '0003'"),
        (("0001", "000"), "2 saved runs match '000': "),
        (("0001",), "the following arguments are required: later"),
        (("0001", "a/b/c"), "'a/b/c' isn't an existing file"),
        (("0001", "0001"), "0001 and 0001 are the same run"),
        (("0001", "0002", "--storage=ftp://host"), "Storage must be in form of file://path"),
    ):
        done = compare(*arguments, "--html", "page.html")
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr.splitlines()[-1]
    saved = json.loads(next((pytester.path / ".benchmarks").rglob("0002_*.json")).read_text())
    saved["benchmarks"][0]["extra_info"]["result"]["labels"] = [["no text"]]
    for content in ("{", '{"benchmarks": [3]}', '{"benchmarks": {}}', json.dumps(saved)):
        (pytester.path / "broken.json").write_text(content)
        done = compare("0001", "broken.json", "--html", "page.html")
        assert done.returncode == 2
        assert "saved run" in done.stderr.splitlines()[-1]
    assert "Traceback" not in compare("0001", "0002", "--html", "/proc/none/page.html").stderr
    assert "--html PATH" in compare("--help").stdout
