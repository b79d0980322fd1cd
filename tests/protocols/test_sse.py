"""An event stream split at any byte gives the same events."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.protocols.sse import EventTooLong, SseEvent, SseParser
from tests.conftest import examples
from tests.support.tables import each


def parsed(*chunks: bytes) -> list[SseEvent]:
    parser = SseParser()
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return events + parser.close()


def data_of(*chunks: bytes) -> list[str]:
    return [event.data for event in parsed(*chunks)]


@each(
    ("stream", "data"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data:a\r\n\r\ndata:  b\r\n\r\n", ["a", " b"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b"data: a\r\n\ndata: b\n\r\n", ["a", "b"]),
        (b"data: a\ndata: b\ndata\n\n", ["a\nb\n"]),
        (b"data:\n\n", [""]),
        (b": PING\n\n:\n\ndata: a\n: PING\ndata: b\n\n", ["a\nb"]),
        (b"id: 1\nretry: 3\nwhatever\ndata: a\n\n", ["a"]),
        (b"\n\n\n", []),
        (b"", []),
        (b"event: x\n\n", []),
        (b"data: a", ["a"]),
        (b"data: a\n", ["a"]),
        (b"data: a\n\ndata: {cut", ["a", "{cut"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"\n\xef\xbb\xbfdata: a\n\n", []),
        ("data: a\u2028b\u2029c\u0085d\x0be\x0cf\n\n".encode(), ["a\u2028b\u2029c\u0085d\x0be\x0cf"]),
        (b"data: [DONE]\n\n", ["[DONE]"]),
        (b'data: a\n\n{\n  "error": {\n    "code": 5\n  }\n}\n', ["a", '{\n  "error": {\n    "code": 5\n  }\n}']),
        (b'[{"a": 1}\n,\r\n{"b": 2}]', ['[{"a": 1}\n,\n{"b": 2}]']),
        (b'data: a\n{"not": "an event"}\n\n', ["a"]),
        (b"data: \xff\n\n", ["\udcff"]),
    ],
)
def test_a_stream_is_split_into_its_events(stream: bytes, data: list[str]) -> None:
    assert data_of(stream) == data


def test_an_event_keeps_its_name_and_the_next_one_does_not_inherit_it() -> None:
    assert parsed(b"event: error\ndata: a\n\ndata: b\n\nevent:ping\n\ndata: c\n\n") == [
        SseEvent(event="error", data="a"),
        SseEvent(event="", data="b"),
        SseEvent(event="", data="c"),
    ]


def test_a_character_split_between_two_chunks_is_joined() -> None:
    stream = "data: 你好\n\n".encode()
    for at in range(len(stream)):
        assert data_of(stream[:at], stream[at:]) == ["你好"]


def test_a_line_ending_split_between_cr_and_lf_is_one_line_ending() -> None:
    assert data_of(b"data: a\r", b"", b"\ndata: b\r", b"\n\r", b"\n") == ["a\nb"]
    assert data_of(b"data: a\r", b"\rdata: b\n\n") == ["a", "b"]


def test_an_event_is_returned_as_soon_as_its_empty_line_arrives() -> None:
    parser = SseParser()
    assert parser.feed(b"data: a\n") == []
    assert parser.feed(b"\r") == [SseEvent(event="", data="a")]
    assert parser.close() == []
    assert parser.close() == []


@each(
    "chunks",
    [
        [b"data: " + b"x" * 200],
        [b"data: " + b"x" * 60, b"x" * 60, b"x" * 60],
        [b"data: 12345678\n" * 30],
        [b": " + b"x" * 200],
        [b"{" + b"x" * 30 + b"\n", *[b"x" * 30 + b"\n"] * 5],
    ],
)
def test_an_event_without_an_end_is_bounded(chunks: list[bytes]) -> None:
    parser = SseParser(max_event_bytes=100)

    def feed_all() -> None:
        for chunk in chunks:
            parser.feed(chunk)

    with pytest.raises(EventTooLong, match="longer than 100 bytes"):
        feed_all()


def test_many_small_events_are_accepted() -> None:
    parser = SseParser(max_event_bytes=20)
    for _ in range(100):
        assert parser.feed(b"data: 1234") == []
        assert parser.feed(b"5678\n\n") == [SseEvent(event="", data="12345678")]


PIECES = [
    b"data: ",
    b"data:",
    b"data",
    b"event: e",
    b": c",
    b"id",
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"{",
    b"}",
    b"[",
    b"x",
]
ODD_PIECES = ["你".encode(), "\u2028".encode(), b"\xef\xbb\xbf", b"\xff", b" "]
STREAMS = st.lists(st.sampled_from(PIECES + ODD_PIECES), max_size=40).map(b"".join)


@given(STREAMS, st.data())
@settings(max_examples=examples(500), deadline=None)
def test_any_chunking_gives_the_same_events(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    edges = [0, *cuts, len(stream)]
    assert parsed(*(stream[a:b] for a, b in itertools.pairwise(edges))) == parsed(stream)
    assert parsed(*(stream[at : at + 1] for at in range(len(stream)))) == parsed(stream)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1), max_size=5))
def test_written_events_are_read_back(lines: list[str]) -> None:
    stream = "".join(f"data: {line}\r\n\r\n" for line in lines).encode()
    assert data_of(stream) == lines
