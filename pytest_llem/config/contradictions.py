"""Fields that are fine one by one and exclude each other, or have no effect together.

What an engine's library would ignore in silence, or refuse only once the model is loaded, is refused here, with the way
out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.config.backends import BACKENDS
from pytest_llem.config.base import Conflict
from pytest_llem.config.builtin_models import is_builtin
from pytest_llem.config.dataset import SyntheticDataset
from pytest_llem.config.decoder import SAMPLING_OPTIONS
from pytest_llem.config.kv_cache import OFFLOADED_CACHES, STATIC_CACHES
from pytest_llem.config.pytorch import ATTENTION, FLASH_ATTENTION, gpu_number
from pytest_llem.config.vllm import CPU_ATTENTION, HALF_PRECISION_ATTENTION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_llem.config.dataset import SyntheticPrompts
    from pytest_llem.config.experiment import ExperimentConfig
    from pytest_llem.config.pytorch import PyTorchConfig
    from pytest_llem.config.tensorrt import TensorRTConfig
    from pytest_llem.config.vllm import VllmConfig

# vLLM raises what is below to this, to keep the logits finite.
_VLLM_LEAST_TEMPERATURE = 0.01

# Arguments of generate() without a field of their own that only sampling reads.
_SAMPLING_ARGUMENTS = ("epsilon_cutoff", "eta_cutoff", "top_h", "typical_p")

# Others that end a sequence, whatever its length.
_ENDS = "says where sequences end"
_ENDING_ARGUMENTS = ("forced_eos_token_id", "max_time")


def contradictions(config: ExperimentConfig) -> Iterator[Conflict]:
    """All contradictions between the sections of ``config``; those within a section are found by the section."""
    for backend in BACKENDS:
        if getattr(config, backend) is not None and config.backend != backend:
            yield Conflict(backend, f"does not fit backend: {config.backend}; remove it or set backend: {backend}")
    yield from _prompts(config)
    yield from _decoder(config)
    if config.fixed_outputs is not None:
        yield from fixed_output_conflicts(config, config.fixed_outputs)
    if config.pytorch is not None:
        if config.parallel.tensor > 1:
            yield from _tensor_parallel(config.pytorch)
        yield from _sequences(config, config.pytorch)
        yield from _devices(config, config.pytorch)
        yield from _load(config, config.pytorch)
    if config.backend == "vllm":
        yield from _vllm_sampling(config)
    if config.vllm is not None:
        yield from _vllm(config, config.vllm)
    if config.backend == "tensorrt":
        yield from _tensorrt_work(config)
    if config.tensorrt is not None:
        yield from _tensorrt(config, config.tensorrt)


def _prompts(config: ExperimentConfig) -> Iterator[Conflict]:
    if config.input_len is not None and config.input_len > config.max_input_tokens:
        yield Conflict(
            "dataset.synthetic.input_len",
            f"{config.input_len} is above max_input_tokens ({config.max_input_tokens}); lower it or raise "
            "max_input_tokens",
        )
    if isinstance(config.dataset, SyntheticDataset):
        yield from _shared_prefix(config, config.dataset.synthetic)
    for field, lengths, limited_by in (
        ("dataset.synthetic.lengths", config.input_lengths, "max_input_tokens"),
        ("output_lengths", config.output_lengths, "max_output_tokens"),
    ):
        if lengths is not None:
            for name, message in lengths.conflicts(getattr(config, limited_by), limited_by):
                yield Conflict(f"{field}.{name}", message)
    if config.output_lengths is not None and getattr(config.dataset, "output_field", None) is not None:
        yield Conflict("output_lengths", "does not go with dataset.output_field; remove one of the two")
    if config.chat and isinstance(config.dataset, SyntheticDataset):
        yield Conflict(
            "chat",
            "needs prompts that are text, but synthetic prompts are token ids; set dataset: natural or a file of "
            "prompts, or remove chat",
        )
    if config.template_date is not None and not config.chat:
        yield Conflict("template_date", "has no effect without a chat template; set chat: true or remove it")


def _shared_prefix(config: ExperimentConfig, synthetic: SyntheticPrompts) -> Iterator[Conflict]:
    """A prefix that is longer than a prompt. What a histogram has is known once it is read."""
    prefix, lengths = synthetic.shared_prefix, synthetic.lengths
    shortest = config.input_len if lengths is None else lengths.least
    if prefix is not None and shortest is not None and (lengths is None or lengths.file is None) and prefix > shortest:
        way_out = "raise input_len" if lengths is None else "raise lengths.min"
        message = f"{prefix} is above the {shortest} tokens of the shortest prompt; lower it or {way_out}"
        yield Conflict("dataset.synthetic.shared_prefix", message)


def fixed_output_conflicts(config: ExperimentConfig, fixed_by: str) -> Iterator[Conflict]:
    """What would end a sequence earlier or later than its own number of tokens.

    Args:
        fixed_by: what says that number.
    """
    decoder = config.decoder.resolved()
    for field in ("min_new_tokens", "stop_strings"):
        if getattr(decoder, field) is not None:
            yield Conflict(f"decoder.{field}", f"does not go with {fixed_by}, which {_ENDS}; remove it")
    for argument in _ENDING_ARGUMENTS:
        if config.passthrough.generate.get(argument) is not None:
            message = f"does not go with {fixed_by}, which {_ENDS}; remove it"
            yield Conflict(f"passthrough.generate.{argument}", message)
    pytorch = config.pytorch
    if pytorch is None:
        return
    if (pytorch.num_beams or 1) > 1:
        yield Conflict(
            "pytorch.num_beams", f"beams of a batch end together, which does not go with {fixed_by}; set num_beams: 1"
        )
    for field in ("prompt_lookup_num_tokens", "assistant_model"):
        if getattr(pytorch, field) is not None:
            message = f"drafts give several tokens in a step, past the end that {fixed_by} says; remove it"
            yield Conflict(f"pytorch.{field}", message)


def _decoder(config: ExperimentConfig) -> Iterator[Conflict]:
    given, decoder = config.decoder, config.decoder.resolved()
    if decoder.do_sample and decoder.temperature == 0:
        yield Conflict("decoder.temperature", "0 cannot be sampled with; use do_sample: false (the likeliest token)")
    if not decoder.do_sample:
        for field in SAMPLING_OPTIONS:
            value = getattr(given, field)
            if value is None:
                continue
            way_out = "set do_sample: true or remove it"
            if field == "temperature" and value == 0:
                way_out = "use do_sample: false (the likeliest token)"
            yield Conflict(f"decoder.{field}", f"has no effect without sampling; {way_out}")
        for argument in _SAMPLING_ARGUMENTS:
            if config.passthrough.generate.get(argument) is not None:
                yield Conflict(
                    f"passthrough.generate.{argument}",
                    "has no effect without sampling; set decoder.do_sample: true or remove it",
                )
    if decoder.min_new_tokens is not None and decoder.min_new_tokens > config.max_output_tokens:
        yield Conflict(
            "decoder.min_new_tokens",
            f"{decoder.min_new_tokens} is above max_output_tokens ({config.max_output_tokens}); lower it "
            "or raise max_output_tokens",
        )


def _sequences(config: ExperimentConfig, pytorch: PyTorchConfig) -> Iterator[Conflict]:
    """How many sequences a call has, and what needs a single one."""
    batch_size, beams, returned = pytorch.batch_size or 1, pytorch.num_beams or 1, pytorch.num_return_sequences or 1
    if beams == 1:
        for field in ("early_stopping", "length_penalty"):
            if getattr(pytorch, field) is not None:
                yield Conflict(f"pytorch.{field}", "has no effect with one beam; set num_beams above 1 or remove it")
        if returned > 1 and not config.decoder.resolved().do_sample:
            yield Conflict(
                "pytorch.num_return_sequences",
                f"{returned} sequences of one greedy search would be the same; set decoder.do_sample: true, "
                f"num_beams: {returned}, or 1",
            )
    elif returned > beams:
        yield Conflict(
            "pytorch.num_return_sequences", f"{returned} is above num_beams ({beams}); lower it or raise num_beams"
        )
    if config.decoder.stop_strings is not None and batch_size * returned > 1:
        # A sequence that a stop string ended is filled up with padding, from which its end cannot be told.
        name, value = ("batch_size", batch_size) if batch_size > 1 else ("num_return_sequences", returned)
        yield Conflict(
            "decoder.stop_strings",
            f"does not work with {name} {value}, as tokens after the end of a sequence could not be told from its "
            f"own; set {name}: 1",
        )
    for field in ("prompt_lookup_num_tokens", "assistant_model"):
        if getattr(pytorch, field) is not None:
            for hindrance in _speculation_hindrances(pytorch):
                yield Conflict(f"pytorch.{field}", f"does not work with {hindrance}")
            if config.max_output_tokens == 1:
                yield Conflict(
                    f"pytorch.{field}",
                    "has no effect with max_output_tokens: 1, which leaves nothing to draft; raise it or remove this",
                )
    if pytorch.assistant_model is not None and pytorch.prompt_lookup_num_tokens is not None:
        yield Conflict("pytorch.assistant_model", "excludes prompt_lookup_num_tokens: only one can draft; remove one")


def _speculation_hindrances(pytorch: PyTorchConfig) -> Iterator[str]:
    if (pytorch.batch_size or 1) > 1:
        yield f"batch_size {pytorch.batch_size}; set batch_size: 1"
    if (pytorch.num_beams or 1) > 1:
        yield f"{pytorch.num_beams} beams; set num_beams: 1"
    if (pytorch.num_return_sequences or 1) > 1:
        yield f"{pytorch.num_return_sequences} returned sequences; set num_return_sequences: 1"
    # Rejected drafts are taken out of the cache again: a static one cannot, a quantised one drops the wrong tokens.
    if pytorch.cache_implementation in (*STATIC_CACHES, "quantized"):
        yield f"the {pytorch.cache_implementation} cache; use cache_implementation: dynamic"
    if pytorch.use_cache is False:
        yield "use_cache: false; remove it"


def _tensor_parallel(pytorch: PyTorchConfig) -> Iterator[Conflict]:
    """What transformers cannot divide over processes."""
    for field in ("load_in_4bit", "load_in_8bit"):
        if getattr(pytorch, field):
            reason = "is not divided over processes: bitsandbytes quantises whole layers"
            yield Conflict(f"pytorch.{field}", f"{reason}; set parallel.tensor: 1 or remove it")
    if pytorch.lora is not None:
        way_out = "merge it into the model's own files, or set parallel.tensor: 1"
        yield Conflict("pytorch.lora", f"an adapter is not divided over processes; {way_out}")
    if pytorch.assistant_model is not None:
        yield Conflict("pytorch.assistant_model", "does not draft for a model in several processes; remove it")
    for field in ("device_map", "max_memory"):
        if getattr(pytorch, field) is not None:
            yield Conflict(f"pytorch.{field}", "has whole layers on each device; remove it or set parallel.tensor: 1")
    if pytorch.cache_implementation in OFFLOADED_CACHES or pytorch.cache_implementation == "quantized":
        yield Conflict(
            "pytorch.cache_implementation",
            f"{pytorch.cache_implementation} is not proven for a model in several processes; use dynamic or static",
        )


def _devices(config: ExperimentConfig, pytorch: PyTorchConfig) -> Iterator[Conflict]:
    """What needs a GPU, or contradicts where the experiment may run."""
    if pytorch.max_memory is not None and pytorch.device_map is None:
        yield Conflict("pytorch.max_memory", "has no effect without device_map; set one, such as auto")
    if config.device == "cuda" and pytorch.places() and not any(map(_is_gpu, pytorch.places())):
        yield Conflict("pytorch.device_map", "places nothing on a GPU, but device is cuda; change one of the two")
    if config.device != "cpu":
        return
    if pytorch.cache_implementation in OFFLOADED_CACHES:
        yield Conflict(
            "pytorch.cache_implementation",
            f"{pytorch.cache_implementation} needs a GPU, but device is cpu; use dynamic or static",
        )
    if pytorch.attn_implementation in FLASH_ATTENTION:
        yield Conflict(
            "pytorch.attn_implementation",
            f"{pytorch.attn_implementation} needs a GPU, but device is cpu; use sdpa or eager",
        )
    if pytorch.allow_tf32:
        yield Conflict("pytorch.allow_tf32", "has no effect on the CPU, but device is cpu; remove it")
    if pytorch.disable_compile is False:
        yield Conflict(
            "pytorch.disable_compile", "generate() compiles nothing on the CPU, but device is cpu; remove it"
        )
    if any(map(_is_gpu, pytorch.places())):
        yield Conflict("pytorch.device_map", "places modules on a GPU, but device is cpu; change one of the two")
    if any(map(_is_gpu, pytorch.max_memory or ())):
        yield Conflict("pytorch.max_memory", "bounds the memory of a GPU, but device is cpu; remove that bound")


def _is_gpu(place: int | str) -> bool:
    return gpu_number(place) is not None


def _load(config: ExperimentConfig, pytorch: PyTorchConfig) -> Iterator[Conflict]:
    if pytorch.attn_implementation in FLASH_ATTENTION and config.precision == "fp32":
        yield Conflict(
            "pytorch.attn_implementation",
            f"{pytorch.attn_implementation} computes in fp16 and bf16 only, but precision is fp32; use sdpa, or "
            "precision: bf16",
        )
    if pytorch.revision is not None and config.is_builtin:
        yield Conflict("pytorch.revision", "has no meaning for a built-in model; remove it")
    if pytorch.trust_remote_code and not _may_bring_code(config, pytorch):
        yield Conflict(
            "pytorch.trust_remote_code", "has no effect on a built-in model, which brings no code; remove it"
        )
    if pytorch.allow_tf32 and config.precision != "fp32" and not _computes_in_fp32(pytorch):
        yield Conflict(
            "pytorch.allow_tf32",
            f"has no effect on matrix products in {config.precision}; set precision: fp32 or remove it",
        )


def _may_bring_code(config: ExperimentConfig, pytorch: PyTorchConfig) -> bool:
    """Whether the model, its assistant or its attention kernel may come with Python code."""
    kernel, assistant = pytorch.attn_implementation, pytorch.assistant_model
    return (
        not config.is_builtin
        or (kernel is not None and kernel not in ATTENTION)
        or (assistant is not None and not is_builtin(assistant))
    )


def _computes_in_fp32(pytorch: PyTorchConfig) -> bool:
    """Whether 4 bit weights become fp32 for their products, whatever the precision: bitsandbytes' own default."""
    return bool(pytorch.load_in_4bit) and pytorch.bnb_4bit_compute_dtype in (None, "float32")


def _vllm_sampling(config: ExperimentConfig) -> Iterator[Conflict]:
    """What vLLM's SamplingParams take otherwise than transformers' generate() does."""
    decoder = config.decoder.resolved()
    if decoder.stop_strings and decoder.min_new_tokens:
        yield Conflict(
            "decoder.min_new_tokens",
            "vLLM looks for stop_strings after these tokens only, other backends also in them; remove one of the two",
        )
    if not decoder.do_sample:
        return
    if decoder.temperature is not None and 0 < decoder.temperature < _VLLM_LEAST_TEMPERATURE:
        yield Conflict(
            "decoder.temperature",
            f"vLLM would raise {decoder.temperature} to {_VLLM_LEAST_TEMPERATURE}; use at least that, or "
            "do_sample: false (the likeliest token)",
        )
    if decoder.top_p == 0:
        yield Conflict("decoder.top_p", "0 is not taken by vLLM; use do_sample: false (the likeliest token)")
    if decoder.min_p and config.vllm is not None and config.vllm.speculative_config is not None:
        yield Conflict("decoder.min_p", "does not work with vllm.speculative_config; remove one of the two")


def _vllm(config: ExperimentConfig, vllm: VllmConfig) -> Iterator[Conflict]:
    yield from _room(config, "vllm.max_model_len", vllm.max_model_len)
    yield from _model(config, "vllm", vllm)
    attention = vllm.attention_backend
    if attention in HALF_PRECISION_ATTENTION and config.precision == "fp32":
        yield Conflict(
            "vllm.attention_backend",
            f"{attention} computes in fp16 and bf16 only, but precision is fp32; use TRITON_ATTN, or precision: bf16",
        )
    if config.device == "cuda" and attention in CPU_ATTENTION:
        yield Conflict("vllm.attention_backend", f"{attention} runs on the CPU, but device is cuda; remove it")
    if config.device != "cpu":
        return
    if attention is not None and attention not in CPU_ATTENTION:
        yield Conflict("vllm.attention_backend", f"{attention} needs a GPU, but device is cpu; remove it")
    if vllm.cudagraph_mode not in (None, "NONE"):
        yield Conflict("vllm.cudagraph_mode", "has no effect on the CPU, but device is cpu; remove it")
    if vllm.cpu_offload_gb:
        yield Conflict("vllm.cpu_offload_gb", "has no effect on the CPU, but device is cpu; remove it")


def _tensorrt_work(config: ExperimentConfig) -> Iterator[Conflict]:
    """What TensorRT-LLM does not do, whatever its section says."""
    if config.device == "cpu":
        yield Conflict("device", "TensorRT-LLM needs a GPU; use device: cuda or any")
    if config.decoder.resolved().stop_strings:
        yield Conflict(
            "decoder.stop_strings",
            "TensorRT-LLM looks for the tokens of a text and misses it where it is divided otherwise; remove it",
        )


def _tensorrt(config: ExperimentConfig, tensorrt: TensorRTConfig) -> Iterator[Conflict]:
    yield from _room(config, "tensorrt.max_seq_len", tensorrt.max_seq_len)
    yield from _model(config, "tensorrt", tensorrt)
    longest = tensorrt.max_input_len
    if longest is not None and config.input_len is not None and config.input_len > longest:
        yield Conflict("tensorrt.max_input_len", f"{longest} is below the prompts' {config.input_len} tokens; raise it")
    if config.decoder.resolved().do_sample and (tensorrt.max_beam_width or 1) > 1:
        yield Conflict("decoder.do_sample", "does not work with tensorrt.max_beam_width; remove one of the two")


def _room(config: ExperimentConfig, field: str, longest: int | None) -> Iterator[Conflict]:
    """Sequences that are known to be longer than the engine may take them."""
    needed = (config.input_len or 1) + config.max_output_tokens
    if longest is not None and longest < needed:
        prompt = "a prompt" if config.input_len is None else f"prompts of {config.input_len} tokens"
        yield Conflict(
            field,
            f"{longest} is too short for {prompt} and {config.max_output_tokens} new tokens; use at least {needed}",
        )


def _model(config: ExperimentConfig, section: str, options: VllmConfig | TensorRTConfig) -> Iterator[Conflict]:
    if not config.is_builtin:
        return
    if options.revision is not None:
        yield Conflict(f"{section}.revision", "has no meaning for a built-in model; remove it")
    if options.trust_remote_code:
        yield Conflict(
            f"{section}.trust_remote_code", "has no effect on a built-in model, which brings no code; remove it"
        )
