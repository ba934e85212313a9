"""Links in the documentation lead somewhere, on GitHub too; ``tox -e docs`` checks those of the site."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (".", "docs", "changelog.d", "tests/recordings")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub spells them in links."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    dead = []
    for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_in_lists_are_indented_for_both_readers(page: Path) -> None:
    """GitHub takes any indent from the text of the item on; the site's Markdown takes four spaces and no fewer."""
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^ {1,3}```.*$", text, flags=re.MULTILINE) == []
    assert re.findall(r"^ {1,3}(?:[*+-]|\d+\.) .*$", prose(page), flags=re.MULTILINE) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_fit_a_screen_but_for_tables(page: Path) -> None:
    if page.name == "reference.md":
        return  # written by a program
    assert [line for line in prose(page).splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# One `--word`\n")
    page.write_text("[a](other.md#one---word) [b](https://example.org/x.md) [c](gone.md) [d](other.md#two) [e](#f)\n")
    assert dead_links(page) == ["gone.md", "other.md#two", "#f"]


def tox_dependencies(environment: str) -> list[str]:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    return tox[f"testenv:{environment}"]["deps"].split()


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def test_the_site_is_built_with_what_the_extra_installs() -> None:
    assert tox_dependencies("docs") == project()["optional-dependencies"]["docs"]


def test_the_quick_tests_have_all_that_the_package_needs_but_torch_and_its_relatives() -> None:
    installed, needed = (
        {re.split(r"[\[<>=!]", dependency)[0] for dependency in dependencies}
        for dependencies in (tox_dependencies("quick"), project()["dependencies"])
    )
    assert needed - installed == {"torch", "transformers", "accelerate"}


def test_the_receivers_are_those_of_the_extras() -> None:
    extras = project()["optional-dependencies"]
    names = ("carbon", "prometheus", "otlp", "mlflow", "wandb", "parquet")
    libraries = {library for name in names for library in extras[name]}
    assert set(tox_dependencies("receivers")) - {"{[testenv:quick]deps}"} == libraries
