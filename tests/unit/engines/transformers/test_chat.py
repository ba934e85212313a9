"""Prompts in the tokens of a real tokenizer, and in its chat template."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers.models import BPE

from pytest_llem.engines.transformers.builtin import builtin_tokenizer
from pytest_llem.errors import PromptError
from tests.unit.engines.test_prompts import load

if TYPE_CHECKING:
    from pathlib import Path


class TestChat:
    TEMPLATE = (
        "<bos>{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )

    @pytest.fixture
    def tokenizer(self) -> Any:
        tokenizer = builtin_tokenizer(2048)
        tokenizer.chat_template = self.TEMPLATE
        return tokenizer

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "p.jsonl").write_text('{"prompt": "one"}\n{"prompt": "{{ two }}"}\n')
        return tmp_path

    def test_prompts_are_put_into_the_template_as_a_users_message(self, folder: Path, tokenizer: Any) -> None:
        prompts = load(folder, tokenizer, dataset={"path": "p.jsonl"}, chat=True)
        texts = [tokenizer.decode(ids) for ids in prompts.token_ids]
        assert texts == ["<bos>[user]one[assistant]", "<bos>[user]{{ two }}[assistant]"]
        # The template brings the token that begins a text; the tokenizer must not add it again.
        assert prompts.token_ids[0].count(256) == 1

    @pytest.mark.parametrize("chat", [None, False])
    def test_without_chat_they_stay_plain(self, folder: Path, tokenizer: Any, chat: bool | None) -> None:
        prompts = load(folder, tokenizer, dataset={"path": "p.jsonl"}, chat=chat)
        assert tokenizer.decode(prompts.token_ids[0]) == "<bos>one"

    def test_a_builtin_set_is_put_into_the_template_too(self, tokenizer: Any) -> None:
        plain, chat = (load(tokenizer=tokenizer, dataset="natural", chat=on) for on in (False, True))
        assert len(plain.token_ids) == len(chat.token_ids)
        assert plain.sha256() != chat.sha256()

    def test_the_template_counts_towards_the_limit(self, folder: Path, tokenizer: Any) -> None:
        prompts = load(folder, tokenizer, dataset={"path": "p.jsonl"}, chat=True, max_input_tokens=20)
        assert [len(ids) for ids in prompts.token_ids] == [20, 20]
        assert prompts.truncated == 2

    def test_the_users_text_is_cut_and_not_the_header_of_the_answer(self, tmp_path: Path, tokenizer: Any) -> None:
        text = "abcdefghij" * 50
        (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"prompt": one}) for one in (text, "abc", "é" * 99)))
        for limit in (20, 35, 100, 499):
            prompts = load(tmp_path, tokenizer, dataset={"path": "p.jsonl"}, chat=True, max_input_tokens=limit)
            # The template takes eighteen of the limit, as every byte is a token.
            assert tokenizer.decode(prompts.token_ids[0]) == f"<bos>[user]{text[: limit - 18]}[assistant]"
            assert len(prompts.token_ids[0]) == limit
        prompts = load(tmp_path, tokenizer, dataset={"path": "p.jsonl"}, chat=True, max_input_tokens=35)
        assert tokenizer.decode(prompts.token_ids[1]) == "<bos>[user]abc[assistant]"
        # Half a character is none: the limit is not reached.
        assert tokenizer.decode(prompts.token_ids[2]) == f"<bos>[user]{'é' * 8}[assistant]"
        assert prompts.truncated == 2

    def test_a_template_that_leaves_no_room_is_refused(self, folder: Path, tokenizer: Any) -> None:
        message = r"p\.jsonl:1: prompt 1: the chat template leaves it no room in 18 tokens; raise max_input_tokens"
        with pytest.raises(PromptError, match=message):
            load(folder, tokenizer, dataset={"path": "p.jsonl"}, chat=True, max_input_tokens=18)

    def test_a_tokenizer_without_a_template_is_refused(self, folder: Path) -> None:
        with pytest.raises(PromptError, match=r"^chat: the model's tokenizer has no chat template"):
            load(folder, builtin_tokenizer(2048), dataset={"path": "p.jsonl"}, chat=True)


def test_tokens_that_are_drawn_at_random_are_refused(tmp_path: Path) -> None:
    tokenizer: Any = builtin_tokenizer(2048)
    vocabulary = {"a": 0, "b": 1, "ab": 2}
    tokenizer.backend_tokenizer.model = BPE(vocab=vocabulary, merges=[("a", "b")], dropout=0.9)
    (tmp_path / "p.txt").write_text("ab" * 400)
    with pytest.raises(PromptError, match=r"p\.txt:1: prompt 1: gets other tokens each time"):
        load(tmp_path, tokenizer, dataset={"path": "p.txt"}, max_input_tokens=999)
