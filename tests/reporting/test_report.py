"""Reports: hand-computed frames, totals, a real run compared with the ledger, every output format."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import convbatch as package
from convbatch.cli import show
from convbatch.cli.runs import print_runs, read_run
from convbatch.cli.transcript import print_transcript
from convbatch.config.loader import load_config
from convbatch.errors import InputError, SetupError
from convbatch.pricing import Period, PriceTable, TokenPrice
from convbatch.reply import NO_USAGE, Failure, Usage
from convbatch.reporting import render
from convbatch.reporting.caching import CACHING
from convbatch.reporting.latency import STREAMS
from convbatch.reporting.report import (
    ERRORS,
    FINISH_REASONS,
    GROWTH,
    KEYS,
    SERVED,
    USAGE,
    grouping,
    report,
    sections,
)
from convbatch.reporting.runs import reprice
from convbatch.reporting.tool_calls import TOOL_CALLS
from convbatch.results.filters import Filters
from convbatch.results.judge_costs import JUDGES
from convbatch.results.run import load
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from convbatch.tools import ToolCall
from tests.conftest import Command, config_for, write_dataset
from tests.support.made_runs import GOOD, REAL, SEED_REPLY, MadeRun, dialogue
from tests.support.terminal import Terminal

DOCS = Path(__file__).parents[2] / "docs" / "report.md"
RESOLD = "qwen-plus@dmxapi"
TIMEOUT = Failure(kind="timeout", message="no answer in 600 s")
BROKEN_OFF = Failure(
    kind="connection", message="broke off", usage=Usage(input_tokens=10, output_tokens=5, source="reported")
)


def prices(currency: str, input_price: int, output_price: int) -> PriceTable:
    period = Period(input=TokenPrice(base=Decimal(input_price)), output=TokenPrice(base=Decimal(output_price)))
    return PriceTable(currency=currency, source="by hand", periods=(period,))


USD, CNY = prices("USD", 1, 2), prices("CNY", 10, 20)
SEED_USD = 0.000406  # 22 x 1 + 192 x 2
SEED_CNY = 0.00406
BROKEN_OFF_USD = 0.00002  # 10 x 1 + 5 x 2
BOUND_USD = 0.002  # 1000 x 1 + 500 x 2


@pytest.fixture
def made(tmp_path: Path) -> MadeRun:
    """Two dialogues of two turns at two targets, with every case that a report distinguishes."""
    dialogues = [dialogue("a", "1", "2", tags=["x", "y"]), dialogue("=b", "1", "2")]
    made = MadeRun(tmp_path / "r", dialogues, targets=(REAL, RESOLD), prices={REAL: USD, RESOLD: CNY})
    first = made.ident(0, 1)
    made.failed(first, BROKEN_OFF, cls="ambiguous")  # paid, with reported usage
    made.replied(first, attempt=2)
    lost = made.ident(0, 2)
    made.intent(lost, most_input_tokens=1000, max_output_tokens=500)
    made.outcome(lost, cls="timeout", error={"kind": "timeout", "message": "no answer in 600 s"})
    made.turn(lost, "error")
    made.replied(made.ident(1, 1), SEED_REPLY._replace(usage=NO_USAGE))
    reused = made.ident(0, 1, RESOLD)
    made.outcome(reused, 0, cls="replied", http_status=200, reply=_plain(), reused_from="older")
    made.turn(reused, "ok", reused_from="older")
    made.replied(made.ident(0, 2, RESOLD))
    made.intent(made.ident(1, 1, RESOLD))  # killed; without an output limit there is no bound
    return made


def _plain() -> dict[str, Any]:
    from convbatch.reply import reply_to_plain

    return reply_to_plain(SEED_REPLY._replace(model_version="qwen-plus"))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{k: None if pd.isna(v) else v for k, v in row.items()} for row in frame.to_dict("records")]


def test_a_report_equals_hand_computed_values(made: MadeRun) -> None:
    real, resold = records(report(made.write().path))
    assert real == {
        "run": "r", "target": REAL, "turns": 4, "ok": 2, "blocked": 0, "empty": 0, "error": 1, "skipped": 0,
        "pending": 1, "reused": 0, "attempts": 4, "retries": 1, "input_tokens": 22, "cached_input_tokens": None,
        "cache_write_input_tokens": None, "output_tokens": 192, "reasoning_tokens": 178, "tokens_unknown": 1,
        "cost": SEED_USD, "failed_cost": BROKEN_OFF_USD, "spent": 0.000426, "currency": "USD", "costs": "0.000426 USD",
        "unpriced": 1, "reused_cost": None, "failed_attempts_billed": 1, "possibly_paid": 2,
        "possibly_paid_bound": BOUND_USD, "possibly_paid_unbounded": 0, "p50_latency_s": 0.5, "p95_latency_s": 0.5,
        "limiter_wait_s": 1.0, "retry_wait_s": 0.0,
    }  # fmt: skip
    assert resold["reused"] == 1
    assert resold["attempts"] == 2
    assert (resold["input_tokens"], resold["output_tokens"]) == (22, 192)  # excludes the reused reply
    assert (resold["cost"], resold["spent"], resold["currency"]) == (SEED_CNY, SEED_CNY, "CNY")
    assert resold["reused_cost"] == SEED_CNY
    assert (resold["possibly_paid"], resold["possibly_paid_bound"], resold["possibly_paid_unbounded"]) == (1, None, 1)
    assert (resold["ok"], resold["pending"], resold["unpriced"]) == (2, 2, 0)


def test_amounts_in_two_currencies_are_listed_and_never_added(made: MadeRun) -> None:
    [row] = records(report(made.write().path, by=[]))
    assert (row["cost"], row["spent"], row["currency"]) == (None, None, None)
    assert row["costs"] == "0.00406 CNY + 0.000426 USD"


def test_a_rate_of_the_run_converts_every_amount(made: MadeRun) -> None:
    made.rates = {"USD/CNY": "7"}
    [row] = records(report(made.write().path, by=[], currency="CNY"))
    assert row["currency"] == "CNY"
    assert row["spent"] == pytest.approx(0.00406 + 7 * 0.000426, abs=1e-15)
    assert row["failed_cost"] == pytest.approx(7 * BROKEN_OFF_USD, abs=1e-15)
    assert row["possibly_paid_bound"] == pytest.approx(7 * BOUND_USD, abs=1e-15)


ADDED = [
    column.name
    for column in USAGE
    if column.dtype == "Int64" or column.name.endswith(("cost", "spent", "bound", "wait_s"))
]
PARTITIONS = [keys for n in range(4) for keys in itertools.combinations([key for key in KEYS if key != "tag"], n)]


@pytest.mark.slow
def test_groups_of_every_partition_add_up_to_the_total(made: MadeRun) -> None:
    made.prices = {REAL: USD, RESOLD: USD}
    path = made.write().path
    [total] = records(report(path, by=()))
    for keys in PARTITIONS:
        frame = report(path, keys)
        for name in ADDED:
            added = sum(row[name] or 0 for row in records(frame))
            assert added == pytest.approx(total[name] or 0, abs=1e-12), (keys, name)


def test_a_dialogue_with_two_tags_counts_in_each_and_once_in_the_total(made: MadeRun) -> None:
    run = load(made.write().path)
    frame = report(run, "tag")
    assert frame["tag"].tolist() == ["x", "y", pd.NA]
    assert frame["turns"].tolist() == [4, 4, 4]
    found = {section.key: section for section in sections(run, "tag")}
    assert found["totals"].frame["turns"].tolist() == [8]
    assert any("several tags" in note for note in found["usage"].notes)


def test_groups_are_sorted_by_the_requested_keys(made: MadeRun) -> None:
    frame = report(made.write().path, "target,dialogue,turn")
    places = list(zip(frame["target"], frame["dialogue"], frame["turn"], strict=True))
    assert places == list(itertools.product((REAL, RESOLD), ("a", "=b"), (1, 2)))


def test_the_report_and_the_table_of_turns_agree_on_the_cost_of_failed_attempts(made: MadeRun) -> None:
    run = load(made.write().path)
    turns = run.turns
    assert turns["failed_cost"].dropna().tolist() == [BROKEN_OFF_USD]
    assert turns["possibly_paid_bound"].dropna().tolist() == [BOUND_USD]  # the cost of the other one is known
    assert sum(turns["possibly_paid_unbounded"].tolist()) == 1
    assert set(turns["currency"].dropna()) == {"USD", "CNY"}
    real, resold = run.summary()
    assert (real.spent, real.currency, real.unpriced, real.at_most) == (
        Decimal("0.000426"), "USD", 1, Decimal("0.002"),
    )  # fmt: skip
    assert (resold.spent, resold.at_most) == (Decimal("0.00406"), None)


def test_the_summary_shows_spending_and_possibly_paid_attempts(made: MadeRun) -> None:
    file = io.StringIO()
    show.print_summary(load(made.write().path).summary(), file=file)
    text = " ".join(file.getvalue().split())
    assert "2 0 0 1 22 192 0.50 0.50 0.000426 USD" in text
    assert "2 0 0 0 22 192 0.50 0.50 0.00406 CNY" in text
    assert "2 possibly paid (at most 0.002 USD more)" in text
    assert "1 without a cost" in text


def test_a_list_of_runs_shows_their_spending_by_currency(made: MadeRun) -> None:
    file = io.StringIO()
    print_runs([read_run(made.write())], file=file)
    assert "0.00406 CNY" in file.getvalue()
    assert "0.000426 USD" in file.getvalue()


def test_the_costs_of_targets_side_by_side_have_their_currencies(made: MadeRun) -> None:
    file = Terminal()
    show.print_wide([load(made.write().path)], "cost", file=file)
    assert "0.000406 USD" in file.getvalue()
    assert "0.00406 CNY" in file.getvalue()


def test_a_transcript_shows_what_each_reply_cost(made: MadeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    file = io.StringIO()
    print_transcript([load(made.write().path)], "a", file=file)
    assert "22 in, 192 out (178 reasoning) · 0.000406 USD · 0.50 s" in " ".join(file.getvalue().split())


# Other sections


def test_the_other_sections_equal_hand_computed_values(made: MadeRun) -> None:
    found = {section.key: records(section.frame) for section in sections(made.write().path)}
    assert list(found) == ["usage", "totals", "finish_reasons", "errors", "growth"]
    assert found["finish_reasons"] == [
        {"run": "r", "target": REAL, "finish_reason": "stop", "finish_reason_raw": "STOP", "replies": 2, "reused": 0},
        {"run": "r", "target": RESOLD, "finish_reason": "stop", "finish_reason_raw": "STOP", "replies": 1, "reused": 1},
    ]  # fmt: skip
    errors = [tuple(row.values())[2:] for row in found["errors"]]
    assert errors == [
        ("connection", 1, 0, 0, "broke off"),
        ("timeout", 1, 1, 0, "no answer in 600 s"),
        ("lost", 1, 0, 0, None),
    ]
    growth = [tuple(row.values())[1:] for row in found["growth"]]
    assert growth == [(REAL, 1, 2, 22, 22.0, 22.0, 1), (RESOLD, 2, 1, 22, 22.0, 22.0, 0)]


def test_names_of_any_length_from_a_gateway_are_cut_in_reports_and_kept_in_the_journal(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "r", [dialogue("d", "1")])
    reason, model = "r" * 100_000, "m" * 10_000
    made.replied(made.ident(0, 1), SEED_REPLY._replace(finish_reason_raw=reason, model_version=model))
    found = sections(made.write().path)
    printed = io.StringIO()
    render.to_terminal(found, file=printed)
    for shown in (render.to_markdown(found), render.to_json(found, ("target",)).decode(), printed.getvalue()):
        assert len(shown) < 20_000
        assert "(100,000 characters)" in " ".join(shown.split())
        assert "r" * 201 not in "".join(shown.split())
        assert "m" * 201 not in "".join(shown.split())
    [turn] = load(tmp_path / "r").turns.to_dict("records")
    assert (turn["finish_reason_raw"], turn["model_version"]) == (reason, model)


def test_growth_has_mean_and_median_of_the_known_counts(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "r", [dialogue(f"d{n}", "1", "2") for n in range(3)])
    for index, size in enumerate((10, 20, 90)):
        for turn in (1, 2):
            usage = Usage(input_tokens=size * turn, output_tokens=1, source="reported")
            made.replied(made.ident(index, turn), SEED_REPLY._replace(usage=usage))
    frame = sections(made.write().path)[-1].frame
    assert frame["turn"].tolist() == [1, 2]
    assert frame["input_tokens"].tolist() == [120, 240]
    assert frame["mean_input_tokens"].tolist() == [40.0, 80.0]
    assert frame["median_input_tokens"].tolist() == [20.0, 40.0]


def test_latency_percentiles_use_the_nearest_rank(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "r", [dialogue("d", *["x"] * 20)])
    for turn in range(1, 21):
        made.replied(made.ident(0, turn), latency_s=float(turn))
    [row] = records(report(made.write().path))
    assert (row["p50_latency_s"], row["p95_latency_s"]) == (10.0, 19.0)


def test_a_retried_broken_generation_is_a_billed_failed_attempt(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "r", [dialogue("d", "x")], prices={REAL: USD})
    ident = made.ident(0, 1)
    made.replied(ident, SEED_REPLY._replace(finish_reason="error", finish_reason_raw="MALFORMED_FUNCTION_CALL"))
    made.replied(ident, attempt=2)
    run = load(made.write().path)
    [row] = records(report(run))
    assert (row["ok"], row["input_tokens"], row["failed_attempts_billed"]) == (1, 22, 1)
    assert (row["cost"], row["failed_cost"], row["spent"]) == (SEED_USD, SEED_USD, 0.000812)
    [error] = records(sections(run)[3].frame)
    assert (error["error_kind"], error["attempts"], error["turns"]) == ("malformed_output", 1, 0)


def test_partial_usage_of_a_truncated_reply_raises_the_bound_and_is_not_a_cost(
    convbatch: Command, simulator: Callable[[Provider], Server], tmp_path: Path
) -> None:
    counts = {"promptTokenCount": 9, "candidatesTokenCount": 1, "totalTokenCount": 10}
    cut = json.dumps([{"candidates": [{"content": {"parts": [{"text": "half"}]}}], "usageMetadata": counts}])
    rule = {"match": {"attempt": 1}, "action": "body", "text": cut}
    data = write_dataset(tmp_path / "d.jsonl", 1, 1)
    for name, cap, code in (("capped", "0.0003USD", 4), ("free", "1USD", 0)):
        provider = Provider(faults=FaultScript.of([rule]))
        (tmp_path / "convbatch.toml").write_text(config_for(simulator(provider).url) + TWO_PRICES)
        limits = ("--max-output-tokens", "90", "--max-cost", cap)
        done = convbatch("run", data, "-m", "sim-good@at-gemini", "-o", name, "--no-progress", *limits)
        assert done.code == code, done.err  # 4: the bound of the first call leaves no budget for a second one
        [row] = records(report(tmp_path / name))
        assert (row["possibly_paid"], row["possibly_paid_unbounded"]) == (1, 0)
        assert (row["failed_attempts_billed"], row["failed_cost"]) == (0, None)
        assert row["possibly_paid_bound"] >= 180e-6  # 90 tokens at 2 USD per million


# Prices that are missing, and prices of a config


def test_a_turn_without_a_price_is_counted_and_the_missing_config_lines_are_named(made: MadeRun) -> None:
    made.prices = {REAL: USD}
    path = made.write().path
    [usage, *_] = sections(path)
    notes = "\n".join(usage.notes)
    assert (
        '1 answer without a price. To set a price, add to convbatch.toml:\n[prices.dmxapi."qwen-plus"]\ninput' in notes
    )
    assert f"then: convbatch report {path} -c convbatch.toml" in notes
    assert "1 answer without a cost although the target has a price" in notes
    assert "2 of 3 replies without a cost" in notes
    assert "1 reused reply" in notes


def test_prices_of_a_config_replace_the_prices_of_the_run(made: MadeRun, tmp_path: Path) -> None:
    made.prices = {REAL: USD}
    run = load(made.write().path)
    config = tmp_path / "prices.toml"
    table = 'input = 10\noutput = 20\ncurrency = "CNY"\nsource = "a bill"\n'
    config.write_text(f'[prices.google."gemini-*"]\n{table}[prices.dmxapi."*"]\n{table}[rates]\n"USD/CNY" = 8\n')
    real, resold = records(report(run, config=config))
    assert (real["cost"], real["failed_cost"], real["currency"]) == (SEED_CNY, 0.0002, "CNY")
    assert real["possibly_paid_bound"] == 0.02
    assert resold["cost"] == SEED_CNY
    in_usd = report(run, config=config, currency="USD")
    assert in_usd["cost"].tolist() == pytest.approx([SEED_CNY / 8, SEED_CNY / 8], abs=1e-15)
    repriced, _ = reprice(run, load_config(config))
    assert set(repriced.turns["price_source"].dropna()) == {f"{config}:1 (a bill)", f"{config}:6 (a bill)"}
    assert records(report(run))[0]["cost"] == SEED_USD  # the config does not change the run
    assert set(load(run.path).turns["price_source"].dropna()) == {"by hand"}


def test_a_config_replaces_multiplier_and_currency_of_a_gateway(made: MadeRun, tmp_path: Path) -> None:
    config = tmp_path / "prices.toml"
    config.write_text("[gateways.google]\nprice_multiplier = 5\ncurrency = 'CNY'\n")
    [real, _] = records(report(made.write().path, config=config))
    assert real["cost"] == 0.002433  # 5 x (22 x 0.30 + 192 x 2.50)
    assert real["currency"] == "CNY"


# Refusals


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--by", "targt"), "did you mean 'target'?"),
        (("--by", "target,colour"), "'colour'"),
        (("--currency", "EUR"), '"CNY/EUR" = <EUR for 1 CNY>, "USD/EUR" = <EUR for 1 USD>'),
        (("--currency", "yuan"), "did you mean CNY?"),
        (("-c", "nowhere.toml"), "nowhere.toml"),
        (("-o", "x.xml"), "cannot tell the format of x.xml"),
        (("-o", "missing/x.md"), "cannot write missing/x.md"),
        (("r",), "r is given more than once"),
        (("./r/",), "r is given more than once"),
        (("other",), "no run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_invalid_arguments_are_refused_with_exit_2(
    made: MadeRun, convbatch: Command, args: tuple[str, ...], message: str
) -> None:
    made.write()
    done = convbatch("report", "r", *args)
    assert done.code == 2
    assert message in done.err
    assert done.out == ""


def test_a_report_needs_a_run_and_an_existing_config(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no run to report"):
        report([])
    with pytest.raises(InputError):
        report(MadeRun(tmp_path / "r", [dialogue("d", "x")]).write().path, config=tmp_path / "none.toml")


def test_group_keys_may_be_repeated_or_comma_separated_and_count_once() -> None:
    assert grouping(["target, turn", "turn", "tag"]) == ("target", "turn", "tag")


# Several runs


def test_runs_of_the_same_name_are_distinguished_by_their_paths(tmp_path: Path) -> None:
    paths = [MadeRun(tmp_path / place / "r", [dialogue("d", "x")]).write().path for place in ("one", "two")]
    frame = report([load(path) for path in paths])
    assert frame["run"].tolist() == [str(path) for path in paths]
    third = MadeRun(tmp_path / "s", [dialogue("d", "x")]).write().path
    assert report([*paths, third])["run"].tolist() == [*map(str, paths), "s"]


# Output formats


def test_the_command_and_python_give_the_same_frame(made: MadeRun, convbatch: Command) -> None:
    path = made.write().path
    done = convbatch("report", "r", "--by", "target", "--by", "turn", "--json")
    assert (done.code, done.err) == (0, "")
    plain = json.loads(done.out)
    assert list(plain) == ["runs", "by", "usage", "totals", "finish_reasons", "errors", "growth"]
    assert (plain["runs"], plain["by"]) == (["r"], ["target", "turn"])
    assert list(plain["usage"]) == ["title", "notes", "rows"]
    frame = package.report(path, by=["target", "turn"])
    assert list(plain["usage"]["rows"][0]) == ["run", "target", "turn", *(column.name for column in USAGE)]
    assert plain["usage"]["rows"] == records(frame)


def test_every_output_format_is_written_in_one_call(made: MadeRun, convbatch: Command, tmp_path: Path) -> None:
    made.write()
    outs = [word for end in ("md", "csv", "json", "parquet") for word in ("-o", f"x.{end}")]
    done = convbatch("report", "r", "--by", "dialogue", *outs)
    assert (done.code, done.out, done.err) == (0, "", "")
    page = (tmp_path / "x.md").read_text("utf-8")
    for title in ("Turns", "Tokens", "Cost", "Time", "Finish reasons", "Errors", "Input tokens by turn"):
        assert f"## {title}\n" in page
    rows = list(csv.DictReader(io.StringIO((tmp_path / "x.csv").read_text("utf-8-sig"))))
    assert [row["dialogue"] for row in rows] == ["a", "'=b"]  # quoted, so that a spreadsheet does not evaluate it
    frame = report(tmp_path / "r", "dialogue")
    assert pd.read_parquet(tmp_path / "x.parquet")["turns"].tolist() == frame["turns"].tolist()
    plain = json.loads((tmp_path / "x.json").read_bytes())
    assert [row["costs"] or "" for row in plain["usage"]["rows"]] == [row["costs"] for row in rows]


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("by", ["target", "tag", "dialogue,turn", ""])
def test_a_report_fits_its_terminal(made: MadeRun, monkeypatch: pytest.MonkeyPatch, columns: int, by: str) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    file = Terminal()
    render.to_terminal(sections(made.write().path, by), file=file)
    assert file.width <= columns


def test_a_terminal_shows_the_first_rows_of_many_and_the_total(tmp_path: Path) -> None:
    found = sections(MadeRun(tmp_path / "r", [dialogue(f"d{n}", "x") for n in range(210)]).write().path, "dialogue")
    terminal, pipe = Terminal(), io.StringIO()
    render.to_terminal(found, file=terminal)
    render.to_terminal(found, file=pipe)
    assert "… and 10 more rows: -o report.md, .json or .csv" in terminal.getvalue()
    for text, rows in ((terminal.getvalue(), 200), (pipe.getvalue(), 210)):
        assert len(re.findall(r"^(?:\x1b\[[0-9;]*m)*d\d+", text, re.MULTILINE)) == 4 * rows
        assert len(re.findall(r"^(?:\x1b\[[0-9;]*m)*total", text, re.MULTILINE)) == 4


def test_external_text_is_escaped_in_the_terminal_and_in_markdown(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "r", [dialogue("\x1b[2Jboo|`<b>", "x")])
    made.failed(made.ident(0, 1), Failure(kind="timeout", message="\x1b[31m| evil \u202e"), cls="timeout")
    found = sections(made.write().path, "dialogue")
    file = io.StringIO()
    render.to_terminal(found, file=file)
    page = render.to_markdown(found)
    assert set("\x1b\u202e").isdisjoint(file.getvalue() + page)
    assert r"boo\|\`\<b\>" in page


def test_simulated_targets_are_marked(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "r", [dialogue("d", "x")], targets=(GOOD,))
    made.replied(made.ident(0, 1))
    found = sections(made.write().path)
    file = io.StringIO()
    render.to_terminal(found, file=file)
    assert f"SIMULATED, no model was asked: {GOOD}" in file.getvalue()
    assert f"SIMULATED, no model was asked: {GOOD}" in render.to_markdown(found)


CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WITH_TOOLS: dict[str, Any] = {"tools": [{"name": "get", "parameters": CITY}, {"name": "now"}]}


def test_the_share_of_valid_calls_is_of_dialogues_with_tools(tmp_path: Path) -> None:
    dialogues = [
        dialogue("plain", "x", tags=["p"]),
        dialogue("a", "x", "y", **WITH_TOOLS),
        dialogue("b", "x", **WITH_TOOLS),
    ]
    made = MadeRun(tmp_path / "r", dialogues, targets=(REAL, RESOLD))
    calls = [
        ToolCall(None, "get", {"city": "Lima"}),
        ToolCall(None, "get", {"city": 5}),
        ToolCall(None, "now", "{"),
        ToolCall(None, "get_now", {"half": "\ud83d"}),
        ToolCall(None, "now", {}),
    ]
    made.replied(made.ident(0, 1), SEED_REPLY._replace(tool_calls=(calls[3],)))
    made.replied(made.ident(1, 1), SEED_REPLY._replace(tool_calls=tuple(calls[:4])))
    made.replied(made.ident(1, 2), SEED_REPLY._replace(tool_calls=(calls[4],)))
    made.failed(made.ident(2, 1), TIMEOUT, cls="timeout")
    made.replied(made.ident(2, 1, RESOLD))
    found = sections(made.write().path)
    [section] = [one for one in found if one.key == "tool_calls"]
    assert records(section.frame) == [
        {"run": "r", "target": REAL, "replies": 2, "calls": 5, "valid_calls": 0.4, "undeclared": 1, "not_json": 1,
         "schema_errors": 1, "unchecked": 0, "example": "the arguments of get do not fit its parameters at $.city: "
         "\"5 is not of type 'string'\""},
        {"run": "r", "target": RESOLD, "replies": 1, "calls": 0, "valid_calls": None, "undeclared": 0, "not_json": 0,
         "schema_errors": 0, "unchecked": 0, "example": None},
    ]  # fmt: skip
    page = render.to_markdown(found)
    assert "valid calls" in page
    assert "40.0%" in page
    assert "unchecked" not in page
    assert "tool_calls" not in {one.key for one in sections(made.path, filters=Filters(tag=("p",)))}


def test_the_page_names_every_column() -> None:
    listed = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| (.+) \|$", DOCS.read_text("utf-8"), re.MULTILINE)
    columns = (*USAGE, *FINISH_REASONS, *ERRORS, *SERVED, *GROWTH, *CACHING, *STREAMS, *TOOL_CALLS, *JUDGES)
    assert listed == [(*column[:3],) for column in columns]


# A real run

FAULTS = [
    {"match": {"nth": [2, 9]}, "action": "reply", "kind": "no-candidates"},
    {"match": {"nth": "4-5"}, "action": "broken", "kind": "cut-json"},
    {"match": {"nth": "12-13"}, "action": "error", "kind": "overloaded"},
    {"match": {"nth": [16]}, "action": "usage", "kind": "missing"},
]
TWO_PRICES = """
[prices.at-gemini."sim-good"]
input = 1
output = 2
currency = "USD"
[prices.at-gemini."sim-drift"]
input = 10
output = 20
currency = "CNY"
[rates]
"USD/CNY" = 7
"""


def test_costs_of_a_real_run_agree_with_the_ledger(
    convbatch: Command, simulator: Callable[[Provider], Server], tmp_path: Path
) -> None:
    provider = Provider(faults=FaultScript.of(FAULTS))
    server = simulator(provider)
    (tmp_path / "convbatch.toml").write_text(config_for(server.url) + TWO_PRICES)
    data = write_dataset(tmp_path / "d.jsonl", 5, 3)
    models = ("-m", "sim-good@at-gemini", "-m", "sim-drift@at-gemini")
    done = convbatch("run", data, *models, "-o", "r", "--max-output-tokens", "64", "--no-progress")
    assert done.code == 0, done.err
    good, drift = records(report(tmp_path / "r"))
    billed = [entry for entry in provider.ledger.entries if entry.billed]
    for row, model, factor in ((good, "sim-good", 1), (drift, "sim-drift", 10)):
        actual = sum(
            (e.input_tokens or 0) * factor + (e.output_tokens or 0) * 2 * factor for e in billed if e.model == model
        )
        lower = row["spent"] * 1e6
        upper = lower + (row["possibly_paid_bound"] or 0) * 1e6
        assert row["turns"] == 15
        assert row["possibly_paid_unbounded"] == 0
        assert lower - 1e-6 <= actual
        assert row["unpriced"] or actual <= upper + 1e-6  # a reply without counts is billed too
    assert good["unpriced"] + drift["unpriced"] == 1
    assert good["failed_attempts_billed"] + drift["failed_attempts_billed"] == 2
    assert good["possibly_paid"] + drift["possibly_paid"] == 4
    done_cny = convbatch("report", "r", "--currency", "CNY", "--json")
    [total] = json.loads(done_cny.out)["totals"]["rows"]
    assert total["spent"] == pytest.approx(7 * good["spent"] + drift["spent"], abs=1e-12)
    assert "SIMULATED" not in done_cny.out  # configured as an ordinary gateway
