"""Redaction of known keys in every encoding, and of unknown keys by their shape."""

from __future__ import annotations

import base64
import html
import json
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus

from hypothesis import given
from hypothesis import strategies as st

from convbatch.redaction import Redactor, Secret, display, looks_like_key, redact, watch
from tests.support.tables import each

KEY = "sk-a1B2c3D4e5F6g7H8"
ODD = "p/w+=&<\"'\\ x~é今"


def every_character(form: str) -> Callable[[str], str]:
    return lambda value: "".join(form.format(ord(char)) for char in value)


def in_json_twice(value: str) -> str:
    return json.dumps(json.dumps({"k": value}))


FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda value: value,
    "percent": lambda value: quote(value, safe=""),
    "percent, slash kept": quote,
    "percent, lower case": lambda value: "".join(f"%{byte:02x}" for byte in value.encode()),
    "form": quote_plus,
    "json": json.dumps,
    "json, not ascii": lambda value: json.dumps(value, ensure_ascii=False),
    "json, every character": every_character("\\u{:04X}"),
    "json in json": in_json_twice,
    "html": html.escape,
    "html, decimal": every_character("&#{};"),
    "html, hexadecimal": every_character("&#x{:X};"),
    "php json": lambda value: json.dumps(value).replace("/", "\\/"),
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "base64, user": lambda value: base64.b64encode(f"u:{value}".encode()).decode(),
    "base64, key first": lambda value: base64.b64encode(f"{value}:x".encode()).decode(),
    "base64, user2": lambda value: base64.b64encode(f"me:{value}!".encode()).decode(),
    "hex": lambda value: value.encode().hex(),
    "hex, upper case": lambda value: value.encode().hex().upper(),
    "base64, urlsafe": lambda value: base64.urlsafe_b64encode(f"api:{value}".encode()).decode(),
}


@each("value", [KEY, ODD])
@each("form", FORMS)
def test_a_secret_is_found_in_every_form(form: str, value: str) -> None:
    redactor = Redactor([Secret("MY_KEY", value)])
    written = FORMS[form](value)
    text = redactor.text(f"before {written} after")
    assert "[redacted:MY_KEY]" in text
    assert text.startswith("before ")
    assert text.endswith(" after")
    assert written[4:-4] not in text
    body, left = redactor.body(f'{{"a": "{written}"}}'.encode())
    assert b"[redacted:MY_KEY]" in body
    assert not left


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=4, max_size=40), st.data())
def test_a_key_in_any_mixture_of_escapes_is_found(value: str, data: st.DataObject) -> None:
    forms = ("{}", "%{:02x}", "%{:02X}", "\\u{:04x}", "&#{};", "&#x{:x};")
    picks = data.draw(st.lists(st.sampled_from(forms), min_size=len(value), max_size=len(value)))
    written = "".join(char if form == "{}" else form.format(ord(char)) for form, char in zip(picks, value, strict=True))
    assert "[redacted:K]" in Redactor([Secret("K", value)]).text(f"<{written}>")


@given(st.binary(min_size=12, max_size=40), st.binary(max_size=9), st.binary(max_size=9), st.booleans())
def test_a_key_in_base64_is_found_at_any_offset(value: bytes, before: bytes, after: bytes, urlsafe: bool) -> None:
    secret = value.hex()
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    body, _ = Redactor([Secret("K", secret)]).body(encode(before + secret.encode() + after))
    assert b"[redacted:K]" in body


@given(st.text())
def test_text_without_a_secret_is_unchanged(text: str) -> None:
    redactor = Redactor([Secret("MY_KEY", KEY)])
    assert redactor.text(text) == text
    body = text.encode("utf-8", "surrogatepass")
    assert redactor.body(body) == (body, False)
    assert redactor.body(body)[0] is body


def test_lone_surrogates_and_invalid_utf_8_are_kept() -> None:
    redactor = Redactor([Secret("MY_KEY", KEY)])
    assert redactor.text(f"\ud800{KEY}\udfff") == "\ud800[redacted:MY_KEY]\udfff"
    assert redactor.body(b"\xff" + KEY.encode() + b"\xfe") == (b"\xff[redacted:MY_KEY]\xfe", False)


def test_short_values_are_kept_in_bodies_and_flagged_but_removed_from_logs() -> None:
    redactor = Redactor([Secret("LOCAL_KEY", "ollama")])
    body = b'{"text": "I run on ollama."}'
    assert redactor.body(body) == (body, True)
    assert redactor.body(b"llama") == (b"llama", False)
    assert redactor.text("Authorization: ollama") == "Authorization: [redacted:LOCAL_KEY]"


def test_a_value_of_three_characters_is_found_only_as_a_whole_word() -> None:
    redactor = Redactor([Secret("K", "abc")])
    assert redactor.text("key abc, abcd, xabc, abc") == "key [redacted:K], abcd, xabc, [redacted:K]"


def test_a_marking_redactor_keeps_bodies_and_flags_them() -> None:
    redactor = Redactor([Secret("MY_KEY", KEY)]).marking()
    body = f"a {KEY}".encode()
    assert redactor.body(body) == (body, True)
    assert redactor.text(f"a {KEY}") == "a [redacted:MY_KEY]"


def test_of_two_keys_with_a_common_prefix_the_longer_one_is_named() -> None:
    redactor = Redactor([Secret("SHORT", "sk-a1B2c3D4e5"), Secret("LONG", KEY)])
    assert redactor.text(f"{KEY} sk-a1B2c3D4e5") == "[redacted:LONG] [redacted:SHORT]"


def test_a_replacement_is_not_searched_again() -> None:
    assert Redactor([Secret("REDACTED_KEY", "redacted"), Secret("K", KEY)]).text(f"{KEY} redacted") == (
        "[redacted:K] [redacted:REDACTED_KEY]"
    )


def test_without_secrets_nothing_changes() -> None:
    assert Redactor().text("sk-x") == "sk-x"
    assert Redactor([Secret("EMPTY", "")]).body(b"sk-x") == (b"sk-x", False)


def test_the_repr_of_a_secret_does_not_contain_it() -> None:
    assert KEY not in repr(Secret("MY_KEY", KEY))


def test_watched_secrets_are_redacted() -> None:
    assert redact("only-for-this-test") == "only-for-this-test"
    watch([Secret("WATCHED", "only-for-this-test")])
    watch([Secret("OTHER", "another-for-this-test")])
    assert redact("only-for-this-test another-for-this-test") == "[redacted:WATCHED] [redacted:OTHER]"


@each("filler", [b"%41", b"\\u0041", b"&#65;", b"a", b"%zz", b"sk-a1B2c3D4"])
def test_the_time_for_a_hostile_body_is_linear_in_its_size(filler: bytes) -> None:
    redactor = Redactor([Secret("K", KEY), Secret("L", "AIzaSyA" + "x1" * 16)])
    body = filler * (400_000 // len(filler)) + b"\n"
    begun = time.perf_counter()
    assert redactor.body(body) == (body, False)
    assert time.perf_counter() - begun < 3.0


@each(
    "text",
    ["sk-" + "a1" * 10, "use AIzaSyA1234567890abcdefghijk now", "gsk_" + "a1" * 12, "Bearer abcdefgh1", "sk-*********"],
)
def test_a_text_shaped_like_a_key_is_recognised_and_not_displayed(text: str) -> None:
    assert looks_like_key(text)
    assert text not in display(text)


@each("text", ["gemini-2.5-flash", "risk-assessment-tasks", "https://h/v1", "GEMINI_API_KEY", "sk-x"])
def test_ordinary_words_are_not_keys(text: str) -> None:
    assert not looks_like_key(text)
    assert display(text) == repr(text)


@each(
    ("value", "expected"),
    [(True, "true"), (3, "3"), ([1], "a list"), ({"a": 1}, "a table"), ("x" * 90, repr("x" * 77 + "..."))],
)
def test_a_value_is_displayed_in_short_form(value: object, expected: str) -> None:
    assert display(value) == expected
