"""Weights are safetensors, whole and inside the model's folder; nothing is unpickled, whatever a folder says."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.transformers.conftest import change_json, without

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., pytest.RunResult]
    Write = Callable[..., Path]


class _Bomb:
    """Its pickle makes the file."""

    def __init__(self, owned: Path) -> None:
        self.owned = owned

    def __reduce__(self) -> Any:
        return self.owned.touch, ()


class TestPickles:
    def test_pickled_weights_are_not_opened(self, run: Run, write: Write, model: Path, owned: Path) -> None:
        (model / "model.safetensors").unlink()
        torch.save(_Bomb(owned), model / "pytorch_model.bin")
        write(extra="model: ./model\n", base=without("model"))
        result = run()
        result.assert_outcomes(errors=1)
        assert not owned.exists()
        result.stdout.fnmatch_lines(
            ["*has no model.safetensors: other weights, such as pickled ones, are never loaded*"]
        )

    def test_nor_those_of_an_assistant(self, run: Run, write: Write, model: Path, owned: Path) -> None:
        (model / "model.safetensors").unlink()
        torch.save(_Bomb(owned), model / "pytorch_model.bin")
        write(
            extra="pytorch: {assistant_model: ./model}\ndataset: {synthetic: {n: 1, input_len: 8}}\n",
            base=without("dataset"),
        )
        result = run()
        result.assert_outcomes(errors=1)
        assert not owned.exists()
        result.stdout.fnmatch_lines(
            ["*has no model.safetensors: other weights, such as pickled ones, are never loaded*"]
        )

    @pytest.mark.parametrize("variant", ["", "other."])
    @pytest.mark.parametrize("subfolder", ["", "sub"])
    def test_nor_those_that_an_index_of_safetensors_names(
        self, run: Run, write: Write, model: Path, owned: Path, variant: str, subfolder: str
    ) -> None:
        weights = model / subfolder
        if subfolder:
            shutil.copytree(model, weights)
        (weights / "model.safetensors").unlink()
        torch.save(_Bomb(owned), weights / "evil.bin")
        index = {"metadata": {}, "weight_map": {"lm_head.weight": "evil.bin"}}
        (weights / f"model.safetensors.index.{variant}json").write_text(json.dumps(index))
        passed = {"subfolder": subfolder} if subfolder else {}
        passed |= {"variant": "other"} if variant else {}
        write(extra=f"model: ./model\npassthrough: {{from_pretrained: {json.dumps(passed)}}}\n", base=without("model"))
        result = run()
        result.assert_outcomes(errors=1)
        assert not owned.exists()
        result.stdout.fnmatch_lines(["*index*json names 'evil.bin' as weights; only safetensors are read*"])

    def test_an_index_that_nobody_reads_does_not_matter(self, run: Run, write: Write, model: Path) -> None:
        index = {"metadata": {}, "weight_map": {"lm_head.weight": "old.bin"}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        write(extra="model: ./model\n", base=without("model"))
        run().assert_outcomes(passed=1)

    @pytest.mark.parametrize("named", ["part.safetensors", "part.bin"])
    def test_an_index_that_the_configuration_names_is_looked_at(
        self, run: Run, write: Write, model: Path, named: str
    ) -> None:
        names = load_file(model / "model.safetensors")
        (model / "model.safetensors").rename(model / named)
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, named)}
        (model / "my.safetensors.index.json").write_text(json.dumps(index))
        change_json(model / "config.json", transformers_weights="my.safetensors.index.json")
        write(extra="model: ./model\n", base=without("model"))
        if named == "part.bin":
            result = run()
            result.assert_outcomes(errors=1)
            result.stdout.fnmatch_lines(["*my.safetensors.index.json names 'part.bin' as weights; only safetensors*"])
        else:
            run().assert_outcomes(passed=1)

    @pytest.mark.parametrize("outside", ["../elsewhere.safetensors", "/elsewhere.safetensors"])
    def test_an_index_does_not_lead_outside(self, run: Run, write: Write, model: Path, outside: str) -> None:
        (model / "model.safetensors").rename(model.parent / "elsewhere.safetensors")
        index = {"metadata": {}, "weight_map": {"lm_head.weight": outside}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        write(extra="model: ./model\n", base=without("model"))
        result = run()
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*index.json names *elsewhere.safetensors' as weights, which lie outside*"])

    @pytest.mark.parametrize("index", ["[", "[]", '{"weight_map": 3}', "[" * 100_000])
    def test_an_index_that_is_none_is_one_line(self, run: Run, write: Write, model: Path, index: str) -> None:
        (model / "model.safetensors").rename(model / "part.safetensors")
        (model / "model.safetensors.index.json").write_text(index)
        write(extra="model: ./model\n", base=without("model"))
        result = run()
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*its model.safetensors.index.json cannot be read: *"])

    def test_nor_those_that_the_configuration_names(self, run: Run, write: Write, model: Path, owned: Path) -> None:
        torch.save(_Bomb(owned), model / "adapter_model.bin")
        change_json(model / "config.json", transformers_weights="adapter_model.bin")
        write(extra="model: ./model\n", base=without("model"))
        result = run()
        result.assert_outcomes(errors=1)
        assert not owned.exists()
        result.stdout.fnmatch_lines(["*config.json names 'adapter_model.bin' as weights; only safetensors are read*"])

    def test_nor_those_that_come_another_way(
        self, run: Run, write: Write, model: Path, owned: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pytest_llem.engines.transformers.loading.check_checkpoint", lambda *_: None)
        torch.save(_Bomb(owned), model / "adapter_model.bin")
        change_json(model / "config.json", transformers_weights="adapter_model.bin")
        write(extra="model: ./model\n", base=without("model"))
        load = torch.load
        result = run()
        result.assert_outcomes(errors=1)
        assert not owned.exists()
        result.stdout.fnmatch_lines(["*pickled weights are never loaded*"])
        assert torch.load is load

    def test_nor_those_of_an_adapter(self, run: Run, write: Write, pytester: pytest.Pytester, owned: Path) -> None:
        pytest.importorskip("peft")
        folder = pytester.mkdir("adapter")
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"]}))
        torch.save(_Bomb(owned), folder / "adapter_model.bin")
        write(extra="pytorch: {lora: {path: ./adapter}}\n")
        result = run()
        result.assert_outcomes(errors=1)
        assert not owned.exists()
        result.stdout.fnmatch_lines(["*pickled weights are never loaded*"])

    def test_nor_an_adapter_that_hides_in_the_model(self, run: Run, write: Write, model: Path, owned: Path) -> None:
        pytest.importorskip("peft")
        (model / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"]}))
        torch.save(_Bomb(owned), model / "adapter_model.bin")
        write(extra="model: ./model\n", base=without("model"))
        run().assert_outcomes(errors=1)
        assert not owned.exists()

    def test_an_adapter_does_not_name_a_module_to_import(
        self, run: Run, write: Write, pytester: pytest.Pytester
    ) -> None:
        pytest.importorskip("peft")
        folder = pytester.mkdir("adapter")
        config = {"peft_type": "LORA", "megatron_config": {"a": 1}, "megatron_core": "antigravity"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        write(extra="pytorch: {lora: {path: ./adapter}}\n")
        result = run()
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*made for Megatron*"])
