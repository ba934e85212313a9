"""What libraries warn of belongs to the result, whoever else listens to them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import transformers.models.mamba.modeling_mamba  # noqa: F401  (an inner session would forget it)

from tests.integration.conftest import TINY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAMBA = {"model_type": "mamba", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}
KERNELS = "`selective_scan_fn` is falling back to its reference PyTorch implementation"


@pytest.mark.parametrize("options", [(), ("-p", "no:logging"), ("--log-level=CRITICAL", "-p", "no:warnings")], ids=str)
def test_slow_kernels_are_told_of_each_experiment_that_shares_a_load(
    run: Callable[..., pytest.RunResult],
    write: Callable[..., Path],
    saved: Callable[[], list[dict[str, Any]]],
    pytester: pytest.Pytester,
    options: tuple[str, ...],
) -> None:
    (pytester.path / "config.json").write_text(json.dumps(MAMBA))
    write(
        base=TINY.replace("builtin:tiny-llama", "."),
        extra="weights: random\nexperiments: [{name: a}, {name: b, pytorch: {batch_size: 2}}]\n",
    )
    run("--llem-meter=none", "--benchmark-json=out.json", *options).assert_outcomes(passed=2)
    results = [row["extra_info"]["result"] for row in saved()]
    assert len(results) == 2
    for result in results:
        texts = result["warnings"]
        assert sum(KERNELS in text for text in texts) == 1
        assert sum(text.startswith("transformers.integrations.hub_kernels: `") for text in texts) >= 1
        assert [text for text in texts if "mambapy" in text] == [
            "transformers: MambaForCausalLM looks for mambapy, which is not usable here"
        ]


def test_nothing_is_written_while_it_is_measured(
    run: Callable[..., pytest.RunResult], saved: Callable[[], list[dict[str, Any]]], pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        """
        import logging, warnings

        def test_callable(llem_benchmark, caplog):
            def work():
                logging.getLogger("a.library").warning("slow")
                assert not caplog.records

            llem_benchmark.pedantic(work, rounds=2, min_window_s=0.0)
            assert [record.getMessage() for record in caplog.records] == ["slow"]
        """
    )
    run("--llem-meter=none", "--benchmark-json=out.json").assert_outcomes(passed=1)
    assert "a.library: slow" in saved()[0]["extra_info"]["result"]["warnings"]


def test_a_plain_model_has_none(
    run: Callable[..., pytest.RunResult], write: Callable[..., Path], saved: Callable[[], list[dict[str, Any]]]
) -> None:
    write()
    run("--llem-meter=none", "--benchmark-json=out.json").assert_outcomes(passed=1)
    (row,) = saved()
    texts = row["extra_info"]["result"]["warnings"]
    assert not [text for text in texts if text.startswith(("transformers.", "torch."))]
