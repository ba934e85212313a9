"""What one experiment may say."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from pytest_llem.config.backends import BACKENDS, backend_name
from pytest_llem.config.base import (
    MISPLACED,
    REFUSED,
    Conflict,
    Section,
    builtin_model,
    fields_of,
    option,
    refusal,
    refuse,
)
from pytest_llem.config.builtin_models import is_builtin
from pytest_llem.config.contradictions import contradictions
from pytest_llem.config.dataset import (
    DATASET_HELP,
    Dataset,
    FileDataset,
    SyntheticDataset,
    SyntheticPrompts,
    TextDataset,
)
from pytest_llem.config.decoder import DecoderConfig
from pytest_llem.config.lengths import AnyOutputLengths, Lengths  # noqa: TC001  (pydantic reads one)
from pytest_llem.config.load import LoadConfig
from pytest_llem.config.measure import MeasureConfig
from pytest_llem.config.parallel import ParallelConfig
from pytest_llem.config.passthrough import Passthrough, collisions
from pytest_llem.config.pytorch import PyTorchConfig
from pytest_llem.config.tensorrt import TensorRTConfig  # noqa: TC001  (pydantic reads it)
from pytest_llem.config.vllm import VllmConfig  # noqa: TC001  (pydantic reads it)
from pytest_llem.verdict.gates import limit_of
from pytest_llem.verdict.limits import SAME, parse_limit

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME_PATTERN = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$")

# Names that pytest calls or reads in a module, and words that -k reads as operators.
_RESERVED_NAME = re.compile(
    r"pytest_.*|pytestmark|setup_module|teardown_module|setUpModule|tearDownModule|setup_function|teardown_function"
    r"|__.*__|and|or|not"
)

# Larger seeds are not accepted by every generator that takes part (numpy's stops here).
MAX_SEED = 2**32 - 1

Metric = Literal["energy", "latency", "energy_total", "output"]

_MARKS_WITH_ARGUMENTS = ("filterwarnings", "parametrize", "skipif", "usefixtures")


def mistake_in_name(name: str) -> str | None:
    """Why ``name`` cannot name an item, ``None`` for one that can."""
    if not NAME_PATTERN.fullmatch(name):
        return f"{name[:40]!r} is not a name; use letters, digits and _ . + -, and start with a letter, digit or _"
    if _RESERVED_NAME.fullmatch(name):
        return f"{name[:40]!r} has a meaning of its own in pytest; choose another name"
    return None


def _name(value: str) -> str:
    message = mistake_in_name(value)
    if message is not None:
        raise refusal(message)
    return value


def _day(value: str) -> str:
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        raise refusal(f"{value[:40]!r} is no date; write one such as 2026-01-01") from None


def _mark(value: str) -> str:
    if value in _MARKS_WITH_ARGUMENTS:
        raise refusal(f"the mark {value} takes arguments, which an experiment file cannot give; remove it")
    return value


def _limit(value: Any) -> Any:
    try:
        # As text, so that a bare 5 has the message that says to write 5%.
        if str(value) != str(SAME):
            parse_limit(str(value))
    except ValueError as error:
        raise refusal(str(error)) from None
    return value


def _mistakes_in_gates(gates: dict[Metric, str]) -> Iterator[Conflict]:
    """Limits that are right for another metric."""
    for metric, limit in gates.items():
        try:
            limit_of(metric, limit)
        except ValueError as error:
            yield Conflict(f"compare.{metric}", str(error))


class ExperimentConfig(Section):
    """One experiment: a model, what it is asked, how it is run and measured. Only ``model`` is required."""

    name: Annotated[str, AfterValidator(_name)] | None = option(
        "Name of the item. Unset: the file's name without .llem.yaml.",
        stage="measurement",
        json_schema_extra={"pattern": NAME_PATTERN.pattern},
    )
    model: Annotated[str, AfterValidator(builtin_model)] = option(
        "Hub id, local folder (a relative one starts at the file's folder), or builtin:NAME "
        "(random weights, no download).",
        default=...,
        stage="load",
        min_length=1,
        pattern=r"\S",
    )
    weights: Literal["pretrained", "random"] = option(
        "pretrained, or random: the architecture from the configuration alone, initialised on the device.",
        default="pretrained",
        stage="load",
    )
    backend: Annotated[str, BeforeValidator(backend_name)] = option(
        "What loads and runs the model: transformers, vLLM, or TensorRT-LLM, which is unproven; another package may "
        "add its own.",
        default=BACKENDS[0],
        stage="load",
        json_schema_extra={"enum": [*BACKENDS]},
    )
    precision: Literal["fp32", "fp16", "bf16"] = option(
        "Data type of weights and activations that are not quantised.", default="bf16", stage="load"
    )
    device: Literal["any", "cpu", "cuda"] = option(
        "Where it may run; elsewhere it is skipped with the reason.", default="any", stage="measurement"
    )
    dataset: Dataset = option(DATASET_HELP, default=SyntheticDataset(), stage="prompts")
    chat: bool | None = option(
        "Put each prompt into the tokenizer's chat template, as the user's message. Needs prompts that are text or "
        "messages. Unset: no.",
        stage="prompts",
    )
    template_date: Annotated[str, AfterValidator(_day)] | None = option(
        "The date that a chat template gets where it asks for today's, as year-month-day. Unset: 2026-01-01.",
        stage="prompts",
        json_schema_extra={"format": "date"},
    )
    max_input_tokens: int = option(
        "Longer prompts are cut to this length; with chat, it is the last message that loses its end.",
        default=128,
        stage="prompts",
        unit="tokens",
        ge=1,
    )
    max_output_tokens: int = option("New tokens of a sequence.", default=64, stage="call", unit="tokens", ge=1)
    output_lengths: AnyOutputLengths | None = option(
        "Lengths of outputs that differ, no token more or less: {mean, sd, min, max}, or the path of a histogram. "
        "max_output_tokens bounds them.",
        stage="call",
    )
    random_seed: int = option(
        "Seed of random weights, of sampling, and of synthetic or shuffled prompts without their own seed. "
        "A new one needs a new load only where weights are random.",
        default=42,
        ge=0,
        le=MAX_SEED,
    )
    decoder: DecoderConfig = option("How the next token is chosen.", default=DecoderConfig(), stage="call")
    pytorch: PyTorchConfig | None = option("Options of the transformers backend (backend: pytorch).")
    vllm: VllmConfig | None = option("Options of the vLLM backend (backend: vllm).", stage="load")
    tensorrt: TensorRTConfig | None = option("Options of the TensorRT-LLM backend (backend: tensorrt).", stage="load")
    parallel: ParallelConfig = option(
        "How many processes the model is divided over.", default=ParallelConfig(), stage="load"
    )
    measure: MeasureConfig = option("How often and how long is measured.", default=MeasureConfig(), stage="measurement")
    timeout_s: float | None = option(
        "Longest time the experiment may take, enforced in a child process.", stage="session", unit="s", gt=0
    )
    compare: dict[Metric, Annotated[str, BeforeValidator(_limit)]] = option(
        "Gates: how much worse a metric may get than its baseline, such as {energy: 2%..5%}; output: same, whether "
        "greedy decoding gives the same tokens.",
        default={},
        stage="session",
    )
    passthrough: Passthrough = option(
        "Arguments of the engine's library that have no field of their own.", default=Passthrough()
    )
    # A leading underscore is refused by pytest itself.
    marks: list[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$"), AfterValidator(_mark)]] = option(
        "Names of pytest marks that the item carries.", default=[], stage="session"
    )

    @property
    def is_builtin(self) -> bool:
        """Whether the model is built in memory with random weights."""
        return is_builtin(self.model)

    @property
    def section(self) -> PyTorchConfig | VllmConfig | TensorRTConfig | None:
        """The section of the experiment's backend; ``None`` where it is unset or another package's."""
        sections: dict[str, PyTorchConfig | VllmConfig | TensorRTConfig | None] = {
            "pytorch": self.pytorch,
            "vllm": self.vllm,
            "tensorrt": self.tensorrt,
        }
        return sections.get(self.backend)

    @property
    def dataset_seed(self) -> int:
        """Seed of the synthetic prompts, or of the order of shuffled ones."""
        seed = None if self._prompts is None else self._prompts.seed
        return self.random_seed if seed is None else seed

    @property
    def input_lengths(self) -> Lengths | None:
        """How the lengths of synthetic prompts are distributed; ``None`` where all have one."""
        return self.dataset.synthetic.lengths if isinstance(self.dataset, SyntheticDataset) else None

    @property
    def fixed_outputs(self) -> str | None:
        """The field that says how many tokens each prompt gets; ``None`` where none does. What a file's own requests
        say of it is not known here."""
        if self.output_lengths is not None:
            return "output_lengths"
        named = isinstance(self.dataset, FileDataset) and self.dataset.output_field is not None
        return "dataset.output_field" if named else None

    @property
    def prompt_files(self) -> list[str]:
        """The files that decide prompts and lengths, as they are written."""
        written = (
            self.dataset.path if isinstance(self.dataset, FileDataset) else None,
            *(None if lengths is None else lengths.file for lengths in (self.input_lengths, self.output_lengths)),
        )
        return [path for path in written if path is not None]

    @property
    def prompt_count(self) -> int | None:
        """How many prompts there are; ``None`` where that is as many as the set holds."""
        return None if self._prompts is None else self._prompts.n

    @property
    def _prompts(self) -> SyntheticPrompts | TextDataset | None:
        if isinstance(self.dataset, str):
            return None
        return self.dataset.synthetic if isinstance(self.dataset, SyntheticDataset) else self.dataset

    @property
    def input_len(self) -> int | None:
        """Length of each synthetic prompt in tokens; ``None`` for prompts of another kind, and where it differs."""
        if not isinstance(self.dataset, SyntheticDataset) or self.input_lengths is not None:
            return None
        input_len = self.dataset.synthetic.input_len
        return self.max_input_tokens if input_len is None else input_len

    def load_config(self, folder: Path) -> LoadConfig:
        """Everything that decides the loaded model, and nothing else.

        Args:
            folder: folder of the experiment file; a relative ``model``, ``assistant_model``, ``lora.path`` or
                ``speculative_config.model`` that is a folder below it becomes an absolute path, so that files in
                several folders share one load.
        """
        options = (self.pytorch or PyTorchConfig()).only("load")
        paths: dict[str, Any] = {}
        if options.assistant_model is not None:
            paths["assistant_model"] = _located(options.assistant_model, folder)
        if options.lora is not None:
            paths["lora"] = options.lora.model_copy(update={"path": _located(options.lora.path, folder)})
        random = self.weights == "random" or self.is_builtin or is_builtin(options.assistant_model)
        return LoadConfig(
            model=_located(self.model, folder),
            weights=self.weights,
            backend=self.backend,
            precision=self.precision,
            random_seed=self.random_seed if random else None,
            pytorch=options.model_copy(update=paths) if paths else options,
            from_pretrained=self.passthrough.from_pretrained,
            backend_options=self._backend_options(folder),
            tensor=self.parallel.tensor,
        )

    def _backend_options(self, folder: Path) -> dict[str, Any]:
        """What the section of a backend other than pytorch says of the load, without what is unset."""
        section = self.section
        if section is None or isinstance(section, PyTorchConfig):
            return {}
        options = section.model_dump(include={*fields_of(type(section), "load")}, exclude_none=True)
        speculative = options.get("speculative_config", {})
        if "model" in speculative:
            speculative["model"] = _located(speculative["model"], folder)
        return options

    @field_validator("passthrough")
    @classmethod
    def _refuse_collisions(cls, value: Passthrough, info: ValidationInfo) -> Passthrough:
        # The backend comes first; a wrong one is not there.
        backend = info.data.get("backend", BACKENDS[0])
        refuse(value, collisions(value, backend, from_a_file=bool(info.context)), MISPLACED)
        return value

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        refuse(self, _mistakes_in_gates(self.compare), REFUSED)
        refuse(self, contradictions(self))
        return self


def _located(model: str, folder: Path) -> str:
    """``model``, made absolute where it exists seen from ``folder`` or is written like one; else a hub id."""
    if is_builtin(model):
        return model
    try:
        path = folder / Path(model).expanduser()
        if model.startswith((".", "~", "/")):
            return str(path.resolve())
    except (OSError, RuntimeError, ValueError):
        # The home folder of an unknown user, links that lead back to themselves, a name that no folder can have: an
        # error when the model is loaded.
        return model
    local = _existing(path)
    return model if local is None else str(local)


def _existing(path: Path) -> Path | None:
    try:
        return path.resolve() if path.exists() else None
    except OSError:  # a name longer than the file system allows, or one in a folder we may not look into
        return None
