"""Convert logs to the canonical format: read, put together, check, write."""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from convbatch.dataset.formats import openai
from convbatch.dataset.formats.builder import DialogueBuilder, Imported, role_of
from convbatch.dataset.jsonl import RefusedValue, decompressed, encode_json_line, open_regular
from convbatch.dataset.logs.call import LogCall, known
from convbatch.dataset.logs.entries import READ_ERRORS, LogFile, open_log
from convbatch.dataset.logs.joining import CallStore, Joined
from convbatch.dataset.logs.registry import LOG_FORMS, LogForm, detect
from convbatch.dataset.media_files import media_issues
from convbatch.dataset.reader import Problems, count_of
from convbatch.dataset.recorded_calls import google_schema, is_google_schema, read_calls, read_declarations
from convbatch.dataset.selection import new_dataset
from convbatch.dataset.strike_out import StrikeOut
from convbatch.dialogue import Dialogue
from convbatch.errors import InputError, Issue, Place, Problem, SetupError

_PEEKED = 5
"""Records that are looked at to find out which log a file is: the first may be broken."""


_YAML_PEEKED = 2**20


class Converted(NamedTuple):
    """The result of a conversion."""

    dialogues: int
    problems: Problems
    """Empty, unless the dialogues without problems were asked for."""


def log_form(paths: Sequence[Path], name: str | None) -> LogForm | None:
    """Return the kind of log that files are; None if none of them is any, so that they may be datasets.

    Raises:
        InputError: Several files are of different kinds.
        SetupError: YAML, without the library that reads it.
    """
    if name is not None:
        return LOG_FORMS.get(name)
    found = [(path, _form_of(path)) for path in paths]
    forms = dict.fromkeys(form for _, form in found)
    if len(forms) < 2:
        return found[0][1] if found else None
    first_path, first = found[0]
    problems = [
        Problem(
            what=f"this file is {_told(form)}, {first_path} is {_told(first)}",
            place=Place(path=str(path)),
            hint="convert each kind by itself",
        )
        for path, form in found
        if form is not first
    ]
    raise InputError.of(problems)


def _told(form: LogForm | None) -> str:
    return "no log" if form is None else f"a{'n' * (form.label[0] in 'aeo')} {form.label}"


def _form_of(path: Path) -> LogForm | None:
    try:
        file = open_log(path)
    except RefusedValue:
        return None  # the reader of datasets reports it
    if file.holder == "zip":
        return None if path.suffix.lower() == ".xlsx" else LOG_FORMS["inspect-log"]
    if file.holder == "yaml" and not _has_prompts(path):
        return None
    for entry in itertools.islice(file.entries(), _PEEKED):
        if entry.issue is None:
            return detect(entry.value)
    return None


def _has_prompts(path: Path) -> bool:
    """Whether a YAML file may be promptfoo's, seen without the library that reads it."""
    try:
        with open_regular(path) as raw, decompressed(raw) as text:
            return re.search(rb"(?m)^(\"?prompts\"?|evalId):", text.read(_YAML_PEEKED)) is not None
    except (RefusedValue, *READ_ERRORS):
        return False


class _FileCollector:
    """Takes what a reader finds in one file."""

    def __init__(self, number: int, path: Path, log: _Log) -> None:
        self._number = number
        self._path = str(path)
        self._log = log

    def call(self, call: LogCall) -> None:
        self._log.store.add(self._number, call)

    def trace(self, trace: str, *, session: str | None, tags: tuple[str, ...] = (), **meta: Any) -> None:
        self._log.store.add_trace(trace, session, tags, meta)

    def problem(self, issue: Issue, line: int | None = None, part: str | None = None) -> None:
        field = " ".join(piece for piece in (part, issue.field) if piece) or None
        place = Place(path=self._path, line=issue.line if line is None else line, field=field)
        self._log.report(Problem(what=issue.what, place=place, found=issue.found, hint=issue.hint))

    def without_content(self, hint: str) -> None:
        self._log.without_content[hint] += 1

    def other(self, what: str) -> None:
        self._log.others[what] += 1


class _Log:
    """What all files of a conversion hold."""

    def __init__(self, paths: Sequence[Path], *, redact: bool) -> None:
        self.paths = paths
        self.store = CallStore()
        self.problems = Problems()
        self.without_content: Counter[str] = Counter()
        self.others: Counter[str] = Counter()
        self.redact = redact

    def report(self, problem: Problem) -> None:
        """Keep a problem; without secrets, if they are struck out."""
        self.problems.add(StrikeOut().problem(problem) if self.redact else problem)

    def collectors(self) -> Iterator[tuple[LogFile, _FileCollector]]:
        """Yield each file that can be opened, with its collector."""
        seen: list[Path] = []
        for number, path in enumerate(self.paths):
            collector = _FileCollector(number, path, self)
            try:
                file = open_log(path)
                twice = next((other for other in seen if path.samefile(other)), None)
            except RefusedValue as refusal:
                collector.problem(refusal.issue)
                continue
            if twice is not None:
                collector.problem(
                    Issue(what="the same file is given twice", found=f"also as {twice}", hint="name each file once")
                )
                continue
            seen.append(path)
            yield file, collector

    def place(self, joined: Joined, field: str | None) -> Place:
        """Return where a conversation is."""
        part = " ".join(piece for piece in (joined.part, field) if piece)
        return Place(path=str(self.paths[joined.file]), line=joined.line, field=part or None)


def convert_logs(
    paths: Sequence[Path],
    dst: Path,
    form: LogForm,
    *,
    redact: bool = False,
    partial: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> Converted:
    """Write the conversations in logs in the canonical format.

    Args:
        paths: Files of one kind.
        dst: `NAME.jsonl` or `NAME.jsonl.gz`; must not exist. Complete or absent.
        form: The kind of log.
        redact: Strike out secrets and personal data.
        partial: Write what has no problem, instead of nothing.
        on_note: Receives notes on what was left out, also before an error.

    Raises:
        InputError: The files have problems, or no conversation.
        SetupError: `dst` exists or cannot be written, or a library is missing.
    """
    try:
        return _convert(_Log(paths, redact=redact), dst, form, partial=partial, on_note=on_note)
    except sqlite3.Error as error:
        hint = (
            "a log is kept there while it is read: free some space in /var/tmp, or set SQLITE_TMPDIR to another folder"
        )
        raise SetupError(f"cannot write a temporary file: {error}", hint=hint) from None


def _convert(log: _Log, dst: Path, form: LogForm, *, partial: bool, on_note: Callable[[str], None] | None) -> Converted:
    with closing(log.store), new_dataset(dst) as out, closing(sqlite3.connect("", isolation_level=None)) as names:
        names.execute("CREATE TABLE ids (id TEXT PRIMARY KEY, next INTEGER)")
        form.read(log.collectors())
        written = 0
        left_out: dict[str, None] = {}
        struck: Counter[str] = Counter()
        for joined in log.store.conversations():
            plain = _plain(joined, form, log, dst.parent, left_out)
            if plain is None:
                continue
            if log.redact:
                strike = StrikeOut()
                plain = strike.value(plain)
                struck.update(strike.counts)
            plain["id"] = _unique(names, plain["id"])
            out.write(encode_json_line(Dialogue.from_plain(plain).to_plain()))
            written += 1
        for note in _notes(log, form, written, left_out, struck if log.redact else None):
            if on_note is not None:
                on_note(note)
        if not written and not log.problems:
            hint = next(iter(log.without_content), f"is it a {form.label}? see docs/logs.md")
            found = ", ".join(f"{count} {what}" for what, count in log.others.items()) or None
            log.report(
                Problem(what="no conversation in the log", place=Place(path=str(log.paths[0])), found=found, hint=hint)
            )
        if not (partial and written):
            if written and log.problems:
                hint = "--partial writes them and leaves out the rest"
                log.report(Problem(what=f"{count_of(written, 'conversation')} without a problem", hint=hint))
            log.problems.raise_any()
    return Converted(written, log.problems)


def _notes(
    log: _Log, form: LogForm, written: int, left_out: dict[str, None], struck: Counter[str] | None
) -> Iterator[str]:
    if log.store.beginnings:
        read = count_of(log.store.calls, "request")
        yield f"note: {read} read, {log.store.beginnings} of them the beginning of longer ones"
    if log.store.repeated:
        yield f"note: {count_of(log.store.repeated, 'record')} that the log has twice left out"
    for hint, count in log.without_content.items() if written or log.problems else ():
        yield f"note: {count_of(count, 'record')} without messages left out; {hint}"
    for what, count in log.others.items():
        yield f"note: left out: {what} ({count:,})"
    if left_out:
        yield f"note: left out or not known: {', '.join(itertools.islice(left_out, 12))}"
    if struck is not None:
        told = ", ".join(f"{count_of(count, kind)}" for kind, count in sorted(struck.items())) or "nothing"
        yield f"note: struck out: {told}; names and addresses are not looked for"


def _unique(names: sqlite3.Connection, name: str) -> str:
    """Return an id that no dialogue before has: the name, or the name with a number."""
    chosen = name
    while names.execute("INSERT OR IGNORE INTO ids VALUES (?, 2)", (chosen,)).rowcount == 0:
        [number] = names.execute("UPDATE ids SET next = next + 1 WHERE id = ? RETURNING next - 1", (name,)).fetchone()
        chosen = f"{name}/{number}"
    return chosen


# One conversation


def _plain(joined: Joined, form: LogForm, log: _Log, folder: Path, left_out: dict[str, None]) -> dict[str, Any] | None:
    """Return a conversation in the canonical format; report what prevents it."""
    imported = _imported(joined, left_out)
    issues = imported.issues or _issues_of(imported.plain)
    for issue in issues:
        log.report(Problem(what=issue.what, place=log.place(joined, issue.field), found=issue.found, hint=issue.hint))
    if issues:
        return None
    left_out.update(dict.fromkeys(imported.left_out))
    plain = imported.plain
    plain["id"] = (
        joined.calls[0]["session"]
        or joined.last["ident"]
        or f"{log.paths[joined.file].stem}:{joined.line or joined.part or 1}"
    )
    calls = [*joined.beginnings, *joined.calls]
    models = dict.fromkeys(call["model"] for call in calls if call["model"])
    told = (tag for call in calls for tag in call["tags"])
    tags = [f"source:{form.name}", *(f"model:{model}" for model in models), *told, *joined.tags]
    plain["tags"] = list(dict.fromkeys(tag for tag in tags if tag.strip()))
    meta = {key: value for call in reversed(joined.calls) for key, value in call["meta"].items()} | joined.meta
    starts = [call["time"] for call in calls if call["time"] is not None]
    recorded = known(session_id=joined.calls[0]["session"], started_at=_iso(min(starts)) if starts else None, **meta)
    plain["meta"] = plain.get("meta", {}) | ({"log": recorded} if recorded else {})
    if not plain["meta"]:
        del plain["meta"]
    dialogue = Dialogue.from_plain(plain)
    missing = media_issues(dialogue, folder)
    for issue in missing:
        log.report(Problem(what=issue.what, place=log.place(joined, issue.field), found=issue.found, hint=issue.hint))
    return None if missing else plain


def _iso(seconds: float) -> str | None:
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


def _imported(joined: Joined, left_out: dict[str, None]) -> Imported:
    builder = DialogueBuilder()
    body: dict[str, Any] = {"messages": _one_system(joined.messages), **_settings(joined)}
    tools = joined.last["tools"]
    declared: set[str] = set()
    if tools:
        read = read_declarations(tools)
        if isinstance(read, Issue):
            joined.meta["tools"] = tools  # of the provider's own: nothing here can answer them
        else:
            body["tools"] = tools
            if any(is_google_schema(tool.get("parameters")) for tool in read.tools):  # of Google's SDK
                body["tools"] = [{**tool, "parameters": google_schema(tool.get("parameters"))} for tool in read.tools]
            declared = {tool["name"] for tool in read.tools}
    if called := [name for name in _called(joined.messages) if name not in declared]:
        # All that is known of them; a call is replayed only of a declared tool.
        builder.declare([{"name": name} for name in called])
        left_out[f"parameters of the tools {', '.join(called)}, which the log does not declare"] = None
    openai.read(body, builder)
    return builder.result()


def _called(messages: list[dict[str, Any]]) -> dict[str, None]:
    """Return the names of the tools that were called and answered."""
    calls = (read_calls(message["tool_calls"]) for message in messages if message.get("tool_calls"))
    named = {call["name"]: None for found in calls if not isinstance(found, Issue) for call in found}
    blocks = (part for message in messages for part in _parts(message, "tool_use"))
    named |= {part["name"]: None for part in blocks if isinstance(part.get("name"), str)}
    return named if any(message["role"] == "tool" or _has_results(message) for message in messages) else {}


def _has_results(message: dict[str, Any]) -> bool:
    return bool(_parts(message, "tool_result"))


def _parts(message: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return [part for part in parts if isinstance(part, dict) and part.get("type") == kind]


def _settings(joined: Joined) -> dict[str, Any]:
    """Return the settings in which all requests agree."""
    first, *others = [call["settings"] for call in joined.calls]
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _one_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join the system texts at the start, as providers do."""
    head = list(itertools.takewhile(lambda message: role_of(message["role"]) == "system", messages))
    texts = [message.get("content") for message in head]
    if len(head) < 2 or not all(isinstance(text, str) for text in texts):
        return messages
    return [{"role": "system", "content": "\n\n".join(map(str, texts))}, *messages[len(head) :]]


def _issues_of(plain: dict[str, Any]) -> list[Issue]:
    from convbatch.dataset.schema import issues_of  # imports pydantic, which is slow

    return issues_of(plain)
