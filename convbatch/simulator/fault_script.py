"""The fault script: which fault applies to which request.

A script is a JSON array of rules, or one rule per line:

    {"match": {"model": "sim-*", "every": 5}, "action": "rate-limit", "hint": "retry-info", "seconds": 1.5}

The first rule that matches a request is applied. This module validates a script and picks the rule; `fault_actions.py`
has the actions. A choice by `probability` depends only on (seed, rule, model, history, attempt), so it does not depend
on the order in which concurrent requests arrive.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import orjson

from convbatch.simulator.draws import draw
from convbatch.simulator.routes import WIRES
from convbatch.simulator.wire import HintForm, JobOperation, as_list, as_object

HEAD_MATCHERS = ("wire", "model", "operation", "key", "nth", "every", "probability", "after_s", "before_s", "count")
"""Matchers that need only the request's head; on the OpenAI wire the model is not in it."""
BODY_MATCHERS = ("model_nth", "turn", "attempt", "contains", "streamed")
GENERATIONS = ("generate", "line")
"""A request for a reply by itself, and one in a batch job; a rule that names no operation is for both."""
OPERATIONS = (*GENERATIONS, *get_args(JobOperation))


class FaultError(ValueError):
    """A fault script with an invalid rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a rule can match on, for one request."""

    wire: str
    key: str
    nth: int
    """Number of this request among those of its operation, from 1."""
    elapsed_s: float
    """Since the first request."""
    operation: str = "generate"
    model: str | None = None
    model_nth: int = 0
    turn: int = 0
    attempt: int = 0
    """How many times this model has received this history, this time included."""
    text: str = ""
    """The last user message."""
    streamed: bool = False
    history_sha: str = ""


@dataclass(slots=True, kw_only=True)
class Rule:
    """One rule of a script, with counters of matches and applications."""

    number: int
    match: Mapping[str, Any]
    action: str
    options: Mapping[str, Any]
    """Every option of the action, with defaults filled in."""
    met: int = 0
    applied: int = 0

    @property
    def at_head(self) -> bool:
        """Whether the rule applies before the body of the request is read."""
        return self.action == "refuse" or (self.action == "reset" and self.options["when"] == "arrival")

    def holds(self, facts: Facts, seed: int) -> bool:
        """Return whether this rule applies to a request; counts the match."""
        if not self._concerns(facts.operation):
            return False
        if not all(_HOLDS[name](self.match[name], facts) for name in self.match if name in _HOLDS):
            return False
        self.met += 1
        if self.met % self.match.get("every", 1) or self.applied >= self.match.get("count", self.applied + 1):
            return False
        who = facts.history_sha or facts.nth
        if draw("fault", seed, self.number, facts.model, who, facts.attempt) >= self.match.get("probability", 1.0):
            return False
        self.applied += 1
        return True

    def _concerns(self, operation: str) -> bool:
        """Return whether the rule is for requests of this operation, and its action is possible for them."""
        if not _is_possible(self.action, operation):
            return False
        if "operation" in self.match:
            return self.match["operation"] == operation
        return operation == "create" if self.action == "job" else operation in GENERATIONS


@dataclass(slots=True)
class FaultScript:
    """The rules, in the order in which they are tried."""

    rules: list[Rule] = field(default_factory=list[Rule])

    @classmethod
    def of(cls, rules: Iterable[Mapping[str, Any]], *, source: str = "faults") -> FaultScript:
        """Build a script from rules as plain objects.

        Raises:
            FaultError: Invalid rules: every problem of every rule, one per line.
        """
        problems: list[str] = []
        script = cls()
        for number, plain in enumerate(rules, 1):
            try:
                script.rules.append(_rule(number, plain))
            except FaultError as error:
                problems += [f"{source}: rule {number}: {problem}" for problem in str(error).split("\n")]
        if problems:
            raise FaultError("\n".join(problems))
        return script

    @classmethod
    def load(cls, path: str | Path) -> FaultScript:
        """Read a JSON array or JSON lines; a `file` option is relative to the script.

        Raises:
            FaultError: Not JSON, or invalid rules.
            OSError: The file cannot be read.
        """
        path = Path(path)
        rules = _read(path)
        for rule in rules:
            if isinstance(rule, dict) and isinstance(name := cast("dict[str, Any]", rule).get("file"), str):
                rule["file"] = str(path.parent / name)
        return cls.of(rules, source=str(path))

    def pick(self, facts: Facts, *, seed: int, at_head: bool = False) -> Rule | None:
        """Return the first rule of this stage (head or body) that applies."""
        for rule in self.rules:
            if rule.at_head is at_head and rule.holds(facts, seed):
                return rule
        return None

    @property
    def counts_attempts(self) -> bool:
        """Whether any rule needs the number of times a history was sent."""
        return any("attempt" in rule.match or "probability" in rule.match for rule in self.rules)


def _read(path: Path) -> list[Any]:
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf").strip()
    if content.startswith(b"["):
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise FaultError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    rules: list[Any] = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            try:
                rules.append(orjson.loads(line))
            except orjson.JSONDecodeError as error:
                raise FaultError(f"{path}:{number}: not JSON: {error.msg}") from error
    return rules


def _span(value: Any, number: int) -> bool:
    """Return whether a number is in `3`, `[3, 7]`, `"3-7"` or `"3-"`."""
    if isinstance(value, str):
        low, _, high = value.partition("-")
        return int(low) <= number and (not high or number <= int(high))
    return number in value if isinstance(value, list) else number == value


_HOLDS: dict[str, Callable[[Any, Facts], bool]] = {
    "wire": lambda value, facts: value == facts.wire,
    "operation": lambda value, facts: value == facts.operation,
    "model": lambda value, facts: facts.model is not None and fnmatch.fnmatchcase(facts.model, value),
    "key": lambda value, facts: value == facts.key,
    "nth": lambda value, facts: _span(value, facts.nth),
    "model_nth": lambda value, facts: _span(value, facts.model_nth),
    "turn": lambda value, facts: _span(value, facts.turn),
    "attempt": lambda value, facts: _span(value, facts.attempt),
    "contains": lambda value, facts: value in facts.text,
    "streamed": lambda value, facts: value is facts.streamed,
    "after_s": lambda value, facts: facts.elapsed_s >= value,
    "before_s": lambda value, facts: facts.elapsed_s < value,
}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_span(value: object) -> bool:
    if isinstance(value, str):
        low, dash, high = value.partition("-")
        return low.isdecimal() and dash == "-" and (not high or high.isdecimal())
    items = as_list(value)
    return _is_count(value) if items is None else bool(items) and all(_is_count(item) for item in items)


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_share(value: object) -> bool:
    return _is_seconds(value) and cast("float", value) <= 1


def _is_temperature(value: object) -> bool:
    return _is_seconds(value) and cast("float", value) <= 2


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_status(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 200 <= value <= 599


def _is_headers(value: object) -> bool:
    plain = as_object(value)
    return plain is not None and all(isinstance(item, str) for item in plain.values())


_MATCHERS: dict[str, tuple[Callable[[object], bool], str]] = {
    "wire": (lambda value: value in tuple(WIRES), "one of: " + ", ".join(WIRES)),
    "operation": (lambda value: value in OPERATIONS, "one of: " + ", ".join(OPERATIONS)),
    "model": (_is_text, "a name or glob"),
    "key": (_is_text, "a key"),
    "nth": (_is_span, 'a number from 1, a list of them, "3-7" or "3-"'),
    "model_nth": (_is_span, 'a number from 1, a list of them, "3-7" or "3-"'),
    "turn": (_is_span, 'a number from 1, a list of them, "3-7" or "3-"'),
    "attempt": (_is_span, 'a number from 1, a list of them, "3-7" or "3-"'),
    "every": (_is_count, "a number from 1"),
    "count": (_is_count, "a number from 1"),
    "probability": (lambda value: _is_seconds(value) and cast("float", value) <= 1, "a number from 0 to 1"),
    "contains": (_is_text, "text"),
    "streamed": (_is_bool, "true or false"),
    "after_s": (_is_seconds, "seconds"),
    "before_s": (_is_seconds, "seconds"),
}

REPLY_KINDS = (
    "no-candidates", "prompt-blocked", "output-blocked", "thoughts-only", "empty", "length", "malformed-call",
    "unknown-finish",
)  # fmt: skip
JOB_KINDS = ("expire", "cancel", "fail", "stall", "lose", "vanish")
LINE_KINDS = ("expired", "cancelled", "missing", "twice", "stray", "garbled")
STREAM_USAGE = ("finish", "after", "running", "missing")
LINE_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}
USAGE_KINDS = ("missing", "partial", "negative", "huge", "zero", "text", "nan", "inconsistent")
BODY_KINDS = (
    "empty", "empty-object", "array", "text", "html", "cut-json", "deep", "surrogates", "not-utf8", "error-object",
    "twice",
)  # fmt: skip
ERROR_KINDS = (
    "internal", "overloaded", "bad_gateway", "deadline", "permission", "bad_request", "no_model", "bad_key",
    "no_balance",
)  # fmt: skip

_Option = tuple[Any, Callable[[object], bool], str]


def _choice(default: Any, *words: object) -> _Option:
    def check(value: object) -> bool:
        return value in words

    return default, check, "one of: " + ", ".join(map(str, words))


_SECONDS: _Option = (1.0, _is_seconds, "seconds")
_BILLED: _Option = (None, _is_bool, "true or false")
_SHAPE = _choice(None, "native", "gateway")

ACTIONS: dict[str, dict[str, _Option]] = {
    # Refusals: the request is read and not billed.
    "rate-limit": {
        "hint": _choice(None, *get_args(HintForm)),
        "seconds": _SECONDS,
        "shape": _SHAPE,
    },
    "error": {
        "kind": _choice("internal", *ERROR_KINDS),
        "status": (None, _is_status, "an HTTP status"),
        "body": _choice("json", "json", "html", "text", "empty"),
        "retry_after": (None, _is_text, "text of a Retry-After header"),
        "shape": _SHAPE,
        "billed": _BILLED,
    },
    "no-channel": {},
    "revoke-key": {},
    "drain-balance": {},
    "redirect": {
        "location": ("http://127.0.0.2:9/elsewhere", _is_text, "a URL"),
        "status": _choice(307, 301, 302, 303, 307, 308),
    },
    # The connection.
    "reset": {
        "when": _choice("read", "arrival", "read", "billed", "body"),
        "bytes": (20, _is_size, "bytes of the body sent first, with when = body"),
    },
    "silence": {
        "when": _choice("read", "read", "billed", "body"),
        "bytes": (20, _is_size, "bytes of the body sent first, with when = body"),
        "seconds": (3600.0, _is_seconds, "seconds until the connection is closed"),
    },
    "truncate": {
        "bytes": (20, _is_size, "bytes of the body that are sent"),
        "framing": _choice("length", "length", "chunked", "close"),
    },
    "drip": {
        "bytes": (1, _is_count, "bytes per piece"),
        "seconds": (0.05, _is_seconds, "seconds between two pieces"),
    },
    "delay": {"seconds": _SECONDS},
    "close-after": {"seconds": (0.0, _is_seconds, "seconds until the idle connection is closed")},
    "refuse": {"seconds": _SECONDS},
    # The reply.
    "reply": {"kind": _choice("no-candidates", *REPLY_KINDS)},
    "usage": {"kind": _choice("missing", *USAGE_KINDS)},
    "broken": {"kind": _choice("empty-object", *BODY_KINDS)},
    "body": {
        "status": (200, _is_status, "an HTTP status"),
        "headers": ({"content-type": "application/json"}, _is_headers, "an object of strings"),
        "text": (None, _is_text, "text"),
        "file": (None, _is_text, "a file's path"),
        "base64": (None, _is_text, "base64"),
        "billed": _BILLED,
    },
    "cheat": {
        "model": (None, _is_text, "the simulated model that answers instead"),
        "quantised": (False, _is_bool, "true or false"),
        "replay": (False, _is_bool, "true or false"),
        "temperature": (None, _is_temperature, "a temperature from 0 to 2"),
        "drop_system": (False, _is_bool, "true or false"),
        "keep_turns": (None, _is_count, "how many of the last turns reach the model"),
        "input_times": (1.0, _is_seconds, "a factor"),
        "input_plus": (0, _is_size, "tokens"),
        "output_times": (1.0, _is_seconds, "a factor"),
        "reasoning_times": (1.0, _is_seconds, "a factor"),
        "most_output": (None, _is_count, "tokens"),
        "hide_length": (False, _is_bool, "true or false"),
        "name": (None, _is_text, "the model name in the reply"),
    },
    "mid-error": {"events": (1, _is_size, "stream events before the error")},
    "stream": {
        "usage": _choice(None, *STREAM_USAGE),
        "lines": _choice(None, *LINE_ENDS),
        "space": (True, _is_bool, "true or false"),
        "done": (None, _is_bool, "true or false"),
        "comments": (False, _is_bool, "true or false"),
        "keep_alive": (0, _is_size, "comments before the first event"),
        "bytes": (None, _is_count, "bytes per piece"),
        "seconds": (0.0, _is_seconds, "seconds between two pieces"),
        "gzip": (False, _is_bool, "true or false"),
        "linger": (0.0, _is_seconds, "seconds until the connection is closed after the last event"),
        "form": _choice("sse", "sse", "whole"),
    },
    "gzip-bomb": {"mebibytes": (200, _is_count, "MiB when decoded")},
    "endless-body": {},
    "endless-headers": {},
    # Batch jobs.
    "job": {
        "kind": _choice("expire", *JOB_KINDS),
        "share": (0.5, _is_share, "a share from 0 to 1"),
    },
    "line": {"kind": _choice("missing", *LINE_KINDS)},
}
"""The options of each action: default, validator, and the expected value in words."""


_OF_REPLIES = frozenset({"no-channel", "reply", "usage", "cheat", "mid-error", "stream"})
"""Actions on a reply: not possible for requests that get none."""
_OF_LINES = frozenset(
    {"rate-limit", "error", "no-channel", "revoke-key", "drain-balance", "reply", "usage", "cheat", "line"}
)
"""Actions that do not need a connection: the others are not possible for a line of a job."""


def _is_possible(action: str, operation: str) -> bool:
    if action in ("job", "line"):
        return operation == ("create" if action == "job" else "line")
    return action in _OF_LINES if operation == "line" else operation == "generate" or action not in _OF_REPLIES


def _rule(number: int, plain: Any) -> Rule:
    rule = as_object(plain)
    if rule is None:
        raise FaultError(f"expected an object, found {plain!r}")
    action = rule.get("action")
    if action not in ACTIONS:
        raise FaultError(f"unknown action {action!r}; known: {', '.join(ACTIONS)}")
    match = as_object(rule.get("match", {}))
    if match is None:
        raise FaultError(f'"match" must be an object, found {rule["match"]!r}')
    options = {name: value for name, value in rule.items() if name not in {"match", "action"}}
    known = ACTIONS[action]
    problems = [_wrong_matcher(name, value) for name, value in match.items()]
    problems += [_wrong_option(action, name, value) for name, value in options.items()]
    if found := [problem for problem in problems if problem]:
        raise FaultError("\n".join(found))
    built = Rule(
        number=number,
        match=match,
        action=action,
        options={name: options.get(name, default) for name, (default, _, _) in known.items()},
    )
    _check_together(built)
    return built


def _wrong_matcher(name: str, value: object) -> str | None:
    if name not in _MATCHERS:
        return f"unknown matcher {name!r}; known: {', '.join(_MATCHERS)}"
    holds, expected = _MATCHERS[name]
    return None if holds(value) else f"matcher {name!r}: expected {expected}, found {value!r}"


def _wrong_option(action: str, name: str, value: object) -> str | None:
    known = ACTIONS[action]
    if name not in known:
        return f"unknown option {name!r} of action {action!r}; known: {', '.join(known) or 'none'}"
    _, holds, expected = known[name]
    return None if holds(value) else f"option {name!r}: expected {expected}, found {value!r}"


def _check_together(rule: Rule) -> None:
    operation = rule.match.get("operation")
    if operation is not None and not _is_possible(rule.action, operation):
        raise FaultError(f"action {rule.action!r} is not possible for the operation {operation!r}")
    late = [name for name in rule.match if name in BODY_MATCHERS]
    if late and (rule.action == "job" or operation not in (None, *GENERATIONS)):
        raise FaultError(f"matcher {late[0]!r} is for generation requests only")
    early = [name for name in rule.match if name in BODY_MATCHERS]
    if rule.at_head and early:
        raise FaultError(f"matcher {early[0]!r} needs the request body, which this action does not read")
    if rule.action == "cheat" and all(
        rule.options[name] == default for name, (default, *_) in ACTIONS["cheat"].items()
    ):
        raise FaultError(f"action 'cheat' needs at least one of: {', '.join(ACTIONS['cheat'])}")
    if rule.action == "body":
        given = [name for name in ("text", "file", "base64") if rule.options[name] is not None]
        if len(given) != 1:
            raise FaultError("action 'body' needs exactly one of: text, file, base64")
        if (file := rule.options["file"]) is not None and not Path(file).is_file():
            raise FaultError(f"option 'file': no such file: {file}")
