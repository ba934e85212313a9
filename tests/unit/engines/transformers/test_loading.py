from __future__ import annotations

import gc
import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CompileConfig, PreTrainedModel, modeling_utils
from transformers.generation.utils import GenerationMixin

from pytest_llem.config import PyTorchConfig
from pytest_llem.config.builtin_models import SHAPES, builtin_fingerprint
from pytest_llem.engines.library_warnings import library_warnings
from pytest_llem.engines.transformers.compiling import compiled_graphs
from pytest_llem.engines.transformers.engine import TransformersEngine, TransformersModel
from pytest_llem.engines.transformers.folders import folder_fingerprint
from pytest_llem.engines.transformers.requirements import check_load_requirements
from pytest_llem.errors import LoadError, MeasurementError, UnavailableError
from tests.unit.engines.transformers.conftest import HERE, experiment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.engines.transformers.conftest import Load

EAGER_COMPILE = {"torch_compile": True, "torch_compile_backend": "eager"}
STATIC: dict[str, Any] = {"cache_implementation": "static"}


@pytest.fixture
def counted_steps() -> Iterator[list[int]]:
    """Input tokens of each run of a graph that the backend ``counting_steps`` compiled."""
    steps: list[int] = []

    def compile_nothing(graph: Any, _inputs: list[Any]) -> Any:
        def run(*inputs: Any) -> Any:
            steps.append(
                next(one.shape[1] for one in inputs if getattr(one, "dtype", None) == torch.long and one.ndim == 2)
            )
            return graph.forward(*inputs)

        return run

    torch._dynamo.register_backend(compile_nothing, name="counting_steps")
    yield steps
    del torch._dynamo.backends.registry._COMPILER_FNS["counting_steps"]


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``generate()`` compile by itself as it does where the model lies on a GPU, with ``counting_steps``."""
    decide = GenerationMixin._valid_auto_compile_criteria

    def decide_as_on_a_gpu(model: Any, kwargs: Any, config: Any) -> Any:
        with patch.object(type(model), "device", torch.device("cuda", 0)):
            return decide(model, kwargs, config)

    monkeypatch.setattr(GenerationMixin, "_valid_auto_compile_criteria", decide_as_on_a_gpu)
    counting = CompileConfig(backend="counting_steps", mode=None)  # type: ignore[arg-type]
    monkeypatch.setattr(PreTrainedModel, "_default_compile_config", lambda _: counting)
    monkeypatch.setattr(
        "pytest_llem.engines.transformers.generation.check_generate_requirements", lambda *_, **__: None
    )


def generate_once(model: TransformersModel, /, **fields: Any) -> list[list[int]]:
    workload = model.prepare(experiment(**fields), HERE)
    return workload.output_tokens(0, workload.run(0))


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_every_parameter_has_the_precision_asked_for(load: Load, precision: str, dtype: torch.dtype) -> None:
    model = load(precision=precision)
    assert {parameter.dtype for parameter in model.model.parameters()} == {dtype}
    assert generate_once(model, precision=precision)


def test_a_loaded_model_is_ready_for_inference_on_its_device(tiny: TransformersModel) -> None:
    assert not tiny.model.training
    assert tiny.device == torch.device("cpu")
    assert tiny.gpu_uuids == ()
    assert tiny.commit == builtin_fingerprint("builtin:tiny-llama")
    assert tiny.load_s > 0


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_the_one_asked_for(load: Load, attention: str) -> None:
    model = load(pytorch={"attn_implementation": attention})
    assert model.model.config._attn_implementation == attention


@pytest.mark.parametrize("attention", ["flash_attention_2", "flash_attention_3"])
def test_flash_attention_without_a_gpu_is_unavailable(load: Load, attention: str) -> None:
    with pytest.raises(UnavailableError, match=f"'{attention}': needs a CUDA GPU"):
        load(precision="bf16", pytorch={"attn_implementation": attention})


@pytest.mark.parametrize(
    "options",
    [
        {"device_map": "cuda"},
        {"device_map": "cuda:0"},
        {"device_map": {"": 0}},
        {"device_map": "auto", "max_memory": {0: "10GiB", "cpu": "50GiB"}},
    ],
    ids=str,
)
def test_a_gpu_that_is_named_in_a_run_on_the_cpu_is_unavailable(load: Load, options: dict[str, Any]) -> None:
    with pytest.raises(UnavailableError, match=r"(device_map|max_memory): names GPU 0, and the experiment runs on the"):
        load(pytorch=options)


def test_a_gpu_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = torch.device("cuda", 0)
    check_load_requirements(PyTorchConfig(device_map={"model": 1, "lm_head": "cpu"}), gpu)
    with pytest.raises(UnavailableError, match="max_memory: names GPU 2, and this process sees 2 of them"):
        check_load_requirements(PyTorchConfig(device_map="auto", max_memory={0: 1, 2: 1}), gpu)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_cuda_without_a_gpu_is_unavailable() -> None:
    config = experiment().load_config(HERE)
    with pytest.raises(UnavailableError, match="no CUDA GPU: torch"):
        TransformersEngine().load(config, "cuda")


@pytest.mark.parametrize(("quant_type", "double"), [("nf4", True), ("fp4", False)])
def test_4bit_layers_are_quantised_as_asked(load: Load, quant_type: str, double: bool) -> None:
    from bitsandbytes.nn.modules import Linear4bit

    options = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": double,
        "bnb_4bit_compute_dtype": "bfloat16",
    }
    model = load(precision="bf16", pytorch=options)
    layers: list[Any] = [module for module in model.model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 7 * 4  # four attention and three feed-forward projections in each of four layers
    assert {layer.weight.quant_type for layer in layers} == {quant_type}
    assert {layer.weight.quant_state.nested for layer in layers} == {double}
    assert {layer.compute_dtype for layer in layers} == {torch.bfloat16}
    assert [len(row) for row in generate_once(model, precision="bf16", pytorch=options)] == [6]


def test_8bit_layers_hold_the_drawn_weights(load: Load, tiny: TransformersModel) -> None:
    options = {"load_in_8bit": True}
    model = load(pytorch=options)
    layer = model.model.model.layers[0].mlp.up_proj
    assert type(layer).__name__ == "Linear8bitLt"
    # Row by row int8 with one scale, so within half a step of the weights that the same seed draws.
    restored = layer.weight.data.float() * layer.weight.SCB[:, None] / 127
    drawn = tiny.model.model.layers[0].mlp.up_proj.weight.detach()
    assert torch.allclose(restored, drawn, atol=float(drawn.abs().max()) / 127)
    with library_warnings() as heard:
        assert [len(row) for row in generate_once(model, pytorch=options)] == [6]
    # Said in every layer of every step.
    assert [text for text in heard.texts if "inputs will be cast" in text] == [
        "bitsandbytes.autograd._functions: MatMul8bitLt: inputs will be cast from torch.float32 to float16 during "
        "quantization"
    ]


def test_memory_is_allocated_ahead_for_weights_that_are_read_only(
    load: Load, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU: random weights lie there already, and would need twice their size."""
    calls: list[Any] = []

    def count(*arguments: Any) -> None:
        calls.append(arguments)

    monkeypatch.setattr(modeling_utils, "caching_allocator_warmup", count)
    load()
    assert (len(calls), modeling_utils.caching_allocator_warmup) == (0, count)
    load(model=str(saved_model))
    assert len(calls) == 1


def test_an_argument_that_from_pretrained_does_not_know_is_refused(load: Load) -> None:
    with pytest.raises(LoadError, match="unexpected keyword argument 'nonsense'") as error:
        load(passthrough={"from_pretrained": {"nonsense": 1}})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("mirror", "transformers ignores it"),
        ("output_loading_info", "set by the measurement itself"),
        ("adapter_name", r"use the field pytorch\.lora"),
        ("generation_config", "defaults of the model never apply"),
        ("gguf_file", "name the unquantised model"),
        ("subfolder", "a built-in model has no files"),
    ],
)
def test_an_argument_that_from_pretrained_swallows_is_refused(load: Load, argument: str, message: str) -> None:
    with pytest.raises(LoadError, match=rf"passthrough\.from_pretrained\.{argument}: .*{message}"):
        load(passthrough={"from_pretrained": {argument: "x"}})


def test_an_argument_of_from_pretrained_is_passed_on(load: Load) -> None:
    model = load(passthrough={"from_pretrained": {"experts_implementation": "eager"}})
    assert model.model.config._experts_implementation == "eager"


def test_no_bar_is_drawn_for_our_loads_only(load: Load, saved_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM

    load(model=str(saved_model))
    assert "Loading weights" not in capfd.readouterr().err
    AutoModelForCausalLM.from_pretrained(saved_model)
    assert "Loading weights" in capfd.readouterr().err


def test_code_of_the_model_is_neither_run_nor_asked_about(
    load: Load, saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object) -> str:
        raise AssertionError("asked on standard input")

    monkeypatch.setattr("builtins.input", ask)
    folder = shutil.copytree(saved_model, tmp_path / "code")
    (folder / "own.py").write_text("raise AssertionError('run')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match="trust_remote_code"):
        load(model=str(folder))


@pytest.mark.parametrize(
    ("attention", "module"),
    [("flash_attention_2", "flash_attn"), ("flash_attention_3", "flash_attn_interface"), ("org/kernel", "kernels")],
)
def test_an_attention_kernel_without_its_package_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, attention: str, module: str
) -> None:
    options = (
        experiment(model="x", precision="bf16", pytorch={"attn_implementation": attention, "trust_remote_code": True})
        .load_config(HERE)
        .pytorch
    )
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr("pytest_llem.engines.transformers.requirements.installed", lambda _: True)
    check_load_requirements(options, gpu)
    monkeypatch.setattr("pytest_llem.engines.transformers.requirements.installed", lambda name: name != module)
    with pytest.raises(UnavailableError, match=f"{attention}': needs the package .*: pip install"):
        check_load_requirements(options, gpu)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device_map": "auto", "max_memory": {"cpu": "2MiB"}}, "the model lies on disk"),
        ({"torch_compile": True, "torch_compile_backend": "inducter"}, "did you mean 'inductor'"),
        ({"torch_compile": True, "torch_compile_mode": "fastest"}, "Unrecognized mode=fastest"),
    ],
    ids=["offloaded", "backend", "mode"],
)
def test_what_would_not_be_carried_out_is_refused(
    load: Load, saved_model: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(LoadError, match=message):
        load(model=str(saved_model), pytorch=fields)


class TestLocalFolder:
    def test_has_the_weights_that_were_saved(self, load: Load, saved_model: Path, tiny: TransformersModel) -> None:
        model = load(folder=saved_model.parent, model="saved")
        pairs = zip(model.model.parameters(), tiny.model.parameters(), strict=True)
        assert all(torch.equal(ours, saved) for ours, saved in pairs)
        assert model.tokenizer.padding_side == "left"
        assert model.commit == folder_fingerprint(saved_model)

    def test_random_weights_come_from_the_architecture_alone(
        self, load: Load, tmp_path: Path, saved_model: Path
    ) -> None:
        shutil.copy(saved_model / "config.json", tmp_path)
        model = load(model=str(tmp_path), weights="random", random_seed=5)
        same = load(random_seed=5)
        assert torch.equal(model.model.lm_head.weight, same.model.lm_head.weight)
        assert model.tokenizer is None

    def test_a_revision_is_refused(self, load: Load, saved_model: Path) -> None:
        with pytest.raises(LoadError, match=r"pytorch\.revision 'v1': cannot be applied to model .*: a local folder"):
            load(model=str(saved_model), pytorch={"revision": "v1"})

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"precision": "bf16"},
            {"pytorch": {"load_in_8bit": True}},
            {"precision": "bf16", "pytorch": {"load_in_4bit": True}},
            {"pytorch": {"device_map": {"": "cpu"}}},
        ],
        ids=["plain", "bf16", "8bit", "4bit", "device-map"],
    )
    def test_weights_that_the_checkpoint_lacks_are_not_drawn(
        self, load: Load, saved_model: Path, tmp_path: Path, fields: dict[str, Any]
    ) -> None:
        whole = shutil.copytree(saved_model, tmp_path / "whole")
        tampered = shutil.copytree(saved_model, tmp_path / "tampered")
        weights = load_file(tampered / "model.safetensors")
        removed = "model.layers.2.mlp.up_proj.weight"
        del weights[removed]
        # What no layer uses is common, and changes nothing.
        weights["vision.weight"] = torch.zeros(1)
        save_file(weights, tampered / "model.safetensors", metadata={"format": "pt"})
        load(model=str(whole), **fields)
        with pytest.raises(LoadError, match=rf"its checkpoint lacks {removed}, which would be random numbers"):
            load(model=str(tampered), **fields)

    def test_nor_are_those_of_an_assistant(self, load: Load, saved_model: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(saved_model, tmp_path / "shallow")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
        with pytest.raises(LoadError, match=r"lacks model\.layers\.4\.\S+, .* and 6 more, which would be random"):
            load(pytorch={"assistant_model": str(folder)})

    def test_weights_of_another_shape_are_named(self, load: Load, saved_model: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(saved_model, tmp_path / "wider")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 1}))
        for passed in ({}, {"ignore_mismatched_sizes": True}):
            with pytest.raises(LoadError, match=r"its checkpoint has in another shape .*embed_tokens\.weight"):
                load(model=str(folder), passthrough={"from_pretrained": passed})

    def test_tied_weights_are_not_missing(self, load: Load, one_layer: str, tmp_path: Path) -> None:
        tied = json.loads(Path(one_layer, "config.json").read_text()) | {"tie_word_embeddings": True}
        (tmp_path / "config.json").write_text(json.dumps(tied))
        drawn = load(model=str(tmp_path), weights="random")
        drawn.model.save_pretrained(tmp_path / "saved")
        assert "lm_head.weight" not in load_file(tmp_path / "saved" / "model.safetensors")
        load(weights="pretrained", model="builtin:tiny-llama").tokenizer.save_pretrained(tmp_path / "saved")
        again = load(model=str(tmp_path / "saved"))
        assert torch.equal(again.model.lm_head.weight, drawn.model.model.embed_tokens.weight)

    @pytest.mark.parametrize("fields", [{}, {"load_in_8bit": True}], ids=["plain", "8bit"])
    def test_a_quantisation_that_would_be_left_out_is_refused(
        self, load: Load, saved_model: Path, tmp_path: Path, fields: dict[str, Any]
    ) -> None:
        folder = shutil.copytree(saved_model, tmp_path / "unknown")
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "zork"}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(LoadError, match=r"is quantised with 'zork', which .* would leave out"):
            load(model=str(folder), pytorch=fields)

    def test_a_folder_that_is_not_there_is_named(self, load: Load) -> None:
        with pytest.raises(LoadError, match="no such folder"):
            load(model="./nothing")

    def test_a_quantised_checkpoint_cannot_get_random_weights(
        self, load: Load, saved_model: Path, tmp_path: Path
    ) -> None:
        config = json.loads((saved_model / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(LoadError, match="quantised checkpoint"):
            load(model=str(tmp_path), weights="random")

    def test_fingerprint_follows_the_content(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "model.safetensors").write_bytes(bytes(1000))
        before = folder_fingerprint(tmp_path)
        (tmp_path / "notes.txt").write_text("a note decides nothing")
        assert folder_fingerprint(tmp_path) == before
        (tmp_path / "model.safetensors").write_bytes(bytes(999) + b"\x01")
        assert folder_fingerprint(tmp_path) != before

    def test_fingerprint_of_a_large_file_is_cheap_and_sees_its_ends(self, tmp_path: Path) -> None:
        weights = tmp_path / "model.safetensors"
        size_bytes = 2**33  # sparse: takes no space, and to read it whole would take seconds
        seen = set()
        for position in (None, 0, size_bytes - 1):
            with weights.open("wb") as stream:
                stream.truncate(size_bytes)
                if position is not None:
                    stream.seek(position)
                    stream.write(b"\x01")
            seen.add(folder_fingerprint(tmp_path))
        assert len(seen) == 3


class TestCompile:
    def test_graphs_are_compiled_and_generate_the_same(self, load: Load, one_layer: str) -> None:
        fields = {"model": one_layer, "weights": "random"}
        expected = generate_once(load(**fields), **fields)
        model = load(**fields, pytorch=EAGER_COMPILE)
        assert generate_once(model, **fields, pytorch=EAGER_COMPILE) == expected
        assert compiled_graphs() > 0

    def test_later_experiments_are_compiled_too(self, load: Load, one_layer: str) -> None:
        fields = {"model": one_layer, "weights": "random", "pytorch": EAGER_COMPILE, "max_output_tokens": 1}
        model = load(**fields)
        # Without a new start for each experiment, the second length would be over the limit already.
        with torch._dynamo.config.patch(recompile_limit=1):
            for length in (3, 5, 7):
                generate_once(model, **fields, dataset={"synthetic": {"n": 1, "input_len": length}})
                assert compiled_graphs() == 1

    def test_the_ninth_experiment_of_a_session_is_compiled_too(self, load: Load, one_layer: str) -> None:
        # One more than the compilations of a function after which torch gives up.
        fields = {"model": one_layer, "weights": "random", "pytorch": EAGER_COMPILE, "max_output_tokens": 1}
        model = load(**fields)
        for length in range(2, 2 + torch._dynamo.config.recompile_limit + 1):
            generate_once(model, **fields, dataset={"synthetic": {"n": 1, "input_len": length}})
            assert compiled_graphs() == 1

    def test_going_on_uncompiled_is_a_failure(self, load: Load, one_layer: str) -> None:
        fields = {"model": one_layer, "weights": "random", "pytorch": EAGER_COMPILE}
        model = load(**fields)
        with (
            torch._dynamo.config.patch(recompile_limit=1),
            pytest.raises(MeasurementError, match=r"(?i)recompile"),
        ):
            generate_once(model, **fields)

    def test_no_graph_is_a_failure(self, tiny: TransformersModel) -> None:
        with pytest.raises(MeasurementError, match=r"^pytorch\.torch_compile: generate\(\) compiled no graph$"):
            generate_once(tiny, pytorch={"torch_compile": True})

    @pytest.mark.parametrize("further", [{"pytorch": {"num_beams": 2}}, {"max_output_tokens": 1}], ids=str)
    def test_where_generate_would_not_compile_the_whole_forward_pass_is(
        self, load: Load, one_layer: str, counted_steps: list[int], further: dict[str, Any]
    ) -> None:
        options = {**STATIC, "torch_compile": True, "torch_compile_backend": "counting_steps"}
        fields = {"model": one_layer, "weights": "random"} | further
        fields["pytorch"] = options | fields.get("pytorch", {})
        generate_once(load(**fields), **fields)
        assert counted_steps

    def test_with_a_static_cache_the_prefill_is_not_compiled(
        self, load: Load, one_layer: str, counted_steps: list[int]
    ) -> None:
        options = {**STATIC, "torch_compile": True, "torch_compile_backend": "counting_steps"}
        fields = {"model": one_layer, "weights": "random", "decoder": {"min_new_tokens": 6}, "pytorch": options}
        model = load(**fields)
        expected = generate_once(load(**(fields | {"pytorch": STATIC})), **(fields | {"pytorch": STATIC}))
        assert generate_once(model, **fields) == expected
        assert counted_steps == [1] * 5
        # The same load with a cache that grows: there the prefill of 8 tokens is compiled too.
        counted_steps.clear()
        generate_once(model, **(fields | {"pytorch": options | {"cache_implementation": "dynamic"}}))
        assert counted_steps == [8] + [1] * 5

    def test_a_mode_of_cuda_graphs_runs_on_the_cpu(self, load: Load, one_layer: str) -> None:
        options = {"torch_compile": True, "torch_compile_mode": "max-autotune", "torch_compile_backend": "eager"}
        for cache in ("static", "dynamic"):
            fields = {"model": one_layer, "weights": "random", "pytorch": options | {"cache_implementation": cache}}
            generate_once(load(**fields), **fields)
            assert compiled_graphs() > 0

    def test_cuda_graphs_that_were_skipped_are_a_failure(self, load: Load, one_layer: str) -> None:
        options = {**STATIC, **EAGER_COMPILE}
        fields = {"model": one_layer, "weights": "random", "pytorch": options}
        workload = load(**fields).prepare(experiment(**fields), HERE)
        workload.run(0)
        workload._generation = replace(workload._generation, cuda_graphs=True)
        workload.run(0)
        torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] += 1
        with pytest.raises(MeasurementError, match="torch_compile_mode: needs CUDA graphs, but torch skipped some"):
            workload.run(0)

    def test_the_ninth_load_is_compiled_too(
        self, load: Load, on_a_gpu: None, counted_steps: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small = {**SHAPES["tiny-llama"], "hidden_size": 32, "intermediate_size": 32}
        fields = {"decoder": {"min_new_tokens": 3}, "max_output_tokens": 3, "pytorch": STATIC}
        for layers in range(1, 2 + torch._dynamo.config.recompile_limit):
            monkeypatch.setitem(SHAPES, "tiny-llama", {**small, "num_hidden_layers": layers})
            model = load(**fields)
            generate_once(model, **fields)
            assert torch._dynamo.config.fail_on_recompile_limit_hit
            model.close()
            assert counted_steps == [1] * 2
            counted_steps.clear()

    def test_a_compilation_that_was_asked_for_by_name_and_does_not_happen_is_a_failure(
        self, load: Load, on_a_gpu: None, counted_steps: list[int]
    ) -> None:
        options = {**STATIC, "disable_compile": False}
        generate_once(load(), pytorch=options)
        assert len(counted_steps) == 5
        fields = {"precision": "bf16", "pytorch": options | {"load_in_8bit": True}}
        with pytest.raises(MeasurementError, match=r"disable_compile: generate\(\) compiled no graph; .* bitsandbytes"):
            generate_once(load(**fields), **fields)

    def test_closing_restores_the_limit_of_recompilations(self, load: Load, one_layer: str) -> None:
        model = load(model=one_layer, weights="random", pytorch=EAGER_COMPILE)
        assert torch._dynamo.config.fail_on_recompile_limit_hit
        model.close()
        assert not torch._dynamo.config.fail_on_recompile_limit_hit


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), LoadError, "out of memory on cpu while loading"),
        (ImportError("pip install it"), UnavailableError, "needs a package .*pip install it"),
        (KeyError("layer"), LoadError, "could not be loaded: KeyError: 'layer'"),
    ],
    ids=["memory", "package", "other"],
)
def test_what_the_library_raises_becomes_one_line(
    load: Load, monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: type[Exception], message: str
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr("pytest_llem.engines.transformers.engine.load_weights", fail)
    with pytest.raises(kind, match=f"^model 'builtin:tiny-llama'.*{message}") as error:
        load()
    assert error.value.__cause__ is raised


@pytest.mark.parametrize("pytorch", [{}, EAGER_COMPILE, {"cache_implementation": "static"}], ids=str)
def test_closing_frees_the_model(load: Load, one_layer: str, pytorch: dict[str, Any]) -> None:
    fields = {"model": one_layer, "weights": "random", "pytorch": pytorch, "max_output_tokens": 2}
    model = load(**fields)
    workload = model.prepare(experiment(**fields), HERE)
    workload.run(0)
    gone = weakref.ref(model.model)
    model.close()
    model.close()
    assert gone() is None
    assert generate_once(load(**fields), **fields)


def test_a_failed_load_frees_the_model(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_llem.engines.transformers import engine

    seen: list[weakref.ref[Any]] = []

    def refuse(model: Any, *_: Any) -> None:
        seen.append(weakref.ref(model))
        raise LoadError("not what was asked")

    monkeypatch.setattr(engine, "check_loaded", refuse)
    with pytest.raises(LoadError) as error:
        load()
    gc.collect()
    assert error.value.__traceback__ is not None  # still there, as in a test report
    assert seen[0]() is None


def test_a_folder_where_pytest_was_started_is_not_taken_for_a_hub_model(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadError, match="a folder of this name lies where pytest was started"):
        load(model="gpt2", folder=tmp_path / "gpt2")
