"""What a run sends, retries, gives up and stores: over real HTTP, or in virtual time where it would take minutes.

The tables of each run are compared with the ledger of the simulator.
"""

from __future__ import annotations

import base64
import gzip
import json
import random
import signal
import tracemalloc
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import convbatch as cb
from convbatch.cli.run import run
from convbatch.config.gateways import Limits
from convbatch.engine.http_values import NoResponse, OutgoingRequest
from convbatch.engine.runner import RunRules
from convbatch.engine.transport import AiohttpTransport
from convbatch.session.options import RunOptions
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.http import Request
from convbatch.simulator.ledger import Entry
from convbatch.simulator.provider import Arrival, Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server, serve_in_thread
from tests.conftest import config_for, write_dataset
from tests.support.canary import CANARY_ENV
from tests.support.fault_cases import CASES, Plain
from tests.support.ledger_laws import statuses
from tests.support.virtual_disk import Kill
from tests.support.virtual_run import KEY, Host, VirtualRun
from tests.support.virtual_run_laws import Story, obeys

Simulators = Callable[[Provider], Server]

# -- faults and retries: one target per case, all in one run


def model_of(name: str) -> str:
    return name.replace(" ", "-")


def target_of(name: str) -> str:
    return f"{model_of(name)}@{'hasty' if CASES[name].short_timeout else 'at-gemini'}"


def faults_of_cases(elsewhere: str) -> FaultScript:
    rules: list[Plain] = []
    for name, case in CASES.items():
        rule = {**case.fault, "match": {**case.fault.get("match", {}), "model": model_of(name)}}
        if rule["action"] == "redirect":
            rule["location"] = elsewhere
        rules.append(rule)
    return FaultScript.of(rules)


@dataclass(frozen=True, slots=True)
class CaseRun:
    """Result of the run of all cases."""

    rows: Mapping[tuple[str, int], Mapping[str, Any]]
    """By target and turn."""
    requests: Mapping[str, list[Entry]]
    """Ledger entries by model."""
    elsewhere: Provider


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> CaseRun:
    folder = tmp_path_factory.mktemp("cases")
    dataset = write_dataset(folder / "d.jsonl", 1, 2)
    elsewhere = Provider()
    provider = Provider(script=Script.load(dataset), aliases={model_of(name): "sim-good" for name in CASES})
    with serve_in_thread(elsewhere) as other, serve_in_thread(provider) as server:
        provider.faults = faults_of_cases(f"{other.url}/v1beta/models/sim-good:generateContent")
        config = (
            config_for(server.url)
            + f"""
            [gateways.hasty]
            protocol = "gemini"
            base_url = "{server.url}"
            key_env = "{CANARY_ENV}"
            attempt_timeout = 1.0
        """
        )
        (folder / "convbatch.toml").write_text(config)
        run = cb.run(
            dataset,
            models=[target_of(name) for name in CASES],
            config=folder / "convbatch.toml",
            out=folder / "out",
            max_attempts=3,
        )
        plain = run.turns.astype(object).where(run.turns.notna(), None).to_dict("records")
    requests: dict[str, list[Entry]] = {model_of(name): [] for name in CASES}
    for entry in provider.ledger.entries:
        requests[entry.model or ""].append(entry)
    return CaseRun({(row["target"], row["turn"]): row for row in plain}, requests, elsewhere)


@pytest.mark.parametrize("name", CASES)
def test_each_fault_has_its_attempts_status_and_possibly_paid_count(cases: CaseRun, name: str):
    case = CASES[name]
    first, second = (cases.rows[target_of(name), turn] for turn in (1, 2))
    found = (first["attempts"], first["possibly_paid"], first["status"], second["status"])
    assert found == (case.attempts, case.paid, case.status, case.then)
    assert len(cases.requests[model_of(name)]) == case.attempts + second["attempts"]
    if case.kind is not None:
        assert first["error_kind"] == case.kind
    if case.finish is not None:
        assert first["finish_reason"] == case.finish
    if first["status"] in ("error", "pending") and case.finish is None:
        assert first["error_message"]
        assert first["reply"] is None


def test_possibly_paid_attempts_cover_every_billed_request(cases: CaseRun):
    for name in CASES:
        rows = [cases.rows[target_of(name), turn] for turn in (1, 2)]
        billed = sum(entry.billed for entry in cases.requests[model_of(name)])
        replied = sum(row["status"] in ("ok", "blocked", "empty") or row["finish_reason"] == "error" for row in rows)
        undetectable = name == "200 with an error object"  # a billed reply sent as an error; no client can detect it
        assert undetectable or billed <= replied + sum(row["possibly_paid"] for row in rows), name


def test_a_redirect_is_not_followed(cases: CaseRun):
    assert cases.elsewhere.ledger.requests == 0
    assert "redirect" in cases.rows[target_of("redirect"), 1]["error_message"]


def test_a_skipped_turn_names_its_reason(cases: CaseRun):
    row = cases.rows[target_of("blocked prompt"), 2]
    assert (row["attempts"], row["reply"]) == (0, None)
    assert "turn 1 ended blocked" in row["error_message"]


def test_a_healthy_target_among_broken_ones_is_answered_in_time(cases: CaseRun):
    row = cases.rows[target_of("nothing wrong"), 2]
    assert row["latency_s"] < 2


# -- caps


async def test_an_endless_body_is_given_up_at_the_cap():
    provider = Provider(faults=FaultScript.of([{"action": "endless-body"}]))
    with serve_in_thread(provider) as server:
        transport = AiohttpTransport()
        with pytest.raises(NoResponse, match="larger than 64 MiB") as caught:
            await transport.send(hello_request(server))
        await transport.close()
    assert (caught.value.kind, caught.value.sent, caught.value.own_timeout) == ("bad_response", True, False)
    assert len(caught.value.partial) < 66 * 2**20


@pytest.mark.slow
async def test_a_gzip_bomb_is_capped_in_memory():
    provider = Provider(faults=FaultScript.of([{"action": "gzip-bomb", "mebibytes": 160}]))
    with serve_in_thread(provider) as server:
        transport = AiohttpTransport()
        tracemalloc.start()
        with pytest.raises(NoResponse, match="decompresses to more than 64 MiB"):
            await transport.send(hello_request(server))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await transport.close()
    assert peak < 150 * 2**20


def hello_request(server: Server) -> OutgoingRequest:
    return OutgoingRequest(
        method="POST",
        url=f"{server.url}/v1beta/models/sim-good:generateContent",
        headers={"content-type": "application/json"},
        body=b'{"contents":[{"role":"user","parts":[{"text":"hello"}]}]}',
        timeout_s=60,
    )


# -- requests


class RecordingProvider(Provider):
    """A provider that also records headers, queries and bodies, which the ledger omits."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.heads: list[Request] = []
        self.bodies: list[Plain] = []

    def arrive(self, head: Request, now: float) -> Arrival:
        self.heads.append(head)
        return super().arrive(head, now)

    def answer(self, arrival: Arrival, body: bytes, now: float) -> Any:
        self.bodies.append(json.loads(body))
        return super().answer(arrival, body, now)


def dataset_of(path: Path, *dialogues: Plain) -> Path:
    path.write_text("".join(json.dumps(dialogue, ensure_ascii=False) + "\n" for dialogue in dialogues))
    return path


def ask(folder: Path, server: Server, dataset: Path, *, wire: str = "gemini", **more: Any) -> Any:
    """Run one target in a new run folder and return the table of turns."""
    config = folder / "convbatch.toml"
    config.write_text(config_for(server.url, wires=(wire,)) + more.pop("toml", ""))
    target = f"{more.pop('model', 'sim-good')}@at-{wire}"
    return cb.run(dataset, models=target, config=config, out=folder / more.pop("out", "out"), **more).turns


CONTEXT: Plain = {
    "id": "context",
    "system": "Be brief.",
    "turns": [
        {"user": "given", "assistant": "as context", "ask": False},
        {"user": "second", "assistant": "scripted second"},
        {"user": "third", "assistant": "scripted third"},
    ],
}
GIVEN = [["system", "Be brief."], ["user", "given"], ["model", "as context"], ["user", "second"]]


@pytest.mark.parametrize("wire", ["gemini", "openai", "responses", "anthropic"])
@pytest.mark.parametrize("history", ["live", "script", "last"])
def test_a_request_holds_the_history_of_its_mode(tmp_path: Path, simulator: Simulators, history: str, wire: str):
    provider = Provider()  # has no script, so its replies differ from the scripted ones
    turns = ask(tmp_path, simulator(provider), dataset_of(tmp_path / "d.jsonl", CONTEXT), wire=wire, history=history)
    replied = turns["reply"].tolist()
    sent = [entry.history for entry in provider.ledger.entries]
    word = {"live": replied[0], "script": "scripted second", "last": "scripted second"}[history]
    full = [*GIVEN, ["model", word], ["user", "third"]]
    assert sent == ([full] if history == "last" else [GIVEN, full])
    assert turns["turn"].tolist() == ([3] if history == "last" else [2, 3])


def test_each_repeat_is_a_separate_conversation_with_the_next_seed(tmp_path: Path, simulator: Simulators):
    provider = RecordingProvider()
    dataset = write_dataset(tmp_path / "d.jsonl", 2, 2)
    turns = ask(tmp_path, simulator(provider), dataset, repeats=3, seed=7)
    assert Counter(turns["repeat"]) == {1: 4, 2: 4, 3: 4}
    assert Counter(body["generationConfig"]["seed"] for body in provider.bodies) == {7: 4, 8: 4, 9: 4}
    assert provider.ledger.billed == 12


def test_settings_override_in_the_order_turn_dialogue_model_run(tmp_path: Path, simulator: Simulators):
    provider = RecordingProvider()
    dialogue: Plain = {
        "id": "d",
        "settings": {"temperature": 0.2, "top_k": 3},
        "turns": [
            {"user": "without settings"},
            {"user": "with settings", "settings": {"temperature": 0.3, "stop": ["END"]}},
        ],
    }
    toml = """
        [gateways.at-gemini.models."sim-*"]
        settings = { temperature = 0.4, top_p = 0.5 }
        [run.settings]
        temperature = 0.6
        top_p = 0.7
        max_output_tokens = 64
    """
    dataset = dataset_of(tmp_path / "d.jsonl", dialogue)
    ask(tmp_path, simulator(provider), dataset, toml=toml, max_output_tokens=50)
    configs = [body["generationConfig"] for body in provider.bodies]
    both = {"topP": 0.5, "topK": 3, "maxOutputTokens": 50}
    assert configs == [
        {"temperature": 0.2, **both},
        {"temperature": 0.3, "stopSequences": ["END"], **both},
    ]


def test_only_settings_that_are_set_are_sent(tmp_path: Path, simulator: Simulators):
    provider = RecordingProvider()
    ask(tmp_path, simulator(provider), dataset_of(tmp_path / "d.jsonl", {"id": "d", "turns": [{"user": "hello"}]}))
    assert provider.bodies == [{"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}]


@pytest.mark.parametrize("wire", ["gemini", "openai", "responses", "anthropic"])
def test_model_turns_are_sent_back_unchanged_with_their_signatures(tmp_path: Path, simulator: Simulators, wire: str):
    provider = Provider()
    # Two: three that are refused would suspend the target, and the mutant of this test would take minutes.
    dataset = write_dataset(tmp_path / "d.jsonl", 2, 4, scripted=False)
    turns = ask(tmp_path, simulator(provider), dataset, model="sim-signed", wire=wire)
    assert statuses(turns) == {"ok": 8}, "sim-signed answers 400 to a signature that is missing or moved"


def test_the_recorded_seed_reply_has_its_documented_token_counts(tmp_path: Path, simulator: Simulators):
    (row,) = ask(
        tmp_path,
        simulator(Provider()),
        dataset_of(tmp_path / "d.jsonl", {"id": "dates", "turns": [{"user": "明天是几号"}]}),
        model="sim-seed",
    ).to_dict("records")
    counts = [row[f"{name}_tokens"] for name in ("input", "output", "reasoning", "total")]
    assert counts == [22, 192, 178, 214]
    assert (row["finish_reason"], row["usage_consistent"], row["usage_source"]) == ("stop", True, "reported")
    assert row["reply"] == "明天是2025年12月27日。"


# -- selection and reuse


def test_limit_id_and_tag_select_dialogues(tmp_path: Path, simulator: Simulators):
    provider = Provider()
    server = simulator(provider)
    kinds = [(kind, n) for n in range(3) for kind in ("a", "b")]
    dialogues = [{"id": f"{kind}-{n}", "tags": [kind], "turns": [{"user": f"{kind} {n}"}]} for kind, n in kinds]
    dataset = dataset_of(tmp_path / "d.jsonl", *dialogues)
    choices: list[Plain] = [{"tags": "b", "limit": 2}, {"ids": "a-*"}, {"ids": ["b-1", "a-2"]}]
    chosen = [
        list(ask(tmp_path, server, dataset, out=f"out{number}", **options)["dialogue"])
        for number, options in enumerate(choices)
    ]
    assert chosen == [["b-0", "b-1"], ["a-0", "a-1", "a-2"], ["b-1", "a-2"]]
    assert provider.ledger.requests == 7


def test_reuse_sends_only_changed_turns_and_the_turns_after_them(tmp_path: Path, simulator: Simulators):
    provider = Provider()
    server = simulator(provider)
    former: list[Plain] = [
        {"id": f"d{n}", "turns": [{"user": f"question {t} of {n}"} for t in range(3)]} for n in range(4)
    ]
    first = ask(tmp_path, server, dataset_of(tmp_path / "one.jsonl", *former), out="first")
    changed = json.loads(json.dumps(former))
    changed[2]["turns"][1]["user"] = "another question"
    dataset = dataset_of(tmp_path / "two.jsonl", *changed)
    paid = provider.ledger.billed
    second = ask(tmp_path, server, dataset, out="second", reuse=str(tmp_path / "first"))
    assert [entry.turn for entry in provider.ledger.entries[paid:]] == [2, 3]
    assert second["reused_from"].notna().sum() == 10
    assert second.loc[second["reused_from"].notna(), "attempts"].eq(0).all()
    kept = second["dialogue"] != "d2"
    assert second[kept]["reply"].tolist() == first[kept]["reply"].tolist()

    third = ask(tmp_path, server, dataset, out="third", reuse=str(tmp_path / "second"))
    assert provider.ledger.billed == paid + 2, "a run that reuses all replies sends no request"
    assert third["reply"].tolist() == second["reply"].tolist()
    hotter = ask(tmp_path, server, dataset, out="fourth", reuse=str(tmp_path / "second"), temperature=1.0)
    assert hotter["reused_from"].isna().all(), "changed settings prevent reuse"


# -- ends of a run


def exit_code(folder: Path, server: Server, dataset: Path, *models: str, **more: Any) -> int:
    config = folder / "convbatch.toml"
    config.write_text(config_for(server.url))
    named = tuple(f"{model}@at-gemini" for model in models)
    return run(
        RunOptions(datasets=(dataset,), models=named, config=config, out=(folder / "out",), progress=False, **more)
    )


def test_a_deadline_leaves_the_rest_pending_and_prints_the_resume_command(
    tmp_path: Path, simulator: Simulators, capsys: pytest.CaptureFixture[str]
):
    provider = Provider(latency_s=0.4)
    dataset = write_dataset(tmp_path / "d.jsonl", 30, 2)
    code = exit_code(tmp_path, simulator(provider), dataset, "sim-good", deadline_s=0.6)
    turns: Any = cb.load(tmp_path / "out").turns
    assert code == 3
    assert statuses(turns)["ok"] == provider.ledger.billed > 0
    assert statuses(turns)["pending"] == 60 - provider.ledger.billed
    assert int(turns["possibly_paid"].sum()) == 0
    assert "deadline reached" in (printed := capsys.readouterr().err)
    assert f"convbatch resume {tmp_path / 'out'}" in printed


def test_a_target_with_an_unknown_model_is_suspended_at_once_and_the_other_finishes(
    tmp_path: Path, simulator: Simulators, capsys: pytest.CaptureFixture[str]
):
    provider = Provider()
    dataset = write_dataset(tmp_path / "d.jsonl", 20, 2)
    code = exit_code(tmp_path, simulator(provider), dataset, "sim-godo", "sim-good")
    turns: Any = cb.load(tmp_path / "out").turns
    assert code == 3
    assert statuses(turns[turns["model"] == "sim-good"]) == {"ok": 40}
    assert statuses(turns[turns["model"] == "sim-godo"]) == {"pending": 40}
    assert sum(entry.model == "sim-godo" for entry in provider.ledger.entries) <= 8, "only requests in flight"
    printed = capsys.readouterr().err
    assert "sim-godo@at-gemini is suspended: there is no such model" in printed
    assert "convbatch doctor -g" in printed


@pytest.mark.parametrize(("kind", "code"), [("prompt-blocked", 0), ("empty", 0), ("malformed-call", 3)])
def test_blocked_and_empty_replies_are_results_but_a_broken_generation_is_an_error(
    tmp_path: Path, simulator: Simulators, kind: str, code: int
):
    provider = Provider(faults=FaultScript.of([{"match": {"turn": 2}, "action": "reply", "kind": kind}]))
    dataset = write_dataset(tmp_path / "d.jsonl", 2, 3)
    assert exit_code(tmp_path, simulator(provider), dataset, "sim-good") == code


def test_a_refused_connection_uses_attempts_and_is_not_paid(tmp_path: Path):
    dataset = write_dataset(tmp_path / "d.jsonl", 1, 1)
    config = tmp_path / "convbatch.toml"
    config.write_text(config_for("http://127.0.0.1:9"))
    run = cb.run(dataset, models="sim-good@at-gemini", config=config, out=tmp_path / "out", max_attempts=2)
    (row,) = run.turns.to_dict("records")
    assert (row["status"], row["attempts"], row["possibly_paid"], row["error_kind"]) == ("error", 2, 0, "connection")


# -- keys


CANARY = "sk-canary/7f+Q=zW4x9Lq2Vn8Rt5"
SPELLINGS = tuple(
    spelling.encode()
    for spelling in (
        CANARY,
        urllib.parse.quote(CANARY, safe=""),
        urllib.parse.quote_plus(CANARY),
        json.dumps(CANARY)[1:-1],
        CANARY.replace("/", "\\/"),
        base64.b64encode(CANARY.encode()).decode().rstrip("="),
        base64.urlsafe_b64encode(CANARY.encode()).decode().rstrip("="),
        CANARY[4:-4],
    )
)


def contents_of(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield the bytes of every file, and the decoded content of compressed files."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path, path.read_bytes()
            if path.suffix == ".gz":
                yield path, gzip.decompress(path.read_bytes())
            if path.suffix == ".parquet":
                yield path, repr(cb.load(folder).turns.to_dict("records")).encode()


@pytest.mark.parametrize("auth", ["query:key", "raw", "bearer", "x-goog-api-key", "header:X-Own-Key"])
def test_a_key_reaches_the_server_as_configured_but_no_file_or_stream(
    tmp_path: Path,
    simulator: Simulators,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    auth: str,
):
    monkeypatch.setenv("CANARY_KEY", CANARY)
    echo = {"error": {"message": f"no good: {CANARY} {urllib.parse.quote(CANARY, safe='')}", "status": "INTERNAL"}}
    reply = {"candidates": [{"content": {"parts": [{"text": f"it is {CANARY}"}]}, "finishReason": "STOP"}]}
    faults: list[Plain] = [
        {"match": {"nth": 1}, "action": "body", "status": 200, "text": json.dumps(reply)},
        {"match": {"nth": 2}, "action": "body", "status": 400, "text": json.dumps(echo)},
        {
            "match": {"nth": 3},
            "action": "body",
            "status": 400,
            "text": f"<p>{CANARY}",
            "headers": {"x-request-id": CANARY},
        },
        {"match": {"nth": 4}, "action": "redirect", "location": f"http://127.0.0.1:9/?key={CANARY}"},
        {"match": {"nth": [5, 6]}, "action": "reset"},
    ]
    provider = RecordingProvider(faults=FaultScript.of(faults))
    config = tmp_path / "convbatch.toml"
    config.write_text(config_for(simulator(provider).url, auth=auth, key_env="CANARY_KEY"))
    options = RunOptions(
        datasets=(write_dataset(tmp_path / "d.jsonl", 6, 1),),
        models=("sim-echo@at-gemini",),
        config=config,
        out=(tmp_path / "out",),
        concurrency=1,
    )
    assert run(options) == 3
    sent = [
        {
            "query:key": head.query.get("key"),
            "raw": head.headers.get("authorization"),
            "bearer": head.headers.get("authorization", "").removeprefix("Bearer "),
            "x-goog-api-key": head.headers.get("x-goog-api-key"),
            "header:X-Own-Key": head.headers.get("x-own-key"),
        }[auth]
        for head in provider.heads
    ]
    assert set(sent) == {CANARY}
    assert all((auth == "query:key") == ("key" in head.query) for head in provider.heads)
    printed = capfd.readouterr()
    streams = [(Path("stdout"), printed.out.encode()), (Path("stderr"), printed.err.encode())]
    contents = [*contents_of(tmp_path / "out"), *streams]
    assert len(contents) >= 8
    for path, content in contents:
        for spelling in SPELLINGS:
            assert spelling not in content, f"{spelling} is in {path}"


# -- in virtual time


def virtual_run(path: Path, *hosts: Host, count: int = 20, turns: int = 3, **more: Any) -> VirtualRun:
    texts = [
        {"id": f"d{d}", "turns": [{"user": f"question {t} of dialogue {d}"} for t in range(1, turns + 1)]}
        for d in range(count)
    ]
    return VirtualRun(path / "run", hosts, texts, **more)


def provider_with(faults: list[Plain] | None = None, **more: Any) -> Provider:
    return Provider(keys={KEY}, latency_s=0.5, faults=FaultScript.of(faults or []), **more)


def test_a_key_revoked_during_a_run_suspends_its_target_after_three_probes_and_the_other_finishes(tmp_path: Path):
    north = provider_with([{"match": {"nth": 20}, "action": "revoke-key"}])
    run = virtual_run(tmp_path, Host(north), Host(provider_with(), name="south"), rules=RunRules(concurrency=4))
    result = run.run_session()
    assert result is not None
    assert result.exit_code == 3
    assert "the key is refused" in result.suspended["sim-good@north"]
    assert set(result.suspended) == {"sim-good@north"}
    story = obeys(run, finished=False)
    assert Counter(state for row, state in story.states.items() if row[1] == "sim-good@south") == {"ok": 60}
    refused = [sent.left_at for sent in run.sent if sent.host == "north" and sent.status != 200]
    assert len(refused) <= 4 + 3, "requests in flight, and three probes"
    waits = [latter - former for former, latter in pairwise(refused) if latter - former > 5]
    assert [wait // 30 for wait in waits] == [1, 2, 4]
    assert "error" not in story.states.values()


def test_no_channel_for_two_minutes_loses_no_turn(tmp_path: Path):
    provider = provider_with([{"match": {"after_s": 5, "before_s": 125}, "action": "no-channel"}])
    run = virtual_run(tmp_path, Host(provider), rules=RunRules(concurrency=4))
    result = run.run_session()
    assert result is not None
    assert result.exit_code == 0
    assert set(obeys(run).states.values()) == {"ok"}
    assert sum(entry.fault == "no-channel" for entry in provider.ledger.entries) <= 4 + 3


def test_a_used_up_balance_suspends_its_target_at_once(tmp_path: Path):
    provider = provider_with([{"match": {"nth": 20}, "action": "drain-balance"}])
    run = virtual_run(tmp_path, Host(provider), rules=RunRules(concurrency=4))
    result = run.run_session()
    assert result is not None
    assert "quota or balance is used up" in result.suspended["sim-good@north"]
    assert sum(entry.status == 429 or entry.status == 403 for entry in provider.ledger.entries) <= 4
    story = obeys(run, finished=False)
    assert "error" not in story.states.values()


def test_a_dead_gateway_gets_fewer_and_fewer_requests_and_is_suspended_after_15_minutes(tmp_path: Path):
    run = virtual_run(tmp_path, Host(provider_with(), unreachable=1.0), Host(provider_with(), name="south"), count=60)
    result = run.run_session()
    assert result is not None
    assert "no reply in" in result.suspended["sim-good@north"]
    assert 900 <= run.ended[0].ended - run.ended[0].began <= 1500
    attempts = [sent for sent in run.sent if sent.host == "north"]
    assert len(attempts) <= 16 + 10
    states = obeys(run, finished=False).states
    assert sum(row[1] == "sim-good@south" and state == "ok" for row, state in states.items()) == 180


def test_a_target_whose_answers_cannot_be_read_is_not_asked_all_dialogues(tmp_path: Path):
    provider = provider_with([{"action": "broken", "kind": "cut-json"}])  # each of them may be paid
    run = virtual_run(tmp_path, Host(provider), rules=RunRules(concurrency=8), count=300, turns=1)
    result = run.run_session()
    assert result is not None
    assert "no reply in" in result.suspended["sim-good@north"]
    assert len(run.sent) <= 20 + 8 + 10
    obeys(run, finished=False)


@pytest.mark.parametrize("trouble", ["dead", "slow", "refusing"])
def test_a_healthy_target_runs_beside_a_broken_one_as_fast_as_alone(tmp_path: Path, trouble: str):
    broken = {
        "dead": Host(provider_with(), name="south", unreachable=1.0),
        "slow": Host(provider_with([{"action": "delay", "seconds": 20}]), name="south"),
        "refusing": Host(provider_with([{"action": "error", "kind": "overloaded"}]), name="south"),
    }[trouble]

    def makespan(folder: str, *others: Host) -> float:
        provider = provider_with()
        run = virtual_run(
            tmp_path / folder, Host(provider, delay_s=0.01), *others, rules=RunRules(concurrency=8), count=60
        )
        run.run_session(deadline_s=120)
        assert provider.ledger.billed == 180
        return max(sent.resolved_at or 0 for sent in run.sent if sent.host == "north")

    (tmp_path / "alone").mkdir()
    (tmp_path / "beside").mkdir()
    assert makespan("beside", broken) <= 1.05 * makespan("alone")


def test_429_responses_use_up_no_attempts(tmp_path: Path):
    storm = {"match": {"attempt": "1-7"}, "action": "rate-limit", "hint": "retry-info", "seconds": 3}
    run = virtual_run(tmp_path, Host(provider_with([storm])), rules=RunRules(max_attempts=2), count=1, turns=2)
    result = run.run_session()
    assert result is not None
    assert result.exit_code == 0
    story = obeys(run)
    assert [len(story.by_row[row]) for row in run.planned] == [8, 8]


def test_server_errors_are_given_up_after_max_attempts_with_growing_pauses(tmp_path: Path):
    provider = provider_with([{"action": "error"}])
    run = virtual_run(tmp_path, Host(provider, delay_s=0.0), rules=RunRules(max_attempts=5), count=1, turns=2)
    run.run_session()
    story = Story(run)
    assert [story.states[row] for row in run.planned] == ["error", "skipped"]
    left = [sent.left_at for sent in run.sent]
    pauses = [latter - former for former, latter in pairwise(left)]
    assert len(pauses) == 4
    assert all(pause <= 2**n + 0.2 for n, pause in enumerate(pauses))


def test_script_history_continues_after_an_error(tmp_path: Path):
    refusal = {"match": {"turn": 2}, "action": "error", "kind": "bad_request"}
    texts: list[Plain] = [{"id": "d", "turns": [{"user": f"q{t}", "assistant": f"a{t}"} for t in range(1, 4)]}]
    run = VirtualRun(tmp_path / "run", [Host(provider_with([refusal]))], texts, rules=RunRules(history="script"))
    run.run_session()
    assert list(Story(run).states.values()) == ["ok", "error", "ok"]
    obeys(run, finished=False)


def test_a_kill_never_uses_up_the_ambiguous_resend(tmp_path: Path):
    provider = provider_with([{"match": {"attempt": "1-4"}, "action": "delay", "seconds": 30}])
    run = virtual_run(tmp_path, Host(provider), rules=RunRules(max_attempts=1), count=1, turns=1)
    for _ in range(4):
        run.run_session(kill=Kill(after_s=5))
    result = run.run_session()
    assert result is not None
    assert result.exit_code == 0
    assert len(obeys(run).attempts) == 5
    row: Any = cb.load(run.path).turns.iloc[0]
    assert (row["attempts"], row["possibly_paid"], row["status"]) == (5, 4, "ok")


def test_an_interrupt_finishes_requests_in_flight_and_a_second_abandons_them(tmp_path: Path):
    provider = provider_with([{"action": "delay", "seconds": 50}])
    run = virtual_run(tmp_path, Host(provider, limits=Limits(concurrency=3)))
    first = run.run_session(signals=[(10, signal.SIGINT)])
    second = run.run_session(signals=[(10, signal.SIGINT), (12, signal.SIGINT)])
    third = run.run_session(signals=[(10, signal.SIGTERM)])
    assert first is not None
    assert second is not None
    assert third is not None
    assert [result.exit_code for result in (first, second, third)] == [130, 130, 130]
    spans = [ended.ended - ended.began for ended in run.ended]
    assert 50 < spans[0] < 55
    assert 12 <= spans[1] < 12.5
    assert 35 <= spans[2] < 35.5, "SIGTERM gives requests in flight 25 s"
    story = obeys(run, finished=False)
    by_session = Counter((one.intent.session, one.cls) for one in story.attempts)
    assert by_session[1, "replied"] > 0
    assert by_session[2, "abandoned"] > 0
    assert by_session[3, "abandoned"] > 0


def test_interrupts_at_random_times_send_no_request_twice(tmp_path: Path):
    chance = random.Random(5)
    run = virtual_run(tmp_path, Host(provider_with()), rules=RunRules(concurrency=4), count=10)
    for _ in range(6):
        run.run_session(signals=[(chance.uniform(0.1, 4), signal.SIGINT)])
    run.finish(most=1)
    obeys(run, faultless=True)
    assert sum(entry.billed for entry in run.ledger()) == 30
