"""``measure()`` and the notebook of the docs, on the real engine."""

from __future__ import annotations

import gc
import re
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pytest_llem import measure
from pytest_llem.engines.transformers.engine import TransformersModel
from tests.integration.conftest import TINY
from tests.integration.test_notebook import execute, nbformat, outputs

if TYPE_CHECKING:
    from collections.abc import Callable

EXPERIMENT: dict[str, Any] = yaml.safe_load(TINY)


def test_a_session_and_a_script_measure_the_same(
    write: Callable[..., Path], run: Callable[..., pytest.RunResult], saved: Callable[[], list[dict[str, Any]]]
) -> None:
    path = write()
    run("--benchmark-json=out.json").assert_outcomes(passed=1)
    session = saved()[0]["extra_info"]["result"]
    script = measure(path, device="cpu").as_dict()
    for key in ("output_tokens_hash", "input_tokens", "output_tokens", "meter", "rounds", "boundaries", "warnings"):
        assert script[key] == session[key]
    known = [{key for key, value in result.items() if value is not None} for result in (script, session)]
    assert known[0] == known[1]
    assert script["spent_s"].keys() == session["spent_s"].keys()


@pytest.mark.parametrize("interrupted", [False, True])
def test_nothing_of_the_model_is_held_afterwards(interrupted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[Any]] = []
    prepare = TransformersModel.prepare

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def prepare_and_watch(model: TransformersModel, *arguments: Any) -> Any:
        held.extend(map(weakref.ref, model.model.parameters()))
        if interrupted:
            # Deep in the library, whose frames hold the model.
            model.model.lm_head.forward = interrupt
        return prepare(model, *arguments)

    monkeypatch.setattr(TransformersModel, "prepare", prepare_and_watch)
    try:
        kept: Any = measure([EXPERIMENT, EXPERIMENT], device="cpu")
    except KeyboardInterrupt as failure:
        kept = failure  # as a notebook does
    assert isinstance(kept, KeyboardInterrupt) is interrupted
    gc.collect()
    assert held
    assert [one for one in held if one() is not None] == []


@pytest.mark.processes
def test_the_notebook_of_the_docs_runs_and_shows_results(tmp_path: Path) -> None:
    notebook = nbformat.read(Path(__file__).parents[3] / "docs" / "notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    # As it is kept: what is shown would be of another day's version.
    assert [cell for cell in notebook.cells if cell.get("outputs")] == []
    execute(notebook, tmp_path)
    found = [outputs(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert all("error" not in output for output in found)
    result, quantities, sweep, _, magic, tokens = found
    assert "<caption" in result["text/html"]
    assert "estimated joules" in result["text/html"]
    assert re.fullmatch(r"\([0-9.e-]+,\s+True,\s+\[.*\]\)", quantities["text/plain"], re.DOTALL)
    assert len(re.findall(r"[124]: [0-9.e-]+", sweep["text/plain"])) == 3
    assert "greedy, intervals of 95%" in magic["text/html"]
    assert tokens["text/plain"] == "8.0"
