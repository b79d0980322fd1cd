"""Whole runs in which dialogues get no reply, and that is their result: refused content, and a context that is full."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import convbatch
from convbatch.cli.main import app
from convbatch.comparison.render import to_value
from tests.support.field_answers import MODEL, AnswerServer, serve_answers, write_config, write_dialogues

REPLY: dict[str, Any] = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "model": MODEL,
    "usage": {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25},
}
TOO_LONG = {
    "error": {
        "message": "This model's maximum context length is 4096 tokens, your messages resulted in 5000 tokens.",
        "type": "invalid_request_error",
        "code": "context_length_exceeded",
    }
}
OUT_OF_MONEY = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
UNLISTED = {"error": {"message": "Tenant 4711 is not on the list", "type": "tenant_error"}}


def answer(body: Any, status: int = 200) -> dict[str, Any]:
    return {"status": status, "body": body}


REFUSALS: dict[str, Any] = {
    "azure": {
        "wire": "openai",
        "answers": [
            answer(
                {
                    "error": {
                        "message": "The response was filtered due to the prompt triggering Azure's policy.",
                        "code": "content_filter",
                        "status": 400,
                        "innererror": {"code": "ResponsibleAIPolicyViolation"},
                    }
                },
                400,
            )
        ],
    },
    "openrouter": {
        "wire": "openai",
        "answers": [
            answer(
                {
                    "error": {
                        "message": "asked-model requires moderation. Your input was flagged",
                        "code": 403,
                        "metadata": {"reasons": ["violence"], "flagged_input": "how to"},
                    }
                },
                403,
            )
        ],
    },
    "finish": {
        "wire": "openai",
        "answers": [
            answer(
                {
                    **REPLY,
                    "choices": [{"index": 0, "message": {"content": ""}, "finish_reason": "content_filter"}],
                }
            )
        ],
    },
    "gemini": {
        "wire": "gemini",
        "answers": [answer({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "modelVersion": MODEL})],
    },
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[convbatch.Run, AnswerServer]]:
    """40 dialogues that four gateways refuse, each in its own way."""
    folder = tmp_path_factory.mktemp("refused")
    with serve_answers(REFUSALS) as server:
        yield run(folder, server, {"dialogues": 40}), server


def run(
    folder: Path, server: AnswerServer, shape: dict[str, Any], places: int = 4, deadline_s: float = 10
) -> convbatch.Run:
    names = list(server.cases)
    return convbatch.run(
        write_dialogues(folder, shape),
        models=[f"{MODEL}@{name}" for name in names],
        config=write_config(folder, server, names),
        out=folder / "run",
        concurrency=places,
        deadline_s=deadline_s,
    )


def test_a_dialogue_that_is_refused_costs_one_request_whatever_the_refusal_looks_like(
    refused: tuple[convbatch.Run, AnswerServer],
):
    whole, server = refused
    assert {name: len(sent) for name, sent in server.requests.items()} == dict.fromkeys(REFUSALS, 40)
    rows: Any = whole.turns
    assert set(rows["status"]) == {"blocked"}
    assert set(rows["finish_reason"]) == {"content_filter"}
    assert set(rows["blocked"]) <= {"prompt", "output"}
    assert (rows["attempts"].sum(), rows["possibly_paid"].sum()) == (160, 0)
    assert whole.suspended == {}


@pytest.mark.parametrize(("base", "candidate"), list(combinations(REFUSALS, 2)))
def test_refusals_of_different_gateways_compare_as_equal(
    refused: tuple[convbatch.Run, AnswerServer], base: str, candidate: str
):
    compared = convbatch.compare((refused[0], f"{MODEL}@{base}"), (refused[0], f"{MODEL}@{candidate}"))
    plain = to_value(compared)
    assert plain["verdict"] != "regression"
    assert plain["pairs"]["dialogues"] == 40
    primary = plain["metrics"][0]
    assert (primary["base"], primary["difference"], primary["b"], primary["c"]) == (1, 0, 0, 0)


# -- a dialogue that no longer fits the model

FULL: dict[str, Any] = {
    name: {"wire": "openai", "serve": {"file2_when": "turn:2"}, "answers": [answer(REPLY), answer(TOO_LONG, 400)]}
    for name in ("one", "other")
}


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, [*words, "--no-progress"] if words[0] in ("run", "resume") else list(words))


def test_a_dialogue_that_no_longer_fits_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with serve_answers(FULL) as server:
        write_config(tmp_path, server, FULL)
        write_dialogues(tmp_path, {"dialogues": 4, "turns": 3})
        targets = [word for name in FULL for word in ("-m", f"{MODEL}@{name}")]
        done = invoke("run", "dialogues.jsonl", "-o", "results/r", *targets, "--fail-under", "0.5")
        assert done.exit_code == 1, done.output  # the gate decides: the run is complete, and no dialogue passed
        assert "passed 0 of 4 dialogues" in done.output
        assert "convbatch resume" not in done.output
        assert "4 failed for good: the dialogue no longer fits the model" in done.output
        sent = sum(map(len, server.requests.values()))
        assert invoke("resume", "results/r").exit_code == 1
        assert sum(map(len, server.requests.values())) == sent == 16
    loaded: Any = convbatch.load("results/r")
    assert Counter(loaded.turns["status"]) == {"ok": 8, "error": 8, "skipped": 8}
    assert set(loaded.turns["error_kind"].dropna()) == {"context_length"}
    assert set(loaded.conversations["dialogue_pass"]) == {False}
    assert invoke("check", "results/r").exit_code == 0
    assert " finished, 8 failed " in invoke("runs").output
    compared = to_value(convbatch.compare((loaded, f"{MODEL}@one"), (loaded, f"{MODEL}@other")))
    assert (compared["pairs"]["failed_base"], compared["pairs"]["failed_candidate"]) == (8, 8)
    assert (compared["pairs"]["only_base"], compared["metrics"][0]["difference"]) == (0, 0)


def test_in_script_history_a_full_context_ends_no_turn_but_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with serve_answers({"one": {**FULL["one"], "serve": {"file2_when": "turn:3"}}}) as server:
        write_config(tmp_path, server, ["one"])
        turns = [{"user": f"Question {n}?", "assistant": "Yes."} for n in range(1, 5)]
        Path("d.jsonl").write_text("".join(json.dumps({"id": f"d{n}", "turns": turns}) + "\n" for n in range(5)))
        done = invoke("run", "d.jsonl", "-o", "r", "-m", f"{MODEL}@one", "--history", "script")
        assert done.exit_code == 0, done.output
        assert invoke("resume", "r").exit_code == 0
        assert len(server.requests["one"]) == 20
    assert Counter(convbatch.load("r").turns["status"]) == {"ok": 10, "error": 10}  # pyright: ignore[reportArgumentType]  # a column


# -- a generation that broke off


def test_a_reply_that_broke_off_may_be_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    broken = {**REPLY, "choices": [{**REPLY["choices"][0], "finish_reason": "network_error"}]}
    case = {"wire": "openai", "serve": {"file2_when": "request_after:1"}, "answers": [answer(broken), answer(REPLY)]}
    for history, ended, asked in (("live", {"error": 1, "skipped": 1}, 3), ("script", {"error": 1, "ok": 1}, 3)):
        with serve_answers({"one": case}) as server:
            write_config(tmp_path, server, ["one"])
            turns = [{"user": f"Question {n}?", "assistant": "Yes."} for n in (1, 2)]
            Path("d.jsonl").write_text(json.dumps({"id": "d", "turns": turns}))
            done = invoke("run", "d.jsonl", "-o", history, "-m", f"{MODEL}@one", "--history", history)
            assert done.exit_code == 3, done.output
            assert re.search(rf"convbatch resume \S*/{history}$", done.output, re.M)
            assert Counter(convbatch.load(history).turns["status"]) == ended  # pyright: ignore[reportArgumentType]  # a column
            assert invoke("resume", history).exit_code == 0
            assert len(server.requests["one"]) == asked
        assert Counter(convbatch.load(history).turns["status"]) == {"ok": 2}  # pyright: ignore[reportArgumentType]  # a column


# -- an account that empties in mid-run


@pytest.mark.parametrize("places", [1, 2, 5])
def test_an_account_that_empties_costs_only_the_requests_in_flight(places: int, tmp_path: Path):
    finished, further = empty_account(tmp_path, answer(OUT_OF_MONEY, 429), places)
    assert further <= places
    assert Counter(finished.turns["status"]) == {"ok": 8, "pending": 22}
    assert "top up" in finished.suspended[f"{MODEL}@one"]


@pytest.mark.slow
def test_an_account_that_empties_in_unlisted_words_costs_three_further_requests(tmp_path: Path):
    finished, further = empty_account(tmp_path, answer(UNLISTED, 403), 1)
    assert further == 3  # then only probes, of which the first would come after 30 s
    assert Counter(finished.turns["status"]) == {"ok": 8, "error": 2, "pending": 20}


def empty_account(folder: Path, refusal: dict[str, Any], places: int) -> tuple[Any, int]:
    """Run 30 dialogues at a gateway that answers eight requests; return the run and how many more were sent."""
    case = {"wire": "openai", "serve": {"file2_when": "request_after:8"}, "answers": [answer(REPLY), refusal]}
    with serve_answers({"one": case}) as server:
        finished: Any = run(folder, server, {"dialogues": 30}, places, deadline_s=1)
        assert finished.turns["possibly_paid"].sum() == 0
        return finished, len(server.requests["one"]) - 8


@pytest.mark.parametrize(("name", "others"), [("page", {"ok"}), ("broke", {"pending"})])
def test_a_wrong_address_suspends_only_its_own_target_an_empty_account_all_of_them(
    name: str, others: set[str], tmp_path: Path
):
    page = {"status": 404, "headers": {"Content-Type": "text/html"}, "body": "<html>404 Not Found</html>"}
    cases = {
        "page": {"wire": "openai", "answers": [page]},
        "broke": {
            "wire": "openai",
            "answers": [answer({"error": {"code": "insufficient_quota", "message": "no"}}, 429)],
        },
        "sound": {"wire": "openai", "answers": [answer(REPLY)]},
    }
    with serve_answers(cases) as server:
        found = convbatch.run(
            write_dialogues(tmp_path, {"dialogues": 20}),
            models=[f"{MODEL}@{name}", f"{MODEL}@sound"],
            config=write_config(tmp_path, server, [name, "sound"]),
            out=tmp_path / "run",
            concurrency=1,
        )
    turns: Any = found.turns
    assert f"{MODEL}@{name}" in found.suspended
    assert set(turns["status"][turns["gateway"] == "sound"]) >= others
    assert (turns["status"][turns["gateway"] == name] == "pending").any()
