"""Each sequence generates as many tokens as its prompt asks for, whatever is batched with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_llem.engines.transformers.builtin import builtin_tokenizer
from pytest_llem.errors import PromptError
from tests.unit.engines.transformers.conftest import experiment
from tests.unit.engines.transformers.test_workload import all_tokens, prepare

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.engines.transformers.engine import TransformersModel

LENGTHS = [5, 1, 9, 9, 2]


@pytest.fixture
def dataset(tmp_path: Path) -> dict[str, str]:
    """Prompts of several lengths, each with a number of new tokens."""
    texts = ("a", "an apple a day", "keeps", "the doctor away from here", "x")
    lines = (json.dumps({"prompt": text, "tokens": n}) for text, n in zip(texts, LENGTHS, strict=True))
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    return {"path": str(tmp_path / "p.jsonl"), "output_field": "tokens"}


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_sequence_has_its_own_length_and_the_tokens_of_a_longer_run(
    tiny: TransformersModel, dataset: dict[str, str], batch_size: int
) -> None:
    fields: dict[str, Any] = {"max_output_tokens": 12, "pytorch": {"batch_size": batch_size}}
    found = all_tokens(workload := prepare(tiny, dataset=dataset, **fields))
    assert [len(tokens) for tokens in found] == LENGTHS
    assert workload.expected_output_tokens == sum(LENGTHS)
    longer = all_tokens(prepare(tiny, dataset={"path": dataset["path"]}, decoder={"min_new_tokens": 12}, **fields))
    assert found == [tokens[:length] for tokens, length in zip(longer, LENGTHS, strict=True)]


@pytest.mark.parametrize("has_end", [True, False])
def test_a_call_ends_with_its_longest_sequence_and_pads_the_others(
    tiny: TransformersModel, dataset: dict[str, str], has_end: bool
) -> None:
    workload = prepare(tiny, dataset=dataset, max_output_tokens=12, pytorch={"batch_size": 2})
    if not has_end:
        workload._generation.config.eos_token_id = None
    output = workload.run(0)
    assert output.shape[1] == 15 + max(LENGTHS[:2])
    assert set(output[1, 15 + LENGTHS[1] :].tolist()) == {258}
    assert workload.run(2).shape[1] == 2 + LENGTHS[4]


@pytest.mark.parametrize("ends", [True, False])
def test_no_token_ends_a_sequence_earlier(tiny: TransformersModel, dataset: dict[str, str], ends: bool) -> None:
    # The very token that the third sequence begins with is made to end sequences, or there is none that does.
    first = all_tokens(prepare(tiny, dataset=dataset, max_output_tokens=12))[2][0]
    passed = {"generate": {"eos_token_id": [first] if ends else []}}
    found = all_tokens(
        prepare(tiny, dataset=dataset, max_output_tokens=12, passthrough=passed, pytorch={"batch_size": 5})
    )
    assert [len(tokens) for tokens in found] == LENGTHS
    assert (first in found[2]) is not ends


def test_sampled_sequences_of_a_prompt_have_its_length(tiny: TransformersModel, dataset: dict[str, str]) -> None:
    workload = prepare(
        tiny,
        dataset=dataset,
        max_output_tokens=12,
        decoder={"do_sample": True},
        pytorch={"batch_size": 3, "num_return_sequences": 2},
    )
    assert [len(tokens) for tokens in all_tokens(workload)] == [length for length in LENGTHS for _ in range(2)]
    assert workload.expected_output_tokens == 2 * sum(LENGTHS)


def test_a_static_cache_keeps_its_length(tiny: TransformersModel, dataset: dict[str, str]) -> None:
    options = {"batch_size": 2, "cache_implementation": "static"}
    found = all_tokens(prepare(tiny, dataset=dataset, max_output_tokens=12, pytorch=options))
    assert [len(tokens) for tokens in found] == LENGTHS


def test_prefill_times_and_logits_are_those_of_the_same_work(tiny: TransformersModel, dataset: dict[str, str]) -> None:
    workload = prepare(tiny, dataset=dataset, max_output_tokens=12, pytorch={"batch_size": 2})
    tokens = all_tokens(workload)
    prefill = workload.prefill()
    assert all_tokens(prefill) == [sequence[:1] for sequence in tokens]
    # Those that are alone, and those that wait for another one.
    assert workload.time_tokens(0).time_per_output_token_s is not None
    watched, _ = workload.watch_tokens(0)
    assert watched is not None
    assert [sequence.tokens for sequence in watched] == tokens[:2]
    assert [len(sequence.logit_gaps) for sequence in watched] == LENGTHS[:2]


def test_an_end_that_came_all_the_same_is_not_counted_as_more(tiny: TransformersModel, dataset: dict[str, str]) -> None:
    workload = prepare(tiny, dataset=dataset, max_output_tokens=12, pytorch={"batch_size": 2})
    output = torch.tensor([[7] * 15 + [1, 257, 258, 258, 258], [7] * 15 + [1, 258, 258, 258, 258]])
    assert workload.output_tokens(0, output) == [[1, 257], [1]]


class TestConversations:
    """In a real template, which writes roles, tools and all turns."""

    TEMPLATE = (
        "{% if tools %}<tools>{{ tools | tojson }}{% endif %}"
        "{% for message in messages %}"
        "{% if message.role == 'system' and not loop.first %}{{ raise_exception('system comes first') }}{% endif %}"
        "<{{ message.role }}>{{ message.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    SYSTEM, USER, ANSWER = (
        {"role": role, "content": text}
        for role, text in (("system", "be brief"), ("user", "hello there"), ("assistant", "hi"))
    )

    def load(self, folder: Path, *messages: Any, template: str = TEMPLATE, tools: Any = None, limit: int = 128) -> Any:
        from tests.unit.engines.test_prompts import load

        tokenizer: Any = builtin_tokenizer(2048)
        tokenizer.chat_template = template
        (folder / "p.jsonl").write_text(json.dumps({"messages": messages, "tools": tools}))
        prompts = load(folder, tokenizer, dataset={"path": "p.jsonl"}, chat=True, max_input_tokens=limit)
        return tokenizer.decode(prompts.token_ids[0]), prompts

    def error(self, folder: Path, *messages: Any, **arguments: Any) -> str:
        with pytest.raises(PromptError) as error:
            self.load(folder, *messages, **arguments)
        return str(error.value)

    def test_all_turns_and_tools_arrive(self, tmp_path: Path) -> None:
        turns = (self.SYSTEM, self.USER, self.ANSWER, self.USER)
        text, _ = self.load(tmp_path, *turns, tools=[{"name": "f"}])
        written = "<system>be brief<user>hello there<assistant>hi<user>hello there<assistant>"
        assert text == f'<tools>[{{"name": "f"}}]{written}'
        assert self.load(tmp_path, *turns)[0] == written

    def test_the_last_message_is_cut(self, tmp_path: Path) -> None:
        whole = "<user>hello there<assistant>hi<user>hello there<assistant>"
        text, prompts = self.load(tmp_path, self.USER, self.ANSWER, self.USER, limit=len(whole) - 4)
        assert text == "<user>hello there<assistant>hi<user>hello t<assistant>"
        assert prompts.truncated == 1
        message = self.error(tmp_path, self.USER, self.ANSWER, self.USER, limit=20)
        assert "p.jsonl:1: prompt 1: the chat template leaves it no room in 20 tokens" in message

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            (
                TEMPLATE.replace("<tools>{{ tools | tojson }}", ""),
                "p.jsonl:1: prompt 1: the template does not write tools",
            ),
            ("{{ messages[-1].content }}", "p.jsonl:1: prompt 1: the template leaves out a system's text"),
            (
                TEMPLATE.replace("system comes first", "no").replace("not loop.first", "true"),
                "p.jsonl:1: prompt 1: the template fails: TemplateError: no",
            ),
        ],
    )
    def test_what_a_template_does_not_write_is_named_by_line(self, tmp_path: Path, template: str, message: str) -> None:
        assert message in self.error(tmp_path, self.SYSTEM, self.USER, template=template, tools=[{"name": "f"}])


def test_what_does_not_go_with_lengths_of_their_own() -> None:
    for fields, field in (
        ({"decoder": {"min_new_tokens": 3}}, "decoder.min_new_tokens"),
        ({"decoder": {"stop_strings": ["x"]}}, "decoder.stop_strings"),
        ({"pytorch": {"num_beams": 2}}, "pytorch.num_beams"),
        ({"pytorch": {"prompt_lookup_num_tokens": 2}}, "pytorch.prompt_lookup_num_tokens"),
        ({"pytorch": {"assistant_model": "builtin:tiny-llama"}}, "pytorch.assistant_model"),
        ({"passthrough": {"generate": {"max_time": 1.0}}}, "passthrough.generate.max_time"),
        ({"output_lengths": {"mean": 3, "sd": 0, "max": 7}}, "output_lengths.max"),
        ({"dataset": {"path": "p.jsonl", "output_field": "n"}}, "output_lengths"),
    ):
        with pytest.raises(ValueError, match=rf"\n{field}\n"):
            experiment(**{"output_lengths": {"mean": 3, "sd": 1}} | fields)
