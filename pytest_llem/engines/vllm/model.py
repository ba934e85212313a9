"""A model in a running vLLM engine."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_llem.engines.folder import EngineFolder
from pytest_llem.engines.library_warnings import library_warnings
from pytest_llem.engines.serving.model import ServedModel
from pytest_llem.engines.serving.sources import environment
from pytest_llem.engines.transformers.loading import save_random
from pytest_llem.engines.vllm.arguments import llm_arguments
from pytest_llem.engines.vllm.checks import check_resolved
from pytest_llem.engines.vllm.failures import engine_is_dead, not_generated, not_loaded
from pytest_llem.engines.vllm.processes import (
    ProcessLog,
    interruptible,
    kill,
    started,
    started_by,
    track_shared_memory,
)
from pytest_llem.engines.vllm.sampling import sampling_options
from pytest_llem.engines.vllm.watching import end_with_engine
from pytest_llem.engines.vllm.workload import VllmWorkload
from pytest_llem.errors import LlemError, MeasurementError
from pytest_llem.sizes import size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_llem.config import ExperimentConfig
    from pytest_llem.engines.prompts import Prompts
    from pytest_llem.engines.transformers.generation import SpecialTokens


class VllmModel(ServedModel):
    """See :class:`pytest_llem.engines.serving.model.ServedModel`."""

    room_field = "vllm.max_model_len"
    # vLLM's processes are new ones for each load, and say everything again.
    libraries: frozenset[str] = frozenset()

    @property
    def drafts(self) -> bool:
        """Whether tokens are drafted."""
        return "speculative_config" in self._load.backend_options

    @property
    def caches_prefixes(self) -> bool:
        """Whether prompts may be known from earlier ones."""
        return bool(self._load.backend_options.get("enable_prefix_caching"))

    def generate(self, prompts: Sequence[Any], parameters: Any) -> list[Any]:
        """vLLM's ``generate()``; returns its ``RequestOutput`` of each prompt.

        Raises:
            MeasurementError: it failed.
        """
        llm = self._running()
        try:
            outputs: list[Any] = llm.generate(prompts, parameters, use_tqdm=False)
        except BaseException as exc:
            # What it had begun would come out of the next call.
            dead, said = engine_is_dead(exc), self._log.cause
            if dead or llm.llm_engine.has_unfinished_requests():
                # Asked to end, it would first wait for what it computes.
                kill(self._pids)
                self._stop(show=dead)
            if not isinstance(exc, Exception):
                raise
            raise not_generated(exc, said, dead=dead) from exc
        return outputs

    def on_workers(self, method: str) -> list[Any]:
        """What a method of :class:`pytest_llem.engines.vllm.worker.WorkerExtension` returns, of each worker.

        Raises:
            MeasurementError: it failed.
        """
        llm = self._running()
        try:
            returned: list[Any] = llm.collective_rpc(method)
        except Exception as exc:
            dead, said = engine_is_dead(exc), self._log.cause
            if dead:
                self._stop(show=True)
            raise not_generated(exc, said, dead=dead) from exc
        return returned

    def _room(self) -> int | None:
        room: int = self.model.llm_engine.vllm_config.model_config.max_model_len
        return room

    def _notes(self) -> list[str]:
        offloads = bool(self._load.backend_options.get("cpu_offload_gb"))
        notes = [f"peak_memory_bytes: {_memory_note(self.workers, offloads=offloads)}"]
        if self.caches_prefixes:
            block = self.model.llm_engine.vllm_config.cache_config.block_size
            notes.append(
                "vllm.enable_prefix_caching: from the second pass on, prompts are read from the cache, as far as they "
                f"fill blocks of {block} tokens"
            )
        return notes

    def _workload(self, config: ExperimentConfig, special: SpecialTokens, prompts: Prompts) -> VllmWorkload:
        if config.decoder.resolved().stop_strings and self.tokenizer is None:
            message = "the model comes without a tokenizer, so no text can be found in its tokens"
            raise MeasurementError(message, field="decoder.stop_strings")
        options = sampling_options(config, special)
        inputs = [{"prompt_token_ids": list(ids)} for ids in prompts.token_ids]
        return VllmWorkload(self, options, prompts, inputs, random_seed=config.random_seed)

    def _start(self) -> None:
        start_s = time.perf_counter()
        self._folder = EngineFolder()
        folder = self._folder.path
        self._log = ProcessLog(self._folder.log)
        self._pids: dict[int, str] = {}
        track_shared_memory(folder)
        before = started()
        try:
            with library_warnings() as heard:
                location = self._source.location or save_random(self._load, self._source, self.device, folder / "model")
                arguments = llm_arguments(self._load, self._source, location)
                with started_by(folder, self._log), environment(self._several_on_the_cpu()), interruptible():
                    from vllm import LLM

                    self.model = LLM(**self._load.from_pretrained, **arguments)
            self._pids = {pid: since for pid, since in started().items() if pid not in before}
            unwatched = end_with_engine(self.model)
            resolved = self.model.llm_engine.vllm_config
            notes = check_resolved(arguments, self._load.from_pretrained, resolved)
            workers = self.on_workers("llem_describe")
        except BaseException as exc:
            said = self._log.cause
            self._pids = {pid: since for pid, since in started().items() if pid not in before}
            self._stop(show=True)
            if isinstance(exc, LlemError) or not isinstance(exc, Exception):
                raise
            raise not_loaded(exc, said, self._load.backend_options) from exc
        # What was drawn is in memory now.
        shutil.rmtree(folder / "model", ignore_errors=True)
        self.gpu_uuids: Sequence[str] = tuple(sorted({worker["gpu_uuid"] for worker in workers} - {None}))
        self.workers = workers
        heard_texts = [text.partition(": ")[2] for text in heard.texts]
        others = [text for text in self._log.warnings if text.partition(": ")[2] not in heard_texts]
        self.warnings: Sequence[str] = [*heard.texts, *others, *notes, *([unwatched] if unwatched else [])]
        self.load_s = time.perf_counter() - start_s

    def _several_on_the_cpu(self) -> dict[str, str]:
        """What lets vLLM have several workers on a processor of one NUMA node."""
        several = self.processes > 1 and self.device.type == "cpu"
        return {"VLLM_CPU_SIM_MULTI_NUMA": os.environ.get("VLLM_CPU_SIM_MULTI_NUMA", "1")} if several else {}

    def _stop(self, *, show: bool = False) -> None:
        """End the engine.

        Args:
            show: write out what its processes have said, which pytest shows with a failure.
        """
        llm, self.model = self.model, None
        if llm is not None:
            with suppress(Exception):
                llm.llm_engine.engine_core.shutdown()
        del llm
        kill(self._pids)
        if show:
            sys.stderr.write(self._log.text())
        self._folder.remove()
        gc.collect()


def _memory_note(workers: Sequence[Mapping[str, Any]], *, offloads: bool) -> str:
    """What is in the peak memory, and what of it has nothing to do with the experiment's prompts."""
    cache = size(sum(worker["kv_cache_bytes"] for worker in workers))
    if any(worker["weights_bytes"] is None for worker in workers):
        return f"vLLM reserves {cache} for the key-value cache, of which the pages that it has used are part of it"
    weights = size(sum(worker["weights_bytes"] for worker in workers))
    if offloads:
        weights = f"what of {weights} of weights vllm.cpu_offload_gb leaves on the GPU"
        return (
            f"part of it is {weights}, and {cache} of key-value cache, which vLLM reserves whether it fills it or not"
        )
    return f"{weights} of it are weights, {cache} the key-value cache, which vLLM reserves whether it fills it or not"
