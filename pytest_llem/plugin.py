"""The pytest plugin: options, settings, and hooks that hand over to the rooms that do the work.

Every pytest run in an environment with this package imports this module, so at import time it needs pytest and the
standard library only; what a hook needs it imports when the first experiment is there.
"""

from __future__ import annotations

import gc
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
from pytest_llem.session.termination import TERMINATION, Termination
from pytest_llem.settings import SETTINGS, Settings

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence


EXPECTED = pytest.StashKey[list[tuple[str, str]]]()
"""Node id and metric of everything that has a gate."""


_MANY_ITEMS = 1000


def pytest_addoption(parser: pytest.Parser) -> None:
    """Start-up: the option group ``llem`` and its ini keys."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> pytest.ExitCode | None:
    """Before the session: options that print something and end; in a child of a session, what is its parent's."""
    if config.getoption("llem_child") is not None:
        from pytest_llem.session.isolation import child

        child.prepare(config)
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
    """Start-up, after the command line was read: check the options once and keep them."""
    config.addinivalue_line(
        "markers",
        "llem(file): run the test once per experiment of this file (path from the test file's folder).",
    )
    config.stash[SETTINGS] = Settings.from_config(config)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Start of the session: say what runs where, if anything does."""
    settings = config.stash[SETTINGS]
    if settings.device is None:
        return None
    return f"llem: experiments run on the {settings.device_name}, meter: {settings.meter}"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start of the session: a device or meter that was asked for and cannot work ends it with a usage error."""
    config, settings = session.config, session.config.stash[SETTINGS]
    if config.option.collectonly or config.option.llem_plan or settings.merge:
        return
    is_new_part = settings.shard is not None and not settings.resume and settings.child is None
    if is_new_part and config.pluginmanager.has_plugin("benchmark"):
        from pytest_llem.session import resume

        resume.set_aside(config, settings)
    if settings.asks_for_hardware:
        llem_session(config).require_hardware()


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> bool | None:
    """In place of collection: report journals if that was asked for."""
    settings = session.config.stash[SETTINGS]
    if not settings.merge:
        return None
    from pytest_llem.session import merge

    merge.report(session, settings)
    return True


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
    """After collection and all other selection: leave the items of other parts out."""
    shard = config.stash[SETTINGS].shard
    if shard is not None:
        from pytest_llem.session import shards

        shards.keep_part(config, items, shard)


def pytest_collection_finish(session: pytest.Session) -> None:
    """After collection: say what the gates can catch, before anything is measured."""
    if len(session.items) >= _MANY_ITEMS and any(map(measures, session.items)):
        # They stay: the collections before every window, and those with which Python ends, need not look through them.
        gc.freeze()
    settings = session.config.stash[SETTINGS]
    option = session.config.option
    if option.collectonly or option.llem_plan or settings.child is not None:
        return
    if settings.device is None and not settings.strict:
        return
    from pytest_llem.session import ending

    session.config.stash[EXPECTED] = ending.expected(session, settings)
    if settings.device is not None:
        ending.announce(session, settings)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """After collection, before the tests: begin or take up the journal; in place of them, print the plan."""
    if not session.config.getoption("llem_plan"):
        _begin(session)
        return None
    from pytest_llem.commands import plan

    made = plan.make_plan(session.items)
    session.config.get_terminal_writer().write(plan.render(made, session.config.stash[SETTINGS]))
    session.testsfailed += len(made.invalid)
    return True


def _begin(session: pytest.Session) -> None:
    """What a session needs that is going to measure something."""
    config, settings = session.config, session.config.stash[SETTINGS]
    refused = session.testsfailed and not config.option.continue_on_collection_errors
    if config.option.collectonly or refused or settings.child is not None or settings.merge:
        return
    items = [item for item in session.items if measures(item) and item.get_closest_marker("skip") is None]
    if not config.pluginmanager.has_plugin("benchmark") or not (items or settings.shard):
        return
    from pytest_llem.session import resume

    config.stash[TERMINATION] = Termination()
    config.stash[TERMINATION].install()
    resume.begin(session, items, settings)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """In place of an item's phases: run it in a child process, if it is to run there."""
    settings = item.config.stash[SETTINGS]
    state = item.config.stash.get(SESSION, None)
    if not (settings.isolate or (state is not None and state.device_lost)):
        return None
    from pytest_llem.session.isolation import parent

    if not parent.is_isolated(item, state, settings):
        return None
    parent.of(item.config).run(item)
    return True


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
        session.note_report(item, report)
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
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """End of the session, before pytest-benchmark saves: judge what is gated, write the reports.

    The terminal's summary, which tells of both, comes after the inner hooks.
    """
    state = session.config.stash.get(SESSION, None)
    settings = session.config.stash[SETTINGS]
    if state is not None and state.isolation is not None:
        state.isolation.close()
    expected = session.config.stash.get(EXPECTED, [])
    if state is None and settings.strict and expected:
        state = llem_session(session.config)
    idle = settings.device is None and not settings.merge and not settings.strict
    if state is None or settings.child is not None or idle:
        return (yield)
    from pytest_llem.session import ending

    ending.judge(session, state, expected)
    if TERMINATION in session.config.stash:
        session.config.stash[TERMINATION].deafen()
    ending.write_reports(session.config, state)
    return (yield)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_benchmark_group_stats(
    benchmarks: Sequence[Any],
) -> Generator[None, list[tuple[str | None, list[Any]]], list[tuple[str | None, list[Any]]]]:
    """End of the session: joules and seconds never share a table."""
    groups = yield
    if not any("metric" in (bench.get("extra_info") or {}) for bench in benchmarks):
        return groups
    from pytest_llem.records import rows as benchmark

    return benchmark.split_by_unit(groups)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """When results are saved or compared: the GPUs and the libraries that decide them."""
    settings = config.stash[SETTINGS]
    if settings.device is not None or settings.meter == "nvml":
        from pytest_llem.records import machine

        machine_info["llem"] = machine.describe(settings.device, settings.meter)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """When results are saved: say if they are a part of a session only, and which of them an earlier one measured."""
    shard = config.stash[SETTINGS].shard
    if shard is not None:
        output_json["llem_shard"] = f"{shard[0]}/{shard[1]}"
    session = config.stash.get(SESSION, None)
    earlier = [] if session is None else [one.nodeid for one in session.recorded if one.from_journal]
    if earlier:
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

            terminal.write_summary(terminalreporter, session)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End of the process: release meters."""
    termination = config.stash.get(TERMINATION, None)
    if termination is not None:
        termination.restore()
    session = config.stash.get(SESSION, None)
    if session is not None:
        session.close()
