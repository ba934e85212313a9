"""``exclude:`` drops points of a sweep by their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_llem.config.messages import Problem, show
from pytest_llem.config.names import FILE_KEYS, flattened, is_known, suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_llem.config.document import Node


class Exclusion:
    """One mapping of the list: a point with all of these values is dropped.

    Attributes:
        node: the mapping in the file.
        place: where it stands, as a dotted name for messages.
        used: whether it has dropped a point.
    """

    def __init__(self, node: Node, place: str) -> None:
        self.node = node
        self.place = place
        self.used = False
        self._wanted = {name: _alternatives(value) for name, value in _values(node)}
        self._applied = False
        self._seen: set[str] = set()

    def drops(self, point: Mapping[str, Any]) -> bool:
        """Whether the experiment ``point`` has all the values of this exclusion."""
        self._applied = matches = True
        for name, wanted in self._wanted.items():
            if _holds(_value_at(point, name.split(".")), wanted):
                self._seen.add(name)
            else:
                matches = False
        self.used |= matches
        return matches

    def unused(self) -> Problem:
        """What to say of an exclusion that dropped nothing."""
        if not self._applied:
            return Problem(self.place, "has no effect without a sweep; remove it", self.node.mark)
        never = [name for name in self._wanted if name not in self._seen]
        if never:
            reason = f"no point has {never[0]}: {' or '.join(map(show, self._wanted[never[0]]))}"
        else:
            reason = "no point has all these values at once"
        return Problem(self.place, f"matches no point of the sweep: {reason}; fix it or remove it", self.node.mark)


def read_exclusions(exclude: Node | None) -> tuple[list[Exclusion], list[Problem]]:
    """The exclusions of an ``exclude:`` list, and what is wrong with it."""
    if exclude is None or exclude.is_null:
        return [], []
    if not isinstance(exclude.content, list):
        message = "expected a list of mappings, such as [{precision: fp32, pytorch.batch_size: [8, 16]}]"
        return [], [Problem("exclude", f"{message}; got {show(exclude.plain)}", exclude.mark)]
    found: list[Exclusion] = []
    problems: list[Problem] = []
    for index, node in enumerate(exclude.content):
        place = f"exclude.{index}"
        mistakes = list(_mistakes(node, place))
        problems += mistakes
        if not mistakes:
            found.append(Exclusion(node, place))
    return found, problems


def _mistakes(node: Node, place: str) -> Iterator[Problem]:
    if not node.is_mapping:
        message = f"expected a mapping such as {{pytorch.batch_size: 8}}, got {show(node.plain)}"
        yield Problem(place, message, node.mark)
    elif not node.content:
        yield Problem(place, "is empty and would drop every point; name values or remove it", node.mark)
    else:
        for key, value in node.content.items():
            for name, _ in flattened(str(key), value.plain):
                if name in FILE_KEYS:
                    yield Problem(f"{place}.{name}", "belongs to the file; remove it", value.key or value.mark)
                elif not is_known(name):
                    yield Problem(f"{place}.{name}", suggestion(name), value.key or value.mark)


def _values(node: Node) -> Iterator[tuple[str, Any]]:
    for key, value in node.plain.items():
        yield from flattened(str(key), value)


def _alternatives(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _value_at(value: Any, path: Sequence[str]) -> Any:
    for part in path:
        if not isinstance(value, dict):
            return None
        by_name = {str(key): item for key, item in value.items()} if part not in value else value
        value = by_name.get(part)
    return value


def _holds(value: Any, wanted: Sequence[Any]) -> bool:
    # A field may itself take a list: then the whole list may be meant.
    return any(_equal(value, alternative) for alternative in wanted) or (isinstance(value, list) and value == wanted)


def _equal(value: Any, wanted: Any) -> bool:
    # To Python, true equals 1.
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)
