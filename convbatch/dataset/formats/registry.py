"""All dataset formats: which one a line has, its id, and its canonical form.

A format is a module of this package with a row `FORMAT`; adding the module registers it. Recorded replies become
`assistant`, and every user turn is asked. Keys without a canonical equivalent are kept in `meta` and named; anything
that would change the dialogue if it were dropped (`side_keys.py`, tool steps, remote files, two user turns in a row) is
carried or an issue. Whether the
result is a valid dialogue is decided in `schema.py`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

from convbatch.dataset import formats
from convbatch.dataset.formats.builder import DatasetFormat, DialogueBuilder, Imported, plain_text
from convbatch.dataset.formats.messages import find_key, is_messages, is_pairs
from convbatch.dataset.jsonl import display_json
from convbatch.dataset.side_keys import read_side_keys
from convbatch.errors import Issue, nearest


def _declared() -> Iterator[DatasetFormat]:
    for module in pkgutil.iter_modules(formats.__path__):
        if module.name not in ("builder", "messages", "registry"):
            yield importlib.import_module(f"{formats.__name__}.{module.name}").FORMAT


FORMATS: Mapping[str, DatasetFormat] = {
    form.name: form for form in sorted(_declared(), key=lambda form: (form.rank, form.name))
}
"""All formats by name, in the order in which detection tries them."""


def detect(line: Mapping[str, Any]) -> DatasetFormat | None:
    """Return the format of a line by its keys; None when no format matches."""
    return next((form for form in FORMATS.values() if form.detect(line)), None)


_LOG_KEYS = {
    "resourceSpans", "resourceLogs", "spanId", "span_id", "traceId", "trace_id", "context.span_id", "parent_id",
    "span_kind", "proxy_server_request", "litellm_call_id", "testCase", "evalId", "token_name",
}  # fmt: skip
"""Keys of records that other tools log; `logs/` reads them."""


def unknown_format(line: Mapping[str, Any]) -> Issue:
    """Describe a line that no format matches: the nearest format, and how to write the line in one."""
    forms = [form for form in FORMATS.values() if form.name != "csv"]
    markers = [marker for form in forms for marker in form.markers]
    known = ", ".join(f'"{marker}"' for marker in dict.fromkeys(form.markers[0] for form in forms))
    if _LOG_KEYS & line.keys():
        what, hint = (
            "no dialogue on this line",
            "of a log, `convbatch convert IN OUT.jsonl` makes dialogues: docs/logs.md",
        )
        return Issue(what=what, found="keys " + ", ".join(map(str, line)), hint=hint)
    way_out = _way_out(line)
    hint = f"{way_out or _SHAPE}; a dialogue has one of {known}; see docs/dataset.md"
    close = next((near for key in line if (near := nearest(key, markers)) and _fits(key, near, way_out)), None)
    if close is not None:
        hint = f"did you mean {close!r}? {hint}"
    return Issue(what="no dialogue on this line", found="keys " + ", ".join(map(str, line)) or "{}", hint=hint)


def _fits(key: str, near: str, way_out: str | None) -> bool:
    """Whether a key can be a misspelling; beside a way out only one letter may differ."""
    return way_out is None or difflib.SequenceMatcher(None, key, near).ratio() > 0.88


def keyed_dialogues(line: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the dialogues of an object that has each under its id, as CrossWOZ files do; None for any other object."""
    if not line or detect(line) is not None or not all(isinstance(value, dict) for value in line.values()):
        return None
    forms = [detect(value) for value in line.values()]
    if None in forms or any(key in form.markers for key in line for form in FORMATS.values()):
        return None
    return [{"id": key} | dict(value) for key, value in line.items()]


_QUESTIONS = ("question", "query", "q", "user", "text", "input", "problem", "content")
_ANSWERS = ("answer", "response", "reply", "assistant", "output", "solution")
_USER_LISTS = ("queries", "questions", "inputs", "user_turns", "user_messages", "user_queries", "users")
_BOTH_LISTS = ("data", "dialog", "dialogue", "utterances", "conversation", "conv", "chat", "log", "texts", "sentences")
_ROW_LISTS = ("data", "rows", "instances", "examples", "samples", "records", "items", "requests", "train", "test")
_REPLY_LISTS = ("choices", "completions", "responses", "answers", "outputs", "candidates")
_SHAPE = 'write {"id": "…", "turns": [{"user": "…", "assistant": "…"}]}'


def _way_out(line: Mapping[str, Any]) -> str | None:
    """Return how lines with these keys become dialogues of the nearest format; None if nothing fits."""
    if keyed_dialogues(line) is not None:
        return "`convbatch convert IN OUT.jsonl` reads an object with each dialogue under its id"
    changed = next((change for key, value in line.items() if (change := _change(key, value)) is not None), None)
    asked = find_key(line, _QUESTIONS)
    if changed is None and asked is not None and isinstance(line[asked], str):
        replied = find_key(line, _ANSWERS)
        names = {"prompt": asked} | ({} if replied is None else {"completion": replied})
        renamed = ", ".join(f"{new}: {_path(old)}" for new, old in names.items())
        # Before the other keys, which are kept or refused by name.
        changed = f"{{{renamed}}} + del({', '.join(_path(old) for old in names.values())})"
    return None if changed is None else f"jq -c '{changed}' IN > OUT.jsonl makes dialogues of such lines"


def _change(key: str, value: Any) -> str | None:
    """Return the jq filter for a key that has the turns of a dialogue, or whole dialogues."""
    name, path = key.casefold(), _path(key)
    if name in _REPLY_LISTS:
        return None
    if name in _ROW_LISTS and isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{path}[]" if detect(value[0]) is not None else None
    if is_messages(value):
        return _renamed(key, "messages")
    if is_pairs(value):
        return _renamed(key, "history")
    if isinstance(value, dict):
        return path if detect(value) is not None else None
    if not isinstance(value, list) or not value:
        return None
    if all(isinstance(item, dict) for item in value):
        return f"{path}[]" if detect(value[0]) is not None else None
    if not all(isinstance(text, str) for text in value):
        return None
    if name in _BOTH_LISTS:
        return f".history = [{path} | range(0; length; 2) as $i | {{user: .[$i], bot: .[$i + 1]}}] | del({path})"
    return _renamed(key, "turns") if name in _USER_LISTS else None


def _renamed(key: str, name: str) -> str:
    return f".{name} = {_path(key)} | del({_path(key)})"


def _path(key: str) -> str:
    return f".{key}" if key.isidentifier() and key.isascii() else f".[{display_json(key)}]"


def line_id(line: Mapping[str, Any], form: DatasetFormat) -> str | None:
    """Return the id in a line, as text; None when it has none."""
    if form.read is None:
        named = line.get("id")
        return named if isinstance(named, str) else None
    for key in form.id_keys:
        named = line.get(key)
        if isinstance(named, str | int) and not isinstance(named, bool) and str(named).strip():
            return str(named)
    return None


SCHEMA_KEY = "$schema"
"""A key that names the JSON Schema of a file; nothing reads it."""


def to_canonical(line: Mapping[str, Any], form: DatasetFormat, *, reference: bool = False) -> Imported:
    """Convert one line to the canonical format, without an id when the line has none.

    Args:
        line: The parsed line.
        form: Its format.
        reference: Use MT-Bench `reference` answers as scripted replies; otherwise they stay in `meta`.
    """
    if form.read is None:
        plain = dict(line)
        if isinstance(line.get(SCHEMA_KEY), str):
            del plain[SCHEMA_KEY]  # for editors
        if isinstance(line.get("system"), list | dict) and (text := plain_text(line["system"])) is not None:
            plain["system"] = text
        return Imported(plain)
    builder = DialogueBuilder(reference=reference)
    for key in ("checks", "settings", "tool_results"):
        if key in line:
            builder.issue(
                f'"{key}" in a line of the {form.label} format',
                found={key: line[key]},
                hint="only the canonical format has it: `convbatch convert IN OUT`, then add it there",
            )
    named = line_id(line, form)
    if named is not None:
        builder.plain["id"] = named
    rest = {key: value for key, value in line.items() if key not in form.id_keys or str(value) != named}
    form.read(rest, builder)
    read_side_keys(rest, builder)
    builder.keep(rest)
    return builder.result()
