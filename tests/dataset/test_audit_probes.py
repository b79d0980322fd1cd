"""The shipped probes: what each must have, and that the scripted replies pass their own checks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from convbatch.checks.builtin import CheckRunner
from convbatch.checks.values import CheckInput, parse_check
from convbatch.dataset.selection import load_dialogues
from convbatch.dialogue import Dialogue, Message, Turn, text_part
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.wire import Ask, Endpoint
from tests.conftest import Command
from tests.support.tables import each

FOLDER = Path(__file__).parents[2] / "datasets"
FILES = {"en": "audit.jsonl", "zh": "audit.zh.jsonl"}
PROBES = {language: load_dialogues([FOLDER / name]) for language, name in FILES.items()}
KINDS = ("border", "canary", "fact", "limit", "temperature")
ALL = [*PROBES["en"], *PROBES["zh"]]
HAN = re.compile("[\u4e00-\u9fff]")
ONLY_A_NUMBER = {"en": "Reply with the number only.", "zh": "只写阿拉伯数字，不要单位和说明。"}


class Place(NamedTuple):
    """An asked turn with checks."""

    dialogue: Dialogue
    turn: Turn
    number: int


def checked_turns(dialogue: Dialogue) -> Iterator[Place]:
    return (Place(dialogue, turn, number) for number, turn in enumerate(dialogue.turns, 1) if turn.checks)


def kind_of(dialogue: Dialogue) -> str:
    (kind,) = [tag for tag in dialogue.tags if tag in KINDS]
    return kind


@each("dialogue", ALL)
def test_a_probe_has_one_kind_a_language_a_reason_a_limit_and_checks(dialogue: Dialogue) -> None:
    language = dialogue.id.rpartition("-")[2]

    assert dialogue.id.startswith(kind_of(dialogue))
    assert language in dialogue.tags
    assert len(dialogue.meta["reason"]) > 8
    assert dialogue.settings.max_output_tokens
    assert dialogue.settings.temperature in (0, 1)
    assert dialogue.turns[-1].checks
    assert all(turn.assistant for turn in dialogue.turns)


@each("language", FILES)
def test_there_are_enough_probes_of_each_kind(language: str) -> None:
    kinds = Counter(map(kind_of, PROBES[language]))

    assert kinds["border"] >= 60
    assert sum(kinds.values()) - kinds["border"] >= 40
    assert all(kinds[kind] >= 8 for kind in KINDS)
    assert sum(len(one.turns) > 1 for one in PROBES[language]) >= 20
    assert max(len(one.turns) for one in PROBES[language]) >= 12


def test_both_languages_have_equally_many_probes_of_each_kind_field_and_difficulty() -> None:
    counts = [
        Counter((kind_of(one), *(tag for tag in one.tags if tag not in FILES)) for one in PROBES[language])
        for language in FILES
    ]

    assert counts[0] == counts[1]
    assert {level for _, *tags in counts[0] for level in tags if level in ("easy", "medium", "hard")} == {
        "easy", "medium", "hard"
    }  # fmt: skip


@each("language", FILES)
def test_probes_are_written_in_their_language_and_each_once(language: str) -> None:
    texts = [turn.user_text for one in PROBES[language] for turn in one.turns if turn.ask and "seed" not in one.tags]

    assert len(texts) == len(set(texts))
    assert all(bool(HAN.search(text)) is (language == "zh") for text in texts)
    assert len({one.id for one in ALL}) == len(ALL)


@each("dialogue", [one for one in ALL if "border" in one.tags])
def test_a_border_question_is_one_turn_with_a_number_as_its_answer(dialogue: Dialogue) -> None:
    (turn,) = dialogue.turns
    (check,) = turn.checks

    assert set(check) == {"number"}
    assert re.fullmatch(r"-?\d+(\.\d+)?", turn.assistant or "")
    assert turn.user_text.endswith(ONLY_A_NUMBER[dialogue.id[-2:]])
    assert (turn.assistant or "") not in turn.user_text


def test_no_answer_of_a_border_question_is_asked_for_with_a_wide_tolerance() -> None:
    for dialogue in ALL:
        for check in dialogue.turns[0].checks if "border" in dialogue.tags else ():
            if isinstance(number := check["number"], dict):
                assert 0 < number["tolerance"] <= 0.01 * abs(number["value"])


def passes(check: Any, place: Place, reply: str, finish: str = "stop") -> bool:
    given = CheckInput(
        dialogue=place.dialogue, target="m@g", repeat=1, turn=place.number, user=place.turn.user_text, replies=(reply,),
        status="ok", assistant=place.turn.assistant, finish_reason=finish,
    )  # fmt: skip
    return CheckRunner().verdict(parse_check(check), given).passed is True


@each("place", [place for one in ALL if "limit" not in one.tags for place in checked_turns(one)])
def test_the_scripted_reply_passes_its_checks(place: Place) -> None:
    assert all(passes(check, place, place.turn.assistant or "") for check in place.turn.checks)


UNAWARE = {"en": "I am not sure what you mean by this. There are several ways to see it.", "zh": "我不太清楚您的意思。"}


@each("place", [place for one in ALL if kind_of(one) in ("border", "canary", "fact") for place in checked_turns(one)])
def test_a_reply_without_the_instruction_or_the_fact_fails(place: Place) -> None:
    is_wait = all(key.startswith("not_") for check in place.turn.checks for key in check)

    reply = UNAWARE[place.dialogue.id[-2:]]

    assert is_wait or not all(passes(check, place, reply) for check in place.turn.checks)


@each("dialogue", [one for one in ALL if "limit" in one.tags])
def test_a_limit_is_far_below_what_is_asked_for(dialogue: Dialogue) -> None:
    assert dialogue.turns[0].checks == ({"finish_reason": "length"},)
    assert 16 <= (dialogue.settings.max_output_tokens or 0) <= 80
    assert len(dialogue.turns[0].assistant or "") > 200


@each("dialogue", [one for one in ALL if "fact" in one.tags])
def test_a_fact_is_planted_early_and_not_repeated_where_it_is_asked_for(dialogue: Dialogue) -> None:
    asked = dialogue.turns[-1].user_text
    expected = [check[kind] for check in dialogue.turns[-1].checks for kind in check if not kind.startswith("not_")]

    assert len(dialogue.turns) >= 4
    assert all(str(words) not in asked for words in expected)


@each("wire", PROTOCOLS)
def test_every_wire_carries_every_probe(wire: str) -> None:
    for one in ALL:
        messages = (Message(role="user", parts=(text_part(one.turns[-1].user_text),)),)
        ask = Ask(model="m", messages=messages, system=one.system, settings=one.settings)
        assert PROTOCOLS[wire].build_request(ask, Endpoint(base_url="http://127.0.0.1"))


@pytest.mark.slow
def test_a_model_with_the_scripted_replies_passes_every_probe(convbatch: Command) -> None:
    files = [FOLDER / name for name in FILES.values()]

    ran = convbatch("run", *files, "-m", "sim-good@simulator", "-o", "r", "--fail-under", "1")

    assert ran.code == 0, ran.err
