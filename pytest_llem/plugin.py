"""The pytest plugin: options, settings, experiment files as tests, and what each mode registers beside.

Every pytest run in an environment with this package imports this module, so at import time it needs pytest and the
standard library only; what a hook needs it imports when the first experiment is there.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.fixtures import (  # noqa: F401  (pytest finds fixtures in the plugin's namespace)
    llem_benchmark,
    llem_experiment,
    llem_meter,
    llem_model,
    llem_run,
)
from pytest_llem.items import measures, parameters
from pytest_llem.options import add_options
from pytest_llem.session.state import SESSION, llem_session
from pytest_llem.settings import NO_BENCHMARK, SETTINGS, STARTED_WITH, Settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_MANY_ITEMS = 1000

# In a child of a nursery, the descriptor of the socket to its parent.
_FORKED = pytest.StashKey[int]()

# What pytest-benchmark does with callables alone; experiments say it under ``measure:``.
_OPTIONS_OF_CALLABLES = tuple(
    f"--benchmark-{name}"
    for name in (
        "calibration-precision",
        "cprofile",
        "disable-gc",
        "max-time",
        "min-rounds",
        "min-time",
        "timer",
        "warmup",
        "warmup-iterations",
    )
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Start-up: the option group ``llem`` and its ini keys."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Start-up, before any ``conftest.py``: a nursery waits here for orders, and each of its children goes on."""
    early_config.stash[STARTED_WITH] = dict(os.environ)
    nursery = early_config.known_args_namespace.llem_nursery
    if nursery is not None:
        from pytest_llem.session.isolation import forks

        early_config.stash[_FORKED] = forks.serve(early_config, int(nursery))


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> pytest.ExitCode | None:
    """Before the session: options that print something and end; in a child of a session, what is its parent's."""
    if config.getoption("llem_nursery") is not None:
        config.option.llem_child = config.stash[_FORKED]
    if config.getoption("llem_child") is not None:
        from pytest_llem.session.isolation import child

        child.leave_out_the_parents(config)
    if config.getoption("llem_schema"):
        import json

        from pytest_llem.config.schema import experiment_file_schema

        sys.stdout.write(json.dumps(experiment_file_schema(), indent=2) + "\n")
        return pytest.ExitCode.OK
    if not config.getoption("llem_doctor"):
        return None
    from pytest_llem.commands.doctor import examine
    from pytest_llem.report.doctor import render

    sys.stdout.write(render(examine()))
    return pytest.ExitCode.OK


def pytest_configure(config: pytest.Config) -> None:
    """Start-up, after the command line was read: check the options once, and register what this mode needs."""
    config.addinivalue_line(
        "markers",
        "llem(file): run the test once per experiment of this file (path from the test file's folder).",
    )
    settings = config.stash[SETTINGS] = Settings.from_config(config)
    has_benchmark = config.pluginmanager.has_plugin("benchmark")
    needs_benchmark = settings.judges and (settings.runs_items or settings.mode == "merge")
    if (needs_benchmark or settings.mode == "history") and not has_benchmark:
        raise pytest.UsageError(NO_BENCHMARK)
    for feature in _features(settings):
        config.pluginmanager.register(feature)


def _features(settings: Settings) -> Iterator[object]:
    """Plugins that must hear of the session from its start. Of one hook, the last one registered is called first."""
    if settings.mode == "child":
        from pytest_llem.session.isolation.child import IsolatedChild

        yield IsolatedChild(settings)
    elif settings.mode == "merge":
        from pytest_llem.session.ending import Judging, Reporting
        from pytest_llem.session.exporting import Exporting
        from pytest_llem.session.merge import Merge

        yield Merge(settings)
        yield Reporting(settings)
        yield Exporting(settings)
        yield Judging(settings)
    elif settings.mode == "history" and settings.history is not None:
        from pytest_llem.commands.history import SavedHistory

        yield SavedHistory(settings, settings.history)
    elif settings.mode == "plan":
        from pytest_llem.commands.plan import Planner

        yield Planner(settings)
    if settings.shard is not None and settings.mode != "child":
        from pytest_llem.session.shards import Part

        yield Part(settings, settings.shard)


def _features_of_measuring(settings: Settings) -> Iterator[object]:
    """Plugins of a session that is going to measure, or that had to."""
    from pytest_llem.session.ending import Judging, Reporting
    from pytest_llem.session.exporting import Exporting
    from pytest_llem.session.isolation.parent import Isolation
    from pytest_llem.session.resume import Resume
    from pytest_llem.session.termination import Termination

    yield Reporting(settings)
    yield Termination()
    if settings.judges:
        yield Judging(settings)
        yield Exporting(settings)
    if settings.bisect is not None and settings.mode == "bisect":
        from pytest_llem.session.against.bisect import Bisect

        yield Bisect(settings, settings.bisect)
        return
    if settings.against is not None and settings.mode == "against":
        from pytest_llem.session.against.plugin import Against

        yield Against(settings, settings.against)
        return
    if settings.ray is not None:
        from pytest_llem.session.cluster.plugin import Distribution

        yield Distribution(settings, settings.ray)
    else:
        yield Isolation(settings)
    if settings.budget_s is not None:
        from pytest_llem.session.budget import Budget

        # Before the one that resumes, which is called first, therefore: only what that leaves is ranked.
        yield Budget(settings, settings.budget_s)
    yield Resume(settings)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Start of the session: say what runs where, if anything does."""
    settings = config.stash[SETTINGS]
    if settings.device is None or settings.mode == "history":
        return []
    where = "" if settings.ray is None else f" of Ray's machines ({settings.ray})"
    lines = [f"llem: experiments run on the {settings.device_name}{where}, meter: {settings.meter}"]
    if settings.footprint is not None:
        from pytest_llem.report.footprints import TITLE, terms

        lines.append(f"llem: {TITLE.lower()} by {terms(settings.footprint)}")
    added = [*config.getini("addopts"), *os.environ.get("PYTEST_ADDOPTS", "").split()]
    given = {argument.partition("=")[0] for argument in (*added, *config.invocation_params.args)}
    if ignored := [option for option in _OPTIONS_OF_CALLABLES if option in given]:
        lines.append(f"llem: {', '.join(ignored)}: no effect on experiments, whose files say how they are measured")
    if "--llem-host" in given and settings.meter != "nvml" and (settings.meter != "auto" or settings.device != "cuda"):
        lines.append("llem: --llem-host: no effect: the nvml meter alone reads the host beside its boards")
    return lines


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start of the session: a device or meter that is named and cannot work ends it with a usage error."""
    if session.config.stash[SETTINGS].asks_for_hardware:
        llem_session(session.config).require_hardware()


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Collection, once per path: checkouts of other revisions may lie below the root folder, and are no part of it."""
    from pytest_llem.cache import cache_folder

    return True if collection_path == cache_folder() else None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collection, once per file: an experiment file becomes a module of real test functions."""
    patterns = parent.config.stash[SETTINGS].files
    if not any(file_path.match(pattern) for pattern in patterns):
        return None
    from pytest_llem.collection import ExperimentFile

    return ExperimentFile.from_parent(parent, path=file_path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Collection, once per test function: one item per experiment."""
    experiments = getattr(metafunc.function, "llem_experiments", None)
    markers = list(metafunc.definition.iter_markers("llem"))
    if experiments is None and not markers:
        return
    from pytest_llem import collection

    if experiments is not None:
        collection.parametrize(metafunc, experiments)
    else:
        collection.parametrize_marked(metafunc, markers)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """After collection and all other selection: register what measuring needs, if anything does."""
    settings = config.stash[SETTINGS]
    measured = any(map(measures, items))
    if len(items) >= _MANY_ITEMS and measured:
        # They stay: the collections before every window, and those with which Python ends, need not look through them.
        gc.freeze()
    if not (settings.runs_items and config.pluginmanager.has_plugin("benchmark")):
        return
    session = config.stash.get(SESSION, None)
    if measured and session is not None:
        experiments = (parameters(item).get("llem_experiment") for item in items)
        session.require_boards(one.config.parallel.tensor for one in experiments if one and one.config)
    if measured or settings.shard or settings.judges:
        for feature in _features_of_measuring(settings):
            config.pluginmanager.register(feature)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before an item's fixtures: an experiment that does not validate fails here, with its messages alone."""
    experiment = parameters(item).get("llem_experiment")
    if experiment is not None:
        from pytest_llem import collection

        collection.require_valid(experiment)
    elif item.get_closest_marker("llem") is not None:
        pytest.fail("pytest.mark.llem works on test functions and on methods of plain classes only", pytrace=False)


@pytest.hookimpl(wrapper=True, specname="pytest_runtest_setup")
def pytest_runtest_setup_of_experiment(item: pytest.Item) -> Generator[None]:
    """After an item's fixtures: that a model could not be loaded, the same for all that share it, gets a place."""
    experiment = parameters(item).get("llem_experiment")
    if experiment is None:
        return (yield)
    from pytest_llem import collection

    try:
        return (yield)
    except collection.NotLoadedError as cause:
        collection.fail_at(experiment, cause, item.config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """After each phase: what an item measured counts once the whole item has passed."""
    report = yield
    session = item.config.stash.get(SESSION, None)
    if session is not None:
        session.note_report(report)
        if call.excinfo is not None:
            session.note_failure(call.excinfo.value)
        if report.skipped and isinstance(report.longrepr, tuple) and _is_ours(report.longrepr[0]):
            # Where the experiment stands, not where this package found out.
            path, line, _ = item.location
            report.longrepr = (str(item.config.rootpath / path), (line or 0) + 1, report.longrepr[2])
    return report


def _is_ours(path: str) -> bool:
    # A skip inside a ``with`` block of ours is reported where contextlib raises it again.
    return Path(path).name == "contextlib.py" or Path(__file__).parent in Path(path).parents


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """End of the session, once all is judged and just before pytest-benchmark saves: make its rows."""
    state = session.config.stash.get(SESSION, None)
    if state is not None and state.records and state.settings.mode not in ("child", "bisect"):
        from pytest_llem.records.rows import publish

        publish(session.config, state.records.values(), lambda problem: state.fail(session, problem))
    return (yield)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_benchmark_group_stats(
    benchmarks: list[dict[str, Any]], group_by: str
) -> Generator[None, list[tuple[str | None, list[Any]]], list[tuple[str | None, list[Any]]]]:
    """End of the session: joules and seconds never share a table."""
    if not any("metric" in (bench.get("extra_info") or {}) for bench in benchmarks):
        return (yield)
    from pytest_llem.records import rows as benchmark

    benchmark.fill_parameters(benchmarks, group_by)
    return benchmark.split_by_unit((yield))


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """When results are saved or compared: the GPUs and the libraries that decide them."""
    settings = config.stash[SETTINGS]
    if settings.device is not None or settings.meter == "nvml":
        from pytest_llem.records import machine

        machine_info["llem"] = machine.describe(settings.device, settings.meter)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """When results are saved: say which of them an earlier session measured."""
    state = config.stash.get(SESSION, None)
    records = {} if state is None else state.records
    if earlier := [nodeid for nodeid, record in records.items() if record.from_journal]:
        output_json["llem_from_journal"] = earlier


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    """End of the session: each result with its uncertainty and its warnings.

    After pytest-benchmark's tables, and also when it ends the summary with ``--benchmark-compare-fail``.
    """
    try:
        yield
    finally:
        session = config.stash.get(SESSION, None)
        if session is not None:
            from pytest_llem.report import terminal

            terminal.write_summary(terminalreporter, list(session.records.values()), session.judged, session.notes)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End of the process: release meters."""
    session = config.stash.get(SESSION, None)
    if session is not None:
        session.close()
