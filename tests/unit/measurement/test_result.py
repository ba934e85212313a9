"""Results survive JSON."""

from __future__ import annotations

import json

from pytest_llem.engines.base import Rank
from pytest_llem.footprint import Footprint
from pytest_llem.measurement.result import SCHEMA_VERSION, ExperimentResult, Round
from pytest_llem.meters.base import PowerCurve


def test_a_result_survives_json_and_later_keys() -> None:
    result = ExperimentResult(
        energy_j=1.5,
        meter="nvml",
        estimated=False,
        rounds=1,
        calls_per_round=3,
        warnings=["w"],
        footprint=Footprint(pue=1.2),
        ranks=[
            Rank(board="GPU-a", parameter_share=0.5, peak_memory_bytes=10),
            Rank(board=None, parameter_share=None, peak_memory_bytes=None),
        ],
        per_round=[
            Round(
                seconds=1.0,
                joules=None,
                uncertainty_j=None,
                output_tokens=3,
                sm_clock_hz={"GPU-a": 1e9},
                power_curves={"GPU-a": PowerCurve([0.01, 0.03], [125.0, 640.5], partial=True)},
            )
        ],
    )
    plain = json.loads(json.dumps(result.as_dict()))
    assert plain["schema_version"] == SCHEMA_VERSION
    assert result.footprint is not None
    for later in (plain, plain["per_round"][0], plain["ranks"][0], plain["footprint"]):
        later["of_a_later_schema"] = 1
    assert ExperimentResult.from_dict(plain) == result


def test_a_round_saved_before_curves_were_kept_is_read() -> None:
    assert Round.from_dict({"seconds": 1.0, "joules": 2.0, "uncertainty_j": 0.1, "output_tokens": 3}).power_curves == {}
