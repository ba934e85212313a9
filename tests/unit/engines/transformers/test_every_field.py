"""Every field of the pytorch and decoder sections: value in the file -> what runs.

A field without a row fails ``test_every_field_has_a_row``.
"""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_llem.config import DecoderConfig, PyTorchConfig
from pytest_llem.engines.transformers.checks import placement
from pytest_llem.engines.transformers.compiling import compiled_graphs
from pytest_llem.errors import UnavailableError
from tests.unit.engines.transformers.conftest import HERE, Load, experiment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_llem.engines.transformers.engine import TransformersModel


COMMIT = "c" * 40


@dataclass(frozen=True)
class Ran:
    """What one call showed.

    Attributes:
        options: the generation config that ``generate()`` resolved in the end.
        cache: the key-value cache that came back.
        drafts: tokens that each run of the assistant was asked for.
        tf32: whether fp32 matrix products might use TF32: at each step of the call, and after it.
    """

    model: TransformersModel
    options: Any
    cache: Any
    drafts: list[int]
    tf32: list[bool]
    sequences: torch.Tensor


@dataclass(frozen=True)
class Row:
    """Value in the file -> what the loaded model or the call shows.

    Attributes:
        field: dotted name.
        fields: the experiment's fields; ``{saved}`` and the like are replaced by paths.
        shows: reads what ran.
        expected: what it must show.
        loaded: reads the model before anything ran, in place of ``shows``.
        runs: whether to call ``generate()``.
    """

    field: str
    fields: dict[str, Any]
    shows: Callable[[Ran], Any] | None
    expected: Any
    loaded: Callable[[Any], Any] | None = None
    runs: bool = True


def option(field: str, value: Any, **beside: Any) -> Row:
    """A row for a field that is an option of the generation config."""
    section, _, own = field.partition(".")
    fields = {**beside, section: {own: value, **beside.get(section, {})}}
    return Row(field, fields, lambda ran: getattr(ran.options, own), value)


def load_row(field: str, value: Any, shows: Callable[[Any], Any], expected: Any, **beside: Any) -> Row:
    """A row for a field that the loaded model shows."""
    fields = {"pytorch": {field: value, **beside.pop("pytorch", {})}, **beside}
    # On the CPU, flex attention is compiled to C++, which takes half a minute.
    return Row(f"pytorch.{field}", fields, None, expected, loaded=shows, runs=value != "flex_attention")


def quantised(model: Any) -> Any:
    return model.model.layers[0].mlp.up_proj


SAMPLES = {"decoder": {"do_sample": True}}
BEAMS = {"pytorch": {"num_beams": 2}}
FP8 = {"backend": "fp8"}
BNB4 = {"load_in_4bit": True}
EAGER = {"torch_compile": True, "torch_compile_backend": "eager"}
SMALL = {"model": "{one_layer}", "weights": "random", "max_output_tokens": 2}

noted_graphs: list[Any] = []


def noting(graph: Any, _inputs: list[Any]) -> Any:
    """A compiler of no effect, which tells that it was the one that was used."""
    noted_graphs.append(graph)
    return graph.forward


ROWS = [
    Row("decoder.preset", {"decoder": {"preset": "factual"}}, lambda ran: ran.options.temperature, 0.3),
    option("decoder.do_sample", True),
    option("decoder.temperature", 0.5, **SAMPLES),
    option("decoder.top_k", 7, **SAMPLES),
    option("decoder.top_p", 0.8, **SAMPLES),
    option("decoder.min_p", 0.05, **SAMPLES),
    option("decoder.repetition_penalty", 1.3),
    option("decoder.min_new_tokens", 3),
    option("decoder.stop_strings", ["stop"]),
    Row("pytorch.batch_size", {"pytorch": {"batch_size": 2}}, lambda ran: ran.sequences.shape[0], 2),
    *(
        load_row("attn_implementation", kind, lambda model: model.config._attn_implementation, kind)
        for kind in ("eager", "sdpa", "flex_attention")
    ),
    Row("pytorch.torch_compile", {"pytorch": EAGER, **SMALL}, lambda _: compiled_graphs() > 0, True),
    Row("pytorch.torch_compile", {"pytorch": {"torch_compile": False}}, lambda ran: ran.options.disable_compile, True),
    Row(
        "pytorch.torch_compile_backend",
        {"pytorch": {"torch_compile": True, "torch_compile_backend": "noting"}, **SMALL},
        lambda _: len(noted_graphs) > 0,
        True,
    ),
    load_row("load_in_4bit", True, lambda model: type(quantised(model)).__name__, "Linear4bit"),
    load_row("load_in_8bit", True, lambda model: type(quantised(model)).__name__, "Linear8bitLt"),
    *(
        load_row("bnb_4bit_compute_dtype", name, lambda model: quantised(model).compute_dtype, dtype, pytorch=BNB4)
        for name, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16), ("float32", torch.float32))
    ),
    *(
        load_row("bnb_4bit_quant_type", kind, lambda model: quantised(model).weight.quant_type, kind, pytorch=BNB4)
        for kind in ("nf4", "fp4")
    ),
    *(
        load_row(
            "bnb_4bit_use_double_quant", on, lambda model: quantised(model).weight.quant_state.nested, on, pytorch=BNB4
        )
        for on in (True, False)
    ),
    option("pytorch.use_cache", False),
    Row("pytorch.use_cache", {"pytorch": {"use_cache": False}}, lambda ran: ran.cache, None),
    *(
        Row(
            "pytorch.cache_implementation",
            {"pytorch": {"cache_implementation": kind, **config}},
            lambda ran: type(ran.cache).__name__,
            shown,
        )
        for kind, config, shown in (
            ("static", {}, "StaticCache"),
            ("dynamic", {}, "DynamicCache"),
            ("quantized", {"cache_config": FP8}, "QuantizedCache"),
        )
    ),
    Row(
        "pytorch.cache_config",
        {"pytorch": {"cache_implementation": "quantized", "cache_config": FP8}},
        lambda ran: {type(layer).__name__ for layer in ran.cache.layers},
        {"Fp8QuantizedLayer"},
    ),
    option("pytorch.num_beams", 3),
    option("pytorch.num_return_sequences", 2, **SAMPLES),
    Row(
        "pytorch.num_return_sequences",
        {"pytorch": {"num_return_sequences": 2}, **SAMPLES},
        lambda ran: ran.sequences.shape[0],
        2,
    ),
    option("pytorch.early_stopping", "never", **BEAMS),
    option("pytorch.length_penalty", 0.5, **BEAMS),
    option("pytorch.no_repeat_ngram_size", 2),
    option("pytorch.prompt_lookup_num_tokens", 3),
    Row(
        "pytorch.assistant_model",
        {"pytorch": {"assistant_model": "builtin:tiny-llama"}},
        lambda ran: (type(ran.model.assistant).__name__, len(ran.drafts) > 0),
        ("LlamaForCausalLM", True),
    ),
    Row(
        "pytorch.num_assistant_tokens",
        {"pytorch": {"assistant_model": "builtin:tiny-llama", "num_assistant_tokens": 2}, "max_output_tokens": 9},
        lambda ran: max(ran.drafts),
        2,
    ),
    option("pytorch.disable_compile", True),
    Row(
        "pytorch.allow_tf32",
        {"pytorch": {"allow_tf32": False}},
        lambda ran: (set(ran.tf32[:-1]), ran.tf32[-1]),
        ({False}, True),
    ),
    load_row(
        "device_map",
        {"model": "cpu", "lm_head": "disk"},
        lambda model: model.hf_device_map,
        {"model": "cpu", "lm_head": "disk"},
        model="{saved}",
        passthrough={"from_pretrained": {"offload_folder": "{offload}"}},
    ),
    load_row(
        "max_memory",
        {"cpu": "8MiB"},
        placement,
        {"cpu", "disk"},
        model="{saved}",
        pytorch={"device_map": "auto"},
        passthrough={"from_pretrained": {"offload_folder": "{offload}"}},
    ),
    Row(
        "pytorch.revision",
        {"model": "someone/small", "passthrough": {"from_pretrained": {"cache_dir": "{hub}"}}}
        | {"pytorch": {"revision": "v2"}},
        lambda ran: ran.model.commit,
        COMMIT,
    ),
    Row(
        "pytorch.trust_remote_code",
        {"model": "{code}", "pytorch": {"trust_remote_code": True}},
        lambda ran: type(ran.model.model).__name__,
        "OwnModel",
    ),
    *(
        Row(
            "pytorch.lora",
            {"pytorch": {"lora": {"path": "{lora}", "merge": merge}}},
            lambda ran: type(ran.model.model.model.layers[0].self_attn.q_proj).__module__,
            module,
        )
        for merge, module in ((False, "peft.tuners.lora.layer"), (True, "torch.nn.modules.linear"))
    ),
]

# What this machine cannot run is skipped with its reason.
SKIPPED: list[tuple[str, dict[str, Any], str]] = [
    *(
        ("pytorch.attn_implementation", {"precision": "bf16", "pytorch": {"attn_implementation": kind}}, "a CUDA GPU")
        for kind in ("flash_attention_2", "flash_attention_3", "flash_attention_4")
    ),
    *(
        ("pytorch.cache_implementation", {"pytorch": {"cache_implementation": kind}}, "a CUDA GPU")
        for kind in ("offloaded", "offloaded_static")
    ),
    ("pytorch.allow_tf32", {"pytorch": {"allow_tf32": True}}, "a CUDA GPU"),
    (
        "pytorch.disable_compile",
        {"pytorch": {"disable_compile": False, "cache_implementation": "static"}},
        "a CUDA GPU",
    ),
]


def test_every_field_has_a_row() -> None:
    fields = {f"pytorch.{name}" for name in PyTorchConfig.model_fields}
    fields |= {f"decoder.{name}" for name in DecoderConfig.model_fields}
    # The mode changes only what inductor does, so a row of its own shows what reaches the compiler.
    assert fields - {row.field for row in ROWS} == {"pytorch.torch_compile_mode"}


@pytest.fixture(scope="session")
def paths(
    tmp_path_factory: pytest.TempPathFactory, saved_model: Path, lora_adapter: Path, one_layer: str
) -> dict[str, str]:
    """Folders that the rows name."""
    code = shutil.copytree(saved_model, tmp_path_factory.mktemp("code") / "model")
    (code / "own.py").write_text("from transformers import LlamaForCausalLM\n\nclass OwnModel(LlamaForCausalLM): ...\n")
    config = json.loads((code / "config.json").read_text())
    (code / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "own.OwnModel"}}))

    hub = tmp_path_factory.mktemp("hub")
    shutil.copytree(saved_model, hub / "models--someone--small" / "snapshots" / COMMIT)
    (hub / "models--someone--small" / "refs").mkdir()
    (hub / "models--someone--small" / "refs" / "v2").write_text(COMMIT)
    offload = tmp_path_factory.mktemp("offload")
    folders = {"saved": saved_model, "lora": lora_adapter, "code": code, "hub": hub, "offload": offload}
    return {"one_layer": one_layer, **{name: str(folder) for name, folder in folders.items()}}


@pytest.fixture(scope="session", autouse=True)
def noting_compiler() -> None:
    torch._dynamo.register_backend(noting, name="noting")


@contextmanager
def tf32_allowed() -> Iterator[list[bool]]:
    """Allow TF32 as the process's own setting within the block; the list is for what becomes of it, the last entry is
    how it was left."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    seen: list[bool] = []
    try:
        yield seen
        seen.append(torch.backends.cuda.matmul.allow_tf32)
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def watching(model: TransformersModel, tf32: list[bool]) -> Iterator[tuple[list[Any], list[Any], list[int]]]:
    """Note the generation configs, caches, drafts and use of TF32 of the calls within the block."""
    options: list[Any] = []
    caches: list[Any] = []
    drafts: list[int] = []
    inner, assistant = model.model, model.assistant
    original_cache, original_generate = inner._prepare_cache_for_generation, inner.generate

    def prepare_cache(config: Any, *args: Any, **kwargs: Any) -> Any:
        options.append(config)
        return original_cache(config, *args, **kwargs)

    def generate(*args: Any, **kwargs: Any) -> Any:
        output = original_generate(*args, **kwargs)
        caches.append(output.past_key_values)
        return output

    def prepare_inputs(*args: Any, **kwargs: Any) -> Any:
        # Beside the forward pass and not within it: there, a compiler would trace it.
        tf32.append(torch.backends.cuda.matmul.allow_tf32)
        return original_inputs(*args, **kwargs)

    original_inputs = inner.prepare_inputs_for_generation
    own = vars(inner)
    own |= {"_prepare_cache_for_generation": prepare_cache, "generate": generate}
    own["prepare_inputs_for_generation"] = prepare_inputs
    if assistant is not None:
        original_draft = assistant.generate

        def draft(*args: Any, max_new_tokens: int, **kwargs: Any) -> Any:
            drafts.append(max_new_tokens)
            return original_draft(*args, max_new_tokens=max_new_tokens, **kwargs)

        vars(assistant)["generate"] = draft
    try:
        yield options, caches, drafts
    finally:
        del own["_prepare_cache_for_generation"], own["generate"], own["prepare_inputs_for_generation"]


def filled(value: Any, paths: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: filled(item, paths) for key, item in value.items()}
    return value.format(**paths) if isinstance(value, str) else value


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.field)
def test_a_field_does_what_it_says(row: Row, load: Load, tiny: TransformersModel, paths: dict[str, str]) -> None:
    fields = filled(row.fields, paths)
    config = experiment(**fields)
    shared = config.load_config(HERE) == experiment().load_config(HERE)
    model = tiny if shared else load(**fields)
    if row.loaded is not None:
        assert row.loaded(model.model) == row.expected
    if not row.runs:
        return
    workload = model.prepare(config, HERE)
    noted_graphs.clear()
    with tf32_allowed() as tf32, watching(model, tf32) as (options, caches, drafts):
        sequences = workload.run(0)
    if row.shows is not None:
        assert row.shows(Ran(model, options[0], caches[0], drafts, tf32, sequences)) == row.expected


def test_a_compiler_mode_reaches_the_compiler(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def compile_nothing(function: Any, **options: Any) -> Any:
        asked.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compile_nothing)
    load(pytorch={"torch_compile": True, "torch_compile_mode": "reduce-overhead"})
    assert asked == [{"mode": "reduce-overhead"}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
@pytest.mark.parametrize(("field", "fields", "reason"), SKIPPED, ids=lambda value: str(value)[:60])
def test_what_cannot_run_here_says_why(load: Load, field: str, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnavailableError, match=f"{field.partition('.')[2]}.* needs {reason}"):
        load(**fields).prepare(experiment(**fields), HERE)


@pytest.mark.parametrize(
    ("fields", "package"),
    [
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"lora": {"path": "x"}}, "peft"),
        ({"attn_implementation": "someone/kernel", "trust_remote_code": True}, "kernels"),
    ],
    ids=str,
)
def test_a_missing_package_is_named_before_anything_is_loaded(
    load: Load, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], package: str
) -> None:
    monkeypatch.setattr("pytest_llem.engines.transformers.requirements.installed", lambda module: module != package)
    extra = {"bitsandbytes": "bnb", "peft": "lora"}.get(package, package)
    with pytest.raises(UnavailableError, match=rf"{next(iter(fields))}.* needs the package .*{extra}"):
        load(model="nobody/nothing", pytorch=fields)
