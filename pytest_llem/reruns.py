"""Measure experiments again in a fresh process: what a verdict counts is processes, not rounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from pytest_llem.settings import Settings


def measure_again(
    config: pytest.Config, settings: Settings, nodeids: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Run these items once more, all in one fresh pytest process.

    Returns:
        What each item's rows carry as ``extra_info`` (without the metric), by node id; and why items are missing,
        where the process failed.
    """
    with tempfile.TemporaryDirectory(prefix="pytest-llem-") as folder:
        saved = Path(folder, "runs.json")
        command = [sys.executable, "-m", "pytest", *nodeids, *_options(config, settings)]
        # What it finishes belongs into this session's journal, not into one that the ini file names.
        command += [f"--benchmark-json={saved}", f"--benchmark-storage=file://{folder}"]
        command += [f"--llem-journal={Path(folder, 'journal.jsonl')}"]
        done = subprocess.run(  # noqa: S603  (this interpreter, and node ids as arguments, without a shell)
            command,
            cwd=config.rootpath,
            env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if not saved.exists():
            last_line = next((line for line in reversed((done.stdout + done.stderr).splitlines()) if line.strip()), "")
            return {}, f"the fresh process ended with {done.returncode}: {last_line.strip()}"
        rows = json.loads(saved.read_text(encoding="utf-8"))["benchmarks"]
    found = {row["fullname"]: row["extra_info"] for row in rows if row["extra_info"].get("metric") == "latency"}
    return found, "it failed in the fresh process" if len(found) < len(nodeids) else None


def _options(config: pytest.Config, settings: Settings) -> list[str]:
    options = [
        "--llem-gpu" if settings.device == "cuda" else "--llem-cpu",
        f"--llem-meter={settings.meter}",
        f"--rootdir={config.rootpath}",
        "-p",
        "no:cacheprovider",
        # Options of the ini file are meant for the session, which saves, compares and reports; this is a part of it.
        "--override-ini=addopts=",
    ]
    if config.inipath is not None:
        options.append(f"--config-file={config.inipath}")
    if settings.rounds is not None:
        options.append(f"--llem-rounds={settings.rounds}")
    if settings.isolate:
        options.append("--llem-isolate")
    if settings.min_window_s is not None:
        options.append(f"--llem-min-window={settings.min_window_s}")
    return options
