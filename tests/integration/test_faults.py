"""A failing experiment between two good ones costs itself alone: one session holds all the ways to fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

# What goes wrong is named by the experiment; everything around it is the real thing.
CONFTEST = """
import os

import pytest
import torch
from pytest_llem.engines.transformers.engine import TransformersEngine
from pytest_llem.engines.transformers.workload import TransformersWorkload
from transformers import LlamaForCausalLM

current = None

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    global current
    current = item.name
    with open("pids.txt", "a") as file:
        file.write(f"{item.name} {os.getpid()}\\n")

load, run, forward = TransformersEngine.load, TransformersWorkload.run, LlamaForCausalLM.forward

def failing_load(self, config, device):
    if current == "no-memory-at-load":
        torch.empty(1 << 60, dtype=torch.uint8)  # the allocator's own refusal
    return load(self, config, device)

def failing_forward(self, *args, **kwargs):
    if current == "no-memory-in-generate":
        torch.empty(1 << 60, dtype=torch.uint8)
    if current == "asserts":
        raise RuntimeError("CUDA error: device-side assert triggered\\nCUDA kernel errors might be ...")
    output = forward(self, *args, **kwargs)
    if current == "not-a-number":
        output.logits[:] = float("nan")
    return output

def failing_run(self, index):
    if current == "user-error":
        raise ValueError("my own mistake")
    output = run(self, index)
    if current == "wrong-count":
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        return sequences[:, :-1]
    return output

TransformersEngine.load = failing_load
TransformersWorkload.run = failing_run
LlamaForCausalLM.forward = failing_forward
"""


@pytest.fixture(autouse=True)
def repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture
def experiments(write: Callable[..., Path]) -> Callable[..., Path]:
    """Write experiments of these names; ``other`` options make one load a model of its own."""

    def write_names(*names: str, **other: str) -> Path:
        listed = ", ".join(f"{{name: {name}{other.get(name.replace('-', '_'), '')}}}" for name in names)
        return write(extra=f"experiments: [{listed}]\n")

    return write_names


def test_each_failure_costs_its_experiment_alone(
    pytester: pytest.Pytester, experiments: Callable[..., Path], saved_names: Callable[[], list[str]]
) -> None:
    pytester.makeconftest(CONFTEST)
    corrupt = pytester.mkdir("corrupt")
    (corrupt / "config.json").write_text('{"model_type": "llama", "vocab_size": ')
    experiments(
        "first",
        "no-memory-in-generate",
        "not-a-number",
        "wrong-count",
        "user-error",
        "middle",
        "no-memory-at-load",
        "missing",
        "corrupt",
        "last",
        no_memory_at_load=", weights: random",
        missing=", model: ./nowhere",
        corrupt=", model: ./corrupt",
        last=", weights: random, random_seed: 7",
    )
    result = pytester.runpytest_subprocess("--llem-cpu", "--benchmark-json=out.json", "-rA")
    assert "INTERNALERROR" not in result.stdout.str()
    assert sorted(saved_names()) == ["first", "last", "middle"]
    result.stdout.fnmatch_lines_random(
        [
            "tiny.llem.yaml:8: no-memory-in-generate: out of memory on cpu in generate()*",
            "tiny.llem.yaml:8: not-a-number: the model's logits are not finite*",
            "tiny.llem.yaml:8: wrong-count: wrong token count: *",
            "*ValueError: my own mistake",
            "*nowhere*",
            "*corrupt*config.json*",
        ]
    )
    journal = (pytester.path / ".benchmarks" / "llem-journal.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["name"] for line in journal) == ["first", "last", "middle"]


def test_after_the_gpu_failed_the_rest_runs_in_a_fresh_process(
    pytester: pytest.Pytester, experiments: Callable[..., Path], saved_names: Callable[[], list[str]]
) -> None:
    pytester.makeconftest(CONFTEST)
    experiments("first", "asserts", "third", "fourth")
    result = pytester.runpytest_subprocess("--llem-cpu", "--benchmark-json=out.json")
    result.assert_outcomes(passed=3, failed=1)
    assert saved_names() == ["first", "third", "fourth"]
    result.stdout.fnmatch_lines(
        ["*this process cannot use it any more*", "llem: the GPU failed in this process*ran in fresh processes"]
    )
    run_by = dict(line.split() for line in (pytester.path / "pids.txt").read_text().splitlines())
    assert run_by["first"] == run_by["asserts"]
    assert run_by["third"] == run_by["fourth"] != run_by["first"]


def test_a_child_that_lost_the_gpu_is_followed_by_another(
    pytester: pytest.Pytester, experiments: Callable[..., Path], saved_names: Callable[[], list[str]]
) -> None:
    pytester.makeconftest(CONFTEST)
    experiments("first", "asserts", "third")
    result = pytester.runpytest_subprocess("--llem-cpu", "--llem-isolate", "--benchmark-json=out.json")
    result.assert_outcomes(passed=2, failed=1)
    assert saved_names() == ["first", "third"]
    run_by = dict(line.split() for line in (pytester.path / "pids.txt").read_text().splitlines())
    assert run_by["first"] == run_by["asserts"] != run_by["third"]
