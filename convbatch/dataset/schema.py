"""Validate a dialogue in the canonical format: one JSON value to a list of all its issues.

Pydantic validates types and keys (`forms.py`) of what is not usual (`plain.py`); rules between keys are functions
below. No files are read, not even media.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from convbatch.checks.builtin import CHECKS, is_number, is_text, normalize_problem, time_limit_problem
from convbatch.checks.values import COMPARES_TARGETS, MODIFIERS, CheckSite
from convbatch.dataset.foreign_checks import KIND_KEYS, absent_kind, check_name, translated
from convbatch.dataset.jsonl import display_json, excerpt
from convbatch.dataset.plain import is_plain_dialogue
from convbatch.dataset.tool_rules import call_issues, declaration_issues, result_issues
from convbatch.errors import Issue, did_you_mean, nearest
from convbatch.media import DETAILS, kind_named

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def issues_of(value: Mapping[str, Any]) -> list[Issue]:
    """Return all issues of one canonical dialogue, in the order of its turns; empty when it is valid."""
    if not is_plain_dialogue(value):
        from convbatch.dataset.forms import shape_errors

        if details := shape_errors(value):
            return _issues_of_broken(value, details)
    return _rule_issues(value, broken_turns=frozenset())


def _issues_of_broken(value: Mapping[str, Any], details: Sequence[ErrorDetails]) -> list[Issue]:
    details = list(_without_misspelt(details))
    issues = [_shape_issue(detail) for detail in details]
    broken_keys = {detail["loc"][0] for detail in details if detail["loc"][0] != "turns"}
    whole_turns = all(len(detail["loc"]) > 1 for detail in details if detail["loc"][0] == "turns")
    if "tools" in broken_keys or not whole_turns:
        return issues  # the rules between keys would only repeat these issues
    sound = {key: item for key, item in value.items() if key not in broken_keys}
    broken_turns = frozenset(cast(int, detail["loc"][1]) for detail in details if detail["loc"][0] == "turns")
    return issues + _rule_issues(sound, broken_turns=broken_turns)


def _without_misspelt(details: Sequence[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Leave out that a key is missing where an unknown key beside it is that key, misspelt."""
    from convbatch.dataset.forms import KEYS

    misspelt: set[tuple[tuple[int | str, ...], str | None]] = set()
    for detail in details:
        if detail["type"] == "extra_forbidden":
            place, path = _split(detail["loc"])
            known = KEYS[_container(path[:-1], in_turn=place is not None)]
            misspelt.add((detail["loc"][:-1], nearest(str(path[-1]), known)))
    return (one for one in details if one["type"] != "missing" or (one["loc"][:-1], one["loc"][-1]) not in misspelt)


def _rule_issues(value: Mapping[str, Any], *, broken_turns: frozenset[int]) -> list[Issue]:
    issues: list[Issue] = []
    turns: list[dict[str, Any]] = value["turns"]
    for index, turn in enumerate(turns):
        if index not in broken_turns:
            issues += _turn_issues(turn, index + 1, value)
    if not broken_turns and all(turn.get("ask") is False for turn in turns):
        issues.append(
            Issue(
                what='no turn is asked: every turn has "ask": false',
                hint='leave "ask" out of the turns that the model should answer',
            )
        )
    issues += declaration_issues(value.get("tools", ()))
    issues += result_issues(value, _part_problem)
    if "checks" in value:
        issues += _check_issues(value["checks"], None, value, has_reply=False)
    return issues


# Types and keys: pydantic's errors as issues.

_MUST_BE = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "typed_dict_type": "must be an object",
    "finite_number": "must be a finite number",
    "string_pattern_mismatch": "must not be blank",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "int_from_float": "must be a whole number",
}


def _shape_issue(detail: ErrorDetails) -> Issue:
    from convbatch.dataset.forms import KEYS

    loc = detail["loc"]
    place, path = _split(loc)
    kind = detail["type"]
    if kind == "extra_forbidden":
        known = KEYS[_container(path[:-1], in_turn=place is not None)]
        return Issue(
            what=f"unknown key {display_json(path[-1])}" + _inside(path[:-1]),
            field=place,
            found=display_json({str(path[-1]): detail["input"]}),
            hint=_key_hint(str(path[-1]), known),
        )
    if kind == "missing":
        return _missing_issue(place, path, detail["input"])
    if not path:
        name = f"turn {loc[1] + 1}" if place is not None and isinstance(loc[1], int) else "the line"
        return Issue(
            what=f"{name} must be an object", field=place, found=display_json(detail["input"]), hint=_TURN_EXAMPLE
        )
    name = _dotted(path)
    return Issue(
        what=f'"{name}" {_must_be(detail, path)}',
        field=place,
        found=display_json(detail["input"]),
        hint=_shape_hint(path, detail["input"]),
    )


_OTHER_KEYS = {
    **dict.fromkeys(("assert", "asserts", "expected"), "checks"),
    **dict.fromkeys(("prompt", "question", "content"), "user"),
    **dict.fromkeys(("answer", "reply", "response"), "assistant"),
    **dict.fromkeys(("parameters", "params", "config"), "settings"),
    **{"name": "id", "labels": "tags", "metadata": "meta"},
}
"""Keys of other tools, and ours that holds the same."""


def _key_hint(key: str, known: Collection[str]) -> str:
    ours = _OTHER_KEYS.get(key.lower())
    hint = did_you_mean(key, known)
    return hint if ours not in known or hint.startswith("did") else f"did you mean {ours!r}? {hint}"


_TURN_EXAMPLE = 'a turn is {"user": "…"}, with "assistant", "checks", "settings", "ask" as needed'


def _split(loc: tuple[int | str, ...]) -> tuple[str | None, tuple[int | str, ...]]:
    # Pydantic's path contains the tag of the user union, which is not in the file.
    if len(loc) >= 2 and loc[0] == "turns" and isinstance(loc[1], int):
        rest = loc[2:]
        if rest[:1] == ("user",) and rest[1:2] in (("text",), ("parts",)):
            rest = ("user", *rest[2:])
        return f"turn {loc[1] + 1}", rest
    return None, loc


def _dotted(path: tuple[int | str, ...]) -> str:
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def _inside(path: tuple[int | str, ...]) -> str:
    return f" in {_dotted(path)}" if path else ""


def _container(path: tuple[int | str, ...], *, in_turn: bool) -> str:
    if not path:
        return "turn" if in_turn else "dialogue"
    return {"settings": "settings", "user": "part", "tools": "tool"}[str(path[0])]


def _missing_issue(place: str | None, path: tuple[int | str, ...], found: Any) -> Issue:
    key = str(path[-1])
    if key == "user":
        return Issue(what='no "user" text', field=place, found=display_json(found), hint='every turn needs "user": "…"')
    hint = 'a dialogue needs "turns": [{"user": "…"}, …]' if key == "turns" else f'add "{key}"'
    return Issue(what=f'no "{key}"' + _inside(path[:-1]), field=place, found=display_json(found), hint=hint)


def _must_be(detail: ErrorDetails, path: tuple[int | str, ...]) -> str:
    kind = detail["type"]
    if path == ("user",) and kind == "list_type":
        return "must be text or a list of parts"
    bounds = detail.get("ctx", {})
    for name, words in (("ge", "at least"), ("le", "at most"), ("gt", "more than"), ("lt", "less than")):
        if name in bounds and kind in ("greater_than_equal", "less_than_equal", "greater_than", "less_than"):
            bound = bounds[name]
            shown = int(bound) if isinstance(bound, float) and bound.is_integer() else bound
            return f"must be {words} {shown}"
    if kind == "literal_error":
        return f"must be {bounds['expected']}"
    return _MUST_BE.get(kind, detail["msg"])


def _shape_hint(path: tuple[int | str, ...], found: Any) -> str:
    key = str(path[0])
    if found is None:
        return "leave the key out instead of null"
    if path == ("assistant",):
        return 'leave "assistant" out when there is no scripted reply'
    if key == "user":
        return 'a user message is text or a list like [{"text": "…"}, {"image": "media/cat.png"}]'
    if path == ("id",) and isinstance(found, int):
        return f'put it in quotes: "id": "{found}"'
    return _HINTS.get(str(path[-1]) if isinstance(path[-1], str) else key, _HINTS.get(key, "see docs/dataset.md"))


_HINTS = {
    "temperature": 'e.g. "temperature": 0',
    "top_p": 'between 0 and 1, e.g. "top_p": 0.95',
    "top_k": 'e.g. "top_k": 40 (-1: off, where a gateway knows it)',
    "max_output_tokens": 'e.g. "max_output_tokens": 256',
    "stop": 'e.g. "stop": ["END"]',
    "seed": 'e.g. "seed": 7',
    "thinking_budget": 'e.g. "thinking_budget": 0 (off) or -1 (the model decides)',
    "include_thoughts": 'e.g. "include_thoughts": true',
    "logprobs": 'alternatives for each token, 0 to 20, e.g. "logprobs": 5',
    "service_tier": 'e.g. "service_tier": "flex"',
    "cache": '"auto", "off" or "1h"',
    "system": 'e.g. "system": "Answer briefly."',
    "tags": 'e.g. "tags": ["date", "zh"]',
    "turns": 'e.g. "turns": [{"user": "Hello"}]',
    "checks": 'a list of checks, e.g. "checks": [{"contains": "27"}]',
    "ask": 'true (the default) or false: "ask": false',
    "settings": 'e.g. "settings": {"temperature": 0}',
    "safety": 'e.g. "safety": {"HARM_CATEGORY_HARASSMENT": "BLOCK_NONE"}',
    "id": "leave the key out to get FILE:LINE",
    "tools": 'e.g. "tools": [{"name": "get_weather", "parameters": {"type": "object"}}]',
    "tool_results": 'e.g. "tool_results": {"get_weather": {"celsius": 21}}',
    "tool_calls": 'a list like [{"name": "now", "arguments": {}, "result": "12:00"}], or one list for each step',
    "max_steps": 'most model calls in one turn, 1 to 100, e.g. "max_steps": 4',
    "meta": 'e.g. "meta": {"source": "support desk"}',
}


# Rules between the keys of a turn.


def _turn_issues(turn: dict[str, Any], number: int, dialogue: Mapping[str, Any]) -> list[Issue]:
    issues: list[Issue] = []
    place = f"turn {number}"
    user = turn["user"]
    if not isinstance(user, str):
        issues += _user_issues(user, place)
    if "tool_calls" in turn:
        issues += call_issues(turn, place, dialogue.get("tools", ()), _part_problem)
    if turn.get("ask") is False:
        if "assistant" not in turn:
            issues.append(
                Issue(
                    what='"ask": false without "assistant"',
                    field=place,
                    found=display_json(turn),
                    hint='a turn that is only context needs its reply: add "assistant": "…"',
                )
            )
        if turn.get("checks"):
            issues.append(
                Issue(
                    what='"checks" on a turn with "ask": false',
                    field=place,
                    found=display_json(turn["checks"]),
                    hint='nothing is asked here, so there is no reply to check: remove "checks" or "ask"',
                )
            )
    elif "checks" in turn:
        issues += _check_issues(turn["checks"], place, dialogue, has_reply="assistant" in turn)
    return issues


def _user_issues(parts: Sequence[dict[str, Any]], place: str) -> list[Issue]:
    issues = [
        Issue(what=what, field=place, found=display_json(part), hint=hint)
        for part in parts
        for what, hint in [_part_problem(part)]
        if what
    ]
    if not issues and all("text" in part and not part["text"].strip() for part in parts):
        issues.append(
            Issue(
                what='"user" must not be blank',
                field=place,
                found=display_json(parts),
                hint="a user message has text",
            )
        )
    return issues


_PART_FORMS = (
    'a part is {"text"}, {"image"|"audio"|"video"|"document": path}, {"data", "mime_type"} or {"uri", "mime_type"}'
)


def _part_problem(part: dict[str, Any]) -> tuple[str, str]:
    what, hint = _form_problem(part)
    if what or "detail" not in part:
        return what, hint
    if "image" not in part and kind_named(part.get("mime_type", "")) != "image":
        return '"detail" of a part that is no image', 'only an image has "detail"'
    if part["detail"] not in DETAILS:
        return f'"detail" is not one of {", ".join(DETAILS)}', did_you_mean(part["detail"], DETAILS)
    return "", ""


def _form_problem(part: dict[str, Any]) -> tuple[str, str]:
    kinds = [key for key in part if key not in ("mime_type", "detail")]
    if len(kinds) != 1:
        return ("a part of no kind" if not kinds else f"a part of {len(kinds)} kinds at once"), _PART_FORMS
    if kinds[0] == "uri":
        return _uri_problem(part)
    if kinds[0] != "data":
        if "mime_type" in part:
            return (
                f'"mime_type" beside "{kinds[0]}"',
                '"mime_type" belongs to "data"; the type of a file is detected from its content',
            )
        return "", ""
    mime_type = part.get("mime_type")
    if mime_type is None:
        return '"data" without "mime_type"', 'e.g. {"data": "iVBORw0…", "mime_type": "image/png"}'
    if not re.fullmatch(r"[\w.+-]+/[\w.+-]+(;.*)?", mime_type):
        return '"mime_type" is not a MIME type', 'e.g. "image/png"'
    try:
        base64.b64decode(part["data"], validate=True)
    except (binascii.Error, ValueError):
        return '"data" is not base64', "standard base64 without line breaks or a data: prefix"
    return "", ""


_URI = re.compile(r"(?:https?|gs)://\S+|files/\S+")


def _uri_problem(part: dict[str, Any]) -> tuple[str, str]:
    if not _URI.fullmatch(part["uri"]):
        return '"uri" is no address that a provider fetches', "https://…, gs://… or files/…"
    if not re.fullmatch(r"[\w.+-]+/([\w.+-]+(;.*)?|\*)", part.get("mime_type", "")):
        return '"uri" without its "mime_type"', 'e.g. {"uri": "https://…/cat.png", "mime_type": "image/png"}'
    return "", ""


# Checks: one kind key with its argument. What a kind accepts is in its row of `checks/builtin.py`.

MOST_WEIGHT = 1_000_000
"""Keeps sums of weights finite."""
_CHECK_KEYS = (*CHECKS, *(f"not_{kind}" for kind in CHECKS), *MODIFIERS)


def _check_issues(
    checks: Sequence[dict[str, Any]], place: str | None, dialogue: Mapping[str, Any], *, has_reply: bool
) -> list[Issue]:
    issues: list[Issue] = []
    for number, check in enumerate(checks, 1):
        for problem, hint in _check_problems(check, dialogue, has_reply=has_reply):
            issues.append(Issue(what=f"check {number}: {problem}", field=place, found=display_json(check), hint=hint))
    return issues


def _check_problems(check: dict[str, Any], dialogue: Mapping[str, Any], *, has_reply: bool) -> list[tuple[str, str]]:
    naming = next((key for key in KIND_KEYS if isinstance(check.get(key), str)), None)
    if naming is not None and not any(key.removeprefix("not_") in CHECKS for key in check):
        return [_typed_check(check, naming)]
    kinds = [key for key in check if key.removeprefix("not_") in CHECKS]
    unknown = (key for key in check if key not in MODIFIERS and key not in kinds)
    problems = [_unknown_key(key, has_kind=bool(kinds)) for key in unknown]
    if len(kinds) != 1 and not problems:
        what = "no kind" if not kinds else "more than one kind: " + ", ".join(kinds)
        problems.append((what, 'one kind a check, e.g. {"contains": "27"}; write several checks as several objects'))
    for key in kinds:
        found = _argument_problems(key, check[key], dialogue, has_reply=has_reply)
        if not found and "normalize" in check and (misfit := normalize_problem(key, check[key], check["normalize"])):
            found = [misfit]
        if "time_limit" in check and (misfit := time_limit_problem(key, check["time_limit"])):
            found = [*found, misfit]
        problems += found
    if COMPARES_TARGETS in kinds and "weight" in check:
        problems.append(('"weight" does not apply to "prefer"', "a preference is no part of a score: leave it out"))
    return problems + _modifier_problems(check)


def _unknown_key(key: str, *, has_kind: bool) -> tuple[str, str]:
    near = nearest(key, _CHECK_KEYS)
    if near in MODIFIERS:
        return f"unknown key {display_json(key)}", f"did you mean {near!r}?"
    if near is None and has_kind:
        if re.fullmatch(r"(ignore|case)_?(case|sensitive|insensitive)", key, re.IGNORECASE):
            return f"unknown key {display_json(key)}", 'a check without regard to case: {"icontains": "paris"}'
        return f"unknown key {display_json(key)}", "beside its kind a check may have " + ", ".join(MODIFIERS)
    return f"unknown check {display_json(key)}", _nearest_check(key)


def _modifier_problems(check: Mapping[str, Any]) -> list[tuple[str, str]]:
    problems: list[tuple[str, str]] = []
    weight = check.get("weight", 1)
    if not is_number(weight) or not 0 <= weight <= MOST_WEIGHT:
        problems.append((f'"weight" must be a number from 0 to {MOST_WEIGHT:,}', 'e.g. "weight": 2'))
    if not is_text(check.get("name", "x")):
        problems.append(('"name" must be text', 'e.g. "name": "right date"'))
    return problems


def _typed_check(check: Mapping[str, Any], naming: str) -> tuple[str, str]:
    """Describe a check whose kind is a value, as promptfoo writes it."""
    told = translated(check, naming)
    if told is None:
        return f"unknown check {display_json(check[naming])}", _nearest_check(check[naming])
    return f"the kind of a check is its key, not {display_json(naming)}: {display_json(check[naming])}", told


def _nearest_check(key: str) -> str:
    if (instead := absent_kind(key)) is not None:
        return instead
    name = check_name(key)
    if name.removeprefix("not_") in CHECKS:
        return f"did you mean {name!r}?"
    hint = did_you_mean(name, [*_CHECK_KEYS])
    known = ", ".join(sorted(CHECKS))
    return hint.split("known: ")[0] + f"known: {known}, each also with not_ in front"


ARGUMENT_EXAMPLES: Mapping[str, tuple[Any, str]] = {
    "equals": ("Paris", ""),
    "contains": ("27", ""),
    "icontains": ("paris", ""),
    "contains_any": (["27", "twenty-seven"], ""),
    "contains_all": (["27", "December"], ""),
    "starts_with": ("Yes", ""),
    "regex": ("[0-9]{4}", ""),
    "is_json": (True, ""),
    "json_schema": ({"type": "object"}, ""),
    "number": (8, ""),
    "similar": (True, ""),
    "finish_reason": ("stop", ""),
    "max_length": (200, " (characters)"),
    "output_tokens": (100, " (tokens)"),
    "latency": (2.5, " (seconds)"),
    "cost": ("0.002USD", ""),
    "image": ({"at_least": 1, "min_width": 512}, ""),
    "tool_call": ("get_weather", ""),
    "tool_calls_valid": (True, ""),
    "llm_rubric": ("The answer is polite.", ""),
    "prefer": ({"rubric": "Answers more precisely."}, ""),
    "python": ("my_check", " (an entry point)"),
}
"""For each kind an argument that it takes, and its unit."""


def _example_of(key: str) -> Any:
    return ARGUMENT_EXAMPLES.get(key.removeprefix("not_"), ("…", ""))[0]


def _argument_problems(
    key: str, argument: Any, dialogue: Mapping[str, Any], *, has_reply: bool
) -> list[tuple[str, str]]:
    kind = CHECKS[key.removeprefix("not_")]
    expected = kind.argument(argument)
    if expected is not None:
        unit = ARGUMENT_EXAMPLES.get(kind.name, ("", ""))[1]
        example = f"e.g. {display_json({key: _example_of(key)})}{unit}"
        return [(f'"{key}" takes {excerpt(expected, 200)}', f"found {display_json(argument)}; {example}")]
    if kind.site_problem is None:
        return []
    tools = tuple(tool["name"] for tool in dialogue.get("tools", ()))
    problem = kind.site_problem(key, argument, CheckSite(has_reference=has_reply, tools=tools))
    return [] if problem is None else [problem]
