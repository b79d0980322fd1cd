"""Scripted results of tools: which call gets which result, and what is left for later calls."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.dataset.tool_script import NoResult, ToolScript
from convbatch.dialogue import Dialogue, Part, Turn, text_part
from convbatch.tools import ToolCall, contains_arguments, equal_as_json


def script(results: dict[str, Any], *declared: str) -> ToolScript:
    tools = tuple({"name": name} for name in declared or results)
    turns = (Turn(user=(text_part("Hi"),)),)
    return ToolScript(Dialogue(id="d", turns=turns, tools=tools, tool_results=results))


def call(name: str = "f", /, **arguments: Any) -> ToolCall:
    return ToolCall(None, name, arguments)


def values(tools: ToolScript, *calls: ToolCall) -> list[Any]:
    return [result.value for result in tools.answer(calls)]


@pytest.mark.parametrize("value", [None, 0, "", "text", {"celsius": 21}, {"result": 1, "other": 2}, {"match": {}}, {}])
def test_a_value_answers_every_call(value: Any) -> None:
    tools = script({"f": value})
    for _ in range(3):
        assert values(tools, call(x=1), call()) == [value, value]


def test_a_list_is_used_up_in_order_and_over_all_turns() -> None:
    tools = script({"f": [1, 2, 3], "g": "g"})
    assert values(tools, call(), call("g")) == [1, "g"]
    assert values(tools, call(), call()) == [2, 3]
    with pytest.raises(NoResult, match="the results of f in tool_results are used up"):
        tools.answer([call()])


def test_entries_are_matched_by_their_arguments() -> None:
    paris, rome = ({"match": {"city": city}, "result": city.lower()} for city in ("Paris", "Rome"))
    tools = script({"f": [paris, rome, "any"]})
    assert values(tools, call(city="Rome", unit="C"), call(city="Paris")) == ["rome", "paris"]
    assert values(tools, call(city="Paris")) == ["any"]
    with pytest.raises(NoResult, match="used up"):
        tools.answer([call(city="Paris")])


def test_a_single_match_holds_for_any_number_of_calls() -> None:
    tools = script({"f": {"match": {"n": 1}, "result": "one"}})
    assert values(tools, call(n=1.0), call(n=1)) == ["one", "one"]
    for wrong in (call(n=True), call(n=2), call()):
        with pytest.raises(NoResult, match="no result for these arguments of f"):
            tools.answer([wrong])


def test_errors_and_media_are_told_apart_from_values() -> None:
    tools = script({"f": [{"error": "down"}, {"result": "a map", "media": [{"image": "map.png"}]}]})
    down, shown = tools.answer([call(), call()])
    assert (down.value, down.is_error, shown.value, shown.is_error) == ("down", True, "a map", False)
    assert shown.media == (Part(kind="image", path="map.png"),)


@pytest.mark.parametrize(
    ("called", "why"),
    [
        (call("h"), "the tool h is not declared"),
        (call("g"), "tool_results has no result for g"),
        (ToolCall("c1", "f", '{"city": '), "the arguments of f are not a JSON object"),
        (ToolCall("c1", "f", [1]), "the arguments of f are not a JSON object"),
    ],
)
def test_one_call_without_a_result_leaves_all_results_unused(called: ToolCall, why: str) -> None:
    tools = script({"f": [1, 2]}, "f", "g")
    for calls in ([call(), called], [called, call()]):
        with pytest.raises(NoResult, match=f"^{why}$"):
            tools.answer(calls)
    assert values(tools, call(), call()) == [1, 2]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, json_values)
def test_equality_is_that_of_json(left: Any, right: Any) -> None:
    assert equal_as_json(left, left)
    assert equal_as_json(left, right) == equal_as_json(right, left)
    assert equal_as_json([left], [right]) == equal_as_json({"k": left}, {"k": right}) == equal_as_json(left, right)
    assert contains_arguments({"a": left, "b": right}, {"a": left})


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_no_entry_is_used_twice(entries: list[int], asked: list[int]) -> None:
    tools = script({"f": [{"match": {"n": n}, "result": place} for place, n in enumerate(entries)]})
    used: list[int] = []
    for n in asked:
        left = [place for place, entry in enumerate(entries) if entry == n and place not in used]
        if left:
            assert values(tools, call(n=n)) == left[:1]
            used.append(left[0])
        else:
            with pytest.raises(NoResult):
                tools.answer([call(n=n)])
