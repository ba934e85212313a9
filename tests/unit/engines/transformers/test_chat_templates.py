from __future__ import annotations

import locale
from datetime import date
from typing import Any

import pytest

from pytest_llem.engines import chat
from pytest_llem.engines.chat import ChatTemplate
from pytest_llem.engines.datasets.entries import Conversation
from pytest_llem.engines.transformers.builtin import builtin_tokenizer
from pytest_llem.errors import PromptError

TODAY = date(2026, 1, 1)
HEADER = "{% if add_generation_prompt %}<assistant>{% endif %}"


def tokenizer(template: Any) -> Any:
    found = builtin_tokenizer(2048)
    found.chat_template = template
    found.name_or_path = "some/model"
    return found


def render(template: Any, text: str, today: date = TODAY) -> str:
    """What ``template`` makes of ``text``."""
    own = tokenizer(template)
    return str(own.decode(ChatTemplate(own, today).token_ids(Conversation.of(text))))


@pytest.mark.parametrize(
    "content",
    [
        "{{ m['content'] }}",
        "{{ m.content | trim }}",
        "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}",
        "{% for c in m.content %}{% if c.type == 'image' %}<img>{% else %}{{ c.text }}{% endif %}{% endfor %}",
        "{{ m['content'][0]['text'] }}",
        "{{ m['content'][0]['text'] | trim }}",
        "{% if m.content is string %}{{ raise_exception('parts, please') }}{% endif %}{{ m.content[0].text }}",
        "{% for c in m.content if c is mapping %}{{ c.text }}{% endfor %}",
        "{{ (m.content | selectattr('type', 'equalto', 'text') | first).text }}",
        "{% if m.content is not string %}{{ raise_exception('a text, please') }}{% endif %}{{ m.content }}",
        "{% for c in m.content %}{{ c if c is string else c.text }}{% endfor %}",
    ],
)
def test_a_text_arrives_in_the_form_that_the_template_wants(content: str) -> None:
    template = f"{{% for m in messages %}}<{{{{ m['role'] }}}}>{content}{{% endfor %}}{HEADER}"
    for text in ("one", "two {{ words }}\nand a line", "a 'quoted' \"text\" of ümläuts"):
        assert render(template, text) == f"<user>{text}<assistant>"
    assert render(template, "three") != render(template, "seven")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("<user>" + HEADER, "does not write a user's text, neither as a text nor as a list of parts"),
        ("{{ messages[0]['content'][:5] }}", "does not write a user's text"),
        ("{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}" + HEADER, "does not write"),
        ("{% for m in messages[1:] %}{{ m.content }}{% endfor %}" + HEADER, "does not write a user's text"),
        ("{{ messages[0].content | upper }}", "does not write a user's text"),
        ("{% if messages[0].content is string %}-{% else %}{{ messages }}{% endif %}", "does not write"),
        ("{% if messages[0].content is string %}-{% else %}{{ messages|tojson }}{% endif %}", "does not write"),
        ("{{ raise_exception('a system message, please') }}", "fails: TemplateError: a system message, please"),
        (
            "<s>\n{{ messages[0].content }}\n{% if x %}",
            "fails in line 3: TemplateSyntaxError: Unexpected end of template",
        ),
        ("{{ messages[0].content }", "fails in line 1: TemplateSyntaxError: unexpected '}'"),
        ("{{ messages[0].content }}{{ nothing.at_all }}", "fails: UndefinedError: 'nothing' is undefined"),
        ("{{ messages[0].content.missing() }}", "fails: UndefinedError: 'str object' has no attribute 'missing'"),
        ("{{ 1 / 0 }}", "fails: ZeroDivisionError"),
        ({"rag": "{{ messages[0].content }}"}, "fails: ValueError: This model has multiple chat templates"),
    ],
)
def test_a_template_that_loses_the_text_is_named(template: Any, message: str) -> None:
    with pytest.raises(PromptError) as error:
        ChatTemplate(tokenizer(template), TODAY)
    assert str(error.value).startswith(f"the template of 'some/model' {message}")
    assert str(error.value).endswith("; use another model, or remove chat and write the prompts as its template would")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("template", ["{{ messages[0].content[:40] }}", "{{ messages[0].content[0].text[:40] }}"])
def test_a_template_that_cuts_a_text_is_refused(template: str) -> None:
    assert render(template, "x" * 40) == "x" * 40
    with pytest.raises(PromptError, match="cuts or changes this text"):
        render(template, "x" * 41)


@pytest.mark.parametrize("text", ["s", "user", "assist", "u user"])
def test_a_short_text_is_missed_too(text: str) -> None:
    template = "<user>{% if messages[0].content|length > 9 %}{{ messages[0].content }}{% endif %}" + HEADER
    with pytest.raises(PromptError, match="cuts or changes this text"):
        render(template, text)
    whole = "<user>{{ messages[0].content }}" + HEADER
    assert render(whole, text) == f"<user>{text}<assistant>"


@pytest.mark.parametrize("text", [" ", "\n", "\u00a0"])
def test_a_text_of_blanks_has_nothing_to_lose(text: str) -> None:
    assert render("{{ messages[0]['content'] }}!", text)


def test_the_default_of_several_templates_is_taken() -> None:
    templates = {"default": "<default>{{ messages[0].content }}", "tool_use": "<tools>{{ messages[0].content }}"}
    assert render(templates, "one") == "<default>one"


class TestDate:
    @pytest.mark.parametrize(
        ("asked", "text"),
        [
            ("%d %b %Y", "05 Mar 2026"),
            ("%Y-%m-%d %H:%M:%S.%f", "2026-03-05 00:00:00.000000"),
            ("%A, %-d %B %y, day %j", "Thursday, 5 March 26, day 064"),
            ("%c|%x|%X|%p|%Z%z", "Thu Mar  5 00:00:00 2026|03/05/26|00:00:00|AM|UTC+0000"),
            ("%s", "1772668800"),
            ("100%% of %Y%%m", "100% of 2026%m"),
        ],
    )
    @pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati"])
    def test_a_template_gets_the_date_it_is_given(
        self, monkeypatch: pytest.MonkeyPatch, asked: str, text: str, zone: str
    ) -> None:
        monkeypatch.setenv("TZ", zone)
        template = f"{{{{ strftime_now('{asked}') }}}}|{{{{ messages[0].content }}}}"
        assert render(template, "one", date(2026, 3, 5)) == f"{text}|one"
        assert ChatTemplate(tokenizer(template), TODAY).uses_date

    def test_names_are_english_in_every_locale(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = {"LC_TIME": "fr_FR.UTF-8"}

        def setlocale(category: int, to: str | None = None) -> str:
            assert category == locale.LC_TIME
            now["LC_TIME"] = to or now["LC_TIME"]
            return now["LC_TIME"]

        monkeypatch.setattr(locale, "setlocale", setlocale)
        assert "'B': 'January'" in chat._dated("", TODAY)
        assert now == {"LC_TIME": "fr_FR.UTF-8"}

    @pytest.mark.parametrize(
        "asks",
        [
            "{% set day = strftime_now('%d %b') if strftime_now is defined else '26 Jul' %}",
            "{%- macro day_of(x) %}{{ strftime_now('%Y') }}{% endmacro %}{% set day = day_of(1) %}",
            "{% set day = strftime_now(format='%m') | int + 1 %}",
        ],
    )
    def test_a_template_may_ask_in_any_way(self, asks: str) -> None:
        assert ChatTemplate(tokenizer(asks + "{{ day }}{{ messages[0].content }}"), TODAY).uses_date

    @pytest.mark.parametrize(
        "start", ["", "\n", "\n\n  {% if true %}\n  x{% endif %}\n", "  {%- if true %}y{% endif %}"]
    )
    def test_a_template_that_asks_for_none_is_as_it_was(self, start: str) -> None:
        own = tokenizer(f"{start}{{{{ messages[0].content }}}}\n{HEADER}")
        template = ChatTemplate(own, TODAY)
        messages = [{"role": "user", "content": "one"}]
        ids = own.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert template.token_ids(Conversation.of("one")) == ids
        assert not template.uses_date
