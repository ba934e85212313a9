from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_llem.engines.transformers.tf32 import tf32
from pytest_llem.errors import MeasurementError
from tests.unit.engines.transformers.conftest import HERE, experiment

if TYPE_CHECKING:
    from pytest_llem.engines.transformers.engine import TransformersModel


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
@pytest.mark.parametrize(("allowed", "within"), [(True, True), (False, False), (None, None)])
def test_the_switch_is_set_and_put_back(before: str, allowed: bool | None, within: bool | None) -> None:
    own = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    try:
        with tf32(allowed):
            seen = torch.backends.cuda.matmul.allow_tf32
            assert seen is within or (within is None and torch.get_float32_matmul_precision() == before)
        assert torch.get_float32_matmul_precision() == before
        with pytest.raises(ValueError, match="x"), tf32(allowed):
            raise ValueError("x")
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(own)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has the older API only")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("before", ["tf32", "ieee"])
@pytest.mark.parametrize("allowed", [True, False])
def test_a_switch_of_the_newer_api_is_put_back(before: str, allowed: bool) -> None:
    own = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if before == "ieee" else "highest")
    matmul: Any = torch.backends.cuda.matmul
    matmul.fp32_precision = before
    cpu = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    try:
        with tf32(allowed):
            assert matmul.fp32_precision == ("tf32" if allowed else "ieee")
            assert matmul.allow_tf32 is allowed
        assert matmul.fp32_precision == before
        assert torch.backends.mkldnn.matmul.fp32_precision == cpu  # type: ignore[attr-defined]
    finally:
        torch.set_float32_matmul_precision(own)


def test_it_holds_for_the_calls_of_one_experiment_only(tiny: TransformersModel) -> None:
    own = torch.get_float32_matmul_precision()
    seen: list[bool] = []
    hook = tiny.model.lm_head.register_forward_hook(lambda *_: seen.append(torch.backends.cuda.matmul.allow_tf32))
    torch.set_float32_matmul_precision("high")
    try:
        for allowed in (False, None):
            tiny.prepare(experiment(pytorch={"allow_tf32": allowed}, max_output_tokens=1), HERE).run(0)
            assert torch.get_float32_matmul_precision() == "high"
        failing = experiment(pytorch={"allow_tf32": False}, passthrough={"generate": {"nonsense": 1}})
        with pytest.raises(MeasurementError):
            tiny.prepare(failing, HERE).run(0)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        hook.remove()
        torch.set_float32_matmul_precision(own)
    assert seen == [False, True]
