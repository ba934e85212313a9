"""What the command line and the ini file say, read once."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_llem.footprint import Footprint
from pytest_llem.options import OPTIONS, RAY_HERE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.verdict.limits import Limit

NO_BENCHMARK = (
    "experiments are reported through pytest-benchmark: remove -p no:benchmark, or where plugins are not loaded by "
    "themselves, add -p pytest_benchmark.plugin"
)
_OUTPUTS = ("llem_fail", "llem_report", "llem_csv", "llem_export")

Mode = Literal["validate", "measure", "against", "bisect", "plan", "collect", "merge", "history", "child"]
_COMPARES = ("against", "bisect")
_RUNS = ("validate", "measure", *_COMPARES)


@dataclass(frozen=True)
class Settings:
    """The options of one pytest session.

    Attributes:
        mode: what the session is for, which decides the plugins that it needs. ``validate`` measures callables alone.
        device: ``cuda``, ``cpu``, or ``None`` when experiments are validated only.
        meter: one of :func:`pytest_llem.meters.meter_names`.
        meter_named: true when a meter is named, so that it may not be replaced.
        host: one of :func:`pytest_llem.meters.host.host_names`.
        rounds: overrides ``measure.rounds`` of every experiment.
        min_window_s: overrides ``measure.min_window_s`` of every experiment, in seconds.
        files: patterns of experiment files.
        gates: limits of the command line or the ini file by metric; they replace those of the files.
        judges: gates are judged and reports written: where experiments run, and where the command line names one.
        strict: INCONCLUSIVE and NO-BASELINE fail the session too.
        accept: the session's changes are wanted.
        baseline: the saved runs to judge against, as given.
        against: the state of the code to judge against, here and now; ``None`` for the saved runs.
        bisect: the ends between which a commit is looked for, the good and the bad one.
        pairs: most pairs of processes, where it is judged so.
        error_rates: probabilities of wrong verdicts, alpha and beta.
        report: where the HTML report goes.
        csv: where the table of results goes.
        exports: names and targets of the exporters that get the results.
        footprint: what turns joules into carbon and cost; ``None`` where neither is asked for.
        journal: where finished results are kept as they finish; ``None`` for beside pytest-benchmark's storage.
        resume: go on with an interrupted session.
        shard: which part of how many runs, from 1; ``None`` for everything.
        merge: journals to report in place of running anything.
        history: where a page of the saved runs goes in place of running anything.
        isolate: run each model's experiments in a child process.
        ray: address of the Ray cluster that runs the experiments, :data:`pytest_llem.options.RAY_HERE` for one on this
            machine; ``None`` where they run here.
        child: in such a child, the descriptor of the socket to its parent.
        budget_s: seconds that loads and experiments may take in all; ``None`` for as many as they need.
        experiments_root: the root folder whose experiment files are read in place of those below the session's own.
        checkout: with ``experiments_root`` the folder that holds the session's root; ``None`` for the root itself.
        lock_timeout_s: how long to wait for a GPU that another session measures, in seconds.
        root_note: that an option of ours has led pytest to another root folder, if one has.
    """

    mode: Mode
    device: str | None
    meter: str
    meter_named: bool
    rounds: int | Literal["auto"] | None
    min_window_s: float | None
    files: tuple[str, ...]
    gates: Mapping[str, Limit]
    judges: bool
    strict: bool
    accept: bool
    baseline: str
    error_rates: tuple[float, float]
    report: Path | None
    csv: Path | None
    exports: tuple[tuple[str, str], ...] = ()
    footprint: Footprint | None = None
    journal: Path | None = None
    resume: bool = False
    shard: tuple[int, int] | None = None
    merge: tuple[Path, ...] = ()
    history: Path | None = None
    isolate: bool = False
    ray: str | None = None
    child: int | None = None
    budget_s: float | None = None
    against: str | None = None
    bisect: tuple[str, str] | None = None
    pairs: int = 10
    experiments_root: Path | None = None
    checkout: Path | None = None
    lock_timeout_s: float = 3600.0
    root_note: str | None = None
    host: str = "auto"

    @property
    def device_name(self) -> str:
        """The device as a reader calls it."""
        return "GPU" if self.device == "cuda" else "CPU"

    @property
    def compares(self) -> bool:
        """Whether states of the code are measured against each other."""
        return self.mode in _COMPARES

    @property
    def runs_items(self) -> bool:
        """Whether the session itself runs items, in a child or not, and is none."""
        return self.mode in _RUNS

    @property
    def asks_for_hardware(self) -> bool:
        """Whether the session must not start without the device or the meter it names."""
        return self.ray is None and self.mode in (*_RUNS, "child") and (self.device == "cuda" or self.meter_named)

    @property
    def last(self) -> int | None:
        """How many of the newest comparable runs an experiment is judged against; ``None`` for all that are named."""
        return int(self.baseline.removeprefix("last:")) if self.baseline.startswith("last:") else None

    @classmethod
    def from_config(cls, config: pytest.Config) -> Settings:
        """Read the options; the command line wins over the ini file.

        Raises:
            pytest.UsageError: options that contradict each other or are out of range.
        """
        root_note = _root_note(config)
        given = {option.name.removeprefix("llem_"): option.value(config) for option in OPTIONS}
        if given["gpu"] and given["cpu"]:
            raise pytest.UsageError("--llem-gpu and --llem-cpu exclude each other: pass one of them")
        if given["merge"] and (given["resume"] or given["shard"]):
            raise pytest.UsageError("--llem-merge runs nothing: leave out --llem-resume and --llem-shard")
        if given["merge"] and config.getoption("llem_budget"):
            raise pytest.UsageError("--llem-merge runs nothing: leave out --llem-budget")
        if given["child"] is None:
            _require_alone(config)
            _require_comparable(given, config)
            _require_one_cluster(given, config)
        mode = _mode(given, config)
        is_worker = hasattr(config, "workerinput")
        asks = any(map(config.getoption, _OUTPUTS))
        distributes = config.getoption("dist", "no") != "no" and not is_worker
        if distributes and (mode not in ("validate", "collect") or asks or config.getoption("llem_strict")):
            # pytest-xdist's processes would share the boards and the processor, and keep the results to themselves.
            raise pytest.UsageError("experiments cannot be measured, judged or planned under pytest-xdist: add -n 0")
        journal, shard = given["journal"], given["shard"]
        if journal is not None and shard is not None and config.getoption("llem_journal") is None:
            # The ini file has one path for all parts.
            journal = journal.with_stem(f"{journal.stem}-shard{shard[0]}of{shard[1]}")
        return cls(
            mode=mode,
            device="cuda" if given["gpu"] else "cpu" if given["cpu"] else None,
            meter=given["meter"],
            meter_named=given["meter"] != "auto",
            rounds=given["rounds"],
            min_window_s=given["min_window"],
            files=tuple(config.getini("llem_files")),
            gates=given["fail"],
            judges=not is_worker and (mode in ("measure", *_COMPARES, "merge") or given["strict"] or asks),
            strict=given["strict"],
            accept=given["accept"],
            baseline=given["baseline"],
            error_rates=(given["alpha"], given["beta"]),
            report=given["report"],
            csv=given["csv"],
            exports=given["export"],
            footprint=_footprint(given, config, mode),
            # A test may change the working directory.
            journal=None if journal is None else journal.absolute(),
            resume=given["resume"],
            shard=shard,
            merge=given["merge"],
            history=given["history"],
            # Each side of a comparison runs in processes of its own.
            isolate=given["child"] is None and (given["isolate"] or mode in _COMPARES),
            ray=given["ray"] if mode in ("measure", "plan") else None,
            child=given["child"],
            budget_s=given["budget"],
            against=given["against"],
            bisect=given["bisect"],
            pairs=int(given["pairs"]),
            experiments_root=given["experiments_root"],
            checkout=given["checkout"],
            lock_timeout_s=given["lock_timeout"],
            root_note=root_note,
            host=given["host"],
        )


def _mode(given: Mapping[str, Any], config: pytest.Config) -> Mode:
    if given["child"] is not None:
        return "child"
    if given["history"]:
        return "history"
    if given["merge"]:
        return "merge"
    if given["plan"]:
        return "plan"
    if config.option.collectonly:
        return "collect"
    if not (given["gpu"] or given["cpu"]):
        return "validate"
    if given["bisect"] is not None:
        return "bisect"
    return "measure" if given["against"] is None else "against"


def _require_alone(config: pytest.Config) -> None:
    """Refuse what would not happen where a page of the saved runs is written in place of everything."""
    path = config.getoption("llem_history")
    if path is None:
        return
    if path == "":
        raise pytest.UsageError("--llem-history: its value is empty; write the path of a page, such as history.html")
    others = ("merge", "plan", "against", "bisect", "resume", "shard", "accept", "report", "csv", "export")
    if named := [f"--llem-{name}" for name in others if config.getoption(f"llem_{name}")]:
        raise pytest.UsageError(f"--llem-history measures nothing: leave out {', '.join(named)}")


def _footprint(given: Mapping[str, Any], config: pytest.Config, mode: Mode) -> Footprint | None:
    for name in ("region", "price", "pue"):
        # A variable of a CI job that is not set: without it the report would lack what it is asked for.
        if config.getoption(f"llem_{name}") == "":
            raise pytest.UsageError(f"--llem-{name}: its value is empty")
    region, price, pue = given["region"], given["price"], given["pue"]
    if region is None and price is None:
        if config.getoption("llem_pue") is not None:
            raise pytest.UsageError("--llem-pue multiplies carbon and cost: pass --llem-region or --llem-price with it")
        return None
    price_per_kwh, currency = price or (None, None)
    footprint = Footprint(pue=pue, price_per_kwh=price_per_kwh, currency=currency)
    if region is None:
        return footprint
    from pytest_llem.grids import find_grid

    try:
        return replace(footprint, **vars(find_grid(region)))
    except ValueError as error:
        without_joules = mode in ("plan", "collect", "validate", "history")
        if mode == "child" or (without_joules and not config.getoption("llem_region")):
            # Another interpreter or machine: what the parent is told of its results gets the parent's. And a
            # session without joules needs no codecarbon for the sake of an ini file.
            return None
        where = "--llem-region" if config.getoption("llem_region") else "llem_region in the ini file"
        raise pytest.UsageError(f"{where}: {error}") from None


def _require_comparable(given: Mapping[str, Any], config: pytest.Config) -> None:
    """Refuse what makes no sense where states of the code are compared."""
    for name, what in (("against", "REV, @PYTHON or REV@PYTHON"), ("bisect", "GOOD..BAD")):
        # A variable of a CI job that is not set: without a comparison the session would be green.
        if config.getoption(f"llem_{name}") == "":
            raise pytest.UsageError(f"--llem-{name}: its value is empty; write {what}")
    if given["against"] is None and given["bisect"] is None:
        return
    option = "--llem-against" if given["bisect"] is None else "--llem-bisect"
    others = [f"--llem-{name}" for name in ("shard", "merge") if given[name]]
    others += ["--llem-baseline"] if config.getoption("llem_baseline") is not None else []
    if given["bisect"] is not None:
        others += [f"--llem-{name}" for name in ("against", "resume", "accept") if config.getoption(f"llem_{name}")]
    if others:
        raise pytest.UsageError(f"{option} measures what it compares with: leave out {', '.join(others)}")
    named = config.getoption("llem_against") is not None or given["bisect"] is not None
    if named and not (given["gpu"] or given["cpu"] or given["plan"]):
        raise pytest.UsageError(f"{option} measures: pass --llem-gpu or --llem-cpu with it")


def _require_one_cluster(given: Mapping[str, Any], config: pytest.Config) -> None:
    """Refuse what makes no sense where a Ray cluster runs the experiments, and an address that is none."""
    named: str | None = config.getoption("llem_ray")
    if named == "":
        raise pytest.UsageError("--llem-ray=: its value is empty; write --llem-ray=ADDRESS, or --llem-ray alone")
    if named is not None:
        added = [*config.getini("addopts"), *shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))]
        if named != RAY_HERE and f"--llem-ray={named}" not in (*added, *config.invocation_params.args):
            # What follows the option is its value to argparse, were it the path of a test.
            raise pytest.UsageError(
                f"--llem-ray {named}: an address comes after =, as in --llem-ray=auto; without one, put paths of tests "
                "before --llem-ray, or another option after it"
            )
        if not (given["gpu"] or given["cpu"] or given["plan"] or config.option.collectonly or given["merge"]):
            raise pytest.UsageError("--llem-ray measures: pass --llem-gpu or --llem-cpu with it")
    if given["ray"] is None:
        return
    refused = {
        "against": "measures both sides on the boards of one machine",
        "bisect": "measures both sides on the boards of one machine",
        "budget": "is spent on one load after the other",
        **({"merge": "runs nothing"} if named is not None else {}),
    }
    for name, why in refused.items():
        if given[name]:
            raise pytest.UsageError(f"--llem-{name} {why}: leave out --llem-ray")


SETTINGS = pytest.StashKey[Settings]()

STARTED_WITH = pytest.StashKey[Mapping[str, str]]()
"""The environment variables that pytest was started with, before any ``conftest.py`` changed them."""


def _root_note(config: pytest.Config) -> str | None:
    """What to say of the value of an option of ours that has led pytest to another root folder, if one has.

    pytest looks for its root before it knows the options of plugins. A path that exists, after a space, then counts as
    that of tests. Node ids are others, then, so that no saved run and no journal fits.

    Raises:
        pytest.UsageError: the ini file is lost, and what it says to this plugin with it.
    """
    if config.getoption("rootdir") or config.getoption("inifilename"):
        return None
    option, tests, paths, taken = "", [], [], {}
    for argument in config.invocation_params.args:
        if argument.startswith("-"):
            option = argument
        elif argument in config.args:
            tests.append(argument)
            paths.append(argument)
        elif option.startswith("--llem-") and _exists(argument):
            taken[argument] = option
            paths.append(argument)
    if not taken:
        return None
    try:
        from _pytest.config.findpaths import determine_setup

        def root(args: Sequence[str]) -> tuple[Path, Path | None, Mapping[str, Any]]:
            rootdir, inifile, values, *_ = determine_setup(
                inifile=None,
                override_ini=None,
                args=args,
                rootdir_cmd_arg=None,
                invocation_dir=config.invocation_params.dir,
            )
            return rootdir, inifile, values

        *meant, values = root(tests)
        if meant in (list(root(paths)[:2]), [config.rootpath, config.inipath]):
            return None
    except (ImportError, TypeError):  # a later pytest, in which the search is another one
        return None
    instead = " ".join(f"{option}={path}" for path, option in taken.items())
    note = (
        f"pytest takes a path after a space for that of tests, and its root folder is now {config.rootpath} in place "
        f"of {meant[0]}: write {instead}"
    )
    ours = any(name.startswith("llem_") or "--llem" in str(value) for name, value in values.items())
    if ours and meant[1] != config.inipath:
        raise pytest.UsageError(note)
    # What is merged has its node ids already.
    return None if config.getoption("llem_merge") else note


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # a name longer than the file system allows
        return False
