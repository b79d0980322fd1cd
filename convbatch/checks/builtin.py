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

from convbatch.checks.json_schema import NotJson, json_of, misfit
from convbatch.checks.safe_regex import SEARCH_LIMIT_S, CannotJudge, OutOfTime, compiled, search, shown
from convbatch.dialogue import Dialogue
from convbatch.pricing import NO_EXCHANGE, Exchange, Money, exact, parse_money, shown_amount

GROUP = "convbatch.checks"
"""The entry-point group of `python` checks."""
NEEDS_A_JUDGE = "llm_rubric"
"""The one kind whose verdict is another model's: `llm_rubric.py`."""
CALL_LIMIT_S = 30.0
TIMEOUTS_BORNE = 3
"""So often one check may run out of time before it is given up: a run must end."""
SIMILAR_THRESHOLD = 0.8
LONGEST_COMPARED = 2 * 10**9
"""Characters of the one text times characters of the other: about a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCalled:
    """A call the model made."""

    name: str
    arguments: Any
    """Parsed, or the raw string where it is not JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
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
    tool_calls: tuple[ToolCalled, ...] = ()
    output_tokens: int | None = None
    latency_s: float | None = None
    cost: Money | None = None
    rates: Exchange = field(default=NO_EXCHANGE, repr=False)

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


def parsed(check: Mapping[str, Any]) -> Check:
    """A check as it stands in a dataset; trusts that it is well formed."""
    kind = next(key for key in check if key not in ("weight", "name"))
    return Check(name=check.get("name", kind), kind=kind, argument=check[kind], weight=float(check.get("weight", 1.0)))


class Judge:
    """Gives verdicts, and remembers which checks keep running out of time."""

    def __init__(self) -> None:
        self._timeouts: Counter[str] = Counter()

    def verdict(self, check: Check, said: Said) -> Verdict:
        """What one check says of what was said; an exception of the check is its verdict's `error`, never ours."""
        kind = check.plain_kind
        key = f"{kind} {check.argument!r}"
        try:
            if self._timeouts[key] >= TIMEOUTS_BORNE:
                raise CannotJudge(f"not tried again: it ran out of time {TIMEOUTS_BORNE} times")
            finding = CHECKS[kind](check.argument, said)
        except OutOfTime as error:
            self._timeouts[key] += 1
            return failed(str(error))
        except CannotJudge as error:
            return failed(str(error))
        except Exception as error:  # noqa: BLE001  # whatever a check meets in a reply is a verdict, not the end of a run
            return failed(f"{type(error).__name__}: {error}")
        return verdict_of(check, finding)


def verdict_of(check: Check, finding: Finding) -> Verdict:
    """What was found, as the check has it."""
    return _straight(finding) if check.kind == check.plain_kind else _turned(finding)


def _straight(finding: Finding) -> Verdict:
    score = float(finding.holds) if finding.score is None else finding.score
    return Verdict(finding.holds, score, finding.reason)


def _turned(finding: Finding) -> Verdict:
    score = float(not finding.holds) if finding.score is None else 1.0 - finding.score
    return Verdict(not finding.holds, score, finding.reason)


def failed(why: str) -> Verdict:
    """Of a check that could not be carried out; it counts as not passed."""
    why = " ".join(why.split())[:500]
    return Verdict(False, 0.0, f"the check could not be carried out: {why}", why)


# Texts


def _equals(argument: str, said: Said) -> Finding:
    if said.reply.strip() == argument.strip():
        return Finding(True, f"is {shown(argument)}")
    return Finding(False, f"is {shown(said.reply)}, not {shown(argument)}")


def _contains(argument: str, said: Said) -> Finding:
    return _has(argument, argument in said.text, said)


def _icontains(argument: str, said: Said) -> Finding:
    return _has(argument, argument.casefold() in said.text.casefold(), said)


def _has(wanted: str, has: bool, said: Said) -> Finding:
    if has:
        return Finding(True, f"has {shown(wanted)}")
    return Finding(False, f"lacks {shown(wanted)}: {shown(said.text)}")


def _contains_any(argument: Sequence[str], said: Said) -> Finding:
    text = said.text
    found = next((wanted for wanted in argument if wanted in text), None)
    if found is not None:
        return Finding(True, f"has {shown(found)}")
    return Finding(False, f"has none of {_listed(argument)}: {shown(text)}")


def _contains_all(argument: Sequence[str], said: Said) -> Finding:
    text = said.text
    missing = [wanted for wanted in argument if wanted not in text]
    if missing:
        return Finding(False, f"lacks {_listed(missing)}: {shown(text)}")
    return Finding(True, f"has {_listed(argument)}")


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - 5} more" if len(texts) > 5 else ""
    return ", ".join(map(shown, texts[:5])) + more


def _starts_with(argument: str, said: Said) -> Finding:
    text = said.reply
    if text.startswith(argument):
        return Finding(True, f"begins with {shown(argument)}")
    return Finding(False, f"begins with {shown(text[: max(len(argument), 20)])}, not with {shown(argument)}")


def _max_length(argument: int, said: Said) -> Finding:
    length = sum(map(len, said.replies))
    return Finding(length <= argument, f"{length:,} characters, at most {argument:,} asked")


# Patterns and JSON


def _regex(argument: str, said: Said) -> Finding:
    text = said.text
    found = search(argument, text)
    if found:
        return Finding(True, f"{shown(argument)} matches {shown(found[0])}")
    return Finding(False, f"{shown(argument)} matches nowhere: {shown(text)}")


def _is_json(argument: bool, said: Said) -> Finding:
    del argument
    try:
        json_of(said.reply)
    except NotJson as error:
        return Finding(False, str(error))
    return Finding(True, "is JSON")


def _json_schema(argument: Mapping[str, Any], said: Said) -> Finding:
    try:
        value = json_of(said.reply)
    except NotJson as error:
        return Finding(False, str(error))
    found = misfit(value, json.dumps(argument))
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
    narrow = compiled(_WIDE_MARK).sub(lambda mark: "," if mark[0] == "，" else ".", text)
    narrow = narrow.translate(_PLAIN_NUMBER)
    try:
        for each in compiled(_NUMBER).finditer(narrow, timeout=SEARCH_LIMIT_S):
            found = each
    except TimeoutError:
        raise OutOfTime(f"no number was found within {SEARCH_LIMIT_S:g} s in {len(text):,} characters") from None
    if found is None:
        return None
    value = Decimal("".join(sign for sign in found[0] if sign in "+-.eE" or sign.isdecimal()))
    return -value if narrow[: found.start()].endswith("负") and not found[0].startswith("-") else value


def _number(argument: Any, said: Said) -> Finding:
    told = argument if isinstance(argument, dict) else {"value": argument}
    wanted, tolerance = told["value"], told.get("tolerance", 0)
    found = last_number(said.text)
    asked = f"{wanted} ± {tolerance}" if tolerance else f"{wanted}"
    if found is None:
        return Finding(False, f"has no number, {asked} asked: {shown(said.text)}")
    with localcontext() as context:
        context.prec = 60
        context.traps[Overflow] = False
        near = abs(found - exact(wanted)) <= exact(tolerance)
    return Finding(bool(near), f"the last number is {shown(str(found))[1:-1]}, {asked} asked")


# Likeness


def _similar(argument: Any, said: Said) -> Finding:
    from rapidfuzz import fuzz

    told: Mapping[str, Any] = argument if isinstance(argument, dict) else {}
    text: str | None = argument if isinstance(argument, str) else told.get("to", said.assistant)
    threshold = told.get("threshold", SIMILAR_THRESHOLD)
    if isinstance(argument, int | float) and not isinstance(argument, bool):
        threshold = argument
    if text is None:
        raise CannotJudge('nothing to compare with: the turn has no "assistant"')
    if len(text) * len(said.reply) > LONGEST_COMPARED:
        raise CannotJudge(f"{len(said.reply):,} characters are too many to compare with {len(text):,}")
    likeness = fuzz.ratio(said.reply, text) / 100
    return Finding(likeness >= threshold, f"{likeness:.3f} like {shown(text)}, {threshold:g} asked", likeness)


# What came with the reply


def _finish_reason(argument: Any, said: Said) -> Finding:
    wanted = [argument] if isinstance(argument, str) else argument
    return Finding(said.finish_reason in wanted, f"finish reason {said.finish_reason}, {' or '.join(wanted)} asked")


def _latency(argument: float, said: Said) -> Finding:
    if said.latency_s is None:
        raise CannotJudge("the latency is not known")
    return Finding(said.latency_s <= argument, f"{said.latency_s:.3f} s, at most {argument:g} s asked")


def _output_tokens(argument: int, said: Said) -> Finding:
    if said.output_tokens is None:
        raise CannotJudge("the gateway did not say how many output tokens there are")
    return Finding(said.output_tokens <= argument, f"{said.output_tokens:,} output tokens, at most {argument:,} asked")


def _cost(argument: Any, said: Said) -> Finding:
    if said.cost is None:
        raise CannotJudge("the cost is not known: no price, or no token count")
    amount, currency = parse_money(argument) or (None, None) if isinstance(argument, str) else (exact(argument), None)
    assert amount is not None, argument  # dataset/schema.py has looked at it
    cost: Money | None = said.cost
    if currency is not None:
        cost = said.rates.convert(said.cost, currency)
        if cost is None:
            pair = f"{said.cost.currency}/{currency}"
            raise CannotJudge(f"it cost {said.cost}, and [rates] has no {pair}")
    return Finding(cost.amount <= amount, f"cost {cost}, at most {shown_amount(amount)} {cost.currency} asked")


def _tool_call(argument: Any, said: Said) -> Finding:
    names = ", ".join(call.name for call in said.tool_calls) or "nothing"
    if argument is True:
        return Finding(bool(said.tool_calls), f"called {names}")
    wanted: Mapping[str, Any] = argument if isinstance(argument, dict) else {"name": argument}
    called = [call for call in said.tool_calls if call.name == wanted["name"]]
    if not called:
        return Finding(False, f"called {names}, not {wanted['name']}")
    asked: Mapping[str, Any] = wanted.get("arguments", {})
    if any(_carries(call.arguments, asked) for call in called):
        return Finding(True, f"called {wanted['name']}")
    return Finding(False, f"called {wanted['name']} with {shown(json.dumps(called[-1].arguments, ensure_ascii=False))}")


def _carries(arguments: Any, asked: Mapping[str, Any]) -> bool:
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
def _loaded(name: str) -> Callable[[Said], Any]:
    if not is_installed(name):
        known = ", ".join(sorted(_entry_points())) or "none"
        raise CannotJudge(f"no installed package brings {name!r} (entry points of {GROUP}: {known})")
    check = _entry_points()[name].load()
    if not callable(check):
        raise CannotJudge(f"the entry point {name!r} is not a function")
    return check


def _python(argument: str, said: Said) -> Finding:
    return _as_finding(_within_limit(_loaded(argument), said, argument), argument)


def _within_limit(check: Callable[[Said], Any], said: Said, name: str) -> Any:
    """The check's answer; a thread of its own, since nothing else can be left behind when it does not come back."""
    answer: list[Any] = []
    trouble: list[BaseException] = []

    def call() -> None:
        try:
            answer.append(_plain(check(said)))
        except BaseException as error:  # noqa: BLE001  # `sys.exit()` in a check, too, is only a check gone wrong
            trouble.append(error)

    thread = threading.Thread(target=call, name=f"check {name}", daemon=True)
    # Stdout is for data: what a check prints must not stand in somebody's JSON.
    with contextlib.redirect_stdout(sys.stderr):
        thread.start()
        thread.join(CALL_LIMIT_S)
    if trouble:
        raise CannotJudge(f"{type(trouble[0]).__name__}: {trouble[0]}")
    if not answer:
        raise OutOfTime(f"{name!r} took longer than {CALL_LIMIT_S:g} s")
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
        return Finding(value, _words(reason) or f"{name} says {'yes' if value else 'no'}")
    if _is_score(value):
        return Finding(bool(value == 1), _words(reason) or f"{name} gives {value:g}", float(value))
    raise CannotJudge(
        f"{name!r} must answer True, False, a score from 0 to 1, or one of these and a reason, not {answer!r}"
    )


def _is_score(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value <= 1


def _words(reason: Any) -> str:
    return "" if reason is None else " ".join(str(reason).split())[:500]


CHECKS: dict[str, Callable[[Any, Said], Finding]] = {
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
