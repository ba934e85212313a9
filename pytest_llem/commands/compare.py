"""``llem-compare``: ``pytest-benchmark compare`` with units, or a page of two saved runs side by side."""

from __future__ import annotations

import argparse
import sys

from pytest_llem.records import rows

# Newest saved runs that tell how much runs differ, as many as a verdict is held against by default.
_OTHERS = 20


def compare() -> None:
    """The command: with ``--html`` a page of two runs, else what ``pytest-benchmark compare`` does with the same
    arguments."""
    arguments = sys.argv[1:]
    if any(argument.partition("=")[0] == "--html" for argument in arguments):
        _write_page(arguments)
        return
    if {"-h", "--help"} & set(arguments):
        _parser().print_help()
        print("\nWithout --html it is pytest-benchmark compare with units:\n")  # noqa: T201
        sys.stdout.flush()
    rows.compare()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "llem-compare", description="Write a page of two saved runs side by side.", allow_abbrev=False
    )
    parser.add_argument("earlier", help="a saved run: its id such as 0001, a glob, or the path of a saved JSON file")
    parser.add_argument("later", help="the run whose change from the earlier one is shown")
    parser.add_argument("--html", metavar="PATH", required=True, help="the page: one self-contained HTML file")
    parser.add_argument(
        "--storage",
        metavar="URI",
        default="file://./.benchmarks",
        help="where runs are saved (%(default)s); others there tell how much runs differ by chance",
    )
    return parser


def _write_page(arguments: list[str]) -> None:
    # Templates take a while to import, which the tables do not need.
    from pytest_llem.report import html
    from pytest_llem.report.two_runs import two_runs

    parser = _parser()
    asked = parser.parse_args(arguments)
    try:
        (earlier, later), others = rows.stored(asked.storage, (asked.earlier, asked.later), _OTHERS)
        if earlier[1] == later[1]:
            parser.error(f"{asked.earlier} and {asked.later} are the same run")
        runs = two_runs(earlier, later, others)
    except (argparse.ArgumentTypeError, ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    except (AttributeError, KeyError, OverflowError, TypeError) as error:
        # Whatever stands in a file that somebody else wrote.
        parser.error(f"{asked.earlier} or {asked.later} holds something else than a saved run: {error!r}")
    try:
        html.write_page(html.render_two_runs(runs), asked.html)
    except OSError as error:
        parser.error(str(error))
    print(f"llem: wrote {asked.html}")  # noqa: T201
