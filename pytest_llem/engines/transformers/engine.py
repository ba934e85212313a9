"""Backend ``pytorch``: models of the transformers library, on the CPU or on CUDA GPUs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pytest_llem.engines.base import Engine
from pytest_llem.engines.library_warnings import library_warnings
from pytest_llem.engines.prompts import load_prompts
from pytest_llem.engines.transformers.adapters import apply_lora, find_adapter
from pytest_llem.engines.transformers.assistant import assistant_load_config, load_assistant
from pytest_llem.engines.transformers.checks import check_loaded, placement
from pytest_llem.engines.transformers.compiling import compile_model, forget_graphs, refuse_giving_up
from pytest_llem.engines.transformers.failures import free_unused, is_device_lost, is_out_of_memory, release
from pytest_llem.engines.transformers.folders import folder_fingerprint
from pytest_llem.engines.transformers.generation import build_generation, check_resolved, ids_left_out, special_tokens
from pytest_llem.engines.transformers.hub import hub_access
from pytest_llem.engines.transformers.loading import load_weights
from pytest_llem.engines.transformers.memory_plan import check_fits, kv_cache_bytes, predict, predict_weights
from pytest_llem.engines.transformers.parallel.model import ParallelModel
from pytest_llem.engines.transformers.positions import beyond_window
from pytest_llem.engines.transformers.requirements import check_load_requirements, missing_kernels
from pytest_llem.engines.transformers.sources import find_source
from pytest_llem.engines.transformers.workload import TransformersWorkload
from pytest_llem.errors import LlemError, LoadError, MeasurementError, UnavailableError, about, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_llem.config import ExperimentConfig, LoadConfig


class TransformersEngine(Engine):
    """See :class:`pytest_llem.engines.base.Engine`."""

    def load(self, config: LoadConfig, device: str) -> TransformersModel | ParallelModel:
        """Load what ``config`` describes onto ``device`` (``cpu`` or ``cuda``), in this process or in several.

        Raises:
            UnavailableError: valid, but it cannot run on this machine.
            LoadError: it could not be loaded, or differs from ``config``.
        """
        if config.tensor == 1:
            return load_here(config, device)
        # Only its ranks open a GPU: a context of this process would take memory of the first one.
        _require(device)
        with about(field="model", value=config.model):
            try:
                return ParallelModel(config, device)
            except LlemError:
                raise
            except Exception as exc:
                raise LoadError(f"could not be loaded: {one_line(exc)}") from exc

    predict_memory = staticmethod(predict)
    release = staticmethod(release)
    is_device_lost = staticmethod(is_device_lost)


def load_here(config: LoadConfig, device: str) -> TransformersModel:
    """Load what ``config`` describes, or this rank's part of it, into this process.

    Raises:
        UnavailableError: valid, but it cannot run on this machine.
        LoadError: it could not be loaded, or differs from ``config``.
    """
    target = _target(device)
    with about(field="model", value=config.model):
        try:
            with library_warnings() as heard:
                loaded = _load(config, target)
            loaded.warnings = [*missing_kernels(loaded.model), *heard.texts]
        except LlemError as exc:
            release(exc)
            raise
        except ImportError as exc:
            raise UnavailableError(f"needs a package that is missing: {one_line(exc)}") from exc
        except Exception as exc:
            release(exc)
            if is_out_of_memory(exc):
                text = f"out of memory on {target} while loading: use a smaller model or precision, or quantise"
            else:
                text = f"could not be loaded: {one_line(exc)}"
            raise LoadError(text) from exc
        return loaded


class TransformersModel:
    """A loaded model. See :class:`pytest_llem.engines.base.LoadedModel`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        device: torch.device,
        commit: str | None,
        *,
        assistant: Any = None,
    ) -> None:
        self.model = model
        self.assistant = assistant
        self.tokenizer = tokenizer
        self.device = device
        self.commit = commit
        self.processes = 1
        self.load_s = 0.0
        self.warnings: Sequence[str] = ()
        self.cuda_devices: Sequence[torch.device] = tuple(
            torch.device(place) for place in sorted(placement(model)) if place.startswith("cuda")
        )
        self.gpu_uuids: Sequence[str] = tuple(map(_gpu_uuid, self.cuda_devices))

    @property
    def libraries(self) -> set[str]:
        """The packages that its layers and weights are made of, but for those that are made to warn again each time."""
        parts = (*self.model.modules(), *(parameter.data for parameter in self.model.parameters()))
        return {type(part).__module__.partition(".")[0] for part in parts} - {"accelerate", "torch", "transformers"}

    def prepare(self, config: ExperimentConfig, folder: Path) -> TransformersWorkload:
        """Build the workload of ``config``. Relative dataset paths start at ``folder``.

        Raises:
            PromptError: the prompts cannot be read, or do not fit the limits or the model's window.
            MeasurementError: the options of ``generate()`` contradict each other or would not be carried out.
            UnavailableError: the options need what this machine lacks.
        """
        try:
            return self._prepare(config, folder)
        except LlemError as exc:
            release(exc)
            raise
        except Exception as exc:
            release(exc)
            raise MeasurementError(f"the experiment could not be prepared: {one_line(exc)}") from exc

    def _prepare(self, config: ExperimentConfig, folder: Path) -> TransformersWorkload:
        special = special_tokens(self.model, self.tokenizer)
        generation = build_generation(config, special, cuda=bool(self.cuda_devices))
        check_resolved(self.model, generation, self.assistant)
        prompts = load_prompts(
            config,
            folder,
            vocabulary_size=self.model.config.get_text_config().vocab_size,
            special_ids=ids_left_out(self.model.config, special, self.tokenizer),
            tokenizer=self.tokenizer,
        )
        new_tokens = config.max_output_tokens
        if prompts.output_tokens is not None:
            new_tokens = max(prompts.output_tokens)
            # No token ends a sequence before its own number of them.
            generation.config.min_new_tokens = generation.config.max_new_tokens = new_tokens
        batch_size = (config.pytorch.batch_size if config.pytorch else None) or 1
        note = beyond_window(self.model, *prompts.longest_call(new_tokens, batch_size))
        if note is not None:
            prompts = replace(prompts, notes=(*prompts.notes, note))
        if generation.config.stop_strings:
            _check_stop_strings(batch_size * generation.rows_per_prompt, self.tokenizer)
            generation.arguments["tokenizer"] = self.tokenizer
        rows, longest = min(batch_size, len(prompts)), max(map(len, prompts.token_ids))
        self._check_cache_fits(config, kv_cache_bytes(config, self.model.config, rows, longest, new_tokens))
        # Experiments that share this model differ in their shapes.
        forget_graphs()
        refuse_giving_up(generation.may_compile)
        return TransformersWorkload(
            self, generation, prompts, special, batch_size=batch_size, random_seed=config.random_seed
        )

    def close(self) -> None:
        """Free the model and the memory it held. Closing twice is harmless."""
        if self.model is None:
            return
        if hasattr(self.model, "hf_device_map"):
            from accelerate.hooks import remove_hook_from_module

            remove_hook_from_module(self.model, recurse=True)
        self.model = None
        self.assistant = None
        self.tokenizer = None
        # A static cache on CUDA, and some attention, are compiled without an option that says so.
        forget_graphs()
        refuse_giving_up(False)
        free_unused()

    def _check_cache_fits(self, config: ExperimentConfig, needed_bytes: int | None) -> None:
        # Spread over several devices by a map, it need not fit the one that inputs go to.
        if needed_bytes is not None and not (config.pytorch and config.pytorch.device_map):
            # On the CPU all ranks share its memory.
            parts = config.parallel.tensor if self.device.type == "cuda" else 1
            check_fits(needed_bytes // parts, self.device, "the key-value cache")


def _load(load: LoadConfig, device: torch.device) -> TransformersModel:
    start_s = time.perf_counter()
    options = load.pytorch
    check_load_requirements(options, device)
    source = find_source(load)
    commits = [source.commit]
    adapter = None
    if options.lora is not None:
        with about(field="pytorch.lora.path", value=options.lora.path):
            adapter = find_adapter(options.lora.path, hub_access(load))
    if options.device_map is None:
        check_fits(predict_weights(load).loading_bytes // load.tensor, device, "the weights")
    model = load_weights(load, options, source, device)
    check_loaded(model, load, options, device)
    if options.lora is not None and adapter is not None:
        with about(field="pytorch.lora.path", value=options.lora.path):
            model = apply_lora(model, options.lora, adapter, load.precision)
        if options.lora.merge:
            check_loaded(model, load, options, device)
        commits.append(folder_fingerprint(adapter))
    assistant_load = assistant_load_config(load)
    assistant = None
    if assistant_load is not None:
        loaded_assistant = load_assistant(assistant_load, source, _input_device(model, device))
        assistant = loaded_assistant.model
        commits.append(loaded_assistant.commit)
    if options.torch_compile:
        refuse_giving_up(True)
        compile_model(model, options)
    loaded = TransformersModel(
        model,
        source.tokenizer,
        _input_device(model, device),
        "+".join(commit for commit in commits if commit is not None) or None,
        assistant=assistant,
    )
    for cuda_device in loaded.cuda_devices:
        torch.cuda.synchronize(cuda_device)
    loaded.load_s = time.perf_counter() - start_s
    return loaded


def _require(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        build = torch.version.cuda
        reason = f"built for CUDA {build}, but finds no usable GPU" if build else "built without CUDA"
        raise UnavailableError(f"no CUDA GPU: torch {torch.__version__} is {reason}")


def _target(device: str) -> torch.device:
    _require(device)
    return torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device("cpu")


def _input_device(model: Any, target: torch.device) -> torch.device:
    # An offloaded embedding lies on the meta device; accelerate's hooks move what comes in.
    place: torch.device = model.get_input_embeddings().weight.device
    return target if place.type == "meta" else place


def _gpu_uuid(device: torch.device) -> str:
    # torch leaves out the prefix that NVML has.
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


def _check_stop_strings(rows: int, tokenizer: Any) -> None:
    if rows > 1:
        raise MeasurementError(
            "in a batch, a sequence that a stop string ended cannot be distinguished from its padding, so its tokens "
            "cannot be counted: set pytorch.batch_size: 1",
            field="decoder.stop_strings",
        )
    if tokenizer is None:
        message = "the model comes without a tokenizer, so no text can be found in its tokens"
        raise MeasurementError(message, field="decoder.stop_strings")
