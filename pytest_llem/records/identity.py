"""What makes two results comparable: the same work, done on the same machine.

Both hashes are of canonical JSON, so they are the same in every process and on every platform.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from pytest_llem.config.base import fields_of
from pytest_llem.records import machine
from pytest_llem.verdict.pools import model_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_llem.config import ExperimentConfig
    from pytest_llem.engines.base import LoadedModel, Workload
    from pytest_llem.measurement.result import ExperimentResult
    from pytest_llem.meters.base import Meter

# Kernels and numerics of the libraries decide time and energy. These count where they are absent, too; others count
# where they are installed, but for two that are everywhere, and never were part of what is compared.
_ALWAYS_NAMED = ("torch", "transformers", "bitsandbytes", "peft", "kernels", "flash-attn")
_NOT_COMPARED = ("pytest-llem", "accelerate")
# These are replaced by what they resolved to: two spellings of the same work have one hash.
_RESOLVED = {"model", "dataset", "template_date", "output_lengths", "decoder", "pytorch"}
# Where they say nothing, results are comparable with those of versions that knew no such fields.
_LATER = ("output_lengths", "parallel")


def workload_hash(config: ExperimentConfig, model: LoadedModel, workload: Workload) -> str:
    """Hash of everything that decides the work of a call: the options, the model's content (the hub's commit, a
    fingerprint of the folder, or of a built-in model's shape), the token ids of the prompts and the number of tokens
    that each gets, where they have one of their own."""
    not_work = fields_of(type(config), "measurement", "session")
    pytorch = {} if config.pytorch is None else config.pytorch.model_dump(mode="json", exclude_none=True)
    return _hash(
        {
            "config": config.model_dump(mode="json", exclude={*not_work, *_RESOLVED, *unsaid(config)})
            | _other_backends(config),
            "pytorch": {"batch_size": 1, **pytorch},
            "decoder": config.decoder.resolved().model_dump(mode="json", exclude={"preset"}),
            "model": config.model if model.commit is None else model.commit,
            "token_ids": workload.prompts.sha256(),
        }
    )


def unsaid(config: ExperimentConfig) -> set[str]:
    """The fields that hashes leave out, as they are at a default that came later than saved hashes."""
    return {name for name in _LATER if getattr(config, name) == type(config).model_fields[name].default}


def _other_backends(config: ExperimentConfig) -> dict[str, Any]:
    """The sections of vLLM and TensorRT-LLM as they resolve: what is unset is what the engine makes of it."""
    vllm, tensorrt = (
        None if section is None else section.model_dump(mode="json", exclude_none=True)
        for section in (config.vllm, config.tensorrt)
    )
    if config.backend == "vllm":
        vllm = {"enable_prefix_caching": False, **(vllm or {})}
    if config.backend == "tensorrt":
        tensorrt = tensorrt or {}
        cache = {"enable_block_reuse": False, **tensorrt.get("kv_cache_config", {})}
        tensorrt = {"backend": "pytorch", **tensorrt, "kv_cache_config": cache}
    return {"vllm": vllm, "tensorrt": tensorrt}


def callable_hash(nodeid: str) -> str:
    """Workload hash of a user's own callable, which is known by its test only."""
    return _hash({"nodeid": nodeid})


def experiment_hash(values: Mapping[str, Any]) -> str:
    """Hash of what a session measures: known before anything is loaded, so that finished work can be recognised."""
    return _hash(values)


def environment(
    gpu_uuids: Sequence[str], meter: Meter, *, device: str | None = None, runs_model: bool = True
) -> dict[str, Any]:
    """What the numbers depend on beside the work: device, boards, driver, power limits, processor, libraries, meter.

    Args:
        device: where it runs; default: what ``gpu_uuids`` say.
        runs_model: whether torch ran a model. A callable that happens to follow one is not measured elsewhere for that.
    """
    on_boards = [
        {key: board[key] for key in ("uuid", "name", "driver_version", "power_limit_w")}
        for board in (machine.boards() if gpu_uuids or meter.reads_boards else [])
        if not gpu_uuids or board["uuid"] in gpu_uuids
    ]
    seen = {board["uuid"] for board in on_boards}
    on_boards += [{"uuid": uuid} for uuid in gpu_uuids if uuid not in seen]  # NVML does not show them
    libraries = machine.library_versions()
    return {
        # Not known from the boards: the nvml meter reads the only one there is beside a model on the CPU, too.
        "device": device or ("cuda" if gpu_uuids else "cpu"),
        "boards": on_boards,
        "cpu": machine.cpu_name(),
        "libraries": dict.fromkeys(_ALWAYS_NAMED)
        | {name: version for name, version in libraries.items() if name not in _NOT_COMPARED},
        "cuda": machine.cuda_version(),
        "meter": meter.name,
        # The processor's share of the work.
        "threads": machine.torch_threads() if runs_model else None,
        "watts_per_core": None,  # unless the meter says
        **meter.environment,
    }


def environment_to_come(device: str | None, meter: Meter) -> dict[str, Any]:
    """What is known of the :func:`environment` of this session's results before anything runs.

    Threads are not. ``boards`` are all that a model may lie on; ``None`` where NVML does not show them.
    """
    visible = [board["uuid"] for board in machine.boards()] if device == "cuda" else []
    known = environment(visible, meter, device=device)
    del known["threads"]
    if device == "cuda" and not visible:
        known["boards"] = None
    return known


def may_recur(saved: Mapping[str, Any], to_come: Mapping[str, Any], *, pooled: bool = False) -> bool:
    """Whether a saved :func:`environment` may be that of a result to come, see :func:`environment_to_come`.

    Args:
        pooled: whether other boards of the same model will do.
    """
    boards, then = to_come["boards"], saved.get("boards", [])
    if pooled and boards is not None:
        boards, then = ([model_of(board) for board in known] for known in (boards, then))
    if boards is not None and not (bool(then) == bool(boards) and all(board in boards for board in then)):
        return False
    return all(saved.get(key) == value for key, value in to_come.items() if key != "boards")


def environment_hash(of: Mapping[str, Any]) -> str:
    """Hash of an :func:`environment`."""
    return _hash(of)


def result_hash(nodeid: str, workload_hash: str, result: ExperimentResult) -> str:
    """Hash of one measurement, the same wherever it is reported: what later sessions may say of it (warnings, verdicts,
    a price) is not in it."""
    rounds = [(window.seconds, window.joules) for window in result.per_round]
    return _hash([nodeid, workload_hash, result.timestamp_s, rounds])


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
