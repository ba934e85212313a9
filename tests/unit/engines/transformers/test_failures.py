"""Failures after which this process cannot use the GPU any more."""

from __future__ import annotations

import pytest
import torch

from pytest_llem.engines.transformers.engine import TransformersEngine
from pytest_llem.errors import MeasurementError

ENGINE = TransformersEngine()

# As torch passes them on from CUDA.
UNRECOVERABLE = (
    "device-side assert triggered",
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "hardware stack error",
    "invalid program counter",
    "misaligned address",
    "operation not supported on global/shared address space",
    "the launch timed out and was terminated",
    "uncorrectable ECC error encountered",
    "unspecified launch failure",
)


@pytest.mark.parametrize("text", UNRECOVERABLE)
def test_a_gpu_that_is_lost_is_told_by_what_caused_the_failure(text: str) -> None:
    failure = RuntimeError("generate() failed")
    failure.__cause__ = RuntimeError(f"CUDA error: {text}")
    assert ENGINE.is_device_lost(failure)
    # Not by the words of somebody else.
    assert not ENGINE.is_device_lost(ValueError(text))
    assert not ENGINE.is_device_lost(RuntimeError("CUDA out of memory"))


def test_a_gpu_that_answers_no_more_is_lost_whatever_failed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = MeasurementError("generate() failed")
    failure.__cause__ = RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert not ENGINE.is_device_lost(failure)

    def fail() -> None:
        raise RuntimeError("CUDA error: unknown error")

    monkeypatch.setattr(torch.cuda, "empty_cache", fail)
    ENGINE.release(failure)  # has nothing to give back, and says nothing
    assert ENGINE.is_device_lost(failure)


def test_a_gpu_that_is_lost_in_a_group_of_failures_is_noticed() -> None:
    """pytest raises a group where several fixtures fail in their teardown."""
    lost = MeasurementError("generate() failed")
    lost.__cause__ = RuntimeError("CUDA error: misaligned address")
    assert ENGINE.is_device_lost(BaseExceptionGroup("teardown", [ValueError("x"), ExceptionGroup("inner", [lost])]))


def test_failures_that_lead_back_to_themselves_are_followed_once() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__context__ = second, first
    assert not ENGINE.is_device_lost(first)
