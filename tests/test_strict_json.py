"""Strict JSON: the rules, and parsing of bodies received from gateways."""

from __future__ import annotations

import json
from typing import Any

import pytest

from convbatch import strict_json
from tests.support.tables import each


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinity_are_always_refused(word: str) -> None:
    with pytest.raises(strict_json.NotANumber, match=word) as caught:
        strict_json.parse(f'{{"a": {word}}}')
    assert caught.value.word == word


@each(
    ("text", "rule", "error"),
    [
        ("1e999", {"finite": True}, strict_json.NumberTooLarge),
        (str(2**64), {"int64": True}, strict_json.NumberTooLarge),
        (str(-(2**63) - 1), {"int64": True}, strict_json.NumberTooLarge),
        ('{"a": 1, "b": 2, "a": 3}', {"unique_keys": True}, strict_json.RepeatedKey),
    ],
)
def test_each_rule_refuses_only_its_own_violation(text: str, rule: dict[str, Any], error: type[ValueError]) -> None:
    assert strict_json.parse(text) == json.loads(text)
    with pytest.raises(error):
        strict_json.parse(text, **rule)


def test_a_repeated_key_is_reported_with_all_its_values() -> None:
    with pytest.raises(strict_json.RepeatedKey) as caught:
        strict_json.parse('[{"a": 1, "b": 2, "a": 3}]', unique_keys=True)
    assert (caught.value.key, caught.value.values) == ("a", [1, 3])


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 2**63])
def test_every_64_bit_integer_is_kept(number: int) -> None:
    assert strict_json.parse(str(number), int64=True) == number
    assert strict_json.parse_received(str(number).encode()) == number


def test_a_syntax_error_has_its_position() -> None:
    with pytest.raises(json.JSONDecodeError) as caught:
        strict_json.parse('{"a": }')
    assert caught.value.pos == 6


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000])
def test_nesting_beyond_the_parser_is_a_value_error(text: str) -> None:
    with pytest.raises(strict_json.TooDeep):
        strict_json.parse(text)


def test_a_body_is_kept_as_received() -> None:
    body = b'\xef\xbb\xbf{"n": %d, "half": "\\ud83d", "twice": 1, "twice": 2}' % (2**70)
    assert strict_json.parse_received(body) == {"n": 2**70, "half": "\ud83d", "twice": 2}


def test_a_body_has_a_maximum_depth() -> None:
    strict_json.parse_received(nested(strict_json.MAX_RECEIVED_DEPTH))
    with pytest.raises(strict_json.TooDeep):
        strict_json.parse_received(nested(strict_json.MAX_RECEIVED_DEPTH + 1))


def test_brackets_in_a_string_do_not_count_as_depth() -> None:
    text = b'["' + b"[" * 1000 + b'"]'
    strict_json.refuse_deep(text, json.loads(text))
