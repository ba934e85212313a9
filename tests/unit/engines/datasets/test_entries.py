"""What a line of a file is: a text, messages, a conversation of ShareGPT, a request of OpenAI's batches."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.config import ExperimentConfig, FileDataset
from pytest_llem.engines.datasets.entries import Conversation, FileEntries
from pytest_llem.engines.prompts import load_prompts
from pytest_llem.errors import PromptError
from tests.unit.engines.test_prompts import Characters

if TYPE_CHECKING:
    from pathlib import Path

USER = {"role": "user", "content": "hi"}
REQUEST: dict[str, Any] = {"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "hi"}}


def read(folder: Path, *lines: Any, chat: bool = True, **fields: Any) -> FileEntries:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "p.jsonl").write_text(text)
    return FileEntries(FileDataset(path="p.jsonl", **fields), folder, chat=chat)


def contents(folder: Path, *lines: Any, chat: bool = True, **fields: Any) -> list[Any]:
    """Texts as they are, and of conversations the messages."""
    found = [entry.content for entry in read(folder, *lines, chat=chat, **fields)]
    return [list(content.messages) if isinstance(content, Conversation) else content for content in found]


def refused(folder: Path, *lines: Any, chat: bool = True, **fields: Any) -> str:
    with pytest.raises(PromptError) as error:
        contents(folder, *lines, chat=chat, **fields)
    return str(error.value).replace(f"{folder}/", "")


class TestMessages:
    def test_they_are_read_as_they_are(self, tmp_path: Path) -> None:
        tools = [{"type": "function", "function": {"name": "f"}}]
        calls = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
        messages = [{"role": "system", "content": "s"}, USER, calls, {"role": "tool", "content": "42"}]
        (entry,) = read(tmp_path, {"messages": messages, "tools": tools})
        assert isinstance(entry.content, Conversation)
        assert list(entry.content.messages) == messages
        assert entry.content.tools == tuple(tools)

    def test_parts_of_text_become_lines(self, tmp_path: Path) -> None:
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        assert contents(tmp_path, {"messages": [{"role": "user", "content": parts}]}) == [[USER | {"content": "a\nb"}]]

    def test_any_key_may_hold_them(self, tmp_path: Path) -> None:
        assert contents(tmp_path, {"chat": [USER]}, field="chat") == [[USER]]
        assert contents(tmp_path, {"conversations": [USER]}) == [[USER]]
        assert contents(tmp_path, {"prompt": "no", "messages": [USER]}, format="messages") == [[USER]]

    def test_without_a_template_they_are_refused(self, tmp_path: Path) -> None:
        message = "p.jsonl:1: holds messages, which need the model's chat template; set chat: true"
        assert refused(tmp_path, {"messages": [USER]}, chat=False) == message

    @pytest.mark.parametrize(
        ("messages", "message"),
        [
            ([], "field 'messages' is no list of messages, or is empty"),
            ("hi", "no field 'prompt': there is messages"),
            ([USER, {"role": "assistant", "content": "a"}], "ends with the turn of assistant, after which there is"),
            ([{"role": "system", "content": "a"}], "ends with the turn of system, after which there is nothing"),
            (
                [{"role": "usr", "content": "a"}],
                "message 1: role 'usr' is unknown; use one of system, developer, user, ",
            ),
            ([{"role": ["user"], "content": "a"}], "message 1: role a list is unknown"),
            ([{"role": "x" * 10**5, "content": "a"}], f"message 1: role '{'x' * 39}... is unknown; use one of system"),
            ([{"content": "a"}], "message 1: role nothing is unknown"),
            ([USER, USER["content"]], "message 2 is no mapping with role and content"),
            ([{"role": "user"}], "message 1: content is no text, nor a list of parts"),
            ([{"role": "user", "content": ""}], "the last message is not a text, or is empty"),
            (
                [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
                "message 1 has a part of type 'im",
            ),
            (
                [{"role": "user", "content": ["a"]}],
                "message 1 has a part of type 'str'; only those of text are measured",
            ),
            ([{"role": "user", "content": "a \ud83d"}], "the last message holds half a character (\\ud83d) after 2"),
            ([USER | {"name": "\ud83d"}], "it holds half a character"),
        ],
    )
    def test_what_cannot_be_asked_is_named_by_its_line(self, tmp_path: Path, messages: Any, message: str) -> None:
        found = refused(tmp_path, {"messages": [USER]}, {"messages": messages})
        assert found.startswith(f"p.jsonl:2: {message}") or (messages == "hi" and found.startswith("p.jsonl:2: "))
        assert refused(tmp_path, {"messages": messages}).startswith(f"p.jsonl:1: {message}")

    def test_tools_are_a_list(self, tmp_path: Path) -> None:
        assert refused(tmp_path, {"messages": [USER], "tools": "[]"}) == "p.jsonl:1: field 'tools' is no list"


def turns(*said: str) -> dict[str, Any]:
    """``h:`` what a human says, ``g:`` what the model does, ``s:`` what the system does."""
    speakers = {"h": "human", "g": "gpt", "s": "system"}
    return {"id": "x", "conversations": [{"from": speakers[one[0]], "value": one[2:]} for one in said]}


class TestShareGPT:
    @pytest.mark.parametrize(
        ("said", "first", "chat"),
        [
            (("h:1", "g:2"), "1", "h:1"),
            (("h:1", "g:2", "h:3", "g:4"), "1", "h:1 g:2 h:3"),
            (("s:0", "h:1", "g:2"), "1", "s:0 h:1"),
            (("g:0", "h:1", "g:2"), "1", "h:1"),
            (("h:1", "g:2", "h:3"), "1", "h:1"),
            (("h:1", "g:2", "g:3"), "1", "h:1"),
            (("h:1",), "1", "h:1"),
        ],
    )
    def test_what_is_asked(self, tmp_path: Path, said: tuple[str, ...], first: str, chat: str) -> None:
        assert contents(tmp_path, turns(*said), chat=False) == [first]
        (messages,) = contents(tmp_path, turns(*said))
        roles = {"user": "h", "assistant": "g", "system": "s"}
        assert " ".join(f"{roles[one['role']]}:{one['content']}" for one in messages) == chat

    def test_conversations_without_a_human_are_left_out_and_counted(self, tmp_path: Path) -> None:
        entries = read(tmp_path, turns("h:1"), turns("g:1"), turns(), turns("h: ", "g:2"), turns("h:2"))
        assert [entry.line for entry in entries] == [1, 5]
        assert entries.notes == ["dataset: 3 conversations in which no human says anything were left out"]
        assert read(tmp_path, turns("h:1")).notes == []

    @pytest.mark.parametrize(
        ("conversations", "message"),
        [
            ([{"from": "humn", "value": "a"}], "turn 1: from 'humn' is unknown; use one of human, user, system, gpt,"),
            ([{"from": "human", "value": None}], "turn 1 is no mapping with from and a text as value"),
            ({"from": "human"}, "field 'conversations' is no list of turns"),
        ],
    )
    def test_what_is_none_is_named_by_its_line(self, tmp_path: Path, conversations: Any, message: str) -> None:
        found = refused(tmp_path, turns("h:1"), {"conversations": conversations}, format="sharegpt")
        assert found.startswith(f"p.jsonl:2: {message}")


class TestRequests:
    def request(self, **body: Any) -> dict[str, Any]:
        return {"url": "/v1/chat/completions", "body": {"messages": [USER], **body}}

    def test_prompts_and_messages(self, tmp_path: Path) -> None:
        assert contents(tmp_path, REQUEST, chat=False) == ["hi"]
        assert contents(tmp_path, self.request()) == [[USER]]
        assert contents(tmp_path, {"body": {"messages": [USER]}}) == [[USER]]

    def test_its_limit_is_how_many_tokens_it_gets(self, tmp_path: Path) -> None:
        lines = (self.request(max_tokens=3), self.request(max_completion_tokens=4), self.request(max_tokens=None))
        assert [entry.output_tokens for entry in read(tmp_path, *lines)] == [3, 4, None]

    def test_what_the_experiment_decides_is_told(self, tmp_path: Path) -> None:
        entries = read(tmp_path, self.request(model="m", temperature=0.5, n=1, tool_choice="auto", stop=None))
        assert len(list(entries)) == 1
        assert entries.notes == ["dataset: the experiment decides what the requests say of model, temperature"]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"n": 2}, "body.n asks for what is not measured; remove it"),
            ({"stop": ["x"]}, "body.stop asks for what is not measured; remove it"),
            ({"response_format": {"type": "json_object"}}, "body.response_format asks for what is not measured"),
            ({"max_tokens": 0}, "field 'body.max_tokens' is no number of tokens, from 1 on: 0"),
            ({"max_tokens": 10**4000}, "field 'body.max_tokens' is no number of tokens, from 1 on"),
            ({"max_tokens": "9" * 5000}, "field 'body.max_tokens' is no number of tokens, from 1 on: '999"),
            ({"max_tokens": True}, "field 'body.max_tokens' is no number of tokens, from 1 on: true"),
            ({"max_tokens": 2, "max_completion_tokens": 3}, "max_completion_tokens and max_tokens differ; remove one"),
            ({"messages": "hi"}, "field 'body.messages' is no list of messages"),
        ],
    )
    def test_what_would_be_other_work_is_refused(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        assert refused(tmp_path, self.request(), self.request(**changes)).startswith(f"p.jsonl:2: {message}")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (
                REQUEST | {"url": "/v1/embeddings"},
                "url '/v1/embeddings' is not measured; the requests are of /v1/chat/",
            ),
            (REQUEST | {"url": ["a"]}, "url a list is not measured"),
            (REQUEST | {"body": {}}, "no field 'prompt': there is nothing"),
            (REQUEST | {"body": {"prompt": ["a", "b"]}}, "field 'body.prompt' is not a text, or is empty"),
            (REQUEST | {"body": "hi"}, "field 'body' is no mapping"),
        ],
    )
    def test_requests_of_another_kind(self, tmp_path: Path, line: Any, message: str) -> None:
        found = refused(tmp_path, line, chat=False, format="openai-batch")
        assert found.startswith(f"p.jsonl:1: {message}")

    def test_no_other_field_says_how_many_tokens_they_get(self, tmp_path: Path) -> None:
        found = refused(tmp_path, REQUEST | {"tokens": 3}, chat=False, output_field="tokens")
        assert found == "dataset.output_field: has no effect on requests, whose body says it; remove it"

    def test_a_completion_goes_into_no_template(self, tmp_path: Path) -> None:
        assert refused(tmp_path, REQUEST).endswith("whose prompt goes into no chat template; remove chat")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"prompt": "a"}, {"messages": [USER]}, "is messages of a chat, but what stands before it is a text"),
        (turns("h:1"), {"prompt": "a"}, "is a text, but what stands before it is a conversation of from and value"),
        ({"messages": [USER]}, turns("h:1"), "is a conversation of from and value, but what stands before it is mess"),
        ({"prompt": "a"}, REQUEST, "is a request with a body, but what stands before it is a text"),
    ],
)
def test_a_file_holds_one_kind(tmp_path: Path, first: Any, second: Any, message: str) -> None:
    assert refused(tmp_path, first, second).startswith(f"p.jsonl:2: {message}")


def test_a_format_that_is_said_is_the_only_one(tmp_path: Path) -> None:
    assert refused(tmp_path, {"prompt": "a"}, format="messages") == "p.jsonl:1: no field 'messages': there is prompt"
    message = "p.jsonl:1: field 'messages' is not a text, or is empty"
    assert refused(tmp_path, {"messages": [USER]}, format="prompt", field="messages") == message


class TestOutputTokens:
    def load(self, folder: Path, *lines: Any, dataset: Any = None, **fields: Any) -> tuple[int, ...] | None:
        (folder / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
        config = ExperimentConfig.model_validate(
            {"model": "x", "dataset": {"path": "p.jsonl", **(dataset or {})}, **fields}
        )
        prompts = load_prompts(config, folder, vocabulary_size=2**16, special_ids=(), tokenizer=Characters())  # type: ignore[arg-type]
        return prompts.output_tokens

    def error(self, folder: Path, *lines: Any, dataset: Any = None, **fields: Any) -> str:
        with pytest.raises(PromptError) as error:
            self.load(folder, *lines, dataset=dataset, **fields)
        return str(error.value).replace(f"{folder}/", "")

    LINES = tuple({"prompt": "a", "tokens": count} for count in (5, 1, 64))

    def test_a_field_says_them_and_they_stay_with_their_prompts(self, tmp_path: Path) -> None:
        assert self.load(tmp_path, *self.LINES, dataset={"output_field": "tokens"}) == (5, 1, 64)
        shuffled = self.load(tmp_path, *self.LINES, dataset={"output_field": "tokens", "shuffle": True, "seed": 1})
        assert shuffled == (1, 64, 5)
        assert self.load(tmp_path, *self.LINES) is None

    def test_what_is_none_or_too_many_is_named_by_its_line(self, tmp_path: Path) -> None:
        dataset = {"output_field": "tokens"}
        lines = (*self.LINES, {"prompt": "a", "tokens": 65})
        message = "p.jsonl:4: 65 new tokens are above max_output_tokens (64); raise it"
        assert self.error(tmp_path, *lines, dataset=dataset) == message
        assert self.error(tmp_path, {"prompt": "a", "token": 1}, dataset=dataset) == (
            "p.jsonl:1: no field 'tokens': did you mean 'token'? there is prompt, token"
        )

    def test_requests_say_them_all_or_none(self, tmp_path: Path) -> None:
        saying = REQUEST | {"body": {"prompt": "a", "max_tokens": 7}}
        assert self.load(tmp_path, saying, saying) == (7, 7)
        assert self.load(tmp_path, REQUEST, REQUEST) is None
        message = "p.jsonl:2: does not say max_tokens, and other requests do; say it in all or in none"
        assert self.error(tmp_path, saying, REQUEST) == message
        # Then nothing else may.
        assert self.error(tmp_path, saying, output_lengths={"mean": 3, "sd": 0}).startswith(
            "output_lengths: does not go with p.jsonl, whose requests say it"
        )
        assert self.error(tmp_path, saying, decoder={"min_new_tokens": 2}).startswith(
            "decoder.min_new_tokens: does not go with p.jsonl, which says where sequences end"
        )

    def test_they_are_part_of_the_hash(self, tmp_path: Path) -> None:
        config = {"model": "x", "dataset": {"synthetic": {"n": 2}}}
        hashes = set()
        for lengths in (None, {"mean": 3, "sd": 0}, {"mean": 4, "sd": 0}):
            experiment = ExperimentConfig.model_validate(config | {"output_lengths": lengths})
            prompts = load_prompts(experiment, tmp_path, vocabulary_size=99, special_ids=(), tokenizer=None)
            hashes.add(prompts.sha256())
        assert len(hashes) == 3
