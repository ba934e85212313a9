"""What makes a site of pages that are written to be read on GitHub; named in mkdocs.yml.

* The JSON Schema of experiment files lies where its address says.
* README.md and the other pages of the root become pages of the site.
* A link that leaves docs/ leads to that page of the site, or to the file on GitHub.
* ``<!-- api: pytest_llem.module.name -->`` is replaced by the documentation of that name.
"""

from __future__ import annotations

import json
import posixpath
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the package is not installed where the site is built

from pytest_llem.config.schema import URL, experiment_file_schema  # noqa: E402

ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}

_LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
_API = re.compile(r"^<!-- api: (\S+) -->$", re.MULTILINE)
_SPHINX_ROLE = re.compile(r":\w+:(?=<code>)(<code>)~?")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, and the schema."""
    schema = json.dumps(experiment_file_schema(), indent=2)
    files.append(File.generated(config, URL.partition("/en/latest/")[2], content=schema))
    for source, page in ROOT_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        file = File.generated(config, page, content=_linked(text, "", config))
        file.edit_uri = f"../{source}"
        files.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Mend the links of a page of docs/, and ask for the documentation of names."""
    if page.file.src_uri not in ROOT_PAGES.values():
        markdown = _linked(markdown, "docs", config)
    if page.file.src_uri == "reference.md":
        markdown = markdown.replace("][", r"]\[")  # as in org/repo[@revision][:function], which is no link
    return _API.sub(r"::: \1", markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Docstrings name things as Sphinx does (:class:`Meter`); show the name alone."""
    return _SPHINX_ROLE.sub(r"\1", html)


def _linked(markdown: str, folder: str, config: MkDocsConfig) -> str:
    """The text of a file in ``folder``, with links as they are from a page of the site."""

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        page = ROOT_PAGES.get(target) or (target[len("docs/") :] if target.startswith("docs/") else None)
        if page is None:
            if not (ROOT / target).exists():
                return match[0]  # MkDocs says that it is dead
            page = f"{config.repo_url}/blob/main/{target}"
        return f"]({page}{match[2] or ''})"

    return _LINK.sub(link, markdown)
