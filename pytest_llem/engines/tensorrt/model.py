"""A model in a running TensorRT-LLM engine."""

from __future__ import annotations

import gc
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pytest_llem.engines.library_warnings import library_warnings
from pytest_llem.engines.serving.model import ServedModel
from pytest_llem.engines.serving.sources import check_safetensors, environment
from pytest_llem.engines.tensorrt.arguments import plain_arguments, with_objects
from pytest_llem.engines.tensorrt.checks import check_resolved
from pytest_llem.engines.tensorrt.sampling import sampling_options
from pytest_llem.engines.tensorrt.workload import TensorRTWorkload
from pytest_llem.engines.transformers.loading import save_random
from pytest_llem.errors import LlemError, LoadError, MeasurementError, UnavailableError, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.config import ExperimentConfig
    from pytest_llem.engines.prompts import Prompts
    from pytest_llem.engines.transformers.generation import SpecialTokens

_ENVIRONMENT = {
    "TLLM_LOG_LEVEL": "WARNING",
    # Of usage statistics, which it sends home by itself.
    "DO_NOT_TRACK": "1",
    "TRTLLM_NO_USAGE_STATS": "1",
}
# On one GPU everything then runs in this process, which nothing outlives.
_ON_ONE_GPU = {"TLLM_WORKER_USE_SINGLE_PROCESS": "1"}
_OUT_OF_MEMORY = ("out of memory", "OutOfMemoryError")


class TensorRTModel(ServedModel):
    """See :class:`pytest_llem.engines.serving.model.ServedModel`."""

    room_field = "tensorrt.max_seq_len"
    libraries: frozenset[str] = frozenset({"tensorrt_llm"})

    @property
    def reuses_blocks(self) -> bool:
        """Whether prompts may be known from earlier ones."""
        return bool(self._load.backend_options.get("kv_cache_config", {}).get("enable_block_reuse"))

    @property
    def built(self) -> bool:
        """Whether TensorRT runs an engine that was built first, not TensorRT-LLM's kernels in PyTorch."""
        return self._load.backend_options.get("backend") == "tensorrt"

    def generate(self, prompts: Sequence[Any], parameters: Any) -> list[Any]:
        """TensorRT-LLM's ``generate()``; returns its ``RequestOutput`` of each prompt.

        Raises:
            MeasurementError: it failed.
        """
        llm = self._running()
        try:
            outputs: list[Any] = llm.generate(list(prompts), parameters, use_tqdm=False)
        except BaseException as exc:
            # What it had begun would run beside the next call.
            self._stop()
            if not isinstance(exc, Exception):
                raise
            raise _not_generated(exc) from exc
        return outputs

    def _room(self) -> int | None:
        room: int | None = getattr(self.model.args, "max_seq_len", None)
        return room

    def _notes(self) -> list[str]:
        notes = []
        if self.reuses_blocks:
            notes.append("tensorrt.kv_cache_config.enable_block_reuse: from the second pass on, prompts are known")
        if self.built:
            notes.append("whether the logits of a built engine are numbers is not checked")
        return notes

    def _workload(self, config: ExperimentConfig, special: SpecialTokens, prompts: Prompts) -> TensorRTWorkload:
        options = sampling_options(config, special)
        inputs = [list(ids) for ids in prompts.token_ids]
        return TensorRTWorkload(self, options, prompts, inputs, random_seed=config.random_seed)

    def _start(self) -> None:
        start_s = time.perf_counter()
        check_safetensors(self._source)
        with tempfile.TemporaryDirectory(prefix="llem-tensorrt-", ignore_cleanup_errors=True) as folder:
            try:
                with library_warnings() as heard, environment(self._environment()):
                    location = self._source.location or save_random(
                        self._load, self._source, self.device, Path(folder, "model")
                    )
                    arguments = plain_arguments(self._load, self._source, location)
                    self.model = self._engine()(**self._load.from_pretrained, **with_objects(arguments))
                notes = check_resolved(arguments, self._load.from_pretrained, self.model.args)
            except BaseException as exc:
                self._stop()
                if isinstance(exc, (LlemError, ImportError)) or not isinstance(exc, Exception):
                    raise
                raise _not_loaded(exc) from exc
        self.gpu_uuids: Sequence[str] = tuple(_gpu_uuid(index) for index in range(self.processes))
        self.warnings: Sequence[str] = [*heard.texts, *notes]
        self.load_s = time.perf_counter() - start_s

    def _environment(self) -> dict[str, str]:
        return _ENVIRONMENT | (_ON_ONE_GPU if self.processes == 1 else {})

    def _engine(self) -> Any:
        """The class of the engine that is asked for."""
        import tensorrt_llm

        if not self.built:
            return tensorrt_llm.LLM
        try:
            from tensorrt_llm._tensorrt_engine import LLM
        except ImportError as exc:
            reason = f"the tensorrt_llm of this environment builds no engines: {one_line(exc)}"
            raise UnavailableError(reason, field="tensorrt.backend", value="tensorrt") from exc
        return LLM

    def _stop(self) -> None:
        llm, self.model = self.model, None
        if llm is not None:
            with suppress(Exception):
                llm.shutdown()
        del llm
        gc.collect()


def _not_loaded(failure: Exception) -> LlemError:
    cause = one_line(failure)
    if any(sign in cause for sign in _OUT_OF_MEMORY):
        return LoadError("out of memory while loading: use a smaller model or precision, or quantise")
    return LoadError(f"could not be loaded: {cause}")


def _not_generated(failure: Exception) -> LlemError:
    cause = one_line(failure)
    if any(sign in cause for sign in _OUT_OF_MEMORY):
        hint = "lower tensorrt.max_batch_size, free_gpu_memory_fraction or the token limits"
        return MeasurementError(f"out of memory in TensorRT-LLM's engine: {hint}")
    return MeasurementError(f"TensorRT-LLM's generate() failed: {cause}; experiments after this one get a new engine")


def _gpu_uuid(index: int) -> str:
    # torch leaves out the prefix that NVML has.
    uuid = str(torch.cuda.get_device_properties(index).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
