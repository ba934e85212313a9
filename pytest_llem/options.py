"""The command line: one table of the option group ``llem`` and its ini keys."""

from __future__ import annotations

import argparse
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_llem.errors import MeterUnavailableError
from pytest_llem.footprint import MOST_FACTOR, parse_price
from pytest_llem.meters import METER_NAMES, check_name
from pytest_llem.meters.host import AUTO, HOST_NAMES, check_host

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_llem.verdict.limits import Limit

RAY_HERE = "local"
"""The address of a Ray cluster that is started on this machine for the session."""


def _name(check: Callable[[str], None]) -> Callable[[str], str]:
    def read(text: str) -> str:
        try:
            check(text)
        except MeterUnavailableError as error:
            raise ValueError(error) from None
        return text

    return read


def _number(
    least: float, kind: Callable[[str], float] = float, most: float = sys.float_info.max
) -> Callable[[str], Any]:
    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise ValueError(
                f"{text!r} is out of range; use {'an integer' if kind is int else 'a number'}, at least {least}"
            )
        return value

    return read


def _rounds(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        rounds: int = _number(1, int)(text)
    except ValueError:
        raise ValueError(f"{text!r} is out of range; use an integer, at least 1, or auto") from None
    return rounds


def _rate(text: str) -> float:
    rate: float = _number(0)(text)
    if not 0.001 <= rate < 0.5:
        raise ValueError(f"{text} is no error rate; use 0.001 or more, below 0.5")
    return rate


def _gates(texts: Sequence[str]) -> Mapping[str, Limit]:
    if not texts:
        return {}
    from pytest_llem.verdict.gates import parse_gates

    return parse_gates(texts)


def _baseline(text: str) -> str:
    if text.startswith("last:") and not re.fullmatch(r"last:[1-9][0-9]*", text):
        raise ValueError(f"{text!r} is no number of runs; write for example last:20")
    return text


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    number, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= parts:
        raise ValueError(f"{text!r} is no part; write I/N from 1/N to N/N, such as 1/4")
    return number, parts


def _ends(text: str) -> tuple[str, str]:
    good, dots, bad = text.partition("..")
    if not (good and dots and bad) or bad.startswith(".") or ".." in bad:
        raise ValueError(f"{text!r} is no range; write GOOD..BAD, such as v1.2..main")
    return good, bad


def _exports(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    # Whether there is such an exporter is found out where it is needed: not in a child, nor on another machine.
    exports = []
    for text in dict.fromkeys(texts):
        name, _, target = text.partition(":")
        if not (name and target):
            raise ValueError(f"{text!r} lacks a target; write NAME:TARGET, such as parquet:results.parquet")
        exports.append((name, target))
    return tuple(exports)


def _paths(texts: Sequence[str]) -> tuple[Path, ...]:
    # A test may change the working directory.
    return tuple(Path(text).absolute() for text in texts)


@dataclass(frozen=True)
class Option:
    """One of the options.

    Attributes:
        name: of the ini key, and of the option with dashes.
        help: what it does, and its default.
        metavar: what stands for its value; ``None`` for a flag.
        read: makes its value of the text, or of all the texts where it is ``repeatable``; a ``ValueError`` says what
            would be right.
        default: its value where nothing was given; of a flag ``False``.
        ini: whether there is an ini key of it.
        nargs: as of argparse; it may then be repeated as well, unless it is ``?``.
        const: its value where it is given without one, with ``?``.
    """

    name: str
    help: str
    metavar: str | None = None
    read: Callable[[Any], Any] = str
    default: Any = None
    ini: bool = True
    repeatable: bool = False
    nargs: str | None = None
    const: str | None = None

    @property
    def flag(self) -> str:
        """As the command line spells it."""
        return f"--{self.name.replace('_', '-')}"

    def add(self, parser: pytest.Parser, group: pytest.OptionGroup) -> None:
        """Add it to pytest's."""
        if self.metavar is None:
            group.addoption(self.flag, action="store_true", help=self.help)
        elif self.const is not None:
            group.addoption(self.flag, metavar=self.metavar, help=self.help, nargs=self.nargs, const=self.const)
        elif self.nargs is not None:
            group.addoption(self.flag, metavar=self.metavar, help=self.help, action="extend", nargs=self.nargs)
        else:
            action = "append" if self.repeatable else "store"
            group.addoption(self.flag, metavar=self.metavar, help=self.help, action=action)
        if self.ini:
            kind: Any = "bool" if self.metavar is None else "linelist" if self.repeatable else "string"
            parser.addini(self.name, f"Default of {self.flag}.", type=kind, default=None)

    def value(self, config: pytest.Config) -> Any:
        """What the command line says, else the ini file, else the default.

        Raises:
            pytest.UsageError: it cannot be read.
        """
        given = config.getoption(self.name) or None
        where = self.flag
        if given is None and self.ini:
            given = config.getini(self.name) or None
            where = f"{self.name} in the ini file"
        if given is None:
            return self.default if self.metavar else False
        if self.metavar is None:
            return True
        try:
            return self.read(given)
        except ValueError as error:
            raise pytest.UsageError(f"{where}: {error}") from None


OPTIONS = (
    Option(
        "llem_gpu",
        "Run the experiments on the CUDA GPU(s) that CUDA_VISIBLE_DEVICES leaves to this process.",
        ini=False,
    ),
    Option("llem_cpu", "Run the experiments on the CPU.", ini=False),
    Option(
        "llem_meter",
        f"What reads the joules: {', '.join(METER_NAMES)}, or one that another package registers. Default: auto "
        "(nvml on a GPU; on the CPU rapl where readable, else estimate).",
        "NAME",
        _name(check_name),
        "auto",
    ),
    Option(
        "llem_host",
        f"What reads the processor and its memory beside the boards of the nvml meter: {', '.join(HOST_NAMES)}, or one "
        "that another package registers. Default: auto (rapl where readable, else nothing).",
        "NAME",
        _name(check_host),
        AUTO,
    ),
    Option(
        "llem_rounds",
        "Rounds of every experiment, whatever the file says: a number, or auto for as many as precision needs.",
        "N",
        _rounds,
    ),
    Option("llem_min_window", "Least seconds of a round's window, whatever the file says.", "SECONDS", _number(0)),
    Option(
        "llem_fail",
        "Gate, repeatable: energy, latency or energy_total (boards and host) may not get worse than this, such as "
        "energy:5%%, energy:2%%..5%% or latency:3%%;rule=point; or output:same, the tokens of greedy decoding may not "
        "change. Replaces the files' compare: for the same metric.",
        "METRIC:LIMIT",
        _gates,
        {},
        repeatable=True,
    ),
    Option("llem_strict", "INCONCLUSIVE and NO-BASELINE fail the session too, so that a broken gate is not green."),
    Option("llem_accept", "This run's change is wanted: saved, its result restarts the baseline's mean.", ini=False),
    Option(
        "llem_baseline",
        "Saved runs to judge against: last:N, a pytest-benchmark run id or glob, or the path of a saved JSON. Default: "
        "last:20.",
        "WHICH",
        _baseline,
        "last:20",
    ),
    Option(
        "llem_against",
        "Judge this state of the code against another one, measured here and now in pairs of processes: a git "
        "revision, @PYTHON (an interpreter, or the folder of a virtual environment), or REV@PYTHON.",
        "WHAT",
    ),
    Option(
        "llem_bisect",
        "Find the commit between two revisions that changed what the gates say, by pairs of processes; save nothing.",
        "GOOD..BAD",
        _ends,
        ini=False,
    ),
    Option("llem_pairs", "Most pairs, with --llem-against. At least 3. Default: 10.", "N", _number(3, int), 10),
    Option(
        "llem_alpha",
        "Probability at most of REGRESSED at a change that is just tolerated. Default: 0.05.",
        "RATE",
        _rate,
        0.05,
    ),
    Option("llem_beta", "Probability at most of OK at a change of the limit. Default: 0.025.", "RATE", _rate, 0.025),
    Option("llem_report", "Write one self-contained HTML report.", "PATH", Path),
    Option("llem_csv", "Write the results as one flat table, one line per experiment.", "PATH", Path),
    Option(
        "llem_export",
        "Hand the results to another tool at the end, repeatable: prometheus:FILE.prom or a Pushgateway's URL, "
        "otlp:URL, mlflow:TRACKING-URI, wandb:FOLDER, parquet:FILE, or an exporter that another package registers. The "
        "same result again adds nothing there.",
        "NAME:TARGET",
        _exports,
        (),
        repeatable=True,
    ),
    Option(
        "llem_region",
        "Tell the carbon of results: the country whose grid feeds this machine, as an ISO 3166 alpha 3 code (extra "
        "carbon), or grams of CO2e a kWh.",
        "CODE",
    ),
    Option(
        "llem_price", "Tell the cost of results: the price of a kWh, such as 0.30 or 0.30EUR.", "PRICE", parse_price
    ),
    Option(
        "llem_pue",
        "Power usage effectiveness of the data centre, which multiplies carbon and cost. Default: 1.",
        "FACTOR",
        _number(1, most=MOST_FACTOR),
        1.0,
    ),
    Option(
        "llem_journal",
        "Keep finished results here as they finish. Default: llem-journal.jsonl beside pytest-benchmark's saved runs, "
        "with --llem-shard llem-journal-shardIofN.jsonl.",
        "PATH",
        Path,
    ),
    Option(
        "llem_resume",
        "Resume an interrupted session: what its journal holds unchanged is reported and not run again.",
        ini=False,
    ),
    Option("llem_shard", "Run the I-th of N parts, from 1. No model is loaded in two parts.", "I/N", _shard, ini=False),
    Option(
        "llem_merge",
        "Report the union of these journals as one session; run nothing.",
        "PATH",
        _paths,
        (),
        ini=False,
        nargs="+",
    ),
    Option(
        "llem_isolate",
        "Run each model's experiments in a child process: a crash or a hang costs one experiment, and timeout_s is "
        "enforced.",
    ),
    Option(
        "llem_ray",
        "Run the experiments on a Ray cluster, each load as a task that asks for as many GPUs as it needs: that of an "
        "address, or auto, which stands after = alone; without one, on this machine (in the ini file: local).",
        "ADDRESS",
        nargs="?",
        const=RAY_HERE,
    ),
    Option(
        "llem_budget",
        "Seconds that the session's loads and experiments may take in all: what can still decide a verdict comes "
        "first, what no longer fits is skipped.",
        "SECONDS",
        _number(0.001),
    ),
    Option(
        "llem_lock_timeout",
        "How long to wait for a GPU that another session measures. Default: 3600.",
        "SECONDS",
        _number(0, most=math.inf),
        3600.0,
    ),
    Option(
        "llem_doctor",
        "Print what this machine can measure and why not the rest, and how to fix it; run nothing.",
        ini=False,
    ),
    Option("llem_schema", "Print the JSON Schema of an experiment file; run nothing.", ini=False),
    Option(
        "llem_plan",
        "Print the items, loads, predicted memory and time of what would run; run nothing.",
        ini=False,
    ),
    Option(
        "llem_history",
        "Write one self-contained HTML page of all saved runs: each experiment over time, where its level moved and "
        "what changed there; run nothing. With --llem-fail the newest that have no verdict are judged.",
        "PATH",
        Path,
        ini=False,
    ),
    # Of the other side of a comparison: the root folder whose experiment files it reads in place of its own.
    Option("llem_experiments_root", argparse.SUPPRESS, "FOLDER", Path, ini=False),
    # The checkout that holds its own root folder: files beside that are read from beside the other one.
    Option("llem_checkout", argparse.SUPPRESS, "FOLDER", Path, ini=False),
    # Set by the session that starts this one as a child: the descriptor of the socket between them.
    Option("llem_child", argparse.SUPPRESS, "DESCRIPTOR", int, ini=False),
    # The same for one that becomes such children.
    Option("llem_nursery", argparse.SUPPRESS, "DESCRIPTOR", int, ini=False),
)


def add_options(parser: pytest.Parser) -> None:
    """Add the table to pytest's command line and ini file."""
    group = parser.getgroup("llem", "energy of LLM inference")
    for option in OPTIONS:
        option.add(parser, group)
    parser.addini("llem_files", "Patterns of experiment files.", type="args", default=["*.llem.yaml", "*.llem.yml"])
