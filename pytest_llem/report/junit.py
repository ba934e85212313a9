"""Properties of a test case in JUnit XML, for CI servers that chart them.

Verdicts are among them in a comparison with another state of the code alone: those against saved runs are known when
the session ends, after its test cases were reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_llem.measurement.result import ExperimentResult
    from pytest_llem.records.record import Record
    from pytest_llem.verdict.judging import Judged

QUANTITIES = (
    "energy_j",
    "energy_uncertainty_j",
    "energy_net_j",
    "energy_host_j",
    "energy_total_j",
    "energy_total_uncertainty_j",
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
    "carbon_g",
    "cost",
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


def pair_properties(record: Record, judged: Iterable[Judged]) -> list[tuple[str, str]]:
    """Names and values of a comparison in pairs: ``llem.against``, ``llem.pairs``, and by metric, as in
    ``llem.energy.change``, ``verdict``, ``change``, ``low`` and ``high``. What is not known has no property.

    Args:
        judged: verdicts, those of other items among them.
    """
    pairs = [("llem.against", record.against), ("llem.pairs", _text(len(record.other_runs)))]
    for found in judged:
        if found.candidate.nodeid != record.nodeid:
            continue
        verdict, metric = found.verdict, found.candidate.metric
        low, high = verdict.interval or (None, None)
        pairs.append((f"llem.{metric}.verdict", verdict.status.value))
        values = {"change": verdict.change, "low": low, "high": high}
        pairs += [(f"llem.{metric}.{name}", _text(value)) for name, value in values.items() if value is not None]
    return pairs


def _text(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
