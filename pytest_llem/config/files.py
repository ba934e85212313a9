"""From a file to its experiments."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pytest_llem.config.base import CONTRADICTION
from pytest_llem.config.bases import with_bases
from pytest_llem.config.document import Document, Mark, Node, parse_document, read_document
from pytest_llem.config.exclude import Exclusion, read_exclusions
from pytest_llem.config.experiment import ExperimentConfig, mistake_in_name
from pytest_llem.config.merge import merge
from pytest_llem.config.messages import Problem, problems, show
from pytest_llem.config.names import FILE_KEYS
from pytest_llem.config.passthrough import FROM_A_FILE
from pytest_llem.config.sweep import MAX_POINTS, Point, points, read_sweep

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic_core import ErrorDetails

SUFFIXES = (".llem.yaml", ".llem.yml", ".yaml", ".yml")


@dataclass(frozen=True, eq=False)
class Experiment:
    """One experiment of a file, valid or not.

    Attributes:
        name: name of the item, unique in its file but for the points of a sweep.
        id: what stands in the brackets of a sweep's point, ``None`` without a sweep.
        path: the file.
        line: line of the experiment in the file.
        config: what it says; ``None`` when it does not validate.
        errors: finished messages, each of several lines; empty when it validates.
        swept: the values that the sweep set, by dotted name.
        contradiction: why this point of a sweep cannot exist although each of its values could; it is to be
            skipped.
        node: where each field of ``config`` stands; ``None`` when it does not validate.
    """

    name: str
    id: str | None
    path: Path
    line: int
    config: ExperimentConfig | None
    errors: tuple[str, ...] = ()
    swept: Mapping[str, Any] = field(default_factory=dict)
    contradiction: str | None = None
    node: Node | None = field(default=None, repr=False)

    @property
    def valid_config(self) -> ExperimentConfig:
        """What it says.

        Raises:
            ValueError: it does not validate.
        """
        if self.config is None:
            raise ValueError(f"{self.name} does not validate")
        return self.config


def load_experiments(path: str | Path, *, display: str | None = None) -> list[Experiment]:
    """All experiments of a file, in its order, sweeps expanded.

    Args:
        path: the file.
        display: how messages call the file; its path by default.

    Raises:
        pytest_llem.errors.ExperimentFileError: the file, or one it has as its base, cannot be read, is not YAML, or is
            not a mapping.
    """
    path = Path(path)
    return _experiments(path, read_document(path, str(path) if display is None else display))


def parse_experiments(text: str, name: str, folder: Path) -> list[Experiment]:
    """All experiments of a text as a file holds it.

    Args:
        name: how messages call the text, and the name of an experiment that has none.
        folder: where relative paths start.

    Raises:
        pytest_llem.errors.ExperimentFileError: see :func:`load_experiments`.
    """
    return _experiments(folder / name, parse_document(text, name))


def _experiments(path: Path, document: Document) -> list[Experiment]:
    return list(_File(path, document.root, with_bases(path, document)).experiments())


class _File:
    """The experiments of one file, in its order."""

    def __init__(self, path: Path, own: Node, root: Node) -> None:
        """
        Args:
            own: the file alone; it says where experiments stand.
            root: the file over its bases.
        """
        self._path = path
        self._own = own
        self._root = root
        self._stem = _default_name(path)
        self._line_of_name: dict[str, int] = {}
        self._points = 0
        self._all_exclusions: list[Exclusion] = []
        self._exclude_mistakes: list[Problem] = []
        self._sweeps_hold = True

    def experiments(self) -> Iterator[Experiment]:
        root = self._root
        defaults = merge(None, _fields(root))
        sweep = root.content.get("sweep")
        listed = root.content.get("experiments")
        exclusions = self._exclusions(root)
        if listed is None or listed.is_null:
            yield from self._entry(defaults, _fields(self._own), sweep, exclusions)
        else:
            yield from self._listed(listed, defaults, sweep, exclusions)
        for problem in self._exclude_problems():
            line = self._line_here(problem.mark)
            yield self._invalid(self._unique(f"{self._stem}.line{line}", line), line, [problem])

    def _listed(
        self, listed: Node, defaults: Node, sweep: Node | None, exclusions: Sequence[Exclusion]
    ) -> Iterator[Experiment]:
        message = None
        if not isinstance(listed.content, list) or not listed.content:
            message = f"expected a list of at least one mapping, got {_shown_list(listed)}"
        elif len(listed.content) > MAX_POINTS:
            message = (
                f"lists {len(listed.content)} experiments, and a file holds at most {MAX_POINTS}; use several files"
            )
        if message is not None:
            yield self._invalid(self._stem, self._own.mark.line, [Problem("experiments", message, listed.mark)])
            return
        for index, entry in enumerate(listed.content):
            if entry.is_mapping:
                own = _without(entry, ("sweep", "exclude"))
                axes = _joined(sweep, entry.content.get("sweep"))
                yield from self._entry(merge(defaults, own), own, axes, [*exclusions, *self._exclusions(entry)])
            else:
                message = f"expected a mapping such as {{name: small, model: gpt2}}, got {show(entry.plain)}"
                problem = Problem(f"experiments.{index}", message, entry.mark)
                line = self._line_here(entry.mark)
                yield self._invalid(self._unique(f"{self._stem}.line{line}", line), line, [problem])

    def _entry(
        self, base: Node, own: Node, sweep: Node | None, exclusions: Sequence[Exclusion]
    ) -> Iterator[Experiment]:
        """The experiments of one entry.

        Args:
            base: the entry over the file's defaults.
            own: the entry alone; it says where the experiment stands.
            exclusions: drop points of the sweep.
        """
        line = self._line_here(_start(own))
        name, mistakes = self._name(base, line)
        if sweep is None or sweep.is_null:
            config, errors = _validated(base, name)
            mistakes += problems(errors, base)
            yield self._invalid(name, line, mistakes) if mistakes else self._experiment(name, line, config, base)
            return
        axes, sweep_mistakes = read_sweep(sweep, MAX_POINTS - self._points)
        mistakes += sweep_mistakes
        found = [] if mistakes else points(base, axes)
        self._points += len(found)
        kept = [point for point in found if not _excluded(point, exclusions)] if exclusions else found
        if found and not kept:
            mark = next(exclusion.node.mark for exclusion in exclusions if exclusion.used)
            mistakes.append(Problem("exclude", f"drops every point of {name}; fix it or remove it", mark))
        if mistakes:
            self._sweeps_hold &= not sweep_mistakes
            # What the sweep may set is no mistake yet.
            _, errors = _validated(base, name)
            errors = [error for error in errors if error["type"] not in ("missing", CONTRADICTION)]
            yield self._invalid(name, line, mistakes + problems(errors, base))
            return
        yield from self._swept(base, name, line, kept)

    def _exclusions(self, node: Node) -> list[Exclusion]:
        """The exclusions of the file or of an entry; what is wrong with them follows all experiments."""
        found, mistakes = read_exclusions(node.content.get("exclude"))
        self._exclude_mistakes += mistakes
        self._all_exclusions += found
        return found

    def _exclude_problems(self) -> list[Problem]:
        found = list(self._exclude_mistakes)
        # With a sweep that could not be read, an exclusion may match a point that is not there yet.
        if self._sweeps_hold:
            found += [exclusion.unused() for exclusion in self._all_exclusions if not exclusion.used]
        return found

    def _swept(self, base: Node, name: str, line: int, found: Sequence[Point]) -> Iterator[Experiment]:
        checked = [(point, *_validated(point.node, name)) for point in found]
        # A contradiction that the file holds without its sweep and that no point resolves is a mistake:
        # skipping every point would look like a success.
        is_mistake = all(config is None for _, config, _ in checked) and any(
            error["type"] == CONTRADICTION for error in _validated(base, name)[1]
        )
        for point, config, errors in checked:
            experiment = self._experiment(name, line, config, point.node, id=point.id, swept=point.swept)
            if config is None:
                mistakes = problems(errors, point.node)
                if not is_mistake and all(mistake.contradicts for mistake in mistakes):
                    reason = "; ".join(str(mistake) for mistake in mistakes)
                    experiment = replace(experiment, contradiction=reason)
                else:
                    experiment = replace(experiment, errors=self._render(mistakes))
            yield experiment

    def _name(self, base: Node, line: int) -> tuple[str, list[Problem]]:
        """The item's name, unique in the file even where what the file says is not."""
        given = base.content.get("name")
        if given is None:
            name, mark = self._stem, base.mark
        else:
            name, mark = given.plain, given.mark
            if not isinstance(name, str) or mistake_in_name(name) is not None:
                # The field itself reports what is wrong with it.
                return self._unique(f"{self._stem}.line{line}", line), []
        if name not in self._line_of_name:
            return self._unique(name, line), []
        first = self._line_of_name[name]
        message = f"{name!r} is the name of the experiment on line {first} already; give each its own `name:`"
        return self._unique(f"{name}.line{line}", line), [Problem("name", message, mark)]

    def _unique(self, name: str, line: int) -> str:
        candidate, count = name, 1
        while candidate in self._line_of_name:
            count += 1
            candidate = f"{name}.{count}"
        self._line_of_name[candidate] = line
        return candidate

    def _invalid(self, name: str, line: int, mistakes: Sequence[Problem]) -> Experiment:
        return self._experiment(name, line, None, errors=self._render(mistakes))

    def _experiment(
        self,
        name: str,
        line: int,
        config: ExperimentConfig | None,
        node: Node | None = None,
        *,
        id: str | None = None,  # noqa: A002 - pytest's word for it
        errors: tuple[str, ...] = (),
        swept: Mapping[str, Any] | None = None,
    ) -> Experiment:
        return Experiment(name, id, self._path, line, config, errors, swept or {}, node=node if config else None)

    def _line_here(self, mark: Mark) -> int:
        """The line of ``mark`` in this file; of what stands in a base, the line that names the base."""
        if mark.source is self._own.mark.source:
            return mark.line
        base = self._own.content["base"]
        return int(base.mark.line)

    def _render(self, mistakes: Sequence[Problem]) -> tuple[str, ...]:
        return tuple(mistake.render() for mistake in mistakes)


def _validated(node: Node, name: str) -> tuple[ExperimentConfig | None, list[ErrorDetails]]:
    try:
        return ExperimentConfig.model_validate({"name": name, **node.plain}, context=FROM_A_FILE), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _without(node: Node, keys: Sequence[str]) -> Node:
    return Node({key: value for key, value in node.content.items() if key not in keys}, node.mark)


def _fields(top: Node) -> Node:
    """What a file says of its experiments, without keys that begin with x-, where it may keep YAML anchors."""
    anchors = [key for key in top.content if isinstance(key, str) and key.startswith("x-")]
    return _without(top, (*FILE_KEYS, *anchors))


def _joined(shared: Node | None, own: Node | None) -> Node | None:
    """The sweep of an entry: the file's, with the entry's axes added and, of the same name, in its place."""
    if shared is None or own is None or not (shared.is_mapping and own.is_mapping):
        return own if own is not None else shared
    return Node({**shared.content, **own.content}, own.mark, own.key)


def _start(own: Node) -> Mark:
    """Where an experiment stands: at its name, else at its model, else where its mapping starts."""
    for key in ("name", "model"):
        node: Node | None = own.content.get(key)
        if node is not None and node.key is not None:
            return node.key
    return own.mark


def _excluded(point: Point, exclusions: Sequence[Exclusion]) -> bool:
    # All are asked, so that one that drops what another drops counts as used.
    dropping = [exclusion for exclusion in exclusions if exclusion.drops(point.node.plain)]
    return bool(dropping)


def _shown_list(node: Node) -> str:
    return "an empty one" if node.plain == [] else show(node.plain)


def _default_name(path: Path) -> str:
    name = next((path.name.removesuffix(suffix) for suffix in SUFFIXES if path.name.endswith(suffix)), path.stem)
    name = re.sub(r"[^A-Za-z0-9_.+-]", "_", name)
    return name if mistake_in_name(name) is None else f"experiment_{name}"
