"""From an experiment to the complete generation config that ``generate()`` runs with.

A field that the experiment leaves out takes transformers' own default, never the model's: a
``generation_config.json`` that samples at temperature 0.6 would otherwise decide what an experiment measures
without being named in it. Only the model's special tokens come from the model.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig
from transformers.generation.configuration_utils import GenerationMode

from pytest_llem.config.kv_cache import STATIC_CACHES
from pytest_llem.engines.transformers.assistant import ASSISTANT_OPTIONS
from pytest_llem.engines.transformers.compiling import compile_config, uses_cuda_graphs
from pytest_llem.engines.transformers.ignored import refuse_ignored_by_generate
from pytest_llem.engines.transformers.requirements import check_generate_requirements
from pytest_llem.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PretrainedConfig, PreTrainedModel

    from pytest_llem.config import ExperimentConfig

# How a model's configuration names tokens that stand for something else than text.
_MEDIA_TOKENS = ("_token_id", "_token_index")


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids with a meaning of their own.

    Attributes:
        bos: begins a sequence, ``None`` where the model has none.
        eos: end a sequence; empty where the model has none.
        pad: fills a shorter prompt.
    """

    bos: int | None
    eos: tuple[int, ...]
    pad: int


@dataclass(frozen=True)
class Generation:
    """How an experiment calls ``generate()``.

    Attributes:
        config: every option of transformers that the experiment sets.
        arguments: further keyword arguments, which are not part of a generation config.
        drafting: the options that ``generate()`` takes from the assistant's own generation config.
        allow_tf32: whether fp32 matrix products may use TF32; ``None`` leaves that as it is.
        compiled_by: dotted name of the field that decides that graphs are compiled; ``None`` where none does.
        cuda_graphs: whether they are CUDA graphs.
    """

    config: GenerationConfig
    arguments: dict[str, Any]
    drafting: dict[str, Any] = field(default_factory=dict)
    allow_tf32: bool | None = None
    compiled_by: str | None = None
    cuda_graphs: bool = False

    @property
    def may_compile(self) -> bool:
        """Whether calls compile the model, or on some devices would by themselves."""
        static = self.config.cache_implementation in STATIC_CACHES
        return self.compiled_by is not None or (static and not self.config.disable_compile)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Ids that end a sequence."""
        return _ids(self.config.eos_token_id)

    @property
    def rows_per_prompt(self) -> int:
        """Sequences returned for each prompt."""
        return int(self.config.num_return_sequences or 1)

    @property
    def samples(self) -> bool:
        """Whether the random generator decides the tokens."""
        return bool(self.config.do_sample)

    @property
    def beams(self) -> int:
        """Beams of beam search; 1 without."""
        return int(self.config.num_beams or 1)

    @property
    def fixed_new_tokens(self) -> int | None:
        """New tokens of each sequence where the options fix them, else ``None``."""
        config = self.config
        if config.stop_strings or config.max_time is not None:
            return None
        limit: int = config.max_new_tokens
        return limit if not self.eos_token_ids or config.min_new_tokens == limit else None


def special_tokens(model: PreTrainedModel, tokenizer: Any) -> SpecialTokens:
    """The special tokens that ``model`` generates with."""
    own = model.generation_config
    text_config = model.config.get_text_config()

    def first(name: str) -> Any:
        for holder in (own, text_config, tokenizer):
            value = getattr(holder, name, None)
            if value is not None:
                return value
        return None

    eos = _ids(first("eos_token_id"))
    pad = first("pad_token_id")
    if pad is None or not 0 <= pad < text_config.vocab_size:
        # Padding is masked out and never counted, so any token that the model has an embedding for does.
        pad = next((token for token in eos if 0 <= token < text_config.vocab_size), 0)
    bos = first("bos_token_id")
    return SpecialTokens(bos, eos, int(pad))


def ids_left_out(config: PretrainedConfig, special: SpecialTokens, tokenizer: Any) -> set[int]:
    """Token ids that no synthetic prompt holds: special ones, and those that stand for an image where there is none.

    Args:
        config: the model's.
    """
    ids = {special.pad, *special.eos} | ({special.bos} if special.bos is not None else set())
    ids |= set(getattr(tokenizer, "all_special_ids", ()))
    if config.get_text_config() is not config:
        named = config.to_dict().items()
        ids |= {value for name, value in named if name.endswith(_MEDIA_TOKENS) and isinstance(value, int)}
    return ids


def build_generation(config: ExperimentConfig, special: SpecialTokens, *, cuda: bool) -> Generation:
    """The generation config of ``config``.

    Raises:
        MeasurementError: the options contradict each other, or belong to the measurement itself.
        UnavailableError: the options need a package or a device that this machine lacks.
    """
    pytorch = config.pytorch
    options = config.decoder.resolved().given("call") | ({} if pytorch is None else pytorch.given("call"))
    # The one option of a call that is torch's.
    allow_tf32 = options.pop("allow_tf32", None)
    options["max_new_tokens"] = config.max_output_tokens
    options |= {
        "bos_token_id": special.bos,
        "eos_token_id": list(special.eos) or None,
        "pad_token_id": special.pad,
        # The cache that comes back with the tokens shows whether it is the experiment's.
        "return_dict_in_generate": True,
    }
    compiled_by = "pytorch.disable_compile" if options.get("disable_compile") is False else None
    cuda_graphs = False
    if pytorch is not None and pytorch.torch_compile is not None:
        if pytorch.torch_compile:
            compiled_by = "pytorch.torch_compile"
            cuda_graphs = cuda and uses_cuda_graphs(pytorch)
        # With a static cache transformers compiles by itself in any case.
        if pytorch.torch_compile and (cuda_graphs or _compiles_by_itself(config)):
            options["compile_config"] = compile_config(pytorch)
        else:
            options.setdefault("disable_compile", True)

    assisted = pytorch is not None and pytorch.assistant_model is not None
    refuse_ignored_by_generate(config.passthrough.generate, options, assisted=assisted)
    passed, arguments = _split_passthrough(config)
    options |= passed
    check_generate_requirements(options, allow_tf32=allow_tf32, cuda=cuda, cuda_graphs=cuda_graphs)
    try:
        generation_config = GenerationConfig(**options)  # type: ignore[no-untyped-call]
        generation_config.validate(strict=True)
    except (ValueError, TypeError) as exc:
        raise MeasurementError(
            f"these options of generate() contradict each other: {' '.join(str(exc).split())}"
        ) from exc
    drafting = {name: options[name] for name in ASSISTANT_OPTIONS if options.get(name) is not None}
    return Generation(generation_config, arguments, drafting, allow_tf32, compiled_by, cuda_graphs)


def _compiles_by_itself(config: ExperimentConfig) -> bool:
    """Whether ``generate()`` can compile the steps after the first by itself, which leaves the prefill as it is."""
    pytorch = config.pytorch
    return (
        pytorch is not None
        and pytorch.cache_implementation in STATIC_CACHES
        and config.max_output_tokens > 1
        and (pytorch.num_beams or 1) == 1
        and not (pytorch.load_in_4bit or pytorch.load_in_8bit)
    )


@contextmanager
def neutral_generation(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, ``model`` has no generation defaults of its own that could leak into a call."""
    own = model.generation_config
    model.generation_config = _NEUTRAL
    try:
        yield
    finally:
        model.generation_config = own


def check_resolved(model: PreTrainedModel, generation: Generation, assistant: PreTrainedModel | None = None) -> None:
    """Compare the config that ``generate()`` would run with to that of ``generation``.

    Args:
        assistant: the model that drafts tokens, where there is one.

    Raises:
        MeasurementError: an option would be changed on the way.
    """
    attention = model.config._attn_implementation
    if generation.config.output_attentions and attention != "eager":
        raise MeasurementError(
            f"{attention} attention gives no weights out; set pytorch.attn_implementation: eager or remove it",
            field="passthrough.generate.output_attentions",
        )
    with neutral_generation(model):
        # The very function with which generate() resolves its config; there is no public one.
        resolve: Any = model._prepare_generation_config
        resolved, _ = resolve(generation.config, **generation.arguments)
    defaults = GenerationConfig._get_default_generation_params()
    own = generation.config.to_dict()
    for name, value in resolved.to_dict().items():
        wanted = own.get(name)
        if wanted is None:
            wanted = defaults.get(name)
        if value != wanted and name != "transformers_version":
            raise MeasurementError(f"generate() would run with {name} {value!r} instead of {wanted!r}")
    speculative = assistant is not None or generation.config.prompt_lookup_num_tokens is not None
    # With beams, transformers logs one line and searches without drafts.
    if speculative and (mode := resolved.get_generation_mode(assistant)) != GenerationMode.ASSISTED_GENERATION:
        field = "pytorch.prompt_lookup_num_tokens" if assistant is None else "pytorch.assistant_model"
        raise MeasurementError(f"generate() would run {mode.value} and not draft any token", field=field)


def _split_passthrough(config: ExperimentConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    known = GenerationConfig()  # type: ignore[no-untyped-call]
    passed: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    for name, value in config.passthrough.generate.items():
        # An unknown name would become an attribute of the config and reach nothing; generate() refuses it.
        (passed if hasattr(known, name) else arguments)[name] = value
    return passed, arguments


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


_NEUTRAL = GenerationConfig()  # type: ignore[no-untyped-call]
