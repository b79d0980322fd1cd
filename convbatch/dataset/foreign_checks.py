"""Checks as other tools write them, promptfoo before all: `{"type": "contains", "value": "a"}`, and what to write here.

Everything in such a check is either part of the answer or named as what has no place: nothing is dropped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any, NamedTuple, TypeGuard

from convbatch.checks.builtin import CHECKS, is_number
from convbatch.checks.values import MODIFIERS
from convbatch.dataset.jsonl import display_json

KIND_KEYS = ("type", "kind", "check", "metric")
"""Keys whose value names the kind."""
_VALUE_KEYS = ("value", "argument", "arg", "expected", "text", "pattern")
_OTHER_NAMES = {
    **dict.fromkeys(("exact", "exact_match", "exact_matches"), "equals"),
    **dict.fromkeys(("includes", "include"), "contains"),
    **dict.fromkeys(("match", "matches", "re"), "regex"),
    **dict.fromkeys(("factuality", "g_eval", "model_graded_closedqa", "model_graded_qa"), "llm_rubric"),
    **dict.fromkeys(("rubric", "model_graded", "answer_relevance"), "llm_rubric"),
    **dict.fromkeys(("max_chars", "length"), "max_length"),
    **dict.fromkeys(("valid_json", "contains_json"), "is_json"),
    **dict.fromkeys(
        ("is_valid_openai_tools_call", "is_valid_openai_function_call", "is_valid_function_call", "valid_tool_calls"),
        "tool_calls_valid",
    ),
    **dict.fromkeys(("tool_calls", "tool_call_f1", "function_call", "tool_used", "tools_used"), "tool_call"),
    **dict.fromkeys(("trajectory_tool_used", "trajectory_tool_args_match", "trajectory_tool_sequence"), "tool_call"),
    "tool_call_valid": "tool_calls_valid",
    "levenshtein": "similar",
    "startswith": "starts_with",
    "schema": "json_schema",
    "max_tokens": "output_tokens",
}
_CODE = 'code is never taken from a dataset; {"python": "NAME"} names a function of an installed package'
_ABSENT = {
    **dict.fromkeys(("javascript", "webhook", "ruby"), _CODE),
    "assert_set": "write its checks one by one, each with its weight",
    "word_count": 'nothing counts words; of characters: {"max_length": 200}',
    "is_refusal": '{"finish_reason": "content_filter"}, or ask a judge: {"llm_rubric": "The answer is a refusal."}',
    **dict.fromkeys(("rouge_n", "bleu", "gleu", "meteor"), 'nearest to it: {"similar": {"to": "…", "threshold": 0.8}}'),
    **dict.fromkeys(("select_best", "max_score"), "targets are compared by: convbatch compare RUN:A RUN:B"),
    **dict.fromkeys(
        ("perplexity", "perplexity_score", "classifier", "moderation", "guardrails"),
        "there is nothing like it here: leave it out",
    ),
}
"""Kinds of promptfoo that do not exist here, and what there is instead."""
_NO_PLACE = {
    "provider": "a judge is named by --judge MODEL@GATEWAY",
    "transform": "nothing transforms a reply before its check",
    "contextTransform": "nothing transforms a reply before its check",
    "rubricPrompt": "the judge's prompt is fixed",
    "threshold": "it passes or fails",
    "config": "",
}
_RUBRICS = {
    "factuality": "The facts in the answer agree with this: {}",
    "answer_relevance": "The answer is relevant to the question.",
}
_MOST_EDITS = 5
"""Of promptfoo's levenshtein without a threshold."""


class _Written(NamedTuple):
    """What a check is here."""

    kind: str
    argument: Any
    note: str = ""
    carried: tuple[str, ...] = ()
    """Keys that the argument stands for, beside the value."""


def check_name(name: str) -> str:
    """Return a kind's name in our spelling: `not-contains`, `notContains` and `Contains` are the same to a reader."""
    prefix, kind = _split(name)
    return prefix + _OTHER_NAMES.get(kind, kind)


def _split(name: str) -> tuple[str, str]:
    """Return `not_` or nothing, and the kind in lower case; `similar:cosine` is a form of `similar`."""
    whole = name.replace("trajectory:", "trajectory_")
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])|[- ]", "_", whole.partition(":")[0].strip()).lower()
    return ("not_", snake[4:]) if snake.startswith("not_") else ("", snake)


def absent_kind(name: str) -> str | None:
    """Return what there is instead of a kind of another tool; None for any other name."""
    return _ABSENT.get(check_name(name).removeprefix("not_"))


def translated(check: Mapping[str, Any], naming: str) -> str | None:
    """Return what to write for a check whose kind is the value of a key; None for an unknown kind."""
    negated, plain = _split(str(check[naming]))
    value_key = next((key for key in _VALUE_KEYS if key in check), None)
    value = None if value_key is None else check[value_key]
    if plain == "icontains_all" and not negated and (texts := _texts(value)):
        return f"write {', '.join(display_json({'icontains': text}) for text in texts)}{_left_out(check, naming, ())}"
    written = _written(plain, value, check.get("threshold"))
    if written is None:
        return None
    name = check.get("name", check.get("metric") if naming != "metric" else None)
    more = {key: check[key] for key in MODIFIERS if key in check} | ({} if name is None else {"name": name})
    told = display_json({negated + written.kind: written.argument, **more})
    note = f" ({written.note})" if written.note else ""
    carried = (*written.carried, *MODIFIERS, "metric", *([value_key] if value_key else []))
    return f"write {told}{note}{_left_out(check, naming, carried)}"


def _left_out(check: Mapping[str, Any], naming: str, carried: Collection[str]) -> str:
    """Return what the answer is without: keys that mean something in the other tool."""
    known = {naming, *carried, *_VALUE_KEYS} if not carried else {naming, *carried}
    left = [key for key in check if key not in known]
    told = [f"{display_json(key)}{f' ({why})' if (why := _NO_PLACE.get(key)) else ''}" for key in left]
    return f"; it has no place for {', '.join(told)}" if told else ""


def _written(plain: str, value: Any, threshold: Any) -> _Written | None:
    """Return a check of this kind in our words; None for a kind that does not exist."""
    kind = _OTHER_NAMES.get(plain, plain)
    limit: Any = threshold if is_number(threshold) else value if is_number(value) else None
    match plain:
        case "latency" if limit is not None:
            return _Written(kind, limit / 1000, "seconds, where promptfoo has milliseconds", ("threshold",))
        case "cost" if limit is not None:
            return _Written(kind, f"{Decimal(str(limit)):f}USD", "promptfoo counts in USD", ("threshold",))
        case "levenshtein" if isinstance(value, str) and value:
            return _by_edits(value, threshold)
        case "similar" if isinstance(value, str):
            argument = value if threshold is None else {"to": value, "threshold": threshold}
            return _Written(kind, argument, "similar by its characters, not by embeddings", ("threshold",))
        case "is_json" | "contains_json" if isinstance(value, Mapping):
            return _Written("json_schema", value, "the whole reply; one code fence around it is allowed")
        case "is_json" | "contains_json" | "valid_json":
            note = "" if value is None else 'with a schema: {"json_schema": {…}}, the schema itself'
            return _Written("is_json", True, note, tuple(_VALUE_KEYS) if value is None else ())
        case "icontains_any" if texts := _texts(value):
            return _Written("regex", f"(?i){'|'.join(map(re.escape, texts))}")
        case "python" if not (isinstance(value, str) and re.fullmatch(r"[\w.-]+", value)):
            return _Written(kind, "my_check", _CODE)
        case _ if plain in _RUBRICS:
            return _Written(kind, _RUBRICS[plain].format(value))
        case _:
            return _plain(kind, value, limit)


def _plain(kind: str, value: Any, limit: Any) -> _Written | None:
    """Return a check whose argument is the value, written as this kind takes it."""
    if kind not in CHECKS:
        return None
    if kind == "tool_call" and (CHECKS[kind].argument(value) is not None or (isinstance(value, str) and "," in value)):
        return _called(value)
    argument: Any = value if value is not None else limit
    if kind in ("contains_any", "contains_all"):
        argument = _texts(value)
    elif CHECKS[kind].argument(argument) is not None and is_number(value):
        argument = str(value)
    carried = ("threshold",) if argument is limit and limit is not None else ()
    if argument is None and kind in ("tool_call", "tool_calls_valid", "similar"):
        argument = True
    if isinstance(value, str) and value.startswith("file://"):
        return _Written(kind, "…", f"the content itself in place of {value}", carried)
    expected = CHECKS[kind].argument(argument)
    return _Written(kind, argument if expected is None else "…", "" if expected is None else expected, carried)


def _called(value: Any) -> _Written:
    """Return the check on calls that is nearest to one of promptfoo: a tool, its arguments, or several in order."""
    given: Mapping[str, Any] = value if isinstance(value, Mapping) else {"steps": value}
    arguments = given.get("args", given.get("arguments"))
    name = given.get("name", given.get("pattern", value if isinstance(value, str) and "," not in value else None))
    if name is not None and isinstance(arguments, Mapping):
        exact = {"exact": True} if given.get("mode") == "exact" else {}
        return _Written("tool_call", {"name": name, "arguments": arguments, **exact})
    if name is not None:
        return _Written("tool_call", name)
    steps = given.get("steps")
    steps = [step.get("name") if isinstance(step, Mapping) else step for step in steps] if _is_list(steps) else steps
    names = _texts(steps)
    return _Written("tool_call", {"order": names}, "in this order") if names else _Written("tool_call", True)


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _by_edits(text: str, threshold: Any) -> _Written:
    """Return the check on similarity that is nearest to one on a number of edits."""
    edits = threshold if is_number(threshold) else _MOST_EDITS
    share = max(1, int(100 * (1 - edits / len(text)))) / 100
    note = f"a share of the text that is alike, where promptfoo counts {edits:g} edits: look at it"
    return _Written("similar", {"to": text, "threshold": share}, note, ("threshold",))


def _texts(value: Any) -> list[str]:
    """Return a list of texts, which promptfoo also reads from one text with commas."""
    items: Any = value.split(",") if isinstance(value, str) else value
    return [str(item).strip() for item in items] if isinstance(items, list) else []
