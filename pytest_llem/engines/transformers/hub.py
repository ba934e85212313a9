"""Files of the hub: how they are reached, and what to say of one that is not to be had."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llem.errors import LoadError, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_llem.config import LoadConfig

# Arguments of from_pretrained that say where files lie: the configuration and the tokenizer need them too.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "subfolder", "token")

# Those of them that say how the hub is reached, which is the same for an adapter or an assistant beside the model.
_ACCESS_ARGUMENTS = tuple(name for name in HUB_ARGUMENTS if name != "subfolder")

# Revisions in the cache that a message names.
_SHOWN = 3


def hub_access(load: LoadConfig) -> dict[str, Any]:
    """The arguments with which any file of the hub is reached."""
    return {name: load.from_pretrained[name] for name in _ACCESS_ARGUMENTS if name in load.from_pretrained}


def hub_file(repository: str, name: str, hub_arguments: Mapping[str, Any]) -> Path:
    """A file of the hub, downloaded if it is not in the cache.

    Raises:
        LoadError: there is no such file, or it cannot be reached.
    """
    try:
        return Path(str(_cached_file(repository, name, hub_arguments)))
    except (OSError, ValueError) as exc:
        raise _not_to_be_had(repository, name, hub_arguments, exc) from exc


def hub_file_if_any(repository: str, name: str, hub_arguments: Mapping[str, Any]) -> Path | None:
    """As :func:`hub_file`; ``None`` where the model is to be had without such a file.

    Raises:
        LoadError: it is not known whether there is one.
    """
    try:
        found = _cached_file(repository, name, hub_arguments, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError) as exc:
        raise _not_to_be_had(repository, name, hub_arguments, exc) from exc
    return None if found is None else Path(found)


def only_in_the_cache(hub_arguments: Mapping[str, Any]) -> str:
    """The only place where a file was looked for, and why, in words; empty where the hub itself was asked."""
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        return " in the cache, and HF_HUB_OFFLINE is set"
    return " in the cache, and local_files_only is set" if hub_arguments.get("local_files_only") else ""


def snapshot_commit(path: Path) -> str | None:
    """The commit that a file of the hub's cache belongs to: the cache keeps each in a folder of that name."""
    found = re.search(r"[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]", f"{path}/")
    return found.group(1) if found else None


def _cached_file(repository: str, name: str, hub_arguments: Mapping[str, Any], **further: bool) -> str | None:
    from transformers.utils.hub import cached_file

    arguments = {key: value for key, value in hub_arguments.items() if key != "trust_remote_code"}
    found: str | None = cached_file(repository, name, **arguments, **further)
    return found


def _not_to_be_had(repository: str, name: str, hub_arguments: Mapping[str, Any], exc: Exception) -> LoadError:
    cached = _cached_revisions(repository, hub_arguments.get("cache_dir"))
    only = only_in_the_cache(hub_arguments)
    if not only:
        message = f"no such folder, and {name} is not to be had from the hub: {one_line(exc)}"
    elif not cached:
        message = f"no such folder, and not to be had from the hub: it is not{only}"
    else:
        message = f"{name} of revision {hub_arguments.get('revision') or 'main'!r} is not{only}"
    if cached:
        more = f" and {len(cached) - _SHOWN} more" if len(cached) > _SHOWN else ""
        way_out = "; name one of them as pytorch.revision" if "revision" in hub_arguments else ""
        message += f"; the cache has the revisions {', '.join(cached[:_SHOWN])}{more}{way_out}"
    return LoadError(message)


def _cached_revisions(repository: str, cache: str | None) -> list[str]:
    """The commits of ``repository`` in the cache, each with the branches and tags that name it."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(cache or constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"))
    refs = folder / "refs"
    names: dict[str, list[str]] = {}
    for ref in sorted(refs.rglob("*")):
        if ref.is_file():
            names.setdefault(ref.read_text(encoding="utf-8").strip(), []).append(ref.relative_to(refs).as_posix())
    commits = sorted(path.name for path in (folder / "snapshots").glob("*") if any(path.iterdir()))
    return [f"{commit} ({', '.join(names[commit])})" if commit in names else commit for commit in commits]
