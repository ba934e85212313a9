"""Where a model comes from: the hub, a local folder, or built in; its architecture, tokenizer, identity."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llem.config.builtin_models import builtin_fingerprint, is_builtin
from pytest_llem.engines.transformers.builtin import builtin_config, builtin_tokenizer
from pytest_llem.errors import LoadError, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from pytest_llem.config import LoadConfig

# Arguments of from_pretrained that say where files lie: the configuration and the tokenizer need them too.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "subfolder", "token")

# Those of them that say how the hub is reached, which is the same for an adapter or an assistant beside the model.
_ACCESS_ARGUMENTS = tuple(name for name in HUB_ARGUMENTS if name != "subfolder")

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
        commit: the hub's commit, or the fingerprint of a local folder; of a built-in model, a hash of its shape.
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
        return Source(
            None, config, builtin_tokenizer(config.max_position_embeddings), builtin_fingerprint(load.model), {}
        )

    hub_arguments = _hub_arguments(load)
    local = _local_folder(load.model)
    if local is not None:
        # transformers would ignore it in silence.
        _refuse_revision(load.model, revision, "a local folder has no revisions")
        location = str(local)
    else:
        location = load.model
        commit: str | None = _hub_commit(load.model, revision, hub_arguments)
        # The commit in place of a branch: configuration, tokenizer and weights come from one state of the
        # repository.
        hub_arguments["revision"] = commit or revision or "main"

    random = load.weights == "random"
    config = _load_config(location, hub_arguments)
    if local is not None:
        # Only now: any folder may be named, and what is no model need not be read.
        commit = folder_fingerprint(local)
    tokenizer = _load_tokenizer(location, hub_arguments, required=not random)
    return Source(None if random else location, config, tokenizer, commit, hub_arguments)


def load_architecture(load: LoadConfig) -> PretrainedConfig:
    """The architecture of the model that ``load`` names, without its tokenizer, its weights or its identity.

    Raises:
        LoadError: there is no such model, or it cannot be reached.
    """
    if is_builtin(load.model):
        return builtin_config(load.model)
    local = _local_folder(load.model)
    hub_arguments = _hub_arguments(load)
    if local is None:
        hub_arguments["revision"] = load.pytorch.revision or "main"
    return _load_config(load.model if local is None else str(local), hub_arguments)


def hub_access(load: LoadConfig) -> dict[str, Any]:
    """The arguments with which any file of the hub is reached."""
    return {name: load.from_pretrained[name] for name in _ACCESS_ARGUMENTS if name in load.from_pretrained}


def hub_file(repository: str, name: str, hub_arguments: Mapping[str, Any], *, field: str = "model") -> Path:
    """A file of the hub, downloaded if it is not in the cache.

    Args:
        field: the experiment's field that names ``repository``, for messages.

    Raises:
        LoadError: there is no such file, or it cannot be reached.
    """
    from huggingface_hub import is_offline_mode

    try:
        return Path(str(_cached_file(repository, name, hub_arguments)))
    except (OSError, ValueError) as exc:
        reason = "it is not in the cache, and HF_HUB_OFFLINE is set" if is_offline_mode() else one_line(exc)
        raise LoadError(f"{field} {repository!r}: no such folder, and not to be had from the hub: {reason}") from exc


def hub_file_if_any(repository: str, name: str, hub_arguments: Mapping[str, Any]) -> Path | None:
    """As :func:`hub_file`; ``None`` where the model is to be had without such a file.

    Raises:
        LoadError: it is not known whether there is one.
    """
    try:
        found = _cached_file(repository, name, hub_arguments, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError) as exc:
        raise LoadError(f"model {repository!r}: {name} is not to be had from the hub: {one_line(exc)}") from exc
    return None if found is None else Path(found)


def _cached_file(repository: str, name: str, hub_arguments: Mapping[str, Any], **further: bool) -> str | None:
    from transformers.utils.hub import cached_file

    arguments = {key: value for key, value in hub_arguments.items() if key != "trust_remote_code"}
    found: str | None = cached_file(repository, name, **arguments, **further)
    return found


def snapshot_commit(path: Path) -> str | None:
    """The commit that a file of the hub's cache belongs to: the cache keeps each in a folder of that name."""
    found = re.search(r"[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]", f"{path}/")
    return found.group(1) if found else None


def _hub_arguments(load: LoadConfig) -> dict[str, Any]:
    arguments = {name: load.from_pretrained[name] for name in HUB_ARGUMENTS if name in load.from_pretrained}
    return arguments | {"trust_remote_code": bool(load.pytorch.trust_remote_code)}


def folder_fingerprint(folder: Path) -> str:
    """A hash of the files that decide what a local model is: its JSON files and its weights.

    Of a file above 64 MiB, the size and 1024 evenly spaced blocks of 4 KiB are hashed, the first one (which
    holds the header of a safetensors file) included. Training changes nearly all weights, which this finds;
    an edit of a few weights of a large file may escape it.
    """
    digest = hashlib.sha256()
    suffixes = {".json", ".safetensors", ".model", ".py"}
    # A pipe or a device of such a name might never end.
    files = [path for path in folder.rglob("*") if path.suffix in suffixes and path.is_file()]
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
        raise LoadError(f"pytorch.revision {revision!r} cannot be applied to model {model!r}: {reason}; remove it")


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
    path = hub_file(model, "config.json", {**hub_arguments, "revision": revision or "main"})
    return snapshot_commit(path)


def _load_config(location: str, hub_arguments: Mapping[str, Any]) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(location, **hub_arguments)
    except (OSError, ValueError, KeyError) as exc:
        if "trust_remote_code" in str(exc):
            raise LoadError(
                f"model {location!r}: comes with Python code of its own; set pytorch.trust_remote_code: true if you "
                "trust it"
            ) from exc
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
