"""Replies of another model than the asked one, in every place that shows a run."""

from __future__ import annotations

import io
from decimal import Decimal
from pathlib import Path

import pytest

from convbatch.cli import show
from convbatch.config.loader import read_config
from convbatch.pricing import Period, PriceTable, TokenPrice
from convbatch.reporting.report import sections
from convbatch.reporting.runs import reprice
from convbatch.results.run import Run, load
from tests.support.made_runs import SEED_REPLY, MadeRun, dialogue, run_served_by

PRO = "gemini-2.5-pro@google"


def price(source: str, dollars: int) -> PriceTable:
    rate = TokenPrice(base=Decimal(dollars))
    return PriceTable(currency="USD", source=source, periods=(Period(input=rate, output=rate),))


ASKED, SERVED = price("of the asked", 1_000), price("of the served", 5_000)
TOKENS = 22 + 192


def closing_table(run: Run) -> str:
    file = io.StringIO()
    show.print_summary(run.summary(), file=file)
    return " ".join(file.getvalue().split())


def test_a_row_tells_whether_the_asked_model_answered(tmp_path: Path) -> None:
    run = run_served_by(tmp_path / "r", PRO, "models/gemini-2.5-pro", "gemini-2.5-pro-001", "gemini-3.8-flash", None)
    assert run.turns["served_as_asked"].tolist()[:3] == [True, True, False]
    assert run.turns["served_as_asked"].isna().tolist() == [False, False, False, True]


def test_closing_table_and_report_count_replies_of_another_model(tmp_path: Path) -> None:
    run = run_served_by(tmp_path / "r", PRO, "gemini-2.5-pro", "gemini-3.8-flash", "gemini-3.8-flash", None)
    note = "gemini-2.5-pro@google: 2 of 4 replies were served by gemini-3.8-flash, not by gemini-2.5-pro"
    assert note in closing_table(run)
    section = next(section for section in sections(run) if section.key == "served")
    assert section.notes == (f"r: {note}",)
    found = section.frame.astype(object).where(section.frame.notna(), None)
    assert found.drop(columns=["run", "target", "asked"]).to_numpy().tolist() == [
        ["gemini-3.8-flash", 2, 0.5, False],
        [None, 1, 0.25, None],
        ["gemini-2.5-pro", 1, 0.25, True],
    ]


def test_a_name_of_many_lines_stays_in_the_line_of_its_note(tmp_path: Path) -> None:
    run = run_served_by(tmp_path / "r", PRO, "a\n```\n<img src=x>\n# b")
    assert "served by a ``` <img src=x> # b, not by" in closing_table(run)
    section = next(section for section in sections(run) if section.key == "served")
    assert "\n" not in section.notes[0]


def test_a_run_served_as_asked_has_no_note_and_no_section(tmp_path: Path) -> None:
    run = run_served_by(tmp_path / "r", PRO, "gemini-2.5-pro", None)
    assert "served" not in closing_table(run)
    assert "served" not in [section.key for section in sections(run)]


def test_an_alias_of_a_config_is_what_the_report_proposes_and_then_applies(tmp_path: Path) -> None:
    run = run_served_by(tmp_path / "r", "prod@azure", "gpt-4o-2024-08-06")
    hint = next(section for section in sections(run) if section.key == "served").notes[1]
    assert 'aliases = { "prod" = "gpt-4o-2024-08-06" } in [gateways.azure] of convbatch.toml' in hint
    gateway = '[gateways.azure]\nprotocol = "openai"\nbase_url = "https://azure.example"\nauth = "none"\n'
    alias = 'aliases = { "prod" = "gpt-4o-2024-08-06" }\n'
    (tmp_path / "new.toml").write_text(gateway + alias, "utf-8")
    again = {section.key: section for section in sections(run, config=tmp_path / "new.toml")}
    assert (again["served"].notes, again["served"].frame["served_as_asked"].tolist()) == ((), [True])


def test_the_model_behind_a_latest_name_is_named(tmp_path: Path) -> None:
    run = run_served_by(tmp_path / "r", "gemini-flash-latest@google", "gemini-3.8-flash")
    assert run.turns["served_as_asked"].tolist() == [True]
    assert "1 of 1 replies was served by gemini-3.8-flash, which gemini-flash-latest stands for now" in closing_table(
        run
    )


def test_a_reply_has_the_price_that_its_record_holds_and_else_that_of_the_asked_model_with_the_doubt(
    tmp_path: Path,
) -> None:
    made = MadeRun(tmp_path / "r", [dialogue(f"d{n}", "x") for n in range(3)], targets=(PRO,), prices={PRO: ASKED})
    other = SEED_REPLY._replace(model_version="gemini-3.8-flash")
    made.replied(made.ident(0, 1))
    made.replied(made.ident(1, 1), other)
    made.replied(made.ident(2, 1), other, prices=SERVED.to_plain())
    rows = load(made.write().path).turns
    assert rows["cost"].tolist() == pytest.approx([TOKENS / 1_000, TOKENS / 1_000, TOKENS * 5 / 1_000])
    doubt = "of the asked; served by gemini-3.8-flash, priced as gemini-2.5-pro"
    assert rows["price_source"].tolist() == ["of the asked", doubt, "of the served"]


def test_a_model_without_a_price_has_that_of_the_model_that_answered(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "r", [dialogue("d", "x")], targets=("prod@azure",))
    made.replied(made.ident(0, 1), SEED_REPLY._replace(model_version="gpt-4o-2024-08-06"), prices=SERVED.to_plain())
    [row] = load(made.write().path).turns.to_dict("records")
    assert (row["cost"], row["currency"], row["price_source"]) == (pytest.approx(1.07), "USD", "of the served")


def test_a_config_prices_stored_replies_again_by_the_model_that_answered(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "r", [dialogue(f"d{n}", "x") for n in range(2)], targets=(PRO,), prices={PRO: ASKED})
    other = SEED_REPLY._replace(model_version="gemini-3.8-flash")
    made.replied(made.ident(0, 1), other, prices=SERVED.to_plain())
    made.replied(made.ident(1, 1), other)
    run = load(made.write().path)
    table = "[prices.google.{}]\ninput = {}\noutput = {}\n"
    own = table.format('"gemini-2.5-pro"', 10_000, 10_000)
    repriced, _ = reprice(run, read_config(own, Path("new.toml")))
    assert repriced.turns["cost"].tolist() == pytest.approx([2.14, 2.14])
    exact = own + table.format('"gemini-3.8-flash"', 20_000, 20_000)
    repriced, _ = reprice(run, read_config(exact, Path("new.toml")))
    assert repriced.turns["cost"].tolist() == pytest.approx([4.28, 4.28])
    assert set(repriced.turns["price_source"]) == {"new.toml:4"}
