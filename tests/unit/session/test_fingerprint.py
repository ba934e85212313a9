"""The hash by which finished work is recognised."""

from __future__ import annotations

import linecache
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llem.config import ExperimentConfig
from pytest_llem.config.files import load_experiments
from pytest_llem.session import fingerprint


def test_the_hash_is_of_what_bears_on_the_result(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "one"}\n')
    settings = {"device": "cpu", "meter": "auto", "host": "auto", "rounds": None, "min_window_s": None}

    def hashed(text: str = "", **changed: Any) -> str:
        file = tmp_path / "a.llem.yaml"
        file.write_text("model: builtin:tiny-llama\ndataset: {path: prompts.jsonl}\n" + text)
        (experiment,) = load_experiments(file)
        item = SimpleNamespace(nodeid="n", callspec=SimpleNamespace(params={"llem_experiment": experiment}))
        return fingerprint.hash_of(item, SimpleNamespace(**{**settings, **changed}))  # type: ignore[arg-type]

    first = hashed()
    assert hashed("compare: {latency: 5%}\nmarks: [slow]\ntimeout_s: 5\n") == first
    others = {
        hashed("random_seed: 3\n"),
        hashed("measure: {rounds: 3}\n"),
        hashed(device="cuda"),
        hashed(meter="rapl"),
        hashed(rounds=4),
        hashed(min_window_s=0.5),
        hashed(host="none"),
    }
    prompts.write_text('{"prompt": "another one"}\n')
    assert len({first, hashed(), *others}) == 9


class TestFiles:
    """What the hash of what is asked for says of local files."""

    @staticmethod
    def files(folder: Path, **fields: Any) -> list[tuple[str, int, int]]:
        return fingerprint._files(ExperimentConfig.model_validate({"model": "builtin:tiny-llama", **fields}), folder)

    def test_all_that_an_experiment_reads_is_there(self, tmp_path: Path) -> None:
        for name in ("model/config.json", "draft/deep/a", "adapter/b", "prompts.txt"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name)
        found = self.files(
            tmp_path,
            model="./model",
            pytorch={"assistant_model": "./draft", "lora": {"path": "./adapter"}},
            dataset={"path": "prompts.txt"},
        )
        names = ["model/config.json", "draft/deep/a", "adapter/b", "prompts.txt"]
        assert [(file, size) for file, size, _ in found] == [(str(tmp_path / name), len(name)) for name in names]

    def test_texts_of_a_folder_and_histograms_are_there(self, tmp_path: Path) -> None:
        for name in ("p/b.txt", "p/a.txt", "p/deep/c.txt", "out.csv", "in.csv"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("x")
        found = self.files(tmp_path, dataset={"path": "p"}, output_lengths="out.csv")
        names = ["p", "p/a.txt", "p/b.txt", "out.csv"]
        assert [file for file, _, _ in found] == [str(tmp_path / name) for name in names]
        synthetic = self.files(tmp_path, dataset={"synthetic": {"lengths": {"file": "in.csv"}}})
        assert [(file, size) for file, size, _ in synthetic] == [(str(tmp_path / "in.csv"), 1)]

    def test_the_model_that_drafts_for_vllm_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "draft").mkdir()
        (tmp_path / "draft" / "a").touch()
        speculative = {"method": "eagle", "model": "./draft"}
        found = self.files(tmp_path, backend="vllm", vllm={"speculative_config": speculative})
        assert [file for file, _, _ in found] == [str(tmp_path / "draft" / "a")]

    @pytest.mark.parametrize(
        "fields",
        [
            {"model": "x" * 300},
            {"model": "./" + "x" * 300},
            {"model": "/a\0b"},
            {"dataset": {"path": "x" * 300 + ".txt"}},
            {"dataset": {"path": "a\0b"}},
            {"dataset": {"path": "~nobody-of-that-name/x"}},
            {"dataset": {"path": "/dev/null"}},
        ],
    )
    def test_what_cannot_be_looked_at_is_unknown(self, tmp_path: Path, fields: dict[str, Any]) -> None:
        assert {(size, changed) for _, size, changed in self.files(tmp_path, **fields)} <= {(-1, -1)}

    def test_a_file_that_is_gone_or_not_ours_to_see_is_unknown(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "model").mkdir()
        for name in ("a", "b"):
            (tmp_path / "model" / name).touch()
        look = os.stat

        def refuse(path: Any, **options: Any) -> os.stat_result:
            if str(path).endswith("/a"):
                raise PermissionError(13, "Permission denied", path)
            return look(path, **options)

        monkeypatch.setattr(os, "stat", refuse)
        found = self.files(tmp_path, model="./model")
        assert [(Path(file).name, size) for file, size, _ in found] == [("a", -1), ("b", 0)]

    def test_a_whole_disk_is_not_looked_through(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fingerprint, "_MOST_FILES", 3)
        folder = tmp_path
        for level in range(8):
            folder /= str(level)
            folder.mkdir()
            (folder / "file").touch()
        assert len(self.files(tmp_path, model="./0")) == 3
        monkeypatch.setattr(fingerprint, "_MOST_FILES", 100)
        assert len(self.files(tmp_path, model="./0")) == fingerprint._MOST_LEVELS + 1


def test_a_test_that_was_rewritten_is_another_one(tmp_path: Path) -> None:
    def hashed(source: str) -> str:
        file = tmp_path / "test_it.py"
        file.write_text(source)
        linecache.clearcache()
        namespace: dict[str, Any] = {}
        exec(compile(source, str(file), "exec"), namespace)  # noqa: S102
        settings = SimpleNamespace(device="cpu", meter="auto", host="auto", rounds=None, min_window_s=None)
        return fingerprint.hash_of(SimpleNamespace(nodeid="n", function=namespace["test"]), settings)  # type: ignore[arg-type]

    first = hashed("def test():\n    one()\n")
    assert hashed("def test():\n    one()\n\n\ndef other():\n    pass\n") == first
    assert hashed("def test():\n    two()\n") != first
