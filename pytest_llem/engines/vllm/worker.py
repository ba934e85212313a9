"""What runs inside vLLM's workers: methods that it adds to each, called by ``collective_rpc``."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import torch

from pytest_llem.descendants import end_with_parent
from pytest_llem.engines.transformers.memory import CudaPeakMemory, ResidentPeakMemory

_parent = multiprocessing.parent_process()
if _parent is not None:
    # vLLM's worker watches its engine core from a thread, which waits for what the worker is doing.
    end_with_parent()
    if os.getppid() != _parent.pid:
        os._exit(1)  # it has ended already


class WorkerExtension:
    """Mixed into the worker's class, so its names begin with this package's."""

    model_runner: Any
    device: torch.device
    llem_finite: bool
    llem_memory: CudaPeakMemory | ResidentPeakMemory

    def llem_describe(self) -> dict[str, Any]:
        """UUID of this worker's GPU, and the bytes of its weights and of its key-value cache; ``None`` for what there
        is not, or is not known."""
        model = self.model_runner.get_model()
        tensors = [*model.parameters(), *model.buffers()]
        cuda = self.device.type == "cuda"
        return {
            "gpu_uuid": _gpu_uuid(self.device) if cuda else None,
            # On the CPU, vLLM keeps them packed by oneDNN, outside of the model's parameters.
            "weights_bytes": sum(storage.nbytes() for storage in _storages(tensors)) if cuda else None,
            "kv_cache_bytes": sum(storage.nbytes() for storage in _storages(self.model_runner.kv_caches)),
        }

    def llem_watch_logits(self) -> None:
        """Note from now on whether the logits of each step are numbers, which waits for the device at each."""
        model = self.model_runner.get_model()
        compute, self.llem_finite = model.compute_logits, True

        def watched(*args: Any, **kwargs: Any) -> Any:
            logits = compute(*args, **kwargs)
            if logits is not None:
                # The maximum of a row is NaN where any of its numbers is.
                self.llem_finite &= bool(torch.isfinite(logits.amax(dim=-1)).all())
            return logits

        model.compute_logits = watched

    def llem_logits_were_finite(self) -> bool:
        """Whether all were, since they are watched, which ends here."""
        del self.model_runner.get_model().compute_logits
        return self.llem_finite

    def llem_reset_peak_memory(self) -> None:
        """Start anew from what is allocated now."""
        cuda = self.device.type == "cuda"
        self.llem_memory = CudaPeakMemory([self.device]) if cuda else ResidentPeakMemory()
        self.llem_memory.reset()

    def llem_peak_memory(self) -> tuple[int | None, str | None]:
        """The peak since then, in bytes, or ``None`` and the reason."""
        return self.llem_memory.peak_bytes()


def _storages(tensors: Any) -> list[Any]:
    """The memory behind tensors, or lists of them, each once: weights may be tied, and caches be views."""
    found: dict[int, Any] = {}
    pending = list(tensors)
    while pending:
        current = pending.pop()
        if isinstance(current, torch.Tensor):
            storage = current.untyped_storage()
            found[storage.data_ptr()] = storage
        else:
            pending += current
    return list(found.values())


def _gpu_uuid(device: torch.device) -> str:
    # torch leaves out the prefix that NVML has.
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
