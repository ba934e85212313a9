"""The command line: the option group ``llem`` and its ini keys."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pytest_llem.meters import METER_NAMES

if TYPE_CHECKING:
    import pytest


def add_options(parser: pytest.Parser) -> None:
    """Add the options; :class:`pytest_llem.settings.Settings` reads and checks them."""
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
        help=f"What reads the joules: {', '.join(METER_NAMES)}, or one that another package registers. Default: auto "
        "(nvml on a GPU; on the CPU rapl where readable, else estimate).",
    )
    group.addoption("--llem-rounds", metavar="N", type=int, help="Rounds of every experiment, whatever the file says.")
    group.addoption(
        "--llem-min-window",
        metavar="SECONDS",
        type=float,
        help="Least seconds of a round's window, whatever the file says.",
    )
    group.addoption(
        "--llem-fail",
        metavar="METRIC:LIMIT",
        action="append",
        help="Gate, repeatable: energy or latency may not get worse than this, such as energy:5%%, energy:2%%..5%% or "
        "latency:3%%;rule=point. Replaces the files' compare: for the same metric.",
    )
    group.addoption(
        "--llem-strict",
        action="store_true",
        help="INCONCLUSIVE and NO-BASELINE fail the session too, so that a broken gate is not green.",
    )
    group.addoption(
        "--llem-accept",
        action="store_true",
        help="This run's change is wanted: saved, its result restarts the baseline's mean.",
    )
    group.addoption(
        "--llem-baseline",
        metavar="WHICH",
        help="Saved runs to judge against: last:N, a pytest-benchmark run id or glob, or the path of a saved JSON. "
        "Default: last:20.",
    )
    group.addoption(
        "--llem-alpha",
        metavar="RATE",
        type=float,
        help="Probability at most of REGRESSED at a change that is just tolerated. Default: 0.05.",
    )
    group.addoption(
        "--llem-beta",
        metavar="RATE",
        type=float,
        help="Probability at most of OK at a change of the limit. Default: 0.025.",
    )
    group.addoption("--llem-report", metavar="PATH", help="Write one self-contained HTML report.")
    group.addoption("--llem-csv", metavar="PATH", help="Write the results as one flat table, a line an experiment.")
    group.addoption(
        "--llem-journal",
        metavar="PATH",
        help="Keep finished results here as they finish. Default: llem-journal.jsonl beside pytest-benchmark's saved "
        "runs, with --llem-shard llem-journal-shardIofN.jsonl.",
    )
    group.addoption(
        "--llem-resume",
        action="store_true",
        help="Take up an interrupted session: what its journal holds unchanged is reported and not run again.",
    )
    group.addoption(
        "--llem-shard",
        metavar="I/N",
        help="Run the I-th of N parts, from 1. No model is loaded in two parts.",
    )
    group.addoption(
        "--llem-merge",
        metavar="PATH",
        nargs="+",
        action="extend",
        help="Report the union of these journals as one session; run nothing.",
    )
    group.addoption(
        "--llem-isolate",
        action="store_true",
        help="Run each model's experiments in a child process: a crash or a hang costs one experiment, and timeout_s "
        "is enforced.",
    )
    group.addoption(
        "--llem-lock-timeout",
        metavar="SECONDS",
        type=float,
        help="How long to wait for a GPU that another session measures. Default: 3600.",
    )
    # Set by the session that starts this one as a child: the descriptor of the socket between them.
    group.addoption("--llem-child", type=int, help=argparse.SUPPRESS)
    group.addoption(
        "--llem-doctor",
        action="store_true",
        help="Print what this machine can measure and why not the rest, and how to mend it; run nothing.",
    )
    group.addoption(
        "--llem-schema",
        action="store_true",
        help="Print the JSON Schema of an experiment file; run nothing.",
    )
    group.addoption(
        "--llem-plan",
        action="store_true",
        help="Print the items, loads, predicted memory and least time of what would run; run nothing.",
    )
    parser.addini("llem_meter", f"Default of --llem-meter: {', '.join(METER_NAMES)}.", default="auto")
    parser.addini("llem_rounds", "Default of --llem-rounds.", default="")
    parser.addini("llem_min_window", "Default of --llem-min-window, in seconds.", default="")
    parser.addini("llem_fail", "Default of --llem-fail, one gate a line.", type="linelist", default=[])
    parser.addini("llem_strict", "Default of --llem-strict.", type="bool", default=False)
    parser.addini("llem_baseline", "Default of --llem-baseline.", default="")
    parser.addini("llem_alpha", "Default of --llem-alpha.", default="")
    parser.addini("llem_beta", "Default of --llem-beta.", default="")
    parser.addini("llem_report", "Default of --llem-report.", default="")
    parser.addini("llem_csv", "Default of --llem-csv.", default="")
    parser.addini(
        "llem_journal",
        "Default of --llem-journal; with --llem-shard, -shardIofN stands before its suffix.",
        default="",
    )
    parser.addini("llem_isolate", "Default of --llem-isolate.", type="bool", default=False)
    parser.addini("llem_lock_timeout", "Default of --llem-lock-timeout, in seconds.", default="")
    parser.addini(
        "llem_files",
        "Patterns of experiment files.",
        type="args",
        default=["*.llem.yaml", "*.llem.yml"],
    )
