"""Where a model comes from, and what is said where that is no model."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from pytest_llem.errors import LoadError, PromptError, UnavailableError
from tests.unit.engines.transformers.conftest import HERE, experiment

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.engines.transformers.engine import TransformersModel
    from tests.unit.engines.transformers.conftest import Load

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def message_of(load: Load, folder: Path, **fields: Any) -> str:
    """The one line in which loading the model of ``folder`` fails."""
    with pytest.raises(LoadError) as error:
        load(folder, **fields)
    text = str(error.value)
    assert "\n" not in text
    return text


class TestLayouts:
    @pytest.fixture
    def folder(self, saved_model: Path, tmp_path: Path) -> Path:
        return shutil.copytree(saved_model, tmp_path / "model")

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
    def test_pickled_weights(self, load: Load, folder: Path, name: str) -> None:
        torch.save(load_file(folder / "model.safetensors"), folder / name)
        (folder / "model.safetensors").unlink()
        assert message_of(load, folder, model=str(folder)) == (
            f"model '{folder}': has no model.safetensors: other weights, such as pickled ones, are never loaded, as "
            "they can run code; load them with transformers where you trust them, and save them with save_pretrained()"
        )

    def test_a_variant_that_is_not_there(self, load: Load, folder: Path) -> None:
        passed = {"from_pretrained": {"variant": "fp16"}}
        assert "has no model.fp16.safetensors: " in message_of(load, folder, model=str(folder), passthrough=passed)

    def test_an_adapter_alone(self, load: Load, lora_adapter: Path, tmp_path: Path) -> None:
        adapter = shutil.copytree(lora_adapter, tmp_path / "adapter")

        def told(base: str) -> str:
            alone = f"model '{adapter}': an adapter alone; name its base{base} as model"
            return f"{alone} and this folder as pytorch.lora: {{path: ...}}"

        assert message_of(load, adapter, model=str(adapter)) == told("")
        config = json.loads((adapter / "adapter_config.json").read_text())
        named = json.dumps(config | {"base_model_name_or_path": "org/base"})
        for text, base in ((named, ", 'org/base',"), ("[]", ""), ("{", "")):
            (adapter / "adapter_config.json").write_text(text)
            assert message_of(load, adapter, model=str(adapter)) == told(base)

    @pytest.mark.parametrize("model", ["./q4.gguf", "."])
    def test_gguf(self, load: Load, tmp_path: Path, model: str) -> None:
        (tmp_path / "q4.gguf").write_bytes(b"GGUF")
        text = message_of(load, tmp_path, model=model)
        assert text.endswith(": GGUF is llama.cpp's format; name the model that it was made from")

    @pytest.mark.parametrize("model", ["./model.safetensors", "model.safetensors", "./config.json"])
    def test_a_file_in_place_of_a_folder(self, load: Load, folder: Path, model: str) -> None:
        found = message_of(load, folder, model=model)
        assert found == f"model '{folder / model}': a file; name the folder that holds it and its config.json"

    def test_a_folder_of_folders(self, load: Load, folder: Path) -> None:
        for inner in ("checkpoint-5", "snapshots/abc"):
            outer = folder.parent / "outer" / inner.replace("/", "-")
            shutil.copytree(folder, outer / inner)
            (outer / "notes.txt").write_text("")
            told = f"model '{outer}': has no config.json, but its folder '{inner}' has one: name that"
            assert message_of(load, outer, model=str(outer)) == told

    def test_a_folder_of_something_else(self, load: Load, tmp_path: Path) -> None:
        told = f"model '{tmp_path}': has no config.json, which transformers needs; there is "
        assert message_of(load, tmp_path, model=str(tmp_path)) == told + "nothing"
        for name in ("params.json", "consolidated.safetensors", "tekken.json", "z"):
            (tmp_path / name).write_text("{}")
        assert message_of(load, tmp_path, model=str(tmp_path)) == (
            told + "consolidated.safetensors, params.json, tekken.json and 1 more"
        )

    def test_a_model_in_a_subfolder(self, load: Load, folder: Path) -> None:
        shutil.copytree(folder, folder / "inner")
        (folder / "config.json").unlink()
        load(model=str(folder), passthrough={"from_pretrained": {"subfolder": "inner"}})
        assert "no such folder" in message_of(
            load, folder, model=str(folder), passthrough={"from_pretrained": {"subfolder": "other"}}
        )


class TestTokenizer:
    @staticmethod
    def without(saved_model: Path, tmp_path: Path, *names: str) -> Path:
        folder = shutil.copytree(saved_model, tmp_path / "model")
        for name in names:
            (folder / name).unlink()
        return folder

    def test_synthetic_prompts_need_none(self, load: Load, saved_model: Path, tmp_path: Path) -> None:
        model = load(model=str(self.without(saved_model, tmp_path, *TOKENIZER_FILES)))
        assert model.tokenizer is None
        workload = model.prepare(experiment(), HERE)
        assert workload.prompts.input_tokens == 3 * 8
        # Those of the configuration and of the model's own defaults.
        assert not {256, 257, 258, 17} & {id_ for prompt in workload.prompts.token_ids for id_ in prompt}
        assert len(workload.output_tokens(0, workload.run(0))[0]) >= 1

    @pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen2", "gemma", "mamba", "opt"])
    def test_none_is_made_up(self, load: Load, tmp_path: Path, model_type: str) -> None:
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 64, "ffn_dim": 16}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "word_embed_proj_dim": 16}
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type} | sizes | heads))
        fields: dict[str, Any] = {"model": str(tmp_path), "weights": "random"}
        load(**fields).model.save_pretrained(tmp_path / "saved")
        for fields["weights"], fields["model"] in (("random", str(tmp_path)), ("pretrained", str(tmp_path / "saved"))):
            model = load(**fields)
            assert model.tokenizer is None
            with pytest.raises(PromptError, match="the model comes without a tokenizer; use a synthetic dataset"):
                model.prepare(experiment(**fields, dataset="natural"), HERE)
            model.prepare(experiment(**fields), HERE)

    @pytest.mark.parametrize(
        ("names", "text"), [(("tokenizer.json",), None), ((), "{"), ((), '{"version": "1.0"}')], ids=str
    )
    def test_a_broken_one_is_told(
        self, load: Load, saved_model: Path, tmp_path: Path, names: tuple[str, ...], text: str | None
    ) -> None:
        folder = self.without(saved_model, tmp_path, *names)
        if text is not None:
            (folder / "tokenizer.json").write_text(text)
        assert "its tokenizer cannot be loaded: " in message_of(load, folder, model=str(folder))

    def test_one_whose_package_is_missing_is_unavailable(
        self, load: Load, saved_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise ImportError("You need to install sacremoses")

        monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
        with pytest.raises(UnavailableError, match="needs a package that is missing: ImportError: You need to install"):
            load(model=str(saved_model))


class TestHub:
    """A model of the hub that is in the cache already, so that no network is needed."""

    COMMITS = {"main": "a" * 40, "v2": "b" * 40}  # noqa: RUF012

    @pytest.fixture
    def repository(self, saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        repository = tmp_path / "models--someone--small"
        for branch, commit in self.COMMITS.items():
            shutil.copytree(saved_model, repository / "snapshots" / commit)
            (repository / "refs").mkdir(exist_ok=True)
            (repository / "refs" / branch).write_text(commit)
        return repository

    @staticmethod
    def cached(repository: Path) -> dict[str, Any]:
        passed = {"from_pretrained": {"cache_dir": str(repository.parent)}}
        return {"model": "someone/small", "passthrough": passed}

    def test_the_commit_is_that_of_the_main_branch(self, load: Load, repository: Path) -> None:
        assert load(**self.cached(repository)).commit == self.COMMITS["main"]

    def test_a_revision_reaches_weights_tokenizer_and_configuration(
        self, load: Load, repository: Path, tiny: TransformersModel
    ) -> None:
        second_folder = repository / "snapshots" / self.COMMITS["v2"]
        load(random_seed=9).model.save_pretrained(second_folder)
        tokenizer = json.loads((second_folder / "tokenizer_config.json").read_text())
        (second_folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"model_max_length": 77}))
        main = load(**self.cached(repository))
        second = load(**self.cached(repository), pytorch={"revision": "v2"})
        assert second.commit == self.COMMITS["v2"]
        assert torch.equal(main.model.lm_head.weight, tiny.model.lm_head.weight)
        assert not torch.equal(second.model.lm_head.weight, tiny.model.lm_head.weight)
        assert second.tokenizer.model_max_length == 77
        assert main.model.generation_config.do_sample
        assert not second.model.generation_config.do_sample

    def test_an_index_of_the_hub_does_not_name_pickles(self, load: Load, repository: Path) -> None:
        snapshot = repository / "snapshots" / self.COMMITS["main"]
        (snapshot / "model.safetensors").unlink()
        index = {"metadata": {}, "weight_map": {"lm_head.weight": "evil.bin"}}
        (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
        torch.save({}, snapshot / "evil.bin")
        with pytest.raises(LoadError, match=r"index\.json names 'evil\.bin' as weights; only safetensors"):
            load(**self.cached(repository))

    @pytest.mark.parametrize("revision", ["v3", "a" * 7, "c" * 40])
    def test_a_revision_that_is_not_in_the_cache_is_named(self, load: Load, repository: Path, revision: str) -> None:
        assert message_of(load, HERE, model="someone/small", pytorch={"revision": revision}) == (
            f"model 'someone/small': config.json of revision '{revision}' is not in the cache, and HF_HUB_OFFLINE is "
            f"set; the cache has the revisions {'a' * 40} (main), {'b' * 40} (v2); name one of them as pytorch.revision"
        )

    def test_a_cache_without_its_main_branch_works_by_the_commit(self, load: Load, repository: Path) -> None:
        shutil.rmtree(repository / "refs")
        assert message_of(load, HERE, model="someone/small") == (
            "model 'someone/small': config.json of revision 'main' is not in the cache, and HF_HUB_OFFLINE is set; "
            f"the cache has the revisions {'a' * 40}, {'b' * 40}; name one of them as pytorch.revision"
        )
        assert load(model="someone/small", pytorch={"revision": "b" * 40}).commit == "b" * 40

    def test_a_file_that_was_not_downloaded_is_named(self, load: Load, repository: Path) -> None:
        (repository / "snapshots" / self.COMMITS["main"] / "model.safetensors").unlink()
        assert message_of(load, HERE, model="someone/small").startswith(
            "model 'someone/small': has no model.safetensors in the cache, and HF_HUB_OFFLINE is set: other weights, "
        )
        for name in TOKENIZER_FILES:
            (repository / "snapshots" / self.COMMITS["v2"] / name).unlink()
        assert load(model="someone/small", pytorch={"revision": "v2"}).tokenizer is None

    def test_many_revisions_are_counted(self, load: Load, repository: Path) -> None:
        for digit in "cdef":
            (repository / "snapshots" / (digit * 40)).mkdir()
            (repository / "snapshots" / (digit * 40) / "config.json").write_text("{}")
        (repository / "snapshots" / ("9" * 40)).mkdir()  # of a download that failed
        (repository / "refs" / "refs" / "pr").mkdir(parents=True)
        (repository / "refs" / "refs" / "pr" / "1").write_text("a" * 40)
        text = message_of(load, HERE, model="someone/small", pytorch={"revision": "v3"})
        assert f"{'a' * 40} (main, refs/pr/1), {'b' * 40} (v2), {'c' * 40} and 3 more; name" in text

    def test_an_adapter_of_the_cache_has_no_revision_to_name(self, load: Load, repository: Path) -> None:
        text = message_of(load, HERE, pytorch={"lora": {"path": "someone/small"}})
        assert text.startswith(
            "pytorch.lora.path 'someone/small': adapter_config.json of revision 'main' is not in the cache"
        )
        assert "pytorch.revision" not in text

    def test_only_local_files_is_said_where_it_is_why(
        self, load: Load, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        passed = {"from_pretrained": {"local_files_only": True}}
        text = message_of(load, HERE, model="someone/small", pytorch={"revision": "v3"}, passthrough=passed)
        assert "of revision 'v3' is not in the cache, and local_files_only is set; the cache has" in text
        text = message_of(load, HERE, model="nobody/nothing", passthrough=passed)
        assert text == (
            "model 'nobody/nothing': no such folder, and not to be had from the hub: it is not in the cache, and "
            "local_files_only is set"
        )


def test_a_hub_model_that_cannot_be_reached_is_one_line(load: Load) -> None:
    assert message_of(load, HERE, model="nobody/nothing") == (
        "model 'nobody/nothing': no such folder, and not to be had from the hub: it is not in the cache, and "
        "HF_HUB_OFFLINE is set"
    )
