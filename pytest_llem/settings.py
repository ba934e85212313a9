"""What the command line and the ini file ask for, read once."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from pytest_llem.errors import MeterUnavailableError
from pytest_llem.meters import check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_llem.verdict.limits import Limit

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """The options of one pytest session.

    Attributes:
        device: ``cuda``, ``cpu``, or ``None`` when experiments are validated only.
        meter: one of :func:`pytest_llem.meters.meter_names`.
        meter_named: true when a meter was asked for by name, so that it may not be replaced.
        rounds: overrides ``measure.rounds`` of every experiment.
        min_window_s: overrides ``measure.min_window_s`` of every experiment, in seconds.
        files: patterns of experiment files.
        gates: limits of the command line or the ini file by metric; they replace those of the files.
        strict: INCONCLUSIVE and NO-BASELINE fail the session too.
        accept: the session's changes are wanted.
        baseline: the saved runs to judge against, as asked for.
        error_rates: probabilities of wrong verdicts, alpha and beta.
        report: where the HTML report goes.
        csv: where the table of results goes.
        journal: where finished results are kept as they finish; ``None`` for beside pytest-benchmark's storage.
        resume: take up an interrupted session.
        shard: which part of how many runs, from 1; ``None`` for everything.
        merge: journals to report in place of running anything.
        isolate: run each model's experiments in a child process.
        child: in such a child, the descriptor of the socket to its parent.
        lock_timeout_s: how long to wait for a GPU that another session measures, in seconds.
        root_note: that an option of ours has led pytest to another root folder, if one has.
    """

    device: str | None
    meter: str
    meter_named: bool
    rounds: int | None
    min_window_s: float | None
    files: tuple[str, ...]
    gates: Mapping[str, Limit]
    strict: bool
    accept: bool
    baseline: str
    error_rates: tuple[float, float]
    report: Path | None
    csv: Path | None
    journal: Path | None = None
    resume: bool = False
    shard: tuple[int, int] | None = None
    merge: tuple[Path, ...] = ()
    isolate: bool = False
    child: int | None = None
    lock_timeout_s: float = 3600.0
    root_note: str | None = None

    @property
    def device_name(self) -> str:
        """The device as a reader calls it."""
        return "GPU" if self.device == "cuda" else "CPU"

    @property
    def asks_for_hardware(self) -> bool:
        """Whether the session must not start without the device or the meter it names."""
        return self.device == "cuda" or self.meter_named

    @classmethod
    def from_config(cls, config: pytest.Config) -> Settings:
        """Read the options; the command line wins over the ini file.

        Raises:
            pytest.UsageError: options that contradict each other or are out of range.
        """
        root_note = _root_note(config)
        gpu, cpu = config.getoption("llem_gpu"), config.getoption("llem_cpu")
        if gpu and cpu:
            raise pytest.UsageError("--llem-gpu and --llem-cpu exclude each other: pass one of them")
        meter = _read(config, "llem_meter", str) or "auto"
        try:
            check_name(meter)
        except MeterUnavailableError as error:
            raise pytest.UsageError(f"--llem-meter: {error}") from None
        rounds = _read(config, "llem_rounds", int)
        if rounds is not None and rounds < 1:
            raise pytest.UsageError(f"--llem-rounds: {rounds} is too small; use at least 1")
        min_window_s = _read(config, "llem_min_window", float)
        if min_window_s is not None and not (min_window_s >= 0 and math.isfinite(min_window_s)):
            raise pytest.UsageError(f"--llem-min-window: {min_window_s} is no window; use seconds, at least 0")
        lock_timeout_s = _read(config, "llem_lock_timeout", float)
        if lock_timeout_s is not None and not lock_timeout_s >= 0:
            raise pytest.UsageError(f"--llem-lock-timeout: {lock_timeout_s} is no time; use seconds, at least 0")
        child = config.getoption("llem_child")
        return cls(
            device="cuda" if gpu else "cpu" if cpu else None,
            meter=meter,
            meter_named=meter != "auto",
            rounds=rounds,
            min_window_s=min_window_s,
            files=tuple(config.getini("llem_files")),
            gates=_gates(config),
            strict=config.getoption("llem_strict") or config.getini("llem_strict"),
            accept=config.getoption("llem_accept"),
            baseline=_baseline(_read(config, "llem_baseline", str) or "last:20"),
            error_rates=(_rate(config, "llem_alpha", 0.05), _rate(config, "llem_beta", 0.025)),
            report=_read(config, "llem_report", Path),
            csv=_read(config, "llem_csv", Path),
            **_sessions(config),
            isolate=child is None and (config.getoption("llem_isolate") or config.getini("llem_isolate")),
            child=child,
            lock_timeout_s=3600.0 if lock_timeout_s is None else lock_timeout_s,
            root_note=root_note,
        )

    @property
    def last(self) -> int | None:
        """How many of the newest comparable runs an experiment is judged against; ``None`` for all that are named."""
        return int(self.baseline.removeprefix("last:")) if self.baseline.startswith("last:") else None


SETTINGS = pytest.StashKey[Settings]()


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


def _read(config: pytest.Config, name: str, convert: Callable[[str], T]) -> T | None:
    """An option that is also an ini key; ``None`` when neither was given."""
    value = config.getoption(name)
    if value is not None:
        return convert(value)
    text = config.getini(name).strip()
    if not text:
        return None
    try:
        return convert(text)
    except ValueError:
        raise pytest.UsageError(f"{name}: {text!r} in the ini file is no {convert.__name__}") from None


def _gates(config: pytest.Config) -> Mapping[str, Limit]:
    texts = config.getoption("llem_fail") or config.getini("llem_fail")
    if not texts:
        return {}
    from pytest_llem.verdict.gates import parse_gates

    try:
        return parse_gates(texts)
    except ValueError as error:
        raise pytest.UsageError(f"--llem-fail: {error}") from None


def _baseline(text: str) -> str:
    if text.startswith("last:") and not re.fullmatch(r"last:[1-9][0-9]*", text):
        raise pytest.UsageError(f"--llem-baseline: {text!r} is no number of runs; write for example last:20")
    return text


def _sessions(config: pytest.Config) -> dict[str, Any]:
    """What makes one session of several: the journal, resuming, shards, merging."""
    resume, shard, merge = (config.getoption(name) for name in ("llem_resume", "llem_shard", "llem_merge"))
    if merge and (resume or shard):
        raise pytest.UsageError("--llem-merge runs nothing: leave out --llem-resume and --llem-shard")
    part = None
    if shard is not None:
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", shard)
        part = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= part[0] <= part[1]:
            raise pytest.UsageError(f"--llem-shard: {shard!r} is no part; write I/N from 1/N to N/N, such as 1/4")
    journal = _read(config, "llem_journal", Path)
    if journal is not None and part is not None and config.getoption("llem_journal") is None:
        # The ini file has one path for all parts.
        journal = journal.parent / f"{journal.stem}-shard{part[0]}of{part[1]}{journal.suffix}"
    return {
        # A test may change the working directory.
        "journal": None if journal is None else journal.absolute(),
        "resume": resume,
        "shard": part,
        "merge": tuple(Path(path).absolute() for path in merge or ()),
    }


def _rate(config: pytest.Config, name: str, default: float) -> float:
    rate = _read(config, name, float)
    if rate is None:
        return default
    if not 0.001 <= rate < 0.5:
        raise pytest.UsageError(f"--{name.replace('_', '-')}: {rate} is no error rate; use 0.001 or more, below 0.5")
    return rate
