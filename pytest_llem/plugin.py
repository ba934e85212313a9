"""The pytest plugin: options, settings, and hooks that hand over to the rooms that do the work.

Every pytest run in an environment with this package imports this module, so at import time it needs pytest and the
standard library only; what a hook needs it imports when the first experiment is there.
"""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.fixtures import (  # noqa: F401  (pytest finds fixtures in the plugin's namespace)
    SESSION,
    llem_benchmark,
    llem_experiment,
    llem_meter,
    llem_model,
    llem_run,
    llem_session,
)
from pytest_llem.meters import METER_NAMES
from pytest_llem.settings import SETTINGS, Settings

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path


def pytest_addoption(parser: pytest.Parser) -> None:
    """Start-up: the option group ``llem`` and its ini keys."""
    group = parser.getgroup("llem", "energy of LLM inference")
    group.addoption(
        "--llem-gpu",
        action="store_true",
        help="Run the experiments on the CUDA GPU(s) that CUDA_VISIBLE_DEVICES leaves to this process.",
    )
    group.addoption("--llem-cpu", action="store_true", help="Run the experiments on the CPU.")
    group.addoption(
        "--llem-meter",
        metavar="NAME",
        choices=METER_NAMES,
        help=f"What reads the joules: {', '.join(METER_NAMES)}. Default: auto (nvml on a GPU; on the CPU rapl where "
        "readable, else estimate).",
    )
    group.addoption("--llem-rounds", metavar="N", type=int, help="Rounds of every experiment, whatever the file says.")
    group.addoption(
        "--llem-min-window",
        metavar="SECONDS",
        type=float,
        help="Least seconds of a round's window, whatever the file says.",
    )
    parser.addini("llem_meter", f"Default of --llem-meter: {', '.join(METER_NAMES)}.", default="auto")
    parser.addini("llem_rounds", "Default of --llem-rounds.", default="")
    parser.addini("llem_min_window", "Default of --llem-min-window, in seconds.", default="")
    parser.addini(
        "llem_files",
        "Patterns of experiment files.",
        type="args",
        default=["*.llem.yaml", "*.llem.yml"],
    )


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
    settings = session.config.stash[SETTINGS]
    if not session.config.option.collectonly and settings.asks_for_hardware:
        llem_session(session.config).require_hardware()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collection, once per file: an experiment file becomes a module of real test functions."""
    patterns = parent.config.stash[SETTINGS].files
    if not any(fnmatch.fnmatch(file_path.name, pattern) for pattern in patterns):
        return None
    from pytest_llem.collection import ExperimentFile

    return ExperimentFile.from_parent(parent, path=file_path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Collection, once per test function: one item per experiment."""
    function = metafunc.function
    marker = metafunc.definition.get_closest_marker("llem")
    if marker is None and not hasattr(function, "llem_experiments"):
        return
    from pytest_llem import collection

    if marker is None:
        collection.parametrize(metafunc, function.llem_experiments)
    else:
        collection.parametrize_marked(metafunc, marker)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before an item's fixtures: an experiment that does not validate fails here, with its messages alone."""
    callspec = getattr(item, "callspec", None)
    if callspec is not None and "llem_experiment" in callspec.params:
        from pytest_llem import collection

        collection.require_valid(callspec.params["llem_experiment"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """After each phase: what an item measured counts once the whole item has passed."""
    report = yield
    session = item.config.stash.get(SESSION, None)
    if session is not None:
        session.note_report(item, report)
    return report


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_benchmark_group_stats(
    benchmarks: Sequence[Any],
) -> Generator[None, list[tuple[str | None, list[Any]]], list[tuple[str | None, list[Any]]]]:
    """End of the session: joules and seconds never share a table."""
    groups = yield
    if not any("metric" in (bench.get("extra_info") or {}) for bench in benchmarks):
        return groups
    from pytest_llem import benchmark

    return benchmark.split_by_unit(groups)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """When results are saved or compared: the GPUs and the libraries that decide them."""
    settings = config.stash[SETTINGS]
    if settings.device is not None or settings.meter == "nvml":
        from pytest_llem import machine

        machine_info["llem"] = machine.describe(settings.device, settings.meter)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """End of the session, after pytest-benchmark's tables: each result with its uncertainty and its warnings."""
    session = config.stash.get(SESSION, None)
    if session is not None and session.recorded:
        from pytest_llem.report import terminal

        terminal.write_results(terminalreporter, session.recorded)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End of the process: release meters."""
    session = config.stash.get(SESSION, None)
    if session is not None:
        session.close()
