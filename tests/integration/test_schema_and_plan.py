"""``--llem-schema`` and ``--llem-plan``, and what a sweep with contradictions and mistakes looks like."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.integration.conftest import TINY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    Run = Callable[..., pytest.RunResult]
    Write = Callable[..., Path]


def test_the_schema_is_json_and_imports_no_torch(pytester: pytest.Pytester, write: Write) -> None:
    write(extra="no_field: 1\n")
    code = "import sys, pytest; pytest.main(sys.argv[1:]); print('torch' in sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", code, "--llem-schema"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=pytester.path, check=True)
    assert done.stderr == "False\n"
    # Nothing was collected: the file would have failed.
    assert pytester.run(sys.executable, "-m", "pytest", "--llem-schema", "--collect-only").ret == 0
    schema = json.loads(done.stdout)
    assert {"model", "base", "experiments", "sweep", "exclude"} <= set(schema["properties"])


def test_the_plan_names_the_engine_of_a_load_where_it_is_not_the_first_one(run: Run, write: Write) -> None:
    write("a.llem.yaml", "sweep: {backend: [pytorch, vllm, tensorrt]}\nvllm: {max_num_seqs: 2}\n")
    assert [line for line in run("--llem-plan").outlines if line.startswith("load")] == [
        "load 1: builtin:tiny-llama, fp32",
        "load 2: builtin:tiny-llama, fp32, vllm, max_num_seqs: 2",
        "load 3: builtin:tiny-llama, fp32, tensorrt",
    ]


def test_the_plan_says_over_how_many_processes_a_load_is_divided(run: Run, write: Write) -> None:
    write("a.llem.yaml", "sweep: {parallel.tensor: [1, 2]}\n")
    assert [line for line in run("--llem-plan").outlines if line.startswith("load")] == [
        "load 1: builtin:tiny-llama, fp32",
        "load 2: builtin:tiny-llama, fp32, parallel.tensor: 2",
    ]


def test_the_plan_names_items_by_load_with_memory_and_time_and_runs_nothing(
    pytester: pytest.Pytester, run: Run, write: Write
) -> None:
    write("a.llem.yaml", "sweep: {pytorch.batch_size: [1, 2], precision: [fp32, bf16]}\n")
    write("b.llem.yaml", "random_seed: 7\n")
    pytester.makepyfile("def test_other(): raise AssertionError('this ran')")
    result = run("--llem-plan", "--llem-rounds=3", "--llem-min-window=50")
    assert result.ret == 0
    lines = result.outlines[result.outlines.index("load 1: builtin:tiny-llama, fp32") :]
    assert [line for line in lines if line.startswith(("load", "  a.llem", "  b.llem"))] == [
        "load 1: builtin:tiny-llama, fp32",
        "  a.llem.yaml::a[batch_size:1-precision:fp32]",
        "  a.llem.yaml::a[batch_size:2-precision:fp32]",
        "load 2: builtin:tiny-llama, bf16",
        "  a.llem.yaml::a[batch_size:1-precision:bf16]",
        "  a.llem.yaml::a[batch_size:2-precision:bf16]",
        "load 3: builtin:tiny-llama, fp32",
        "  b.llem.yaml::b",
    ]
    result.stdout.fnmatch_lines(
        [
            "    memory: * MiB weights + * KiB KV cache; time: at least 3 min",
            "llem plan: 5 items, 3 loads, 0 skipped, 0 not valid, 1 other test",
            "time: at least 13 min; loading, warming up and whole passes come on top",
            "memory: up to * MiB of weights and KV cache; activations come on top",
        ]
    )
    result.assert_outcomes()


def test_the_plan_predicts_what_earlier_runs_of_the_same_work_took(
    pytester: pytest.Pytester, run: Run, write: Write
) -> None:
    write("a.llem.yaml", "experiments: [{name: a}, {name: b, measure: {rounds: 3, min_window_s: 0.02}}]\n")
    run("--benchmark-autosave").assert_outcomes(passed=2)
    (path,) = (pytester.path / ".benchmarks").rglob("*.json")
    data = json.loads(path.read_text())
    for row in data["benchmarks"]:
        row["extra_info"]["result"]["spent_s"] = {"measured": 20.0, "checks": 1.0, "load": 3.5}
    path.write_text(json.dumps(data))
    # It holds what they really took.
    (journal,) = (pytester.path / ".benchmarks").glob("llem-journal.jsonl")
    journal.unlink()
    for device in ((), ("--llem-cpu",)):
        result = pytester.runpytest_inprocess("--llem-plan", *device)
        result.stdout.fnmatch_lines(
            [
                "load 1: builtin:tiny-llama, fp32 (about 3.5 s)",
                "*; time: about 21 s (as the last run)",
                "*; time: about 21 s (as the last run)",
                "time: about 45.5 s, as earlier runs took",
            ]
        )
    run("--benchmark-autosave").assert_outcomes(passed=2)
    # Saved and in the journal, it counts once.
    run("--llem-plan").stdout.fnmatch_lines(["*; time: about 1* s (as the last 2 runs)"])
    # A part sets the journal aside before it predicts.
    journal.replace(journal.with_name(f"{journal.name}.previous"))
    for saved in path.parent.iterdir():
        saved.unlink()
    run("--llem-plan").stdout.fnmatch_lines(["*; time: about * s (as the last run)"])
    path.write_text(json.dumps(data))
    elsewhere = pytester.runpytest_inprocess("--llem-plan", "--llem-gpu")
    elsewhere.stdout.fnmatch_lines(["*; time: at least 0.002 s"])
    write("a.llem.yaml", "experiments: [{name: a}, {name: b, measure: {rounds: 4, min_window_s: 20}}]\n")
    run("--llem-plan").stdout.fnmatch_lines(
        [
            "*; time: about 1* s (as the last 2 runs)",
            "*; time: at least 80 s",
            "time: at least 9* s; 1* s of it as earlier runs took, of the rest loading, warming up and whole passes *",
        ]
    )


def test_the_plan_of_a_comparison_says_what_pairs_take(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write("a.llem.yaml", "experiments: [{name: a}, {name: b}]\n")
    write("b.llem.yaml", base=TINY.replace("fp32", "bf16"))
    write("c.llem.yaml")
    run("--benchmark-autosave").assert_outcomes(passed=4)
    (path,) = (pytester.path / ".benchmarks").rglob("*.json")
    data = json.loads(path.read_text())
    for row in data["benchmarks"]:
        row["extra_info"]["result"]["spent_s"] = {"measured": 10.0, "load": 5.0}
    path.write_text(json.dumps(data))
    (pytester.path / ".benchmarks" / "llem-journal.jsonl").unlink()
    # Four experiments and two models, on both sides.
    line = "{}: a pair of all takes about 100 s, on both sides together: 5 min for 3 or 17 min for 10 pairs{}; *"
    result = run("--llem-plan", "--llem-against=HEAD")
    result.stdout.fnmatch_lines(["time: about 50 s*", line.format("--llem-against", "")])
    bisect = run("--llem-plan", "--llem-bisect=HEAD~3..HEAD", "--llem-pairs=3")
    bisect.stdout.fnmatch_lines(["--llem-bisect: * 5 min for 3 pairs, and then pairs of single commits; *"])
    run("--llem-plan").stdout.no_fnmatch_line("*a pair of all*")
    # Of other work only the least is known.
    write(
        "c.llem.yaml",
        base=TINY.replace("rounds: 2, warmup_rounds: 0, min_window_s: 0.001", "rounds: 4, min_window_s: 20"),
    )
    run("--llem-plan", "--llem-against=HEAD").stdout.fnmatch_lines(["*a pair of all takes at least 4 min, *"])


def test_the_plan_needs_no_device(pytester: pytest.Pytester, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(extra="timeout_s: 60\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for device in ((), ("--llem-gpu",)):
        result = pytester.runpytest_inprocess("--llem-plan", *device)
        assert result.ret == 0
        result.stdout.fnmatch_lines(["llem plan: 1 item, 1 load, 0 skipped, 0 not valid", "time: at least 0.002 s;*"])


def test_the_plan_says_where_the_sensor_decides(pytester: pytest.Pytester, write: Write) -> None:
    write(extra="", base="model: builtin:tiny-llama\n")
    write("b.llem.yaml", base="model: builtin:tiny-llama\nmeasure: {min_window_s: 2, rounds: 4}\n")
    result = pytester.runpytest_inprocess("--llem-plan", "--llem-gpu")
    result.stdout.fnmatch_lines(
        [
            "*time: at least 8 s",
            "*time: windows as long as the sensor needs",
            "time: at least 8 s, and 1 item whose windows the sensor decides;*",
        ]
    )


def test_the_plan_lists_what_is_not_valid_and_what_is_skipped_and_fails(run: Run, write: Write) -> None:
    write(extra="sweep: {pytorch.num_beams: [1, 2, x], pytorch.early_stopping: [true]}\n")
    write("gpu.llem.yaml", "device: cuda\n")
    result = run("--llem-plan")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "skipped:",
            "  gpu.llem.yaml::gpu",
            "    device: cuda, and this session runs on the CPU",
            "  tiny.llem.yaml::tiny[[]num_beams:1-early_stopping:true]",
            "    contradicts itself: pytorch.early_stopping: has no effect with one beam*",
            "not valid:",
            "  tiny.llem.yaml::tiny[[]num_beams:x-early_stopping:true]",
            "    tiny.llem.yaml:8: pytorch.num_beams: expected a whole number, got 'x'",
            "llem plan: 1 item, 1 load, 2 skipped, 1 not valid",
        ]
    )


def test_a_model_that_is_needed_again_is_counted_again(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write("a.llem.yaml", "experiments: [{name: x}, {name: y, precision: bf16}, {name: z}]\n")
    # Keeping the order of the file costs a load.
    pytester.makeconftest("def pytest_collection_modifyitems(items): items.sort(key=lambda item: item.name)")
    result = run("--llem-plan")
    result.stdout.fnmatch_lines(["llem plan: 3 items, 3 loads (2 different models), 0 skipped, 0 not valid"])


def test_contradictions_of_a_sweep_are_skipped_with_reasons_and_a_misspelt_field_fails(run: Run, write: Write) -> None:
    write(extra="sweep:\n  pytorch.num_beams: [1, 2]\n  pytorch: [{}, {length_penalty: 0.5}, {lenght_penalty: 0.5}]\n")
    result = run("-rs")
    result.assert_outcomes(passed=3, skipped=1, errors=2)
    result.stdout.fnmatch_lines(
        [
            "SKIPPED [[]1] tiny.llem.yaml*: contradicts itself: pytorch.length_penalty: has no effect with one beam; "
            "set num_beams above 1 or remove it",
        ]
    )
    result.stdout.fnmatch_lines(
        ["tiny.llem.yaml:10: pytorch.lenght_penalty: unknown field; did you mean pytorch.length_penalty?"]
    )


def test_a_base_that_is_not_there_is_a_collection_error(run: Run, write: Write) -> None:
    write(extra="base: no.yaml\n")
    result = run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no.yaml:1: cannot be read: * (the base on line 8 of tiny.llem.yaml)"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
