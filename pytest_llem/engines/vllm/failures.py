"""What vLLM raises, turned into one clear line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pytest_llem.engines.vllm.processes import ECHOES
from pytest_llem.errors import LlemError, LoadError, MeasurementError, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

_OUT_OF_MEMORY = ("out of memory", "OutOfMemoryError", "can't allocate memory")
# How vLLM says that its share of the memory holds less than the model, or than one sequence.
_SHARE_TOO_SMALL = ("No available memory for the cache blocks", "KV cache is needed", "KV cache, which is larger than")
# Of one field, also where another one decides.
_ADVICE = " Try increasing"

_SILENTLY = ", perhaps killed, without saying why"


def engine_is_dead(failure: BaseException) -> bool:
    """Whether vLLM's engine core is gone, and this ``LLM`` of no use any more."""
    from vllm.v1.engine.exceptions import EngineDeadError

    return isinstance(failure, EngineDeadError)


def not_loaded(failure: Exception, said: str | None, options: Mapping[str, Any]) -> LlemError:
    """Why a model could not be loaded.

    Args:
        failure: what this process raised: often only that another one has failed.
        said: what that said itself, see :attr:`pytest_llem.engines.vllm.processes.ProcessLog.cause`.
        options: of the section ``vllm``.
    """
    cause = said or (_refusals(failure) if isinstance(failure, ValidationError) else one_line(failure))
    if said is None and str(failure).startswith(ECHOES):
        cause = f"vLLM's engine process ended{_SILENTLY}"
    if any(sign in cause for sign in _SHARE_TOO_SMALL):
        share = "kv_cache_memory_bytes" if "kv_cache_memory_bytes" in options else "gpu_memory_utilization"
        cause = cause.partition(_ADVICE)[0].rstrip(".")
        return LoadError(f"its memory is too small: {cause}; lower vllm.max_model_len or raise vllm.{share}")
    if any(sign in cause for sign in _OUT_OF_MEMORY):
        return LoadError("out of memory while loading: use a smaller model or precision, or quantise")
    return LoadError(f"could not be loaded: {cause}")


def _refusals(failure: ValidationError) -> str:
    """What vLLM says of its arguments: without pydantic's frame around it, which quotes all of them."""
    return "; ".join(str(error["msg"]).removeprefix("Value error, ") for error in failure.errors(include_input=False))


def not_generated(failure: Exception, said: str | None, *, dead: bool) -> LlemError:
    """Why a call failed: ``failure``, or where the engine is dead, what its processes ``said``."""
    if not dead:
        return MeasurementError(f"vLLM's generate() failed: {one_line(failure)}")
    if said is not None and any(sign in said for sign in _OUT_OF_MEMORY):
        text = "out of memory in vLLM's engine: lower vllm.max_num_seqs, gpu_memory_utilization or the token limits"
    else:
        text = f"vLLM's engine process ended{f': {said}' if said else _SILENTLY}"
    return MeasurementError(f"{text}; experiments after this one get a new engine")
