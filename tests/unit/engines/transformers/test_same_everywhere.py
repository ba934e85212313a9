"""Nothing but the experiment, the model and the libraries reaches the prompts, and so the hash of the workload."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pytest_llem
from pytest_llem.engines.transformers.builtin import builtin_config, builtin_tokenizer

TEMPLATE = (
    "Today: {{ strftime_now('%A, %d %B %Y %H:%M:%S %Z') }}\n{% for m in messages %}<{{ m.role }}>"
    "{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}"
)
DATASETS: dict[str, dict[str, Any]] = {
    "chat": {"chat": True, "dataset": {"path": "p.jsonl", "shuffle": True}, "max_input_tokens": 100},
    "text": {"dataset": {"path": "p.jsonl", "shuffle": True, "n": 3}},
    "natural": {"dataset": {"builtin": "natural", "n": 5, "shuffle": True}},
    "synthetic": {"dataset": {"synthetic": {"n": 3, "input_len": 9}}},
}
SCRIPT = f"""
import datetime, json, locale, sys
from pathlib import Path
from transformers.utils import chat_template_utils
from pytest_llem.config import ExperimentConfig
from pytest_llem.engines.transformers.engine import TransformersEngine
from pytest_llem.records.identity import workload_hash

locale.setlocale(locale.LC_ALL, "")
folder, today = Path(sys.argv[1]), datetime.datetime.fromisoformat(sys.argv[2])
chat_template_utils.datetime = type("Faked", (datetime.datetime,), {{"now": classmethod(lambda cls, tz=None: today)}})
model = None
for fields in {DATASETS!r}.values():
    config = ExperimentConfig(model="./model", weights="random", max_output_tokens=2, **fields)
    model = model or TransformersEngine().load(config.load_config(folder), "cpu")
    workload = model.prepare(config, folder)
    print(json.dumps([workload_hash(config, model, workload), workload.prompts.token_ids, workload.prompts.notes]))
"""


def write(folder: Path, *, reverse: bool) -> None:
    """The experiment's files in ``folder``, created in one order or the other."""
    (folder / "model").mkdir(parents=True)
    files = {
        "p.jsonl": "\n".join(json.dumps({"prompt": f"{text} ¿größer?"}, ensure_ascii=False) for text in "abcdef"),
        "model/config.json": json.dumps(builtin_config("builtin:tiny-llama").to_diff_dict()),
        "model/other.json": "{}",
        "model/chat_template.jinja": TEMPLATE,
        "model/own.py": "",
    }
    for name in sorted(files, reverse=reverse):
        (folder / name).write_text(files[name], encoding="utf-8")
    builtin_tokenizer(2048).save_pretrained(folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """What two processes in unlike surroundings make of the same experiments."""
    surroundings = [
        ("2025-12-31T23:59:59", {"TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1"}),
        (
            "2031-07-04T12:00:00",
            {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONHASHSEED": "2", "PYTHONCOERCECLOCALE": "0"}
            | {"PYTHONUTF8": "0", "HOME": "/nowhere", "RAYON_NUM_THREADS": "1", "USER": "nobody"},
        ),
    ]
    processes = []
    for number, (today, environment) in enumerate(surroundings):
        folder = tmp_path_factory.mktemp("here")
        write(folder, reverse=bool(number))
        root = str(Path(pytest_llem.__file__).parent.parent)
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT, str(folder), today],
                cwd=folder if number else "/",
                env={**os.environ, "PYTHONPATH": root, "HF_HUB_OFFLINE": "1", **environment},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return [[json.loads(line) for line in output.splitlines()] for output in outputs]


@pytest.mark.parametrize("kind", DATASETS)
def test_the_workload_is_the_same_in_other_surroundings(told: list[list[Any]], kind: str) -> None:
    here, there = (process[list(DATASETS).index(kind)] for process in told)
    assert here == there
    assert here[2] == (["template_date: the chat template writes the date 2026-01-01"] if kind == "chat" else [])


def test_the_experiments_differ(told: list[list[Any]]) -> None:
    assert len({workload_hash for workload_hash, _, _ in told[0]}) == len(DATASETS)
