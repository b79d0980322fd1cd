"""Mutated and hostile input for every reader of external data: datasets, replies, hints, journals, config files.

    python -m tests.support.fuzz --inputs 1000000 --seed 1       all readers in turn; `make fuzz`
    python -m tests.support.fuzz --only journal --seed 1 --replay 4711

Each input depends only on (reader, seed, number), so the command printed on a failure reproduces it. A reader may raise
its documented exceptions; any other exception fails, and so do a broken law and an input that takes seconds. The
functions of `READERS` define the documented exceptions and the laws for accepted input.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import html
import json
import random
import re
import sys
import tempfile
import time
import traceback
import urllib.parse
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from convbatch.config.credentials import read_env_file
from convbatch.config.loader import load_shipped_config, read_config
from convbatch.config.targets import resolve_targets
from convbatch.dataset.jsonl import encode_json_line
from convbatch.dataset.logs.convert import convert_logs, log_form
from convbatch.dataset.logs.registry import LOG_FORMS
from convbatch.dataset.selection import convert, scan
from convbatch.dialogue import Dialogue
from convbatch.errors import ConvbatchError, InputError, Problem, SetupError
from convbatch.journal.index import Archive, Sender
from convbatch.journal.manifest import Manifest
from convbatch.journal.records import JournalScan, decode_line, encode_line, seq_of
from convbatch.journal.run_folder import RunFolder
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.retry_after import duration_s, retry_after_s
from convbatch.protocols.sse import SseEvent, SseParser
from convbatch.protocols.wire import Draft, ErrorInBody, MalformedReply
from convbatch.redaction import Redactor, Secret
from convbatch.reply import (
    USAGE_COUNTS,
    Failure,
    Reply,
    failure_from_plain,
    failure_to_plain,
    reply_from_plain,
    reply_to_plain,
    status_of,
)
from convbatch.reporting.usage_log_reader import read_usage_log
from convbatch.results.run import load
from tests.support.made_runs import MadeRun, dialogue

ROOT = Path(__file__).parents[1]
BODIES = ROOT / "bodies"
SLOWEST_S = 3.0
"""Limit of CPU time for one input. Inputs are some kilobytes: a longer time means superlinear growth."""
CANARY = "sk-Canary/9f3a+Q7&x=w"

# --- mutations of an input -------------------------------------------------------------------------------------------

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**53, 2**63, 10**30, -(10**30), 1e308, 0.1, float("nan"), float("inf"), "", " ", "\0",
    "\ud800", "\udfff\ud800", "\u202e\u2066", "\x1b[2J\x07", "{{7*7}}", "${x}", "{0.__class__}", "=1+1", "../../x",
    "/dev/zero", "NaN", "1e999", "9" * 400, "-5s", "x" * 3000, [], {}, [[]], [None], {"": ""}, {"a": {"b": []}},
)  # fmt: skip
TOKENS: tuple[bytes, ...] = (
    b"\0", b"\n", b"\r", b"\r\n\r\n", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"', b"\\", b"\\ud800", b"\\u0000",
    b"{", b"}", b"[", b"]", b",", b":", b"null", b"NaN", b"-Infinity", b"1e999", b"-", b"9" * 25, b'{"a":' * 300,
    b"[" * 1100, b"data: ", b"data:[DONE]\n\n", b"event: error\n", b":", b'"id":"x","id":"x"', b"=", b"'", b"[[", b"#",
    b"\x1f\x8b", b"\xe2\x80\xa8", b" ", b"\t", b"%", b'"""', b"\x1b[31m",
)  # fmt: skip


def mutated(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Apply one to four changes, each to bytes or, when the text or one of its lines is JSON, to its values."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        change = rng.random()
        if change < 0.5:
            with contextlib.suppress(RecursionError):  # deep enough already
                data = _with_json_mutated(data, rng)
        elif change < 0.95 or not data:
            data = _with_bytes_mutated(data, rng)
        else:
            other = rng.choice(others)
            data = data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]
    return data


def _with_bytes_mutated(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 1, 2, 8, 64, 4096)))
    match rng.randrange(6):
        case 0:
            return data[:at] + data[end:]
        case 1:
            return data[:at] + data[at:end] * rng.choice((2, 2, 3, 50)) + data[end:]
        case 2:
            return data[:at]
        case 3:
            return data[:at] + rng.randbytes(rng.choice((1, 1, 3))) + data[end:]
        case 4 if at < len(data):
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case _:
            return data[:at] + rng.choice(TOKENS) + data[at:]


def _with_json_mutated(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    whole = len(lines) == 1 or rng.random() < 0.2
    number = 0 if whole else rng.randrange(len(lines))
    line = data if whole else lines[number]
    start = line.find(b"{")
    try:
        value = json.loads(line[start:]) if start >= 0 else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return _with_bytes_mutated(data, rng)
    head, lines[number] = line[:start], b""
    new = head + json.dumps(mutated_value(value, rng), ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if whole:
        return new
    lines[number] = new
    return b"\n".join(lines)


def mutated_value(value: Any, rng: random.Random) -> Any:
    """Return the JSON value with one change at a random place."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return _replacement(value, rng)
    if isinstance(value, list):
        return _mutated_list(value, rng)
    copy = dict(value)
    key = rng.choice(list(copy))
    match rng.randrange(8):
        case 0:
            del copy[key]
        case 1:
            copy[rng.choice((key + "s", key.upper(), "", "x", "\ud800", "__proto__"))] = copy.pop(key)
        case _:
            copy[key] = mutated_value(copy[key], rng)
    return copy


def _mutated_list(value: list[Any], rng: random.Random) -> list[Any]:
    at = rng.randrange(len(value))
    match rng.randrange(6):
        case 0:
            return value[:at] + value[at + 1 :]
        case 1:
            return value[: at + 1] + value[at:]
        case 2:
            return [*value[:at], *reversed(value[at:])]
        case _:
            return [*value[:at], mutated_value(value[at], rng), *value[at + 1 :]]


def _replacement(value: Any, rng: random.Random) -> Any:
    match rng.randrange(10):
        case 0:
            return [value]
        case 1:
            return {"x": value}
        case 2:
            for _ in range(rng.choice((3, 255, 260, 900))):
                value = [value]
            return value
        case 3 if isinstance(value, str):
            return value + str(rng.choice(HOSTILE))
        case 4 if isinstance(value, int | float):
            return rng.choice((-value, str(value), value * 10**6 if isinstance(value, int) else -0.0))
        case _:
            return rng.choice(HOSTILE)


# --- readers ---------------------------------------------------------------------------------------------------------


class LawBroken(AssertionError):
    """An accepted input breaks a law of its reader."""


def must(holds: object, law: str) -> None:
    if not holds:
        raise LawBroken(law)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A reader under test: valid seed inputs, and a function that raises when the reader misbehaves."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    read: Callable[[bytes, random.Random, Path], None]


def _bodies(wire: str, ending: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((BODIES / wire).glob(f"*{ending}"))]


def _replies(wire: str) -> Callable[[bytes, random.Random, Path], None]:
    protocol = PROTOCOLS[wire]

    def read(data: bytes, rng: random.Random, folder: Path) -> None:
        del rng, folder
        with contextlib.suppress(MalformedReply, ErrorInBody):
            reply = protocol.parse_response(data)
            must(json.loads(data.decode("utf-8-sig")) != {}, "only JSON is accepted as a reply")
            _sound_reply(reply)
        with contextlib.suppress(MalformedReply):
            must(all(type(name) is str for name in protocol.parse_models(data)), "model names are strings")

    return read


def _sound_reply(reply: Reply) -> None:
    """Check that the journal and the tables can store the reply."""
    must(status_of(reply) in ("ok", "blocked", "empty", "error"), "a reply has a status")
    counts = [getattr(reply.usage, name) for name in USAGE_COUNTS]
    must(
        all(n is None or (type(n) is int and n >= 0) for n in counts),
        f"token counts are non-negative integers or unknown: {counts}",
    )
    record = _through_the_journal({"class": "replied", "reply": reply_to_plain(reply)})
    must(type(reply.text) in (str, type(None)), "the text of a reply is a string or None")
    without_notes = reply._replace(raw_turn=None, history_note=None, finish_note=None)  # they are in `wire_note`
    must(reply_from_plain(record["reply"]) == without_notes, "a reply survives the journal")


_OUTCOME = {"kind": "outcome", "index": 0, "dialogue": "d", "target": "m@g", "repeat": 1, "turn": 1, "attempt": 1}


def _through_the_journal(record: Mapping[str, Any]) -> dict[str, Any]:
    line = encode_line(7, 0.5, {**_OUTCOME, **record})
    must(seq_of(line) == 7 and line.count(b"\n") == 1, "a record is one line with its checksum")
    return decode_line(line)


def _streams(wire: str) -> Callable[[bytes, random.Random, Path], None]:
    protocol = PROTOCOLS[wire]

    def outcome(events: Sequence[SseEvent]) -> Reply | Failure | str:
        draft = Draft()
        try:
            for event in events:
                draft = protocol.parse_event(draft, event)
            return protocol.finish(draft)
        except ErrorInBody as inner:
            return inner.failure
        except MalformedReply as malformed:
            return str(malformed)

    def read(data: bytes, rng: random.Random, folder: Path) -> None:
        del folder
        events = _events(data, len(data) + 1)
        must(_events(data, rng.choice((1, 2, 7, 64))) == events, "chunks do not change events")
        result = outcome(events)
        if isinstance(result, Reply):
            _sound_reply(result)
        elif isinstance(result, Failure):
            _sound_failure(result)

    return read


def _events(data: bytes, size: int) -> list[SseEvent]:
    parser = SseParser()
    events = [event for at in range(0, len(data), size) for event in parser.feed(data[at : at + size])]
    return events + parser.close()


_DATES = (
    "Sat, 21 Nov 2026 23:30:00 GMT",
    "",
    "Sat, 99 Nov 2026",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "0001-01-01T00:00:00+14:00",
)
_HEADERS = (
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
)
_WORDS = (
    "retry", " in ", " after ", "try again", "please wait", "resets", "12.5", "0", "-3", "9" * 13, "1e9", "s", "ms",
    " seconds", "m", " hours", "d", "请", "秒", "分钟", "小时", "后", "等待", "3", ".", ",", " and ", '": "',
    "retryDelay", "Retry-After: ", "\n",
    "６", "²", "\ud800", "1m30s", "2026-11-21T23:31:00Z", "inf", "nan", "1795303805", "1795303805000",
)  # fmt: skip


def _failures(wire: str) -> Callable[[bytes, random.Random, Path], None]:
    protocol = PROTOCOLS[wire]

    def read(data: bytes, rng: random.Random, folder: Path) -> None:
        del folder
        _sound_failure(
            protocol.classify_error(rng.choice((400, 401, 404, 408, 429, 500, 503, 599)), _headers(rng), data)
        )

    return read


def _headers(rng: random.Random) -> dict[str, str]:
    hints = {name: _sentence(rng) for name in _HEADERS if rng.random() < 0.4}
    return {"date": rng.choice(_DATES), "content-type": "application/json", **hints}


def _sentence(rng: random.Random) -> str:
    return "".join(rng.choice(_WORDS) for _ in range(rng.choice((1, 1, 2, 5, 40))))


def _sound_failure(failure: Failure) -> None:
    must(failure.retry_after_s is None or 0 < failure.retry_after_s < 1e300, "a wait is positive and finite, or None")
    must(failure.message, "a failure has a message")
    record = _through_the_journal({"class": "final", "error": failure_to_plain(failure)})
    must(failure_from_plain(record["error"]) == failure, "a failure survives the journal")


def _hints(data: bytes, rng: random.Random, folder: Path) -> None:
    del folder
    text = data.decode("utf-8", "replace") + _sentence(rng) * rng.choice((1, 1, 300))
    for wait in (retry_after_s(_headers(rng), None, text), retry_after_s({"retry-after": text}, [text], "")):
        must(wait is None or 0 < wait < 1e300, f"a wait is positive and finite, or None: {wait}")
    must((duration_s(text) or 0.0) >= 0, "a duration is None or not negative")


def _datasets(data: bytes, rng: random.Random, folder: Path) -> None:
    packed = rng.random() < 0.1
    path = folder / ("d.jsonl.gz" if packed else "d.jsonl")
    if packed:
        data = gzip.compress(data, 1)
        if rng.random() < 0.5:
            data = _with_bytes_mutated(data, rng)
    path.write_bytes(data)
    seen = scan([path])
    items = list(seen)
    dialogues = [item for item in items if isinstance(item, Dialogue)]
    for item in dialogues:
        must(
            Dialogue.from_plain(orjson.loads(encode_json_line(item.to_plain()))) == item,
            "a dialogue survives its canonical form",
        )
        must(item.id and item.turns, "a dialogue has an id and turns")
    if len(dialogues) == len(items) and not packed:
        lines = data.count(b"\n") + (not data.endswith(b"\n"))
        must(len(dialogues) + seen.blank_lines == lines, "each line is a dialogue, blank, or a problem")
    for problem in items:
        must(
            not isinstance(problem, Problem) or (problem.what and len(str(problem)) < 20_000),
            "a problem has a short message",
        )
    if rng.random() < 0.1:
        _converts(path, folder / "new.jsonl", len(items) == len(dialogues) and bool(items))


def _converts(source: Path, target: Path, good: bool) -> None:
    target.unlink(missing_ok=True)
    try:
        written = convert(source, target)
    except InputError:
        must(not target.exists(), "a refused conversion leaves no file")
        must(not good, "a valid dataset can be converted")
    else:
        must(target.read_bytes().count(b"\n") == written, "every dialogue is written as one line")


LOG_SAMPLES = ROOT / "dataset" / "log_samples"
LOG_NAMES = {
    "otel": ("otel_new.jsonl", "otel_otlp_spans.jsonl", "otel_log_records.jsonl", "langfuse_otel.jsonl"),
    "phoenix": ("phoenix_spans.jsonl", "phoenix.jsonl", "phoenix.csv", "phoenix.parquet"),
    "litellm": ("litellm_spend.jsonl.gz", "litellm_payloads.json.gz"),
    "promptfoo": ("promptfoo_results.jsonl", "promptfoo_results.csv", "promptfooconfig.yaml"),
    "inspect-log": ("inspect_tools.eval", "inspect_tools.json.gz"),
    "evalscope": ("evalscope/reviews/gpt-4o-mini/general_qa_example.jsonl",),
}
"""Samples by kind; the fuzzed text of a gzip sample is its content."""


def _log_seeds() -> list[bytes]:
    paths = [LOG_SAMPLES / name for names in LOG_NAMES.values() for name in names]
    texts = [gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in paths]
    # One record: a change then hits what is read of it.
    return texts + [line for text in texts if text.startswith(b"{") for line in text.splitlines()[:2]]


def _logs(data: bytes, rng: random.Random, folder: Path) -> None:
    suffix = {b"PK": ".eval", b"PA": ".parquet", b"de": ".yaml"}.get(data[:2], rng.choice((".jsonl", ".json", ".csv")))
    path, out = folder / f"log{suffix}", folder / "new.jsonl"
    path.write_bytes(data)
    out.unlink(missing_ok=True)
    form = log_form([path], None) or LOG_FORMS[rng.choice(list(LOG_FORMS))]
    try:
        done = convert_logs([path], out, form, redact=rng.random() < 0.3, partial=rng.random() < 0.5)
    except InputError as error:
        must(not out.exists(), "a refused conversion leaves no file")
        must(all(len(str(problem)) < 20_000 for problem in error.problems), "a problem has a short message")
    else:
        seen = list(scan([out]))
        must(all(isinstance(item, Dialogue) for item in seen), f"what is converted is valid: {seen[:1]}")
        must(len(seen) == done.dialogues > 0, "every conversation is written as one line")
    finally:
        path.unlink()


# Run folders


@cache
def _run() -> tuple[tuple[bytes, ...], bytes]:
    """Return the journal lines and the run.json of a valid run."""
    with tempfile.TemporaryDirectory(prefix="convbatch-fuzz-") as scratch:
        checks = [{"contains": "2025"}]
        made = MadeRun(
            path=Path(scratch, "run"),
            dialogues=[dialogue("a", "one", "two", checks=checks), dialogue("b", "three", tags=["t"])],
            checks=2,
        )
        made.replied(made.ident(0, 1))
        made.failed(made.ident(0, 2), Failure(kind="timeout", message="late", retry_after_s=3.5), cls="timeout")
        made.replied(made.ident(0, 2), attempt=2, body='{"candidates": []}')
        made.intent(made.ident(1, 1))
        folder = made.write()
        [segment] = folder.segments()
        return tuple(segment.read_bytes().splitlines(keepends=True)), (folder.path / "run.json").read_bytes()


def _run_folder(folder: Path) -> RunFolder:
    """Open the valid run, made once per scratch folder; each input overwrites its journal and run.json."""
    path = folder / "run"
    if not path.exists():
        dialogues = [dialogue("a", "one", "two", checks=[{"contains": "2025"}]), dialogue("b", "three", tags=["t"])]
        made = MadeRun(path=path, dialogues=dialogues, checks=2)
        made.write()
    (path / "run.json").write_bytes(_run()[1])
    return RunFolder.open(path)


def _journals(data: bytes, rng: random.Random, folder: Path) -> None:
    """Check a journal with mutated bytes: no false lines are read, and missing lines are reported."""
    good = _run()[0]
    run = _run_folder(folder)
    (run.journal / "000001.jsonl").write_bytes(data)
    seen = JournalScan(run.segments())
    try:
        lines = [line.raw for line in seen.lines()]
    except SetupError as error:
        must("of version" in str(error), str(error))
        return
    must(set(lines) <= set(good), "only written lines are read")
    must(lines == sorted(lines, key=good.index), "lines keep their order")
    silent = not seen.damage_count and seen.torn is None
    must(not silent or data == b"".join(good[: len(lines)]), "damage is reported")
    if rng.random() < 0.2 and data:
        _read_everything(run)


def _records(data: bytes, rng: random.Random, folder: Path) -> None:
    """Check a journal with mutated values and valid checksums, as an attacker would write it."""
    run = _run_folder(folder)
    lines: list[bytes] = []
    for number, line in enumerate(data.split(b"\n")):
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                head = b'{"v":1,"seq":%d,' % number
                rest = {key: value for key, value in record.items() if key not in ("v", "seq", "crc")}
                body = head + json.dumps(rest, separators=(",", ":"), ensure_ascii=rng.random() < 0.5)[1:-1].encode(
                    "utf-8", "surrogatepass"
                )
                lines.append(b'%b,"crc":%d}\n' % (body, zlib.crc32(body)))
    (run.journal / "000001.jsonl").write_bytes(b"".join(lines))
    _read_everything(run)


def _metas(data: bytes, rng: random.Random, folder: Path) -> None:
    """Check a mutated `run.json`."""
    del rng
    run = _run_folder(folder)
    (run.journal / "000001.jsonl").write_bytes(b"".join(_run()[0]))
    (run.path / "run.json").write_bytes(data)
    _read_everything(run)


def _read_everything(run: RunFolder) -> None:
    """Read everything in a run folder; only documented errors may be raised."""
    run.turns.unlink(missing_ok=True)
    with contextlib.suppress(ConvbatchError):
        with Archive(run) as archive:
            for transcript in archive.transcripts():
                must(transcript.turns, "a transcript has turns")
            for target in archive.targets:
                archive.has_reply(target)
            archive.server_wait_s(map(Sender, archive.targets), 0.0)
            archive.request_times(map(Sender, archive.targets), 0)
        read = load(run.path)
        rows = list(read.turn_rows().rows)
        is_changed = read.manifest != Manifest.from_json(json.loads(_run()[1]))
        must(is_changed or len(rows) == read.manifest.planned.rows, "one row for each turn")
        list(read.attempt_rows().rows)
        read.summary()


# Files that a user names


def _configs(data: bytes, rng: random.Random, folder: Path) -> None:
    text = data.decode("utf-8", "replace")
    if rng.random() < 0.5:
        text = text.replace('key_env = "', f'key_env = "{CANARY}', 1)
    try:
        config = read_config(text, folder / "convbatch.toml")
        resolve_targets((), (), config)
    except ConvbatchError as error:
        must(CANARY not in "\n".join(map(str, error.problems)), "a literal key is not shown")


def _config_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT.parent / "configs").glob("*.toml"))]


_USAGE_LOG = (
    "id,created_at,type,model_name,quota,prompt_tokens,completion_tokens,request_id\n"
    "1,1780000001,2,gemini-2.5-flash,500,22,192,r-1\n"
    '2,1780000002,2,"gpt-4o, ""mini""",1000,22,,\n'
    "3,2026-11-21 23:30:00,1,x,5,0,0,\n"
)


def _usage_logs(data: bytes, rng: random.Random, folder: Path) -> None:
    path = folder / "usage.csv"
    path.write_bytes(data)
    with contextlib.suppress(ConvbatchError):
        usage_log = read_usage_log(path, load_shipped_config().usage_logs, rng.choice((None, "new-api")))
        counts = [count for line in usage_log.lines for count in (line.input_tokens, line.output_tokens)]
        must(all(count is None or count >= 0 for count in counts), "token counts are not negative, as a refund is")
        must(all(line.model for line in usage_log.lines), "each call has a model")
        must(
            len(usage_log.lines) + usage_log.left_out <= data.count(b"\n") + data.count(b"\r") + 1,
            "there are no more calls than lines",
        )


_ENV = f"# keys\nexport A_KEY={CANARY}\nB_KEY=\"{CANARY}\\n\" # two\nC='{CANARY}'\n\nD = plain # note\n"


def _env_files(data: bytes, rng: random.Random, folder: Path) -> None:
    del rng
    path = folder / ".env"
    path.write_bytes(data)
    try:
        values = read_env_file(path)
    except InputError as error:
        text = "\n".join(map(str, error.problems))
        must(CANARY[3:12] not in text, "no message contains a value")
        must(".env:" in text, "a message names the line")
    else:
        must(all(name.isidentifier() for name in values), "names are identifiers")


_SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    lambda key: json.dumps(key)[1:-1],
    lambda key: json.dumps(json.dumps(key)[1:-1])[1:-1],
    lambda key: key.replace("/", "\\/"),
    lambda key: "".join(f"\\u{ord(char):04x}" for char in key),
    lambda key: urllib.parse.quote(key, safe=""),
    lambda key: "".join(f"%{ord(char):02x}" for char in key),
    urllib.parse.quote_plus,
    html.escape,
    lambda key: "".join(f"&#{ord(char)};" for char in key),
    lambda key: base64.b64encode(key.encode()).decode(),
    lambda key: base64.b64encode(b"Bearer " + key.encode()).decode(),
    lambda key: base64.urlsafe_b64encode(b"u:" + key.encode() + b"!").decode(),
    lambda key: key.encode().hex(),
    lambda key: key.encode().hex().upper(),
)


def _redactors(data: bytes, rng: random.Random, folder: Path) -> None:
    del folder
    letters = "abcXYZ019-_./+=&<\"'\\%?~"
    key = "sk-" + "".join(rng.choice(letters) for _ in range(rng.choice((10, 20, 60))))
    redactor = Redactor([Secret("K", key), Secret("CANARY", CANARY)])
    spelled = rng.choice(_SPELLINGS)(rng.choice((key, CANARY)))
    at = rng.randrange(len(data) + 1)
    if data[at - 1 : at] in (b"\\", b"%", b"&", b"#", b"0", b"u"):
        at = len(data)  # otherwise the preceding byte would change the decoded value
    clean, _ = redactor.body(data[:at] + b" " + spelled.encode() + b" " + data[at:])
    must(spelled.encode() not in clean and b"[redacted:" in clean, f"every spelling is redacted: {spelled}")
    must(redactor.body(clean) == (clean, False), "redacted text does not change again")
    plain, _ = redactor.body(data)
    must(plain == data or b"[redacted:" in plain, "text without a key does not change")


_SENTENCES = (
    "Please retry in 12.5s.",
    "请在 3 秒后重试",
    "Rate limit reached. Try again in 1m30s",
    '"retryDelay": "12s"',
)


def _dataset_seeds() -> list[bytes]:
    lines: list[dict[str, Any]] = [
        {
            "id": "a",
            "turns": [{"user": "hi", "assistant": "ho", "ask": False}, {"user": "go", "checks": [{"contains": "x"}]}],
        },
        {
            "id": "b",
            "system": "s",
            "tags": ["t"],
            "turns": [{"user": "1"}],
            "settings": {"temperature": 0, "stop": ["x"]},
        },
        {
            "id": "c",
            "turns": [{"user": "7"}],
            "checks": [{"json_schema": {"type": "object"}, "weight": 2}],
            "meta": {"k": [1]},
        },
        {
            "turns": [
                {
                    "user": "x",
                    "settings": {"extra": {"a": 1}},
                    "checks": [{"regex": "a+"}, {"number": 3}, {"not_equals": "z"}],
                }
            ]
        },
    ]
    contents = [
        {"role": role, "parts": [{"text": text}]} for role, text in (("user", "a"), ("model", "b"), ("user", "c"))
    ]
    gemini = {"contents": contents, "systemInstruction": {"parts": [{"text": "s"}]}}
    openai = {
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "a"}]}]
    }
    sharegpt = {"id": "s", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    bench = {"question_id": 81, "category": "w", "turns": ["a", "b"], "reference": ["x", "y"]}
    canonical = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    others = [orjson.dumps(value) + b"\n" + orjson.dumps(value) + b"\n" for value in (gemini, openai, sharegpt, bench)]
    shipped_ones = [path.read_bytes()[:4000] for path in sorted((ROOT.parent / "datasets").glob("*.jsonl"))]
    array = json.dumps(lines[:2], indent=1).encode()
    return [canonical, *others, array, *shipped_ones]


def _all_bodies() -> list[bytes]:
    return [body for wire in PROTOCOLS for body in _bodies(wire, "")]


READERS: tuple[Reader, ...] = (
    Reader(name="dataset", seeds=_dataset_seeds, read=_datasets),
    Reader(name="logs", seeds=_log_seeds, read=_logs),
    *(Reader(name=f"reply-{w}", seeds=lambda w=w: _bodies(w, ".json"), read=_replies(w)) for w in PROTOCOLS),
    *(Reader(name=f"stream-{w}", seeds=lambda w=w: _bodies(w, ".sse"), read=_streams(w)) for w in PROTOCOLS),
    *(Reader(name=f"failure-{w}", seeds=_all_bodies, read=_failures(w)) for w in PROTOCOLS),
    Reader(name="hint", seeds=lambda: [text.encode() for text in _SENTENCES], read=_hints),
    Reader(name="journal", seeds=lambda: [b"".join(_run()[0])], read=_journals),
    Reader(name="record", seeds=lambda: [b"".join(_run()[0])], read=_records),
    Reader(name="run-json", seeds=lambda: [_run()[1].replace(b"\n", b" ")], read=_metas),
    Reader(name="config", seeds=_config_seeds, read=_configs),
    Reader(
        name="usage-log",
        seeds=lambda: [_USAGE_LOG.encode(), _USAGE_LOG.replace(",", ";").encode("utf-16")],
        read=_usage_logs,
    ),
    Reader(name="env-file", seeds=lambda: [_ENV.encode()], read=_env_files),
    Reader(name="redactor", seeds=_all_bodies, read=_redactors),
)
WEIGHTS = {"logs": 0.5, "record": 0.25, "run-json": 0.25, "journal": 0.3, "config": 0.5, "redactor": 0.3}
"""Shares of readers whose inputs take much longer than others."""


# --- the loop --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An input that made its reader misbehave."""

    reader: str
    seed: int
    number: int
    what: str
    data: bytes

    def __str__(self) -> str:
        again = f"python -m tests.support.fuzz --only {self.reader} --seed {self.seed} --replay {self.number}"
        return f"{self.what}\n  input: {self.data[:300]!r} ({len(self.data)} bytes)\n  again: {again}"


def attack(reader: Reader, seed: int, number: int, folder: Path, seeds: Sequence[bytes]) -> Finding | None:
    """Run one reader on one input; return a finding when it misbehaves."""
    rng = random.Random(f"{reader.name}:{seed}:{number}")
    data = mutated(rng.choice(seeds), rng, seeds) if rng.random() < 0.97 else rng.randbytes(rng.randrange(200))
    begun = time.process_time()
    try:
        reader.read(data, rng, folder)
    except Exception:  # noqa: BLE001  # any exception is a finding
        what = traceback.format_exc(limit=-6)
        return Finding(reader=reader.name, seed=seed, number=number, what=what, data=data)
    spent = time.process_time() - begun
    if spent > SLOWEST_S:
        what = f"one input took {spent:.1f} s"
        return Finding(reader=reader.name, seed=seed, number=number, what=what, data=data)
    return None


def attacks(readers: Sequence[Reader], inputs: int, seed: int) -> Iterator[tuple[Reader, int, list[Finding]]]:
    """Yield for each reader its number of inputs and its findings, at most five of a kind."""
    shares = [WEIGHTS.get(reader.name, 1.0) for reader in readers]
    for reader, share in zip(readers, shares, strict=True):
        seeds = reader.seeds()
        findings: dict[str, list[Finding]] = {}
        count = max(1, round(inputs * share / sum(shares)))
        with tempfile.TemporaryDirectory(prefix="convbatch-fuzz-") as scratch:
            for number in range(count):
                if (item := attack(reader, seed, number, Path(scratch), seeds)) is not None:
                    same = re.sub(r"[0-9]+", "0", item.what.strip().rpartition("\n")[2])[:60]
                    findings.setdefault(same, []).append(item)
        yield reader, count, [item for many in findings.values() for item in many[:5]]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.fuzz", description=__doc__.split("\n\n", 1)[0] if __doc__ else ""
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="total over all readers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=[reader.name for reader in READERS], action="append")
    parser.add_argument("--replay", type=int, metavar="N", help="only input N of the reader named with --only")
    args = parser.parse_args()
    readers = [reader for reader in READERS if not args.only or reader.name in args.only]
    if args.replay is not None:
        with tempfile.TemporaryDirectory(prefix="convbatch-fuzz-") as scratch:
            item = attack(readers[0], args.seed, args.replay, Path(scratch), readers[0].seeds())
        print(item or "ok")
        return 1 if item else 0
    total = failed = 0
    for reader, count, findings in attacks(readers, args.inputs, args.seed):
        total, failed = total + count, failed + len(findings)
        print(f"{reader.name:16} {count:8,} inputs  {'ok' if not findings else 'FAILED'}", flush=True)
        for item in findings:
            print(item, flush=True)
    print(f"{total:,} inputs, seed {args.seed}: {'all ok' if not failed else 'see above'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
