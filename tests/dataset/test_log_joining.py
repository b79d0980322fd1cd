"""Requests to conversations: laws, and the cases in which requests belong together or not."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.dataset.logs.call import LogCall, Message, unix_time
from convbatch.dataset.logs.joining import CallStore, Joined
from tests.support.tables import each


def said(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def call(*texts: str, reply: str | None = None, system: str | None = None, **keys: Any) -> LogCall:
    head = [] if system is None else [said("system", system)]
    messages = [*head, *(said(("user", "assistant")[at % 2], text) for at, text in enumerate(texts))]
    return LogCall(messages=messages, reply=None if reply is None else said("assistant", reply), **keys)


def joined(*calls: LogCall) -> list[Joined]:
    store = CallStore()
    for one in calls:
        store.add(0, one)
    found = list(store.conversations())
    store.close()
    return found


def texts(*calls: LogCall) -> list[list[str]]:
    return [[message["content"] for message in one.messages] for one in joined(*calls)]


WORDS = st.sampled_from(["Hi", "go on", "天", "1", "Two?"])
TALKS = st.lists(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(TALKS, st.randoms(use_true_random=False), st.sampled_from(["session", "history", "turns"]))
def test_requests_in_any_order_give_the_conversations_they_were_made_of(
    talks: list[list[tuple[str, str]]], rng: Any, how: str
) -> None:
    """Each talk begins with a text of its own, as two talks that are equal so far cannot be told apart by history."""
    talks = [[(f"talk {number}: {talk[0][0]}", talk[0][1]), *talk[1:]] for number, talk in enumerate(talks)]
    calls: list[LogCall] = []
    for number, talk in enumerate(talks):
        for turn, (question, reply) in enumerate(talk):
            before = [text for pair in talk[:turn] for text in pair] if how != "turns" else []
            session = None if how == "history" else f"s{number}"
            calls.append(call(*before, question, reply=reply, session=session, time=float(1 + turn)))
    rng.shuffle(calls)
    assert sorted(texts(*calls)) == sorted([text for pair in talk for text in pair] for talk in talks)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(WORDS, min_size=1, max_size=5).filter(lambda t: len(t) % 2 == 1), st.none() | WORDS),
        max_size=6,
    )
)
def test_every_text_of_every_request_is_in_a_conversation(rows: list[tuple[list[str], str | None]]) -> None:
    calls = [call(*asked, reply=reply) for asked, reply in rows]
    found = texts(*calls)
    for asked, reply in rows:
        whole = asked if reply is None else [*asked, reply]
        assert any(one[: len(whole)] == whole for one in found), "as a conversation or as the beginning of one"
    assert all(any(one == (asked if reply is None else [*asked, reply]) for asked, reply in rows) for one in found)


TOGETHER = {
    "equal ones both stay": ([call("Hi", reply="Yo"), call("Hi", reply="Yo")], [["Hi", "Yo"], ["Hi", "Yo"]]),
    "another reply is another conversation": (
        [call("Hi", reply="A"), call("Hi", "B", "More", reply="C")],
        [["Hi", "A"], ["Hi", "B", "More", "C"]],
    ),
    "in a session the reply may have been edited": (
        [call("Hi", reply="A", session="s"), call("Hi", "B", "More", reply="C", session="s")],
        [["Hi", "B", "More", "C"]],
    ),
    "sessions are not mixed": (
        [
            call("Hi", reply="A", session="s"),
            call("Bye", reply="B", session="s"),
            call("Hi", "A", "More", reply="C", session="t"),
            call("Else", reply="D", session="t"),
        ],
        [["Hi", "A", "Bye", "B"], ["Hi", "A", "More", "C"], ["Else", "D"]],
    ),
    "ids that each request has for itself say nothing": (
        [call("Hi", reply="A", session="x"), call("Hi", "A", "More", reply="C", session="y")],
        [["Hi", "A", "More", "C"]],
    ),
    "a failed request and its repetition": ([call("Hi"), call("Hi", reply="A")], [["Hi", "A"]]),
    "a failed request in a session": (
        [
            call("Hi", session="s", time=1.0),
            call("Hi", reply="A", session="s", time=2.0),
            call("Bye", reply="B", session="s", time=3.0),
        ],
        [["Hi", "A", "Bye", "B"]],
    ),
    "a turn without a reply": (
        [call("Hi", session="s", time=1.0), call("Bye", reply="B", session="s", time=2.0)],
        [["Hi", "", "Bye", "B"]],
    ),
    "another system text is another conversation": (
        [
            call("Hi", reply="A", system="Answer.", session="s", time=1.0),
            call("Title of: Hi", reply="T", system="Make titles.", session="s", time=2.0),
        ],
        [["Answer.", "Hi", "A"], ["Make titles.", "Title of: Hi", "T"]],
    ),
    "branches": (
        [call("Hi", reply="A"), call("Hi", "A", "B1", reply="1"), call("Hi", "A", "B2", reply="2")],
        [["Hi", "A", "B1", "1"], ["Hi", "A", "B2", "2"]],
    ),
    "samples are alone": (
        [call("Hi", reply="A", is_alone=True), call("Hi", "A", "More", reply="B", is_alone=True)],
        [["Hi", "A"], ["Hi", "A", "More", "B"]],
    ),
    "blanks at the ends do not count": (
        [call("Hi", reply="A\n"), call("Hi ", "A", "More", reply="B")],
        [["Hi ", "A", "More", "B"]],
    ),
}


@each(("calls", "expected"), TOGETHER.values())
def test_what_belongs_together(calls: list[LogCall], expected: list[list[str]]) -> None:
    assert texts(*calls) == expected


def test_a_call_and_its_result_are_one_conversation_whatever_the_spelling_of_its_arguments() -> None:
    function = {"name": "f", "arguments": '{"a": 1, "b": 2}'}
    asked = said("user", "Hi")
    first = LogCall(
        messages=[asked],
        reply={"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": function}]},
        trace="a",
    )
    again = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": {"b": 2, "a": 1}}}],
    }
    second = LogCall(
        messages=[asked, again, {"role": "tool", "tool_call_id": "c", "content": "3"}],
        reply=said("assistant", "3"),
        trace="b",
    )
    [one] = joined(second, first)
    assert [message["role"] for message in one.messages] == ["user", "assistant", "tool", "assistant"]
    assert {"trace:a", "trace:b"} == set(one.tags)


TIMES = {
    "ISO": ("2026-01-01T00:00:00Z", 1767225600.0),
    "without a zone": ("2026-01-01 00:00:00", 1767225600.0),
    "nanoseconds": ("1767225600000000000", 1767225600.0),
    "milliseconds": (1767225600000, 1767225600.0),
    "seconds": (1767225600.5, 1767225600.5),
    "nothing": (None, None),
    "words": ("yesterday", None),
    "true": (True, None),
    "infinite": ("inf", None),
    "huge": ("9" * 400, None),
    "negative": (-5, None),
}


@each(("value", "expected"), TIMES.values())
def test_times(value: Any, expected: float | None) -> None:
    assert unix_time(value) == expected
