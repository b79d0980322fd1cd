"""All dataset formats: which one a line has, its id, and its canonical form.

A format is a module of this package with a row `FORMAT`; adding the module registers it. Recorded replies become
`assistant`, and every user turn is asked. Keys without a canonical equivalent are kept in `meta` and named; anything
that would change the dialogue if it were dropped (`side_keys.py`, tool steps, remote files, two user turns in a row) is
carried or an issue. Whether the
result is a valid dialogue is decided in `schema.py`.
"""

from __future__ import annotations

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


def unknown_format(line: Mapping[str, Any]) -> Issue:
    """Describe a line that no format matches: the nearest format, and how to write the line in one."""
    forms = [form for form in FORMATS.values() if form.name != "csv"]
    markers = [marker for form in forms for marker in form.markers]
    close = next((near for key in line if (near := nearest(key, markers)) is not None), None)
    known = ", ".join(f'"{marker}"' for marker in dict.fromkeys(form.markers[0] for form in forms))
    hint = f"{_way_out(line)}; a dialogue has one of {known}; see docs/dataset.md"
    if close is not None:
        hint = f"did you mean {close!r}? {hint}"
    return Issue(what="no dialogue on this line", found="keys " + ", ".join(map(str, line)) or "{}", hint=hint)


_QUESTIONS = ("question", "query", "q", "user", "text", "input", "problem", "content")
_ANSWERS = ("answer", "response", "reply", "assistant", "output", "solution", "a")


def _way_out(line: Mapping[str, Any]) -> str:
    """Return the jq filter that brings a line into the nearest format, or the shape of a canonical line."""
    names = ""
    if line and all(isinstance(value, dict) for value in line.values()):
        names = "to_entries[] | {id: .key} + .value"
    for key, value in line.items():
        if is_messages(value):
            names = _renamed(key, "messages")
        elif is_pairs(value):
            names = _renamed(key, "history")
        elif isinstance(value, list) and value and all(isinstance(text, str) for text in value):
            names = _renamed(key, "turns")
        else:
            continue
        break
    asked = find_key(line, _QUESTIONS)
    if not names and asked is not None and isinstance(line[asked], str):
        replied = find_key(line, _ANSWERS)
        reply = "" if replied is None else f", assistant: {_path(replied)}"
        names = f"{{turns: [{{user: {_path(asked)}{reply}}}]}}"
    if not names:
        return 'write {"id": "…", "turns": [{"user": "…", "assistant": "…"}]}'
    return f"jq -c '{names}' IN > OUT.jsonl makes dialogues of such lines"


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


def to_canonical(line: Mapping[str, Any], form: DatasetFormat, *, reference: bool = False) -> Imported:
    """Convert one line to the canonical format, without an id when the line has none.

    Args:
        line: The parsed line.
        form: Its format.
        reference: Use MT-Bench `reference` answers as scripted replies; otherwise they stay in `meta`.
    """
    if form.read is None:
        plain = dict(line)
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
