"""Text is escaped unless it is markup."""

from __future__ import annotations

from pytest_llem.report.markup import Html, element, join


def test_text_is_escaped_once_and_markup_never() -> None:
    inner = element("b", "<script>&'\"")
    assert inner == "<b>&lt;script&gt;&amp;&#x27;&quot;</b>"
    assert element("p", inner, " & ", None, "x") == f"<p>{inner} &amp; x</p>"
    assert join("<", Html("<br>"), separator="|") == "&lt;|<br>"


def test_attributes_are_escaped_even_when_they_are_markup() -> None:
    assert element("a", href='"><img src=x>') == '<a href="&quot;&gt;&lt;img src=x&gt;"></a>'
    assert element("a", title=Html('"')) == '<a title="&quot;"></a>'


def test_attribute_names_and_those_without_value() -> None:
    tag = element("details", class_="a", aria_label="b", open=True, hidden=False, id=None, tabindex=0)
    assert tag == '<details class="a" aria-label="b" open tabindex="0"></details>'


def test_what_html_cannot_hold_is_replaced() -> None:
    assert (
        join("a\x00b\x1b[31m\ud800\n\tc")
        == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}\n\tc"
    )
