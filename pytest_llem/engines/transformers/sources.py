"""Where a model comes from: the hub, a local folder, or built in; its architecture, tokenizer, identity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llem.config.builtin_models import builtin_fingerprint, is_builtin
from pytest_llem.engines.transformers.builtin import builtin_config, builtin_tokenizer
from pytest_llem.engines.transformers.folders import folder_fingerprint, local_folder
from pytest_llem.engines.transformers.hub import HUB_ARGUMENTS, hub_file, hub_file_if_any, snapshot_commit
from pytest_llem.errors import LoadError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from pytest_llem.config import LoadConfig

# Where transformers looks for a vocabulary, whatever the class of the tokenizer.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "tekken.json", "tiktoken.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Source:
    """A model before its weights are loaded.

    Attributes:
        location: hub id or folder whose weights are to be read; ``None`` for random weights.
        config: the architecture.
        tokenizer: its tokenizer; ``None`` where it comes without one.
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
    if is_builtin(load.model):
        _refuse_revision(load.model, load.pytorch.revision, "a built-in model has no revisions")
        config = builtin_config(load.model)
        return Source(
            None, config, builtin_tokenizer(config.max_position_embeddings), builtin_fingerprint(load.model), {}
        )

    location, commit, hub_arguments = _locate(load)
    config = _load_config(location, hub_arguments)
    # Only now: any folder may be named, and one without a model need not be read.
    commit = commit or (folder_fingerprint(Path(location)) if Path(location).is_absolute() else None)
    random = load.weights == "random"
    tokenizer = _load_tokenizer(location, hub_arguments, required=not random)
    return Source(None if random else location, config, tokenizer, commit, hub_arguments)


def load_architecture(load: LoadConfig) -> PretrainedConfig:
    """The architecture of the model that ``load`` names, without its tokenizer, its weights or its identity.

    Raises:
        LoadError: there is no such model, or it cannot be reached.
    """
    if is_builtin(load.model):
        return builtin_config(load.model)
    location, _, hub_arguments = _locate(load)
    return _load_config(location, hub_arguments)


def _locate(load: LoadConfig) -> tuple[str, str | None, dict[str, Any]]:
    """The folder or hub id of a model, the hub's commit, and the further arguments with which its files are found."""
    arguments = {name: load.from_pretrained[name] for name in HUB_ARGUMENTS if name in load.from_pretrained}
    arguments["trust_remote_code"] = bool(load.pytorch.trust_remote_code)
    revision = load.pytorch.revision
    local = local_folder(load.model, arguments)
    if local is not None:
        # transformers would ignore it in silence.
        _refuse_revision(load.model, revision, "a local folder has no revisions")
        return str(local), None, arguments
    arguments["revision"] = revision or "main"
    commit = snapshot_commit(hub_file(load.model, "config.json", arguments))
    # The commit in place of a branch: configuration, tokenizer and weights come from one state of the repository.
    return load.model, commit, arguments | {"revision": commit or arguments["revision"]}


def _refuse_revision(model: str, revision: str | None, reason: str) -> None:
    if revision is not None:
        message = f"cannot be applied to model {model!r}: {reason}; remove it"
        raise LoadError(message, field="pytorch.revision", value=revision)


def _load_config(location: str, hub_arguments: Mapping[str, Any]) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(location, **hub_arguments)
    except (OSError, ValueError, KeyError) as exc:
        if "trust_remote_code" in str(exc):
            raise LoadError(
                "comes with Python code of its own; set pytorch.trust_remote_code: true if you trust it"
            ) from exc
        raise LoadError(f"its configuration cannot be read: {one_line(exc)}") from exc
    if config.is_encoder_decoder:
        raise LoadError("an encoder-decoder model; only decoder-only models are measured")
    return config


def _load_tokenizer(
    location: str, hub_arguments: Mapping[str, Any], *, required: bool
) -> PreTrainedTokenizerBase | None:
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            location, padding_side="left", **hub_arguments
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as exc:
        if not required or not _has_any(location, ("tokenizer_config.json", *_VOCABULARIES), hub_arguments):
            return None
        if isinstance(exc, ImportError):
            raise  # for what is missing, an experiment is skipped
        raise LoadError(f"its tokenizer cannot be loaded: {one_line(exc)}") from exc
    # transformers makes one up, with hardly a token, where the model comes without.
    own = tuple(getattr(tokenizer, "vocab_files_names", {}).values())
    if own and not _has_any(location, (*_VOCABULARIES, *own), hub_arguments):
        return None
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        # Padding is masked out of the attention and never counted, so which token pads does not matter.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _has_any(location: str, names: Iterable[str], hub_arguments: Mapping[str, Any]) -> bool:
    if Path(location).is_absolute():
        folder = Path(location, hub_arguments.get("subfolder") or "")
        return any((folder / name).is_file() for name in names)
    return any(hub_file_if_any(location, name, hub_arguments) for name in names)
