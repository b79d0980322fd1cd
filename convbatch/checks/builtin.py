"""The built-in kinds of checks: one row in `CHECKS` for each, with its argument, its evaluation and its documentation.

Pure functions from a reply to a verdict. Which replies a check applies to and what becomes of its verdict is
`results/verdicts.py`. Arguments are validated when a dataset is read (`dataset/schema.py`) and trusted afterwards.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Overflow, localcontext
from fractions import Fraction
from typing import Any, get_args

from convbatch.checks.custom import evaluate_custom
from convbatch.checks.differences import absence, difference, normalized, visible
from convbatch.checks.image import image, image_argument
from convbatch.checks.json_schema import NotJson, first_violation, parse_reply_json, schema_problem
from convbatch.checks.numbers import LOCALES, last_number
from convbatch.checks.safe_regex import (
    CheckError,
    CheckTimeout,
    pattern_problem,
    quote_excerpt,
    search,
    time_limit,
)
from convbatch.checks.tool_calls import (
    call_argument_problem,
    call_site_problem,
    evaluate_call,
    evaluate_valid_calls,
    valid_calls_site_problem,
)
from convbatch.checks.values import (
    COMPARES_TARGETS,
    NEEDS_A_JUDGE,
    Check,
    CheckInput,
    CheckKind,
    CheckSite,
    Finding,
    Verdict,
    error_verdict,
    to_verdict,
)
from convbatch.pricing import Money, display_amount, exact, parse_money
from convbatch.reply import FinishReason

MAX_TIMEOUTS = 3
"""After this many timeouts a check is not evaluated again, so that a run always ends."""
SIMILAR_THRESHOLD = 0.8
LONGEST_COMPARED = 2 * 10**9
"""Product of the lengths of two compared texts, in characters; about one second of CPU time."""


class CheckRunner:
    """Evaluates checks, and stops evaluating those that time out repeatedly."""

    def __init__(self) -> None:
        self._timeouts: Counter[str] = Counter()

    def verdict(self, check: Check, check_input: CheckInput) -> Verdict:
        """Evaluate one check; an exception inside it becomes the verdict's `error` and is never raised."""
        kind = check.plain_kind
        key = f"{kind} {check.argument!r}"
        try:
            if self._timeouts[key] >= MAX_TIMEOUTS:
                raise CheckError(f"not tried again: it ran out of time {MAX_TIMEOUTS} times")
            with time_limit(check.time_limit_s):
                finding = CHECKS[kind].evaluate(*(_normalized_parts if check.normalize else _parts)(check, check_input))
        except CheckTimeout as error:
            self._timeouts[key] += 1
            return error_verdict(str(error))
        except CheckError as error:
            return error_verdict(str(error))
        except Exception as error:  # noqa: BLE001  # any exception of a check is a verdict; it must not end the run
            return error_verdict(f"{type(error).__name__}: {error}")
        return to_verdict(check, finding)


def _parts(check: Check, check_input: CheckInput) -> tuple[Any, CheckInput]:
    return check.argument, check_input


def _normalized_parts(check: Check, check_input: CheckInput) -> tuple[Any, CheckInput]:
    argument = check.argument
    argument = normalized(argument) if isinstance(argument, str) else [normalized(text) for text in argument]
    return argument, replace(check_input, replies=tuple(map(normalized, check_input.replies)))


# Arguments. Each function returns None for a valid argument, else a description of valid ones.


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Whether a JSON value is a text that is not empty."""
    return isinstance(value, str) and bool(value)


def _text_argument(value: Any) -> str | None:
    return None if is_text(value) else 'text, e.g. "27"'


def _true_argument(value: Any) -> str | None:
    return None if value is True else "true (put not_ in front of the kind to negate)"


def _length_argument(value: Any) -> str | None:
    return None if is_number(value) and isinstance(value, int) and value >= 0 else "a whole number, 0 or more"


def _texts_argument(value: Any) -> str | None:
    valid = isinstance(value, list) and bool(value) and all(is_text(item) for item in value)
    return None if valid else 'a list of texts, e.g. ["27", "twenty-seven"]'


def normalize_problem(kind: str, argument: Any, value: Any) -> tuple[str, str] | None:
    """Return why `normalize` does not fit a valid check, with a hint; None when it does."""
    if not isinstance(value, bool):
        return '"normalize" must be true or false', 'e.g. "normalize": true'
    if not CHECKS[kind.removeprefix("not_")].compares_text:
        able = ", ".join(one.name for one in _KINDS if one.compares_text)
        return f'"normalize" does not apply to "{kind}"', f"it is for the kinds {able}"
    texts = [argument] if isinstance(argument, str) else argument
    if value and kind.removeprefix("not_") != "equals" and not all(map(normalized, texts)):
        return '"normalize" leaves nothing of the text', "the text has only zero-width characters; write visible ones"
    return None


MOST_TIME_S = 600


def time_limit_problem(kind: str, value: Any) -> tuple[str, str] | None:
    """Return why `time_limit` does not fit a check, with a hint; None when it does."""
    if not is_number(value) or not 0 < value <= MOST_TIME_S:
        return f'"time_limit" must be seconds, more than 0 and at most {MOST_TIME_S}', 'e.g. "time_limit": 10'
    if not CHECKS[kind.removeprefix("not_")].has_time_limit:
        able = ", ".join(one.name for one in _KINDS if one.has_time_limit)
        return f'"time_limit" does not apply to "{kind}"', f"it is for the kinds {able}"
    return None


# Texts


def _equals_argument(value: Any) -> str | None:
    return None if isinstance(value, str) else 'text, e.g. "Paris"'


def _equals(argument: str, check_input: CheckInput) -> Finding:
    reply, wanted = check_input.reply.strip(), argument.strip()
    if reply == wanted:
        return Finding(True, f"is {visible(wanted)}")
    return Finding(False, f"is {difference(reply, wanted)}")


def _contains(argument: str, check_input: CheckInput) -> Finding:
    return _text_finding(argument, argument in check_input.text, check_input)


def _icontains(argument: str, check_input: CheckInput) -> Finding:
    found = argument.casefold() in check_input.text.casefold()
    return _text_finding(argument, found, check_input, ignore_case=True)


def _text_finding(wanted: str, found: bool, check_input: CheckInput, *, ignore_case: bool = False) -> Finding:
    if found:
        return Finding(True, f"has {visible(wanted)}")
    return Finding(False, f"lacks {visible(wanted)}{_instead([wanted], check_input.text, ignore_case=ignore_case)}")


def _contains_any(argument: Sequence[str], check_input: CheckInput) -> Finding:
    text = check_input.text
    found = next((wanted for wanted in argument if wanted in text), None)
    if found is not None:
        return Finding(True, f"has {visible(found)}")
    return Finding(False, f"has none of {_listed(argument)}{_instead(argument, text)}")


def _contains_all(argument: Sequence[str], check_input: CheckInput) -> Finding:
    text = check_input.text
    missing = [wanted for wanted in argument if wanted not in text]
    if missing:
        return Finding(False, f"lacks {_listed(missing)}{_instead(missing, text)}")
    return Finding(True, f"has {_listed(argument)}")


def _instead(missing: Sequence[str], text: str, *, ignore_case: bool = False) -> str:
    """Describe what a text has in place of one of the missing texts, else how it starts."""
    for wanted in missing[:5]:
        if (similar := absence(text, wanted, ignore_case=ignore_case)) is not None:
            return f": has {similar}"
    return f": {quote_excerpt(text)}"


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - 5} more" if len(texts) > 5 else ""
    return ", ".join(map(visible, texts[:5])) + more


def _starts_with(argument: str, check_input: CheckInput) -> Finding:
    text = check_input.reply
    if text.startswith(argument):
        return Finding(True, f"starts with {visible(argument)}")
    return Finding(False, f"starts with {difference(text[: len(argument)], argument)}")


def _max_length(argument: int, check_input: CheckInput) -> Finding:
    length = sum(map(len, check_input.replies))
    return Finding(length <= argument, f"{length:,} characters, limit {argument:,}")


# Patterns and JSON


def _regex_argument(value: Any) -> str | None:
    if not is_text(value):
        return r'a regular expression as text, e.g. "\\b27\\b"'
    problem = pattern_problem(value)
    return None if problem is None else f"a regular expression that compiles ({problem})"


def _regex(argument: str, check_input: CheckInput) -> Finding:
    text = check_input.text
    found = search(argument, text)
    if found:
        return Finding(True, f"{quote_excerpt(argument)} matches {quote_excerpt(found[0])}")
    return Finding(False, f"{quote_excerpt(argument)} matches nowhere: {quote_excerpt(text)}")


def _is_json(argument: bool, check_input: CheckInput) -> Finding:
    del argument
    try:
        parse_reply_json(check_input.reply)
    except NotJson as error:
        return Finding(False, str(error))
    return Finding(True, "is JSON")


def _schema_argument(value: Any) -> str | None:
    if not isinstance(value, dict):
        return 'a JSON Schema object, e.g. {"type": "object"}'
    problem = schema_problem(json.dumps(value))
    return None if problem is None else f"a JSON Schema ({problem})"


def _json_schema(argument: Mapping[str, Any], check_input: CheckInput) -> Finding:
    try:
        value = parse_reply_json(check_input.reply)
    except NotJson as error:
        return Finding(False, str(error))
    violation = first_violation(value, json.dumps(argument))
    return Finding(True, "valid against the JSON Schema") if violation is None else Finding(False, violation)


# Numbers and similarity


_NUMBER_FORM = 'a number or {"value": 8, "tolerance": 0.5, "locale": "de", "unit": "km"}; "value" is required'


def _number_argument(value: Any) -> str | None:
    if is_number(value):
        return None
    if not isinstance(value, dict) or "value" not in value or not set(value) <= _NUMBER_KEYS:
        return _NUMBER_FORM
    tolerance = value.get("tolerance", 0)
    if not (is_number(value["value"]) and is_number(tolerance) and tolerance >= 0):
        return _NUMBER_FORM
    if value.get("locale", LOCALES[0]) not in LOCALES:
        return f'"locale" as one of {", ".join(LOCALES)}'
    unit = value.get("unit", "km")
    valid = isinstance(unit, str) and unit == unit.strip() and unit != "" and not any(map(str.isdecimal, unit))
    return None if valid else '"unit" as text without digits, e.g. "km"'


_NUMBER_KEYS = {"value", "tolerance", "locale", "unit"}


def _number(argument: Any, check_input: CheckInput) -> Finding:
    options = argument if isinstance(argument, dict) else {"value": argument}
    value, tolerance, unit = options["value"], options.get("tolerance", 0), options.get("unit")
    expected = (f"{value} ± {tolerance}" if tolerance else f"{value}") + (f" {unit}" if unit else "")
    found = last_number(check_input.text, locale=options.get("locale"), unit=unit)
    if found is None:
        what = f"number with the unit {quote_excerpt(unit)}" if unit else "number"
        return Finding(False, f"has no {what}, expected {expected}: {quote_excerpt(check_input.text)}")
    with localcontext() as context:
        context.prec = 60
        context.traps[Overflow] = False
        near = abs(found - exact(value)) <= exact(tolerance)
    return Finding(bool(near), f"the last number is {quote_excerpt(str(found))[1:-1]}, expected {expected}")


def _similar_argument(value: Any) -> str | None:
    if value is True or is_text(value) or (is_number(value) and 0 < value <= 1):
        return None
    if isinstance(value, dict) and value and set(value) <= {"to", "threshold"}:
        threshold = value.get("threshold", SIMILAR_THRESHOLD)
        if is_text(value.get("to", "x")) and is_number(threshold) and 0 < threshold <= 1:
            return None
    return 'true, a text, a threshold up to 1, or {"to": "…", "threshold": 0.8}'


def _similar_site_problem(key: str, argument: Any, site: CheckSite) -> tuple[str, str] | None:
    names_a_text = isinstance(argument, str) or (isinstance(argument, dict) and "to" in argument)
    if site.has_reference or names_a_text:
        return None
    return f'"{key}" has nothing to compare with', 'add "assistant" to the turn, or give the text: {"to": "…"}'


def _similar(argument: Any, check_input: CheckInput) -> Finding:
    from rapidfuzz.distance import Indel

    options: Mapping[str, Any] = argument if isinstance(argument, dict) else {}
    text: str | None = argument if isinstance(argument, str) else options.get("to", check_input.assistant)
    threshold = options.get("threshold", SIMILAR_THRESHOLD)
    if isinstance(argument, int | float) and not isinstance(argument, bool):
        threshold = argument
    if text is None:
        raise CheckError('nothing to compare with: the turn has no "assistant"')
    if len(text) * len(check_input.reply) > LONGEST_COMPARED:
        raise CheckError(f"{len(check_input.reply):,} characters are too many to compare with {len(text):,}")
    size = len(check_input.reply) + len(text)
    # A ratio of floats misses thresholds that it equals: 1 - 16 / 50 is less than 0.68.
    ratio = 1 - Fraction(Indel.distance(check_input.reply, text), size or 1)
    reason = f"similarity {float(ratio):.3f} to {quote_excerpt(text)}, threshold {threshold:g}"
    return Finding(ratio >= Fraction(exact(threshold)), reason, float(ratio))


# Properties of the reply

_FINISH_REASONS = get_args(FinishReason)


def _finish_argument(value: Any) -> str | None:
    words = value if isinstance(value, list) and value else [value]
    return None if all(word in _FINISH_REASONS for word in words) else "one of " + ", ".join(_FINISH_REASONS)


def _finish_reason(argument: Any, check_input: CheckInput) -> Finding:
    wanted = [argument] if isinstance(argument, str) else argument
    reason = f"finish reason {check_input.finish_reason}, expected {' or '.join(wanted)}"
    return Finding(check_input.finish_reason in wanted, reason)


def _seconds_argument(value: Any) -> str | None:
    return None if is_number(value) and value > 0 else "seconds, more than 0, e.g. 2.5"


def _latency(argument: float, check_input: CheckInput) -> Finding:
    if check_input.latency_s is None:
        raise CheckError("the latency is unknown")
    return Finding(check_input.latency_s <= argument, f"{check_input.latency_s:.3f} s, limit {argument:g} s")


def _output_tokens(argument: int, check_input: CheckInput) -> Finding:
    tokens = check_input.output_tokens
    if tokens is None:
        raise CheckError("the number of output tokens is unknown: the gateway did not report it")
    return Finding(tokens <= argument, f"{tokens:,} output tokens, limit {argument:,}")


_MONEY = re.compile(r"[0-9]+(\.[0-9]+)? ?[A-Z]{3}")


def _cost_argument(value: Any) -> str | None:
    valid = (is_number(value) and value >= 0) or (isinstance(value, str) and _MONEY.fullmatch(value) is not None)
    return None if valid else 'an amount, 0 or more, e.g. 0.002 or "0.002USD"'


def _cost(argument: Any, check_input: CheckInput) -> Finding:
    if check_input.cost is None:
        raise CheckError("the cost is unknown: no price, or no token count")
    amount, currency = parse_money(argument) or (None, None) if isinstance(argument, str) else (exact(argument), None)
    assert amount is not None, argument  # `_cost_argument` has validated it
    cost: Money | None = check_input.cost
    if currency is not None:
        cost = check_input.rates.convert(check_input.cost, currency)
        if cost is None:
            pair = f"{check_input.cost.currency}/{currency}"
            raise CheckError(f"it cost {check_input.cost}, and [rates] has no {pair}")
    return Finding(cost.amount <= amount, f"cost {cost}, limit {display_amount(amount)} {cost.currency}")


def _llm_rubric(argument: str, check_input: CheckInput) -> Finding:
    del argument, check_input
    raise CheckError("a judge evaluates this check")


def _prefer_argument(value: Any) -> str | None:
    valid = isinstance(value, dict) and set(value) == {"rubric"} and is_text(value["rubric"])
    return None if valid else 'what makes a reply better: {"rubric": "…"}'


def _prefer_site_problem(key: str, argument: Any, site: CheckSite) -> tuple[str, str] | None:
    del argument, site
    if key == COMPARES_TARGETS:
        return None
    return f'"{key}" is no check', 'a preference has no opposite: write {"prefer": {"rubric": "…"}}'


def _prefer(argument: Any, check_input: CheckInput) -> Finding:
    del argument, check_input
    raise CheckError("it compares two targets: `convbatch prefer` asks it")


_KINDS = (
    CheckKind(
        "equals",
        _equals_argument,
        _equals,
        "the reply equals this text, ignoring outer white space",
        compares_text=True,
    ),
    CheckKind("contains", _text_argument, _contains, "the reply contains this text", compares_text=True),
    CheckKind("icontains", _text_argument, _icontains, "the same, ignoring case", compares_text=True),
    CheckKind(
        "contains_any", _texts_argument, _contains_any, "it contains at least one of the texts", compares_text=True
    ),
    CheckKind("contains_all", _texts_argument, _contains_all, "it contains all of them", compares_text=True),
    CheckKind("starts_with", _text_argument, _starts_with, "it starts with this text", compares_text=True),
    CheckKind(
        "regex",
        _regex_argument,
        _regex,
        "the pattern matches somewhere in it (`^`, `$`, `(?i)`, `(?s)` as in Python)",
        has_time_limit=True,
    ),
    CheckKind(
        "is_json",
        _true_argument,
        _is_json,
        "the whole reply is one JSON value; one code fence around it is allowed",
    ),
    CheckKind(
        "json_schema", _schema_argument, _json_schema, "it is JSON, valid against the JSON Schema", has_time_limit=True
    ),
    CheckKind(
        "number",
        _number_argument,
        _number,
        "the last number in it equals this one within the tolerance (default 0)",
    ),
    CheckKind(
        "similar",
        _similar_argument,
        _similar,
        "its similarity to the scripted `assistant`, or to the text, reaches the threshold (default 0.8)",
        _similar_site_problem,
    ),
    CheckKind("finish_reason", _finish_argument, _finish_reason, "it has this finish reason"),
    CheckKind("max_length", _length_argument, _max_length, "it has at most this many characters"),
    CheckKind("latency", _seconds_argument, _latency, "it took at most this many seconds, without our own waiting"),
    CheckKind(
        "output_tokens", _length_argument, _output_tokens, "it used at most this many tokens, reasoning included"
    ),
    CheckKind(
        "cost",
        _cost_argument,
        _cost,
        "it cost at most this; a bare amount is in the target's currency, any other currency needs `[rates]`",
    ),
    CheckKind("image", image_argument, image, "the reply has a picture, or this many, of this size and type"),
    CheckKind(
        "tool_call",
        call_argument_problem,
        evaluate_call,
        "any tool was called, none, this tool, with at least or exactly these arguments, with arguments that fit a "
        "JSON Schema, or these tools in this order",
        call_site_problem,
        has_time_limit=True,
    ),
    CheckKind(
        "tool_calls_valid",
        _true_argument,
        evaluate_valid_calls,
        "every call names a declared tool and has arguments that fit its `parameters`; also without calls",
        valid_calls_site_problem,
        has_time_limit=True,
    ),
    CheckKind(NEEDS_A_JUDGE, _text_argument, _llm_rubric, "another model says so: a judge"),
    CheckKind(
        COMPARES_TARGETS,
        _prefer_argument,
        _prefer,
        "never by itself: `convbatch prefer` asks a judge which of two targets replied better: preferences.md",
        _prefer_site_problem,
    ),
    CheckKind(
        "python",
        _text_argument,
        evaluate_custom,
        "a function of an installed package says so: a custom check",
        has_time_limit=True,
    ),
)
CHECKS: Mapping[str, CheckKind] = {kind.name: kind for kind in _KINDS}
"""All kinds by name, in the order of the documentation."""
