"""Join the reference answers of MT-Bench from a file of their own: `question_id` and `choices` with `turns`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbatch.dataset.jsonl import JsonLine, JsonLines, display_json
from convbatch.dataset.reader import Problems, count_of
from convbatch.dialogue import Dialogue
from convbatch.errors import InputError, Issue, Place, Problem

_SHAPE = '{"question_id": 101, "choices": [{"index": 0, "turns": ["…", "…"]}]}'


@dataclass(frozen=True, slots=True)
class _Answer:
    line: int | None
    turns: tuple[str, ...]


class ReferenceAnswers:
    """The answers of one file by question id, and which of them were joined.

    Raises:
        InputError: The file has problems, such as two answers to one question.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._answers: dict[str, _Answer] = {}
        self._joined: set[str] = set()
        problems = Problems()
        for line in JsonLines(path):
            problems.extend(issue.at(str(path), line.number) for issue in self._read(line))
        problems.raise_any()

    def _read(self, line: JsonLine) -> Iterator[Issue]:
        if line.issue is not None:
            yield line.issue
            return
        named, turns = line.value.get("question_id"), _first_choice(line.value.get("choices"))
        if named is None or turns is None:
            yield Issue(what="no reference answer on this line", found=display_json(line.value), hint=_SHAPE)
        elif str(named) in self._answers:
            hint = f"first on line {self._answers[str(named)].line}: keep the answers of one model"
            yield Issue(what=f"two answers to question {display_json(named)}", found=display_json(named), hint=hint)
        else:
            self._answers[str(named)] = _Answer(line.number, turns)

    def join(self, dialogue: Dialogue) -> Dialogue:
        """Return a dialogue with its answers as scripted replies; unchanged when the file has none for it.

        Raises:
            InputError: More answers than turns.
        """
        answer = self._answers.get(dialogue.id)
        if answer is None:
            return dialogue
        if len(answer.turns) > len(dialogue.turns):
            what = (
                f"{len(answer.turns)} answers to the {count_of(len(dialogue.turns), 'turn')} of question {dialogue.id}"
            )
            place = Place(path=str(self._path), line=answer.line)
            raise InputError(what, place=place, found=display_json(answer.turns), hint="one answer a turn, in order")
        self._joined.add(dialogue.id)
        turns = list(dialogue.turns)
        for number, text in enumerate(answer.turns):
            if text.strip():
                turns[number] = dataclasses.replace(turns[number], assistant=text)
        return dataclasses.replace(dialogue, turns=tuple(turns))

    def problems(self) -> Iterator[Problem]:
        """Yield the answers that belong to no dialogue; call after the last one."""
        for named, answer in self._answers.items():
            if named not in self._joined:
                hint = "the question_id of an answer is that of a question in the file that is converted"
                place = Place(path=str(self._path), line=answer.line)
                yield Problem(what=f"no dialogue has the id {display_json(named)}", place=place, hint=hint)


def _first_choice(choices: Any) -> tuple[str, ...] | None:
    choice = choices[0] if isinstance(choices, list) and choices else None
    turns: Any = choice.get("turns") if isinstance(choice, dict) else None
    if not isinstance(turns, list) or not all(isinstance(text, str) for text in turns):
        return None
    return tuple(turns)
