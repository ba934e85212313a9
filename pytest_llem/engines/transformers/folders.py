"""Local folders as models: which one is meant, what is in it, and what to say where that is no model."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llem.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Files up to this size are hashed whole. Of larger ones, evenly spaced blocks: reading a checkpoint of 16 GB
# once more for its identity would double the time that loading takes.
_WHOLE_FILE_BYTES = 64 * 2**20
_BLOCKS = 1024
_BLOCK_BYTES = 4096

# Files and folders that a message names.
_SHOWN = 3

_GGUF = "GGUF is llama.cpp's format; name the model that it was made from"


def local_folder(model: str, hub_arguments: Mapping[str, Any]) -> Path | None:
    """The folder that ``model`` names, ``None`` for a hub id. ``LoadConfig`` holds folders as absolute paths.

    Raises:
        LoadError: it is no folder, or holds no model of transformers.
    """
    path = Path(model)
    if path.is_absolute():
        fault = _fault(path, path / (hub_arguments.get("subfolder") or ""))
    elif path.is_dir():
        # transformers would read it instead of the hub's model of that name.
        fault = (
            "a folder of this name lies where pytest was started, but folders are named from the experiment file's; "
            "start pytest elsewhere, or write the path with ./ in front"
        )
    else:
        return None
    if fault is not None:
        raise LoadError(fault)
    return path


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


def _fault(named: Path, folder: Path) -> str | None:
    """Why ``named``, whose model lies in ``folder``, is no model of transformers."""
    if named.is_file():
        return _GGUF if named.suffix == ".gguf" else "a file; name the folder that holds it and its config.json"
    if not folder.is_dir():
        return "no such folder"
    if (folder / "config.json").exists():
        return None
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = None
        with suppress(OSError, ValueError, AttributeError):
            base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
        whose = f", {base!r}," if base else ""
        return f"an adapter alone; name its base{whose} as model and this folder as pytorch.lora: {{path: ...}}"
    if any(folder.glob("*.gguf")):
        return _GGUF
    # Of a trainer's output, of the hub's cache.
    inner = [path for pattern in ("*", "snapshots/*") for path in sorted(folder.glob(f"{pattern}/config.json"))]
    if inner:
        return (
            f"has no config.json, but its folder {inner[-1].parent.relative_to(folder).as_posix()!r} has one: name that"
        )
    there = sorted(path.name for path in folder.iterdir())
    more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    return f"has no config.json, which transformers needs; there is {', '.join(there[:_SHOWN]) or 'nothing'}{more}"
