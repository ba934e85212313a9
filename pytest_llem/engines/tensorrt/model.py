"""A model in a running TensorRT-LLM engine."""

from __future__ import annotations

import gc
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pytest_llem.engines.library_warnings import library_warnings
from pytest_llem.engines.serving import check_safetensors, environment, prompts_and_tokens, save_random
from pytest_llem.engines.tensorrt.arguments import plain_arguments, with_objects
from pytest_llem.engines.tensorrt.checks import check_resolved
from pytest_llem.engines.tensorrt.sampling import sampling_options
from pytest_llem.engines.tensorrt.workload import TensorRTWorkload
from pytest_llem.errors import LlemError, LoadError, MeasurementError, UnavailableError, about, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.config import ExperimentConfig, LoadConfig
    from pytest_llem.engines.transformers.sources import Source

_ENVIRONMENT = {
    # On one GPU everything then runs in this process, which nothing outlives.
    "TLLM_WORKER_USE_SINGLE_PROCESS": "1",
    "TLLM_LOG_LEVEL": "WARNING",
    # Of usage statistics, which it sends home by itself.
    "DO_NOT_TRACK": "1",
    "TRTLLM_NO_USAGE_STATS": "1",
}
_OUT_OF_MEMORY = ("out of memory", "OutOfMemoryError")


class TensorRTModel:
    """A loaded model. See :class:`pytest_llem.engines.base.LoadedModel`.

    Attributes:
        model: the ``LLM``; ``None`` once it is closed, or a call of it has failed.
        reuses_blocks: whether prompts may be known from earlier ones.
        built: whether TensorRT runs an engine that was built first, not TensorRT-LLM's kernels in PyTorch.
    """

    libraries: frozenset[str] = frozenset({"tensorrt_llm"})

    def __init__(self, load: LoadConfig, source: Source, device: torch.device) -> None:
        """Start an engine for it.

        Raises:
            UnavailableError: this version of TensorRT-LLM has no such engine.
            LoadError: it could not be loaded, or differs from ``load``.
        """
        self._load = load
        self._source = source
        self.device = device
        self.tokenizer = source.tokenizer
        self.commit = source.commit
        self.reuses_blocks = bool(load.backend_options.get("kv_cache_config", {}).get("enable_block_reuse"))
        self.built = load.backend_options.get("backend") == "tensorrt"
        self.model: Any = None
        self._closed = False
        self._start()

    def prepare(self, config: ExperimentConfig, folder: Path) -> TensorRTWorkload:
        """Build the workload of ``config``. Relative dataset paths start at ``folder``.

        Where a call failed in an earlier experiment, the model is loaded anew.

        Raises:
            PromptError: the prompts cannot be read, or do not fit the limits.
            MeasurementError: a sequence would not fit the engine, or TensorRT-LLM refuses the options.
            LoadError: it could not be loaded anew.
        """
        if self._closed:
            raise MeasurementError("the model was closed")
        if self.model is None:
            with about(field="model", value=self._load.model):
                self._start()
        try:
            return self._prepare(config, folder)
        except LlemError:
            raise
        except Exception as exc:
            raise MeasurementError(f"the experiment could not be prepared: {one_line(exc)}") from exc

    def generate(self, prompts: Sequence[Any], parameters: Any) -> list[Any]:
        """TensorRT-LLM's ``generate()``; returns its ``RequestOutput`` of each prompt.

        Raises:
            MeasurementError: it failed.
        """
        if self.model is None:
            raise MeasurementError("the model was closed")
        try:
            outputs: list[Any] = self.model.generate(list(prompts), parameters, use_tqdm=False)
        except BaseException as exc:
            # What it had begun would run beside the next call.
            self._stop()
            if not isinstance(exc, Exception):
                raise
            raise _not_generated(exc) from exc
        return outputs

    def close(self) -> None:
        """End the engine. Closing twice is harmless."""
        self._closed = True
        self._stop()

    def _prepare(self, config: ExperimentConfig, folder: Path) -> TensorRTWorkload:
        prompts, special = prompts_and_tokens(config, folder, self._source)
        room = getattr(self.model.args, "max_seq_len", None)
        longest = max(map(len, prompts.token_ids))
        if room is not None and longest + config.max_output_tokens > room:
            raise MeasurementError(
                f"a prompt of {longest} tokens and {config.max_output_tokens} new ones are more than the engine's "
                f"{room}: raise it, or lower max_input_tokens or max_output_tokens",
                field="tensorrt.max_seq_len",
            )
        notes = []
        if self.reuses_blocks:
            notes.append("tensorrt.kv_cache_config.enable_block_reuse: from the second pass on, prompts are known")
        if self.built:
            notes.append("whether the logits of a built engine are numbers is not checked")
        prompts = replace(prompts, notes=(*prompts.notes, *notes))
        return TensorRTWorkload(self, sampling_options(config, special), prompts, random_seed=config.random_seed)

    def _start(self) -> None:
        start_s = time.perf_counter()
        check_safetensors(self._source)
        with tempfile.TemporaryDirectory(prefix="llem-tensorrt-", ignore_cleanup_errors=True) as folder:
            try:
                with library_warnings() as heard, environment(_ENVIRONMENT):
                    location = self._source.location or save_random(self._load, self._source, self.device, Path(folder))
                    arguments = plain_arguments(self._load, self._source, location)
                    self.model = self._engine()(**self._load.from_pretrained, **with_objects(arguments))
                notes = check_resolved(arguments, self._load.from_pretrained, self.model.args)
            except BaseException as exc:
                self._stop()
                if isinstance(exc, (LlemError, ImportError)) or not isinstance(exc, Exception):
                    raise
                raise _not_loaded(exc) from exc
        self.gpu_uuids: Sequence[str] = (_gpu_uuid(self.device),)
        self.warnings: Sequence[str] = [*heard.texts, *notes]
        self.load_s = time.perf_counter() - start_s

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


def _gpu_uuid(device: torch.device) -> str:
    # torch leaves out the prefix that NVML has.
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
