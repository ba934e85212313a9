"""The engine ``vllm`` in whole sessions, with vLLM itself."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.descendants import descendants
from tests.integration.vllm.conftest import VLLM

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.processes

SAME_ON_BOTH = f"""\
model: builtin:tiny-llama
precision: fp32
dataset: {{synthetic: {{n: 4, input_len: 64}}}}
max_input_tokens: 64
max_output_tokens: 32
decoder: {{preset: deterministic, min_new_tokens: 32}}
measure: {{rounds: 2, warmup_rounds: 0, min_window_s: 0.2, phases: one-token}}
experiments:
  - {{name: one, backend: pytorch, pytorch: {{batch_size: 4}}}}
  - {{name: two, backend: vllm, vllm: {VLLM}}}
  - <<: &stored
      {{model: ./model, dataset: {{path: prompts.txt}}, decoder: {{repetition_penalty: 1.2, min_new_tokens: 5}}}}
    name: three
    backend: pytorch
  - {{<<: *stored, name: four, backend: vllm, vllm: {VLLM.replace("max_num_seqs: 8", "max_num_seqs: 2")}}}
  - {{name: five, backend: vllm, parallel: {{tensor: 2}}, vllm: {VLLM}}}
"""

LOOKS_INSIDE = """
import json, time

import pytest

@pytest.mark.llem("both.llem.yaml")
def test_inside(llem_model, llem_experiment, llem_meter, request):
    if llem_experiment.name != "two":
        pytest.skip("another one")
    workload = llem_model.prepare(llem_experiment, request.path.parent)
    workload.run(0)
    own_s = time.process_time()
    with llem_meter.window() as window:
        for _ in range(5):
            workload.run(0)
    own_s = time.process_time() - own_s
    resolved = llem_model.model.llm_engine.vllm_config
    sampled = llem_experiment.model_copy(update={"decoder": type(llem_experiment.decoder)(preset="standard")})
    drawn = [llem_model.prepare(sampled, request.path.parent).run(0) for _ in range(2)]
    request.path.with_name("inside.json").write_text(json.dumps({
        "own_s": own_s,
        "joules": window.joules,
        "max_num_seqs": resolved.scheduler_config.max_num_seqs,
        "max_model_len": resolved.model_config.max_model_len,
        "enforce_eager": resolved.model_config.enforce_eager,
        "enable_prefix_caching": resolved.cache_config.enable_prefix_caching,
        "kv_cache_memory_bytes": resolved.cache_config.kv_cache_memory_bytes,
        "drawn": drawn,
    }))
"""

KILLED = f"""\
model: builtin:tiny-llama
precision: fp32
backend: vllm
dataset: {{synthetic: {{n: 2, input_len: 16}}}}
max_input_tokens: 16
max_output_tokens: 8
decoder: {{preset: deterministic, min_new_tokens: 8}}
measure: {{rounds: 100, warmup_rounds: 0, min_window_s: 0.5}}
vllm: {VLLM}
experiments:
  - {{name: killed}}
  - {{name: after, max_output_tokens: 4, decoder: {{min_new_tokens: 4}}, measure: {{rounds: 2}}}}
"""

KILLS = """
import os, signal, threading
from pathlib import Path

import pytest

from pytest_llem.descendants import descendants

def engine_core():
    return next(pid for pid in descendants(os.getpid()) if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes())

@pytest.mark.llem("killed.llem.yaml")
def test_killed(llem_run, llem_experiment):
    if llem_experiment.name == "killed":
        threading.Timer(3, lambda: os.kill(engine_core(), signal.SIGKILL)).start()
    llem_run()
"""


def left_running() -> list[str]:
    """vLLM's processes that still run, wherever they went."""
    found = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if "VLLM::" in line and "<defunct>" not in line]


def shared_memory() -> set[str]:
    """What multiprocessing has made of it."""
    return {path.name for path in Path("/dev/shm").glob("psm_*")}  # noqa: S108  (where it lies)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before, held = left_running(), shared_memory()
    yield
    assert [line for line in left_running() if line not in before] == []
    until_s = time.monotonic() + 10
    # What a killed process held is removed by another one.
    while shared_memory() - held and time.monotonic() < until_s:
        time.sleep(0.1)
    assert shared_memory() <= held


def save_model(folder: Path) -> None:
    """A model whose sequences end early, and whose own defaults would sample."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    from pytest_llem.engines.transformers.builtin import builtin_config, builtin_tokenizer

    torch.manual_seed(3)
    config = builtin_config("builtin:tiny-llama")
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.generation_config = GenerationConfig(do_sample=True, eos_token_id=[257, *range(40, 46)])  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    builtin_tokenizer(config.max_position_embeddings).save_pretrained(folder)


def test_the_same_file_gives_the_same_tokens_on_both_engines_and_their_figures_in_one_report(
    pytester: pytest.Pytester,
) -> None:
    (pytester.path / "both.llem.yaml").write_text(SAME_ON_BOTH)
    (pytester.path / "prompts.txt").write_text(
        "an apple a day\nkeeps the doctor away\nx\nfrom here to there and back\n"
    )
    save_model(pytester.path / "model")
    pytester.makepyfile(test_inside=LOOKS_INSIDE)
    result = pytester.runpytest_subprocess(
        "--llem-cpu", "--llem-meter=estimate", "--llem-fail=output:same", "--benchmark-json=out.json", "-rs"
    )
    result.assert_outcomes(passed=6, skipped=4)
    # What vLLM's processes say is in the results, not on the terminal.
    assert "EngineCore pid" not in result.stdout.str() + result.stderr.str()

    rows = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    # Those of latency, which are named as the experiment is, hold the tokens.
    results = {row["name"]: row["extra_info"]["result"] for row in rows}
    one, two = results["one"], results["two"]
    assert two["output_tokens_hash"] == one["output_tokens_hash"]
    assert two["output_tokens"] == one["output_tokens"] == 128
    assert two["input_tokens"] == one["input_tokens"] == 256
    assert results["five"]["output_tokens_hash"] == one["output_tokens_hash"]
    assert [rank["peak_memory_bytes"] > 100 * 2**20 for rank in results["five"]["ranks"]] == [True, True]
    three, four = results["three"], results["four"]
    assert four["output_tokens_hash"] == three["output_tokens_hash"]
    assert len({len(sequence["tokens"]) for sequence in four["generated"]}) > 1
    for ours, theirs in zip(three["generated"], four["generated"], strict=True):
        assert theirs["tokens"] == ours["tokens"]
        assert theirs["text"] == ours["text"]
        assert theirs["logit_gaps"] == pytest.approx(ours["logit_gaps"], abs=1e-4)
    assert two["energy_per_output_token_j"] > 0
    assert 0 < two["time_to_first_token_s"] < two["latency_s"] * 3
    assert two["time_per_output_token_s"] > 0
    assert two["prefill_energy_j"] > 0
    # A worker's resident memory: torch and vLLM alone take more than this.
    assert two["peak_memory_bytes"] > 100 * 2**20
    assert any(note.startswith("peak_memory_bytes: vLLM reserves 256 MiB") for note in two["warnings"])
    assert any(note.startswith("vllm.") for note in two["warnings"])

    inside = json.loads((pytester.path / "inside.json").read_text())
    # Most of the work is the worker's.
    assert inside["joules"] / 5 > 1.5 * inside["own_s"]
    assert inside["max_num_seqs"] == 8
    assert inside["max_model_len"] == 256
    assert inside["enforce_eager"] is True
    assert inside["enable_prefix_caching"] is False
    assert inside["kv_cache_memory_bytes"] == 2**28
    first, again = inside["drawn"]
    assert first == again
    assert len({tuple(tokens) for tokens in first}) == 4


@pytest.mark.parametrize("option", [[], ["--llem-isolate"]])
def test_an_engine_that_is_killed_costs_its_experiment_alone(pytester: pytest.Pytester, option: list[str]) -> None:
    (pytester.path / "killed.llem.yaml").write_text(KILLED)
    pytester.makepyfile(test_killed=KILLS)
    result = pytester.runpytest_subprocess("test_killed.py", "--llem-cpu", "--benchmark-json=out.json", *option)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*vLLM's engine process ended*experiments after this one get a new engine"])
    rows = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    assert {row["name"].partition(":")[0] for row in rows} == {"test_killed[after]"}


def test_nothing_outlives_a_session_that_is_killed(pytester: pytest.Pytester) -> None:
    (pytester.path / "killed.llem.yaml").write_text(KILLED)
    arguments = [sys.executable, "-m", "pytest", "killed.llem.yaml", "--llem-cpu"]
    log = pytester.path / "out.txt"
    with log.open("w") as output, subprocess.Popen(arguments, stdout=output, stderr=output) as session:
        while not _is_up(session.pid):
            assert session.poll() is None, log.read_text()
            time.sleep(0.1)
        handles = [os.pidfd_open(pid) for pid in descendants(session.pid)]
        session.send_signal(signal.SIGKILL)
    for handle in handles:
        # Readable once the process has ended.
        assert select.select([handle], [], [], 30)[0]
        os.close(handle)


def test_an_interruption_while_an_engine_starts_ends_the_session(pytester: pytest.Pytester) -> None:
    (pytester.path / "killed.llem.yaml").write_text(KILLED)
    arguments = [sys.executable, "-m", "pytest", "killed.llem.yaml", "--llem-cpu"]
    log = pytester.path / "out.txt"
    with log.open("w") as output, subprocess.Popen(arguments, stdout=output, stderr=output) as session:
        while not any(b"spawn_main" in _command(process) for process in descendants(session.pid)):
            assert session.poll() is None, log.read_text()
            time.sleep(0.1)
        # The session waits for its engine now.
        time.sleep(2)
        session.send_signal(signal.SIGTERM)
        try:
            assert session.wait(60) == pytest.ExitCode.INTERRUPTED, log.read_text()
        finally:
            session.kill()


def _is_up(pid: int) -> bool:
    """Whether a session has started a worker."""
    return any(b"VLLM::Worker" in _command(process) for process in descendants(pid))


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
