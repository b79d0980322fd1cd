"""Audits of gateways that serve one model: detected differences, and findings that must not be `same`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.reply import Reply, Usage
from convbatch.reporting.audit import AuditedReply, GatewayReplies, audit, describe_counts, evaluate_finding
from convbatch.results.run import Run, load
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.conftest import Command
from tests.support.canary import CANARY_ENV
from tests.support.made_runs import MadeRun, dialogue
from tests.support.tables import each

HIDDEN = "You are a helpful assistant of the relay."  # 41 characters: 11 tokens, plus 4 for the message
DIALOGUES = 10


def findings(runs: Run | Sequence[Run]) -> dict[str, dict[str, Any]]:
    section = audit([runs] if isinstance(runs, Run) else runs)
    assert section is not None
    return {row["finding"]: row for row in section.frame.to_dict("records")}


def verdicts(runs: Run | Sequence[Run]) -> dict[str, str]:
    return {name: row["verdict"] for name, row in findings(runs).items()}


# Real runs at two simulators

RunAt = Callable[..., Run]


def long_and_short(path: Path) -> Path:
    """Write dialogues whose first prompts have different lengths."""
    lines = [
        {"id": f"d{d}", "turns": [{"user": f"question {d} " + "on and on " * d}, {"user": "and why?"}]}
        for d in range(DIALOGUES)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def run_at(convbatch: Command, simulator: Callable[[Provider], Server], tmp_path: Path) -> RunAt:
    """Run the model `m` at these providers, one gateway each, with these options of the command."""

    def run(*options: str, out: str = "out", **providers: Provider) -> Run:
        tables = [
            f'[gateways.{name}]\nprotocol = "gemini"\n'
            f'base_url = "{simulator(provider).url}"\nkey_env = "{CANARY_ENV}"\n'
            for name, provider in providers.items()
        ]
        config = tmp_path / f"{out}.toml"
        config.write_text("".join(tables))
        gateways = [word for name in providers for word in ("-g", name)]
        dataset = long_and_short(tmp_path / "d.jsonl")
        done = convbatch(
            "run", dataset, "-c", config, "-m", "m", *gateways, "-o", tmp_path / out, "--no-progress", *options
        )
        assert done.code == 0, done.err
        return load(tmp_path / out)

    return run


def test_two_honest_gateways_have_the_same_findings(run_at: RunAt) -> None:
    honest, relay = (Provider(aliases={"m": "sim-think"}, varies=True, seed=seed) for seed in (1, 2))
    run = run_at("--repeats", "3", "--temperature", "0.7", "--max-output-tokens", "4000", honest=honest, relay=relay)
    found = findings(run)
    assert {row["verdict"] for name, row in found.items() if name != "history_seen"} == {"same"}
    assert {name: row["tested"] for name, row in found.items()} == {
        "model_version": 120,
        "input_tokens": 10,
        "usage": 120,
        "max_output_tokens": 120,
        "identical_repeats": 40,
        "reasoning_tokens": 20,
        "history_seen": 0,
    }
    assert sum(row["differing"] for row in found.values()) == 0


def test_every_manipulation_of_a_relay_is_detected(run_at: RunAt) -> None:
    honest = Provider(aliases={"m": "sim-think"}, varies=True)
    broken = FaultScript.of([{"match": {"every": 6}, "action": "usage", "kind": "inconsistent"}])
    # Not `varies`: the same text each time, as from a cache.
    relay = Provider(aliases={"m": "sim-good"}, hidden_system=HIDDEN, faults=broken)
    found = findings(run_at("--repeats", "3", "--temperature", "0.7", honest=honest, relay=relay))
    assert {name: row["verdict"] for name, row in found.items()} == {
        "model_version": "same",
        "input_tokens": "differs",
        "usage": "differs",
        "max_output_tokens": "inconclusive",
        "identical_repeats": "differs",
        "reasoning_tokens": "differs",
        "history_seen": "inconclusive",
    }
    assert "relay counts 15 more on each: constant, as with a hidden system prompt" in found["input_tokens"]["detail"]
    assert found["input_tokens"]["differing"] == DIALOGUES
    assert found["input_tokens"]["examples"] == "d0 turn 1; d1 turn 1; d2 turn 1"
    assert found["usage"]["detail"].endswith("relay: 10 of 60 that do not add up")
    repeats = found["identical_repeats"]["detail"]
    assert repeats == "honest: 0 of 20 pairs identical; relay: 20 of 20 pairs identical (20 under one response id)"
    assert found["reasoning_tokens"]["detail"] == "honest: on 20 of 20 turns; relay: on 0 of 20 turns"


def test_two_runs_are_audited_together(run_at: RunAt) -> None:
    first = run_at(out="first", honest=Provider(aliases={"m": "sim-good"}))
    second = run_at(out="second", relay=Provider(aliases={"m": "sim-good"}, hidden_system=HIDDEN))
    assert audit([first]) is None
    assert audit([second]) is None
    found = findings([first, second])
    assert (found["input_tokens"]["verdict"], found["input_tokens"]["differing"]) == ("differs", DIALOGUES)
    assert found["model_version"]["verdict"] == "same"


def test_replies_above_the_output_limit_are_detected(run_at: RunAt) -> None:
    honest, relay = Provider(aliases={"m": "sim-think"}), Provider(aliases={"m": "sim-seed"})
    found = findings(run_at("--max-output-tokens", "50", honest=honest, relay=relay))["max_output_tokens"]
    assert found["verdict"] == "differs"
    assert found["detail"].startswith("honest: 0 of ")
    assert "relay: 10 of 10 above their limit; 10 exceed it by reasoning alone" in found["detail"]


def test_without_usage_of_one_gateway_all_token_findings_are_inconclusive(run_at: RunAt) -> None:
    silent = FaultScript.of([{"action": "usage", "kind": "missing"}])
    run = run_at(honest=Provider(aliases={"m": "sim-think"}), relay=Provider(aliases={"m": "sim-think"}, faults=silent))
    assert verdicts(run) == {
        "model_version": "same",
        "input_tokens": "inconclusive",
        "usage": "inconclusive",
        "max_output_tokens": "inconclusive",
        "identical_repeats": "inconclusive",
        "reasoning_tokens": "inconclusive",
        "history_seen": "inconclusive",
    }


# Hand-made runs


def made(path: Path, one: Sequence[Reply], other: Sequence[Reply], targets: Sequence[str] = ("m@a", "m@b")) -> Run:
    """Return a run with one dialogue of one turn per reply."""
    run = MadeRun(path, [dialogue(f"d{n}", f"question {n}") for n in range(len(one))], targets=list(targets))
    for target, replies in zip(targets, (one, other), strict=True):
        for index, reply in enumerate(replies):
            run.replied(run.ident(index, 1, target), reply)
    return load(run.write().path)


def reply(input_tokens: int | None = 100, version: str | None = "m-1", **usage: Any) -> Reply:
    counts = Usage(input_tokens=input_tokens, output_tokens=usage.pop("output_tokens", 10), **usage)
    return Reply(text="x", finish_reason="stop", finish_reason_raw=None, usage=counts, model_version=version)


@pytest.mark.parametrize(
    ("one", "other", "verdict", "differing"),
    [
        (["m-1"] * 3, ["m-1"] * 3, "same", 0),
        (["m-1"] * 2, ["m-1"] * 2, "inconclusive", 0),
        (["m-1"] * 3, ["m-2"] * 3, "differs", 6),
        (["m-1"] * 3, ["m-1", "m-1", "m-0"], "differs", 1),
        (["m-1"] * 3, ["m-1", None, "m-1"], "differs", 1),
        (["m-1"] * 3, [None] * 3, "differs", 6),
        ([None] * 3, [None] * 3, "inconclusive", 0),
        (["m-1"] * 3, [], "inconclusive", 0),
    ],
)
def test_model_versions_are_compared(
    one: list[str | None], other: list[str | None], verdict: str, differing: int, tmp_path: Path
) -> None:
    run = made(tmp_path / "run", [reply(version=v) for v in one], [reply(version=v) for v in other])
    found = findings(run)["model_version"]
    assert (found["verdict"], found["differing"]) == (verdict, differing)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ([10, 20, 40], [15, 30, 60], "b counts 1.50 times as many on each: a factor, as with inflated billing"),
        ([15, 30, 60], [10, 20, 40], "a counts 1.50 times as many on each"),
        ([11, 20, 40], [17, 30, 60], "b counts 1.51 times as many on each"),
        ([10, 20, 40], [67, 77, 97], "b counts 57 more on each: constant, as with a hidden system prompt"),
        (
            [20, 20, 21],
            [30, 30, 31],
            "b counts 10 more on each (1.49 times): too similar in length to tell which",
        ),
        ([10, 20, 40], [10, 90, 43], "b counts +0 to +70, median +3 (2.04 times in all)"),
    ],
)
def test_differences_of_input_tokens_are_described(
    one: list[int], other: list[int], message: str, tmp_path: Path
) -> None:
    found = findings(made(tmp_path / "run", [reply(n) for n in one], [reply(n) for n in other]))["input_tokens"]
    assert found["verdict"] == "differs"
    assert message in found["detail"]


def test_an_unknown_token_count_is_not_tested(tmp_path: Path) -> None:
    run = made(tmp_path / "run", [reply(10), reply(20), reply(None)], [reply(10), reply(20), reply(30)])
    found = findings(run)["input_tokens"]
    assert (found["verdict"], found["tested"]) == ("inconclusive", 2)


@pytest.mark.parametrize(
    ("usage", "odd"),
    [
        ({"cached_input_tokens": 100}, 0),
        ({"cached_input_tokens": 101}, 3),
        ({"reasoning_tokens": 10}, 0),
        ({"reasoning_tokens": 11}, 3),
        ({"total_tokens": 110, "consistent": True}, 0),
        ({"total_tokens": 111, "consistent": False}, 3),
    ],
)
def test_inconsistent_token_counts_are_found(usage: dict[str, Any], odd: int, tmp_path: Path) -> None:
    sound = reply(total_tokens=110, consistent=True)
    found = findings(made(tmp_path / "run", [sound] * 3, [reply(**usage)] * 3))["usage"]
    assert (found["verdict"], found["differing"]) == ("differs" if odd else "same", odd)


def test_a_single_gateway_gives_no_audit(tmp_path: Path) -> None:
    assert audit([made(tmp_path / "run", [reply()], [reply()], targets=("m@a", "n@b"))]) is None


def test_one_name_with_two_addresses_is_two_gateways(tmp_path: Path) -> None:
    runs: list[Run] = []
    for number in (1, 2):
        run = MadeRun(tmp_path / f"run{number}", [dialogue("d", "q")], targets=["m@relay"])
        run.replied(run.ident(0, 1), reply(100 * number))
        folder = run.write()
        manifest = folder.read_manifest()
        [target] = manifest.targets
        gateway = replace(target.gateway, base_url=f"https://host{number}.example")
        folder.write_manifest(replace(manifest, targets=(replace(target, gateway=gateway),)))
        runs.append(load(folder.path))
    found = findings(runs)["input_tokens"]
    assert (found["one"], found["other"]) == ("relay at https://host1.example", "relay at https://host2.example")
    assert found["verdict"] == "differs"


def test_reused_replies_are_left_out(tmp_path: Path) -> None:
    run = MadeRun(tmp_path / "run", [dialogue("d", "q")], targets=["m@a", "m@b"])
    run.replied(run.ident(0, 1, "m@a"), reply())
    run.replied(run.ident(0, 1, "m@b"), reply(), attempt=0, reused_from="an earlier run")
    section = audit([load(run.write().path)])
    assert section is not None
    assert "left out: 1 reply reused" in section.notes[1]
    assert set(section.frame["verdict"]) == {"inconclusive"}


# Repeats


def audited_reply(question: int, repeat: int, text: str, temperature: float | None) -> AuditedReply:
    return AuditedReply(
        place=f"d{question} turn 1",
        question=b"%d" % question,
        is_fixed=True,
        series=("run", question, 1),
        repeat=repeat,
        version=None,
        response_id=None,
        usage={},
        max_output_tokens=None,
        temperature=temperature,
        text=text.encode(),
    )


def side(name: str, identical: int, pairs: int, temperature: float | None = 1.0) -> GatewayReplies:
    """Return `pairs` questions asked twice each; `identical` of them have the same reply both times."""
    replies: Iterable[AuditedReply] = (
        audited_reply(question, repeat, "same" if question < identical else str(repeat), temperature)
        for question in range(pairs)
        for repeat in (1, 2)
    )
    return GatewayReplies(name=name, replies=list(replies))


@each(
    ("one", "other", "pairs", "temperature", "verdict"),
    [
        (0, 20, 20, 1.0, "differs"),
        (2, 10, 20, 1.0, "differs"),
        (4, 12, 20, 1.0, "differs"),  # 0.6 - 0.2 is less than 0.4 in floats
        (7, 11, 20, 1.0, "same"),
        (2, 9, 20, 1.0, "inconclusive"),
        (2, 6, 20, 1.0, "same"),
        (20, 20, 20, 1.0, "same"),
        (0, 19, 19, 1.0, "inconclusive"),
        (0, 20, 20, 0.0, "inconclusive"),
        (0, 20, 20, None, "inconclusive"),
    ],
)
def test_shares_of_identical_repeats_are_compared(
    one: int, other: int, pairs: int, temperature: float | None, verdict: str
) -> None:
    found = evaluate_finding(
        "identical_repeats", side("a", one, pairs, temperature), side("b", other, pairs, temperature)
    )
    assert found.verdict == verdict


# Properties

_VERSIONS = st.sampled_from(["m-1", "m-2", None])
_COUNTS = st.none() | st.integers(0, 50)
_usages: st.SearchStrategy[Mapping[str, Any]] = st.fixed_dictionaries(
    {name: _COUNTS for name in ("input_tokens", "output_tokens", "reasoning_tokens", "cached_input_tokens")}
)
_sides = st.lists(
    st.tuples(st.integers(0, 4), st.integers(1, 3), _VERSIONS, _usages, st.none() | st.integers(1, 50), st.booleans())
).map(
    lambda drawn: [
        AuditedReply(
            place=f"d{question} turn 1",
            question=b"%d" % question,
            is_fixed=True,
            series=("run", question, 1),
            repeat=repeat,
            version=version,
            response_id=None,
            usage=usage,
            max_output_tokens=max_output_tokens,
            temperature=1.0,
            text=b"x",
            is_history_cut=is_cut,
        )
        for question, repeat, version, usage, max_output_tokens, is_cut in drawn
    ]
)
_FINDINGS = (
    "model_version",
    "input_tokens",
    "usage",
    "max_output_tokens",
    "identical_repeats",
    "reasoning_tokens",
    "history_seen",
)


@given(_sides, _sides)
def test_findings_are_symmetric_and_untested_findings_are_never_the_same(
    one: list[AuditedReply], other: list[AuditedReply]
) -> None:
    for finding in _FINDINGS:  # all in one example, because drawing the sides is slow
        found = evaluate_finding(
            finding, GatewayReplies(name="a", replies=one), GatewayReplies(name="b", replies=other)
        )
        swapped = evaluate_finding(
            finding, GatewayReplies(name="b", replies=other), GatewayReplies(name="a", replies=one)
        )
        verdicts = [(each.verdict, each.tested, each.differing) for each in (found, swapped)]
        assert verdicts[0] == verdicts[1], finding
        assert found.differing <= found.tested, finding
        if not one or not other or found.tested < 3:
            assert found.verdict != "same", finding
        if found.verdict == "differs":
            assert found.examples, finding


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1))
def test_every_difference_has_a_description(counts: list[tuple[int, int]]) -> None:
    assert describe_counts(counts, "a", "b")
