"""Comparisons whose sides were answered by the same model."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

from convbatch.comparison import render
from convbatch.comparison.compare import Comparison, compare
from convbatch.comparison.inputs import ChangedHistories
from convbatch.results.run import load
from tests.support.made_runs import run_served_by

PRO, FLASH = "gemini-2.5-pro@google", "gemini-3.8-flash@google"


def compared(tmp_path: Path, base: list[str | None], candidate: list[str | None], **options: Any) -> Comparison:
    first = run_served_by(tmp_path / "base", PRO, *base)
    second = run_served_by(tmp_path / "candidate", FLASH, *candidate, length=40)
    return compare(first, second, metric="output_tokens", **options)


def test_one_model_under_two_names_is_inconclusive(tmp_path: Path) -> None:
    found = compared(tmp_path, ["gemini-3.8-flash"] * 9, ["models/gemini-3.8-flash"] * 9)
    assert (found.verdict, found.exit_code) == ("inconclusive", 3)
    plain = json.loads(render.to_json(found))
    assert plain["served"]["one_model"] == "gemini-3.8-flash"
    assert plain["served"]["base"] == [
        {"asked": "gemini-2.5-pro", "served": "gemini-3.8-flash", "replies": 9, "as_asked": False}
    ]
    assert "both sides were served by one model, gemini-3.8-flash, under two names" in plain["summary"]
    allowed = compare(
        load(tmp_path / "base"), load(tmp_path / "candidate"), metric="output_tokens", allow_mismatch=True
    )
    assert (allowed.verdict, allowed.exit_code) == ("regression", 1)
    assert allowed.notes[0].startswith("allowed: both sides were served by one model")


def test_one_model_for_part_of_the_replies_is_noted(tmp_path: Path) -> None:
    found = compared(tmp_path, ["gemini-2.5-pro", "gemini-3.8-flash", None], ["gemini-3.8-flash"] * 3)
    assert found.served.one_model is None
    assert list(found.notes[:2]) == [
        "one model, gemini-3.8-flash, served 1 of 3 replies of the base and 3 of 3 replies of the candidate",
        "base: gemini-2.5-pro@google: 1 of 3 replies was served by gemini-3.8-flash, not by gemini-2.5-pro",
    ]


def test_one_model_at_two_gateways_is_an_ordinary_comparison(tmp_path: Path) -> None:
    first = run_served_by(tmp_path / "base", "gpt-4o@openai", *["gpt-4o-2024-08-06"] * 9)
    second = run_served_by(tmp_path / "candidate", "openai/gpt-4o@openrouter", *["openai/gpt-4o"] * 9, length=40)
    found = compare(first, second, metric="output_tokens")
    assert (found.served.one_model, found.served.partly_one_model) == (None, None)
    assert found.verdict == "regression"


def test_a_history_that_a_provider_cut_is_a_warning_in_every_form(tmp_path: Path) -> None:
    found = compared(tmp_path, ["gemini-2.5-pro"] * 3, ["gemini-3.8-flash"] * 3)
    assert json.loads(render.to_json(found))["warnings"] == []
    cut = dataclasses.replace(found, changed=ChangedHistories(0, 2, 3, 3))
    warning = "the provider removed parts of the history in 0 of 3 replies of the base, 2 of 3 replies of the candidate"
    plain = json.loads(render.to_json(cut))
    assert plain["histories_cut"] == {"base": 0, "candidate": 2}
    assert plain["warnings"] == [f"WARNING: the model did not see what was sent: {warning}"]
    assert warning in render.to_markdown(cut).split("\n\n")[1]
    terminal = io.StringIO()
    render.to_terminal(cut, file=terminal)
    assert warning in terminal.getvalue().splitlines()[1]
    assert warning in render.to_junit(cut).decode()
