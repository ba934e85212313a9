"""From the records of a file to prompts: a text, a conversation, a request of OpenAI's batches, as each looks."""

from __future__ import annotations

import difflib
import json
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llem.config.messages import show
from pytest_llem.engines.datasets.files import is_folder, json_lines, records
from pytest_llem.errors import PromptError, about, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from pytest_llem.config.dataset import FileDataset, Format

# Where an entry of each format stands in a record, in the order in which they are looked for.
_KEYS: Mapping[Format, str] = {
    "prompt": "prompt",
    "messages": "messages",
    "sharegpt": "conversations",
    "openai-batch": "body",
}
# What a table has of an entry beside it.
_BESIDE = {"messages": ("tools",), "body": ("url",)}
_KNOWN_AS: Mapping[Format, str] = {
    "prompt": "a text",
    "messages": "messages of a chat",
    "sharegpt": "a conversation of from and value",
    "openai-batch": "a request with a body",
}

_ROLES = ("system", "developer", "user", "assistant", "tool")
# Who speaks in ShareGPT's conversations.
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "system": "system",
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard"), "assistant"),
}

_ENDPOINTS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}
_LENGTHS = ("max_completion_tokens", "max_tokens")
_MOST_DIGITS = 9
_SHOWN_CHARACTERS = 200
# They change the prompt, or what is generated beside the choice of each token; by name, the value that changes nothing.
_CHANGING: Mapping[str, Any] = {
    "best_of": 1,
    "echo": False,
    "function_call": "auto",
    "functions": [],
    "logit_bias": {},
    "n": 1,
    "response_format": {"type": "text"},
    "stop": [],
    "suffix": "",
    "tool_choice": "auto",
}


@dataclass(frozen=True)
class Conversation:
    """Messages for a chat template.

    Attributes:
        messages: each with its ``role`` and ``content``, a text, or ``None`` where an assistant calls tools.
        tools: what the template is told of tools; ``None`` where there are none.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Any, ...] | None = None

    @classmethod
    def of(cls, text: str) -> Conversation:
        """A user's single message."""
        return cls(({"role": "user", "content": text},))

    @property
    def last_text(self) -> str:
        """The text of the last message."""
        text: str = self.messages[-1]["content"]
        return text

    def ending_in(self, text: str) -> Conversation:
        """The same with another text in the last message."""
        return replace(self, messages=(*self.messages[:-1], {**self.messages[-1], "content": text}))


@dataclass(frozen=True)
class Entry:
    """A prompt before it is tokenised, and where it stands.

    Attributes:
        content: a text, or what goes into a chat template as it is.
        line: ``None`` of a file that is one prompt.
        output_tokens: how many tokens are generated for it; ``None`` where its file does not say.
    """

    content: str | Conversation
    file: str
    line: int | None
    output_tokens: int | None = None


def builtin_entries(lines: Iterable[str], file: str) -> Iterator[Entry]:
    """The prompts of a set that comes with this package."""
    for content, file_, line in json_lines(lines, file):
        yield Entry(content["prompt"], file_, line)


class FileEntries:
    """The prompts of a file, or of a folder of texts.

    Args:
        folder: where a relative path starts.
        chat: whether they go into a chat template.
    """

    def __init__(self, dataset: FileDataset, folder: Path, *, chat: bool) -> None:
        self._dataset = dataset
        self.path = folder / Path(dataset.path).expanduser()
        self._chat = chat
        # As the first entry looks, and where in a record it stands.
        self._format: Format | None = None
        self._key = ""
        self._without_words = 0
        self._ignored: set[str] = set()

    def __iter__(self) -> Iterator[Entry]:
        """They are read one by one.

        Raises:
            PromptError: one of them is none, or they are of several formats.
            UnavailableError: a package that reads them is missing.
        """
        if is_folder(self.path):
            for name in ("field", "format", "output_field"):
                if getattr(self._dataset, name) is not None:
                    message = "has no effect on a folder of texts, each of which is a prompt; remove it"
                    raise PromptError(message, field=f"dataset.{name}")
        for record in records(self.path, self._columns):
            with about(file=record.file, line=record.line):
                content, output_tokens = self._read(record.content)
            if content is None:
                self._without_words += 1
            else:
                yield Entry(content, record.file, record.line, output_tokens)

    @property
    def notes(self) -> list[str]:
        """What a result should say of those that were read."""
        notes = []
        if self._without_words:
            notes.append(f"dataset: {self._without_words} conversations in which no human says anything were left out")
        if self._ignored:
            names = printable(", ".join(sorted(self._ignored))[:_SHOWN_CHARACTERS])
            notes.append(f"dataset: the experiment decides what the requests say of {names}")
        return notes

    def _columns(self, there: Sequence[str]) -> list[str]:
        """Of a table's columns those that are read."""
        key = self._dataset.field or self._key_of(there)
        wanted = [key] + ([] if self._dataset.output_field is None else [self._dataset.output_field])
        for name in wanted:
            if name not in there:
                raise _absent("column", name, there)
            if there.count(name) > 1:
                raise PromptError(f"has {there.count(name)} columns {name!r}; rename all but one")
        return [*wanted, *(name for name in _BESIDE.get(key, ()) if name in there)]

    def _key_of(self, there: Collection[str]) -> str:
        """Where an entry stands, if it is not said."""
        said = self._dataset.format
        keys = _KEYS.values() if said is None else [_KEYS[said]]
        return next((key for key in keys if key in there), _KEYS[said or "prompt"])

    def _read(self, content: Any) -> tuple[str | Conversation | None, int | None]:
        """An entry, and how many tokens are generated for it; ``None`` for what is not known or not there."""
        if isinstance(content, str):
            return _text(content, "the text"), None
        named, said = self._dataset.field, self._dataset.format
        key = named or self._key_of(content)
        looks = said or _looks(content.get(key), key, named=named is not None)
        if self._format is None:
            self._format, self._key = (looks, key) if looks else ("prompt", named or _KEYS["prompt"])
        elif looks not in (None, self._format):
            first, this = _KNOWN_AS[self._format], _KNOWN_AS[looks]
            raise PromptError(f"is {this}, but what stands before it is {first}; keep to one, or say format")
        key = self._key
        value = _value(content, key)
        output_field, tokens = self._dataset.output_field, None
        if output_field is not None:
            tokens = _count(_value(content, output_field), output_field)
        if self._format == "openai-batch":
            if output_field is not None:
                message = "has no effect on requests, whose body says it; remove it"
                raise PromptError(message, field="dataset.output_field")
            return self._request(value, content.get("url"))
        if self._format == "sharegpt":
            return _sharegpt(value, key, chat=self._chat), tokens
        if self._format == "messages":
            return self._messages(value, key, content.get("tools")), tokens
        return _text(value, f"field {key!r}"), tokens

    def _messages(self, messages: Any, key: str, tools: Any) -> Conversation:
        if not self._chat:
            raise PromptError("holds messages, which need the model's chat template; set chat: true")
        if not isinstance(messages, list) or not messages:
            raise PromptError(f"field {key!r} is no list of messages, or is empty")
        if tools is not None and not isinstance(tools, list):
            raise PromptError("field 'tools' is no list")
        read = tuple(_message(message, number) for number, message in enumerate(messages, start=1))
        if read[-1]["role"] not in ("user", "tool"):
            raise PromptError(
                f"ends with the turn of {read[-1]['role']}, after which there is nothing to answer; end with a user's"
            )
        _text(read[-1]["content"], "the last message")
        _whole(json.dumps([*read, tools], ensure_ascii=False), "it")
        return Conversation(read, tuple(tools) if tools else None)

    def _request(self, body: Any, url: Any) -> tuple[str | Conversation, int | None]:
        if not isinstance(body, dict):
            raise PromptError("field 'body' is no mapping")
        if url is not None and url not in list(_ENDPOINTS):
            raise PromptError(f"url {show(url)} is not measured; the requests are of {' or '.join(_ENDPOINTS)}")
        changing = [name for name, neutral in _CHANGING.items() if body.get(name) not in (None, neutral)]
        if changing:
            raise PromptError(f"body.{changing[0]} asks for what is not measured; remove it")
        lengths = {_count(body[name], f"body.{name}") for name in _LENGTHS if body.get(name) is not None}
        if len(lengths) > 1:
            raise PromptError(f"{' and '.join(_LENGTHS)} differ; remove one of them")
        key = _ENDPOINTS[url] if url is not None else "messages" if "messages" in body else "prompt"
        used = {"messages", "prompt", "tools", *_LENGTHS, *_CHANGING}
        self._ignored |= {name for name, value in body.items() if value is not None} - used
        tokens = next(iter(lengths), None)
        if key == "messages":
            return self._messages(_value(body, key), "body.messages", body.get("tools")), tokens
        if self._chat:
            raise PromptError("is a request for completions, whose prompt goes into no chat template; remove chat")
        return _text(_value(body, key), "field 'body.prompt'"), tokens


def _looks(value: Any, key: str, *, named: bool) -> Format | None:
    """The format of what stands in a record under ``key``, by its shape.

    Args:
        named: whether the experiment names the key.
    """
    if isinstance(value, str):
        return "prompt" if named or key == "prompt" else None
    if isinstance(value, dict):
        return "openai-batch" if key == "body" else None
    if not isinstance(value, list):
        return None
    first = value[0] if value and isinstance(value[0], dict) else {}
    if "role" in first:
        return "messages"
    if "from" in first:
        return "sharegpt"
    by_key: dict[str, Format] = {"messages": "messages", "conversations": "sharegpt"}
    return by_key.get(key)


def _sharegpt(turns: Any, key: str, *, chat: bool) -> str | Conversation | None:
    """The first turn of the human; for a chat, all up to the last one that is answered, without what the model says
    before the human does. ``None`` where the human says nothing."""
    if not isinstance(turns, list):
        raise PromptError(f"field {key!r} is no list of turns")
    said = [_turn(turn, number) for number, turn in enumerate(turns, start=1)]
    humans = [place for place, (role, _) in enumerate(said) if role == "user"]
    if not humans:
        return None
    begins = ends = humans[0]
    if chat:
        answered = [place for place in humans if place + 1 < len(said) and said[place + 1][0] == "assistant"]
        ends = (answered or humans)[-1]
    if not said[ends][1].strip():
        return None
    if not chat:
        return said[ends][1]
    before = [turn for turn in said[:begins] if turn[0] == "system"]
    messages = [*before, *said[begins : ends + 1]]
    return Conversation(tuple({"role": role, "content": text} for role, text in messages))


def _turn(turn: Any, number: int) -> tuple[str, str]:
    """Who speaks, as a role, and what is said."""
    name = f"turn {number}"
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise PromptError(f"{name} is no mapping with from and a text as value")
    return _SPEAKERS[_one_of(turn.get("from"), _SPEAKERS, f"{name}: from")], _whole(turn["value"], name)


def _message(message: Any, number: int) -> dict[str, Any]:
    """A message whose content is a text, or ``None``; parts of text become lines."""
    name = f"message {number}"
    if not isinstance(message, dict):
        raise PromptError(f"{name} is no mapping with role and content")
    role = _one_of(message.get("role"), _ROLES, f"{name}: role")
    content = message.get("content")
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                raise PromptError(f"{name} has a part of type {show(kind)}; only those of text are measured")
        content = "\n".join(part["text"] for part in content)
    if not isinstance(content, str) and not (content is None and role == "assistant"):
        raise PromptError(f"{name}: content is no text, nor a list of parts")
    # Tables have a value for each key of any message.
    said = {key: value for key, value in message.items() if value is not None}
    return {**said, "content": content}


def _one_of(value: Any, known: Collection[str], name: str) -> str:
    if value not in list(known):
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise PromptError(f"{name} {show(value)} is unknown; use one of {', '.join(known)}{hint}")
    return str(value)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise PromptError(f"{name} is not a text, or is empty")
    return _whole(value, name)


def _whole(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        half = f"half a character ({text[exc.start]}) after {exc.start} others"
        raise PromptError(f"{name} holds {half}: complete its escape, or remove it") from exc
    return text


def _count(value: Any, name: str) -> int:
    """A number of tokens, which tables may hold as a text or with a decimal point."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) <= _MOST_DIGITS:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 10**_MOST_DIGITS:
        shown = "" if isinstance(value, int) and value > 1 else f": {show(value)}"
        raise PromptError(f"field {name!r} is no number of tokens, from 1 on{shown}")
    return value


def _value(record: Mapping[str, Any], key: str) -> Any:
    if key not in record:
        raise _absent("field", key, record)
    return record[key]


def _absent(kind: str, name: str, there: Collection[str]) -> PromptError:
    near = difflib.get_close_matches(name, there, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    names = textwrap.shorten(", ".join(there), _SHOWN_CHARACTERS, placeholder=" ...")
    return PromptError(f"no {kind} {name!r}: {hint}there is {names or 'nothing'}")
