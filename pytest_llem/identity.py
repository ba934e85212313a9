"""What makes two results comparable: the same work, done on the same machine.

Both hashes are of canonical JSON, so they are the same in every process and on every platform.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from pytest_llem import machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.config import ExperimentConfig
    from pytest_llem.engines.base import LoadedModel, Workload

# How an experiment is called, repeated, judged or bounded does not change the work of a call. The model's name and
# the dataset are replaced by what they resolved to.
_NOT_WORK = {"name", "marks", "measure", "compare", "timeout_s", "device", "dataset"}


def workload_hash(config: ExperimentConfig, model: LoadedModel, workload: Workload) -> str:
    """Hash of everything that decides the work of a call: the configuration, the model's resolved revision (the hub's
    commit or a fingerprint of the folder) and the token ids of the prompts."""
    return _hash(
        {
            "config": config.model_dump(mode="json", exclude=_NOT_WORK),
            "commit": model.commit,
            "token_ids": workload.token_ids_hash,
        }
    )


def callable_hash(nodeid: str) -> str:
    """Workload hash of a user's own callable, which is known by its test only."""
    return _hash({"nodeid": nodeid})


def environment_hash(gpu_uuids: Sequence[str], meter: str) -> str:
    """Hash of what the numbers depend on beside the work: boards, driver, power limits, processor, libraries, meter."""
    on_boards = [
        {key: board[key] for key in ("uuid", "name", "driver_version", "power_limit_w")}
        for board in (machine.boards() if gpu_uuids or meter == "nvml" else [])
        if not gpu_uuids or board["uuid"] in gpu_uuids
    ]
    libraries = machine.library_versions()
    return _hash(
        {
            "boards": on_boards,
            "cpu": machine.cpu_name(),
            "libraries": {name: libraries.get(name) for name in ("torch", "transformers")},
            "cuda": machine.cuda_version(),
            "meter": meter,
        }
    )


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
