"""HTML from a tree of calls, where every text is escaped unless it is markup already."""

from __future__ import annotations

import html
import re

# Neither XML nor HTML can hold these, not even as a character reference.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_VOID = frozenset({"meta", "br", "hr"})


class Html(str):
    """Markup, which is not escaped again."""

    __slots__ = ()


Child = str | None
"""Text, which is escaped, markup, which is not, or nothing."""


def escape(text: str) -> Html:
    """Text for an element or a quoted attribute; characters that HTML cannot hold are replaced."""
    return text if isinstance(text, Html) else Html(html.escape(_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)))


def join(*children: Child, separator: str = "") -> Html:
    """Children one after the other."""
    return Html(separator.join(escape(child) for child in children if child is not None))


def element(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Html:
    """One element.

    Args:
        attributes: a trailing underscore is dropped (``class_``) and inner ones become hyphens (``aria_label``);
            ``True`` stands alone, ``False`` and ``None`` leave the attribute out.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        # A value of markup is text here: what is safe in an element need not be safe in an attribute.
        parts.append(attribute if value is True else f'{attribute}="{escape(str(value))}"')
    head = f"<{' '.join(parts)}>"
    return Html(head if name in _VOID else f"{head}{join(*children)}</{name}>")
