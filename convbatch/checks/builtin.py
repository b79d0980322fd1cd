"""One check and what was said → a verdict with its reason. Pure functions in the table `CHECKS`, one a kind.

Nothing here knows a run, a file or a frame: which replies a check looks at, and what becomes of its verdict, is
`results/verdicts.py`. Arguments are validated with the dataset (`dataset/schema.py`) and trusted here.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, Overflow, localcontext
from typing import Any, NamedTuple, TypeGuard

from convbatch.checks.json_schema import NotJson, first_violation, parse_reply_json
from convbatch.checks.safe_regex import SEARCH_LIMIT_S, CheckError, CheckTimeout, compile_pattern, quote_excerpt, search
from convbatch.dialogue import Dialogue
from convbatch.pricing import NO_EXCHANGE_RATES, ExchangeRates, Money, display_amount, exact, parse_money

GROUP = "convbatch.checks"
"""The entry-point group of `python` checks."""
NEEDS_A_JUDGE = "llm_rubric"
"""The one kind whose verdict is another model's: `llm_rubric.py`."""
CALL_LIMIT_S = 30.0
MAX_TIMEOUTS = 3
"""So often one check may run out of time before it is given up: a run must end."""
SIMILAR_THRESHOLD = 0.8
LONGEST_COMPARED = 2 * 10**9
"""Characters of the one text times characters of the other: about a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalledTool:
    """A call the model made."""

    name: str
    arguments: Any
    """Parsed, or the raw string where it is not JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckInput:
    """What a check looks at: one reply, or all replies of a dialogue. `python` checks are given this.

    Of a whole dialogue, counts are sums and None when one of them is unknown.
    """

    dialogue: Dialogue
    """The script: its id, tags, `meta`, and turns with what was scripted."""
    target: str
    repeat: int
    turn: int | None
    """From 1; None: the whole dialogue is looked at."""
    user: str
    """The message that was answered; of a dialogue, the last one."""
    replies: tuple[str, ...]
    """The text looked at: of one turn, or of all asked turns. `""` for a blocked or empty reply."""
    status: str
    """`ok`, `blocked` or `empty`; of a dialogue, that of its last turn."""
    assistant: str | None = None
    """The scripted reply to compare with; None without one, and for a whole dialogue."""
    finish_reason: str | None = None
    """Of a dialogue, that of its last turn."""
    tool_calls: tuple[CalledTool, ...] = ()
    output_tokens: int | None = None
    latency_s: float | None = None
    cost: Money | None = None
    rates: ExchangeRates = field(default=NO_EXCHANGE_RATES, repr=False)

    @property
    def reply(self) -> str:
        """The reply; of a dialogue, the last one."""
        return self.replies[-1]

    @property
    def text(self) -> str:
        """All that is looked at, a line end between two replies."""
        return "\n".join(self.replies)


class Finding(NamedTuple):
    """What a kind found, before `not_` turns it round."""

    holds: bool
    reason: str
    """A statement of fact that reads well whether the check passed or failed."""
    score: float | None = None
    """From 0 to 1 where there is more to tell than yes or no."""


class Verdict(NamedTuple):
    """What a check says."""

    passed: bool | None
    """None: not judged."""
    score: float | None
    """From 0 to 1; None where it was not judged."""
    reason: str
    error: str | None = None
    """Why the check itself could not be carried out; it counts as not passed."""


class Check(NamedTuple):
    """A check of a dataset, taken apart."""

    name: str
    """As the dataset calls it, else its kind."""
    kind: str
    """With its `not_`."""
    argument: Any
    weight: float

    @property
    def plain_kind(self) -> str:
        """Without `not_`."""
        return self.kind.removeprefix("not_")


def parse_check(check: Mapping[str, Any]) -> Check:
    """A check as it stands in a dataset; trusts that it is well formed."""
    kind = next(key for key in check if key not in ("weight", "name"))
    return Check(name=check.get("name", kind), kind=kind, argument=check[kind], weight=float(check.get("weight", 1.0)))


class CheckRunner:
    """Gives verdicts, and remembers which checks keep running out of time."""

    def __init__(self) -> None:
        self._timeouts: Counter[str] = Counter()

    def verdict(self, check: Check, check_input: CheckInput) -> Verdict:
        """What one check says of what was said; an exception of the check is its verdict's `error`, never ours."""
        kind = check.plain_kind
        key = f"{kind} {check.argument!r}"
        try:
            if self._timeouts[key] >= MAX_TIMEOUTS:
                raise CheckError(f"not tried again: it ran out of time {MAX_TIMEOUTS} times")
            finding = CHECKS[kind](check.argument, check_input)
        except CheckTimeout as error:
            self._timeouts[key] += 1
            return error_verdict(str(error))
        except CheckError as error:
            return error_verdict(str(error))
        except Exception as error:  # noqa: BLE001  # whatever a check meets in a reply is a verdict, not the end of a run
            return error_verdict(f"{type(error).__name__}: {error}")
        return to_verdict(check, finding)


def to_verdict(check: Check, finding: Finding) -> Verdict:
    """What was found, as the check has it."""
    return _plain_verdict(finding) if check.kind == check.plain_kind else _negated_verdict(finding)


def _plain_verdict(finding: Finding) -> Verdict:
    score = float(finding.holds) if finding.score is None else finding.score
    return Verdict(finding.holds, score, finding.reason)


def _negated_verdict(finding: Finding) -> Verdict:
    score = float(not finding.holds) if finding.score is None else 1.0 - finding.score
    return Verdict(not finding.holds, score, finding.reason)


def error_verdict(why: str) -> Verdict:
    """Of a check that could not be carried out; it counts as not passed."""
    why = " ".join(why.split())[:500]
    return Verdict(False, 0.0, f"the check could not be carried out: {why}", why)


# Texts


def _equals(argument: str, check_input: CheckInput) -> Finding:
    if check_input.reply.strip() == argument.strip():
        return Finding(True, f"is {quote_excerpt(argument)}")
    return Finding(False, f"is {quote_excerpt(check_input.reply)}, not {quote_excerpt(argument)}")


def _contains(argument: str, check_input: CheckInput) -> Finding:
    return _has(argument, argument in check_input.text, check_input)


def _icontains(argument: str, check_input: CheckInput) -> Finding:
    return _has(argument, argument.casefold() in check_input.text.casefold(), check_input)


def _has(wanted: str, has: bool, check_input: CheckInput) -> Finding:
    if has:
        return Finding(True, f"has {quote_excerpt(wanted)}")
    return Finding(False, f"lacks {quote_excerpt(wanted)}: {quote_excerpt(check_input.text)}")


def _contains_any(argument: Sequence[str], check_input: CheckInput) -> Finding:
    text = check_input.text
    found = next((wanted for wanted in argument if wanted in text), None)
    if found is not None:
        return Finding(True, f"has {quote_excerpt(found)}")
    return Finding(False, f"has none of {_listed(argument)}: {quote_excerpt(text)}")


def _contains_all(argument: Sequence[str], check_input: CheckInput) -> Finding:
    text = check_input.text
    missing = [wanted for wanted in argument if wanted not in text]
    if missing:
        return Finding(False, f"lacks {_listed(missing)}: {quote_excerpt(text)}")
    return Finding(True, f"has {_listed(argument)}")


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - 5} more" if len(texts) > 5 else ""
    return ", ".join(map(quote_excerpt, texts[:5])) + more


def _starts_with(argument: str, check_input: CheckInput) -> Finding:
    text = check_input.reply
    if text.startswith(argument):
        return Finding(True, f"begins with {quote_excerpt(argument)}")
    return Finding(
        False, f"begins with {quote_excerpt(text[: max(len(argument), 20)])}, not with {quote_excerpt(argument)}"
    )


def _max_length(argument: int, check_input: CheckInput) -> Finding:
    length = sum(map(len, check_input.replies))
    return Finding(length <= argument, f"{length:,} characters, at most {argument:,} asked")


# Patterns and JSON


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


def _json_schema(argument: Mapping[str, Any], check_input: CheckInput) -> Finding:
    try:
        value = parse_reply_json(check_input.reply)
    except NotJson as error:
        return Finding(False, str(error))
    found = first_violation(value, json.dumps(argument))
    return Finding(True, "is as the JSON Schema asks") if found is None else Finding(False, found)


# Numbers

_PLAIN_NUMBER = str.maketrans("０１２３４５６７８９＋－−﹣", "0123456789+---")
_NUMBER = (
    r"(?:(?<![\w)\]])[+-]|(?<=负)-?|)"  # a sign stands free: in 3-5 and A-1047 it is a dash
    r"(?:(?:\d{1,3}(?:[,'’_\u00a0\u2009\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\d.])\.\d+)"
    r"(?:[eE][+-]?\d{1,6}(?![\w.]))?"
)
_WIDE_MARK = r"(?<=[０-９])[，．](?=[０-９])"


def last_number(text: str) -> Decimal | None:
    """The last number written in digits; None without one.

    Thousands may be parted by commas, apostrophes, underscores or narrow spaces, digits may be full-width, and 负 is a
    minus. A comma without three digits behind it parts two numbers.
    """
    found = None
    narrow = compile_pattern(_WIDE_MARK).sub(lambda mark: "," if mark[0] == "，" else ".", text)
    narrow = narrow.translate(_PLAIN_NUMBER)
    try:
        for each in compile_pattern(_NUMBER).finditer(narrow, timeout=SEARCH_LIMIT_S):
            found = each
    except TimeoutError:
        raise CheckTimeout(f"no number was found within {SEARCH_LIMIT_S:g} s in {len(text):,} characters") from None
    if found is None:
        return None
    value = Decimal("".join(sign for sign in found[0] if sign in "+-.eE" or sign.isdecimal()))
    return -value if narrow[: found.start()].endswith("负") and not found[0].startswith("-") else value


def _number(argument: Any, check_input: CheckInput) -> Finding:
    told = argument if isinstance(argument, dict) else {"value": argument}
    wanted, tolerance = told["value"], told.get("tolerance", 0)
    found = last_number(check_input.text)
    asked = f"{wanted} ± {tolerance}" if tolerance else f"{wanted}"
    if found is None:
        return Finding(False, f"has no number, {asked} asked: {quote_excerpt(check_input.text)}")
    with localcontext() as context:
        context.prec = 60
        context.traps[Overflow] = False
        near = abs(found - exact(wanted)) <= exact(tolerance)
    return Finding(bool(near), f"the last number is {quote_excerpt(str(found))[1:-1]}, {asked} asked")


# Likeness


def _similar(argument: Any, check_input: CheckInput) -> Finding:
    from rapidfuzz import fuzz

    told: Mapping[str, Any] = argument if isinstance(argument, dict) else {}
    text: str | None = argument if isinstance(argument, str) else told.get("to", check_input.assistant)
    threshold = told.get("threshold", SIMILAR_THRESHOLD)
    if isinstance(argument, int | float) and not isinstance(argument, bool):
        threshold = argument
    if text is None:
        raise CheckError('nothing to compare with: the turn has no "assistant"')
    if len(text) * len(check_input.reply) > LONGEST_COMPARED:
        raise CheckError(f"{len(check_input.reply):,} characters are too many to compare with {len(text):,}")
    likeness = fuzz.ratio(check_input.reply, text) / 100
    return Finding(likeness >= threshold, f"{likeness:.3f} like {quote_excerpt(text)}, {threshold:g} asked", likeness)


# What came with the reply


def _finish_reason(argument: Any, check_input: CheckInput) -> Finding:
    wanted = [argument] if isinstance(argument, str) else argument
    return Finding(
        check_input.finish_reason in wanted, f"finish reason {check_input.finish_reason}, {' or '.join(wanted)} asked"
    )


def _latency(argument: float, check_input: CheckInput) -> Finding:
    if check_input.latency_s is None:
        raise CheckError("the latency is not known")
    return Finding(check_input.latency_s <= argument, f"{check_input.latency_s:.3f} s, at most {argument:g} s asked")


def _output_tokens(argument: int, check_input: CheckInput) -> Finding:
    if check_input.output_tokens is None:
        raise CheckError("the gateway did not say how many output tokens there are")
    return Finding(
        check_input.output_tokens <= argument,
        f"{check_input.output_tokens:,} output tokens, at most {argument:,} asked",
    )


def _cost(argument: Any, check_input: CheckInput) -> Finding:
    if check_input.cost is None:
        raise CheckError("the cost is not known: no price, or no token count")
    amount, currency = parse_money(argument) or (None, None) if isinstance(argument, str) else (exact(argument), None)
    assert amount is not None, argument  # dataset/schema.py has looked at it
    cost: Money | None = check_input.cost
    if currency is not None:
        cost = check_input.rates.convert(check_input.cost, currency)
        if cost is None:
            pair = f"{check_input.cost.currency}/{currency}"
            raise CheckError(f"it cost {check_input.cost}, and [rates] has no {pair}")
    return Finding(cost.amount <= amount, f"cost {cost}, at most {display_amount(amount)} {cost.currency} asked")


def _tool_call(argument: Any, check_input: CheckInput) -> Finding:
    names = ", ".join(call.name for call in check_input.tool_calls) or "nothing"
    if argument is True:
        return Finding(bool(check_input.tool_calls), f"called {names}")
    wanted: Mapping[str, Any] = argument if isinstance(argument, dict) else {"name": argument}
    called = [call for call in check_input.tool_calls if call.name == wanted["name"]]
    if not called:
        return Finding(False, f"called {names}, not {wanted['name']}")
    asked: Mapping[str, Any] = wanted.get("arguments", {})
    if any(_contains_arguments(call.arguments, asked) for call in called):
        return Finding(True, f"called {wanted['name']}")
    return Finding(
        False, f"called {wanted['name']} with {quote_excerpt(json.dumps(called[-1].arguments, ensure_ascii=False))}"
    )


def _contains_arguments(arguments: Any, asked: Mapping[str, Any]) -> bool:
    """Do the arguments hold all that is asked? They may hold more."""
    return isinstance(arguments, dict) and all(
        key in arguments and _same(arguments[key], value) for key, value in asked.items()
    )


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON values: 1 is 1.0, and neither is true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


# Checks of the user's own


@functools.cache
def _entry_points() -> Mapping[str, Any]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=GROUP)}


def is_installed(name: str) -> bool:
    """Does an installed package bring this `python` check?"""
    return name in _entry_points()


def missing_checks(names: Iterable[str]) -> list[str]:
    """A note for each `python` check that no installed package brings."""
    return [
        f"note: no installed package brings the check {name!r} (entry points {GROUP}); its verdicts will be errors"
        for name in names
        if not is_installed(name)
    ]


@functools.cache
def _load_check(name: str) -> Callable[[CheckInput], Any]:
    if not is_installed(name):
        known = ", ".join(sorted(_entry_points())) or "none"
        raise CheckError(f"no installed package brings {name!r} (entry points of {GROUP}: {known})")
    check = _entry_points()[name].load()
    if not callable(check):
        raise CheckError(f"the entry point {name!r} is not a function")
    return check


def _python(argument: str, check_input: CheckInput) -> Finding:
    return _as_finding(_within_limit(_load_check(argument), check_input, argument), argument)


def _within_limit(check: Callable[[CheckInput], Any], check_input: CheckInput, name: str) -> Any:
    """The check's answer; a thread of its own, since nothing else can be left behind when it does not come back."""
    answer: list[Any] = []
    trouble: list[BaseException] = []

    def call() -> None:
        try:
            answer.append(_plain(check(check_input)))
        except BaseException as error:  # noqa: BLE001  # `sys.exit()` in a check, too, is only a check gone wrong
            trouble.append(error)

    thread = threading.Thread(target=call, name=f"check {name}", daemon=True)
    # Stdout is for data: what a check prints must not stand in somebody's JSON.
    with contextlib.redirect_stdout(sys.stderr):
        thread.start()
        thread.join(CALL_LIMIT_S)
    if trouble:
        raise CheckError(f"{type(trouble[0]).__name__}: {trouble[0]}")
    if not answer:
        raise CheckTimeout(f"{name!r} took longer than {CALL_LIMIT_S:g} s")
    return answer[0]


def _plain(answer: Any) -> Any:
    """Numbers of numpy, which are not quite Python's, as Python's; the same in a pair."""
    if isinstance(answer, tuple):
        return tuple(map(_plain, answer))
    return answer.item() if type(answer).__module__ == "numpy" and hasattr(answer, "item") else answer


def _as_finding(answer: Any, name: str) -> Finding:
    """`True`, a score from 0 to 1 (1 passes), or either with a reason."""
    value, reason = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
    if isinstance(value, bool):
        return Finding(value, _reason_text(reason) or f"{name} says {'yes' if value else 'no'}")
    if _is_score(value):
        return Finding(bool(value == 1), _reason_text(reason) or f"{name} gives {value:g}", float(value))
    raise CheckError(
        f"{name!r} must answer True, False, a score from 0 to 1, or one of these and a reason, not {answer!r}"
    )


def _is_score(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value <= 1


def _reason_text(reason: Any) -> str:
    return "" if reason is None else " ".join(str(reason).split())[:500]


CHECKS: dict[str, Callable[[Any, CheckInput], Finding]] = {
    "equals": _equals,
    "contains": _contains,
    "icontains": _icontains,
    "contains_any": _contains_any,
    "contains_all": _contains_all,
    "starts_with": _starts_with,
    "regex": _regex,
    "is_json": _is_json,
    "json_schema": _json_schema,
    "number": _number,
    "similar": _similar,
    "finish_reason": _finish_reason,
    "max_length": _max_length,
    "latency": _latency,
    "output_tokens": _output_tokens,
    "cost": _cost,
    "tool_call": _tool_call,
    "python": _python,
}
