"""The scripts of docs/many-gpus.md for Slurm, run as they stand there; a shell script plays Slurm."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.processes

PAGE = Path(__file__).parents[2] / "docs" / "many-gpus.md"

# What the scripts call, on a machine without a GPU.
PYTEST = """\
#!/bin/bash
exec {python} -m pytest "${{@/--llem-gpu/--llem-cpu}}" --llem-meter=none
"""

SBATCH = """\
#!/bin/bash
while [[ $1 == --* ]]; do shift; done
tasks=$(sed -n 's/^#SBATCH --array=1-//p' "$1")
for task in $(seq "${tasks:-1}"); do
  SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task bash "$@" >&2 || exit 1
done
echo "7;cluster"
"""


def test_the_parts_of_an_array_are_measured_and_merged(pytester: pytest.Pytester, write: Callable[..., Path]) -> None:
    page = PAGE.read_text(encoding="utf-8").partition("## A Slurm array")[2]
    *scripts, calls = re.findall(r"^```sh\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    for script in scripts:
        name = re.findall(r"^# (\w+\.sh)$", script, flags=re.MULTILINE)[0]
        (pytester.path / name).write_text(script)
    commands = pytester.mkdir("bin")
    for name, text in {"pytest": PYTEST.format(python=sys.executable), "sbatch": SBATCH}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    write("benchmarks/three.llem.yaml", "sweep: {precision: [fp32, fp16, bf16], pytorch.batch_size: [1, 2]}\n")
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", calls], cwd=pytester.path, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in pytester.path.glob("part-*")) == [
        f"part-7-{task}.jsonl" for task in range(1, 5)
    ]
    assert "llem: merged 6 experiments of 4 journals; nothing was run" in done.stderr
    assert (pytester.path / "report.html").exists()
