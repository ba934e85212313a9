"""What runs inside vLLM's workers, on the runner of a model that is no more than its weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch

from pytest_llem.engines.vllm.worker import WorkerExtension, _storages

if TYPE_CHECKING:
    import pytest


class Model(torch.nn.Module):
    """Computes the logits that it is given."""

    def compute_logits(self, logits: torch.Tensor | None) -> torch.Tensor | None:
        return logits


def worker(model: Model) -> WorkerExtension:
    found = WorkerExtension()
    found.model_runner = SimpleNamespace(get_model=lambda: model, kv_caches=[])
    found.device = torch.device("cpu")
    return found


def test_one_number_that_is_none_is_found_in_whatever_step() -> None:
    model = Model()
    watching, finite = worker(model), torch.zeros(2, 3)
    for odd, expected in ((0.0, True), (float("-inf"), True), (float("nan"), False), (float("inf"), False)):
        logits = finite.clone()
        logits[1, 1] = odd
        watching.llem_watch_logits()
        for step in (finite, logits, None, finite):
            assert model.compute_logits(step) is step
        assert watching.llem_logits_were_finite() is expected
    # Unwatched again.
    assert "compute_logits" not in vars(model)


def test_memory_that_several_tensors_share_counts_once() -> None:
    weights = torch.zeros(100)
    cache = torch.zeros(2, 50)
    found = _storages([weights, weights.view(10, 10), [cache[0], cache[1]]])
    assert sorted(storage.nbytes() for storage in found) == [400, 400]


def test_the_peak_is_that_of_the_process_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    told = SimpleNamespace(reset=lambda: None, peak_bytes=lambda: (7, None))
    monkeypatch.setattr("pytest_llem.engines.vllm.worker.ResidentPeakMemory", lambda: told)
    watching = worker(Model())
    watching.llem_reset_peak_memory()
    assert watching.llem_peak_memory() == (7, None)
    described = watching.llem_describe()
    assert described == {"gpu_uuid": None, "weights_bytes": None, "kv_cache_bytes": 0}
