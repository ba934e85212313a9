from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import pytest
import torch

from pytest_llem.engines.transformers.logits import FiniteLogits
from pytest_llem.errors import MeasurementError
from tests.unit.engines.transformers.conftest import HERE, experiment, load_experiment

if TYPE_CHECKING:
    from tests.unit.engines.transformers.conftest import Load

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("scores", "fine"),
    [
        ([[1.0, 2.0], [0.0, -5.0]], True),
        ([[-INF, 2.0], [0.0, -INF]], True),
        ([[1.0, 2.0], [0.0, NAN]], False),
        ([[1.0, INF], [0.0, 1.0]], False),
        ([[1.0, 2.0], [-INF, -INF]], False),
    ],
)
def test_logits_no_token_could_be_chosen_by_are_refused(scores: list[list[float]], fine: bool) -> None:
    check, ids, given = FiniteLogits(), torch.zeros(2, 1, dtype=torch.long), torch.tensor(scores)
    if fine:
        assert torch.equal(check(ids, given), given)  # type: ignore[arg-type]
    else:
        with pytest.raises(MeasurementError, match="logits are not finite"):
            check(ids, given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"decoder": {"do_sample": True}},
        {"pytorch": {"num_beams": 2}},
        {"pytorch": {"prompt_lookup_num_tokens": 2}},
    ],
    ids=str,
)
def test_a_broken_model_produces_no_number_and_is_freed(fields: dict[str, object]) -> None:
    model = load_experiment(experiment())
    with torch.no_grad():
        model.model.model.layers[2].mlp.up_proj.weight[0, 0] = NAN
    with pytest.raises(MeasurementError, match="logits are not finite") as error:
        model.prepare(experiment(**fields), HERE).run(0)
    gone = weakref.ref(model.model)
    model.close()
    assert gone() is None
    assert error.value.__traceback__ is not None


def test_only_the_first_call_is_watched(load: Load) -> None:
    model = load()
    workload = model.prepare(experiment(), HERE)
    given: list[bool] = []
    original = model.model.generate

    def generate(**kwargs: object) -> object:
        given.append("logits_processor" in kwargs)
        return original(**kwargs)

    vars(model.model)["generate"] = generate
    for index in (0, 1, 0):
        workload.run(index)
    workload.time_tokens(0)
    assert given == [True, False, False, False]
