"""Properties of a test case in JUnit XML, for CI servers that chart them.

Verdicts are not among them: they are known when the session ends, after its test cases were reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_llem.measurement.result import ExperimentResult

QUANTITIES = (
    "energy_j",
    "energy_uncertainty_j",
    "energy_net_j",
    "energy_per_output_token_j",
    "latency_s",
    "time_to_first_token_s",
    "time_per_output_token_s",
    "output_tokens_per_s",
    "mean_power_w",
    "idle_power_w",
    "idle_share",
    "prefill_energy_j",
    "decode_energy_j",
    "peak_memory_bytes",
    "input_tokens",
    "output_tokens",
)
"""Fields of a result that are one number each."""


def properties(result: ExperimentResult) -> list[tuple[str, str]]:
    """Names and values for an item's ``user_properties``. What was not measured has no property."""
    pairs = [(f"llem.{name}", _text(value)) for name in QUANTITIES if (value := getattr(result, name)) is not None]
    pairs += [
        ("llem.meter", result.meter),
        ("llem.estimated", _text(result.estimated)),
        ("llem.boundaries", result.boundaries),
        ("llem.valid", _text(result.valid)),
    ]
    return pairs


def _text(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
