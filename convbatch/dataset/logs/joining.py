"""Requests to conversations: by session id, else by histories that are the beginning of one another.

Most wires have no state: the last request of a conversation holds the whole of it, and the ones before are dropped as
its beginnings. Requests of one session without a history of their own are put one after the other. Requests are kept
in a temporary database on disk, so that memory does not grow with the log.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from convbatch.dataset.formats.builder import role_of
from convbatch.dataset.logs.call import CALL, LogCall, Message, known
from convbatch.dataset.logs.chat import is_said, plain_json, read_json
from convbatch.dataset.logs.packing import pack

_TRACES_NAMED = 8


@dataclass(slots=True)
class Joined:
    """A conversation of one or several requests."""

    calls: list[dict[str, Any]]
    """The requests as stored, the last one last."""
    messages: list[Message]
    """With the reply of each request where the log has it."""
    file: int
    line: int | None
    part: str | None
    beginnings: list[dict[str, Any]] = field(default_factory=list)
    """Requests that others repeat as their history."""
    tags: list[str] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> dict[str, Any]:
        """The request that holds the conversation, or its end."""
        return self.calls[-1]


class CallStore:
    """All requests of a conversion."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute(
            "CREATE TABLE calls (n INTEGER PRIMARY KEY, file INTEGER, line INTEGER, part TEXT, level INTEGER,"
            " session TEXT, trace TEXT, time REAL, alone INTEGER, begin BLOB, whole BLOB, gone INTEGER DEFAULT 0)"
        )
        self._db.execute("PRAGMA journal_mode = OFF")  # the database ends with the command
        self._db.execute("PRAGMA cache_size = -32768")  # KiB
        # Apart, so that the table of all requests stays small enough to search.
        self._db.execute("CREATE TABLE bodies (n INTEGER PRIMARY KEY, json BLOB)")
        self._db.execute("CREATE TABLE prefixes (digest BLOB, n INTEGER, rest INTEGER)")
        self._db.execute("CREATE TABLE traces (trace TEXT PRIMARY KEY, session TEXT, json BLOB)")
        self._db.execute(
            "CREATE TABLE records (id TEXT, whole BLOB, begin BLOB, PRIMARY KEY (id, whole, begin)) WITHOUT ROWID"
        )
        self._db.execute("BEGIN")
        self.calls = 0
        self.repeated = 0
        """Records that were there before: exporters send again what was not confirmed, and files overlap."""
        self.beginnings = 0
        """Requests that a later one repeats as its history."""

    def close(self) -> None:
        """Delete the database."""
        self._db.close()

    def add(self, file: int, call: LogCall) -> None:
        """Keep a request, unless its record was there before."""
        whole = call.messages if call.reply is None else [*call.messages, call.reply]
        digests = _digests(whole)
        begin = digests[len(call.messages) - 1]
        if call.record is not None:
            kept = (call.record, digests[-1], begin)
            if self._db.execute("INSERT OR IGNORE INTO records VALUES (?, ?, ?)", kept).rowcount == 0:
                self.repeated += 1
                return
        self.calls += 1
        row = (self.calls, file, call.line, call.part, call.level, call.session, call.trace, call.time, call.is_alone)
        self._db.execute(
            "INSERT INTO calls (n, file, line, part, level, session, trace, time, alone, begin, whole)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, begin, digests[-1]),
        )
        packed = pack(_to_plain(call))
        self._db.execute("INSERT INTO bodies VALUES (?, ?)", (self.calls, packed))
        if not call.is_alone:
            # `rest`: how many messages follow in the request, 0 for the whole of it.
            rows = (
                (digest, self.calls, len(call.messages) - at)
                for at, digest in enumerate(digests[: len(call.messages)], 1)
            )
            self._db.executemany("INSERT INTO prefixes VALUES (?, ?, ?)", rows)

    def add_trace(self, trace: str, session: str | None, tags: tuple[str, ...], meta: dict[str, Any]) -> None:
        """Keep what holds for the requests of a trace; of several values the first counts."""
        packed = pack([list(tags), known(**meta)])
        self._db.execute(
            "INSERT INTO traces VALUES (?, ?, ?)"
            " ON CONFLICT (trace) DO UPDATE SET session = COALESCE(session, excluded.session)",
            (trace, session, packed),
        )

    def conversations(self) -> Iterator[Joined]:
        """Yield the conversations in the order of their first request in the log; call once, after the last `add`."""
        self._resolve()
        query = (
            "SELECT c.n, c.session, c.alone FROM calls AS c LEFT JOIN firsts ON firsts.n = c.n"
            " WHERE c.gone = 0 AND (c.session IS NULL OR c.alone OR firsts.n IS NOT NULL) ORDER BY c.n"
        )
        for n, session, alone in self._db.execute(query):
            if session is None or alone:
                yield self._joined([n])
            else:
                yield from self._session(session)

    def _resolve(self) -> None:
        execute = self._db.execute
        execute("CREATE INDEX by_trace ON calls (trace)")
        execute("CREATE INDEX by_digest ON prefixes (digest)")
        execute(
            "UPDATE calls SET session = (SELECT session FROM traces WHERE traces.trace = calls.trace)"
            " WHERE session IS NULL AND trace IS NOT NULL"
        )
        # An agent's span or a trace repeats what the requests inside it say.
        execute(
            "UPDATE calls SET gone = -1 WHERE level > ? AND trace IS NOT NULL AND EXISTS"
            " (SELECT 1 FROM calls AS inner WHERE inner.trace = calls.trace AND inner.level < calls.level)",
            (CALL,),
        )
        # A session of one request says nothing of others: gateways make such ids up for each request.
        execute(
            "CREATE TABLE several AS SELECT session FROM calls WHERE gone = 0 AND NOT alone"
            " GROUP BY session HAVING COUNT(*) > 1"
        )
        execute("CREATE INDEX by_several ON several (session)")
        execute("CREATE INDEX by_session ON calls (session)")
        execute("UPDATE calls SET session = NULL WHERE NOT alone AND session NOT IN (SELECT session FROM several)")
        # In one session a request that begins like a longer one was before it, whatever was replied; of others also
        # the reply must be in the longer one. A request without a reply was repeated by an equal one with a reply.
        whole = (
            "SELECT p.n FROM prefixes AS p CROSS JOIN calls AS o ON o.n = p.n"
            " WHERE p.digest = calls.whole AND p.n != calls.n"
            " AND o.gone = 0 AND o.session IS calls.session"
            " AND (p.rest > 0 OR calls.whole != calls.begin OR o.whole != o.begin) ORDER BY p.n LIMIT 1"
        )
        begin = (
            "SELECT p.n FROM prefixes AS p CROSS JOIN calls AS o ON o.n = p.n"
            " WHERE p.digest = calls.begin AND p.n != calls.n"
            " AND o.gone = 0 AND o.session = calls.session AND p.rest > 0 ORDER BY p.n LIMIT 1"
        )
        execute(f"UPDATE calls SET gone = COALESCE(({whole}), 0) WHERE gone = 0 AND NOT alone")
        execute(f"UPDATE calls SET gone = COALESCE(({begin}), 0) WHERE gone = 0 AND NOT alone AND session IS NOT NULL")
        [self.beginnings] = execute("SELECT COUNT(*) FROM calls WHERE gone > 0").fetchone()
        execute("CREATE INDEX by_holder ON calls (gone)")
        execute("DROP TABLE prefixes")
        execute(
            "CREATE TABLE firsts AS SELECT MIN(n) AS n FROM calls"
            " WHERE gone = 0 AND NOT alone AND session IS NOT NULL GROUP BY session"
        )
        execute("CREATE INDEX by_first ON firsts (n)")

    def _session(self, session: str) -> Iterator[Joined]:
        """Yield the conversations of one session: its requests with a history, and those without one in a row."""
        query = "SELECT n FROM calls WHERE session = ? AND gone = 0 AND NOT alone ORDER BY time IS NULL, time, n"
        row: list[int] = []
        system: str | None = None
        for (n,) in self._db.execute(query, (session,)).fetchall():
            call = self._load(n)
            own = _system(call["messages"])
            if call["has_history"] or _has_history(call["messages"]):
                yield self._joined([n])
                continue
            if row and own is not None and own != system:
                yield self._joined(row)
                row = []
            system = own if own is not None or not row else system
            row.append(n)
        if row:
            yield self._joined(row)

    def _load(self, n: int) -> dict[str, Any]:
        return orjson.loads(self._db.execute("SELECT json FROM bodies WHERE n = ?", (n,)).fetchone()[0])

    def _joined(self, numbers: list[int]) -> Joined:
        marks = ",".join("?" * len(numbers)) if len(numbers) < 500 else ",".join(map(str, numbers))
        values = numbers if len(numbers) < 500 else []
        rows = self._db.execute(
            f"SELECT n, file, line, part, session, trace, json FROM calls JOIN bodies USING (n) WHERE n IN ({marks})",
            values,
        )
        held = {row[0]: row for row in rows.fetchall()}
        calls = [
            orjson.loads(held[n][6]) | {"session": held[n][4] or orjson.loads(held[n][6])["session"]} for n in numbers
        ]
        _, file, line, part, _, _, _ = held[numbers[-1] if len(numbers) == 1 else numbers[0]]
        joined = Joined(calls, _in_a_row(calls), file, line, part)
        traces = {held[n][5]: None for n in numbers}
        for n in numbers:
            for trace, packed in self._beginnings(n):
                traces[trace] = None
                joined.beginnings.append(orjson.loads(packed))
                _carry_checks(joined.beginnings[-1]["messages"], joined.messages)
        traces = [trace for trace in traces if trace]
        self._add_traces(joined, traces)
        return joined

    def _beginnings(self, n: int) -> Iterator[tuple[str | None, bytes]]:
        """Yield trace and content of the requests that a request repeats as its history."""
        open_ones = [n]
        while open_ones:
            rows = self._db.execute(
                "SELECT n, trace, json FROM calls JOIN bodies USING (n) WHERE gone = ? ORDER BY n", (open_ones.pop(),)
            ).fetchall()
            for own, trace, packed in rows:
                open_ones.append(own)
                yield trace, packed

    def _add_traces(self, joined: Joined, traces: list[str]) -> None:
        joined.tags += [f"trace:{trace}" for trace in traces[:_TRACES_NAMED]]
        if len(traces) > _TRACES_NAMED:
            joined.meta["trace_ids"] = traces
        for trace in traces:
            row = self._db.execute("SELECT json FROM traces WHERE trace = ?", (trace,)).fetchone()
            if row is not None:
                tags, meta = orjson.loads(row[0])
                joined.tags += [tag for tag in tags if tag not in joined.tags]
                joined.meta = meta | joined.meta


def _to_plain(call: LogCall) -> dict[str, Any]:
    return {
        "messages": call.messages, "reply": call.reply, "session": call.session, "ident": call.ident, "time": call.time,
        "model": call.model, "tools": call.tools, "settings": call.settings, "tags": list(call.tags), "meta": call.meta,
        "has_history": call.has_history,
    }  # fmt: skip


def _in_a_row(calls: list[dict[str, Any]]) -> list[Message]:
    """Return the messages of requests one after the other, with one system text."""
    messages: list[Message] = []
    for number, call in enumerate(calls):
        own = call["messages"] if number == 0 else [one for one in call["messages"] if role_of(one["role"]) != "system"]
        last = calls[number - 1] if number else None
        if last is not None and last["reply"] is None and _same(last["messages"][-1], own[-1]):
            del messages[-len(own) - 1 :]  # asked again after a failure
        messages += own
        if call["reply"] is not None:
            messages.append(call["reply"])
        elif number < len(calls) - 1:
            messages.append({"role": "assistant", "content": ""})  # a turn without a recorded reply
    return messages


def _carry_checks(beginning: list[Message], messages: list[Message]) -> None:
    """Copy the checks of a request to the same message of the request that repeats it."""
    for at, message in enumerate(beginning):
        if "checks" in message and at < len(messages) and "checks" not in messages[at]:
            messages[at] = {**messages[at], "checks": message["checks"]}


def _same(one: Message, other: Message) -> bool:
    return _said(one) == _said(other)


def _system(messages: list[Message]) -> str | None:
    texts = [plain_json(one.get("content")) for one in messages if role_of(one["role"]) == "system"]
    return "\n".join(texts) if texts else None


def _has_history(messages: list[Message]) -> bool:
    return any(role_of(one["role"]) != "user" for one in messages if role_of(one["role"]) != "system")


def _digests(messages: list[Message]) -> list[bytes]:
    """Return a digest of each beginning of the messages, of the first one first."""
    digests: list[bytes] = []
    state = b""
    for message in messages:
        state = hashlib.blake2b(state + _said(message), digest_size=16).digest()
        digests.append(state)
    return digests


def _said(message: Message) -> bytes:
    """Return what of a message stays the same when it is sent back as history."""
    role = role_of(message["role"]) or message["role"]
    content, blocks = message.get("content"), _blocks(message.get("content"))
    calls = [_called(call) for call in message.get("tool_calls") or ()]
    if blocks:  # calls and thoughts within the content, as Anthropic sends them back; the reply may have them beside it
        calls = calls or [[part.get("name"), part.get("input")] for part in blocks if part.get("type") == "tool_use"]
        content = [part for part in blocks if part.get("type") not in _BESIDE]
    text = "" if calls and not is_said({"content": content}) else _text(content)
    return plain_json([role, text, calls]).encode("utf-8", "surrogatepass")


_BESIDE = ("tool_use", "thinking", "redacted_thinking", "reasoning")


def _blocks(content: Any) -> list[dict[str, Any]]:
    """Return the parts of a content with calls or thoughts in it; none of any other content."""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return []
    return content if any(part.get("type") in _BESIDE for part in content) else []


def _called(call: Any) -> Any:
    function = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(function, dict):
        return function
    return [function.get("name"), read_json(function.get("arguments"))]


def _text(content: Any) -> Any:
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content).strip()
    return content.strip() if isinstance(content, str) else content
