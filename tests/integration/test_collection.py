"""Experiment files become real items."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]
Run = Callable[..., pytest.RunResult]


def node_ids(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if "::" in line]


def test_a_file_with_one_experiment_is_one_item_named_after_the_file(run: Run, write: Write) -> None:
    write("bench/quick.llem.yaml")
    assert node_ids(run("--collect-only", "-q")) == ["bench/quick.llem.yaml::quick"]


def test_several_experiments_and_a_sweep_have_readable_ids_in_file_order(run: Run, write: Write) -> None:
    write(
        extra="""\
experiments:
  - name: one
  - name: two
    sweep:
      pytorch.batch_size: [1, 2]
      pytorch: [{}, {use_cache: false}]
"""
    )
    assert node_ids(run("--collect-only", "-q")) == [
        "tiny.llem.yaml::one",
        "tiny.llem.yaml::two[batch_size:1-pytorch:base]",
        "tiny.llem.yaml::two[batch_size:1-use_cache:false]",
        "tiny.llem.yaml::two[batch_size:2-pytorch:base]",
        "tiny.llem.yaml::two[batch_size:2-use_cache:false]",
    ]


@pytest.mark.parametrize(
    ("expression", "count"),
    [("batch_size:2", 1), ("sweep", 2), ("sweep[batch_size:1]", 1), ("not batch_size:1", 1)],
)
def test_dash_k_selects_by_swept_value(run: Run, write: Write, expression: str, count: int) -> None:
    write("sweep.llem.yaml", "sweep: {pytorch.batch_size: [1, 2]}\n")
    assert len(node_ids(run("--collect-only", "-q", "-k", expression))) == count


def test_a_node_id_and_a_mark_select(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    pytester.makeini("[pytest]\nmarkers = slow: takes long\n")
    write("sweep.llem.yaml", "sweep: {pytorch.batch_size: [1, 2]}\n")
    write("other.llem.yaml", "marks: [slow]\n")
    assert len(node_ids(run("--collect-only", "-q", "sweep.llem.yaml::sweep[batch_size:2]"))) == 1
    assert node_ids(run("--collect-only", "-q", "-m", "slow")) == ["other.llem.yaml::other"]


def test_items_are_pytest_functions(pytester: pytest.Pytester, write: Write) -> None:
    write()
    items, _ = pytester.inline_genitems()
    assert [type(item) for item in items] == [pytest.Function]
    assert items[0].location[0] == "tiny.llem.yaml"


def test_other_patterns_of_files(run: Run, write: Write, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nllem_files = *.bench.yaml\n")
    write("a.bench.yaml", "name: chosen\n")
    write("b.llem.yaml")
    assert node_ids(run("--collect-only", "-q")) == ["a.bench.yaml::chosen"]


def test_without_a_device_valid_experiments_are_skipped_and_invalid_ones_fail(
    pytester: pytest.Pytester, write: Write
) -> None:
    write("good.llem.yaml")
    write("bad.llem.yaml", "max_output_token: 3\n")
    result = pytester.runpytest_inprocess("-rs")
    result.assert_outcomes(skipped=1, errors=1)
    result.stdout.fnmatch_lines(["SKIPPED*good.llem.yaml*--llem-gpu*--llem-cpu*"])


def test_an_invalid_experiment_is_one_failure_with_place_field_and_remedy(run: Run, write: Write) -> None:
    write(
        extra="""\
experiments:
  - name: bad
    pytorch:
      batch_sise: 4
  - name: good
"""
    )
    result = run()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["tiny.llem.yaml:11: pytorch.batch_sise: *batch_size*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*pytest_llem*")


def test_a_syntax_error_is_a_collection_error_and_the_rest_runs(run: Run, write: Write) -> None:
    write("broken.llem.yaml", base="model: [unclosed\n")
    write("good.llem.yaml")
    result = run("--continue-on-collection-errors")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["broken.llem.yaml:2: *"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    assert run().ret == pytest.ExitCode.INTERRUPTED


def test_the_traceback_of_a_failing_experiment_points_into_the_file(
    pytester: pytest.Pytester, run: Run, write: Write
) -> None:
    write("one.llem.yaml", base="# a comment\nexperiments:\n  - model: builtin:tiny-llama\n    name: here\n")
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def llem_run():
            def run():
                raise ZeroDivisionError("in user code")
            return run
        """
    )
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"one\.llem\.yaml:[34]: "])


def test_a_backend_whose_library_is_missing_is_skipped_with_that_reason(run: Run, write: Write) -> None:
    write("v.llem.yaml", base="model: gpt2\nbackend: tensorrt\ntensorrt: {max_batch_size: 2}\n")
    result = run("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*tensorrt*"])


def test_an_experiment_for_the_gpu_is_skipped_on_the_cpu(run: Run, write: Write) -> None:
    write(extra="device: cuda\n")
    result = run("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*device: cuda*"])


def test_an_unknown_mark_under_strict_markers_names_the_file(run: Run, write: Write) -> None:
    write(extra="marks: [no_such_mark]\n")
    result = run("--strict-markers")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*tiny.llem.yaml*", "*no_such_mark*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_an_unknown_mark_is_one_failing_item_where_warnings_are_errors(run: Run, write: Write) -> None:
    write(extra="sweep: {marks: [[no_such_mark], []]}\n")
    result = run("-W", "error::pytest.PytestUnknownMarkWarning", "--llem-meter=none")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["tiny.llem.yaml:8: marks: Unknown pytest.mark.no_such_mark*"])


def test_a_syntax_error_shows_its_place(run: Run, write: Write) -> None:
    write("bad.llem.yaml", base="model: x\n  y: 1\n")
    result = run()
    result.stdout.fnmatch_lines(
        ["bad.llem.yaml:2: not valid YAML: *", " --> bad.llem.yaml:2:4", "  |", "2 |   y: 1", "  |    ^"]
    )


HEAVY = ("torch", "transformers")
ANY = (*HEAVY, "pydantic", "yaml", "pynvml", "numpy")


@pytest.mark.parametrize(
    ("files", "options", "unwanted"),
    [
        pytest.param({"test_a.py": "def test_a(): pass\n"}, [], ANY, id="no experiment file"),
        pytest.param({"a.llem.yaml": "model: builtin:tiny-llama\n"}, ["--collect-only"], HEAVY, id="collecting"),
        pytest.param({"a.llem.yaml": "model: builtin:tiny-llama\n"}, [], HEAVY, id="validating"),
    ],
)
def test_what_is_not_needed_is_not_imported(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    options: list[str],
    unwanted: tuple[str, ...],
) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS")
    for name, text in files.items():
        (pytester.path / name).write_text(text)
    pytester.makeconftest(
        textwrap.dedent(
            f"""
            import sys

            def pytest_unconfigure():
                print("IMPORTED", [name for name in {unwanted!r} if name in sys.modules])
            """
        )
    )
    result = pytester.run(sys.executable, "-m", "pytest", *options)
    result.stdout.fnmatch_lines(["IMPORTED []*"])


def test_experiment_files_of_another_root_folder_are_read_in_place(
    pytester: pytest.Pytester, run: Run, write: Write
) -> None:
    # As on the other side of a comparison: its Python tests are run, and this side's files are read where they lie.
    write("here/below/a.llem.yaml", "name: theirs\ndataset: {path: prompts.txt}\n", base="base: base.yaml\n")
    write("here/below/base.yaml", "name: x\n")
    write("here/b.llem.yaml", "name: theirs\n")
    (pytester.path / "here/below/prompts.txt").write_text("a prompt\n")
    write("there/below/a.llem.yaml", base="# Read from elsewhere.\n")
    write("there/only.llem.yaml", "name: own\n")
    there = pytester.path / "there"
    (there / "test_marked.py").write_text(
        "import pathlib, pytest\n@pytest.mark.llem('below/../b.llem.yaml')\ndef test_one(llem_experiment): pass\n"
    )
    result = run(f"--rootdir={there}", f"--llem-experiments-root={pytester.path / 'here'}", "-v", str(there))
    result.assert_outcomes(passed=3)
    names = ["test_marked.py::test_one?theirs?", "below/a.llem.yaml::theirs", "only.llem.yaml::own"]
    result.stdout.fnmatch_lines_random([f"*{name} PASSED*" for name in names])
