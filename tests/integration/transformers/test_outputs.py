"""The gate output:same on the real engine: numerics and faults, and what a session says of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.config import ExperimentConfig
from pytest_llem.engines.transformers.engine import TransformersEngine
from pytest_llem.measurement.protocol import measure_workload
from pytest_llem.measurement.windows import Protocol
from pytest_llem.meters import open_meter
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.outputs import judge_outputs
from tests.integration.test_verdicts import verdicts

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_llem.measurement.result import ExperimentResult

# A fault that no other test sees: the model of a session that names one prefers another token.
FAULTY = """
import os

import torch

from pytest_llem.engines.transformers.engine import TransformersEngine

load = TransformersEngine.load

def faulty(self, config, *args):
    model = load(self, config, *args)
    if "FAULT" in os.environ:
        with torch.no_grad():
            model.model.lm_head.weight[int(os.environ["FAULT"])] *= 3
    return model

TransformersEngine.load = faulty
"""


def measured(**fields: Any) -> ExperimentResult:
    plain: dict[str, Any] = {
        "model": "builtin:tiny-llama",
        "precision": "fp32",
        "dataset": {"builtin": "natural", "n": 5},
        "max_output_tokens": 12,
    }
    config = ExperimentConfig.model_validate(plain | fields)
    model = TransformersEngine().load(config.load_config(Path()), "cpu")
    try:
        with open_meter("none") as meter:
            return measure_workload(model.prepare(config, Path()), Protocol(3, 1, 0.0), meter, keeps_generated=True)
    finally:
        model.close()


@pytest.fixture(scope="module")
def plain() -> ExperimentResult:
    return measured()


@pytest.mark.parametrize(
    "pytorch",
    [{"batch_size": 3}, {"batch_size": 5, "attn_implementation": "eager"}, {"cache_implementation": "static"}],
)
def test_other_kernels_and_batches_generate_the_same_or_part_at_a_near_tie(
    plain: ExperimentResult, pytorch: dict[str, Any]
) -> None:
    other = measured(pytorch=pytorch)
    verdict = judge_outputs(other, plain, this_is="here", other_is="plainly")
    assert verdict.status is Status.OK or "numerics alone" in verdict.reason
    assert other.output_repeats is True
    assert [one.prompt for one in other.generated] == [1, 2, 3, 4, 5]
    for one in other.generated:
        assert one.logit_gaps is not None
        assert one.text is not None
        assert len(one.logit_gaps) == len(one.tokens) > 0


def test_other_kernels_move_logits_far_less_than_a_near_tie_is_wide(plain: ExperimentResult) -> None:
    other = measured(pytorch={"attn_implementation": "eager"})
    for ours, theirs in zip(plain.generated, other.generated, strict=True):
        assert ours.logit_gaps == pytest.approx(theirs.logit_gaps, abs=1e-4)


def test_a_fault_of_the_model_regresses_with_its_place(
    run: Callable[..., pytest.RunResult],
    write: Callable[..., Path],
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytester.makeconftest(FAULTY)
    monkeypatch.setattr(TransformersEngine, "load", TransformersEngine.load)  # put back what the conftest replaces
    write(extra="compare: {output: same}\n")
    arguments = ("--llem-meter=none", "--benchmark-autosave", "-q")
    assert verdicts(run(*arguments))[0].startswith("NO-BASELINE ")
    assert verdicts(run(*arguments))[0].startswith("OK ")
    monkeypatch.setenv("FAULT", "65")
    result = run(*arguments)
    (line,) = verdicts(result)
    assert line.startswith("REGRESSED ")
    assert "'bbbb' (token 65) now; " in line
    assert "the two best logits were " in line
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_sampling_is_inconclusive_and_its_logits_are_left_out() -> None:
    result = measured(decoder={"preset": "standard"})
    assert all(one.logit_gaps is None for one in result.generated)
    assert "samples" in result.missing["logit_gaps"]
