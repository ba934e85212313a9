"""Whole sessions on the real engine and a tiny model: from the file to rows, verdicts, plans and messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_loads import loads
from tests.integration.test_options import errors
from tests.integration.test_resume import lines
from tests.integration.test_simulated_board import BOARD, rows

Write = Callable[..., Path]
Run = Callable[..., pytest.RunResult]
Saved = Callable[[], list[dict[str, Any]]]

# Counts what is loaded, and how many earlier tensors are still alive at that moment.
COUNTING = """
import weakref

from pytest_llem.engines.transformers.engine import TransformersEngine

load, alive = TransformersEngine.load, []

def counting(self, config, *args):
    print("LOAD", config.model, config.precision, config.random_seed, "ALIVE", sum(one() is not None for one in alive))
    model = load(self, config, *args)
    alive.extend(map(weakref.ref, model.model.parameters()))
    return model

TransformersEngine.load = counting
"""

RESULT_KEYS = {
    "input_tokens",
    "output_tokens",
    "energy_j",
    "energy_uncertainty_j",
    "energy_per_output_token_j",
    "latency_s",
    "time_to_first_token_s",
    "time_per_output_token_s",
    "output_tokens_per_s",
    "mean_power_w",
    "idle_power_w",
    "peak_memory_bytes",
    "meter",
    "estimated",
    "rounds",
    "calls_per_round",
    "valid",
    "warnings",
    "schema_version",
}


def test_one_row_per_metric_describes_the_same_calls(run: Run, write: Write, saved: Saved) -> None:
    write(extra="sweep: {pytorch.batch_size: [1, 2]}\n")
    run("--benchmark-json=out.json", "--llem-meter=estimate").assert_outcomes(passed=2)
    rows = saved()
    assert [(row["extra_info"]["metric"], row["extra_info"]["unit"]) for row in rows] == [
        ("latency", "s"),
        ("energy", "J"),
    ] * 2
    for latency, energy in zip(rows[::2], rows[1::2], strict=True):
        info = latency["extra_info"]
        result = info["result"]
        assert result.keys() >= RESULT_KEYS
        assert energy["extra_info"]["result"] == result
        assert latency["name"] != energy["name"]
        assert latency["stats"]["rounds"] == energy["stats"]["rounds"] == result["rounds"] == 2
        assert latency["stats"]["iterations"] == energy["stats"]["iterations"] == result["calls_per_round"]
        assert latency["stats"]["mean"] == pytest.approx(result["latency_s"])
        assert energy["stats"]["mean"] == pytest.approx(result["energy_j"])
        assert result["mean_power_w"] == pytest.approx(result["energy_j"] / result["latency_s"])
        assert result["energy_per_output_token_j"] == pytest.approx(result["energy_j"] / result["output_tokens"])
        assert result["output_tokens_per_s"] == pytest.approx(result["output_tokens"] / result["latency_s"])
        assert result["meter"] == "estimate"
        assert result["estimated"] is True
        assert "UNSERIALIZABLE" not in json.dumps([latency, energy])
    one, two = rows[0]["extra_info"]["result"], rows[2]["extra_info"]["result"]
    assert (one["input_tokens"], one["output_tokens"]) == (8, 4)
    assert (two["input_tokens"], two["output_tokens"]) == (16, 8)
    assert rows[0]["params"] == {"pytorch.batch_size": 1}
    assert rows[0]["extra_info"]["workload_hash"] != rows[2]["extra_info"]["workload_hash"]
    assert rows[0]["extra_info"]["environment_hash"] == rows[2]["extra_info"]["environment_hash"]


def test_machine_info_names_the_libraries(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    import torch
    import transformers

    write()
    run("--benchmark-json=out.json")
    info = json.loads((pytester.path / "out.json").read_text())["machine_info"]["llem"]
    assert info["libraries"]["torch"] == torch.__version__
    assert info["libraries"]["transformers"] == transformers.__version__
    assert info["cuda"] == torch.version.cuda


def test_a_gpu_that_is_not_there_is_a_usage_error_that_says_what_is_missing(
    pytester: pytest.Pytester, write: Write
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    write()
    message = errors(pytester.runpytest_inprocess("--llem-gpu"))
    assert "--llem-gpu: " in message
    assert "CUDA" in message or "driver" in message


def test_a_marked_test_runs_once_per_experiment(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write("sub/experiments.llem.yaml", "sweep: {pytorch.batch_size: [1, 2]}\n")
    write("sub/test_own.py", base="")
    (pytester.path / "sub" / "test_own.py").write_text(
        """
import pytest

@pytest.mark.llem("experiments.llem.yaml")
def test_run(llem_run, llem_experiment, llem_model):
    result = llem_run()
    assert result.output_tokens == 4 * llem_experiment.pytorch.batch_size
    assert llem_model.device.type == "cpu"
    assert llem_model.tokenizer("a").input_ids
    assert next(llem_model.model.parameters()).device.type == "cpu"

@pytest.mark.llem("experiments.llem.yaml")
def test_no_fixture():
    pass
"""
    )
    result = run("-v", "sub/test_own.py", "--llem-meter=none")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*::test_run?experiments-batch_size:1?*"])


def test_nothing_left_to_run_is_success_and_loads_nothing(
    pytester: pytest.Pytester,
    run: Run,
    write: Write,
    saved: Saved,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(extra="sweep: {pytorch.batch_size: [1, 2]}\ncompare: {latency: 5%}\n")
    run("--benchmark-json=out.json").assert_outcomes(passed=2)
    first = saved()
    from pytest_llem.engines.transformers.engine import TransformersEngine

    monkeypatch.setattr(TransformersEngine, "load", lambda *_: pytest.fail("loaded a model"))
    again = run("--llem-resume", "--benchmark-json=out.json", "--junitxml=out.xml")
    again.assert_outcomes(passed=2)
    assert again.ret == pytest.ExitCode.OK
    again.stdout.fnmatch_lines(["llem: 2 of 2 experiments taken from the journal *"])
    again.stdout.fnmatch_lines(["NO-BASELINE *"])
    assert saved() == first
    assert 'name="llem.latency_s"' in Path("out.xml").read_text()


def test_a_file_that_cannot_be_looked_at_fails_its_item_alone(run: Run, write: Write) -> None:
    long = "x" * 300
    items = ["{name: good}", f"{{name: folder, model: ./{long}}}", f"{{name: hub, model: {long}}}"]
    items += [f"{{name: prompts, dataset: {{path: {long}.txt}}}}", "{name: disk, model: /}"]
    write(extra="experiments:\n" + "".join(f"  - {item}\n" for item in items))
    run().assert_outcomes(passed=1, failed=1, errors=3)
    assert [line["name"] for line in lines()] == ["good"]


def test_a_model_is_freed_after_a_failure_too(pytester: pytest.Pytester, write: Write) -> None:
    write("a.llem.yaml", "sweep: {random_seed: [1, 2, 3]}\n")
    pytester.makeconftest(COUNTING)
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.llem("a.llem.yaml")
        def test_fails(llem_model):
            parameters = list(llem_model.model.parameters())
            assert not parameters, "holds tensors in its frame"
        """
    )
    # In a process of its own: pytester's recorder keeps every exception, with its frames.
    result = pytester.runpytest_subprocess("--llem-cpu", "-s", "--llem-meter=none", "-k", "test_fails")
    result.assert_outcomes(failed=3)
    assert loads(result) == [f"LOAD builtin:tiny-llama fp32 {seed} ALIVE 0" for seed in (1, 2, 3)]


def test_a_model_that_cannot_be_loaded_fails_alone(run: Run, write: Write) -> None:
    write("a.llem.yaml")
    write("b.llem.yaml", "name: b\nmodel: ./nowhere\nsweep: {pytorch.batch_size: [1, 2]}\n", base="")
    write("d.llem.yaml", "pytorch:\n  lora:\n    path: ./nothing\n", base="name: d\nmodel: builtin:tiny-llama\n")
    write("c.llem.yaml", "random_seed: 5\n")
    result = run("--llem-meter=none")
    result.assert_outcomes(passed=2, errors=3)
    # The same failure of one load is told with the place of each.
    result.stdout.fnmatch_lines(["b.llem.yaml:2: model '*nowhere': no such folder"] * 2)
    result.stdout.fnmatch_lines(["d.llem.yaml:5: pytorch.lora.path '*nothing': no such folder"])


def test_joules_are_those_of_the_board(pytester: pytest.Pytester, on_boards: Run, write: Write) -> None:
    write()
    on_boards(f"[{BOARD}]", "--llem-cpu", "--llem-min-window=0.1").assert_outcomes(passed=1)
    saved = rows(pytester)
    assert saved["energy"]["group"] == "energy"
    result = saved["energy"]["extra_info"]["result"]
    assert result["meter"] == "nvml"
    assert result["estimated"] is False
    assert result["mean_power_w"] == pytest.approx(200.0, rel=0.1)
    assert abs(result["energy_j"] - 200.0 * result["latency_s"]) <= result["energy_uncertainty_j"] * 1.5
    assert result["boards"] == {"GPU-aaaa": pytest.approx(result["energy_j"])}
    assert result["per_round"][0]["power_limit_w"] == {"GPU-aaaa": 700.0}
    assert result["per_round"][0]["sm_clock_hz"] == {"GPU-aaaa": 1.98e9}
    curve = result["per_round"][0]["power_curves"]["GPU-aaaa"]
    assert curve["partial"] is False
    assert curve["times_s"][0] < 0 < result["per_round"][0]["seconds"] < curve["times_s"][-1] + 0.1
    assert set(curve["powers_w"]) == {200.0}
    info = json.loads((pytester.path / "out.json").read_text())["machine_info"]["llem"]
    assert info["gpus"][0]["uuid"] == "GPU-aaaa"
    assert info["gpus"][0]["driver"]


def test_the_plan_without_an_answer_says_why(run: Run, write: Write) -> None:
    write(base="model: ./no-such-folder\n")
    result = run("--llem-plan")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["    memory: unknown: ?*; time: at least 10 s"])
    result.stdout.no_fnmatch_line("memory: up to*")


def test_no_saved_run_is_said_and_fails_only_when_strict(run: Run, write: Write) -> None:
    write()
    result = run("--llem-fail=energy:5%", "--llem-fail=latency:5%", "--llem-meter=estimate")
    assert sum(line.startswith("NO-BASELINE ") for line in result.outlines) == 2
    assert result.ret == pytest.ExitCode.OK
    assert run("--llem-fail=latency:5%", "--llem-strict").ret == pytest.ExitCode.TESTS_FAILED
