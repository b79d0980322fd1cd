"""`convbatch audit` on run folders: pairing, exit codes, JSON, bills, and the dataset of a plan."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import convbatch
from convbatch.auditing import plan
from convbatch.auditing.audit import audit_runs
from convbatch.auditing.finding import QUESTIONS
from convbatch.auditing.reading import load_pairs
from convbatch.auditing.replies import AuditedReply
from convbatch.dialogue import Dialogue
from convbatch.errors import SetupError
from convbatch.reply import Reply, Usage
from tests.conftest import Command
from tests.support.made_runs import MadeRun, dialogue

A, B = "m@a", "m@b"


def made(
    path: Path,
    *targets: str,
    more: int = 0,
    served: str | None = None,
    dialogues: list[Dialogue] | None = None,
    text: str = "It has ten tokens, all of them visible in the text.",
) -> MadeRun:
    """Make a run of two targets; the last one counts more input, or serves another model."""
    run = MadeRun(path, dialogues or [dialogue(f"d{n}", f"question {n}") for n in range(20)], targets=targets)
    for target in targets:
        is_last = target == targets[-1]
        for index in range(len(run.dialogues)):
            usage = Usage(input_tokens=20 + index + more * is_last, output_tokens=12, source="reported")
            name = served if served and is_last else target.partition("@")[0]
            reply = Reply(text=text, finish_reason="stop", finish_reason_raw="STOP", usage=usage, model_version=name)
            run.replied(run.ident(index, 1, target), reply)
    return run


def audited(convbatch: Command, *args: str | Path) -> tuple[int, dict[str, Any]]:
    done = convbatch("audit", *args, "--json")
    return done.code, json.loads(done.out)


def test_the_json_has_the_keys_of_the_contract_and_agrees_with_the_exit_code(
    convbatch: Command, tmp_path: Path
) -> None:
    made(tmp_path / "r", A, B, served="other-model").write()
    code, value = audited(
        convbatch, tmp_path / "r", "--reference", "a", "-o", tmp_path / "x.md", "-o", tmp_path / "x.html"
    )
    assert code == value["exit_code"] == 1
    assert (value["verdict"], value["alpha"]) == ("different", 0.05)
    (pair,) = value["pairs"]
    assert (pair["reference"], pair["candidate"], pair["verdict"]) == (A, B, "different")
    first = pair["questions"][0]
    assert first["question"] == "served_name"
    keys = {"question", "verdict", "effect", "interval", "p", "p_holm", "power", "needed", "evidence"}
    assert all(keys <= one.keys() and one["question"] in QUESTIONS for one in pair["questions"])
    assert len(first["evidence"]) == 5
    assert (tmp_path / "x.md").read_text(encoding="utf-8").startswith("## DIFFERENT")
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "served_name: different" in page
    assert "question 0" in page
    assert "served by other-model" in convbatch("audit", tmp_path / "r").out


def test_equal_replies_without_repeats_are_inconclusive_and_say_what_is_missing(
    convbatch: Command, tmp_path: Path
) -> None:
    made(tmp_path / "r", A, B).write()
    code, value = audited(convbatch, tmp_path / "r")
    assert code == 3
    found = {one["question"]: one for one in value["pairs"][0]["questions"]}
    assert found["input_counts"]["verdict"] == "consistent"
    assert found["distribution"]["verdict"] == "inconclusive"
    assert "--temperature" in found["distribution"]["needed"]


def test_one_target_in_two_runs_is_compared_with_its_earlier_self(tmp_path: Path) -> None:
    first, second = made(tmp_path / "1", A), made(tmp_path / "2", A, more=7)
    folders = [first.write(), second.write()]
    manifest = folders[1].read_manifest()
    folders[1].write_manifest(dataclasses.replace(manifest, created_at="2026-11-20T00:00:00Z"))
    found, _ = audit_runs([folders[0].path, folders[1].path])
    assert (found.pairs[0].reference, found.pairs[0].candidate) == (f"{A} in 2", f"{A} in 1")
    assert found.verdict == "different"


def test_two_named_targets_are_a_pair_whatever_their_models_are_called(tmp_path: Path) -> None:
    made(tmp_path / "r", "m@a", "n@b").write()
    with pytest.raises(SetupError, match="nothing to audit"):
        load_pairs([tmp_path / "r"])
    pairs = load_pairs([f"{tmp_path / 'r'}:m@a", f"{tmp_path / 'r'}:n@b"]).pairs
    assert [(pair.reference.name, pair.candidate.name) for pair in pairs] == [("m@a", "n@b")]


TWO = ("--plan", "-m", "m", "-g", "local", "-g", "simulator")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "no run to audit"),
        (("r", "--reference", "c"), "no side has this name"),
        (("r", "--budget", "1USD"), "--budget: only with --plan"),
        (("--plan",), "a model at two gateways"),
        (("--plan", "-m", "m", "-g", "simulator"), "nothing to compare m@simulator with"),
        (("--plan", "-m", "m@local", "-m", "n@local", "-m", "m@simulator"), "nothing to compare n@local with"),
        ((*TWO, "--reference", "x"), "--reference x: no target"),
        (
            (*TWO, "--budget", "1USD"),
            "--budget needs a price for m@local",
        ),
        ((*TWO, "--with", "bad.jsonl"), "bad.jsonl:2"),
        ((*TWO, "--with", "twice.jsonl"), "also that of a probe"),
        (("r", "--monitor", "--reference", "a"), "--monitor cannot be combined"),
        (("r", "--alpha", "0.7"), "--alpha must be between"),
        (("r", "-o", "x.csv"), "cannot tell the format"),
        ((*TWO, "--language", "fr"), "no probes in 'fr'"),
    ],
)
def test_what_cannot_be_audited_is_refused(
    convbatch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "r", A, B).write()
    (tmp_path / "bad.jsonl").write_text('{"turns": [{"user": "x"}]}\n{"turns": [{"usr": "x"}]}\n')
    (tmp_path / "twice.jsonl").write_text('{"id": "border-messier-andromeda-en", "turns": [{"user": "x"}]}\n')
    done = convbatch("audit", *args)
    assert done.code == 2
    assert not (tmp_path / "results").exists()
    assert told in done.err


def test_the_python_api_judges_as_the_command_does(tmp_path: Path) -> None:
    made(tmp_path / "r", A, B, served="other-model").write()
    found = convbatch.audit(tmp_path / "r", reference="a")
    assert isinstance(found, convbatch.Audit)
    assert (found.verdict, found.exit_code) == ("different", 1)
    with pytest.raises(SetupError, match="alpha= must be between"):
        convbatch.audit(tmp_path / "r", alpha=5)


def test_an_expected_answer_is_a_check_of_a_border_question(tmp_path: Path) -> None:
    asked = [
        Dialogue.from_plain(
            {"id": f"d{n}", "tags": ["border"], "turns": [{"user": f"year {n}?", "assistant": f"In {1900 + n}."}]}
        )
        for n in range(3)
    ]
    made(tmp_path / "r", A, B, dialogues=asked, text="It was 1,901").write()
    (pair,) = load_pairs([tmp_path / "r"]).pairs
    replies: list[AuditedReply] = list(pair.reference.replies)
    assert [reply.passed for reply in replies] == [False, True, False]


def test_the_bill_of_a_gateway_is_compared_with_its_counts(convbatch: Command, tmp_path: Path) -> None:
    run = made(tmp_path / "r", A, B)
    run.write()
    lines = ["time,model,in,out"]
    lines += [f"{1_780_000_000},m,{(20 + n) * 2},12" for n in range(20)]
    (tmp_path / "bill.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "c.toml").write_text(
        '[gateways.b]\nprotocol = "gemini"\nbase_url = "https://b.example"\nauth = "none"\n'
        '[bills.mine]\ntime = "time"\nmodel = "model"\ninput_tokens = "in"\noutput_tokens = "out"\ngateway = "b"\n'
    )
    code, value = audited(convbatch, tmp_path / "r", "--bill", tmp_path / "bill.csv", "-c", tmp_path / "c.toml")
    money = next(one for one in value["pairs"][0]["questions"] if one["question"] == "money")
    assert (code, money["verdict"]) == (1, "different")
    assert money["effect"] > 0.5


@pytest.mark.parametrize("language", plan.FILES)
def test_any_part_of_a_plan_has_probes_of_every_kind(language: str, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text('{"id": "mine", "turns": [{"user": "hello"}]}\n')
    lines = [json.loads(line) for line in plan.probe_dataset(language, [own]).lines if isinstance(line, bytes)]
    start = {tag for line in lines[:12] for tag in line.get("tags", ())}
    assert start >= {"border", "canary", "fact", "limit", "temperature"}
    assert "mine" in {line["id"] for line in lines[:12]}
    third = [tag for line in lines[: len(lines) // 3] for tag in line.get("tags", ())]
    assert third.count("border") == pytest.approx(72 / 3, abs=2), "and as many of each as in the whole"
