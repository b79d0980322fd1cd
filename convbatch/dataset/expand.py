"""Fill templates from the rows of a table: `{{name}}` in the texts of a dialogue becomes the cell of column `name`.

Plain substitution in one pass: no conditions, no filters, and a value that holds `{{…}}` is not filled again. Texts are
the system text, tags, user and assistant texts, and every text in a check, a scripted call or result, but no keys.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convbatch.checks.builtin import CHECKS
from convbatch.dataset.csv_dialogues import is_table, read_table
from convbatch.dataset.formats.registry import detect, line_id, to_canonical, unknown_format
from convbatch.dataset.jsonl import JsonArray, JsonLines, display_json, encode_json_line, is_one_document
from convbatch.dataset.media_files import media_issues
from convbatch.dataset.reader import Problems, count_of
from convbatch.dataset.schema import issues_of
from convbatch.dataset.selection import MOVED, new_dataset
from convbatch.dialogue import Dialogue
from convbatch.errors import Issue, Place, Problem, did_you_mean

_PLACEHOLDER = re.compile(r"\{\{([^{}\n]+)\}\}")
ROW_ID = "id"
"""The column that names a row in the ids of its dialogues."""

Fill = Callable[[str, str | None], str]
"""Replaces the placeholders of a text; the second argument is the place of the text in its dialogue."""


@dataclass(frozen=True, slots=True)
class Expanded:
    """The number of dialogues written, and notes for the user."""

    dialogues: int
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class Template:
    """A dialogue with placeholders, in the canonical format, with its place."""

    name: str
    path: str
    line: int | None
    plain: Mapping[str, Any]
    used: Mapping[str, Place]
    """The columns that it names, each with the first place."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: its name in ids, its line, and the text of each column."""

    name: str
    line: int | None
    values: Mapping[str, str]


@dataclass(slots=True)
class _Table:
    path: Path
    rows: list[Row] = field(default_factory=list)
    columns: dict[str, None] = field(default_factory=dict)


def expand(template: Path, table: Path, dst: Path) -> Expanded:
    """Write every dialogue of a template file once for each row of a table.

    Args:
        template: Dialogues with `{{name}}` in their texts, in any known format.
        table: CSV with column names in its first row, or one flat JSON object a line.
        dst: `NAME.jsonl` or `NAME.jsonl.gz`; must not exist. Complete or absent.

    Raises:
        InputError: A file has problems, a column is missing, or a filled dialogue is not valid; nothing is written.
        SetupError: `dst` exists or cannot be written.
    """
    problems = Problems()
    with new_dataset(dst) as out:
        templates = list(_templates(template, problems))
        rows = _read_table(table, problems)
        problems.extend(_missing_columns(templates, rows))
        problems.raise_any()
        written = 0
        for plain, place in _filled(templates, rows, problems):
            issues = issues_of(plain)
            if not issues:
                dialogue = Dialogue.from_plain(plain)
                issues = media_issues(dialogue, template.parent) or [
                    dataclasses.replace(issue, hint=MOVED) for issue in media_issues(dialogue, dst.parent)
                ]
                out.write(encode_json_line(dialogue.to_plain()))
                written += 1
            problems.extend(_at_row(issue, place) for issue in issues)
        problems.raise_any()
    return Expanded(written, list(_notes(templates, rows)))


def _templates(path: Path, problems: Problems) -> Iterator[Template]:
    lines = JsonArray(path) if is_one_document(path) else JsonLines(path)
    for line in lines:
        form = None if line.issue else detect(line.value)
        if line.issue or form is None:
            problems.add((line.issue or unknown_format(line.value)).at(str(path), line.number))
            continue
        imported = to_canonical(line.value, form)
        problems.extend(issue.at(str(path), line.number) for issue in imported.issues)
        used: dict[str, Place] = {}

        def note(text: str, where: str | None, used: dict[str, Place] = used, number: int | None = line.number) -> str:
            for name in _names(text):
                used.setdefault(name, Place(path=str(path), line=number, field=where))
            return text

        if not imported.issues:
            _replace_texts(copy.deepcopy(imported.plain), note)
            stem = Path(path.name.removesuffix(".gz")).stem
            named = line_id(line.value, form) or f"{stem}:{line.number}"
            yield Template(named, str(path), line.number, imported.plain, used)


def _read_table(path: Path, problems: Problems) -> _Table:
    table = _Table(path)
    for number, line in enumerate(read_table(path) if is_table(path) or not _is_json(path) else JsonLines(path), 1):
        if line.issue is not None:
            problems.add(line.issue.at(str(path), line.number))
            continue
        values = {key: text for key, value in line.value.items() if (text := _cell(value)) is not None}
        for key, value in line.value.items():
            if isinstance(value, list | dict):
                hint = "a value of a row is text, a number, true or false; write its parts into columns of their own"
                issue = Issue(what=f"column {display_json(key)} is no text", found=display_json(value), hint=hint)
                problems.add(issue.at(str(path), line.number))
        table.columns.update(dict.fromkeys(line.value))
        table.rows.append(Row(values.get(ROW_ID, "").strip() or str(number), line.number, values))
    if not table.rows and not problems:
        problems.add(Issue(what="no row under the column names", hint="one row for each dialogue").at(str(path)))
    return table


def _is_json(path: Path) -> bool:
    try:
        with path.open("rb") as raw:
            head = raw.read(64)
    except (OSError, ValueError):
        return True  # reading it as JSON lines reports the problem
    return (
        path.name.endswith((".jsonl", ".jsonl.gz", ".json")) or head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
    )


def _cell(value: Any) -> str | None:
    if value is None or isinstance(value, list | dict):
        return None
    return value if isinstance(value, str) else json.dumps(value)


def _names(text: str) -> Iterator[str]:
    return (name for found in _PLACEHOLDER.finditer(text) if (name := found[1].strip()))


def fill_text(text: str, values: Mapping[str, str]) -> str:
    """Replace every `{{name}}` by its value; names without a value stay as they are."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1].strip(), found[0]), text)


def _missing_columns(templates: Sequence[Template], table: _Table) -> Iterator[Problem]:
    for template in templates if table.rows else ():
        for name, place in template.used.items():
            if name not in table.columns:
                found = "{{" + name + "}}"
                hint = did_you_mean(name, table.columns)
                yield Problem(
                    what=f"{table.path} has no column {display_json(name)}", place=place, found=found, hint=hint
                )


def _filled(templates: Sequence[Template], table: _Table, problems: Problems) -> Iterator[tuple[dict[str, Any], Place]]:
    """Yield each dialogue with the place of its row; report rows without a value and ids that are used twice."""
    first: dict[str, int | None] = {}
    for template in templates:
        for row in table.rows:
            where = f"in {template.path}:{template.line}"
            place = Place(path=str(table.path), line=row.line, field=where)
            named = f"{template.name}/{row.name}"
            if named in first:
                found, hint = f"first used on line {first[named]}", f'"{ROW_ID}" names a row: each once'
                problems.add(
                    Problem(what=f"id {display_json(named)} is used twice", place=place, found=found, hint=hint)
                )
            first.setdefault(named, row.line)
            missing = [name for name in template.used if name not in row.values]
            for name in missing:
                hint = f"used at {template.used[name]}; write a value, or an empty text"
                problems.add(Problem(what=f"no value for {display_json(name)}", place=place, hint=hint))
            if not missing:
                yield {**_fill(template.plain, row.values), "id": named}, place


def _fill(plain: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    filled = copy.deepcopy(dict(plain))
    _replace_texts(filled, lambda text, _: fill_text(text, values))
    originals = zip(_check_lists(plain), _check_lists(filled), strict=True)
    for before, after in originals:
        for number, (check, done) in enumerate(zip(before, after, strict=True)):
            if isinstance(check, dict):
                after[number] = _typed_arguments(check, done, values)
    return filled


def _check_lists(plain: Mapping[str, Any]) -> Iterator[list[Any]]:
    turns: Any = plain.get("turns")
    owners: tuple[Any, ...] = (plain, *(turns if isinstance(turns, list) else ()))
    for owner in owners:
        if isinstance(owner, dict) and isinstance(owner.get("checks"), list):
            yield owner["checks"]


def _typed_arguments(check: Mapping[str, Any], filled: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """Return a filled check; an argument that must not be text becomes the number or truth value of its cell."""
    result = dict(filled)
    for key, argument in check.items():
        kind = CHECKS.get(key.removeprefix("not_"))
        if key == "weight" or (kind is not None and kind.argument(result[key]) is not None):
            typed = _with_values(argument, values)
            if kind is None or kind.argument(typed) is None:
                result[key] = typed
    return result


def _with_values(argument: Any, values: Mapping[str, str]) -> Any:
    if isinstance(argument, dict):
        return {key: _with_values(value, values) for key, value in argument.items()}
    if isinstance(argument, list):
        return [_with_values(value, values) for value in argument]
    if not isinstance(argument, str):
        return argument
    text = fill_text(argument, values)
    if not _PLACEHOLDER.fullmatch(argument):
        return text
    is_value = _SCALAR.fullmatch(text.strip()) and not _GROUPED.fullmatch(text.strip())
    return json.loads(text) if is_value else text


_GROUPED = re.compile(r"-?[1-9]\d{0,2}\.\d\d0", re.ASCII)
"""A number that may be thousands in another country's spreadsheet; it stays text, which no number is."""
_SCALAR = re.compile(r"-?(0|[1-9]\d{0,17})(\.\d+)?|true|false", re.ASCII)


def _replace_texts(plain: dict[str, Any], fill: Fill) -> None:
    """Apply `fill` to every text of a dialogue in place; values of a wrong type stay for the validation."""
    for key in ("system", "tags", "checks", "tool_results"):
        if key in plain:
            plain[key] = _deep(plain[key], fill, None)
    turns: Any = plain.get("turns")
    turns = turns if isinstance(turns, list) else []
    for number, turn in enumerate(turns, 1):
        if isinstance(turn, dict):
            _replace_in_turn(turn, fill, f"turn {number}")


def _replace_in_turn(turn: dict[str, Any], fill: Fill, where: str) -> None:
    for key in ("assistant", "checks", "tool_calls"):
        if key in turn:
            turn[key] = _deep(turn[key], fill, where)
    user: Any = turn.get("user")
    if isinstance(user, str):
        turn["user"] = fill(user, where)
    parts: list[Any] = user if isinstance(user, list) else []
    for part in parts:
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            part["text"] = fill(part["text"], where)


def _deep(value: Any, fill: Fill, where: str | None) -> Any:
    if isinstance(value, str):
        return fill(value, where)
    if isinstance(value, list):
        return [_deep(item, fill, where) for item in value]
    if isinstance(value, dict):
        return {key: _deep(item, fill, where) for key, item in value.items()}
    return value


def _at_row(issue: Issue, place: Place) -> Problem:
    where = place.field if issue.field is None else f"{place.field}: {issue.field}"
    return (
        issue.at(place.path, place.line)
        if where is None
        else dataclasses.replace(issue, field=where).at(place.path, place.line)
    )


def _notes(templates: Sequence[Template], table: _Table) -> Iterator[str]:
    used = {name for template in templates for name in template.used}
    unused = [name for name in table.columns if name not in used and name != ROW_ID]
    if unused:
        columns = "column is" if len(unused) == 1 else "columns are"
        yield f"note: {table.path}: {len(unused)} {columns} unused: {', '.join(map(display_json, unused))}"
    for template in templates:
        place = f"{template.path}:{template.line}"
        if not template.used:
            yield f"note: {place} has no {{{{name}}}} in its texts: {count_of(len(table.rows), 'equal dialogue')}"
        left = [key for key in ("settings", "tools", "meta") if _has_placeholder(template.plain.get(key))]
        if left:
            yield f"note: {place}: {{{{name}}}} in {', '.join(left)} is not filled: only texts and checks are"


def _has_placeholder(value: Any) -> bool:
    return _PLACEHOLDER.search(json.dumps(value, ensure_ascii=False)) is not None
