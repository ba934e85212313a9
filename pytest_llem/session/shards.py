"""``--llem-shard I/N``: divide a session's experiments among processes, machines or CI jobs.

Every part collects everything and comes to the same division by itself, so the parts need not talk. A model's
experiments stay together: no model is loaded in two parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.items import measures, parameters
from pytest_llem.records import rows as benchmark
from pytest_llem.records.identity import experiment_hash
from pytest_llem.session.journal import Journal, default_path
from pytest_llem.session.state import llem_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_llem.settings import Settings

SPLIT = pytest.StashKey[str]()
"""The division that this session is a part of: the number of parts and a hash."""

OTHERS = pytest.StashKey[int]()
"""How many tests fall to other parts."""


class Part:
    """The plugin of a session that runs one part.

    Args:
        shard: which part, from 1, of how many.
    """

    def __init__(self, settings: Settings, shard: tuple[int, int]) -> None:
        self._settings = settings
        self._number, self._parts = shard

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Set aside the journal of the part before: it must not be merged as this one's, even if this one ends before
        it begins its own.

        Raises:
            pytest.UsageError: it cannot be set aside.
        """
        config, settings = session.config, self._settings
        runs = settings.mode in ("validate", "measure") and config.pluginmanager.has_plugin("benchmark")
        if settings.resume or not runs or benchmark.is_disabled(config):
            return
        path = settings.journal or default_path(config, settings.shard)
        if path is None:
            return
        state = llem_session(config)
        try:
            Journal(path, {}, say=state.notes.append, say_now=state.say).set_aside()
        except OSError as error:
            raise pytest.UsageError(f"--llem-journal: {error}") from None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """After collection and all other selection: deselect the items of other parts.

        Tests that measure nothing run in the first part.
        """
        groups: dict[object, list[str]] = {}
        for item in items:
            if measures(item):
                groups.setdefault(_load(item) or item.nodeid, []).append(item.nodeid)
        part_of = assign(list(groups.values()), durations_s(_saved(config)), self._parts)
        # How many parts there are can be read, so that merging knows when one is missing.
        config.stash[SPLIT] = f"{self._parts}-{experiment_hash({'part_of': part_of})}"
        kept = [item for item in items if part_of.get(item.nodeid, 1) == self._number]
        others = [item for item in items if part_of.get(item.nodeid, 1) != self._number]
        config.stash[OTHERS] = len(others)
        if others:
            config.hook.pytest_deselected(items=others)
            items[:] = kept

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        """When results are saved: say that they are a part of a session only."""
        output_json["llem_shard"] = f"{self._number}/{self._parts}"


def assign(groups: Iterable[Sequence[str]], known_s: Mapping[str, tuple[float, float]], parts: int) -> dict[str, int]:
    """Divide groups of experiments among parts: the longest first, each to the part that has least to do.

    This is the LPT rule (Graham, 1969): the longest part takes at most 4/3 of what the best division would.

    Args:
        groups: node ids that belong together.
        known_s: seconds of measuring and of loading by node id. One that is not known counts as their mean;
            where none is known, all count the same.
        parts: how many.

    Returns:
        The part of each node id, from 1.
    """
    measured = [measuring_s for measuring_s, _ in known_s.values()]
    typical = (sum(measured) / len(measured) if measured else 1.0, 0.0)

    def length_s(group: Sequence[str]) -> float:
        times = [known_s.get(nodeid, typical) for nodeid in group]
        return sum(measuring_s for measuring_s, _ in times) + max(load_s for _, load_s in times)

    ordered = sorted((sorted(group) for group in groups), key=lambda group: (-length_s(group), group))
    filled_s = [0.0] * parts
    part_of = {}
    for group in ordered:
        part = filled_s.index(min(filled_s))
        filled_s[part] += length_s(group)
        part_of.update(dict.fromkeys(group, part + 1))
    return part_of


def durations_s(saved: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Seconds of measuring and of loading by node id, from saved runs, oldest first; the newest run holds.

    Runs that are parts of a session do not count: a part that starts when another is done would divide otherwise.
    """
    known: dict[str, tuple[float, float]] = {}
    for run in saved:
        for row in () if "llem_shard" in run else run.get("benchmarks", ()):
            info = row.get("extra_info") or {}
            result = info.get("result")
            if "nodeid" in info and isinstance(result, dict):
                windows = [*(result.get("per_round") or ()), *(result.get("prefill_rounds") or ())]
                measuring_s = sum(window["seconds"] for window in windows)
                known[info["nodeid"]] = (measuring_s, result.get("load_s") or 0.0)
    return known


def _saved(config: pytest.Config) -> Sequence[Mapping[str, Any]]:
    return benchmark.saved_sessions(config, "last:1") if benchmark.storage_folder(config) is not None else ()


def _load(item: pytest.Item) -> object:
    """What its model is, where it has one: a value that items share if they share a load."""
    experiment = parameters(item).get("llem_experiment")
    if experiment is None or experiment.config is None:
        return None
    load: object = experiment.config.load_config(experiment.path.parent)
    return load
