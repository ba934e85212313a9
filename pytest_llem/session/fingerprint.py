"""What an item measures, as a hash: finished work is recognised by it, before anything is loaded."""

from __future__ import annotations

import inspect
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llem import __version__
from pytest_llem.config.base import fields_of
from pytest_llem.items import parameters
from pytest_llem.meters.host import AUTO
from pytest_llem.records.identity import experiment_hash, unsaid

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from pytest_llem.config import ExperimentConfig
    from pytest_llem.config.files import Experiment
    from pytest_llem.settings import Settings

# A model's folder holds some dozens of files, near its top. One that a file names by mistake may be the whole disk.
_MOST_FILES = 10_000
_MOST_LEVELS = 4


def hash_of(item: pytest.Item, settings: Settings, sides: str | None = None) -> str:
    """Hash of what an item measures: the experiment (or the source of the test that measures) and the options
    that it depends on; after a dash, of the local files that it reads, of the version of this package and of the two
    sides of a comparison, where it is measured for one."""
    experiment: Experiment | None = parameters(item).get("llem_experiment")
    config = None if experiment is None else experiment.config
    work = experiment_hash(
        {
            "nodeid": item.nodeid,
            "config": config
            and config.model_dump(mode="json", exclude={*fields_of(type(config), "session"), *unsaid(config)}),
            "source": _source(item),
            "device": settings.device,
            "meter": settings.meter,
            "rounds": settings.rounds,
            "min_window_s": settings.min_window_s,
            # As usual it says nothing, so that what is known of earlier runs is known of these.
            **({} if settings.host == AUTO else {"host": settings.host}),
        }
    )
    files = [] if config is None or experiment is None else _files(config, experiment.path.parent)
    also = {"files": files, "version": __version__} | ({} if sides is None else {"sides": sides})
    return f"{work}-{experiment_hash(also)}"


def is_same_work(fingerprint: str, other: str) -> bool:
    """Whether two fingerprints are of the same experiment and options, so that it takes about as long: a checkout
    changes the times of local files, and a new version of this package little."""
    return fingerprint.partition("-")[0] == other.partition("-")[0]


def _source(item: pytest.Item) -> str | None:
    """The text of a user's own test: what it measures is written there."""
    function = getattr(item, "function", None)
    if function is None or hasattr(function, "llem_experiments"):
        return None
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # made without a file
        return None


def _files(config: ExperimentConfig, folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of the files of prompts and lengths, and of models where they are local.

    Their content would say more, and cost minutes for a large model. What cannot be looked at has neither: the item
    fails with a message of its own, or somebody has just removed the file.
    """
    load = config.load_config(folder)
    options = load.pytorch
    speculative = load.backend_options.get("speculative_config", {}).get("model")
    models = (load.model, options.assistant_model, None if options.lora is None else options.lora.path, speculative)
    found = [_state(file) for name in models if name is not None for file in _files_of(name)]
    for name in config.prompt_files:
        path = _under(folder, name)
        found += [_state(path), *(_state(file) for file in _files_of(path, levels=0))]
    return found


def _under(folder: Path, name: str) -> str:
    try:
        return str(folder / Path(name).expanduser())
    except RuntimeError:  # the home folder of nobody
        return name


def _files_of(model: str, levels: int = _MOST_LEVELS) -> Iterator[str]:
    """The files of a folder of a model or of prompts, the first :data:`_MOST_FILES` of them."""
    if not (os.path.isabs(model) and os.path.isdir(model)):  # noqa: PTH112, PTH117  (a Path raises at odd names)
        return  # of the hub, or built in
    files = 0
    for folder, subfolders, names in os.walk(model):
        subfolders.sort()
        if folder.count(os.sep) - model.count(os.sep) >= levels:
            subfolders.clear()
        for name in sorted(names):
            files += 1
            if files > _MOST_FILES:
                return
            yield os.path.join(folder, name)  # noqa: PTH118  (of thousands)


def _state(file: str) -> tuple[str, int, int]:
    try:
        found = os.stat(file)  # noqa: PTH116  (of thousands)
    except (OSError, ValueError):
        return file, -1, -1
    # What is said of a folder, a pipe or a device changes by itself.
    return (file, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (file, -1, -1)
