"""Saved results as what they say of time, and the items that it may be said of."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_llem.items import parameters
from pytest_llem.records import rows as benchmark
from pytest_llem.session.fingerprint import hash_of
from pytest_llem.session.journal import default_path, read_journal
from pytest_llem.session.journal_line import OtherVersionError
from pytest_llem.session.prediction import Asked, PastRun, least_s, past_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pytest

    from pytest_llem.settings import Settings

_SESSIONS = 20


def predictable(items: Iterable[pytest.Item], settings: Settings) -> list[Asked]:
    """What is known beforehand of items that measure something. Without a device, results of the GPU are better ones
    than those of the CPU."""
    devices = ("cuda", "cpu") if settings.device is None else (settings.device,)
    per_device = [replace(settings, device=device) for device in devices]
    asked = []
    for item in items:
        experiment = parameters(item).get("llem_experiment")
        config = None if experiment is None else experiment.config
        rounds = settings.rounds or (None if config is None else config.measure.rounds)
        asked.append(
            Asked(
                item.nodeid,
                [hash_of(item, known) for known in per_device],
                parameters(item).get("llem_model"),
                None if rounds == "auto" else rounds,
                None if config is None else least_s(config, settings),
            )
        )
    return asked


def past_runs(config: pytest.Config, settings: Settings) -> list[PastRun]:
    """What the journal and the newest of pytest-benchmark's saved sessions hold, the newest first."""
    found = [*_of_journals(config, settings), *_of_saved_sessions(config)]
    return [run for run in found if run is not None]


def _of_journals(config: pytest.Config, settings: Settings) -> Iterator[PastRun | None]:
    path = settings.journal or default_path(config, settings.shard)
    if path is None:
        return
    for journal in (path, path.with_name(f"{path.name}.previous")):
        # Nothing rests on it: resuming says what is wrong with a journal.
        with suppress(OSError, OtherVersionError):
            for record in read_journal(journal).records.values():
                yield past_run(record.nodeid, record.fingerprint, vars(record.result))


def _of_saved_sessions(config: pytest.Config) -> Iterator[PastRun | None]:
    for saved in benchmark.newest_sessions(config, _SESSIONS):
        for row in saved.get("benchmarks", ()):
            info = row.get("extra_info") or {}
            if info.get("metric") == "latency" and isinstance(info.get("result"), dict):
                yield past_run(info.get("nodeid", ""), info.get("fingerprint", ""), info["result"])
