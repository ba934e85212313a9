"""The fixtures and the marker, in tests that users write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., Path]
Run = Callable[..., pytest.RunResult]
Saved = Callable[[], list[dict[str, Any]]]


def test_a_fixture_without_an_experiment_says_what_is_missing(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        def test_experiment(llem_experiment): pass
        def test_model(llem_model): pass
        def test_run(llem_run): pass
        """
    )
    result = run()
    result.assert_outcomes(errors=3)
    # The name that the test asked for is among them, whichever of its fixtures was set up first.
    message = (
        'llem_experiment, llem_model and llem_run need an experiment: use @pytest.mark.llem("file.llem.yaml") above*'
    )
    result.stdout.fnmatch_lines([message] * 3)


def test_several_markers_run_the_experiments_of_all_files(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write("a.llem.yaml")
    write("b.llem.yaml")
    pytester.makepyfile(
        """
        import unittest

        import pytest

        @pytest.mark.llem("a.llem.yaml")
        @pytest.mark.llem("b.llem.yaml")
        def test_both(llem_experiment): pass

        class TestOld(unittest.TestCase):
            @pytest.mark.llem("a.llem.yaml")
            def test_method(self): pass
        """
    )
    result = run("-k", "both or method")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["pytest.mark.llem works on test functions*"])


def test_a_dataset_starts_at_the_experiment_file(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write("sub/d.llem.yaml", base="model: builtin:tiny-llama\ndataset: {path: p.jsonl}\nmax_output_tokens: 2\n")
    (pytester.path / "sub" / "p.jsonl").write_text('{"prompt": "one"}\n')
    run("--llem-meter=none", "--llem-rounds=1", "--llem-min-window=0").assert_outcomes(passed=1)


def test_what_cannot_be_loaded_is_said_once(run: Run, write: Write) -> None:
    write(base="model: fake/does-not-load\n")
    result = run()
    result.assert_outcomes(errors=1)
    result.stdout.no_fnmatch_line("*exception*")
    # Once where the failure is told; pytest's closing summary repeats the first line of each failure.
    told = [line for line in result.outlines if "could not be loaded" in line and not line.startswith("ERROR ")]
    assert len(told) == 1


def test_the_marker_wants_one_path_that_exists(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.llem("nowhere.llem.yaml")
        def test_a(llem_run): pass
        """
    )
    result = run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*nowhere.llem.yaml*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_an_assertion_on_the_result_fails_the_item_and_drops_its_rows(
    pytester: pytest.Pytester, run: Run, write: Write
) -> None:
    write("e.llem.yaml")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.llem("e.llem.yaml")
        def test_budget(llem_run):
            assert llem_run().energy_j < 0
        """
    )
    result = run("--llem-meter=estimate", "--benchmark-json=out.json")
    result.assert_outcomes(passed=1, failed=1)
    assert [row["name"] for row in json.loads((pytester.path / "out.json").read_text())["benchmarks"]] == [
        "e",
        "e:energy-estimated",
    ]


def test_measuring_twice_in_one_item_is_refused(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write("e.llem.yaml")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.llem("e.llem.yaml")
        def test_twice(llem_run):
            llem_run()
            llem_run()
        """
    )
    result = run("--llem-meter=none", "-k", "twice")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*measures an item once*"])


def test_llem_benchmark_measures_any_callable(pytester: pytest.Pytester, run: Run, saved: Saved) -> None:
    pytester.makepyfile(
        """
        def test_sum(llem_benchmark):
            llem_benchmark.extra_info["note"] = "kept"
            assert llem_benchmark(sum, range(100_000)) == 4_999_950_000
            assert llem_benchmark.result.rounds == 3

        def test_own_protocol(llem_benchmark):
            calls = []
            llem_benchmark.pedantic(calls.append, (1,), rounds=4, warmup_rounds=2, min_window_s=0)
            assert len(calls) == 2 + 4
        """
    )
    result = run("--llem-meter=estimate", "--llem-rounds=3", "--llem-min-window=0.05", "--benchmark-json=out.json")
    result.assert_outcomes(passed=2)
    rows = {row["name"]: row for row in saved()}
    energy = rows["test_sum:energy-estimated"]
    assert energy["extra_info"]["note"] == "kept"
    assert energy["extra_info"]["result"]["energy_j"] > 0
    assert energy["extra_info"]["result"]["output_tokens"] is None
    # The second test's windows are too short for the estimating meter's clock or not; seconds are always there.
    assert rows["test_own_protocol"]["stats"]["rounds"] == 4


def test_the_meter_alone(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        def test_meter(llem_meter):
            with llem_meter.window() as w:
                sum(range(3_000_000))
            assert w.seconds > 0
            assert w.joules > 0
        """
    )
    run("--llem-meter=estimate").assert_outcomes(passed=1)


def test_users_fixtures_and_hooks_work_on_yaml_items(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write()
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(autouse=True)
        def note(request):
            print("FIXTURE", request.node.name)
            yield

        def pytest_runtest_logreport(report):
            if report.when == "call":
                print("HOOK", report.nodeid)
        """
    )
    result = run("-s", "--llem-meter=none")
    result.stdout.fnmatch_lines(["*FIXTURE tiny", "*HOOK tiny.llem.yaml::tiny"])


def test_junit_xml_names_the_experiment(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write(extra="sweep: {pytorch.batch_size: [1]}\n")
    run("--junitxml=junit.xml", "--llem-meter=none")
    assert 'name="tiny[batch_size:1]"' in (pytester.path / "junit.xml").read_text()


@pytest.mark.parametrize(("ends", "rows"), [("pytest.skip('not here')", 1), ("assert False", 0)])
def test_a_subtest_that_is_skipped_costs_no_result_and_one_that_fails_does(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], ends: str, rows: int
) -> None:
    pytester.makepyfile(
        f"""
        import pytest

        def test_sum(llem_benchmark, subtests):
            llem_benchmark.pedantic(sum, ([1],), rounds=1, min_window_s=0)
            with subtests.test("further"):
                {ends}
        """
    )
    run("--llem-meter=none", "--benchmark-json=out.json")
    saved = pytester.path / "out.json"
    assert (len(json.loads(saved.read_text())["benchmarks"]) if saved.exists() else 0) == rows
