"""Questions about two replies, and what counts as an answer to them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.checks.llm_rubric import UnreadableAnswer
from convbatch.checks.pairwise import are_alike, pair_question, read_choice

TEXT = st.text(st.characters(exclude_categories=[]), max_size=60)


def scene(reply: str, **more: Any) -> dict[str, Any]:
    return {"conversation": [{"user": "hi"}], "reply": reply, **more}


@given(TEXT, TEXT, TEXT)
def test_every_text_stays_inside_its_json_string_and_each_order_has_its_own_id(rubric: str, a: str, b: str) -> None:
    one, other = pair_question(rubric, scene(a), scene(b)), pair_question(rubric, scene(b), scene(a))
    read = json.loads(one.text)
    assert (read["id"], read["rubric"], read["A"]["reply"], read["B"]["reply"]) == (one.id, rubric, a, b)
    assert read["conversation"] == [{"user": "hi"}]
    assert (one.id == other.id) == (a == b)


def test_what_only_one_target_had_stands_with_it() -> None:
    read = json.loads(pair_question("r", scene("x", system="be brief"), scene("y", system="be kind")).text)
    assert "system" not in read
    assert (read["A"]["system"], read["B"]["system"]) == ("be brief", "be kind")


def test_scenes_are_alike_where_the_same_was_said() -> None:
    assert are_alike(scene("x", system="be brief"), scene("x"))
    assert not are_alike(scene("x"), scene("y"))
    assert not are_alike(scene("x"), {**scene("x"), "conversation": [{"user": "hi", "assistant": "z"}]})


ASKED = pair_question("r", scene("x"), scene("y")).id


@pytest.mark.parametrize(
    ("answer", "winner"),
    [
        ('{"id": "%s", "reason": "better", "winner": "A"}', "A"),
        ('```json\n{"winner": " b ", "id": "%s"}\n```', "B"),
        ('I think:\n{"id": "%s", "winner": "Tie"} That is all.', "tie"),
        ('{"winner": "B"} {"id": "%s", "winner": "A"}', "A"),
    ],
)
def test_an_answer_with_the_id_of_its_question_counts(answer: str, winner: str) -> None:
    assert read_choice(answer % ASKED, ASKED).winner == winner


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("A is better", "no JSON object with the id"),
        ('{"id": "000000000000", "winner": "A"}', "no JSON object with the id"),
        ('{"id": "%s", "winner": "both"}', '"winner" is not'),
        ('{"id": "%s"}', '"winner" is not'),
        ('{"id": "%s", "winner": "A", "winner": "B"}', "no JSON object with the id"),
        ('{"id": "%s", "reason": "it says", "winner": "B"}", "winner": "A"}', 'another "winner"'),
    ],
)
def test_any_other_answer_is_no_verdict(answer: str, why: str) -> None:
    with pytest.raises(UnreadableAnswer, match=why):
        read_choice(answer.replace("%s", ASKED), ASKED)


def test_an_answer_that_was_cut_off_says_so() -> None:
    with pytest.raises(UnreadableAnswer, match="cut off"):
        read_choice('{"id": "' + ASKED + '", "reason": "it', ASKED, is_cut=True)
