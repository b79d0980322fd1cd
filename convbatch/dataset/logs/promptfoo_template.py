"""The templates of promptfoo's prompts, evaluated within bounds: variables, loops over lists, conditions, few filters.

Jinja's parser reads them; nothing of Jinja runs. A template cannot call, compute or read anything but its variables, so
a foreign one can neither reach this machine nor keep it busy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from convbatch.dataset.jsonl import excerpt
from convbatch.errors import SetupError

_MOST_TEXT = 4 * 2**20
_MOST_STEPS = 200_000
_INSTALL = "pip install 'convbatch[promptfoo]'"


class TemplateRefused(Exception):  # caught where the test is known
    """A template that is broken, or has something that is not evaluated."""


_FILTERS: Mapping[str, Callable[[Any], Any]] = {
    "dump": lambda value: json.dumps(value, ensure_ascii=False),
    "tojson": lambda value: json.dumps(value, ensure_ascii=False),
    "safe": lambda value: value,
    "string": lambda value: _shown(value),
    "trim": lambda value: _shown(value).strip(),
    "lower": lambda value: _shown(value).lower(),
    "upper": lambda value: _shown(value).upper(),
    "length": lambda value: len(value) if isinstance(value, str | list | dict) else 0,
    "first": lambda value: value[0] if isinstance(value, str | list) and value else None,
    "last": lambda value: value[-1] if isinstance(value, str | list) and value else None,
}
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": lambda one, other: one == other,
    "ne": lambda one, other: one != other,
    "lt": lambda one, other: one < other,
    "lteq": lambda one, other: one <= other,
    "gt": lambda one, other: one > other,
    "gteq": lambda one, other: one >= other,
    "in": lambda one, other: one in other,
    "notin": lambda one, other: one not in other,
}


def render(text: str, variables: Mapping[str, Any], *, in_json: bool = False) -> str:
    """Fill a template.

    Args:
        text: The template.
        variables: Plain values by name.
        in_json: Escape texts for the inside of JSON strings, unless a filter `dump` writes them as JSON.

    Raises:
        TemplateRefused: It is broken, has a variable without a value, or needs something that is not evaluated.
        SetupError: The parser is not installed.
    """
    if "{{" not in text and "{%" not in text and "{#" not in text:
        return text
    try:
        from jinja2 import Environment, nodes  # the extra
        from jinja2.exceptions import TemplateError
    except ImportError:
        raise SetupError("templates of promptfoo need a library that is not installed", hint=_INSTALL) from None
    try:
        tree = Environment(autoescape=False, keep_trailing_newline=True).parse(text)  # nothing is rendered
        return _Evaluator(nodes, in_json=in_json).text(tree, variables)
    except TemplateError as error:
        raise TemplateRefused(f"a broken template: {excerpt(str(error))}") from None
    except RecursionError:
        raise TemplateRefused("a template nested too deeply") from None
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        raise TemplateRefused(f"a template that cannot be evaluated: {excerpt(str(error))}") from None


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


class _Undefined:
    """A variable without a value: false in a condition, an error in a text."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __bool__(self) -> bool:
        return False


class _Evaluator:
    def __init__(self, nodes: Any, *, in_json: bool) -> None:
        self._nodes = nodes
        self._in_json = in_json
        self._steps = 0
        self._size = 0

    def text(self, tree: Any, variables: Mapping[str, Any]) -> str:
        return "".join(self._body(tree.body, dict(variables)))

    def _step(self) -> None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise TemplateRefused("a template that goes on for too long")

    def _out(self, text: str) -> str:
        self._size += len(text)
        if self._size > _MOST_TEXT:
            raise TemplateRefused("a template that makes more than 4 MiB of text")
        return text

    def _body(self, body: Any, scope: dict[str, Any]) -> Iterator[str]:
        nodes = self._nodes
        for node in body:
            self._step()
            if isinstance(node, nodes.Output):
                yield from (self._out(self._piece(one, scope)) for one in node.nodes)
            elif isinstance(node, nodes.For):
                yield from self._for(node, scope)
            elif isinstance(node, nodes.If):
                yield from self._if(node, scope)
            elif isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name):
                scope[node.target.name] = self._value(node.node, scope)
            else:
                raise TemplateRefused(
                    f"a template with {type(node).__name__}, which is not evaluated (line {node.lineno})"
                )

    def _piece(self, node: Any, scope: dict[str, Any]) -> str:
        if isinstance(node, self._nodes.TemplateData):
            return node.data
        value = self._value(node, scope)
        if isinstance(value, _Undefined):
            raise TemplateRefused(f"no value for {{{{{value.name}}}}}")
        is_json = isinstance(node, self._nodes.Filter) and node.name in ("dump", "tojson", "safe")
        text = _shown(value)
        return (
            json.dumps(text, ensure_ascii=False)[1:-1]
            if self._in_json and not is_json and isinstance(value, str)
            else text
        )

    def _for(self, node: Any, scope: dict[str, Any]) -> Iterator[str]:
        held = self._value(node.iter, scope)
        if not isinstance(held, list) or not isinstance(node.target, self._nodes.Name) or node.test or node.recursive:
            if isinstance(held, _Undefined):
                return
            raise TemplateRefused(f"a loop over something that is no list (line {node.lineno})")
        for at, item in enumerate(held):
            self._step()
            loop = {"index": at + 1, "index0": at, "first": at == 0, "last": at == len(held) - 1, "length": len(held)}
            yield from self._body(node.body, {**scope, node.target.name: item, "loop": loop})
        if not held:
            yield from self._body(node.else_, scope)

    def _if(self, node: Any, scope: dict[str, Any]) -> Iterator[str]:
        for branch in (node, *node.elif_):
            if self._value(branch.test, scope):
                yield from self._body(branch.body, scope)
                return
        yield from self._body(node.else_, scope)

    def _value(self, node: Any, scope: dict[str, Any]) -> Any:
        self._step()
        nodes = self._nodes
        match node:
            case nodes.Const():
                return node.value
            case nodes.Name():
                return scope.get(node.name, _Undefined(node.name)) if isinstance(node.name, str) else None
            case nodes.Getattr():
                return self._item(self._value(node.node, scope), node.attr)
            case nodes.Getitem():
                return self._item(self._value(node.node, scope), self._value(node.arg, scope))
            case nodes.Filter():
                return self._filter(node, scope)
            case nodes.Not():
                return not self._value(node.node, scope)
            case nodes.And() | nodes.Or():
                left = self._value(node.left, scope)
                decides = bool(left) == isinstance(node, nodes.Or)
                return left if decides else self._value(node.right, scope)
            case nodes.Compare() if len(node.ops) == 1 and node.ops[0].op in _OPERATORS:
                return _OPERATORS[node.ops[0].op](self._value(node.expr, scope), self._value(node.ops[0].expr, scope))
            case nodes.CondExpr():
                chosen = node.expr1 if self._value(node.test, scope) else node.expr2
                return "" if chosen is None else self._value(chosen, scope)
            case _:
                raise TemplateRefused(
                    f"a template with {type(node).__name__}, which is not evaluated (line {node.lineno})"
                )

    def _item(self, held: Any, key: Any) -> Any:
        if isinstance(held, dict) and isinstance(key, str):
            return held.get(key, _Undefined(key))
        if (
            isinstance(held, list)
            and isinstance(key, int)
            and not isinstance(key, bool)
            and -len(held) <= key < len(held)
        ):
            return held[key]
        if key == "length" and isinstance(held, list | str):
            return len(held)
        return _Undefined(str(key))

    def _filter(self, node: Any, scope: dict[str, Any]) -> Any:
        value = self._value(node.node, scope)
        if node.name in ("default", "d") and len(node.args) == 1:
            return value if value or value in (0, False, "") else self._value(node.args[0], scope)
        if node.name == "join" and isinstance(value, list):
            mark = self._value(node.args[0], scope) if node.args else ""
            return self._out(_shown(mark).join(map(_shown, value)))
        # `dump(2)` only indents.
        if node.name not in _FILTERS or node.kwargs or (node.args and node.name not in ("dump", "tojson")):
            raise TemplateRefused(f"the filter {node.name!r} is not evaluated (line {node.lineno})")
        if isinstance(value, _Undefined):
            raise TemplateRefused(f"no value for {{{{{value.name}}}}}")
        return _FILTERS[node.name](value)
