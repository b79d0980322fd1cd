"""Turns in several steps: tools answered from the script, and paused turns, on every wire and across interruptions."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import convbatch as cb
from convbatch.protocols import PROTOCOLS
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.conftest import Command, Start, config_for
from tests.scenarios.test_kills import Kills, with_requests_in_flight
from tests.support.ledger_laws import possibly_paid, same_rows

KILLS = int(os.environ.get("KILLS", "8"))
TOOLS = [{"name": name, "parameters": {"type": "object"}} for name in ("weather", "clock", "f")]
RESULTS: Mapping[str, Any] = {
    "weather": [{"match": {"city": "Rome"}, "result": {"celsius": 30}}, {"celsius": 21}, {"error": "no such city"}],
    "clock": "12:00",
    "f": 1,
}
TWO_STEPS = 'call weather {"city": "Paris"} call clock {} then call weather {"city": "Rome"}'


def dialogue(name: str, *users: str, **keys: Any) -> dict[str, Any]:
    turns = [{"user": user} for user in users]
    return {"id": name, "turns": turns, "tools": TOOLS, "tool_results": dict(RESULTS), **keys}


def write(folder: Path, *dialogues: Mapping[str, Any]) -> Path:
    path = folder / "d.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in dialogues))
    return path


def configured(folder: Path, server: Server, wires: tuple[str, ...]) -> dict[str, Any]:
    """Write a configuration; return the options of a run that uses it."""
    config = folder / "convbatch.toml"
    config.write_text(config_for(server.url, wires=wires))
    return {"models": [f"sim-good@at-{wire}" for wire in wires], "config": config}


def rows(run: cb.Run) -> list[dict[str, Any]]:
    turns: Any = run.turns
    return turns.to_dict("records")


def called(turn: Any) -> list[str]:
    return [call["name"] for call in json.loads(turn["tool_calls"])]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_calls_are_answered_step_by_step_over_every_wire(
    tmp_path: Path, simulator: Callable[[Provider], Server], stream: bool
) -> None:
    server = simulator(Provider())
    options = configured(tmp_path, server, tuple(PROTOCOLS))
    data = write(tmp_path, dialogue("two", TWO_STEPS, "And now?", 'call weather {"city": "Atlantis"}'))
    run = cb.run(data, out=tmp_path / "out", stream=stream, **options)
    attempts = run.attempts
    for target, turns in run.turns.groupby("target"):
        first, second, third = (turns.iloc[n] for n in range(3))
        assert list(turns["status"]) == ["ok"] * 3
        assert list(turns["steps"]) == [3, 1, 2], target
        assert called(first) == ["weather", "clock", "weather"]
        assert "30" in first["reply"]
        assert "tools returned" not in second["reply"]
        assert "no such city" in third["reply"]
        of_first = attempts[(attempts["target"] == target) & (attempts["turn"] == 1)]
        assert list(of_first["step"]) == [1, 2, 3]
        assert list(of_first["kept"]) == [True] * 3
        for count in ("input_tokens", "output_tokens"):
            assert sum(of_first[count].tolist()) == first[count]
    report = cb.report(run)
    assert list(report["attempts"]) == [6] * 4
    assert list(report["retries"]) == [0] * 4


ENDS = {
    "not declared": ("call g {}", "the tool g is not declared", 1),
    "no JSON": ('call f {"a": ', "the arguments of f are not a JSON object", 1),
    "used up": ("call weather {} then call weather {} then call weather {}", "are used up", 3),
    "for ever": ("call f {} forever", "max_steps (4) is reached", 4),
}


@pytest.mark.parametrize(("user", "why", "steps"), ENDS.values(), ids=ENDS.keys())
def test_a_call_without_a_result_ends_the_turn_and_a_live_dialogue(
    user: str, why: str, steps: int, tmp_path: Path, simulator: Callable[[Provider], Server]
) -> None:
    options = configured(tmp_path, simulator(Provider()), ("openai",))
    results = {**RESULTS, "weather": [1, 2]}
    data = write(tmp_path, dialogue("bad", user, "And now?", max_steps=4, tool_results=results))
    first, second = rows(cb.run(data, out=tmp_path / "out", **options))
    assert (first["status"], first["finish_reason"], first["steps"]) == ("ok", "tool_call", steps)
    assert first["error_message"].endswith(why)
    assert (second["status"], second["error_message"]) == (
        "skipped",
        f"turn 1 ended in a tool call: {first['error_message']}",
    )


def test_a_paused_turn_goes_on_until_it_is_whole(tmp_path: Path, simulator: Callable[[Provider], Server]) -> None:
    options = configured(tmp_path, simulator(Provider()), ("anthropic",))
    data = write(tmp_path, {"id": "p", "turns": [{"user": "pause 2"}, {"user": "And now?"}]})
    first, second = rows(cb.run(data, out=tmp_path / "out", **options))
    assert (first["status"], first["finish_reason"], first["steps"]) == ("ok", "stop", 3)
    assert (second["status"], second["steps"]) == ("ok", 1)
    data = write(tmp_path, {"id": "p", "max_steps": 2, "turns": [{"user": "pause 2"}, {"user": "And now?"}]})
    first, second = rows(cb.run(data, out=tmp_path / "cut", **options))
    assert (first["steps"], first["error_message"]) == (2, "max_steps (2) is reached")
    assert second["error_message"] == "turn 1 ended in a paused reply: max_steps (2) is reached"


def test_resume_goes_on_inside_a_turn(
    tmp_path: Path, simulator: Callable[[Provider], Server], convbatch: Command
) -> None:
    provider = Provider(faults=FaultScript.of([{"match": {"every": 3}, "action": "error", "kind": "overloaded"}]))
    options = configured(tmp_path, simulator(provider), ("gemini",))
    data = write(tmp_path, dialogue("two", TWO_STEPS, "And now?"))
    run = cb.run(data, out=tmp_path / "out", max_attempts=1, **options)
    assert list(run.turns["status"]) == ["error", "skipped"]
    assert list(run.attempts["step"]) == [1, 2, 3]
    assert list(run.attempts["kept"]) == [False] * 3
    provider.faults = FaultScript()
    done = convbatch("resume", "out")
    assert done.code == 0
    assert "5 attempts, 2 further steps of turns with tools or pauses" in done.err + done.out
    assert "max_steps in high" in convbatch("run", "d.jsonl", "-m", "sim-good@at-gemini", "--dry-run").out
    run = cb.load(tmp_path / "out")
    assert list(run.turns["steps"]) == [3, 1]
    assert list(run.attempts["step"]) == [1, 2, 3, 3, 1]
    assert list(run.attempts["kept"]) == [True, True, False, True, True]
    raw = convbatch("show", "out", "--raw", "two", "1").out
    assert [raw.count(f"\nstep {n}\n") for n in (1, 2, 3, 4)] == [1, 1, 1, 0]
    assert raw.count("functionResponse") == 2 + 3
    assert convbatch("run", "d.jsonl", "-m", "sim-good@at-gemini", "-o", "again", "--reuse", "out").code == 0
    assert len(provider.ledger.entries) == 5
    again = cb.load(tmp_path / "again")
    assert list(again.turns["steps"]) == [3, 1]
    same_rows(run.turns.drop(columns="reused_from"), again.turns.drop(columns="reused_from"))


def test_scripted_calls_are_history_and_the_steps_of_a_turn_are_not(
    tmp_path: Path, simulator: Callable[[Provider], Server]
) -> None:
    provider = Provider()
    options = configured(tmp_path, simulator(provider), tuple(PROTOCOLS))
    given = dialogue("s", "How warm is Oslo?", "call clock {}", "And now?")
    call = {"name": "weather", "arguments": {"city": "Oslo"}, "result": {"celsius": -3}}
    given["turns"][0] |= {"tool_calls": [call], "assistant": "-3 degrees.", "ask": False}
    given["turns"][1] |= {"tool_calls": [[{**call, "name": "clock"}], [call]], "assistant": "Noon."}
    run = cb.run(write(tmp_path, given), out=tmp_path / "out", history="script", **options)
    assert list(run.turns["steps"]) == [2, 1] * 4
    assert set(run.turns["status"]) == {"ok"}
    noted = run.turns[run.turns["wire_note"].notna()]
    assert list(noted["gateway"]) == ["at-gemini"] * 2
    assert set(noted["wire_note"]) == {"the signature of a call in the history is a dummy"}
    for entry in provider.ledger.entries:
        said = json.dumps(entry.history)
        if "And now?" in said:
            assert "12:00" not in said
            assert "-3 degrees." in said


def test_reuse_outside_live_asks_again_where_the_results_given_are_not_certain(
    tmp_path: Path, simulator: Callable[[Provider], Server], convbatch: Command
) -> None:
    provider = Provider()
    options: dict[str, Any] = {**configured(tmp_path, simulator(provider), ("gemini",)), "history": "script"}
    users, oslo = ("call weather {}", "call clock {}"), 'call weather {"city": "Oslo"}'
    first = [dialogue("a", oslo, users[0]), dialogue("b", "Hello", users[1]), dialogue("c", users[0])]
    for one in first[:2]:
        one["turns"][0] |= {"assistant": "Yes."}
    del first[1]["tool_results"]["weather"]
    cb.run(write(tmp_path, *first), out=tmp_path / "out", **options)
    asked = len(provider.ledger.entries)
    assert asked == 2 + 2 + 1 + 2 + 2
    second = json.loads(json.dumps(first))
    second[0]["turns"][0]["settings"] = {"temperature": 1}
    data = write(tmp_path, *second)
    dry = convbatch("run", "d.jsonl", "-m", "sim-good@at-gemini", "--history", "script", "--reuse", "out", "--dry-run")
    assert "3 turns reused from out" in dry.out
    run = cb.run(data, out=tmp_path / "again", reuse=tmp_path / "out", **options)
    assert list(run.turns["reused_from"].isna()) == [True, True, False, False, False]
    assert list(run.turns["steps"]) == [2, 2, 1, 2, 2]
    assert len(provider.ledger.entries) == asked + 4


@pytest.mark.slow
def test_a_run_with_tools_killed_repeatedly_ends_like_an_undisturbed_run(
    tmp_path: Path, simulator: Callable[[Provider], Server], command: Command, start: Start
) -> None:
    """CI kills 8 times; `KILLS=30 python -m pytest -n0 -m slow tests/scenarios/test_tools.py` does so more often."""
    wires = ("gemini", "anthropic")
    data = write(
        tmp_path, *(dialogue(f"d{n}", f"{n}: {TWO_STEPS}", "And now?", "call f {} call clock {}") for n in range(40))
    )
    named = "".join(f'"sim-good@at-{wire}", ' for wire in wires)
    calm = cb.run(data, out=tmp_path / "calm", **configured(tmp_path, simulator(Provider()), wires)).turns
    provider = Provider(latency_s=(0.1, 0.3))
    (tmp_path / "convbatch.toml").write_text(
        config_for(simulator(provider).url, wires=wires, models=f"[run]\nmodels = [{named}]\nconcurrency = 4\n")
    )
    killer = Kills(tmp_path, start, random.Random(20261127), provider)
    while killer.done < KILLS:
        with_requests_in_flight(killer, provider)
    assert command("resume", "out", timeout=200).code == 0
    turns: Any = cb.load(tmp_path / "out").turns
    same_rows(calm, turns)
    billed, kept = sum(entry.billed for entry in provider.ledger.entries), turns["steps"].sum()
    assert kept <= billed <= kept + possibly_paid(turns)
    assert killer.while_answering >= KILLS // 2


def test_a_recorded_request_that_ends_in_results_is_sent_as_it_stands(
    tmp_path: Path, simulator: Callable[[Provider], Server]
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "How warm is Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": '{"celsius": -3}'},
    ]
    tools = [{"type": "function", "function": tool} for tool in TOOLS]
    provider = Provider()
    options = configured(tmp_path, simulator(provider), tuple(PROTOCOLS))
    data = write(tmp_path, {"messages": messages, "tools": tools})
    run = cb.run(data, out=tmp_path / "out", history="last", **options)
    assert rows(run) != []
    for one in rows(run):
        assert (one["status"], one["steps"], one["attempts"]) == ("ok", 1, 1), one
        assert "celsius" in one["reply"]
    again = cb.run(data, out=tmp_path / "again", history="last", reuse=tmp_path / "out", **options)
    assert [one["attempts"] for one in rows(again)] == [0] * 4


def questions_for_judge(provider: Provider) -> list[Any]:
    entries = [entry for entry in provider.ledger.entries if entry.model == "sim-judge"]
    questions = [json.loads((entry.history or [])[-1][1]) for entry in entries]
    return sorted(questions, key=lambda asked: ("reply" not in asked, len(asked["conversation"])))


def test_a_judge_sees_the_calls_and_results_of_every_turn(
    tmp_path: Path, simulator: Callable[[Provider], Server]
) -> None:
    provider = Provider()
    options = configured(tmp_path, simulator(provider), ("openai",))
    made = dialogue("d", TWO_STEPS, "call f {}", "call clock {} then call weather {} then call weather {}")
    rubrics = ['Looks up "Paris", which has "21".', 'Calls "f", not "clock".', 'Gets "no such city".']
    for turn, rubric in zip(made["turns"], rubrics, strict=True):
        turn["checks"] = [{"llm_rubric": rubric}]
    made["checks"] = [{"llm_rubric": 'Looks up "Rome".'}]
    done = cb.run(write(tmp_path, made), out=tmp_path / "out", judge="sim-judge@at-openai", **options)
    first, second, third, whole = questions_for_judge(provider)
    paris = {"tool": "weather", "arguments": {"city": "Paris"}, "result": {"celsius": 21}}
    rome = {"tool": "weather", "arguments": {"city": "Rome"}, "result": {"celsius": 30}}
    clock = {"tool": "clock", "arguments": {}, "result": "12:00"}
    assert first["conversation"] == [{"user": TWO_STEPS, "steps": [{"calls": [paris, clock]}, {"calls": [rome]}]}]
    assert second["conversation"] == [
        {**first["conversation"][0], "assistant": first["reply"]},
        {"user": "call f {}", "steps": [{"calls": [{"tool": "f", "arguments": {}, "result": 1}]}]},
    ]
    failed = {"tool": "weather", "arguments": {}, "error": "no such city"}
    unanswered = {"tool": "weather", "arguments": {}}
    assert third["conversation"][2]["steps"] == [{"calls": [clock]}, {"calls": [failed]}, {"calls": [unanswered]}]
    assert [turn["steps"] for turn in whole["conversation"]] == [turn["steps"] for turn in third["conversation"]]
    assert done.verdicts["passed"].tolist() == [True, False, True, True], done.verdicts["reason"].tolist()


def test_in_script_history_a_judge_sees_scripted_calls_before_the_turn_and_its_own_calls(
    tmp_path: Path, simulator: Callable[[Provider], Server]
) -> None:
    provider = Provider()
    options = configured(tmp_path, simulator(provider), ("openai",))
    made = dialogue("d", "call weather {}", "call weather {}")
    scripted = {"name": "clock", "arguments": {"zone": "UTC"}, "result": "noon"}
    made["turns"][0] |= {"assistant": "It is noon.", "tool_calls": [scripted]}
    made["turns"][1]["checks"] = [{"llm_rubric": 'Says "x".'}]
    cb.run(write(tmp_path, made), out=tmp_path / "out", judge="sim-judge@at-openai", history="script", **options)
    [asked] = questions_for_judge(provider)
    before, judged = asked["conversation"]
    assert before["steps"] == [{"calls": [{"tool": "clock", "arguments": {"zone": "UTC"}, "result": "noon"}]}]
    assert before["assistant"] == "It is noon."
    assert judged["steps"] == [{"calls": [{"tool": "weather", "arguments": {}, "error": "no such city"}]}]
