"""Tests of checks: cases of every kind, properties of all kinds, and verdicts of runs against the simulator."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convbatch as cb
from convbatch.checks.builtin import CHECKS, MAX_TIMEOUTS, CheckRunner
from convbatch.checks.safe_regex import SEARCH_LIMIT_S
from convbatch.checks.values import CalledTool, CheckInput, Verdict, parse_check
from convbatch.cli.check import run_check
from convbatch.dataset.schema import issues_of
from convbatch.dialogue import Dialogue
from convbatch.errors import InputError, SetupError
from convbatch.pricing import ExchangeRates, Money
from convbatch.reply import Failure, MediaFile, Reply, Usage
from convbatch.results.cache import is_fresh, write_turns
from convbatch.results.quality_gate import evaluate_gate, parse_pass_rate
from convbatch.results.run import load
from convbatch.results.summary import TargetSummary
from convbatch.results.verdicts import dialogue_pass, sum_verdicts
from convbatch.session.options import CheckOptions
from tests.conftest import QUICKSTART, Command
from tests.support.made_runs import DRIFT, GOOD, REAL, SEED_REPLY, MadeRun, dialogue
from tests.support.tables import each

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "shop-checks"
CITY = {"type": "object", "properties": {"city": {"type": "string", "pattern": "^[A-Z]"}}, "required": ["city"]}
ONLY_X = {"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False}
SIX = ExchangeRates({("EUR", "USD"): Decimal(6)})  # 1 / 6 has no exact decimal
CALLS = (CalledTool(name="now", arguments={"zone": "上海", "round": 1, "list": [1, True]}),)
BROKEN = (CalledTool(name="now", arguments='{"zone": '),)
FIND = (CalledTool(name="find", arguments={}),)
ZONE = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}
TOOLS = ({"name": "now", "parameters": ZONE}, {"name": "find"})


def input_of(*replies: str, **more: Any) -> CheckInput:
    known: dict[str, Any] = {
        "dialogue": dataclasses.replace(dialogue("d", "今天是几号"), tools=TOOLS),
        "target": REAL, "repeat": 1, "turn": 1, "user": "今天是几号",
        "status": "ok", "assistant": "明天是2025年12月27日。", "finish_reason": "stop", "output_tokens": 14,
        "latency_s": 0.5, "cost": Money(amount=Decimal("0.002"), currency="USD"),
    }  # fmt: skip
    return CheckInput(**{**known, **more}, replies=replies)


def verdict(check: dict[str, Any], check_input: CheckInput) -> Verdict:
    assert issues_of({"turns": [{"user": "x", "assistant": "y", "checks": [check]}], "tools": list(TOOLS)}) == []
    return CheckRunner().verdict(parse_check(check), check_input)


TEXTS = [
    ({"equals": "Paris"}, "  Paris\n", True),
    ({"equals": " Paris "}, "Paris", True),
    ({"equals": "Paris"}, "paris", False),
    ({"equals": ""}, " \n", True),
    ({"equals": "巴黎"}, "巴黎。", False),
    ({"contains": "27"}, "明天是2025年12月27日。", True),
    ({"contains": "Refund"}, "a refund", False),
    ({"icontains": "REFUND"}, "a Refund", True),
    ({"icontains": "straße"}, "STRASSE", True),
    ({"contains_any": ["就医", "医生"]}, "请去看医生", True),
    ({"contains_any": ["a", "b"]}, "c", False),
    ({"contains_all": ["青山书店", "QS-2048"]}, "抬头青山书店，税号 QS-2048", True),
    ({"contains_all": ["a", "b"]}, "only a", False),
    ({"starts_with": "Dear"}, "Dear you", True),
    ({"starts_with": "Dear"}, " Dear you", False),
    ({"regex": r"\b27\b"}, "27日", False),
    ({"regex": r"27(?=日)"}, "27日", True),
    ({"regex": r"(?i)^yes"}, "no\nYES", False),
    ({"regex": r"(?im)^yes"}, "no\nYES", True),
    ({"regex": r"(\w)\1"}, "好好休息", True),
    ({"max_length": 3}, "你好吗", True),
    ({"max_length": 2}, "你好吗", False),
    ({"max_length": 0}, "", True),
]
JSON = [
    ({"is_json": True}, '{"a": 1}', True),
    ({"is_json": True}, " 3 ", True),
    ({"is_json": True}, '```json\n{"a": 1}\n```', True),
    ({"is_json": True}, '```\n[1]\n```\n', True),
    ({"is_json": True}, 'Here: ```json\n{}\n```', False),
    ({"is_json": True}, '```json\n{}\n```\n```json\n{}\n```', False),
    ({"is_json": True}, "", False),
    ({"is_json": True}, "NaN", False),
    ({"is_json": True}, "[" * 100_000, False),
    ({"json_schema": CITY}, '{"city": "Oslo"}', True),
    ({"json_schema": CITY}, '```json\n{"city": "Oslo"}\n```', True),
    ({"json_schema": CITY}, '{"city": "oslo"}', False),
    ({"json_schema": CITY}, "{}", False),
    ({"json_schema": CITY}, "Oslo", False),
    ({"json_schema": ONLY_X}, '{"xa": 1}', True),
    ({"json_schema": ONLY_X}, '{"xa": "1"}', False),
    ({"json_schema": ONLY_X}, '{"ya": 1}', False),
    ({"json_schema": {"$defs": {"n": {"type": "number"}}, "items": {"$ref": "#/$defs/n"}}}, "[1, 2.5]", True),
    ({"json_schema": {"$defs": {"n": {"type": "number"}}, "items": {"$ref": "#/$defs/n"}}}, '["1"]', False),
]  # fmt: skip
NUMBERS = [
    ({"number": 8}, "2 x 4 paws, so 8.", True),
    ({"number": 8}, "eight", False),
    ({"number": 1234.5}, "It is 1,234.5 euros", True),
    ({"number": 1000000}, "1'000'000", True),
    ({"number": 12345}, "12\u202f345 m", True),
    ({"number": -40}, "零下就是 -40 度", True),
    ({"number": -40}, "−40", True),
    ({"number": -5}, "答案是负5。", True),
    ({"number": 5}, "3-5", True),
    ({"number": 1047}, "order A-1047", True),
    ({"number": 1234.5}, "一共１，２３４．５元", True),
    ({"number": 12}, "１２", True),
    ({"number": 2}, "1, 2", True),
    ({"number": 0.5}, "about .5", True),
    ({"number": 2500}, "2.5e3", True),
    ({"number": 0.3}, "0.3", True),
    ({"number": {"value": 8, "tolerance": 0.5}}, "8.5", True),
    ({"number": {"value": 8, "tolerance": 0.5}}, "8.51", False),
    ({"number": 10**20}, f"{10**20 + 1}", False),
    ({"number": 1}, "1e999999", False),
    ({"number": 27}, "明天是2025年12月27日。", True),
]
SIMILARITY = [
    ({"similar": True}, "明天是2025年12月27日", True),
    ({"similar": True}, "我不知道", False),
    ({"similar": "Lisbon"}, "Lisbon", True),
    ({"similar": {"to": "kitten", "threshold": 0.61}}, "sitting", True),  # 2 * 4 common / 13 = 0.615
    ({"similar": {"to": "kitten", "threshold": 0.62}}, "sitting", False),
    ({"similar": 0.1}, "明天", True),
    ({"similar": {"to": "x" * 17 + "a" * 8, "threshold": 0.68}}, "x" * 17 + "b" * 8, True),  # 34 / 50, exactly
    ({"similar": 1}, "明天是2025年12月27日。", True),
]
PICTURES = (
    MediaFile("media/a.png", "image/png", 1024, 1024),
    MediaFile("media/b.jpg", "image/jpeg", 512, 512),
    MediaFile("media/c.wav", "audio/wav"),
)
METADATA = [
    ({"finish_reason": "stop"}, {}, True),
    ({"finish_reason": ["length", "stop"]}, {}, True),
    ({"finish_reason": "content_filter"}, {}, False),
    ({"finish_reason": "content_filter"}, {"finish_reason": "content_filter", "status": "blocked"}, True),
    ({"latency": 0.5}, {}, True),
    ({"latency": 0.49}, {}, False),
    ({"output_tokens": 14}, {}, True),
    ({"output_tokens": 13}, {}, False),
    ({"cost": 0.002}, {}, True),
    ({"cost": "0.0019 USD"}, {}, False),
    ({"cost": "0.0142CNY"}, {"rates": ExchangeRates({("USD", "CNY"): Decimal("7.1")})}, True),
    ({"cost": "0.0141CNY"}, {"rates": ExchangeRates({("USD", "CNY"): Decimal("7.1")})}, False),
    ({"cost": "0.003EUR"}, {"cost": Money(amount=Decimal("0.018"), currency="USD"), "rates": SIX}, True),
    ({"tool_call": True}, {}, False),
    ({"tool_call": True}, {"tool_calls": CALLS}, True),
    ({"tool_call": "now"}, {"tool_calls": CALLS}, True),
    ({"tool_call": {"name": "now", "arguments": {"zone": "上海"}}}, {"tool_calls": CALLS}, True),
    ({"tool_call": {"name": "now", "arguments": {"zone": "北京"}}}, {"tool_calls": CALLS}, False),
    ({"tool_call": {"name": "now", "arguments": {"round": True}}}, {"tool_calls": CALLS}, False),
    ({"tool_call": {"name": "now", "arguments": {"round": 1.0, "list": [1, True]}}}, {"tool_calls": CALLS}, True),
    ({"tool_call": {"name": "now", "arguments": {"list": [1]}}}, {"tool_calls": CALLS}, False),
    ({"tool_call": False}, {}, True),
    ({"tool_call": False}, {"tool_calls": CALLS}, False),
    ({"tool_call": {"name": "now", "arguments": {"zone": "上海"}, "exact": True}}, {"tool_calls": CALLS}, False),
    ({"tool_call": {"name": "now", "arguments": CALLS[0].arguments, "exact": True}}, {"tool_calls": CALLS}, True),
    ({"tool_call": {"name": "now", "arguments": {}}}, {"tool_calls": BROKEN}, False),
    ({"tool_call": {"name": "now", "arguments": {}, "exact": True}}, {"tool_calls": BROKEN}, False),
    ({"tool_call": {"name": "now", "schema": ZONE}}, {"tool_calls": CALLS}, True),
    ({"tool_call": {"name": "now", "schema": ZONE}}, {"tool_calls": BROKEN}, False),
    ({"tool_call": {"name": "now", "schema": CITY}}, {"tool_calls": (*BROKEN, *CALLS)}, False),
    ({"tool_call": {"order": ["now", "find"]}}, {"tool_calls": (*CALLS, *BROKEN, *FIND)}, True),
    ({"tool_call": {"order": ["find", "now"]}}, {"tool_calls": (*CALLS, *FIND)}, False),
    ({"tool_call": {"order": ["now", "now"]}}, {"tool_calls": CALLS}, False),
    ({"image": True}, {}, False),
    ({"image": True}, {"media": PICTURES}, True),
    ({"image": 2}, {"media": PICTURES}, True),
    ({"image": 1}, {"media": PICTURES}, False),
    ({"image": 0}, {"media": PICTURES[2:]}, True),
    ({"image": {"exactly": 1, "mime_type": "image/png"}}, {"media": PICTURES}, True),
    ({"image": {"at_least": 2, "min_width": 512, "max_height": 1024}}, {"media": PICTURES}, True),
    ({"image": {"width": 512, "height": 256}}, {"media": PICTURES}, False),
    ({"image": {"at_least": 2, "max_width": 600}}, {"media": PICTURES}, False),
    ({"tool_calls_valid": True}, {}, True),
    ({"tool_calls_valid": True}, {"tool_calls": (*CALLS, *FIND)}, True),
    ({"tool_calls_valid": True}, {"tool_calls": (*CALLS, *BROKEN)}, False),
    ({"tool_calls_valid": True}, {"tool_calls": (CalledTool(name="now", arguments={"zone": 8}),)}, False),
    ({"tool_calls_valid": True}, {"tool_calls": (CalledTool(name="nowadays", arguments={}),)}, False),
]
CASES = [(check, input_of(text), holds) for check, text, holds in [*TEXTS, *JSON, *NUMBERS, *SIMILARITY]] + [
    (check, input_of("今天", **more), holds) for check, more, holds in METADATA
]


@each(("check", "check_input", "holds"), CASES)
def test_a_check_passes_as_expected_and_its_negation_is_the_opposite(
    check: dict[str, Any], check_input: CheckInput, holds: bool
) -> None:
    plain = verdict(check, check_input)
    negated = verdict({f"not_{kind}": argument for kind, argument in check.items()}, check_input)
    assert (plain.passed, negated.passed) == (holds, not holds)
    assert plain.score is not None
    assert negated.score is not None
    assert plain.score + negated.score == pytest.approx(1)
    assert plain.reason == negated.reason
    assert plain.reason
    assert plain.error is negated.error is None


@each(
    ("check", "calls", "reason"),
    [
        ({"tool_call": "find"}, (), "called nothing, not find"),
        (
            {"tool_call": {"name": "now", "arguments": {"zone": "北京", "day": 1}}},
            CALLS,
            'called now with zone "上海", expected "北京"; without day, expected 1',
        ),
        (
            {"tool_call": {"name": "now", "arguments": {"zone": "x"}, "exact": True}},
            (CalledTool(name="now", arguments={"zone": "x", "day": 1}), CalledTool(name="now", arguments={"day": 1})),
            "called now with day 1, which is not expected (2 calls, none fits)",
        ),
        (
            {"tool_call": {"name": "now", "schema": ZONE}},
            BROKEN,
            'called now with arguments that are no JSON object: "{\\"zone\\": "',
        ),
        ({"tool_call": {"order": ["find", "now"]}}, (*CALLS, *FIND), "called now, find; expected find, then now"),
        ({"tool_calls_valid": True}, (*CALLS, *FIND), "called now, find; all calls are valid"),
        (
            {"tool_calls_valid": True},
            (*FIND, CalledTool(name="now", arguments={"zone": 8}), *BROKEN),
            "call 2 of 3: the arguments of now do not fit its parameters at $.zone: \"8 is not of type 'string'\"; "
            "2 calls are not valid",
        ),
        (
            {"tool_calls_valid": True},
            (CalledTool(name="nowadays", arguments={}),),
            "nowadays is not declared (declared: now, find)",
        ),
    ],
)
def test_a_check_of_calls_says_what_was_called(
    check: dict[str, Any], calls: tuple[CalledTool, ...], reason: str
) -> None:
    assert verdict(check, input_of("", tool_calls=calls)).reason == reason


def test_every_check_kind_has_cases() -> None:
    assert {next(iter(check)) for check, _, _ in CASES} == set(CHECKS) - {"python", "llm_rubric", "prefer"}


@each("check", [{"cost": 1}, {"output_tokens": 9}, {"latency": 1}, {"similar": True}])
def test_a_check_of_an_unknown_value_is_an_error_and_fails_even_when_negated(check: dict[str, Any]) -> None:
    check_input = input_of("x", cost=None, output_tokens=None, latency_s=None, assistant=None)
    for one in (check, {f"not_{kind}": argument for kind, argument in check.items()}):
        found = verdict(one, check_input)
        assert (found.passed, found.score) == (False, 0.0)
        assert found.error
        assert found.error in found.reason


def test_a_cost_in_a_currency_without_a_rate_is_an_error_that_names_the_pair() -> None:
    assert "USD/CNY" in str(verdict({"cost": "1CNY"}, input_of("x")).error)


# Patterns and schemas that would hang or access the network

LOOPS = [
    {"$ref": "#"},
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"anyOf": [{"$ref": "#"}, {"type": "array"}]},
    {"properties": {"x": {"not": {"$ref": "#/properties/x"}}}},
    {"$dynamicAnchor": "x", "$dynamicRef": "#x"},
    {"dependentSchemas": {"x": {"if": {"$ref": "#"}}}},
]
UNUSABLE_SCHEMAS = [
    ({"$schema": 5}, "not a known draft"),
    ({"$schema": "https://example.com/mine"}, "not a known draft"),
    ({"$dynamicRef": "https://example.com/x"}, "$dynamicRef"),
    *((loop, "refers to itself") for loop in LOOPS),
]


@each(("schema", "words"), UNUSABLE_SCHEMAS)
def test_an_unusable_json_schema_is_refused(schema: Any, words: str) -> None:
    [issue] = issues_of({"turns": [{"user": "x", "checks": [{"json_schema": schema}]}]})
    assert words in issue.what


TREE = {"type": "array", "items": {"$ref": "#"}}


@pytest.mark.parametrize("schema", [TREE, {"$defs": {"tree": TREE | {"items": {"$ref": "#/$defs/tree"}}}, **TREE}])
def test_a_recursive_schema_that_descends_into_the_value_is_accepted(schema: Any) -> None:
    assert verdict({"json_schema": schema}, input_of("[" * 50 + "]" * 50)).passed is True


@pytest.mark.parametrize(
    ("schema", "reply", "words"),
    [(TREE, "[" * 900 + "]" * 900, "too deeply"), ({"multipleOf": 0.5}, "1e400", "too large")],
)
def test_a_reply_that_cannot_be_validated_against_a_schema_is_an_error(schema: Any, reply: str, words: str) -> None:
    found = verdict({"json_schema": schema}, input_of(reply))
    assert (found.passed, words in str(found.error)) == (False, True)


@pytest.mark.parametrize(("factor", "reply", "passed"), [(0.01, "19.99", True), (0.1, "0.25", False), (3, "9.0", True)])
def test_multiples_are_those_of_the_written_numbers(factor: float, reply: str, passed: bool) -> None:
    assert verdict({"json_schema": {"multipleOf": factor}}, input_of(reply)).passed is passed


def schema_bomb(keyword: str, leaf: Any) -> dict[str, Any]:
    """A schema of 40 parts that asks for 2 to the power of 40 validations of one value."""
    parts = {"d0": leaf} | {f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n - 1}"}] * 2} for n in range(1, 41)}
    return {"$defs": parts, "$ref": "#/$defs/d40"}


DIALECT = "https://json-schema.org/draft/2020-12/schema"
BOMBS = [
    schema_bomb("anyOf", {"type": "string"}),
    schema_bomb("oneOf", {"type": "string"}),
    schema_bomb("allOf", {}),
    {"$schema": DIALECT, **schema_bomb("anyOf", {"type": "string"})},
    {"$schema": DIALECT, "items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"$schema": DIALECT, "$ref": "#/$defs/y"}, "y":
     {"allOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}]}}},
    {"unevaluatedProperties": False, **schema_bomb("anyOf", {"properties": {"a": {}}})},
]  # fmt: skip


@each(("schema",), [(schema,) for schema in BOMBS])
@pytest.mark.slow
def test_a_json_schema_that_would_run_for_hours_fails_both_ways_at_its_time_limit(schema: Any) -> None:
    reply = '{"b": 1}' if "unevaluatedProperties" in schema else "[" * 60 + "5" + "]" * 60
    began = time.thread_time()
    for kind in ("json_schema", "not_json_schema"):
        found = verdict({kind: schema, "time_limit": 0.02}, input_of(reply))
        assert (found.passed, "longer than its limit of 0.02 s" in found.reason) == (False, True), found.reason
    assert time.thread_time() - began < 2


@each(
    ("reply", "holds"),
    [
        ("[1, 1.0]", False),
        ('[1, true, 0, false, null, "1"]', True),
        ('[{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}]', False),
        ('[{"a": 1}, {"a": true}]', True),
        (json.dumps([{"a": number} for number in range(3000)]), True),
    ],
)
def test_unique_items_are_compared_as_json_in_linear_time(reply: str, holds: bool) -> None:
    assert verdict({"json_schema": {"uniqueItems": True}}, input_of(reply)).passed is holds


@each(
    ("check", "words"),
    [
        ({"regex": "x", "time_limit": 0}, '"time_limit" must be seconds'),
        ({"regex": "x", "time_limit": 601}, '"time_limit" must be seconds'),
        ({"python": "x", "time_limit": True}, '"time_limit" must be seconds'),
        ({"contains": "x", "time_limit": 1}, '"time_limit" does not apply to "contains"'),
    ],
)
def test_a_time_limit_that_does_not_fit_is_refused(check: dict[str, Any], words: str) -> None:
    [issue] = issues_of({"turns": [{"user": "x", "checks": [check]}]})
    assert words in issue.what


def test_the_time_limit_of_a_pattern_is_that_of_its_check() -> None:
    found = verdict({"regex": HANGS, "time_limit": 0.05}, input_of("a" * 5000 + "!"))
    assert (found.passed, "longer than 0.05 s" in found.reason) == (False, True)


@each("weight", [1e308, 1_000_001, -1, True, "2"])
def test_a_weight_out_of_range_is_refused(weight: Any) -> None:
    [issue] = issues_of({"turns": [{"user": "x", "checks": [{"contains": "x", "weight": weight}]}]})
    assert '"weight" must be a number from 0 to 1,000,000' in issue.what


HANGS = r"^(([a-z])+.)+[A-Z]([a-z])+$"


@pytest.mark.slow
def test_a_pattern_with_endless_backtracking_is_an_error_and_is_not_tried_again() -> None:
    check_runner, check = CheckRunner(), parse_check({"not_regex": HANGS})
    began = time.process_time()
    found = [check_runner.verdict(check, input_of("a" * 5000 + "!")) for _ in range(MAX_TIMEOUTS + 20)]
    assert time.process_time() - began < (MAX_TIMEOUTS + 1) * SEARCH_LIMIT_S
    assert {one.passed for one in found} == {False}
    assert "took longer" in str(found[0].error)
    assert "not tried again" in str(found[-1].error)


@each(
    ("check", "words"),
    [
        ({"regex": "("}, "unterminated"),
        ({"regex": "a(?R)?b"}, "unknown extension"),
        ({"regex": "(?:(?:a{1000}){1000}){1000}"}, "nested counts"),
        ({"regex": "a" * 20_001}, "longer than"),
        ({"json_schema": {"type": "objct"}}, "objct"),
        ({"json_schema": {"properties": {"a": {"pattern": "("}}}}, "pattern"),
        ({"json_schema": {"$ref": "http://127.0.0.1:9/schema"}}, "nothing is fetched"),
        ({"json_schema": {"items": {"$ref": "#/$defs/none"}}}, "refers to nothing"),
        ({"not_json_schema": {"patternProperties": {"(?:a{1000}){1000}": {}}}}, "nested counts"),
    ],
)
def test_an_invalid_pattern_or_schema_is_an_error_of_its_line(check: dict[str, Any], words: str) -> None:
    [issue] = issues_of({"turns": [{"user": "x", "checks": [check]}]})
    assert issue.field == "turn 1"
    assert words in issue.what


@each("pattern", [r"\d{4}-\d{2}-\d{2}", r"[{}]{3}", r"a{,3}", r"(?P<x>a){2}(?P=x)", r"\{1000\}{1000}"])
def test_a_common_pattern_is_accepted(pattern: str) -> None:
    assert issues_of({"turns": [{"user": "x", "checks": [{"regex": pattern}]}]}) == []


def test_a_pattern_that_times_out_fails_with_an_error() -> None:
    found = verdict({"not_regex": HANGS}, input_of("a" * 5000 + "!"))
    assert found.passed is False
    assert "took longer" in str(found.error)


# Properties


@pytest.mark.slow
@given(st.text(), st.text(min_size=1))
def test_text_checks_give_a_bounded_and_reproducible_score(reply: str, wanted: str) -> None:
    for kind in ("equals", "contains", "icontains", "starts_with", "similar"):
        check_input = input_of(reply)
        one, other = (CheckRunner().verdict(parse_check({name: wanted}), check_input) for name in (kind, f"not_{kind}"))
        assert one == CheckRunner().verdict(parse_check({kind: wanted}), check_input)
        assert one.passed is not other.passed
        assert one.score is not None
        assert 0 <= one.score <= 1


@given(st.text())
def test_no_reply_causes_an_error_in_a_check(reply: str) -> None:
    for check in ({"number": 8}, {"is_json": True}, {"json_schema": CITY}, {"regex": r"\w+\s*$"}):
        error = CheckRunner().verdict(parse_check(check), input_of(reply)).error
        assert error is None or ("number" in check and "cannot be read for sure" in error)


@given(st.integers(-(10**12), 10**12), st.text(alphabet="年月 abc，。"))
def test_the_last_number_is_found_in_every_notation(number: int, text: str) -> None:
    for form in (f"{number}", f"{number:,}", f"{number:_}"):
        assert CheckRunner().verdict(parse_check({"number": number}), input_of(f"7 {text} {form}{text}")).passed, form


@given(st.lists(st.tuples(st.sampled_from([True, False, None]), st.floats(0, 1), st.floats(0, 9))))
def test_summed_verdicts_count_judged_checks_and_their_score_is_between_0_and_1(rows: list[Any]) -> None:
    total = sum_verdicts(rows)
    judged = [row for row in rows if row[0] is not None]
    assert (total.passed is None) == (not judged)
    if judged:
        assert (total.passed or 0) + (total.failed or 0) == len(judged)
        assert len(judged) + (total.without_verdict or 0) == len(rows)
    assert total.score is None or -1e-9 <= total.score <= 1 + 1e-9


def test_the_score_is_the_weighted_mean_and_none_without_weight() -> None:
    assert sum_verdicts([(True, 1.0, 3.0), (False, 0.0, 1.0)]) == (1, 1, 0.75, 0)
    assert sum_verdicts([(True, 1.0, 0.0)]) == (1, 0, None, 0)
    assert sum_verdicts([(None, None, 1.0)]) == (None, None, None, 1)
    assert sum_verdicts([]) == (None, None, None, None)


def test_a_score_is_unknown_while_a_check_with_a_weight_has_no_verdict() -> None:
    assert sum_verdicts([(True, 1.0, 1.0), (None, None, 1.0)]) == (1, 0, None, 1)
    assert sum_verdicts([(True, 1.0, 1.0), (None, None, 0.0)]) == (1, 0, 1.0, 1)


@each(
    ("statuses", "passes", "expected"),
    [
        (["ok"], [], None),
        (["error"], [], None),
        (["ok", "blocked"], [True, True], True),
        (["ok"], [True, False], False),
        (["ok", "error"], [True], False),
        (["blocked", "skipped"], [True], False),
        (["ok", "pending"], [False, None], None),
        (["ok"], [True, None], None),
        (["ok"], [False, None], False),
    ],
)
def test_a_dialogue_passes_when_all_its_checks_pass(
    statuses: list[str], passes: list[Any], expected: bool | None
) -> None:
    assert dialogue_pass(statuses, passes) is expected


# Which replies are judged


def made(path: Path, *turns: dict[str, Any], targets: tuple[str, ...] = (REAL,), **more: Any) -> MadeRun:
    return MadeRun(path / "run", [Dialogue.from_plain({"id": "d", "turns": turns, **more})], targets=targets)


def reply(text: str | None, finish: Any = "stop", **more: Any) -> Reply:
    return SEED_REPLY._replace(text=text, finish_reason=finish, **more)


def passed(run: MadeRun) -> list[Any]:
    frame = load(run.write().path).verdicts
    return [None if pd.isna(value) else bool(value) for value in frame["passed"]]


BOTH = [{"contains": "x"}, {"not_contains": "x"}]


def test_a_blocked_reply_is_judged_as_empty_text_even_with_partial_text(tmp_path: Path) -> None:
    run = made(tmp_path, {"user": "q", "checks": [*BOTH, {"finish_reason": "content_filter"}, {"equals": ""}]})
    run.replied(run.ident(0, 1), reply("x half", "content_filter", blocked="output"))
    assert passed(run) == [False, True, True, True]


def test_an_empty_reply_is_judged_as_empty_text(tmp_path: Path) -> None:
    run = made(tmp_path, {"user": "q", "checks": BOTH})
    run.replied(run.ident(0, 1), reply(None))
    assert passed(run) == [False, True]


def test_checks_fail_on_error_and_skipped_rows_even_when_negated(tmp_path: Path) -> None:
    run = made(tmp_path, {"user": "q", "checks": BOTH}, {"user": "r", "checks": BOTH}, checks=BOTH)
    run.failed(run.ident(0, 1), Failure(kind="timeout", message="no answer"), cls="timeout")
    run.turn(run.ident(0, 1), "error")
    run.turn(run.ident(0, 2), "skipped", reason="turn 1 ended error")
    loaded = load(run.write().path)
    assert list(loaded.verdicts["passed"]) == [False] * 6
    assert list(loaded.turns["checks_failed"]) == [2, 2]
    assert list(loaded.verdicts["error"].isna()) == [True] * 6
    assert list(loaded.conversations["dialogue_pass"]) == [False]
    assert "turn 1 has no reply to judge: error" in set(loaded.verdicts["reason"])


def test_pending_turns_have_no_verdict_and_leave_the_dialogue_open(tmp_path: Path) -> None:
    run = made(tmp_path, {"user": "q", "checks": BOTH}, {"user": "r", "checks": BOTH}, checks=BOTH)
    run.replied(run.ident(0, 1), reply("x"))
    assert passed(run) == [True, False, None, None, None, None]
    [row] = load(run.path).conversations.to_dict("records")
    assert pd.isna(row["dialogue_pass"])
    assert pd.isna(row["checks_passed"])
    assert pd.isna(row["score"])
    assert load(run.path).turns["checks_passed"].isna().tolist() == [False, True]


def test_a_dialogue_check_searches_all_replies_and_sums_their_figures(tmp_path: Path) -> None:
    checks = [
        {"contains": "first"}, {"not_contains": "first"}, {"equals": "second"}, {"max_length": 11}, {"max_length": 10},
        {"output_tokens": 384}, {"output_tokens": 383}, {"latency": 1.0}, {"latency": 0.9},
    ]  # fmt: skip
    run = made(tmp_path, {"user": "q"}, {"user": "r"}, checks=checks)
    run.replied(run.ident(0, 1), reply("first"))
    run.replied(run.ident(0, 2), reply("second"))
    assert passed(run) == [True, False, True, True, False, True, False, True, False]
    [row] = load(run.path).conversations.to_dict("records")
    assert (row["checks_passed"], row["checks_failed"], row["dialogue_pass"]) == (5, 4, False)
    assert load(run.path).turns["checks_passed"].isna().tolist() == [True, True]


def test_dialogue_checks_follow_turn_checks_with_their_names_and_weights(tmp_path: Path) -> None:
    run = made(tmp_path, {"user": "q", "checks": [{"contains": "x", "name": "has x", "weight": 2}]}, checks=BOTH)
    run.replied(run.ident(0, 1), reply("x"))
    frame = load(run.write().path).verdicts
    assert frame["check"].tolist() == ["has x", "contains", "not_contains"]
    assert frame["kind"].tolist() == ["contains", "contains", "not_contains"]
    assert frame["weight"].tolist() == [2.0, 1.0, 1.0]
    assert frame["turn"].isna().tolist() == [False, True, True]


def test_an_unknown_token_count_fails_a_bound_instead_of_counting_as_zero(tmp_path: Path) -> None:
    run = made(tmp_path, {"user": "q", "checks": [{"output_tokens": 9}]})
    run.replied(run.ident(0, 1), reply("x", usage=Usage(source="missing")))
    [row] = load(run.write().path).verdicts.to_dict("records")
    assert row["passed"] is False
    assert "did not report" in row["error"]


def test_missing_verdicts_are_rebuilt(tmp_path: Path) -> None:
    run = made(tmp_path, {"user": "q", "checks": BOTH})
    run.replied(run.ident(0, 1), reply("x"))
    folder = run.write()
    write_turns(folder)
    assert is_fresh(folder)
    folder.verdicts.unlink()
    assert not is_fresh(folder)
    assert len(load(folder.path).verdicts) == 2
    assert is_fresh(folder)


@pytest.mark.slow
def test_many_verdicts_are_written_in_order(tmp_path: Path) -> None:
    run = MadeRun(
        tmp_path / "run",
        [dialogue(f"d{n:04}", "q", checks=[{"equals": "x"}] * 5) for n in range(700)],
        targets=(GOOD, DRIFT),
    )
    for n in range(700):
        for target in run.targets:
            run.replied(run.ident(n, 1, target), reply("x" if n % 2 else "y"))
    loaded = load(run.write().path)
    assert len(loaded.verdicts) == 7000
    assert loaded.verdicts["dialogue_index"].tolist() == sorted(loaded.verdicts["dialogue_index"])
    assert [(total.judged, total.passed) for total in loaded.summary()] == [(700, 350), (700, 350)]
    assert loaded.conversations["dialogue_pass"].tolist().count(True) == 700


# Real runs


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cb.run(QUICKSTART, out=tmp_path_factory.mktemp("runs") / "out").path


def test_sim_good_passes_all_of_the_quickstart_and_sim_drift_does_not(quickstart: Path) -> None:
    run = cb.load(quickstart)
    shares = {total.target: (total.passed, total.judged) for total in run.summary()}
    assert shares == {GOOD: (28, 28), DRIFT: (18, 28)}
    assert set(run.verdicts["kind"].str.removeprefix("not_")) <= set(CHECKS)
    [unsure] = run.verdicts["error"].dropna()
    assert '"Two dogs have 2 x 4" cannot be read for sure' in unsure
    assert set(run.verdicts["score"]) == {0.0, 1.0}


def test_turn_rows_and_verdicts_agree(quickstart: Path) -> None:
    run = cb.load(quickstart)
    counted: Counter[Any] = Counter()
    for row in run.verdicts.dropna(subset=["turn"]).to_dict("records"):
        counted[row["dialogue"], row["target"], row["turn"], bool(row["passed"])] += 1
    for row in run.turns.to_dict("records"):
        passed, failed = (counted[row["dialogue"], row["target"], row["turn"], holds] for holds in (True, False))
        assert (row["checks_passed"], row["checks_failed"]) == (passed, failed)


def test_judging_twice_gives_the_same_verdicts(quickstart: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(quickstart, tmp_path / "copy"))
    before = cb.load(copy).verdicts
    assert run_check(CheckOptions(run=str(copy))) == 0
    pd.testing.assert_frame_equal(before, cb.load(copy).verdicts)


@pytest.mark.slow
def test_the_quality_gate_decides_the_exit_code(convbatch: Command, tmp_path: Path) -> None:
    base = ("run", QUICKSTART, "--tag", "code", "--no-progress")
    good = convbatch(*base, "-m", "sim-good@simulator", "-o", "good", "--fail-under", "1")
    assert (good.code, "gate: passed" in good.err, " 2/2" in good.out) == (0, True, True)
    both = convbatch(*base, "-o", "both", CONVBATCH_FAIL_UNDER="95%")
    assert both.code == 1
    assert f"gate: {DRIFT} passed 0 of 2 dialogues, less than --fail-under 0.95" in both.err
    again = convbatch("check", "both", "--fail-under", "0")
    assert (again.code, "failed: code-python-en, turn 2" in again.out) == (0, True)
    assert convbatch("check", "both", "--fail-under", "0.5").code == 1


@pytest.mark.slow
def test_the_quality_gate_of_an_incomplete_run_is_open_until_resume_finishes_it(convbatch: Command) -> None:
    base = ("run", QUICKSTART, "--tag", "code", "-m", "sim-drift@simulator", "--no-progress", "-o", "out")
    cut = convbatch(*base, "--fail-under", "0.9", "--rpm", "60", "--deadline", "1s")
    assert (cut.code, "gate: not decided" in cut.err) == (3, True)
    assert convbatch("check", "out", "--fail-under", "0").code == 3
    assert convbatch("resume", "out", "--rpm", "60000").code == 1


@each(
    ("passed", "judged", "undecided", "open_turns", "decided"),
    [
        (3, 4, 0, 0, True),
        (2, 4, 0, 0, False),
        (3, 4, 1, 0, None),
        (2, 3, 1, 0, None),
        (1, 3, 1, 0, False),
        (0, 0, 4, 0, None),
        (0, 4, 0, 1, None),
        (0, 0, 0, 0, None),
    ],
)
def test_a_gate_fails_before_all_verdicts_are_known_only_if_none_of_them_can_change_it(
    passed: int, judged: int, undecided: int, open_turns: int, decided: bool | None
) -> None:
    counts: dict[str, Any] = dict.fromkeys((field.name for field in dataclasses.fields(TargetSummary)), 0)
    counts |= {"target": "m@g", "passed": passed, "judged": judged, "undecided": undecided, "open": open_turns}
    assert evaluate_gate([TargetSummary(**counts)], "0.75").passed is decided


@each("text", ["1.01", "-0.1", "nan", "inf", "", "half", "101%", "0,9"])
def test_an_invalid_pass_rate_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match="--fail-under needs a share"):
        parse_pass_rate(text)


def test_a_pass_rate_is_a_share_or_a_percentage() -> None:
    assert [parse_pass_rate(text) for text in ("0.95", "95%", "1", ".5", "0", None)] == [
        "0.95",
        "0.95",
        "1",
        "0.5",
        "0",
        None,
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checks", "words"),
    [([], "have no checks"), ([{"llm_rubric": "is polite"}], "there is no judge for 1 llm_rubric check")],
)
def test_a_quality_gate_without_decidable_checks_is_refused_before_any_request(
    checks: list[Any], words: str, convbatch: Command, tmp_path: Path
) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps({"id": "d", "turns": [{"user": "q", "checks": checks}]}))
    done = convbatch("run", "d.jsonl", "-o", "out", "--fail-under", "0.5")
    assert done.code == 2
    assert words in done.err
    assert not (tmp_path / "out").exists()


# Edited checks


def good_passes(path: Path) -> int:
    return next(total.passed for total in cb.load(path).summary() if total.target == GOOD)


def edited(tmp_path: Path, change: Any) -> Path:
    plain = [json.loads(line) for line in QUICKSTART.read_text("utf-8").splitlines()]
    change({one["id"]: one for one in plain})
    path = tmp_path / "edited.jsonl"
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in reversed(plain)), "utf-8")
    return path


def test_edited_checks_are_stored_and_used_by_later_commands(quickstart: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(quickstart, tmp_path / "copy"))

    def change(by_id: dict[str, Any]) -> None:
        by_id["logic-en"]["turns"][0] |= {"assistant": "It is Carl.", "checks": [{"similar": 1, "name": "as scripted"}]}

    assert run_check(CheckOptions(run=str(copy), datasets=(edited(tmp_path, change),))) == 0
    run = cb.load(copy)
    [row] = run.verdicts.query("dialogue == 'logic-en' and turn == 1 and target == @GOOD").to_dict("records")
    assert (row["check"], row["passed"]) == ("as scripted", False)
    assert "It is Carl." in row["reason"]
    assert good_passes(copy) == 27
    (copy / "turns.parquet").unlink()
    assert good_passes(copy) == 27
    assert run_check(CheckOptions(run=str(copy), datasets=(QUICKSTART,))) == 0
    assert good_passes(copy) == 28


def _other_user(by_id: dict[str, Any]) -> None:
    by_id["logic-en"]["turns"][1]["user"] = "Something else?"
    by_id["story-en"]["system"] = "Be someone else."
    by_id["units-en"]["turns"].pop()
    by_id["poem-zh"]["id"] = "poem"
    by_id["paws-en"]["tools"] = [{"name": "count_paws"}]


def test_checks_of_different_dialogues_are_refused_with_their_number_and_places(
    quickstart: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(quickstart, tmp_path / "copy"))
    with pytest.raises(InputError) as caught:
        run_check(CheckOptions(run=str(copy), datasets=(edited(tmp_path, _other_user),)))
    text = str(caught.value)
    for words in (
        'turn 2: "user"',
        "system text",
        "3 turns in the run, 2 here",
        "'poem-zh'",
        '"tools" differ',
        "5 dialogues of the run",
    ):
        assert words in text
    assert re.search(r"edited\.jsonl:\d+: dialogue 'logic-en'", text)
    assert sorted(path.name for path in copy.iterdir()) == sorted(path.name for path in quickstart.iterdir())


def test_an_invalid_line_of_an_edited_dataset_is_an_input_error(quickstart: Path, tmp_path: Path) -> None:
    def change(by_id: dict[str, Any]) -> None:
        by_id["logic-en"]["turns"][0]["checks"] = [{"regex": "("}]

    with pytest.raises(InputError, match="regular expression that compiles"):
        run_check(CheckOptions(run=str(quickstart), datasets=(edited(tmp_path, change),)))


def test_a_check_of_a_run_without_checks_is_refused(tmp_path: Path) -> None:
    run = made(tmp_path, {"user": "q"})
    run.replied(run.ident(0, 1))
    with pytest.raises(SetupError, match="no checks to judge"):
        run_check(CheckOptions(run=str(run.write().path)))


def test_damaged_stored_checks_are_an_error_with_a_remedy(quickstart: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(quickstart, tmp_path / "copy"))
    (copy / "checks.jsonl.gz").write_bytes(b"no gzip at all")
    with pytest.raises(InputError, match="remove it to use the checks of the start of the run") as caught:
        cb.load(copy).summary()
    assert "checks.jsonl.gz" in str(caught.value)
    (copy / "checks.jsonl.gz").unlink()
    assert good_passes(copy) == 28


def test_model_output_is_escaped_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path, {"user": "q", "checks": [{"contains": "x"}]})
    run.replied(run.ident(0, 1), reply("\x1b]0;evil\x07 \u202eevil"))
    assert run_check(CheckOptions(run=str(run.write().path))) == 0
    printed = capsys.readouterr().out
    assert "failed: d, turn 1" in printed
    assert not {"\x1b", "\x07", "\u202e"} & set(printed)


def test_a_run_whose_verdicts_cannot_be_written_is_still_judged(tmp_path: Path) -> None:
    run = made(tmp_path, {"user": "q", "checks": BOTH})
    run.replied(run.ident(0, 1), reply("x"))
    folder = run.write()
    (folder.verdicts / "in the way").mkdir(parents=True)
    assert run_check(CheckOptions(run=str(folder.path), fail_under="0")) == 0


# Custom checks


def install(site: Path) -> Path:
    """Install the example as `pip install` does: its module and its entry points."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text("utf-8"))
    (info := site / "shop_checks-0.1.0.dist-info").mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-checks\nVersion: 0.1.0\n")
    entries = project["project"]["entry-points"]["convbatch.checks"]
    lines = [f"{name} = {place}" for name, place in entries.items()]
    lines += [
        f"{name} = trouble:{name}"
        for name in ("raises", "leaves", "babbles", "prints", "numpys", "unspeakable", "gone")
    ]
    (info / "entry_points.txt").write_text("[convbatch.checks]\n" + "\n".join(lines) + "\n")
    shutil.copy(EXAMPLE / "shop_checks.py", site)
    (site / "trouble.py").write_text(
        "import sys\ndef raises(check_input): raise ValueError('no\\nway')\ndef leaves(check_input): sys.exit(3)\n"
        "def babbles(check_input): return 'yes'\ndef prints(check_input): print('noise'); return True\n"
        "def numpys(check_input):\n    import numpy\n    return numpy.float64(0.25), numpy.str_('a quarter')\n"
        "class Unspeakable(Exception):\n    def __str__(self): raise ValueError('no words')\n"
        "def unspeakable(check_input): raise Unspeakable\n"
    )
    return site


NAMES = (
    "no_invented_numbers",
    "answers_in_chinese",
    "prints",
    "numpys",
    "raises",
    "leaves",
    "babbles",
    "unspeakable",
    "gone",
    "not_installed",
)


@pytest.mark.slow
def test_installed_checks_run_and_their_faults_are_errors(command: Command, tmp_path: Path) -> None:
    checks: list[dict[str, Any]] = [{"python": name} for name in NAMES]
    script = {"id": "d", "turns": [{"user": "2加2？", "assistant": "答案是 4。", "checks": checks}]}
    (tmp_path / "d.jsonl").write_text(json.dumps(script, ensure_ascii=False), "utf-8")
    path = f"{install(tmp_path / 'site')}:{ROOT}"
    done = command("run", "d.jsonl", "-m", "sim-good@simulator", "-o", "out", "--no-progress", PYTHONPATH=path)
    assert done.code == 0, done.err
    assert "no installed package provides the check 'not_installed'" in done.err
    assert "'gone'" not in done.err
    found = cb.load(tmp_path / "out").verdicts.to_dict("records")
    assert [row["passed"] for row in found] == [True, True, True, *[False] * 7]
    assert found[0]["reason"] == "every number was given"
    assert ([row["score"] for row in found[2:4]], found[3]["reason"]) == ([1.0, 0.25], "a quarter")
    assert ("noise" in done.out, "noise" in done.err) == (False, True)
    errors = (
        "ValueError: no way",
        "SystemExit: 3",
        "'babbles' must return",
        "no words",
        "gone",
        "no installed package",
    )
    assert [words in str(row["error"]) for words, row in zip(errors, found[4:], strict=True)] == [True] * 6


@pytest.mark.slow
def test_validate_notes_a_check_that_no_package_provides(convbatch: Command, tmp_path: Path) -> None:
    script = {"id": "d", "turns": [{"user": "q", "checks": [{"not_python": "not_installed"}]}]}
    (tmp_path / "d.jsonl").write_text(json.dumps(script))
    done = convbatch("validate", "d.jsonl")
    assert (done.code, "'not_installed'" in done.err) == (0, True)
    assert "not_installed" in json.loads(convbatch("validate", "d.jsonl", "--json").out)["notes"][0]


@pytest.mark.slow
def test_run_and_check_note_that_a_rubric_without_a_judge_has_no_verdict(convbatch: Command, tmp_path: Path) -> None:
    script = {"id": "d", "turns": [{"user": "q", "checks": [{"llm_rubric": "is polite"}, {"max_length": 9999}]}]}
    (tmp_path / "d.jsonl").write_text(json.dumps(script))
    done = convbatch("run", "d.jsonl", "-m", "sim-good@simulator", "-o", "out", "--no-progress")
    assert "get no verdict without a --judge" in done.err
    assert "1 dialogue neither passed nor failed" in done.out
    again = convbatch("check", "out")
    assert (again.code, "1 check without a verdict: no judge has been asked" in again.err) == (0, True)
    assert convbatch("check", "out", "--fail-under", "0").code == 3


def test_the_docs_list_every_check_kind_with_valid_examples() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (`\{.*?) \| ", (ROOT / "docs" / "checks.md").read_text("utf-8"), re.MULTILINE)
    assert [kind for kind, _ in rows] == list(CHECKS)
    tools = [{"name": "now"}, {"name": "find"}]
    for kind, examples in rows:
        for text in re.findall(r"`(\{.*?\})`(?=,| or|$)", examples):
            check = orjson.loads(text)
            assert list(check) == [kind]
            assert issues_of({"turns": [{"user": "q", "assistant": "a", "checks": [check]}], "tools": tools}) == [], (
                text
            )


def test_the_docs_describe_every_check_kind_as_the_registry_does() -> None:
    page = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", (ROOT / "docs" / "checks.md").read_text("utf-8"))
    rows = re.findall(r"^\| `(\w+)` \| `\{.*\}` \| (.*) \|$", page, re.MULTILINE)
    assert rows == [(kind.name, kind.doc) for kind in CHECKS.values()]


def test_judging_imports_optional_libraries_only_for_checks_that_need_them(
    tmp_path: Path,
) -> None:
    run = made(tmp_path, {"user": "q", "checks": BOTH})
    run.replied(run.ident(0, 1), reply("x"))
    code = f"import sys, convbatch; convbatch.load({str(run.write().path)!r}).summary(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert {"jsonschema", "rapidfuzz", "regex", "pandas"} & set(done.stdout.split()) == set()
