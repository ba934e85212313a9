"""Where a model comes from: the hub, a local folder, or built in; its architecture, tokenizer, identity."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llem.engines.builtin import builtin_config, builtin_tokenizer, is_builtin
from pytest_llem.engines.failures import one_line
from pytest_llem.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from pytest_llem.config import LoadConfig

# Arguments of from_pretrained that say where files lie: the configuration and the tokenizer need them too.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "subfolder", "token")

# Files up to this size are hashed whole. Of larger ones, evenly spaced blocks: reading a checkpoint of 16 GB
# once more for its identity would double the time that loading takes.
_WHOLE_FILE_BYTES = 64 * 2**20
_BLOCKS = 1024
_BLOCK_BYTES = 4096


@dataclass(frozen=True)
class Source:
    """A model before its weights are loaded.

    Attributes:
        location: hub id or folder whose weights are to be read; ``None`` for random weights.
        config: the architecture.
        tokenizer: its tokenizer; ``None`` where random weights were asked of a source that has none.
        commit: the hub's commit, or the fingerprint of a local folder; ``None`` for a built-in model.
        hub_arguments: the further arguments with which the files are found.
    """

    location: str | None
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase | None
    commit: str | None
    hub_arguments: Mapping[str, Any]


def find_source(load: LoadConfig) -> Source:
    """Find the model that ``load`` names.

    Raises:
        LoadError: there is no such model, or it cannot be reached.
    """
    revision = load.pytorch.revision
    if is_builtin(load.model):
        _refuse_revision(load.model, revision, "a built-in model has no revisions")
        config = builtin_config(load.model)
        return Source(None, config, builtin_tokenizer(config.max_position_embeddings), None, {})

    hub_arguments = {name: load.from_pretrained[name] for name in HUB_ARGUMENTS if name in load.from_pretrained}
    hub_arguments["trust_remote_code"] = bool(load.pytorch.trust_remote_code)
    local = _local_folder(load.model)
    if local is not None:
        # transformers would ignore it in silence.
        _refuse_revision(load.model, revision, "a local folder has no revisions")
        location = str(local)
        commit: str | None = folder_fingerprint(local)
    else:
        location = load.model
        commit = _hub_commit(load.model, revision, hub_arguments)
        # The commit in place of a branch: configuration, tokenizer and weights come from one state of the
        # repository.
        hub_arguments["revision"] = commit or revision or "main"

    random = load.weights == "random"
    config = _load_config(location, hub_arguments)
    tokenizer = _load_tokenizer(location, hub_arguments, required=not random)
    return Source(None if random else location, config, tokenizer, commit, hub_arguments)


def folder_fingerprint(folder: Path) -> str:
    """A hash of the files that decide what a local model is: its JSON files and its weights.

    Of a file above 64 MiB, the size and 1024 evenly spaced blocks of 4 KiB are hashed, the first one (which
    holds the header of a safetensors file) included. Training changes nearly all weights, which this finds;
    an edit of a few weights of a large file may escape it.
    """
    digest = hashlib.sha256()
    files = [path for path in folder.rglob("*") if path.suffix in {".json", ".safetensors", ".model", ".py"}]
    for path in sorted(files):
        size_bytes = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size_bytes}\0".encode())
        with path.open("rb") as stream:
            if size_bytes <= _WHOLE_FILE_BYTES:
                digest.update(stream.read())
                continue
            for block in range(_BLOCKS):
                stream.seek(block * (size_bytes - _BLOCK_BYTES) // (_BLOCKS - 1))
                digest.update(stream.read(_BLOCK_BYTES))
    return f"folder-{digest.hexdigest()}"


def _refuse_revision(model: str, revision: str | None, reason: str) -> None:
    if revision is not None:
        raise LoadError(f"model {model!r}: pytorch.revision {revision!r} cannot be applied: {reason}; remove it")


def _local_folder(model: str) -> Path | None:
    """The folder that ``model`` names, ``None`` for a hub id. ``LoadConfig`` holds folders as absolute paths."""
    path = Path(model)
    if path.is_absolute():
        if not path.is_dir():
            raise LoadError(f"model {model!r}: no such folder")
        return path
    if path.is_dir():
        # transformers would read it instead of the hub's model of that name.
        raise LoadError(
            f"model {model!r}: a folder of this name lies where pytest was started, but folders are named from the "
            "experiment file's; start pytest elsewhere, or write the path with ./ in front"
        )
    return None


def _hub_commit(model: str, revision: str | None, hub_arguments: Mapping[str, Any]) -> str | None:
    from transformers.utils.hub import cached_file

    arguments = {name: value for name, value in hub_arguments.items() if name != "trust_remote_code"}
    try:
        path = cached_file(model, "config.json", revision=revision or "main", **arguments)
    except (OSError, ValueError) as exc:
        raise LoadError(f"model {model!r}: no such folder, and not to be had from the hub: {one_line(exc)}") from exc
    # The hub's cache keeps each commit in a folder of that name.
    found = re.search(r"[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]", str(path))
    return found.group(1) if found else None


def _load_config(location: str, hub_arguments: Mapping[str, Any]) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(location, **hub_arguments)
    except (OSError, ValueError, KeyError) as exc:
        raise LoadError(f"model {location!r}: its configuration cannot be read: {one_line(exc)}") from exc
    if config.is_encoder_decoder:
        raise LoadError(f"model {location!r}: an encoder-decoder model; only decoder-only models are measured")
    return config


def _load_tokenizer(
    location: str, hub_arguments: Mapping[str, Any], *, required: bool
) -> PreTrainedTokenizerBase | None:
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            location, padding_side="left", **hub_arguments
        )
    except (OSError, ValueError, KeyError, TypeError) as exc:
        if not required:
            return None
        raise LoadError(f"model {location!r}: its tokenizer cannot be loaded: {one_line(exc)}") from exc
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        # Padding is masked out of the attention and never counted, so which token pads does not matter.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
