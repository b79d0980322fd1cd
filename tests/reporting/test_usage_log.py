"""Usage logs compared with journals: reading, refusals, and matching lines with calls."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.config.loader import load_shipped_config, read_config
from convbatch.config.usage_log_form import UsageLogForm
from convbatch.errors import InputError, SetupError
from convbatch.pricing import PriceTable
from convbatch.reply import Failure, Reply, Usage
from convbatch.reporting.render import to_markdown, to_terminal
from convbatch.reporting.section import Section
from convbatch.reporting.usage_log import reconcile
from convbatch.reporting.usage_log_matching import Call, CallId, JoinedPair, join_lines_and_calls
from convbatch.reporting.usage_log_reader import UsageLogLine, read_usage_log
from convbatch.results.run import Run, load
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.ledger import Entry
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.conftest import Command, config_for, write_dataset
from tests.support.made_runs import STARTED_AT, MadeRun, dialogue
from tests.support.tables import each

FORMS = load_shipped_config().usage_logs
NEW_API = FORMS["new-api"]
HEADER = "id,created_at,type,model_name,quota,prompt_tokens,completion_tokens,request_id"
Cells = dict[str, Any]


def write_usage_log(path: Path, lines: Iterable[Cells], header: str = HEADER) -> Path:
    rows = [",".join(str(line.get(name, "")) for name in header.split(",")) for line in lines]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def line(**cells: Any) -> Cells:
    usual = {"created_at": int(STARTED_AT) + 1, "type": 2, "model_name": "m", "prompt_tokens": 22}
    return {**usual, "completion_tokens": 192, "quota": 500, **cells}


def totals(sections: list[Section]) -> dict[str, tuple[int, int]]:
    """Return the numbers of lines and calls by outcome."""
    frame = sections[0].frame
    return {row["outcome"]: (row["lines"], row["calls"]) for row in frame.to_dict("records")}


def listed(sections: list[Section]) -> list[dict[str, Any]]:
    return sections[1].frame.to_dict("records")


# Real runs, and usage logs made from the simulator's ledger


def billed_lines(entries: Iterable[Entry], *, ids: bool = True) -> list[Cells]:
    """Return the lines of a new-api gateway's log for these requests."""
    return [
        {
            "id": entry.seq,
            "created_at": int(entry.finished_at or entry.arrived_at),
            "type": 2,
            "model_name": entry.model,
            "quota": 1000 * entry.seq,
            "prompt_tokens": entry.input_tokens,
            "completion_tokens": entry.output_tokens,
            "request_id": entry.request_id if ids else "",
        }
        for entry in entries
        if entry.billed
    ]


@dataclasses.dataclass
class BilledRun:
    """A finished run and the ledger of its gateway."""

    run: Run
    entries: list[Entry]
    folder: Path


RunBilled = Callable[..., BilledRun]


@pytest.fixture
def run_billed(convbatch: Command, simulator: Callable[[Provider], Server], tmp_path: Path) -> RunBilled:
    def run(faults: Iterable[Mapping[str, Any]] = (), dialogues: int = 4, **provider_options: Any) -> BilledRun:
        provider = Provider(gateway="new-api", faults=FaultScript.of(faults), **provider_options)
        server = simulator(provider)
        config = config_for(server.url, models='[run]\nmodels = ["sim-good@at-gemini"]', currency="CNY")
        (tmp_path / "convbatch.toml").write_text(config)
        dataset = write_dataset(tmp_path / "d.jsonl", dialogues, 3)
        done = convbatch("run", dataset, "-o", tmp_path / "out", "--no-progress", "--attempt-timeout", "5s")
        assert done.code in (0, 3), done.err
        return BilledRun(load(tmp_path / "out"), list(provider.ledger.entries), tmp_path)

    return run


@pytest.mark.parametrize("ids", [True, False], ids=["with request ids", "without request ids"])
def test_all_lines_of_an_undisturbed_run_match(run_billed: RunBilled, ids: bool) -> None:
    billed_run = run_billed()
    lines = billed_lines(billed_run.entries, ids=ids)
    sections = reconcile([billed_run.run], write_usage_log(billed_run.folder / "bill.csv", lines), FORMS)
    assert totals(sections) == {"same": (12, 12)}
    assert listed(sections) == []
    assert any("without a matching request id" in note for note in sections[0].notes) is not ids


@pytest.mark.parametrize("ids", [True, False], ids=["with request ids", "without request ids"])
def test_each_changed_line_of_a_usage_log_is_found(run_billed: RunBilled, ids: bool) -> None:
    billed_run = run_billed()
    lines = billed_lines(billed_run.entries, ids=ids)
    added = {**lines[0], "request_id": "unknown" if ids else "", "prompt_tokens": 900, "completion_tokens": 800}
    counts = ("prompt_tokens", "completion_tokens")
    changed = lines[5]
    # Remove a line of the same size; otherwise the changed line would be ambiguous without ids.
    alike = [one for one in lines if one is not changed and all(one[name] == changed[name] for name in counts)]
    removed = lines.pop(lines.index(alike[0]))
    changed["prompt_tokens"] += 57
    elsewhere = {**lines[2], "request_id": "x", "created_at": lines[2]["created_at"] - 86400}
    lines += [added, elsewhere, {**lines[1], "type": 1}]
    random.Random(3).shuffle(lines)
    sections = reconcile([billed_run.run], write_usage_log(billed_run.folder / "bill.csv", lines), FORMS)
    assert totals(sections) == {
        "same": (10, 10),
        "tokens differ": (1, 1),
        "billed, unknown to us": (1, 0),
        "known, not billed": (0, 1),
        "outside the runs' time": (1, 0),
    }
    differ, unknown, free = listed(sections)
    assert (differ["input_difference"], differ["output_difference"]) == (57, 0)
    assert (unknown["billed_input"], unknown["billed_output"]) == (900, 800)
    assert (free["input_tokens"], free["output_tokens"]) == (removed["prompt_tokens"], removed["completion_tokens"])
    assert ids is (free["request_id"] == removed["request_id"])


@pytest.mark.slow
def test_billed_calls_without_an_answer_and_billed_refusals_have_their_own_outcomes(run_billed: RunBilled) -> None:
    billed_run = run_billed(
        [
            {"match": {"nth": 2}, "action": "reset", "when": "billed"},
            {"match": {"nth": 4}, "action": "reset", "when": "read"},
            {"match": {"nth": 6}, "action": "error", "kind": "overloaded", "billed": True},
            {"match": {"nth": 8}, "action": "error", "kind": "overloaded"},
        ]
    )
    sections = reconcile(
        [billed_run.run], write_usage_log(billed_run.folder / "bill.csv", billed_lines(billed_run.entries)), FORMS
    )
    assert totals(sections) == {
        "same": (12, 12),
        "possibly paid: billed": (1, 1),
        "possibly paid: not billed": (0, 1),
        "failed: billed": (1, 1),
        "failed: not billed": (0, 1),
    }
    assert {row["joined_by"] for row in listed(sections) if row["outcome"] == "possibly paid: billed"} == {"time"}
    assert {row["joined_by"] for row in listed(sections) if row["outcome"] == "failed: billed"} == {"request id"}


def test_replies_without_usage_never_count_as_the_same(run_billed: RunBilled) -> None:
    billed_run = run_billed([{"match": {"turn": 2}, "action": "usage", "kind": "missing"}])
    sections = reconcile(
        [billed_run.run], write_usage_log(billed_run.folder / "bill.csv", billed_lines(billed_run.entries)), FORMS
    )
    assert totals(sections) == {"same": (8, 8), "billed, tokens not known": (4, 4)}


# Hand-made runs


def made(path: Path, *, model: str = "m", **more: Any) -> MadeRun:
    return MadeRun(path, [dialogue("d", "one", "two", "three")], targets=[f"{model}@relay"], **more)


def replied(
    run: MadeRun, turn: int, input_tokens: int, output_tokens: int, at: float = STARTED_AT, **more: Any
) -> None:
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens, source="reported")
    reply = Reply(text="x", finish_reason="stop", finish_reason_raw=None, usage=usage)
    run.replied(run.ident(0, turn), reply, started_at=at, latency_s=2.0, **more)


def reconcile_run(run: MadeRun, lines: Iterable[Cells], forms: Mapping[str, UsageLogForm] = FORMS) -> list[Section]:
    folder = run.write()
    return reconcile([load(folder.path)], write_usage_log(run.path / "bill.csv", lines), forms)


def test_a_line_with_the_tokens_of_its_call_is_the_same(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    replied(run, 1, 22, 192)
    sections = reconcile_run(run, [line()])
    assert totals(sections) == {"same": (1, 1)}
    (row,) = sections[0].frame.to_dict("records")
    assert (row["input_tokens"], row["billed_input"], row["output_tokens"], row["billed_output"]) == (22, 22, 192, 192)
    assert row["billed"] == 0.001  # 500 of 500,000


def test_a_call_billed_twice_is_found(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    replied(run, 1, 22, 192, request_id="a")
    sections = reconcile_run(run, [line(request_id="a"), line(request_id="a")])
    assert totals(sections) == {"same": (1, 1), "billed, unknown to us": (1, 0)}


def test_a_line_with_our_request_id_matches_at_any_time(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    replied(run, 1, 22, 192, request_id="a", at=1_780_000_000.0)
    sections = reconcile_run(run, [line(request_id="a", created_at=1_780_000_000 + 8 * 3600)])
    assert totals(sections) == {"same": (1, 1)}


@pytest.mark.slow
def test_small_amounts_keep_their_digits_in_markdown_and_a_long_list_is_cut_on_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(tmp_path / "run")
    replied(run, 1, 22, 192)
    sections = reconcile_run(run, [line(quota="3210"), *[line(model_name="m-max")] * 1_200])
    assert "0.00642" in to_markdown(sections)
    to_terminal(sections)
    assert "… and 200 more rows: -o report.md" in capsys.readouterr().out


def test_another_model_under_our_request_id_is_found(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    replied(run, 1, 22, 192, request_id="a")
    assert totals(reconcile_run(run, [line(request_id="a", model_name="m-max")])) == {
        "same": (0, 0),
        "billed as another model": (1, 1),
    }


def test_without_request_ids_a_line_matches_only_calls_of_its_model(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    replied(run, 1, 22, 192)
    sections = reconcile_run(run, [line(model_name="m-max")])
    assert totals(sections) == {"same": (0, 0), "billed, unknown to us": (1, 0), "known, not billed": (0, 1)}
    assert any("models that these runs did not use: m-max" in note for note in sections[0].notes)


@pytest.mark.parametrize(
    ("seconds", "outcome"),
    [(-61, "outside the runs' time"), (-60, "same"), (62, "same"), (63, "outside the runs' time")],
)
def test_a_line_matches_up_to_a_minute_before_the_start_or_after_the_end(
    seconds: int, outcome: str, tmp_path: Path
) -> None:
    run = made(tmp_path / "run")
    replied(run, 1, 22, 192, at=1_780_000_000.0)
    sections = reconcile_run(run, [line(created_at=1_780_000_000 + seconds)])
    assert totals(sections)[outcome][0] == 1


def test_a_line_with_other_tokens_matches_the_call_of_its_time(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    replied(run, 1, 100, 192, at=1_780_000_000.0)
    replied(run, 2, 125, 192, at=1_780_000_030.0)
    lines = [line(created_at=1_780_000_001, prompt_tokens=130), line(created_at=1_780_000_031, prompt_tokens=163)]
    found = [(row["turn"], row["input_difference"]) for row in listed(reconcile_run(run, lines))]
    assert found == [(1, 30), (2, 38)]


@pytest.mark.parametrize(("input_tokens", "outcome"), [(216, "tokens differ"), (217, "billed, unknown to us")])
def test_a_line_with_more_than_twice_the_tokens_plus_16_matches_no_call(
    input_tokens: int, outcome: str, tmp_path: Path
) -> None:
    run = made(tmp_path / "run")
    replied(run, 1, 100, 192)
    assert outcome in totals(reconcile_run(run, [line(prompt_tokens=input_tokens, completion_tokens=193)]))


def test_costs_are_compared_only_in_the_currency_of_the_usage_log(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    replied(run, 1, 1_000_000, 0)
    replied(run, 2, 500_000, 0)
    folder = run.write()
    manifest = folder.read_manifest()
    [target] = manifest.targets
    prices = PriceTable.from_plain({"currency": "CNY", "source": "t", "periods": [{"input": "2", "output": "8"}]})
    gateway = dataclasses.replace(target.gateway, name="relay", currency="CNY")
    folder.write_manifest(
        dataclasses.replace(manifest, targets=(dataclasses.replace(target, prices=prices, gateway=gateway),))
    )
    lines = [
        line(prompt_tokens=1_000_000, completion_tokens=0, quota=1_000_000),  # 2 CNY, equal to the cost in the run
        line(prompt_tokens=500_000, completion_tokens=0, quota=750_000),  # 1.5 CNY; the cost in the run is 1
    ]
    sections = reconcile([load(folder.path)], write_usage_log(tmp_path / "b.csv", lines), FORMS)
    (row,) = sections[0].frame.to_dict("records")
    assert (row["cost"], row["billed"], row["difference"], row["currency"]) == (3.0, 3.5, 0.5, "CNY")
    in_usd = {"new-api": dataclasses.replace(NEW_API, currency="USD")}
    section = reconcile([load(folder.path)], tmp_path / "b.csv", in_usd)[0]
    assert {row["difference"] for row in section.frame.fillna(-1).to_dict("records")} == {-1}
    assert any("2 of 2 calls have no price in USD" in note for note in section.notes)


def test_a_run_with_two_gateways_needs_the_gateway_of_the_usage_log(tmp_path: Path) -> None:
    run = MadeRun(tmp_path / "run", [dialogue("d", "one")], targets=["m@relay", "m@other"])
    run.replied(run.ident(0, 1))
    with pytest.raises(SetupError, match=r"which gateway this bill is from: the runs use other, relay"):
        reconcile_run(run, [line()])
    named = {"new-api": dataclasses.replace(NEW_API, gateways=("relay",))}
    assert totals(reconcile([load(run.path)], run.path / "bill.csv", named)) == {"same": (1, 1)}
    wrong = {"new-api": dataclasses.replace(NEW_API, gateways=("relais",))}
    with pytest.raises(SetupError, match="did you mean 'relay'"):
        reconcile([load(run.path)], run.path / "bill.csv", wrong)


def test_calls_of_a_run_given_twice_count_once(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    replied(run, 1, 22, 192)
    folder = run.write()
    usage_log = write_usage_log(tmp_path / "b.csv", [line()])
    assert totals(reconcile([load(folder.path), load(folder.path)], usage_log, FORMS)) == {"same": (1, 1)}


def test_an_unbilled_refused_call_is_not_listed(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    run.failed(run.ident(0, 1), Failure(kind="rate_limit", message="slow down"), cls="refused")
    sections = reconcile_run(run, [line(created_at=5)])
    assert totals(sections) == {"same": (0, 0), "failed: not billed": (0, 1), "outside the runs' time": (1, 0)}
    assert listed(sections) == []


# Properties of matching

_COUNTS = st.none() | st.integers(0, 40)
_IDS = st.none() | st.sampled_from("abcd")
_lines = st.lists(
    st.builds(
        UsageLogLine,
        line=st.just(0),
        at=st.integers(0, 300).map(float),
        model=st.sampled_from(["m", "n"]),
        request_id=_IDS,
        input_tokens=_COUNTS,
        output_tokens=_COUNTS,
        amount=st.none(),
    ),
    max_size=12,
).map(lambda lines: [dataclasses.replace(line, line=number) for number, line in enumerate(lines, 2)])
_calls = st.lists(
    st.tuples(
        st.sampled_from(["replied", "lost", "failed"]),
        st.sampled_from(["m", "n"]),
        st.integers(0, 300),
        st.integers(0, 30),
        _IDS,
        _COUNTS,
        _COUNTS,
    ),
    max_size=12,
).map(
    lambda drawn: [
        Call(
            ident=CallId("r", "d", "t", 1, 1, number),
            kind=kind,
            model=model,
            begins=float(at),
            ends=float(at + took + (600 if kind == "lost" else 0)),
            request_id=id_,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost=None,
            currency=None,
        )
        for number, (kind, model, at, took, id_, input_tokens, output_tokens) in enumerate(drawn, 1)
    ]
)


def comparable(pairs: Iterable[JoinedPair]) -> list[tuple[Any, ...]]:
    """Return the pairs in a comparable form without line numbers."""
    return sorted(
        (
            pair.outcome,
            pair.joined_by or "",
            repr(pair.line and dataclasses.replace(pair.line, line=0)),
            repr(pair.call and pair.call.ident),
        )
        for pair in pairs
    )


@given(_lines, _calls, st.randoms(use_true_random=False))
def test_pairs_do_not_depend_on_the_order_of_lines_and_use_each_line_and_call_once(
    lines: list[UsageLogLine], calls: list[Call], chance: random.Random
) -> None:
    pairs = join_lines_and_calls(lines, calls)
    shuffled = [
        dataclasses.replace(line, line=number) for number, line in enumerate(chance.sample(lines, len(lines)), 2)
    ]
    assert comparable(join_lines_and_calls(shuffled, chance.sample(calls, len(calls)))) == comparable(pairs)
    assert sorted(pair.line.line for pair in pairs if pair.line) == sorted(line.line for line in lines)
    assert sorted(pair.call.ident for pair in pairs if pair.call) == sorted(call.ident for call in calls)
    for pair in pairs:
        if pair.line and pair.call and pair.joined_by != "request id":
            assert pair.line.model == pair.call.model
            assert pair.call.is_near(pair.line)
        if pair.joined_by == "request id":
            assert pair.line
            assert pair.call
            assert pair.line.request_id == pair.call.request_id


@given(_calls, st.booleans(), st.data())
def test_all_lines_of_a_correct_usage_log_match(calls: list[Call], ids: bool, data: st.DataObject) -> None:
    billed_calls = [
        dataclasses.replace(
            call, kind="replied", input_tokens=call.input_tokens or 0, output_tokens=call.output_tokens or 0
        )
        for call in calls
    ]
    lines = [
        UsageLogLine(
            line=number,
            at=data.draw(st.floats(call.begins - 60, call.ends + 60)),
            model=call.model,
            request_id=f"{call.request_id}{number}" if ids and call.request_id else None,
            input_tokens=call.input_tokens,
            output_tokens=call.output_tokens,
            amount=None,
        )
        for number, call in enumerate(billed_calls)
    ]
    named = [
        dataclasses.replace(call, request_id=f"{call.request_id}{number}" if ids and call.request_id else None)
        for number, call in enumerate(billed_calls)
    ]
    assert {pair.outcome for pair in join_lines_and_calls(lines, named)} <= {"same"}


# Reading


def forms(text: str) -> Mapping[str, UsageLogForm]:
    return read_config(text, Path("convbatch.toml")).usage_logs


OWN = """
[bills.own]
time = "时间"
model = "模型"
input_tokens = "输入"
output_tokens = "输出"
amount = "费用"
currency = "CNY"
time_zone = "Asia/Shanghai"
"""
OWN_TEXT = "时间,模型,输入,输出,费用\n2026-01-31 12:00:05,甲,1,2,0.5\n"


@each("encoding", ["utf-8", "utf-8-sig", "gb18030", "gbk", "utf-16"])
@each("separator", [",", ";", "\t"])
@each("end", ["\n", "\r\n"])
def test_encodings_separators_and_line_ends_are_detected(
    encoding: str, separator: str, end: str, tmp_path: Path
) -> None:
    path = tmp_path / "bill.csv"
    path.write_bytes(OWN_TEXT.replace(",", separator).replace("\n", end).encode(encoding))
    usage_log = read_usage_log(path, forms(OWN))
    (only,) = usage_log.lines
    assert usage_log.form.name == "own"
    assert (only.line, only.model, only.input_tokens, only.output_tokens, str(only.amount)) == (2, "甲", 1, 2, "0.5")


@each(
    ("written", "seconds"),
    [
        ("1769860805", 1769860805.0),
        ("1769860805.25", 1769860805.25),
        ("1769860805250", 1769860805.25),
        ("2026-01-31T12:00:05Z", 1769860805.0),
        ("2026-01-31T20:00:05+08:00", 1769860805.0),
        ("2026-01-31 20:00:05", 1769860805.0),
        ("2026/1/31 20:00:05", 1769860805.0),
    ],
)
def test_times_are_read_in_every_format(written: str, seconds: float, tmp_path: Path) -> None:
    path = tmp_path / "bill.csv"
    path.write_text(OWN_TEXT.replace("2026-01-31 12:00:05", written), encoding="utf-8")
    assert read_usage_log(path, forms(OWN)).lines[0].at == seconds


def test_local_times_are_utc_unless_the_format_has_a_time_zone(tmp_path: Path) -> None:
    path = tmp_path / "bill.csv"
    path.write_text(OWN_TEXT, encoding="utf-8")
    usage_log = read_usage_log(path, forms(OWN.replace('time_zone = "Asia/Shanghai"\n', "")))
    assert (usage_log.lines[0].at, usage_log.has_local_times) == (1769860805.0, True)


def refusal(path: Path, known: Mapping[str, UsageLogForm] = FORMS, name: str | None = None) -> str:
    with pytest.raises((InputError, SetupError)) as caught:
        read_usage_log(path, known, name)
    assert caught.value.exit_code == 2
    assert all(problem.hint for problem in caught.value.problems if "more problems" not in problem.what)
    return str(caught.value)


@each(
    ("content", "message"),
    [
        (b"", "bill.csv: the bill is empty"),
        (b"\xef\xbb\xbf\r\n", "bill.csv: the bill is empty"),
        (b"PK\x03\x04 an xlsx", "a spreadsheet or an archive"),
        (b"\x00\x01\x02", "the bill is not text"),
        (b"a,b\n1,\xff\xff\n", "bill.csv:2: the bill is neither UTF-8 nor GB18030"),
        (b"\xff\xfea", "neither UTF-8 nor GB18030"),
        (b"hello\nworld\n", "bill.csv:1: the bill has the columns of no known form"),
        (HEADER.encode() + b"\n", "the bill has no lines"),
        (HEADER.encode() + b"\n1,2,2\n", "bill.csv:2: the line does not match the header"),
    ],
)
def test_a_file_that_is_not_a_usage_log_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bill.csv"
    path.write_bytes(content)
    assert message in refusal(path)


def test_a_missing_usage_log_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "none.csv")


def test_all_bad_cells_are_reported_with_their_lines(tmp_path: Path) -> None:
    bad = [
        line(),
        line(created_at="yesterday"),
        line(prompt_tokens="many", completion_tokens=-1),
        line(model_name=""),
        line(quota="¥5"),
        line(created_at=""),
    ]
    text = refusal(write_usage_log(tmp_path / "bill.csv", bad))
    for message in (
        "bill.csv:3: created_at is not a time\n  found: 'yesterday'",
        "bill.csv:4: prompt_tokens is not a number of tokens\n  found: 'many'",
        "bill.csv:4: completion_tokens is not a number of tokens\n  found: '-1'",
        "bill.csv:5: model_name has no model",
        "bill.csv:6: quota is not a number",
        "bill.csv:7: created_at is not a time\n  found: an empty cell",
    ):
        assert message in text


def test_the_first_thousand_bad_lines_are_reported_and_the_rest_counted(tmp_path: Path) -> None:
    path = write_usage_log(tmp_path / "bill.csv", [line(prompt_tokens="x")] * 1_005)
    with pytest.raises(InputError) as caught:
        read_usage_log(path, FORMS)
    assert len(caught.value.problems) == 1_001
    assert caught.value.problems[-1].what == "and 5 more problems"


def test_a_missing_column_is_named_with_its_closest_match(tmp_path: Path) -> None:
    path = write_usage_log(tmp_path / "bill.csv", [line()], header=HEADER.replace("prompt_tokens", "prompt_token"))
    text = refusal(path, name="new-api")
    assert "bill.csv:1: the bill has no column 'prompt_tokens', which the form 'new-api' needs for input_tokens" in text
    assert "did you mean 'prompt_token'?" in text
    assert "no known form" in refusal(path)


def test_an_optional_column_may_be_missing(tmp_path: Path) -> None:
    path = write_usage_log(tmp_path / "bill.csv", [line()], header=HEADER.removesuffix(",request_id"))
    assert read_usage_log(path, FORMS).lines[0].request_id is None


def test_a_duplicate_column_is_refused(tmp_path: Path) -> None:
    path = write_usage_log(tmp_path / "bill.csv", [line()], header=HEADER + ",quota")
    assert "the column 'quota' occurs 2 times" in refusal(path)


def test_a_usage_log_that_matches_two_formats_needs_the_name_of_one(tmp_path: Path) -> None:
    path = write_usage_log(tmp_path / "bill.csv", [line()])
    known = {**FORMS, "mine": dataclasses.replace(NEW_API, name="mine")}
    assert "the columns of several forms: new-api, mine" in refusal(path, known)
    assert read_usage_log(path, known, "mine").form.name == "mine"
    assert "did you mean 'mine'" in refusal(path, known, "mone")


# The config


def test_a_format_with_the_name_of_a_preset_changes_only_the_keys_it_sets() -> None:
    known = forms('[bills.new-api]\ngateway = "dmxapi"\ncurrency = "USD"\n')
    assert known["new-api"] == dataclasses.replace(NEW_API, gateways=("dmxapi",), currency="USD")


@each(
    ("text", "message"),
    [
        ('[bills.x]\nmodel = "m"', "convbatch.toml:1: the usage log format 'x' has no time"),
        ('[bills.new-api]\ntimes = "t"', "convbatch.toml:2: unknown key 'times' in [bills.new-api]"),
        ("[bills.new-api]\ntime = 3", "convbatch.toml:2: time must be the name of a column"),
        ('[bills.new-api]\ntime_zone = "Asia/Shanghia"', "did you mean 'Asia/Shanghai'?"),
        ("[bills.new-api]\namount_per_unit = 0", "amount_per_unit must be more than 0"),
        ('[bills.new-api]\ngateway = "dmxapy"', "a usage log of an unknown gateway 'dmxapy'"),
        ("[bills.new-api]\nonly = 2", "only must be a table of columns"),
        ("[bills.new-api]\nonly = { type = 2.5 }", "only.type must be a text or a whole number"),
        ('[bills.new-api]\noptional = ["time"]', "optional must be a list of keys"),
        ('[bills.new-api]\ncurrency = "yuan"', "yuan is no currency code"),
        ("bills = 3", "bills must be a table"),
        (OWN.replace('amount = "费用"\n', ""), "currency without amount"),
    ],
)
def test_an_invalid_format_is_reported_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        forms(text)
    assert message in str(caught.value)
    assert all(problem.hint for problem in caught.value.problems)


# The command


def test_the_report_compares_a_usage_log_with_the_run(run_billed: RunBilled, convbatch: Command) -> None:
    billed_run = run_billed()
    lines = billed_lines(billed_run.entries)
    lines[3]["completion_tokens"] += 9
    write_usage_log(billed_run.folder / "log.csv", lines[:-1])
    done = convbatch("report", "out", "--bill", "log.csv")
    assert done.code == 0, done.err
    for words in ("Bill log.csv", "tokens differ", "known, not billed", "new-api"):
        assert words in done.out
    plain = json.loads(convbatch("report", "out", "--bill", "log.csv", "--bill-form", "new-api", "--json").out)
    counts = {row["outcome"]: (row["lines"], row["calls"]) for row in plain["bill"]["rows"]}
    assert counts == {"same": (10, 10), "tokens differ": (1, 1), "known, not billed": (0, 1)}


@pytest.mark.parametrize(
    ("name", "content", "options", "what"),
    [
        ("columns.csv", b"a,b\n1,2\n", [], "columns.csv"),
        ("binary.csv", b"\x00\x01\x02\xff" * 50, [], "binary.csv"),
        ("missing.csv", None, [], "missing.csv"),
        ("form.csv", b"a,b\n1,2\n", ["--bill-form", "new-apy"], "new-api"),
    ],
    ids=["no known columns", "binary", "no file", "unknown format"],
)
def test_an_unreadable_usage_log_is_exit_2(
    name: str, content: bytes | None, options: list[str], what: str, convbatch: Command, tmp_path: Path
) -> None:
    MadeRun(tmp_path / "out", [dialogue("d", "hi")]).write()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = convbatch("report", "out", "--bill", name, *options)
    assert (done.code, done.out) == (2, "")
    assert what in done.err
    assert "hint: " in done.err
