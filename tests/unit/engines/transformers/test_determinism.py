"""The same file gives the same tokens on the same machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tests.unit.engines.transformers.conftest import HERE, experiment

if TYPE_CHECKING:
    from pytest_llem.engines.transformers.engine import TransformersModel

SAMPLED: dict[str, Any] = {"decoder": {"do_sample": True, "temperature": 1.5}, "max_output_tokens": 12}

SCRIPT = """
import json, sys
from tests.unit.engines.transformers.conftest import HERE, experiment, load_experiment

config = experiment(**json.loads(sys.argv[1]))
workload = load_experiment(config).prepare(config, HERE)
json.dump([workload.output_tokens(index, workload.run(index)) for index in range(workload.calls)], sys.stdout)
"""


def one_pass(model: TransformersModel, **fields: Any) -> list[list[list[int]]]:
    workload = model.prepare(experiment(**fields), HERE)
    return [workload.output_tokens(index, workload.run(index)) for index in range(workload.calls)]


def test_a_fresh_process_draws_and_samples_the_same(tiny: TransformersModel) -> None:
    torch.rand(7)  # what ran before in this process decides nothing
    ours = one_pass(tiny, **SAMPLED)
    fresh = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(SAMPLED)],
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert json.loads(fresh.stdout) == ours


def test_tokens_are_stable_over_passes_and_tell_what_was_generated(tiny: TransformersModel) -> None:
    workload = tiny.prepare(experiment(**SAMPLED), HERE)
    passes = [[workload.output_tokens(index, workload.run(index)) for index in range(workload.calls)] for _ in range(3)]
    assert passes[0] == passes[1] == passes[2]
    greedy = one_pass(tiny, max_output_tokens=12)
    other_seed = one_pass(tiny, **SAMPLED, random_seed=7, dataset={"synthetic": {"n": 3, "input_len": 8, "seed": 42}})
    assert passes[0] != greedy
    assert passes[0] != other_seed
