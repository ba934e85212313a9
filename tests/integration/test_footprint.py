"""``--llem-region``, ``--llem-price`` and ``--llem-pue``: every result carries the session's carbon and cost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.test_grids import data  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., pytest.RunResult]
    Write = Callable[..., Path]
    Saved = Callable[[], list[dict[str, Any]]]

ASKED = ("--llem-region=400", "--llem-price=0.3 EUR", "--llem-pue=1.5")
JSON = "--benchmark-json=out.json"
JOURNAL = "--llem-journal=journal.jsonl"


def carries(row: dict[str, Any], intensity: float = 400.0, price: float | None = 0.3, pue: float = 1.5) -> bool:
    """Whether a row has carbon and cost of its own joules."""
    result = row["extra_info"]["result"]
    kwh = result["energy_j"] / 3.6e6 * pue
    assert result["footprint"]["intensity_g_per_kwh"] == intensity
    assert result["carbon_g"] == pytest.approx(kwh * intensity)
    assert result["cost"] == (None if price is None else pytest.approx(kwh * price))
    return True


def test_rows_carry_both_and_what_they_were_reckoned_with(run: Run, write: Write, saved: Saved) -> None:
    write("a.llem.yaml", "sweep: {pytorch.batch_size: [1, 2]}\n")
    result = run(*ASKED, JSON)
    assert result.ret == 0
    assert all(carries(row) for row in saved())
    assert saved()[0]["extra_info"]["result"]["footprint"] == {
        "region": None,
        "intensity_g_per_kwh": 400.0,
        "source": "given",
        "pue": 1.5,
        "price_per_kwh": 0.3,
        "currency": "EUR",
    }
    # A call of the second point takes both prompts.
    assert {row["extra_info"]["result"]["prompts"] for row in saved()} == {1.0, 2.0}
    result.stdout.fnmatch_lines(["llem: carbon and cost by 400 g CO2e a kWh (given), 0.3 EUR a kWh, PUE 1.5", "*CO2e*"])


def test_what_makes_results_comparable_stays(run: Run, write: Write, saved: Saved) -> None:
    write()
    hashes = []
    for options in ((), ASKED):
        assert run(*options, JSON).ret == 0
        info = saved()[0]["extra_info"]
        hashes.append([info[name] for name in ("workload_hash", "environment_hash", "fingerprint")])
    assert hashes[0] == hashes[1]


def test_a_test_may_hold_a_budget_of_carbon(run: Run, pytester: pytest.Pytester, write: Write) -> None:
    write()
    pytester.makepyfile("""
        import pytest

        @pytest.mark.llem("tiny.llem.yaml")
        def test_experiment(llem_run):
            result = llem_run()
            assert result.carbon_g == pytest.approx(result.energy_j / 3.6e6 * 400)

        def test_callable(llem_benchmark):
            llem_benchmark.pedantic(sorted, ([3, 1],), rounds=2, min_window_s=0.0)
            assert llem_benchmark.result.footprint.intensity_g_per_kwh == 400
    """)
    run("--llem-region=400").assert_outcomes(passed=3)


@pytest.mark.processes
def test_a_child_carries_them_too(run: Run, write: Write, pytester: pytest.Pytester, saved: Saved) -> None:
    write()
    pytester.makeini("[pytest]\nllem_region = 400\nllem_price = 0.3\nllem_pue = 1.5\n")
    assert run("--llem-isolate", JSON, "--junitxml=out.xml").ret == 0
    assert all(carries(row) for row in saved())
    assert 'name="llem.carbon_g"' in (pytester.path / "out.xml").read_text()


def test_a_session_that_resumes_or_merges_reckons_with_its_own(run: Run, write: Write, saved: Saved) -> None:
    write()
    assert run(JOURNAL).ret == 0
    assert run(*ASKED, JOURNAL, "--llem-resume", JSON).ret == 0
    assert all(carries(row) for row in saved())
    # Another grid, no price.
    assert run("--llem-region=100", "--llem-merge=journal.jsonl", JSON).ret == 0
    assert all(carries(row, 100.0, None, 1.0) for row in saved())
    # A session that names none leaves what there is.
    result = run("--llem-merge=journal.jsonl", JSON)
    assert all(carries(row) for row in saved())
    result.stdout.fnmatch_lines(["llem: carbon and cost by 400 g CO2e a kWh (given), 0.3 EUR a kWh, PUE 1.5: *"])


def test_copies_of_a_result_that_were_reckoned_differently_are_one(
    run: Run, write: Write, pytester: pytest.Pytester
) -> None:
    write()
    run(JOURNAL, "--llem-region=400")
    copy = pytester.path / "copy.jsonl"
    copy.write_bytes((pytester.path / "journal.jsonl").read_bytes())
    run(JOURNAL, "--llem-resume", "--llem-region=100")
    assert run("--llem-merge=journal.jsonl", "--llem-merge=copy.jsonl").ret == 0


def test_without_joules_there_is_no_carbon(run: Run, write: Write, saved: Saved) -> None:
    write()
    result = run(*ASKED, "--llem-meter=none", JSON)
    (row,) = saved()
    assert row["extra_info"]["result"]["carbon_g"] is None
    assert row["extra_info"]["result"]["missing"]["carbon_g"] == row["extra_info"]["result"]["missing"]["energy_j"]
    result.stdout.fnmatch_lines(["tiny * CO2e * -  *-  *-  energy_j, none"])


@pytest.mark.processes
@pytest.mark.usefixtures("data")
def test_a_child_need_not_know_the_country(run: Run, write: Write, saved: Saved) -> None:
    """It may be of another interpreter: here the session alone has the data."""
    write()
    assert run("--llem-isolate", "--llem-region=DEU", JSON).ret == 0
    assert all(carries(row, 380.95, None, 1.0) for row in saved())
    assert saved()[0]["extra_info"]["result"]["footprint"]["region"] == "DEU"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--llem-region=-3"],
            "*--llem-region: '-3' is out of range; use grams of CO2e a kWh as a number, at least 0*",
        ),
        (["--llem-region="], "*--llem-region: its value is empty*"),
        (["--llem-price="], "*--llem-price: its value is empty*"),
        (["--llem-price=0,30"], "*--llem-price: '0,30' is no price of a kWh; write a number*0.30EUR*"),
        (["--llem-price=-1"], "*--llem-price: '-1' is no price of a kWh*"),
        (["--llem-region=1", "--llem-pue=1e10"], "*--llem-pue: '1e10' is out of range*"),
        (["--llem-price=1e999"], "*--llem-price: '1e999' is no price of a kWh*"),
        (["--llem-price=EUR"], "*--llem-price: 'EUR' is no price of a kWh*"),
        (["--llem-region=1", "--llem-pue=0.9"], "*--llem-pue: '0.9' is out of range; use a number, at least 1*"),
        (["--llem-pue=1.2"], "*--llem-pue multiplies carbon and cost: pass --llem-region or --llem-price with it*"),
    ],
)
def test_mistakes_are_usage_errors(run: Run, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


@pytest.mark.parametrize(
    ("price", "currency"), [("0.30", None), ("0.30EUR", "EUR"), ("0.30 EUR", "EUR"), (".3€", "€"), ("3e-1 ct", "ct")]
)
def test_a_price_may_name_its_currency(run: Run, write: Write, saved: Saved, price: str, currency: str | None) -> None:
    write()
    assert run(f"--llem-price={price}", JSON).ret == 0
    footprint = saved()[0]["extra_info"]["result"]["footprint"]
    assert (footprint["price_per_kwh"], footprint["currency"]) == (0.3, currency)


def test_a_country_without_codecarbon_is_a_usage_error(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(name: str) -> None:
        raise ValueError('which is not installed: pip install "pytest-llem[carbon]", or give a number')

    monkeypatch.setattr("pytest_llem.grids.find_grid", fails)
    result = run("--llem-region=DEU")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(['*--llem-region: *pip install "pytest-llem[[]carbon[]]"*'])
    pytester.makeini("[pytest]\nllem_region = DEU\n")
    result = run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*llem_region in the ini file: *"])
    # Who measures nothing can do without it.
    assert pytester.runpytest("--collect-only").ret in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def test_a_pue_in_the_ini_file_waits_for_what_it_multiplies(
    run: Run, pytester: pytest.Pytester, write: Write, saved: Saved
) -> None:
    write()
    pytester.makeini("[pytest]\nllem_pue = 1.5\n")
    assert run(JSON).ret == 0
    assert saved()[0]["extra_info"]["result"]["footprint"] is None
    assert run("--llem-region=400", JSON).ret == 0
    assert all(carries(row, price=None) for row in saved())


def test_the_journal_holds_them(run: Run, write: Write, pytester: pytest.Pytester) -> None:
    write()
    run(*ASKED, JOURNAL)
    (line,) = (pytester.path / "journal.jsonl").read_text().splitlines()
    assert json.loads(line)["result"]["carbon_g"] > 0
