"""A tokenizer's chat template: it takes a user's message or a whole conversation, and all of its text arrives.

Templates are programs. Some want a message's content as a text, some as a list of parts, and render the same for every
text that comes in the other form; some write the date of the day, which would be other work every day.
"""

from __future__ import annotations

import locale
import re
import string
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Protocol

from pytest_llem.engines.datasets.entries import Conversation
from pytest_llem.errors import PromptError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable

# Differs from any date in some field, so that a template that writes one is found out.
_OTHER_DAYS = (date(1987, 11, 23), date(2038, 6, 30))
_MARKER = "A text of 7 words to find."
_PROBE = Conversation.of(_MARKER)
# Whose text a template has to write.
_ARRIVING = ("system", "developer", "user")
# What becomes of a list where a template wants a text.
_AS_DATA = re.compile(rf"""['"]text['"]\s*:\s*['"]{re.escape(_MARKER)}""")
_FORMS: tuple[Callable[[str], Any], ...] = (str, lambda text: [{"type": "text", "text": text}])


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that prompts need."""

    chat_template: Any

    def __len__(self) -> int: ...

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Any: ...

    def get_chat_template(self) -> str: ...

    def apply_chat_template(
        self,
        conversation: list[Any],
        *,
        tools: list[Any] | None,
        chat_template: str,
        add_generation_prompt: bool,
        tokenize: bool,
    ) -> Any: ...


class ChatTemplate:
    """Puts conversations into the chat template of ``tokenizer``, followed by the header of the answer.

    Args:
        today: what the template gets where it asks for the date.

    Attributes:
        uses_date: whether it writes anything of the date.

    Raises:
        PromptError: there is no template, it fails, or a user's text is lost in it.
    """

    def __init__(self, tokenizer: Tokenizer, today: date) -> None:
        if not tokenizer.chat_template:
            raise PromptError("the model's tokenizer has no chat template; use a model made for chat, or remove chat")
        self._tokenizer = tokenizer
        try:
            template = tokenizer.get_chat_template()
        except ValueError as exc:  # several of them, and none is the default
            raise self._error(f"fails: {one_line(exc)}") from exc
        self._template = _dated(template, today)
        self._form = self._find_form()
        # What surrounds a text, which a short one may be found in, too.
        self._around = self._render(self._form, _PROBE, self._template).replace(_MARKER, "\0")
        days = {self._render(self._form, _PROBE, _dated(template, day)) for day in (today, *_OTHER_DAYS)}
        self.uses_date = len(days) > 1

    def token_ids(self, conversation: Conversation) -> list[int]:
        """The token ids of ``conversation`` in the template.

        Raises:
            PromptError: the template fails, or leaves out or changes a part of what it is given.
        """
        rendered = self._render(self._form, conversation, self._template)
        alone = len(conversation.messages) == 1
        for message in conversation.messages:
            # What an assistant thought is left out on purpose, and what a tool returned is quoted.
            text = message["content"].strip() if message["role"] in _ARRIVING else ""  # as most templates do
            if text and rendered.count(text) <= (self._around.count(text) if alone else 0):
                raise self._error("cuts or changes this text" if alone else f"leaves out a {message['role']}'s text")
        if conversation.tools:
            without = self._render(self._form, replace(conversation, tools=None), self._template)
            if rendered == without:
                raise self._error("does not write tools")
        # The template has written the special tokens.
        ids: list[int] = self._tokenizer(rendered, add_special_tokens=False)["input_ids"]
        return ids

    def _find_form(self) -> Callable[[str], Any]:
        faults = []
        for form in _FORMS:
            try:
                rendered = self._render(form, _PROBE, self._template)
            except PromptError as exc:
                faults.append(exc)
                continue
            if _MARKER in rendered and not _AS_DATA.search(rendered):
                return form
        if len(faults) == len(_FORMS):
            raise faults[0]
        raise self._error("does not write a user's text, neither as a text nor as a list of parts")

    def _render(self, form: Callable[[str], Any], conversation: Conversation, template: str) -> str:
        messages = [
            message if message["content"] is None else {**message, "content": form(message["content"])}
            for message in conversation.messages
        ]
        try:
            # With the header of the answer, so that the model answers instead of writing on in the user's name.
            rendered: str = self._tokenizer.apply_chat_template(
                messages,
                tools=None if conversation.tools is None else list(conversation.tools),
                chat_template=template,
                add_generation_prompt=True,
                tokenize=False,
            )
        except Exception as exc:  # whatever its program comes to
            line = getattr(exc, "lineno", None)
            place = f" in line {line - 1}" if line else ""  # after the line of _dated()
            raise self._error(f"fails{place}: {one_line(exc)}") from exc
        return rendered

    def _error(self, fault: str) -> PromptError:
        name = getattr(self._tokenizer, "name_or_path", "")
        return PromptError(
            f"the template{f' of {name!r}' if name else ''} {fault}; use another model, or remove chat and write "
            "the prompts as its template would"
        )


def _dated(template: str, today: date) -> str:
    """``template``, one line later, with a ``strftime_now()`` of its own, which tells midnight UTC of ``today`` in
    English, whatever clock, time zone and locale it is rendered in."""
    now = datetime(today.year, today.month, today.day, tzinfo=UTC)
    here = locale.setlocale(locale.LC_TIME)
    locale.setlocale(locale.LC_TIME, "C")
    try:
        directives = [flag + letter for flag in ("", "-") for letter in string.ascii_letters]
        told = {directive: now.strftime(f"%{directive}") for directive in directives}
    finally:
        locale.setlocale(locale.LC_TIME, here)
    told["s"] = str(int(now.timestamp()))  # strftime() takes the time for one of the local zone
    told["\0"] = "%"
    return (
        f"{{% macro strftime_now(format) %}}{{% set told = {told!r} %}}"
        "{% for part in format.replace('%%', '%\0').split('%') %}"
        "{% if loop.first %}{{ part }}{% else %}{% set end = 2 if part[:1] == '-' else 1 %}"
        "{{ told[part[:end]] ~ part[end:] }}{% endif %}{% endfor %}{% endmacro %}"
        f"\n{template}"
    )
