"""From an experiment to the complete generation config that ``generate()`` runs with.

A field that the experiment leaves out takes transformers' own default, never the model's: a
``generation_config.json`` that samples at temperature 0.6 would otherwise decide what an experiment measures
without being named in it. Only the model's special tokens come from the model.
"""

from __future__ import annotations

import importlib.util
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache, QuantizedCache, StaticCache

from pytest_llem.errors import MeasurementError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from pytest_llem.config import ExperimentConfig

_DECODER_FIELDS = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "min_new_tokens",
)
_PYTORCH_FIELDS = (
    "use_cache",
    "cache_implementation",
    "num_beams",
    "early_stopping",
    "length_penalty",
    "no_repeat_ngram_size",
    "prompt_lookup_num_tokens",
)
# What the workload sets for itself; a value from outside would break the counting.
_RESERVED = ("inputs_embeds", "return_dict_in_generate", "tokenizer")

_CACHE_CLASSES: dict[str, type] = {
    "dynamic": DynamicCache,
    "offloaded": DynamicCache,
    "static": StaticCache,
    "offloaded_static": StaticCache,
    "quantized": QuantizedCache,
}


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
    """

    config: GenerationConfig
    arguments: dict[str, Any]

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
        pad = eos[0] if eos else 0
    bos = first("bos_token_id")
    return SpecialTokens(bos, eos, int(pad))


def build_generation(config: ExperimentConfig, special: SpecialTokens, *, cuda: bool) -> Generation:
    """The generation config of ``config``.

    Raises:
        MeasurementError: the options contradict each other, or belong to the measurement itself.
        UnavailableError: the options need a package or a device that this machine lacks.
    """
    decoder, pytorch = config.decoder.resolved(), config.pytorch
    options: dict[str, Any] = {name: getattr(decoder, name) for name in _DECODER_FIELDS}
    if pytorch is not None:
        options |= {name: getattr(pytorch, name) for name in _PYTORCH_FIELDS}
    options = {name: value for name, value in options.items() if value is not None}
    options["max_new_tokens"] = config.max_output_tokens
    options |= {
        "bos_token_id": special.bos,
        "eos_token_id": list(special.eos) or None,
        "pad_token_id": special.pad,
        # The cache that comes back with the tokens shows whether it is the one asked for.
        "return_dict_in_generate": True,
    }
    if pytorch is not None and pytorch.torch_compile is not None:
        # With a static cache transformers compiles on its own account, whatever the experiment asks for.
        options["disable_compile"] = True

    passed, arguments = _split_passthrough(config)
    options |= passed
    _check_available(options, cuda=cuda)
    try:
        generation_config = GenerationConfig(**options)  # type: ignore[no-untyped-call]
        generation_config.validate(strict=True)
    except (ValueError, TypeError) as exc:
        raise MeasurementError(
            f"these options of generate() contradict each other: {' '.join(str(exc).split())}"
        ) from exc
    return Generation(generation_config, arguments)


@contextmanager
def neutral_generation(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, ``model`` has no generation defaults of its own that could leak into a call."""
    own = model.generation_config
    model.generation_config = _NEUTRAL
    try:
        yield
    finally:
        model.generation_config = own


def check_resolved(model: PreTrainedModel, generation: Generation) -> None:
    """Compare the config that ``generate()`` would run with to the one asked for.

    Raises:
        MeasurementError: an option would be changed on the way.
    """
    with neutral_generation(model):
        # The very function with which generate() resolves its config; there is no public one.
        resolve: Any = model._prepare_generation_config
        resolved, _ = resolve(generation.config, **generation.arguments)
    defaults = GenerationConfig._get_default_generation_params()
    asked = generation.config.to_dict()
    for name, value in resolved.to_dict().items():
        wanted = asked.get(name)
        if wanted is None:
            wanted = defaults.get(name)
        if value != wanted and name != "transformers_version":
            raise MeasurementError(f"generate() would run with {name} {value!r} instead of {wanted!r}")


def check_cache(generation: Generation, cache: object) -> None:
    """Compare the key-value cache of a finished call with the one asked for.

    Raises:
        MeasurementError: another cache, or none, was used.
    """
    config = generation.config
    if config.use_cache is False:
        if cache is not None:
            raise MeasurementError(f"use_cache false was asked for, but {type(cache).__name__} was used")
        return
    asked = config.cache_implementation
    if asked is None:
        return
    wanted = _CACHE_CLASSES.get(asked)
    offloaded = bool(getattr(cache, "offloading", False))
    if wanted is None or type(cache) is not wanted or offloaded != asked.startswith("offloaded"):
        kind = f"{'offloaded ' if offloaded else ''}{type(cache).__name__}"
        raise MeasurementError(f"cache_implementation {asked!r} was asked for, but {kind} was used")


def _split_passthrough(config: ExperimentConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    known = GenerationConfig()  # type: ignore[no-untyped-call]
    passed: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    for name, value in config.passthrough.generate.items():
        if name in _RESERVED:
            raise MeasurementError(f"passthrough.generate.{name}: is set by the measurement itself; remove it")
        # An unknown name would become an attribute of the config and reach nothing; generate() refuses it.
        (passed if hasattr(known, name) else arguments)[name] = value
    return passed, arguments


def _check_available(options: dict[str, Any], *, cuda: bool) -> None:
    cache = options.get("cache_implementation") or ""
    if cache.startswith("offloaded") and not cuda:
        raise UnavailableError(f"cache_implementation {cache!r} needs a CUDA GPU")
    if cache == "quantized":
        backend = (options.get("cache_config") or {}).get("backend", "quanto")
        package, module = {"quanto": ("optimum-quanto", "optimum.quanto"), "hqq": ("hqq", "hqq")}.get(
            str(backend).lower(), (str(backend), str(backend))
        )
        if not _installed(module):
            raise UnavailableError(
                f"cache_implementation 'quantized' needs the package {package}: pip install {package}"
            )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the parent package
        return False


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


_NEUTRAL = GenerationConfig()  # type: ignore[no-untyped-call]
