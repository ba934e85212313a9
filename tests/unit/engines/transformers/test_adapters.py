from __future__ import annotations

import json
import shutil
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_llem.config.builtin_models import builtin_fingerprint
from pytest_llem.engines.transformers.adapters import adapter_layers
from pytest_llem.engines.transformers.folders import folder_fingerprint
from pytest_llem.errors import LoadError
from tests.unit.engines.transformers.conftest import HERE, experiment

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.engines.transformers.engine import TransformersModel
    from tests.unit.engines.transformers.conftest import Load


BUILTIN = builtin_fingerprint("builtin:tiny-llama")


def tokens(model: TransformersModel, **fields: Any) -> list[list[int]]:
    workload = model.prepare(experiment(**fields), HERE)
    return workload.output_tokens(0, workload.run(0))


def options(folder: Path, *, merge: bool = False, **others: Any) -> dict[str, Any]:
    return {"pytorch": {"lora": {"path": str(folder), "merge": merge}, **others}}


@pytest.fixture
def copied(lora_adapter: Path, tmp_path: Path) -> Path:
    """The adapter in a folder of its own, to be damaged."""
    return shutil.copytree(lora_adapter, tmp_path / "adapter")


def test_an_adapter_changes_the_tokens_merged_or_not(load: Load, tiny: TransformersModel, lora_adapter: Path) -> None:
    apart, merged = (load(**options(lora_adapter, merge=merge)) for merge in (False, True))
    assert len(adapter_layers(apart.model)) == 2 * 4
    assert adapter_layers(merged.model) == []
    assert tokens(apart) == tokens(merged) != tokens(tiny)
    stored = load_file(lora_adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.3.self_attn.v_proj"
    delta = stored[f"{name}.lora_B.weight"] @ stored[f"{name}.lora_A.weight"] * 64 / 4
    ours, base = (model.model.model.layers[3].self_attn.v_proj.weight for model in (merged, tiny))
    assert torch.allclose(ours, base + delta, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Merge lora module to:UserWarning")  # peft's, of the rounding
@pytest.mark.parametrize("field", ["load_in_4bit", "load_in_8bit"])
@pytest.mark.parametrize("merge", [False, True], ids=["apart", "merged"])
def test_an_adapter_over_quantised_layers(load: Load, lora_adapter: Path, field: str, merge: bool) -> None:
    fields = options(lora_adapter, merge=merge, **{field: True}) | {"precision": "bf16"}
    model = load(**fields)
    layer = model.model.model.layers[0].self_attn.q_proj
    kind = {"load_in_4bit": "Linear4bit", "load_in_8bit": "Linear8bitLt"}[field]
    assert type(layer if merge else layer.base_layer).__name__ == kind
    assert {layer.lora_A["default"].weight.dtype for layer in adapter_layers(model.model)} <= {torch.bfloat16}
    assert len(tokens(model, **fields)[0]) == 6


def test_the_adapter_is_part_of_the_models_identity(load: Load, lora_adapter: Path, copied: Path) -> None:
    stored = load_file(copied / "adapter_model.safetensors")
    save_file({name: tensor * 2 for name, tensor in stored.items()}, copied / "adapter_model.safetensors")
    commits = {load(**fields).commit for fields in ({}, options(lora_adapter), options(copied))}
    assert commits == {
        BUILTIN,
        f"{BUILTIN}+{folder_fingerprint(lora_adapter)}",
        f"{BUILTIN}+{folder_fingerprint(copied)}",
    }


def test_closing_frees_the_model_under_an_adapter(load: Load, lora_adapter: Path) -> None:
    model = load(**options(lora_adapter))
    gone = weakref.ref(model.model)
    model.close()
    assert gone() is None


def change_tensors(folder: Path, change: Any) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


def rename_layer(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("layers.3", "layers.9"): tensor for name, tensor in tensors.items()}


def without_last(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(sorted(tensors.items())[:-1])


@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")  # peft's, which goes on
@pytest.mark.parametrize(
    ("change", "message"),
    [(rename_layer, "tensors do not match"), (without_last, "1 tensors do not match, .* is missing in the adapter")],
)
def test_an_adapter_that_fits_in_part_is_refused(load: Load, copied: Path, change: Any, message: str) -> None:
    change_tensors(copied, change)
    with pytest.raises(LoadError, match=message):
        load(**options(copied))


def test_an_adapter_of_another_shape_is_refused_in_one_line(load: Load, copied: Path) -> None:
    change_tensors(copied, lambda tensors: {name: tensor[:, :2].contiguous() for name, tensor in tensors.items()})
    with pytest.raises(LoadError, match="does not fit the model") as error:
        load(**options(copied))
    assert "\n" not in str(error.value)


def test_merging_nothing_is_refused(load: Load, copied: Path) -> None:
    change_tensors(copied, lambda tensors: {name: torch.zeros_like(tensor) for name, tensor in tensors.items()})
    assert load(**options(copied)).model is not None
    with pytest.raises(LoadError, match="merging it changed no weight"):
        load(**options(copied, merge=True))


def test_pickled_adapters_are_refused(load: Load, copied: Path) -> None:
    torch.save(load_file(copied / "adapter_model.safetensors"), copied / "adapter_model.bin")
    (copied / "adapter_model.safetensors").unlink()
    with pytest.raises(LoadError, match=r"has no adapter_model\.safetensors; pickled"):
        load(**options(copied))


@pytest.mark.parametrize(
    ("text", "message"),
    [(json.dumps({"peft_type": "IA3"}), "of the kind IA3; only LORA"), ("{", "cannot be read"), ("[]", "kind None")],
)
def test_what_is_no_lora_adapter_is_refused(load: Load, copied: Path, text: str, message: str) -> None:
    (copied / "adapter_config.json").write_text(text)
    with pytest.raises(LoadError, match=message):
        load(**options(copied))


@pytest.mark.parametrize("path", ["nobody/nothing", "/nowhere"])
def test_an_adapter_that_is_not_there_is_named(load: Load, path: str) -> None:
    with pytest.raises(LoadError, match=f"lora.path '{path}': no such folder"):
        load(pytorch={"lora": {"path": path}})


@pytest.mark.parametrize("prefix", ["./", ""])
def test_a_file_in_place_of_an_adapters_folder_is_named(load: Load, copied: Path, prefix: str) -> None:
    with pytest.raises(
        LoadError, match=r"lora\.path '.*adapter_model\.safetensors': a file; name the folder that holds"
    ):
        load(copied, pytorch={"lora": {"path": f"{prefix}adapter_model.safetensors"}})


def test_an_adapter_of_the_hub(load: Load, lora_adapter: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--style"
    shutil.copytree(lora_adapter, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    model = load(
        pytorch={"lora": {"path": "someone/style"}}, passthrough={"from_pretrained": {"cache_dir": str(tmp_path)}}
    )
    assert len(adapter_layers(model.model)) == 8
