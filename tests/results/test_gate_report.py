"""Tests of the outputs of a quality gate: exit code, JUnit, JSON and Markdown give one answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convbatch as cb
from convbatch.cli.check import run_check
from convbatch.cli.dry_run import print_dry_run
from convbatch.cli.run import resume, run
from convbatch.errors import SetupError
from convbatch.results.verdict_counts import mean_scores
from convbatch.session.options import CheckOptions, ResumeOptions, RunOptions
from tests.support.junit import junit_cases
from tests.support.made_runs import GOOD, SEED_REPLY, MadeRun, dialogue

RUBRIC = {"llm_rubric": "is polite"}
CONTAINS = {"contains": "yes"}


@dataclass(frozen=True)
class Outcome:
    """Replies of one-turn dialogues (None: pending), the gate, and what is expected of it."""

    replies: Sequence[str | None]
    fail_under: str
    code: int
    judged: bool = False
    """Whether the dialogues also have a rubric, and the run a judge that gave no verdict."""


OUTCOMES = {
    "passed": Outcome(["yes", "yes", "no"], "0.5", 0),
    "failed": Outcome(["yes", "no", "no"], "0.5", 1),
    "incomplete": Outcome(["yes", "yes", None], "0.5", 3),
    "no-verdict": Outcome(["yes", "yes", "yes"], "0.5", 3, judged=True),
    "failed-without-verdict": Outcome(["yes", "no", "no"], "0.5", 1, judged=True),
    "passed-but-for-a-verdict": Outcome(["no", "no", "no"], "0", 3, judged=True),
}


def made_run(path: Path, outcome: Outcome) -> Path:
    checks = [CONTAINS, RUBRIC] if outcome.judged else [CONTAINS]
    dialogues = [dialogue(f"d{n}", "?", checks=checks) for n in range(len(outcome.replies))]
    made = MadeRun(path, dialogues, targets=(GOOD,), checks=len(checks) * len(dialogues))
    for index, text in enumerate(outcome.replies):
        if text is not None:
            made.replied(made.ident(index, 1), SEED_REPLY._replace(text=text))
    folder = made.write()
    if outcome.judged:
        manifest = folder.read_manifest()
        judge = replace(manifest.targets[0], name="sim-judge@simulator")
        folder.write_manifest(replace(manifest, judges=(judge,)))
    return folder.path


@pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES)
def test_all_outputs_of_a_gate_agree_with_its_exit_code(
    outcome: Outcome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tuple(tmp_path / f"gate{suffix}" for suffix in (".xml", ".json", ".md"))
    path = made_run(tmp_path / "r", outcome)
    code = run_check(CheckOptions(run=str(path), fail_under=outcome.fail_under, out=out, as_json=True))
    printed = capsys.readouterr()
    gate = {0: "passed", 1: "failed", 3: "undecided"}[outcome.code]
    assert code == outcome.code
    assert (tmp_path / "gate.json").read_text() == printed.out
    document = json.loads(printed.out)
    assert (document["exit_code"], document["gate"]) == (outcome.code, gate)
    assert (tmp_path / "gate.md").read_text().startswith(f"## {gate.upper()}: gate {gate}, exit code {outcome.code}")
    assert ("gate: passed" in printed.err) == (outcome.code == 0)
    verdict, *cases = junit_cases((tmp_path / "gate.xml").read_bytes())
    assert verdict.result == {0: "passed", 1: "failure", 3: "error"}[outcome.code]
    assert ({case.result for case in cases} & {"failure", "error"} == {"failure"}) == (outcome.code == 1)
    assert len(document["failed"]) == sum("lacks" in case.text for case in cases) == outcome.replies.count("no")


def test_a_run_writes_its_result_beside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d.jsonl").write_text(
        '{"id": "a\\nb", "turns": [{"user": "hi", "assistant": "yes", "checks": [{"contains": "no"}]}]}\n'
    )
    options = RunOptions(datasets=(Path("d.jsonl"),), models=(GOOD,), progress=False, as_json=True)
    files = (Path("g.xml"), Path("g.json"), Path("r/in.md"))
    assert run(replace(options, out=(Path("r"), *files), fail_under="0.5")) == 1
    value = json.loads(capsys.readouterr().out)
    assert value == json.loads(Path("g.json").read_bytes())
    verdict, case = junit_cases(Path("g.xml").read_bytes())
    assert (verdict.result, case.result, case.name) == ("failure", "failure", "a\\nb")
    assert case.message.startswith("a\\nb, turn 1")
    assert Path("r/in.md").read_text().startswith("## FAILED")
    assert resume(ResumeOptions(run="r", out=(Path("again.json"), Path("g.xml")), as_json=True, progress=False)) == 1
    assert json.loads(capsys.readouterr().out) == json.loads(Path("again.json").read_bytes()) == value
    assert junit_cases(Path("g.xml").read_bytes())[0].result == "failure"
    assert len(cb.load("r").turns) == 1
    again = ResumeOptions(run="r", progress=False, as_json=True, out=(Path("again.json"), Path("again.xml")))
    assert resume(again) == 1
    assert (
        json.loads(capsys.readouterr().out)
        == json.loads(Path("again.json").read_bytes())
        == json.loads(Path("g.json").read_bytes())
    )
    with pytest.raises(SetupError, match="cannot write"):
        resume(replace(again, out=(Path("absent/again.json"),)))
    assert print_dry_run(replace(options, out=(Path("plan.json"), Path("plan.md")))) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["turns"], plan["targets"][0]["expected"]["calls"]) == (1, 1)
    assert Path("plan.md").read_text().startswith("## Dry run")
    with pytest.raises(SetupError, match="JUnit needs a gate"):
        run(replace(options, out=(Path("more"), Path("h.xml"))))
    with pytest.raises(SetupError, match="-o names 2 run folders"):
        run(replace(options, out=(Path("more"), Path("and-more"))))
    Path("folder.json").mkdir()
    for unwritable in ("folder.json", "absent/h.json", "g.xml/h.json"):
        for command in (run, print_dry_run):
            with pytest.raises(SetupError, match="cannot write"):
                command(replace(options, out=(Path("more"), Path(unwritable))))
    with pytest.raises(SetupError, match="a dry run decides no gate"):
        print_dry_run(replace(options, out=(Path("h.xml"),)))
    assert not Path("more").exists()


@settings(max_examples=4, deadline=None)
@given(data=st.data(), repeats=st.integers(1, 2))
def test_check_and_compare_have_one_mean_score(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, repeats: int
) -> None:
    shapes = data.draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), min_size=1, max_size=3))
    checks: list[dict[str, Any]] = [{**CONTAINS, "weight": 3}, {"contains": "so"}]
    dialogues = [
        cb.Dialogue.from_plain(
            {"id": f"d{n}", "turns": [{"user": "?", "checks": checks[:k]} for k in shape], "checks": checks[: n % 3]}
        )
        for n, shape in enumerate(shapes)
    ]
    made = MadeRun(tmp_path_factory.mktemp("run") / "r", dialogues, targets=(GOOD,), repeats=repeats)
    texts = st.sampled_from(["yes", "yes, so", "so", "no", None])
    for index, shape in enumerate(shapes):
        for repeat in range(1, repeats + 1):
            for turn in range(1, len(shape) + 1):
                made.replied(made.ident(index, turn, repeat=repeat), SEED_REPLY._replace(text=data.draw(texts)))
    loaded = cb.load(made.write().path)
    scores = mean_scores(loaded)
    if not scores:
        assert sum(map(sum, shapes)) == 0
        return
    result = cb.compare(loaded, loaded, metric="score")
    assert result.judged[0].result.base == pytest.approx(scores[GOOD])
