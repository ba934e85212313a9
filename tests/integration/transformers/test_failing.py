"""A failing experiment between two good ones costs itself alone: one session holds all the ways to fail."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

# What goes wrong is named by the experiment; everything around it is the real thing.
CONFTEST = """
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


def test_each_failure_costs_its_experiment_alone(
    pytester: pytest.Pytester, write: Callable[..., Path], saved_names: Callable[[], list[str]]
) -> None:
    pytester.makeconftest(CONFTEST)
    corrupt = pytester.mkdir("corrupt")
    (corrupt / "config.json").write_text('{"model_type": "llama", "vocab_size": ')
    loads = {
        "no-memory-at-load": ", weights: random",
        "missing": ", model: ./nowhere",
        "corrupt": ", model: ./corrupt",
        "last": ", weights: random, random_seed: 7",
        "asserts": ", weights: random, random_seed: 7",
    }
    names = ["first", "no-memory-in-generate", "not-a-number", "wrong-count", "user-error", "middle", *loads]
    listed = ", ".join(f"{{name: {name}{loads.get(name, '')}}}" for name in names)
    write(extra=f"experiments: [{listed}]\n")
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
            "tiny.llem.yaml:8: asserts: *this process cannot use it any more: *device-side assert*",
            "llem: the GPU failed in this process, which cannot use it any more*",
        ]
    )
    journal = (pytester.path / ".benchmarks" / "llem-journal.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["name"] for line in journal) == ["first", "last", "middle"]
