"""Tests of the result tables: rows, columns, files, memory and imports."""

from __future__ import annotations

import asyncio
import csv
import errno
import gzip
import io
import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from convbatch.dialogue import Dialogue
from convbatch.errors import JournalError, SetupError
from convbatch.journal.records import encode_line
from convbatch.journal.run_folder import RunFolder
from convbatch.reply import NO_USAGE, Failure, Reply, Usage, reply_to_plain
from convbatch.results.cache import is_fresh, turns_file, write_turns
from convbatch.results.columns import ATTEMPTS, CONVERSATIONS, TURNS, VERDICTS, Column
from convbatch.results.export import csv_lines, write_table
from convbatch.results.parquet import BATCH_CHARS, Rows
from convbatch.results.run import Run, load
from convbatch.system import Disk
from convbatch.tools import ToolCall
from tests.support.made_runs import DRIFT, GOOD, REAL, SEED_REPLY, STARTED_AT, MadeRun, append, dialogue
from tests.support.tables import each

DOCS = Path(__file__).parents[2] / "docs" / "tables.md"
OVERLOADED = Failure(kind="overloaded", message="try later", retryable=True, structured=True)
BROKEN = Failure(kind="timeout", message="no answer in 600 s")


def reply(text: str | None, finish: Any = "stop", **more: Any) -> Reply:
    return SEED_REPLY._replace(text=text, finish_reason=finish, finish_reason_raw=finish.upper(), **more)


def row_of(run: MadeRun, **where: Any) -> dict[str, Any]:
    """Return the only row of the run's table whose cells equal `where`."""
    rows: list[dict[str, Any]] = load(run.write().path).turns.to_dict("records")
    [row] = [row for row in rows if all(row[name] == value for name, value in where.items())]
    return {name: None if _is_null(value) else value for name, value in row.items()}


def _is_null(value: Any) -> bool:
    return not isinstance(value, list) and pd.isna(value)


@pytest.fixture
def made(tmp_path: Path) -> MadeRun:
    return MadeRun(tmp_path / "run", [dialogue("d", "今天是几号")])


def test_the_seed_reply_becomes_a_row_with_its_consistent_token_counts(made: MadeRun) -> None:
    made.replied(made.ident(0, 1), request_id="q-1")
    row = row_of(made)
    counts = [row[f"{name}_tokens"] for name in ("input", "output", "reasoning", "total")]
    assert counts == [22, 192, 178, 214]
    assert (row["usage_source"], row["usage_consistent"], row["finish_reason"]) == ("reported", True, "stop")
    assert (row["status"], row["reply"], row["user"]) == ("ok", "今天是2025年12月27日。", "今天是几号")
    assert (row["attempts"], row["possibly_paid"], row["steps"], row["http_status"]) == (1, 0, 1, 200)
    assert (row["target"], row["model"], row["gateway"]) == (REAL, "gemini-2.5-flash", "google")
    assert (row["response_id"], row["request_id"]) == ("r-1", "q-1")
    assert row["started_at"].timestamp() == STARTED_AT


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(reply("cut", "length"), ("ok", "cut", "length"), id="cut text is ok and length"),
        pytest.param(reply("", "length"), ("empty", "", "length"), id="reasoning used up the limit"),
        pytest.param(reply(None), ("empty", None, "stop"), id="no content at all"),
        pytest.param(
            reply(None, "content_filter", blocked="prompt"), ("blocked", None, "content_filter"), id="blocked"
        ),
        pytest.param(reply("half", "error"), ("error", "half", "error"), id="generation failed"),
    ],
)
def test_a_complete_reply_keeps_its_text_and_finish_reason_in_every_status(
    made: MadeRun, answer: Reply, expected: tuple[str, str | None, str]
) -> None:
    made.replied(made.ident(0, 1), answer)
    row = row_of(made)
    assert (row["status"], row["reply"], row["finish_reason"]) == expected
    assert row["error_kind"] == ("malformed_output" if expected[0] == "error" else None)


def test_unknown_token_counts_are_null_and_a_reported_zero_is_zero(made: MadeRun) -> None:
    usage = Usage(input_tokens=5, cached_input_tokens=0, source="partial")
    made.replied(made.ident(0, 1), reply("x", usage=usage))
    row = row_of(made)
    assert (row["input_tokens"], row["cached_input_tokens"], row["usage_source"]) == (5, 0, "partial")
    assert row["output_tokens"] is row["total_tokens"] is row["usage_consistent"] is None


def test_a_failed_turn_has_an_error_and_neither_reply_nor_finish_reason(made: MadeRun) -> None:
    ident = made.ident(0, 1)
    made.failed(ident, OVERLOADED, 1, cls="refused", http_status=503)
    made.failed(ident, BROKEN, 2, cls="timeout")
    made.turn(ident, "error", reason="timeout: no answer in 600 s")
    row = row_of(made)
    assert (row["status"], row["error_kind"], row["error_message"]) == ("error", "timeout", "no answer in 600 s")
    assert (row["attempts"], row["possibly_paid"], row["limiter_wait_s"]) == (2, 1, 0.5)
    for name in ("reply", "finish_reason", "steps", "usage_source", "http_status", "output_tokens"):
        assert row[name] is None, name


def test_a_row_of_a_suspended_target_is_pending_and_has_its_last_failure(made: MadeRun) -> None:
    made.failed(made.ident(0, 1), Failure(kind="quota", message="balance is used up"), cls="final", http_status=403)
    row = row_of(made)
    assert (row["status"], row["error_kind"], row["error_message"]) == ("pending", "quota", "balance is used up")
    assert (row["http_status"], row["attempts"], row["possibly_paid"]) == (403, 1, 0)


def test_an_unsent_row_is_pending_and_its_results_are_null(made: MadeRun) -> None:
    row = row_of(made)
    assert (row["status"], row["attempts"], row["possibly_paid"], row["tags"]) == ("pending", 0, 0, [])
    for name in ("reply", "latency_s", "limiter_wait_s", "started_at", "error_kind", "error_message", "http_status"):
        assert row[name] is None, name


def test_an_intent_without_outcome_is_possibly_paid_and_pending(made: MadeRun) -> None:
    made.intent(made.ident(0, 1))
    row = row_of(made)
    assert (row["status"], row["attempts"], row["possibly_paid"]) == ("pending", 1, 1)


def test_a_skipped_row_names_the_turn_that_caused_it(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run", [dialogue("d", "one", "two")])
    made.replied(made.ident(0, 1), reply(None, "content_filter", blocked="output"))
    made.turn(made.ident(0, 2), "skipped", reason="turn 1 ended blocked")
    row = row_of(made, turn=2)
    assert (row["status"], row["error_kind"], row["error_message"]) == ("skipped", None, "turn 1 ended blocked")
    assert (row["user"], row["attempts"]) == ("two", 0)


def test_a_reused_row_names_its_run_and_was_not_attempted(made: MadeRun) -> None:
    ident = made.ident(0, 1)
    made.outcome(ident, 0, cls="replied", reply=reply_to_plain(SEED_REPLY), reused_from="run-before")
    made.turn(ident, "ok", reused_from="run-before")
    row = row_of(made)
    assert (row["reused_from"], row["attempts"], row["output_tokens"]) == ("run-before", 0, 192)
    run = load(made.path)
    assert len(run.attempts) == 0
    [total] = run.summary()
    assert (total.reused, total.ok, total.output_tokens, total.p50_latency_s) == (1, 1, None, None)


def test_tool_calls_are_a_json_list(made: MadeRun) -> None:
    calls = (ToolCall(id=None, name="now", arguments={"zone": "上海"}),)
    made.replied(made.ident(0, 1), reply(None, "tool_call", tool_calls=calls))
    row = row_of(made)
    assert row["status"] == "ok"
    assert json.loads(row["tool_calls"]) == [{"id": None, "name": "now", "arguments": {"zone": "上海"}}]


def test_values_that_no_column_can_hold_become_null_or_a_replacement_character(made: MadeRun) -> None:
    calls = (ToolCall(id=None, name="f", arguments=2**70),)
    usage = Usage(input_tokens=2**80, output_tokens=3, source="reported")
    made.replied(made.ident(0, 1), reply("half \ud83d", usage=usage, tool_calls=calls))
    row = row_of(made)
    assert (row["reply"], row["input_tokens"], row["output_tokens"]) == ("half �", None, 3)
    assert json.loads(row["tool_calls"])[0]["arguments"] == 2**70


def test_every_planned_row_occurs_once_and_in_order(tmp_path: Path) -> None:
    context = {"id": "z", "turns": [{"user": "a", "assistant": "b", "ask": False}, {"user": "c"}, {"user": "d"}]}
    made = MadeRun(
        tmp_path / "run",
        [dialogue("y", "one"), Dialogue.from_plain(context), dialogue("x", "three")],
        targets=(GOOD, DRIFT),
        repeats=2,
    )
    made.replied(made.ident(2, 1, GOOD, repeat=2))  # the order of the journal differs from that of the table
    made.replied(made.ident(0, 1, DRIFT))
    turns = load(made.write().path).turns
    keys = list(turns[["dialogue_index", "target", "repeat", "turn"]].itertuples(index=False, name=None))
    assert keys == [
        (index, target, repeat, turn)
        for index, asked in enumerate([(1,), (2, 3), (1,)])
        for target in (DRIFT, GOOD)
        for repeat in (1, 2)
        for turn in asked
    ]
    assert set(turns["gateway"]) == {"simulator"}
    assert list(turns["dialogue"].unique()) == ["y", "z", "x"]


def test_last_history_has_one_row_per_dialogue(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run", [dialogue("d", "one", "two", "three")], history="last")
    assert list(load(made.write().path).turns["turn"]) == [3]


def test_the_frames_have_the_contract_columns_and_dtypes_in_order(made: MadeRun) -> None:
    made.replied(made.ident(0, 1))
    run = load(made.write().path)
    frames = ((TURNS, run.turns), (CONVERSATIONS, run.conversations), (ATTEMPTS, run.attempts))
    for columns, frame in frames:
        assert list(frame.columns) == [column.name for column in columns]
        assert [str(dtype) for dtype in frame.dtypes] == [_pandas(column) for column in columns]


def _pandas(column: Column) -> str:
    return "object" if column.dtype == "list[string]" else column.dtype.replace("timestamp", "datetime64")


def test_a_parquet_copy_reads_back_as_the_same_frame(made: MadeRun, tmp_path: Path) -> None:
    made.replied(made.ident(0, 1))
    run = load(made.write().path)
    write_table(run.turns, tmp_path / "copy.parquet")
    write_table(run.turn_rows(), tmp_path / "rows.parquet")
    plain = pq.read_table(run.turns_path).replace_schema_metadata(None)
    assert pq.read_table(tmp_path / "copy.parquet").replace_schema_metadata(None).equals(plain)
    assert pq.read_table(tmp_path / "rows.parquet").replace_schema_metadata(None).equals(plain)


def test_pandas_reads_the_same_frame_from_its_own_parquet_file_and_from_ours(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run", [dialogue("d", "1", "2", tags=["zh"]), dialogue("e", "1")])
    made.replied(made.ident(0, 1))
    run = load(made.write().path)
    for frame in (run.turns, run.conversations, run.attempts, run.verdicts):
        frame.to_parquet(tmp_path / "own.parquet")
        write_table(frame, tmp_path / "ours.parquet")
        for path in (tmp_path / "own.parquet", tmp_path / "ours.parquet"):
            assert_frame_equal(pd.read_parquet(path), frame)
    assert_frame_equal(pd.read_parquet(run.turns_path), run.turns)
    assert run.turns["tags"].tolist() == [["zh"], ["zh"], []]
    assert run.turns.explode("tags")["tags"].value_counts().to_dict() == {"zh": 2}


def test_the_table_is_rebuilt_when_the_journal_grows(made: MadeRun) -> None:
    folder = made.write()
    assert not is_fresh(folder)
    write_turns(folder)
    assert is_fresh(folder)
    assert load(folder.path).turns["status"].tolist() == ["pending"]
    made.records = []
    made.replied(made.ident(0, 1))
    asyncio.run(append(folder, made.records))
    assert not is_fresh(folder)
    assert load(folder.path).turns["status"].tolist() == ["ok"]
    assert is_fresh(folder)


def test_the_table_is_rebuilt_when_run_json_names_other_targets(made: MadeRun) -> None:
    folder = made.write()
    manifest = folder.read_manifest()
    write_turns(folder)
    folder.write_manifest(replace(manifest, targets=(replace(manifest.targets[0], name="other@g"),)))
    assert not is_fresh(folder)
    assert [total.target for total in load(folder.path).summary()] == ["other@g"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_broken_table_file_is_rebuilt(made: MadeRun, content: bytes) -> None:
    folder = made.write()
    folder.turns.write_bytes(content)
    assert len(load(folder.path).turns) == 1


class FullDisk(Disk):
    def write(self, fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_that_cannot_be_written_is_read_through_a_temporary_table(made: MadeRun) -> None:
    made.replied(made.ident(0, 1))
    folder = RunFolder.open(made.write().path, disk=FullDisk())
    with turns_file(folder) as path:
        assert not path.is_relative_to(folder.path)
        assert pq.read_table(path).column("status").to_pylist() == ["ok"]
    assert not path.exists()
    run = Run(folder)
    assert (run.turns["status"].tolist(), len(run.wide())) == (["ok"], 1)
    assert not folder.turns.exists()


def test_a_full_disk_is_an_error_and_keeps_the_previous_table(made: MadeRun) -> None:
    folder = made.write()
    before = write_turns(folder).read_bytes()
    with pytest.raises(JournalError, match="No space left"):
        write_turns(RunFolder.open(folder.path, disk=FullDisk()))
    assert folder.turns.read_bytes() == before


def test_damaged_places_in_the_journal_are_counted(made: MadeRun) -> None:
    made.replied(made.ident(0, 1))
    folder = made.write()
    [segment] = folder.segments()
    segment.write_bytes(segment.read_bytes().replace("2025年".encode(), "2026年".encode(), 1))
    run = load(folder.path)
    assert run.damaged_places >= 1
    assert run.turns["status"].tolist() == ["pending"]


def test_conversations_sum_known_tokens_and_count_unknown_ones(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run", [dialogue("d", "1", "2", "3", "4", tags=["zh"]), dialogue("e", "1")])
    made.replied(made.ident(0, 1))
    made.replied(made.ident(0, 2), reply("x", usage=Usage(input_tokens=8, source="partial"), response_id=None))
    made.replied(made.ident(0, 3), reply(None, usage=NO_USAGE, response_id="r-3"))
    made.turn(made.ident(0, 4), "skipped", reason="turn 3 ended empty")
    first, second = load(made.write().path).conversations.to_dict("records")
    assert [first[name] for name in ("status", "turns", "ok", "empty", "skipped")] == ["empty", 4, 2, 1, 1]
    assert [first[name] for name in ("input_tokens", "output_tokens", "tokens_unknown")] == [30, 192, 2]
    assert (first["tags"], first["response_ids"], first["latency_s"]) == (["zh"], ["r-1", "r-3"], 1.5)
    assert (second["status"], second["pending"], second["tokens_unknown"]) == ("pending", 1, 0)
    assert _is_null(second["input_tokens"])
    assert _is_null(second["latency_s"])


def test_every_attempt_has_a_row_even_if_its_outcome_was_lost(made: MadeRun) -> None:
    ident = made.ident(0, 1)
    made.failed(ident, replace(OVERLOADED, usage=Usage(input_tokens=7, source="partial")), 1, cls="refused")
    made.intent(ident, 2)
    made.replied(ident, attempt=3)
    frame = load(made.write().path).attempts
    assert frame["attempt"].tolist() == [1, 2, 3]
    assert frame["class"].fillna("lost").tolist() == ["refused", "lost", "replied"]
    assert frame["possibly_paid"].tolist() == [False, True, False]
    assert frame["input_tokens"].tolist() == [7, pd.NA, 22]
    assert frame["error_kind"].fillna("").tolist() == ["overloaded", "", ""]
    assert frame["started_at"].notna().tolist() == [True] * 3


def test_the_wide_table_has_a_column_per_target_in_the_given_order(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run", [dialogue("b", "1", "2"), dialogue("a", "1")], targets=(GOOD, DRIFT), repeats=2)
    for turn in (1, 2):
        made.replied(made.ident(0, turn, GOOD), reply(f"good {turn}"))
    made.replied(made.ident(0, 1, DRIFT, repeat=2), reply("drift"))
    run = load(made.write().path)
    wide = run.wide()
    assert list(wide.columns) == [GOOD, DRIFT]
    assert list(wide.index) == [("b", 1, 1), ("b", 1, 2), ("b", 2, 1), ("b", 2, 2), ("a", 1, 1), ("a", 2, 1)]
    assert wide[GOOD].dropna().to_dict() == {("b", 1, 1): "good 1", ("b", 1, 2): "good 2"}
    assert wide[DRIFT].dropna().to_dict() == {("b", 2, 1): "drift"}
    assert run.wide("output_tokens")[GOOD].dropna().tolist() == [192, 192]
    with pytest.raises(SetupError, match="did you mean 'reply'"):
        run.wide("replies")


def test_the_summary_counts_each_target_and_distinguishes_unknown_from_zero(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run", [dialogue("d", "1", "2"), dialogue("e", "1")], targets=(REAL, GOOD))
    made.replied(made.ident(0, 1))
    made.replied(made.ident(0, 2), reply("x", usage=Usage(input_tokens=8, source="partial")))
    made.failed(made.ident(1, 1), BROKEN, cls="timeout")
    made.turn(made.ident(1, 1), "error")
    real, simulated = load(made.write().path).summary()
    assert (real.target, real.turns, real.ok, real.error, real.pending) == (REAL, 3, 2, 1, 0)
    assert (real.input_tokens, real.output_tokens, real.reasoning_tokens, real.tokens_unknown) == (30, 192, 178, 1)
    assert (real.attempts, real.possibly_paid, real.simulated) == (3, 1, False)
    assert real.p50_latency_s == pytest.approx(0.5, rel=0.005)
    assert (simulated.pending, simulated.input_tokens, simulated.p95_latency_s, simulated.simulated) == (
        3,
        None,
        None,
        True,
    )


def test_percentiles_are_nearest_rank_within_half_a_percent(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run", [dialogue("d", *map(str, range(1, 101)))])
    for turn in range(1, 101):
        made.replied(made.ident(0, turn), latency_s=turn / 7)
    [total] = load(made.write().path).summary()
    assert total.p50_latency_s == pytest.approx(50 / 7, rel=0.005)
    assert total.p95_latency_s == pytest.approx(95 / 7, rel=0.005)


@each("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_csv_escapes_cells_that_a_spreadsheet_would_calculate(start: str) -> None:
    [_, line] = csv_lines(Rows(columns=[Column("reply", "string", "")], rows=iter([(f"{start}1+1",)])))
    assert line.strip('"').startswith(f"'{start}")


def test_csv_leaves_numbers_nulls_and_empty_texts_as_they_are(tmp_path: Path) -> None:
    columns = [Column("number", "Int64", ""), Column("text", "string", ""), Column("other", "string", "")]
    path = tmp_path / "x.csv"
    write_table(Rows(columns=columns, rows=iter([(-5, None, ""), (1, 'a"b', "c\nd")])), path)
    assert path.read_bytes() == '\ufeffnumber,text,other\n-5,,""\n1,"a""b","c\nd"\n'.encode()


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(st.lists(CELLS, min_size=1, max_size=4))
def test_csv_reads_back_as_written_except_for_the_apostrophe(cells: list[str]) -> None:
    columns = [Column("text", "string", "")] * len(cells)
    text = "".join(csv_lines(Rows(columns=columns, rows=iter([tuple(cells)]))))
    [_, back] = csv.reader(io.StringIO(text, newline=""))
    assert [new.removeprefix("'") if new != old else old for new, old in zip(back, cells, strict=True)] == cells


def test_excel_sees_a_byte_order_mark_and_pandas_reads_the_file_back(made: MadeRun, tmp_path: Path) -> None:
    made.replied(made.ident(0, 1))
    run = load(made.write().path)
    write_table(run.turn_rows(), tmp_path / "x.csv")
    back = pd.read_csv(tmp_path / "x.csv")
    assert list(back.columns) == [column.name for column in TURNS]
    assert back.loc[0, ["reply", "output_tokens", "started_at"]].tolist() == [
        "今天是2025年12月27日。",
        192,
        "2026-05-28T20:26:40.250000Z",
    ]


def test_json_has_an_object_per_row_with_nulls_and_lists(made: MadeRun, tmp_path: Path) -> None:
    made.replied(made.ident(0, 1))
    run = load(made.write().path)
    write_table(run.turn_rows(), tmp_path / "x.json")
    write_table(run.turns, tmp_path / "frame.json")
    [row] = json.loads((tmp_path / "x.json").read_bytes())
    assert list(row) == [column.name for column in TURNS]
    assert (row["reply"], row["cost"], row["tags"], row["output_tokens"]) == (SEED_REPLY.text, None, [], 192)
    assert json.loads((tmp_path / "frame.json").read_bytes()) == [row]


def test_an_empty_table_is_an_empty_json_list(tmp_path: Path) -> None:
    write_table(Rows(columns=TURNS, rows=iter(())), tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_bytes()) == []


def test_a_wide_table_is_written_with_its_keys_first(made: MadeRun, tmp_path: Path) -> None:
    made.replied(made.ident(0, 1))
    run = load(made.write().path)
    write_table(run.wide(), tmp_path / "frame.csv")
    write_table(run.wide_rows(), tmp_path / "rows.csv")
    assert (tmp_path / "frame.csv").read_text("utf-8-sig").splitlines()[0] == f"dialogue,repeat,turn,{REAL}"
    assert (tmp_path / "frame.csv").read_bytes() == (tmp_path / "rows.csv").read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [("x.cvs", "known: .csv, .json, .parquet"), ("x", "no ending"), ("absent/x.csv", "No such file")],
)
def test_a_file_that_cannot_be_written_is_refused_with_a_hint(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SetupError, match=re.escape(message)):
        write_table(Rows(columns=TURNS, rows=iter(())), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_the_docs_list_every_column_with_its_dtype_and_meaning_in_order() -> None:
    listed = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| (.+) \|$", DOCS.read_text("utf-8"), re.MULTILINE)
    assert listed == [(*column[:3],) for column in (*TURNS, *CONVERSATIONS, *ATTEMPTS, *VERDICTS)]


@pytest.mark.slow
def test_reading_writing_and_printing_tables_need_neither_pandas_nor_the_engine(made: MadeRun, tmp_path: Path) -> None:
    made.replied(made.ident(0, 1))
    code = (
        "import sys; from pathlib import Path; from convbatch.results import export; from convbatch.cli import show; "
        "from convbatch.results import run as tables, cache;"
        "light = set(sys.modules);"
        "run = tables.load(sys.argv[1]); cache.write_turns(run.folder);"
        "show.print_summary(run.summary(), file=sys.stderr);"
        "[export.write_table(run.turn_rows(), Path(sys.argv[2] + end)) for end in ('.csv', '.json', '.parquet')];"
        "print(*light); print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, str(made.write().path), str(tmp_path / "x")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    imported, used = ({name for name in line.split()} for line in printed.splitlines())
    ours = {
        f"convbatch.{name}"
        for name in (
            "engine.runner",
            "engine.client",
            "engine.transport",
            "engine.limiter",
            "config.gateways",
            "journal.writer",
            "session.session",
        )
    }
    assert (ours | {"pandas", "aiohttp", "pyarrow", "rich"}) & imported == set()
    assert (ours | {"pandas", "aiohttp"}) & used == set()


def _big_run(path: Path, dialogues: int) -> RunFolder:
    made = MadeRun(path, [dialogue("x", "0")])
    folder = made.write()
    [segment] = folder.segments()

    def lines() -> Iterator[bytes]:
        seq = 2
        for index in range(dialogues):
            ident = {"index": index, "dialogue": f"d{index}", "target": REAL, "repeat": 1}
            for turn in (1, 2):
                made.records = []
                made.replied({**ident, "turn": turn, "key": f"{index:024x}{turn:08x}"})
                for record in made.records:
                    yield encode_line(seq, STARTED_AT, record)
                    seq += 1

    with segment.open("ab") as journal:
        journal.writelines(lines())
    with gzip.open(folder.dataset, "wb", compresslevel=1) as copy:
        turns = [{"user": "one " * 10}, {"user": "two " * 10}]
        copy.writelines(orjson.dumps({"id": f"d{index}", "turns": turns}) + b"\n" for index in range(dialogues))
    return folder


@pytest.mark.slow
def test_memory_for_writing_the_table_does_not_grow_with_the_run(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from convbatch.journal import run_folder as folder; "
        "from convbatch.results import cache, run as tables;"
        "run = folder.RunFolder.open(Path(sys.argv[1])); cache.write_turns(run); tables.summarise_run(run);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks: list[int] = []
    for size in (10_000, 40_000):
        folder = _big_run(tmp_path / str(size), size)
        command = [sys.executable, "-c", code, str(folder.path)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * 1024)
    # The index of the archive has a cache of 16 MiB; the additional rows alone would need 90 MiB.
    assert peaks[1] - peaks[0] < 20 * 2**20


@pytest.mark.slow
def test_batches_bound_the_text_in_memory_not_only_the_rows() -> None:
    columns = [Column("reply", "string", "", is_long=True)]

    def batches(count: int) -> Iterator[Any]:
        return Rows(columns=columns, rows=((f"{number:08192}",) for number in range(count))).batches()

    assert [len(batch) for batch in batches(1)] == [1]  # the first call does the imports
    tracemalloc.start()
    count = sum(len(batch) for batch in batches(8_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 8_000
    assert peak < 4 * BATCH_CHARS < count * 8192
