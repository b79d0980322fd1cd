"""Tests of the reasons of failed text checks, and of the option `normalize`."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from convbatch.checks.builtin import CheckRunner
from convbatch.checks.differences import difference, first_difference, normalized
from convbatch.checks.values import parse_check
from convbatch.dataset.schema import issues_of
from tests.checks.test_checks import input_of, verdict
from tests.support.tables import each

LONG = "The quick brown fox jumps over the lazy dog while the cat sleeps in the warm sun of "
REASONS = [  # check, reply, what the reason has
    ({"equals": "first second"}, "first\nsecond", ["first<U+000A>second", "character 6", "LINE FEED", "white space"]),
    ({"equals": "one\r\ntwo"}, "one\ntwo", ["<U+000D><U+000A>", "U+000D CARRIAGE RETURN"]),
    ({"contains": "10 km"}, "It is 10\u00a0km", ["10<U+00A0>km", "U+00A0 NO-BREAK SPACE, not U+0020 SPACE"]),
    ({"equals": "Caf\u00e9"}, "Cafe\u0301", ["Cafe<U+0301>", "COMBINING ACUTE ACCENT", "NFC", "NFD"]),
    ({"contains": "Caf\u00e9"}, "un Cafe\u0301 noir", ["Cafe<U+0301>", "character 4"]),
    ({"equals": LONG + "June."}, LONG + "May.", ['sun of May."', 'sun of June."', '"M", not "J"', "character 85"]),
    ({"contains": LONG + "June."}, "x" * 500 + LONG + "May.", ['sun of May."', '"M", not "J"']),
    ({"starts_with": LONG + "June."}, LONG + "May. And more.", ['sun of June."', '"M", not "J"']),
    ({"starts_with": "Dear"}, "\ufeffDear", ["<U+FEFF>", "ZERO WIDTH NO-BREAK SPACE"]),
    ({"starts_with": "Dear"}, " Dear", ['U+0020 SPACE, not "D"']),
    ({"equals": "ab"}, "a\u200bb", ["a<U+200B>b", "ZERO WIDTH SPACE", "zero-width"]),
    ({"equals": "Paris"}, "paris", ["only in case"]),
    ({"contains": "Refund"}, "a refund", ['has "refund"', "only in case"]),
    ({"contains": "12"}, "共１２个", ["FULLWIDTH DIGIT ONE", "full-width"]),
    ({"contains": "Paris"}, "\u0420aris", ["U+0420 CYRILLIC CAPITAL LETTER ER"]),
    ({"contains": "don't"}, "I don\u2019t know", ["RIGHT SINGLE QUOTATION MARK"]),
    ({"icontains": "a b"}, "A\u3000B", ["U+3000 IDEOGRAPHIC SPACE", "character 2"]),
    ({"contains_all": ["x", "a b"]}, "a\nb", ['lacks "x", "a b"', "a<U+000A>b"]),
    ({"contains_any": ["a b"]}, "a  b", ["a <U+0020>b"]),
    ({"equals": "巴黎"}, "巴黎。", ["IDEOGRAPHIC FULL STOP, not the end"]),
    ({"contains": " "}, "", ['has ""', "the end, not U+0020 SPACE"]),
    ({"equals": "a b"}, "a", ["the end, not U+0020 SPACE"]),
]


@each(("check", "reply", "words"), REASONS)
def test_a_reason_shows_the_first_difference_and_names_it(check: dict[str, Any], reply: str, words: list[str]) -> None:
    found = verdict(check, input_of(reply))
    assert found.passed is False
    assert [word for word in words if word not in found.reason] == []


@each(
    ("check", "reply", "holds"),
    [
        ({"equals": "first second"}, "first\r\n second", True),
        ({"equals": "Caf\u00e9"}, "Cafe\u0301", True),
        ({"contains": "10 km"}, "It is 10\u202fkm", True),
        ({"contains": "12:30"}, "在１２：３０", True),
        ({"contains": "10\u00a0km"}, "10 km", True),
        ({"icontains": "A b"}, "a\u200b\tB", True),
        ({"contains_any": ["x", "a  b"]}, "a b", True),
        ({"contains_all": ["x", "a b"]}, "a\nb", False),
        ({"starts_with": "a b"}, "a\n\nb c", True),
        ({"equals": "Paris"}, "paris", False),
        ({"contains": "ab"}, "a b", False),
    ],
)
def test_normalize_ignores_unicode_forms_and_kinds_of_white_space(
    check: dict[str, Any], reply: str, holds: bool
) -> None:
    [(kind, argument)] = check.items()
    assert verdict({**check, "normalize": True}, input_of(reply)).passed is holds
    assert verdict({f"not_{kind}": argument, "normalize": True}, input_of(reply)).passed is not holds
    assert not verdict({**check, "normalize": False}, input_of(reply)).passed


@each(
    ("check", "words"),
    [
        ({"equals": "x", "normalize": "yes"}, '"normalize" must be true or false'),
        ({"equals": "x", "normalize": 1}, '"normalize" must be true or false'),
        ({"number": 5, "normalize": True}, '"normalize" does not apply to "number"'),
        ({"not_regex": "x", "normalize": False}, '"normalize" does not apply to "not_regex"'),
        ({"contains": "\u200b", "normalize": True}, "leaves nothing"),
        ({"contains_any": ["a", "\ufeff"], "normalize": True}, "leaves nothing"),
        ({"normalize": True}, "no kind"),
    ],
)
def test_normalize_that_does_not_fit_is_refused(check: dict[str, Any], words: str) -> None:
    [issue] = issues_of({"turns": [{"user": "x", "checks": [check]}]})
    assert words in issue.what


TRICKY = st.text(alphabet="ab \n\u00a0\u200b\u3000e\u0301\u00e9Ａ\u0430A。", max_size=12)


@given(TRICKY, TRICKY)
def test_a_reason_never_shows_two_equal_texts_without_naming_the_difference(reply: str, wanted: str) -> None:
    for kind in ("equals", "contains", "icontains", "starts_with"):
        found = CheckRunner().verdict(parse_check({kind: wanted}), input_of(reply))
        texts = [unicodedata.normalize("NFKC", text) for text in re.findall(r'"([^"]*)"', found.reason)]
        if not found.passed and len(texts) != len({" ".join(text.split()) for text in texts}):
            assert "first difference at character" in found.reason


@given(TRICKY, TRICKY)
def test_the_first_difference_is_after_an_equal_start(found: str, wanted: str) -> None:
    assume(found != wanted)
    at = first_difference(found, wanted)
    assert found[:at] == wanted[:at]
    assert found[at : at + 1] != wanted[at : at + 1]
    assert difference(found, wanted)


@given(st.text())
def test_normalizing_twice_changes_nothing(text: str) -> None:
    assert normalized(normalized(text)) == normalized(text)
