from __future__ import annotations

import json
import shutil
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.config.builtin_models import builtin_fingerprint
from pytest_llem.engines.transformers.assistant import watched
from pytest_llem.engines.transformers.folders import folder_fingerprint
from pytest_llem.errors import LoadError, MeasurementError
from tests.unit.engines.transformers.conftest import HERE, experiment

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.engines.transformers.engine import TransformersModel
    from tests.unit.engines.transformers.conftest import Load

SAME = {"assistant_model": "builtin:tiny-llama"}


def tokens(model: TransformersModel, **fields: Any) -> list[list[int]]:
    workload = model.prepare(experiment(**fields), HERE)
    return [row for index in range(workload.calls) for row in workload.output_tokens(index, workload.run(index))]


def test_an_assistant_changes_no_token(load: Load, tiny: TransformersModel) -> None:
    long = {"max_output_tokens": 12}
    model = load(pytorch=SAME, **long)
    assert tokens(model, pytorch=SAME, **long) == tokens(tiny, **long)


def test_the_assistants_own_defaults_do_not_leak_in(load: Load, saved_model: Path) -> None:
    fields = {"pytorch": {"assistant_model": str(saved_model)}, "max_output_tokens": 12}
    model = load(**fields)
    own = model.assistant.generation_config.to_dict()
    assert own["suppress_tokens"] == [5]  # the file was read: there is something that could leak
    seen: list[Any] = []
    original = model.assistant._prepare_cache_for_generation

    def spy(config: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(config)
        return original(config, *args, **kwargs)

    vars(model.assistant)["_prepare_cache_for_generation"] = spy
    tokens(model, **fields)
    assert {(config.suppress_tokens, config.repetition_penalty, config.do_sample) for config in seen} == {
        (None, 1.0, False)
    }
    assert model.assistant.generation_config.to_dict() == own


def test_a_schedule_starts_anew_in_each_call(load: Load) -> None:
    passed = {"generate": {"num_assistant_tokens_schedule": "heuristic"}}
    fields = {"pytorch": {**SAME, "num_assistant_tokens": 2}, "max_output_tokens": 30, "passthrough": passed}
    model = load(**fields)
    drafts: list[int] = []
    original = model.assistant.generate

    def spy(*args: Any, max_new_tokens: int, **kwargs: Any) -> Any:
        drafts.append(max_new_tokens)
        return original(*args, max_new_tokens=max_new_tokens, **kwargs)

    vars(model.assistant)["generate"] = spy
    workload = model.prepare(experiment(**fields), HERE)
    workload.run(0)
    first, drafts[:] = list(drafts), []
    workload.run(0)
    assert drafts == first
    assert max(first) > first[0] == 2  # every draft is right, so the schedule did raise the number


def test_another_vocabulary_is_refused(load: Load, one_layer: str) -> None:
    with pytest.raises(LoadError, match="a vocabulary of 64 tokens, the model one of 259"):
        load(pytorch={"assistant_model": one_layer}, model="builtin:tiny-llama", weights="random")


def test_another_tokenizer_is_refused(load: Load, saved_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved_model, tmp_path / "other")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(LoadError, match="tokenizer differs from the model's in 4 entries"):
        load(pytorch={"assistant_model": str(folder)})


def test_an_assistant_is_part_of_the_models_identity(load: Load, saved_model: Path) -> None:
    assert load(pytorch={"assistant_model": str(saved_model)}).commit == (
        f"{builtin_fingerprint('builtin:tiny-llama')}+{folder_fingerprint(saved_model)}"
    )


def test_closing_frees_the_assistant(load: Load) -> None:
    model = load(pytorch=SAME)
    tokens(model, pytorch=SAME)
    gone = weakref.ref(model.assistant)
    model.close()
    assert gone() is None


def test_an_assistant_that_never_ran_is_a_failure(tiny: TransformersModel) -> None:
    with pytest.raises(MeasurementError, match="generate\\(\\) never ran it"), watched(tiny.model):
        pass
    with watched(tiny.model):
        tokens(tiny)


def test_beams_beside_prompt_lookup_would_search_without_drafts(tiny: TransformersModel) -> None:
    from pytest_llem.engines.transformers.generation import build_generation, check_resolved, special_tokens

    special = special_tokens(tiny.model, tiny.tokenizer)
    generation = build_generation(experiment(pytorch={"prompt_lookup_num_tokens": 2}), special, cuda=False)
    generation.config.num_beams = 2
    with pytest.raises(
        MeasurementError, match=r"^pytorch\.prompt_lookup_num_tokens: generate\(\) would run beam_search"
    ):
        check_resolved(tiny.model, generation)


def test_an_assistant_that_is_not_there_is_not_taken_for_the_model(load: Load) -> None:
    with pytest.raises(LoadError, match=r"^pytorch\.assistant_model '.*nowhere': no such folder$") as caught:
        load(pytorch={"assistant_model": "./nowhere"})
    assert caught.value.field == "pytorch.assistant_model"
