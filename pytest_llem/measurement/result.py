"""What one measured experiment says: quantities with their units in their names."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (journal_line reads the types at run time)
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module
from typing import Any, Literal

from pytest_llem.engines.base import Rank
from pytest_llem.footprint import Footprint
from pytest_llem.meters.base import PowerCurve
from pytest_llem.verdict.outputs import GeneratedSequence

SCHEMA_VERSION = 1

PhasesBy = Literal["power samples", "one-token calls"]
"""How prefill was measured apart, see :mod:`pytest_llem.measurement.phases`."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One window of back-to-back calls.

    Attributes:
        seconds: time between the window's edges.
        joules: energy between the same edges; ``None`` when it was not measured.
        uncertainty_j: half-width of the 95% interval of ``joules``.
        host_j: energy of the processor and its memory between the same edges; ``None`` when it was not measured.
        host_uncertainty_j: half-width of the 95% interval of ``host_j``.
        output_tokens: real new tokens of the whole window; ``None`` for work that generates no tokens.
        start_s: when the window was begun, in seconds since the experiment's first one.
        sm_clock_hz: streaming-multiprocessor clock at the end of the window by board.
        power_limit_w: enforced power limit at the end of the window by board.
        power_curves: samples of the power about the window by board, where its driver keeps any; thinned out, so that
            all windows together have some hundred.
        calls_s: when each of its calls began, in seconds since the window's start; empty where there are more than
            :data:`pytest_llem.measurement.summary.MOST_CALLS`, or calls are too short to be told apart.
    """

    seconds: float
    joules: float | None
    uncertainty_j: float | None
    output_tokens: int | None
    host_j: float | None = None
    host_uncertainty_j: float | None = None
    valid: bool = True
    start_s: float | None = None
    sm_clock_hz: Mapping[str, float] = field(default_factory=dict)
    power_limit_w: Mapping[str, float] = field(default_factory=dict)
    power_curves: Mapping[str, PowerCurve] = field(default_factory=dict)
    calls_s: list[float] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Round:
        """Rebuild a round from its plain values. Keys of a later schema are dropped."""
        curves = {uuid: PowerCurve(**curve) for uuid, curve in values.get("power_curves", {}).items()}
        return cls(**{**_known_of(cls, values), "power_curves": curves})


@dataclass(frozen=True, kw_only=True)
class ExperimentResult:
    """One experiment's result. Energy, time and tokens are per call and describe the same calls.

    A quantity that was not measured is ``None``; ``missing`` says why, and so do ``warnings``.

    Attributes:
        input_tokens: prompt tokens of a call, without padding; fractional where the calls of a pass differ.
        output_tokens: new tokens of a call: no padding, nothing after end-of-sequence.
        prompts: prompts of a call; fractional where the calls of a pass differ.
        energy_j: joules of a call, gross.
        energy_uncertainty_j: half-width of the 95% interval of ``energy_j``.
        energy_net_j: ``energy_j`` less ``idle_power_w`` over the call.
        energy_net_uncertainty_j: half-width of the 95% interval of ``energy_net_j``.
        energy_host_j: joules of the processor and its memory in the same windows, per call; where a meter of boards
            reads them beside it.
        energy_host_uncertainty_j: half-width of the 95% interval of ``energy_host_j``.
        host_sensor: what was to read the host; ``None`` where it was not asked for.
        energy_total_j: ``energy_j`` and ``energy_host_j`` together.
        energy_total_uncertainty_j: half-width of the 95% interval of ``energy_total_j``.
        carbon_g: grams of CO2 equivalent of a call, where the grid is known.
        carbon_uncertainty_g: half-width of the 95% interval of ``carbon_g`` that comes from the joules.
        cost: price of the electricity of a call, in the currency of the price.
        cost_uncertainty: half-width of the 95% interval of ``cost`` that comes from the joules.
        footprint: the grid, PUE and price that ``carbon_g`` and ``cost`` were reckoned with.
        energy_per_output_token_j: joules of the measured calls over their output tokens.
        latency_s: seconds of a call.
        time_to_first_token_s: from the call to the first new token, from instrumented calls of their own.
        time_per_output_token_s: between the further tokens of a sequence, from the same instrumented calls.
        output_tokens_per_s: output tokens of all sequences of a call over its seconds.
        mean_power_w: ``energy_j / latency_s``.
        idle_share: ``idle_power_w * latency_s / energy_j``: what the device would have drawn in that time for nothing.
        idle_power_w: power with the model loaded and nothing running.
        idle_power_uncertainty_w: half-width of the 95% interval of ``idle_power_w``.
        prefill_energy_j, prefill_energy_uncertainty_j, prefill_latency_s: of a call until its first token; with
            ``measure: {phases: true}`` only, like all quantities of the phases.
        prefill_energy_one_token_j, prefill_energy_one_token_uncertainty_j: the same from calls of one token, where
            ``measure: {phases: both}`` asks for both.
        phases_by: how prefill was measured.
        energy_per_input_token_j: ``prefill_energy_j`` over ``input_tokens``.
        decode_energy_j, decode_energy_uncertainty_j, decode_latency_s: of the rest of the call.
        decode_energy_per_output_token_j: ``decode_energy_j`` over the tokens after the first of each sequence.
        peak_memory_bytes: peak memory while the measured calls ran: the GPU allocator's where the model lies on
            GPUs, else the resident set of the process.
        meter: what read the joules.
        estimated: true for a modelled, not measured, joule.
        rounds: number of windows.
        calls_per_round: calls in each window.
        boundaries: ``settled`` where each window begins and ends on a device at rest, ``joined`` where they follow each
            other on a loaded one: two quantities, which are never compared.
        valid: false when something disturbed the measurement; ``warnings`` says what.
        missing: why a quantity is ``None``, or is not known as it should be, by its field.
        per_round: the windows themselves.
        prefill_rounds: the windows of calls of one token, where there were any.
        output_tokens_hash: hex SHA-256 of the tokens that the first pass generated, sequence by sequence in the order
            of the prompts: a "faster" run that generated something else has another one.
        output_repeats: whether the first pass and the last one generated the same tokens, and the pass that watched the
            logits, where there was one; ``None`` for work that generates no tokens.
        samples: whether the random generator decides the tokens.
        generated: what the first pass generated, in the order of the prompts; where it is gated only.
        ranks: the processes that share the model, where there are several.
        labels: how the board ran, such as ``power capped``: compare only like with like.
        boards: joules per call by GPU UUID (or RAPL domain), where the meter lists them.
        load_s: seconds that loading the model took.
        timestamp_s: when the measurement ended, in seconds since 1970 (UTC) by the clock of the machine.
        spent_s: where the seconds of the item went, by the names of
            :data:`pytest_llem.measurement.account.ENTRIES`; loading counts for the item that waited for it.
    """

    input_tokens: float | None = None
    output_tokens: float | None = None
    prompts: float | None = None
    energy_j: float | None = None
    energy_uncertainty_j: float | None = None
    energy_net_j: float | None = None
    energy_net_uncertainty_j: float | None = None
    energy_host_j: float | None = None
    energy_host_uncertainty_j: float | None = None
    host_sensor: str | None = None
    energy_total_j: float | None = None
    energy_total_uncertainty_j: float | None = None
    carbon_g: float | None = None
    carbon_uncertainty_g: float | None = None
    cost: float | None = None
    cost_uncertainty: float | None = None
    footprint: Footprint | None = None
    energy_per_output_token_j: float | None = None
    latency_s: float | None = None
    time_to_first_token_s: float | None = None
    time_per_output_token_s: float | None = None
    output_tokens_per_s: float | None = None
    mean_power_w: float | None = None
    idle_share: float | None = None
    idle_power_w: float | None = None
    idle_power_uncertainty_w: float | None = None
    prefill_energy_j: float | None = None
    prefill_energy_uncertainty_j: float | None = None
    prefill_latency_s: float | None = None
    prefill_energy_one_token_j: float | None = None
    prefill_energy_one_token_uncertainty_j: float | None = None
    phases_by: PhasesBy | None = None
    energy_per_input_token_j: float | None = None
    decode_energy_j: float | None = None
    decode_energy_uncertainty_j: float | None = None
    decode_latency_s: float | None = None
    decode_energy_per_output_token_j: float | None = None
    peak_memory_bytes: int | None = None
    meter: str
    estimated: bool
    rounds: int
    calls_per_round: int
    boundaries: Literal["settled", "joined"] = "settled"
    valid: bool = True
    warnings: list[str] = field(default_factory=list)
    missing: Mapping[str, str] = field(default_factory=dict)
    per_round: list[Round] = field(default_factory=list)
    prefill_rounds: list[Round] = field(default_factory=list)
    output_tokens_hash: str | None = None
    output_repeats: bool | None = None
    samples: bool = False
    generated: list[GeneratedSequence] = field(default_factory=list)
    ranks: list[Rank] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    boards: Mapping[str, float] = field(default_factory=dict)
    load_s: float | None = None
    timestamp_s: float | None = None
    spent_s: Mapping[str, float] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def lacking(self, **reasons: str) -> ExperimentResult:
        """The result with reasons why it lacks quantities, by their fields."""
        warnings = [*self.warnings, *(f"{name}: {reason}" for name, reason in reasons.items())]
        return replace(self, warnings=warnings, missing={**self.missing, **reasons})

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        return str(_display().as_html(self))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002
        """How IPython shows it."""
        printer.text(_display().as_text(self))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the inverse of :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ExperimentResult:
        """Rebuild a result from :meth:`as_dict`. Keys of a later schema are dropped."""
        plain = _known_of(cls, values)
        for name in ("per_round", "prefill_rounds"):
            plain[name] = [Round.from_dict(values) for values in plain.get(name, [])]
        plain["ranks"] = [Rank(**_known_of(Rank, values)) for values in plain.get("ranks", [])]
        if plain.get("footprint") is not None:
            plain["footprint"] = Footprint(**_known_of(Footprint, plain["footprint"]))
        plain["generated"] = [GeneratedSequence.from_dict(values) for values in plain.get("generated", [])]
        return cls(**plain)


def _known_of(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are its fields."""
    names = {known.name for known in fields(kind)}
    return {key: value for key, value in values.items() if key in names}


def _display() -> Any:
    # By its name: reports know of results, and results of no report.
    return import_module("pytest_llem.report.display")
