"""Tables that a screen reader can walk through and a phone can scroll."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from pytest_llem.report.markup import Child, Html, element, join

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Tables:
    """Makes the tables of one page; their captions are numbered for what refers to them."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def table(
        self, caption: Child, headings: Sequence[Child], rows: Iterable[Sequence[Child]], *, text_columns: int = 1
    ) -> Html:
        """A table whose first column names its rows; it scrolls in a box of its own.

        Args:
            text_columns: how many columns hold words, up to 3 if not all; those after them hold numbers, but for the
                last where it is called notes; notes that are all empty are left out.
        """
        key = f"table{next(self._numbers)}"
        rows = list(rows)
        if headings[-1] == "notes" and not any(row[-1] for row in rows):
            headings, rows = headings[:-1], [row[:-1] for row in rows]

        head = [element("th", one, scope="col") for one in headings]
        body = [
            element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:]))
            for row in rows
        ]
        return element(
            "div",
            element(
                "table",
                element("caption", caption, id=key),
                element("thead", element("tr", *head)),
                element("tbody", *body),
                # Aligned by the style sheet, by column: a class on every cell would be a tenth of a large report.
                class_=(
                    f"words-{text_columns}{' notes' if headings[-1] == 'notes' else ''}"
                    if text_columns < len(headings)
                    else None
                ),
            ),
            class_="scroll",
            role="region",
            aria_labelledby=key,
            tabindex=0,
        )

    def pairs(self, caption: str, pairs: Iterable[tuple[str, str]]) -> Html:
        """A table of keys and values."""
        return self.table(caption, ("name", "value"), ((key, join(value)) for key, value in pairs), text_columns=2)


def folded(summary: Child, *content: Child) -> Html:
    """Content that is there when it is wanted."""
    return element("details", element("summary", summary), *content)
