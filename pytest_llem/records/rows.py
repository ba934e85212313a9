"""pytest-benchmark: one row per metric, and units other than seconds.

This is the only module that touches pytest-benchmark's internals. pytest-benchmark knows one metric, seconds; what is
needed from inside:

* ``stats.Metadata`` is a row; rows beside the item's own are made and handed to the session's list.
* ``TableResults.compute_scale`` names the unit of a table; it is replaced by one that knows joules.
* ``utils.TIME_UNITS`` and ``histogram.make_plot`` name the unit of a histogram.

Importing this module installs the last two, in a pytest session as well as in the ``pytest-benchmark`` command, which
imports the root ``conftest.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from pytest_benchmark.logger import Logger
from pytest_benchmark.plugin import pytest_benchmark_group_stats as stock_group_stats
from pytest_benchmark.stats import Metadata
from pytest_benchmark.table import TableResults
from pytest_benchmark.utils import TIME_UNITS, load_storage, safe_dumps

from pytest_llem.records.identity import environment_hash
from pytest_llem.records.record import BenchmarkLabels
from pytest_llem.verdict.gates import OUTPUT
from pytest_llem.verdict.history import UNITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pytest_llem.records.record import Record

Group = tuple[str | None, list[Any]]

# Prefix, size of the unit in joules, name in a histogram's title; the largest that leaves a number of at least 1.
_JOULE_SCALES = (
    ("kJ", 1e3, "Kilojoules (kJ)"),
    ("J", 1.0, "Joules"),
    ("mJ", 1e-3, "Millijoules (mJ)"),
    ("uJ", 1e-6, "Microjoules (uJ)"),
    ("nJ", 1e-9, "Nanojoules (nJ)"),
)
_KEPT_BY_TABLE = ("name", "fullname")
# What pytest-benchmark itself loads where nothing is named.
_SAVED = "[0-9][0-9][0-9][0-9]_"
_OPTIONS = {"disable_gc": True, "timer": "perf_counter", "max_time": None, "min_time": None, "warmup": True}


class Recorder:
    """An item's ``benchmark`` fixture."""

    def __init__(self, fixture: Any) -> None:
        self._fixture = fixture

    @property
    def disabled(self) -> bool:
        """``--benchmark-disable``: run once, without statistics."""
        return bool(self._fixture.disabled)

    def claim(self, mode: str) -> None:
        """Note that the fixture is used, which pytest-benchmark allows once an item.

        Raises:
            pytest_benchmark.fixture.FixtureAlreadyUsed: it was used before.
        """
        if self._fixture._mode:
            from pytest_benchmark.fixture import FixtureAlreadyUsed

            raise FixtureAlreadyUsed(f"{mode} measures an item once; it was measured with {self._fixture._mode}")
        self._fixture._mode = mode

    def labels(self, params: Mapping[str, Any] | None = None) -> BenchmarkLabels:
        """What the fixture says of the item; further information that a test adds later is in it, too.

        Args:
            params: plain values for ``params``; default: what pytest knows.
        """
        fixture = self._fixture
        return BenchmarkLabels(
            name=fixture.name,
            fullname=fixture.fullname,
            group=fixture.group,
            param=fixture.param,
            params=_plain(fixture.params) if params is None else params,
            extra_info=fixture.extra_info,
        )

    def show(self, record: Record) -> None:
        """Give the item's test its ``benchmark.stats``."""
        self._fixture.stats = rows_of(record)[0]


def rows_of(record: Record) -> list[Any]:
    """One row per metric of a record. pytest-benchmark compares rows of one name, so modelled and measured joules, and
    settled and joined windows, have different ones."""
    labels, result = record.labels, record.result
    saved = result.as_dict()
    shared = {
        **labels.extra_info,
        "nodeid": record.nodeid,
        "workload_hash": record.workload_hash,
        "result": saved,
    }
    if record.commit:
        # That of the session may be another one: it may have read the record from a journal.
        shared["commit_info"] = record.commit
    if record.fingerprint:
        shared["fingerprint"] = record.fingerprint
    if record.more_runs:
        shared["more_runs"] = [replace(run, generated=[]).as_dict() for run in record.more_runs]
    if record.accepted:
        shared["accepted"] = True
    if OUTPUT in record.verdicts:
        # It has no row of its own.
        shared["output_verdict"] = record.verdicts[OUTPUT]
    rows = []
    for metric in record.metrics:
        marks = _marks(metric, saved)
        # The latency alone has the item's own name.
        suffix = f":{'-'.join((metric, *marks))}" if marks or metric != "latency" else ""
        environment = record.environment_of(metric)
        info = {
            **shared,
            "environment_hash": environment_hash(environment),
            "environment": environment,
            "metric": metric,
            "unit": UNITS[metric],
        }
        if metric != "latency":
            # It may be long, and an experiment has always a row of its latency.
            info["result"] = {**saved, "generated": []}
        elif record.config is not None:
            info["config"] = record.config
        if metric in record.verdicts:
            info["verdict"] = record.verdicts[metric]
        if record.against:
            info["against"] = _against(record, metric)
        fixture = SimpleNamespace(
            name=f"{labels.name}{suffix}",
            fullname=f"{labels.fullname}{suffix}",
            group=labels.group or _heading(metric, marks),
            param=labels.param,
            params=labels.params,
            extra_info=info,
            cprofile_stats=None,
            has_error=False,
        )
        row = Metadata(fixture, iterations=result.calls_per_round, options={**_OPTIONS, "min_rounds": result.rounds})
        row.stats.data.extend(record.runs(metric)[0])
        rows.append(row)
    return rows


def _against(record: Record, metric: str) -> dict[str, Any]:
    """How a metric compares with the other side's, for scripts: what that side measured becomes no row."""
    change, interval = record.changes.get(metric, (None, None))
    return {
        "name": record.against,
        "unit": UNITS[metric],
        "pairs": [
            {
                "first": "other" if run.first else "this",
                "by_turns": run.by_turns,
                "this": fmean(this) if this else None,
                "other": fmean(other) if other else None,
            }
            for run, (this, other) in zip(record.other_runs, record.pairs(metric), strict=False)
        ],
        "verdict": record.verdicts.get(metric),
        "change": change,
        "interval": interval,
    }


def _plain(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Parameters that JSON can hold; objects of ours would be written as UNSERIALIZABLE."""
    if params is None:
        return None
    kept = {k: v for k, v in params.items() if v is None or isinstance(v, str | int | float | bool)}
    return kept or None


def publish(config: Any, records: Iterable[Record], fail: Callable[[str], None]) -> None:
    """Hand the rows of a session's records to pytest-benchmark, which reports, compares and saves them.

    Args:
        fail: is called with what went wrong where they cannot be saved. Tables and verdicts are then printed all the
            same.
    """
    session = config._benchmarksession
    session.benchmarks.extend(row for record in records for row in rows_of(record))
    save = session.handle_saving

    def handle_saving() -> None:
        try:
            save()
        except Exception as error:  # noqa: BLE001  (of any storage)
            fail(f"pytest-benchmark could not save the results: {type(error).__name__}: {error}")
            if session.json is not None:
                # It comes first, and must not cost the store.
                session.json = None
                handle_saving()

    session.handle_saving = handle_saving


def saved_to(config: Any) -> dict[str, Path]:
    """Where pytest-benchmark is going to write, by its option; of a folder a file in it."""
    session = config._benchmarksession
    paths = {} if session.json is None else {"--benchmark-json": Path(session.json)}
    folder = storage_folder(config)
    if (session.save or session.autosave) and folder is not None:
        paths["--benchmark-storage"] = folder / "trial"
    return {} if is_disabled(config) else paths


def dumps(value: Any) -> str:
    """One line of JSON; what JSON cannot hold is written as pytest-benchmark writes it."""
    text: str = safe_dumps(value, separators=(",", ":"))
    return text


def is_disabled(config: Any) -> bool:
    """``--benchmark-disable`` or ``--benchmark-skip``: nothing is measured."""
    session = config._benchmarksession
    return bool(session.disabled or session.skip)


def storage_folder(config: Any) -> Path | None:
    """Where pytest-benchmark saves; ``None`` when that is no folder."""
    path: Path | None = getattr(config._benchmarksession.storage, "path", None)
    return path


def storage_name(config: Any) -> str:
    """Where pytest-benchmark saves, for people."""
    return str(config._benchmarksession.storage)


def saved_sessions(config: Any, which: str) -> list[Mapping[str, Any]]:
    """What pytest-benchmark saved, oldest first.

    Args:
        which: ``last:N`` (all saved runs: which of them are comparable is found out later), a run id or glob of
            pytest-benchmark, or the path of a saved JSON file.

    Raises:
        pytest.UsageError: a run or file that is named is not there or cannot be read.
    """
    storage = config._benchmarksession.storage
    if which.startswith("last:"):
        return [data for _, data in storage.load()]
    if Path(which).suffix == ".json" or Path(which).is_file():
        try:
            return [_saved_session(Path(which))]
        except (OSError, ValueError) as error:
            raise pytest.UsageError(f"--llem-baseline: {which}: {error}") from None
    found = [data for _, data in storage.load(which)]
    if not found:
        raise pytest.UsageError(f"--llem-baseline: no saved run matches {which!r} in {storage}")
    return found


def _saved_session(path: Path) -> Mapping[str, Any]:
    """A saved run.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is none.
    """
    try:
        return _checked(json.loads(path.read_text(encoding="utf-8")))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _checked(data: Any) -> Mapping[str, Any]:
    """What was read, if it is a saved run.

    Raises:
        ValueError: it is none.
    """
    rows = data.get("benchmarks") if isinstance(data, Mapping) else None
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError("no saved run of pytest-benchmark")
    return cast("Mapping[str, Any]", data)


def every_session(config: Any) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    """All that is in pytest-benchmark's storage, of every machine: a name, and what was saved or why it cannot be read.
    One is in memory at a time, for there may be thousands."""
    storage = config._benchmarksession.storage
    folder = storage_folder(config)
    if folder is None:
        yield from ((str(name), data) for name, data in storage.load())
        return
    for path in storage.query("*/*"):
        name = str(path.relative_to(folder))
        if not fnmatch(path.name, f"{_SAVED}*"):
            yield name, "not named as pytest-benchmark names saved runs, such as 0001_name.json"
            continue
        try:
            yield name, _saved_session(path)
        except (OSError, ValueError) as error:
            yield name, str(error)


def newest_sessions(config: Any, most: int) -> list[Mapping[str, Any]]:
    """At most that many of the sessions that pytest-benchmark has saved, the newest first."""
    return _newest_of(config._benchmarksession.storage, most)


def _newest_of(storage: Any, most: int) -> list[Mapping[str, Any]]:
    if getattr(storage, "path", None) is None:
        saved = storage.load()
    else:
        # Without reading the others.
        files = storage.query(_SAVED)[-most:]
        saved = storage.load(*map(str, files)) if files else ()
    return sorted((data for _, data in saved), key=lambda data: str(data.get("datetime") or ""), reverse=True)[:most]


def machine_and_commit(config: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """pytest-benchmark's ``machine_info`` and ``commit_info`` of this session."""
    return config._benchmarksession.get_machine_info(), commit_info(config)


def commit_info(config: Any) -> Mapping[str, Any]:
    """pytest-benchmark's ``commit_info`` as it is now."""
    commit: dict[str, Any] = config.hook.pytest_benchmark_generate_commit_info(config=config)
    config.hook.pytest_benchmark_update_commit_info(config=config, commit_info=commit)
    return commit


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_group_stats(config: Any, benchmarks: Iterable[dict[str, Any]], group_by: str) -> list[Group]:
    """pytest-benchmark's own grouping, split by unit.

    In the root ``conftest.py`` it is a hook, of a plugin that may be switched off, and a plain function: the
    ``pytest-benchmark`` command calls it so.
    """
    benchmarks = list(benchmarks)
    fill_parameters(benchmarks, group_by)
    return split_by_unit(stock_group_stats(config, benchmarks, group_by))


def fill_parameters(benchmarks: Sequence[dict[str, Any]], group_by: str) -> None:
    """Give rows that lack a parameter by which they are grouped an empty one, which pytest-benchmark does not."""
    for part in group_by.split(","):
        if part.startswith("param:"):
            for bench in benchmarks:
                bench["params"] = {part.removeprefix("param:"): None, **(bench["params"] or {})}


def stored(
    uri: str, names: Sequence[str], most: int
) -> tuple[list[tuple[str, Mapping[str, Any]]], list[Mapping[str, Any]]]:
    """Saved sessions by their names, each with what it is called, and the newest ones of the storage.

    Args:
        uri: of pytest-benchmark's storage.
        names: run ids, globs or files, each of one session.
        most: of the newest ones.

    Raises:
        ValueError: a name is that of no session, or of several, or what is saved there is none.
    """
    storage = load_storage(uri, logger=Logger(Logger.QUIET), netrc="")
    found = []
    for name in names:
        known = list(storage.load(name))
        if len(known) != 1:
            paths = ", ".join(str(path) for path, _ in known)
            raise ValueError(
                f"{len(known)} saved runs match {name!r}: {paths}" if known else f"no saved run in {uri} is {name!r}"
            )
        found += [(path, _checked(data)) for path, data in known]
    short = [Path(path).stem for path, _ in found]
    called = short if len(set(short)) == len(short) else [str(path) for path, _ in found]
    return list(zip(called, (data for _, data in found), strict=True)), _newest_of(storage, most)


def compare() -> None:
    """``pytest-benchmark compare`` that knows joules without a ``conftest.py``; it takes the same arguments."""
    from pytest_benchmark import cli, plugin

    arguments = sys.argv[1:]
    # Options of all commands stand before the command.
    shared = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    plugin.add_global_options(shared.add_argument, prefix="")
    _, own = shared.parse_known_args(arguments)
    for argument in own:
        arguments.remove(argument)
    sys.argv[1:] = [*arguments, "compare", *own]
    plugin.pytest_benchmark_group_stats = pytest_benchmark_group_stats
    cli.main()


def split_by_unit(groups: Sequence[Group]) -> list[Group]:
    """Tables of one quantity each: joules and seconds, modelled and measured joules, settled and joined windows are
    never compared."""
    split: list[Group] = []
    for name, benchmarks in groups:
        labels: dict[str | None, list[Any]] = {}
        for bench in benchmarks:
            labels.setdefault(_label(bench), []).append(bench)
        if len(labels) == 1:
            split.append((name, benchmarks))
            continue
        split += [(" ".join(part for part in (name, label) if part) or None, rows) for label, rows in labels.items()]
    return split


def _label(bench: Mapping[str, Any]) -> str | None:
    info = bench.get("extra_info") or {}
    metric: str | None = info.get("metric")
    return _heading(metric, _marks(metric, info.get("result") or {})) if metric in UNITS else metric


def _marks(metric: str | None, result: Mapping[str, Any]) -> list[str]:
    """What sets a row apart from others of its metric, with which it is never compared. Seconds are measured even where
    joules are modelled."""
    apart = {
        "estimated": metric == "energy" and bool(result.get("estimated")),
        "joined": result.get("boundaries") == "joined",
    }
    return [mark for mark, applies in apart.items() if applies]


def _heading(metric: str | None, marks: Sequence[str]) -> str:
    return f"{metric} ({', '.join(marks)})" if marks else f"{metric}"


_stock_compute_scale = TableResults.compute_scale


def _compute_scale(
    self: Any, benchmarks: Sequence[Any], best: Mapping[str, float], worst: Mapping[str, float]
) -> tuple[str, float, float, dict[str, str]]:
    """``TableResults.compute_scale`` for joules; for everything else pytest-benchmark's own."""
    info = benchmarks[0].get("extra_info") or {}
    metric = info.get("metric", "energy")
    if info.get("unit") != "J":
        scale: tuple[str, float, float, dict[str, str]] = _stock_compute_scale(self, benchmarks, best, worst)
        return scale
    column = "min" if self.sort in _KEPT_BY_TABLE else self.sort
    smallest = best.get(column, benchmarks[0][column])
    unit, size_j, _ = next((s for s in _JOULE_SCALES if smallest >= s[1]), _JOULE_SCALES[-1])
    if self.histogram:
        _name_energy_axis()
    labels = {
        "name": f"Name ({', '.join((f'{metric} in {unit}', *_marks(metric, info.get('result') or {})))})",
        "min": "Min",
        "max": "Max",
        "mean": "Mean",
        "stddev": "StdDev",
        "rounds": "Rounds",
        "iterations": "Iterations",
        "iqr": "IQR",
        "median": "Median",
        "outliers": "Outliers",
        "ops": f"Calls/{unit}",
    }
    return unit, 1 / size_j, size_j, labels


def _name_energy_axis() -> None:
    """Title and axis of a histogram of joules; pygal is imported only when histograms are drawn."""
    from pytest_benchmark import histogram

    if hasattr(histogram.make_plot, "names_energy"):
        return
    draw = histogram.make_plot

    def make_plot(benchmarks: Sequence[Any], title: str, adjustment: float) -> Any:
        info = benchmarks[0].get("extra_info") or {}
        if info.get("unit") != "J":
            return draw(benchmarks, title, adjustment)
        plot = draw(benchmarks, title.replace("Speed in", "Energy in", 1), adjustment)
        plot.y_title = "Energy"
        return plot

    make_plot.__dict__["names_energy"] = True
    histogram.make_plot = make_plot


setattr(TableResults, "compute_scale", _compute_scale)  # noqa: B010  (a replaced method, which mypy refuses)
TIME_UNITS.update({unit: title for unit, _, title in _JOULE_SCALES})
