from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_llem.engines.transformers import caches
from pytest_llem.engines.transformers.timing import TokenClock
from pytest_llem.errors import MeasurementError, UnavailableError
from tests.unit.engines.transformers.conftest import HERE, experiment, load_experiment

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.engines.transformers.engine import TransformersModel
    from pytest_llem.engines.transformers.workload import TransformersWorkload
    from tests.unit.engines.transformers.conftest import Load


def prepare(model: TransformersModel, /, **fields: Any) -> TransformersWorkload:
    return model.prepare(experiment(**fields), HERE)


def all_tokens(workload: TransformersWorkload) -> list[list[int]]:
    """The new tokens of all prompts, in order, however they were batched."""
    return [tokens for index in range(workload.calls) for tokens in workload.output_tokens(index, workload.run(index))]


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, str]:
    """A dataset of prompts whose lengths differ, so that batches need padding."""
    path = tmp_path / "prompts.txt"
    path.write_text("a\nan apple a day\nkeeps\nthe doctor away from here\nx\n")
    return {"path": str(path)}


@pytest.mark.parametrize(("batch_size", "calls"), [(None, 5), (2, 3), (5, 1), (8, 1)])
def test_batches_keep_the_order_and_padding_changes_no_token(
    tiny: TransformersModel, texts: dict[str, str], batch_size: int | None, calls: int
) -> None:
    alone = prepare(tiny, dataset=texts)
    batched = prepare(tiny, dataset=texts, pytorch={"batch_size": batch_size})
    assert batched.calls == calls
    assert all_tokens(batched) == all_tokens(alone)
    assert batched.prompts.input_tokens == alone.prompts.input_tokens == 2 + 15 + 6 + 26 + 2
    assert batched.prompts == alone.prompts


def test_attention_implementations_agree_on_padded_batches(
    load: Load, tiny: TransformersModel, texts: dict[str, str]
) -> None:
    options = {"attn_implementation": "eager", "batch_size": 5}
    eager = prepare(load(pytorch=options), dataset=texts, pytorch=options)
    assert all_tokens(eager) == all_tokens(prepare(tiny, dataset=texts))


def test_prompts_are_cut_at_the_end_and_the_loss_is_counted(tiny: TransformersModel, texts: dict[str, str]) -> None:
    workload = prepare(tiny, dataset=texts, max_input_tokens=6)
    assert workload.prompts.truncated == 2
    assert workload.prompts.input_tokens == 2 + 6 + 6 + 6 + 2
    # BOS and the first five bytes are what is left.
    assert workload.run(1)[0, :6].tolist() == list(tiny.tokenizer("an ap")["input_ids"])


class TestCounting:
    @pytest.mark.parametrize(
        ("new", "count"),
        [
            ([1, 2, 3, 4], 4),
            ([1, 257, 258, 258], 2),
            ([257, 258, 258, 258], 1),
            ([257, 257, 257, 257], 1),
            ([1, 258, 2, 258], 4),  # an ordinary sequence may contain the padding token
            ([1, 2, 3, 257], 4),
        ],
    )
    def test_a_sequence_ends_with_its_first_end_of_sequence_token(
        self, tiny: TransformersModel, new: list[int], count: int
    ) -> None:
        workload = prepare(tiny)
        output = torch.tensor([[7] * 8 + new])
        assert len(workload.output_tokens(0, output)[0]) == count

    def test_several_tokens_can_end_a_sequence(self, load: Load, saved_model: Path) -> None:
        workload = prepare(load(model=str(saved_model)))
        output = torch.tensor([[7] * 8 + [1, 17, 257, 258], [7] * 8 + [1, 2, 257, 258]])
        assert workload.output_tokens(0, output) == [[1, 17], [1, 2, 257]]

    def test_end_of_sequence_in_the_prompt_ends_nothing(self, tiny: TransformersModel) -> None:
        workload = prepare(tiny)
        assert workload.output_tokens(0, torch.tensor([[257] * 8 + [1, 2]])) == [[1, 2]]

    def test_a_row_that_ends_early_counts_less_than_its_batch(self, tiny: TransformersModel) -> None:
        # Declare the second token of the first prompt to end sequences: that row ends, the others run on.
        rows = all_tokens(prepare(tiny))
        end = rows[0][1]
        workload = prepare(tiny, pytorch={"batch_size": 3}, passthrough={"generate": {"eos_token_id": [end]}})
        output = workload.run(0)
        expected = [row[: row.index(end) + 1] if end in row else row for row in rows]
        assert workload.output_tokens(0, output) == expected
        assert sum(map(len, expected)) < 18

    def test_beams_and_returned_sequences(self, tiny: TransformersModel) -> None:
        workload = prepare(
            tiny,
            pytorch={"batch_size": 2, "num_beams": 3, "num_return_sequences": 2},
            decoder={"min_new_tokens": 6},
        )
        assert workload.expected_output_tokens == 3 * 2 * 6
        assert len(all_tokens(workload)) == 3 * 2
        assert sum(map(len, all_tokens(workload))) == workload.expected_output_tokens

    def test_a_stop_string_ends_a_sequence_and_counts(self, tiny: TransformersModel) -> None:
        letters = tiny.tokenizer("abcdefgh")["input_ids"][1:]
        others = sorted(set(range(259)) - set(letters))
        fields = {"pytorch": {"no_repeat_ngram_size": 1}, "passthrough": {"generate": {"suppress_tokens": others}}}
        whole = all_tokens(prepare(tiny, **fields))
        end = whole[0][2]
        stopped = all_tokens(prepare(tiny, **fields, decoder={"stop_strings": [tiny.tokenizer.decode([end])]}))
        assert stopped == [row[: row.index(end) + 1] if end in row else row for row in whole]
        assert len(stopped[0]) == 3 < len(whole[0])

    def test_stop_strings_need_a_tokenizer(self, load: Load, one_layer: str) -> None:
        model = load(model=one_layer, weights="random")
        with pytest.raises(MeasurementError, match="stop_strings: the model comes without a tokenizer"):
            prepare(model, decoder={"stop_strings": ["x"]})


class TestSampling:
    SAMPLE: dict[str, Any] = {"decoder": {"preset": "standard"}, "max_output_tokens": 12}  # noqa: RUF012

    def test_every_pass_samples_the_same_tokens(self, tiny: TransformersModel) -> None:
        workload = prepare(tiny, **self.SAMPLE)
        first = all_tokens(workload)
        torch.rand(7)
        assert all_tokens(workload) == first
        assert workload.output_tokens(2, workload.run(2)) == [first[2]]  # whatever ran before

    def test_the_seed_decides_the_tokens(self, tiny: TransformersModel) -> None:
        first = all_tokens(prepare(tiny, **self.SAMPLE, random_seed=1, dataset=SEEDED))
        again = all_tokens(prepare(tiny, **self.SAMPLE, random_seed=1, dataset=SEEDED))
        other = all_tokens(prepare(tiny, **self.SAMPLE, random_seed=2, dataset=SEEDED))
        assert first == again
        assert first != other

    def test_calls_have_seeds_of_their_own(self, tiny: TransformersModel, tmp_path: Path) -> None:
        path = tmp_path / "same.txt"
        path.write_text("same\nsame\n")
        rows = all_tokens(prepare(tiny, **self.SAMPLE, dataset={"path": str(path)}))
        assert rows[0] != rows[1]


SEEDED = {"synthetic": {"n": 2, "input_len": 8, "seed": 0}}


class TestSharedModel:
    def test_experiments_do_not_leak_into_each_other(self, tiny: TransformersModel) -> None:
        plain = prepare(tiny)
        before = all_tokens(plain)
        penalised = prepare(tiny, decoder={"repetition_penalty": 5.0}, pytorch={"num_beams": 2})
        assert all_tokens(penalised) != before
        assert all_tokens(plain) == before

    def test_a_static_cache_is_as_long_as_its_own_experiment_needs(
        self, tiny: TransformersModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from transformers.generation import utils

        lengths: list[int] = []

        class Spy(utils.StaticCache):  # type: ignore[misc, name-defined]
            def __init__(self, *, max_cache_len: int, **kwargs: Any) -> None:
                lengths.append(max_cache_len)
                super().__init__(max_cache_len=max_cache_len, **kwargs)

        monkeypatch.setattr(utils, "StaticCache", Spy)
        monkeypatch.setitem(caches.CACHE_CLASSES, "static", Spy)
        static = {"cache_implementation": "static"}
        long = prepare(tiny, pytorch=static, max_output_tokens=30)
        short = prepare(tiny, pytorch=static, max_output_tokens=4)
        tiny.model._previous_max_cache_length = 999  # as a user's own call to generate() leaves it
        for workload in (long, short, long):
            workload.run(0)
        assert lengths[:2] == [8 + 30 - 1, 8 + 4 - 1]
        assert set(lengths[2:]) <= {8 + 30 - 1}


class TestTiming:
    def test_a_clock_sees_prompt_first_token_and_the_rest(self) -> None:
        clock = TokenClock()
        clock.start()
        clock.put(torch.zeros(2, 8))
        for tokens in (2, 2, 4):  # the last step brings two tokens a row, as speculation does
            clock.put(torch.zeros(tokens))
        clock.end()
        timing = clock.timing()
        per_token_s = timing.time_per_output_token_s
        assert per_token_s is not None
        noted = clock._times_s
        assert timing.time_to_first_token_s == noted[0] - clock._start_s
        assert per_token_s == pytest.approx((noted[2] - noted[0]) / 3)

    def test_one_token_has_no_time_per_further_token(self, tiny: TransformersModel) -> None:
        timing = prepare(tiny, max_output_tokens=1).time_tokens(0)
        assert timing.time_to_first_token_s > 0
        assert timing.time_per_output_token_s is None

    @pytest.mark.parametrize("pytorch", [{"batch_size": 3}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 2}], ids=str)
    def test_batches_beams_and_speculation_are_timed(self, tiny: TransformersModel, pytorch: dict[str, Any]) -> None:
        fields = {"pytorch": pytorch, "decoder": {"min_new_tokens": 24}, "max_output_tokens": 24}
        timing = prepare(tiny, **fields).time_tokens(0)
        assert timing.time_to_first_token_s > 0
        assert timing.time_per_output_token_s is not None
        assert timing.time_per_output_token_s > 0


class TestFailures:
    @pytest.mark.parametrize(
        ("raised", "kind", "message"),
        [
            (torch.OutOfMemoryError("CUDA out of memory. Tried ..."), MeasurementError, "lower batch_size"),
            (RuntimeError("[enforce fail] can't allocate memory"), MeasurementError, "lower batch_size"),
            (
                RuntimeError("CUDA error: device-side assert\nmore"),
                MeasurementError,
                "cannot use it any more",
            ),
            (ImportError("No module named 'x'"), UnavailableError, "needs a package"),
            (ValueError("shapes\ndiffer"), MeasurementError, r"generate\(\) failed: ValueError: shapes differ$"),
        ],
        ids=["cuda-memory", "cpu-memory", "device-assert", "import", "other"],
    )
    def test_a_failing_call_is_one_line_and_holds_no_tensor(
        self, tiny: TransformersModel, raised: Exception, kind: type[Exception], message: str
    ) -> None:
        workload = prepare(tiny)
        activations: list[weakref.ref[torch.Tensor]] = []

        def fail(*_: object) -> None:
            large = torch.zeros(3)
            activations.append(weakref.ref(large))
            raise raised

        hook = tiny.model.lm_head.register_forward_hook(fail)
        try:
            with pytest.raises(kind, match=message) as error:
                workload.run(0)
        finally:
            hook.remove()
        assert "\n" not in str(error.value)
        assert error.value.__cause__ is raised
        assert activations[0]() is None
        assert workload.run(0).shape == (1, 14)

    def test_a_failure_that_shows_when_waiting_is_explained(
        self, tiny: TransformersModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: torch.device) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        workload = prepare(tiny)
        workload.synchronize()
        monkeypatch.setattr(tiny, "cuda_devices", (torch.device("cuda", 0),))
        monkeypatch.setattr(torch.cuda, "synchronize", fail)
        with pytest.raises(MeasurementError, match="cannot use it any more"):
            workload.synchronize()

    def test_a_kept_failure_does_not_keep_the_model(self) -> None:
        model = load_experiment(experiment())
        workload = prepare(model, passthrough={"generate": {"nonsense": 1}})
        with pytest.raises(MeasurementError) as error:
            workload.run(0)
        gone = weakref.ref(model.model)
        model.close()
        assert gone() is None
        assert error.value.__traceback__ is not None

    def test_a_closed_model_runs_nothing(self) -> None:
        model = load_experiment(experiment())
        workload = prepare(model)
        model.close()
        with pytest.raises(MeasurementError, match="was closed"):
            workload.run(0)


def test_peak_memory_follows_what_a_call_takes(tiny: TransformersModel) -> None:
    workload = prepare(tiny)
    workload.reset_peak_memory()
    before, _ = workload.peak_memory_bytes()
    block = torch.ones(2**26, dtype=torch.uint8)
    del block
    after, reason = workload.peak_memory_bytes()
    assert reason is None
    assert before is not None
    assert after is not None
    assert after - before > 2**25
    workload.reset_peak_memory()
    again, _ = workload.peak_memory_bytes()
    assert again is not None
    assert again < after


def test_prefill_stops_after_one_token_and_keeps_the_length_of_the_cache(load: Load) -> None:
    lengths: list[int] = []
    config = experiment(
        max_output_tokens=8, decoder={"min_new_tokens": 8}, pytorch={"cache_implementation": "static", "batch_size": 2}
    )
    model = load()
    workload = model.prepare(config, HERE)
    for one in (workload, workload.prefill()):
        output = one.run(0)
        lengths.append(one._static_cache["_previous_max_cache_length"])
        new = 8 if one is workload else 1
        assert sum(map(len, one.output_tokens(0, output))) == 2 * new
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize(
    "pytorch",
    [
        {"num_beams": 2},
        {"prompt_lookup_num_tokens": 3},
        # Drafts of its own weights are all accepted: a first step would give five tokens.
        {"assistant_model": "builtin:tiny-llama", "num_assistant_tokens": 4},
    ],
    ids=str,
)
def test_prefill_stops_after_one_token_where_a_step_may_give_more(load: Load, pytorch: dict[str, Any]) -> None:
    passed = {"generate": {"assistant_confidence_threshold": 0.0}} if "assistant_model" in pytorch else {}
    config = experiment(max_output_tokens=8, decoder={"min_new_tokens": 8}, pytorch=pytorch, passthrough=passed)
    workload = load(pytorch=pytorch, passthrough=passed).prepare(config, HERE)
    assert len(workload.prefill().output_tokens(0, workload.prefill().run(0))[0]) == 1
    assert len(workload.output_tokens(0, workload.run(0))[0]) == 8
