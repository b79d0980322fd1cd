"""CSV and XLSX with columns `id, turn, user, assistant, tags …`, one row a turn; or `role, content`, one a message."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from convbatch.dataset.csv_dialogues import ID_COLUMNS, REPLY_COLUMNS, TURN_COLUMNS, USER_COLUMNS, CsvRows
from convbatch.dataset.formats.builder import DatasetFormat, DialogueBuilder
from convbatch.dataset.formats.messages import read_exchange, read_messages
from convbatch.dataset.side_keys import NUMERIC_SETTINGS, SETTING_KEYS

_REFUSED = ("ask", "checks", "settings", "tools")


def _detect(line: Mapping[str, Any]) -> bool:
    return isinstance(line, CsvRows)


def _read(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    rows: list[dict[str, str]] = rest.pop("rows")
    columns = list(rows[0])
    for column in columns:
        if column in _REFUSED and any(row[column].strip() for row in rows):
            hint = "only the canonical format has it: `convbatch convert IN OUT.jsonl`, then add it there"
            builder.issue(f'a column "{column}"', found=[row[column] for row in rows], hint=hint)
    if "system" in columns:
        texts = list(dict.fromkeys(row["system"] for row in rows if row["system"].strip()))
        if len(texts) > 1:
            builder.issue("two system texts in one dialogue", found=texts, hint="the same in each row, or in the first")
        builder.system("".join(texts[:1]))
    if "role" in columns and "content" in columns:
        read_messages([{"role": row["role"], "content": row["content"]} for row in rows], builder)
    else:
        _read_turns(rows, columns, builder)
    _keep(rows, columns, rest, builder)


def _read_turns(rows: Sequence[Mapping[str, str]], columns: Sequence[str], builder: DialogueBuilder) -> None:
    asked = next(column for column in USER_COLUMNS if column in columns)
    replied = next((column for column in REPLY_COLUMNS if column in columns), None)
    for other in USER_COLUMNS:
        texts = [row[other] for row in rows if row.get(other, "").strip() not in ("", row[asked].strip())]
        if other != asked and texts:
            hint = f'write all of a question into the column "{asked}", or give "{other}" another name'
            builder.issue(f'two columns of questions, "{asked}" and "{other}"', found=texts[0], hint=hint)
    counted = next((column for column in TURN_COLUMNS if column in columns), None)
    first = 0 if counted is not None and rows[0][counted].strip() == "0" else 1
    for number, row in enumerate(rows, first):
        read_exchange(row[asked], None if replied is None else row[replied], builder)
        if counted is not None and row[counted].strip().removesuffix(".0") not in ("", str(number)):
            builder.issue(
                f'"{counted}" is not {number}',
                place=builder.place,
                found=row[counted],
                hint="the rows of a dialogue follow each other, with turns from 1 in order",
            )


def _keep(
    rows: Sequence[Mapping[str, str]], columns: Sequence[str], rest: dict[str, Any], builder: DialogueBuilder
) -> None:
    named = next((column for column in columns if column in ID_COLUMNS), "")
    read = (named, *TURN_COLUMNS, *_REFUSED, "system", "role")
    asked = next(column for column in USER_COLUMNS if column in columns)
    replied = next((column for column in REPLY_COLUMNS if column in columns), None)
    for column in columns:
        cells = [row[column].strip() for row in rows]
        if column in read or column in (asked, replied) or not any(cells):
            continue
        if re.fullmatch(r"tags?[\s_.]*\d*", column):
            builder.tag(*dict.fromkeys(tag.strip() for cell in cells for tag in re.split("[;,]", cell)))
        else:
            rest[column] = _number(column, cells[0]) if len(set(cells)) == 1 else cells


def _number(column: str, cell: str) -> str | float:
    """Return the number in a cell of a setting such as `temperature`, which the file has as text."""
    if SETTING_KEYS.get(column) not in NUMERIC_SETTINGS or not re.fullmatch(r"-?\d{1,12}(?:[.,]\d{1,2})?", cell):
        return cell
    return float(cell.replace(",", ".")) if re.search("[.,]", cell) else int(cell)


FORMAT = DatasetFormat(
    name="csv",
    label='CSV or XLSX ("user")',
    markers=("user",),
    id_keys=("id",),
    detect=_detect,
    read=_read,
    rank=5,
)
