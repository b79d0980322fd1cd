"""People's labels of judged replies: a CSV, XLSX or JSONL file → labels, or every problem with its `file:line`.

Which verdict a label is about is decided here; how far the two agree is `agreement.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from convbatch.checks.values import NEEDS_A_JUDGE
from convbatch.dataset.csv_dialogues import is_table, read_table
from convbatch.dataset.jsonl import JsonLines, display_json
from convbatch.errors import InputError, Issue, Problem, SetupError, did_you_mean
from convbatch.results.run import Run

COLUMNS = ("dialogue", "target", "repeat", "turn", "check", "label", "rater", "reason")
"""Columns that are read; others are left alone. Only `dialogue` and `label` are always needed."""
_WORDS = {"pass": 1.0, "passed": 1.0, "yes": 1.0, "true": 1.0, "1": 1.0, "1.0": 1.0,
          "fail": 0.0, "failed": 0.0, "no": 0.0, "false": 0.0, "0": 0.0, "0.0": 0.0}  # fmt: skip
_PLACE_WORDS = {"target": "names its target", "repeat": "names its repeat", "turn": "names its turn",
                "check": "names its check"}  # fmt: skip


class ItemKey(NamedTuple):
    """A verdict of a judge."""

    dialogue: str
    target: str
    repeat: int
    turn: int | None
    """None: a check on the whole dialogue."""
    check: str

    def __str__(self) -> str:
        where = "the dialogue" if self.turn is None else f"turn {self.turn}"
        return f"{self.dialogue} {where}, {self.check}, {self.target}, repeat {self.repeat}"


class Verdict(NamedTuple):
    """What the judge said."""

    passed: bool | None
    """None: no verdict."""
    score: float | None
    reason: str
    judge: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What a person said of one item."""

    key: ItemKey
    value: float
    """1 = pass, 0 = fail; or a score from 0 to 1."""
    rater: str
    reason: str
    place: str
    """`file:line`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The labels of a file."""

    labels: Sequence[Label]
    is_score: bool
    """Whether some value is neither pass nor fail."""
    unfilled: int
    """Rows whose label is empty."""


def judged_items(run: Run) -> dict[ItemKey, Verdict]:
    """Return the verdicts on `llm_rubric` checks of a run.

    Raises:
        SetupError: It has none.
    """
    rows = run.verdict_rows()
    at = {column.name: number for number, column in enumerate(rows.columns)}
    items: dict[ItemKey, Verdict] = {}
    for row in rows.rows:
        if row[at["kind"]].removeprefix("not_") == NEEDS_A_JUDGE:
            key = ItemKey(*(row[at[name]] for name in ItemKey._fields))
            items[key] = Verdict(*(row[at[name]] for name in ("passed", "score", "reason", "judge")))
    if not items:
        raise SetupError(
            f"run {run.name} has no {NEEDS_A_JUDGE} check",
            hint="judge-check tells how far a judge agrees with people; other checks need no judge",
        )
    return items


def read_labels(path: Path, items: Mapping[ItemKey, Verdict]) -> Labels:
    """Read the labels of a file.

    Args:
        path: CSV, XLSX or JSON lines with the columns of `COLUMNS`.
        items: The verdicts that can be labelled.

    Raises:
        InputError: With every problem: unknown or ambiguous items, wrong values, an item labelled twice by a rater.
    """
    problems: list[Problem] = []
    labels: list[Label] = []
    seen: dict[tuple[ItemKey, str], str] = {}
    unfilled = 0
    finder = _Finder(items)
    lines = read_table(path) if is_table(path) else JsonLines(path)
    for line in lines:
        if line.issue is not None:
            problems.append(line.issue.at(str(path), line.number))
            continue
        row = {name.strip().lower(): value for name, value in line.value.items()}
        text = _text(row.get("label"))
        if "label" in row and not text:
            unfilled += 1
            continue
        found = _label(row, text, finder)
        if isinstance(found, Issue):
            problems.append(found.at(str(path), line.number))
            continue
        key, value = found
        rater = _text(row.get("rater"))
        place = f"{path}:{line.number}"
        if (key, rater) in seen:
            who = f" by {rater}" if rater else ""
            issue = Issue(
                what=f"labelled twice{who}",
                found=str(key),
                hint=f"it is labelled at {seen[key, rater]} already; several people are told apart by a column rater",
            )
            problems.append(issue.at(str(path), line.number))
            continue
        seen[key, rater] = place
        labels.append(Label(key=key, value=value, rater=rater, reason=_text(row.get("reason")), place=place))
    if problems:
        raise InputError.of(problems)
    if not labels:
        what = f"{path} has no label" + (f": the label is empty in all {unfilled:,} rows" if unfilled else "")
        raise InputError(what, hint="fill the column label with pass or fail, or with scores from 0 to 1")
    return Labels(labels=labels, is_score=any(one.value not in (0.0, 1.0) for one in labels), unfilled=unfilled)


def _label(row: Mapping[str, Any], text: str, finder: _Finder) -> tuple[ItemKey, float] | Issue:
    missing = [name for name in ("dialogue", "label") if name not in row]
    if missing:
        hint = f"the columns are {', '.join(COLUMNS)}; `convbatch judge-check RUN --template FILE.csv` makes them"
        return Issue(what=f"no column {missing[0]}", found=display_json(list(row)), hint=hint)
    key = finder.find(row)
    if isinstance(key, Issue):
        return key
    value = _WORDS.get(text.lower())
    if value is None:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
    if not 0 <= value <= 1:
        hint = "pass or fail, yes or no, 1 or 0, or a score from 0 to 1"
        return Issue(what="this is no label", field="label", found=display_json(text), hint=hint)
    return key, value


class _Finder:
    """Finds the item of a row; a column may be left out where only one value is possible."""

    def __init__(self, items: Mapping[ItemKey, Verdict]) -> None:
        self._by_dialogue: dict[str, list[ItemKey]] = {}
        for key in items:
            self._by_dialogue.setdefault(key.dialogue, []).append(key)

    def find(self, row: Mapping[str, Any]) -> ItemKey | Issue:
        name = _text(row["dialogue"])
        spellings = _spellings(row["dialogue"])
        found = next((self._by_dialogue[text] for text in spellings if text in self._by_dialogue), None)
        if found is None:
            hint = did_you_mean(name, list(self._by_dialogue))
            return Issue(what="no judged dialogue of this run", field="dialogue", found=display_json(name), hint=hint)
        for column in ("target", "repeat", "turn", "check"):
            wanted = _text(row.get(column))
            values = list(dict.fromkeys(_key_text(key, column) for key in found))
            if wanted and column in ("turn", "repeat"):
                wanted = wanted.removesuffix(".0")  # a spreadsheet's number
            if column == "turn" and wanted.lower() == "dialogue":
                wanted = "dialogue"
            if not wanted and len(values) == 1:
                continue
            if not wanted:
                hint = f"a row of this dialogue {_PLACE_WORDS[column]}: {', '.join(values)}"
                return Issue(what=f"more than one {column}", field=column, hint=hint)
            spelled = (wanted, *_spellings(row.get(column)))
            rest = [key for key in found if _key_text(key, column) in spelled]
            if not rest:
                return Issue(
                    what=f"nothing was judged at this {column}",
                    field=column,
                    found=display_json(wanted),
                    hint=did_you_mean(wanted, values),
                )
            found = rest
        if len(found) > 1:  # two checks of one name in one place
            return Issue(what="two checks of one name", found=str(found[0]), hint="name the checks in the dataset")
        return found[0]


def _key_text(key: ItemKey, column: str) -> str:
    value = getattr(key, column)
    return "dialogue" if value is None else str(value)


def _spellings(value: Any) -> tuple[str, ...]:
    """Return what a cell may name: as it is, without spaces around it, without the mark of a spreadsheet's text."""
    text = _text(value)
    return ("" if value is None else str(value), text, text.removeprefix("'"), str(value).removeprefix("'"))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value).strip()


# --- a template to fill in -------------------------------------------------------------------------------------------

TEMPLATE_COLUMNS = (*ItemKey._fields, "rubric", "conversation", "label", "rater", "reason")


def template_rows(run: Run, items: Mapping[ItemKey, Verdict], size: int, seed: int) -> list[dict[str, Any]]:
    """Return rows to label, drawn at random from what has a verdict, in random order and without the verdict.

    Args:
        run: A judged run.
        items: Its verdicts.
        size: At most so many rows.
        seed: Of the draw.
    """
    import random

    known = sorted((key for key, one in items.items() if one.passed is not None), key=str)
    if not known:
        raise SetupError(
            f"no check of run {run.name} has a verdict of a judge", hint="`convbatch check RUN --judge MODEL@GATEWAY`"
        )
    chosen = random.Random(seed).sample(known, min(size, len(known)))  # a sample, no secret
    rubrics = dict(_rubrics(run))
    texts = _conversations(run, {(key.dialogue, key.target, key.repeat) for key in chosen})
    return [
        {
            **key._asdict(),
            "turn": "dialogue" if key.turn is None else str(key.turn),  # one type a column
            "rubric": rubrics.get((key.dialogue, key.turn, key.check), ""),
            "conversation": "\n".join(
                text
                for number, text in texts.get((key.dialogue, key.target, key.repeat), ())
                if key.turn is None or number <= key.turn
            ),
            "label": "",
            "rater": "",
            "reason": "",
        }
        for key in chosen
    ]


def _rubrics(run: Run) -> Iterator[tuple[tuple[str, int | None, str], str]]:
    from convbatch.results.conversations import dialogues_with_checks

    for _, _, dialogue in dialogues_with_checks(run.folder):
        places = [(None, dialogue.checks), *((n, turn.checks) for n, turn in enumerate(dialogue.turns, 1))]
        for number, checks in places:
            for one in checks:
                for kind in (NEEDS_A_JUDGE, f"not_{NEEDS_A_JUDGE}"):
                    if kind in one:
                        is_not = "NOT: " if kind.startswith("not_") else ""
                        yield (dialogue.id, number, str(one.get("name", kind))), f"{is_not}{one[kind]}"


def _conversations(run: Run, wanted: set[tuple[str, str, int]]) -> dict[tuple[str, str, int], list[tuple[int, str]]]:
    from convbatch.results.parquet import read_rows

    found: dict[tuple[str, str, int], list[tuple[int, str]]] = {}
    for dialogue, target, repeat, turn, user, reply in read_rows(
        run.turns_path, ("dialogue", "target", "repeat", "turn", "user", "reply")
    ):
        if (dialogue, target, repeat) in wanted:
            text = f"[{turn}] user: {user or ''}\n[{turn}] reply: {reply or ''}"
            found.setdefault((dialogue, target, repeat), []).append((turn, text))
    return found
