"""Deliberate bugs as data: `mutants.toml` names a function and what to replace in it.

Matching is done on syntax trees, so that formatting, comments and edits elsewhere in the function do not matter.
"""

from __future__ import annotations

import ast
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent / "mutants.toml"

Nodes = list[Any]
Named = ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign | ast.AnnAssign


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One replacement in one function."""

    function: str
    """`module:qualified name` of a function or of a module-level constant."""
    replace: str | None
    """None for the whole body of the function, or the value of the constant."""
    by: str

    @property
    def module(self) -> str:
        return self.function.partition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One deliberate bug, and the tests that must fail because of it."""

    name: str
    why: str
    tests: tuple[str, ...]
    edits: tuple[Edit, ...]


def read_mutants() -> list[Mutant]:
    """Return every mutant of the table, in order."""
    rows: list[dict[str, Any]] = tomllib.loads(TABLE.read_text("utf-8"))["mutants"]
    return [
        Mutant(
            name=row["name"],
            why=row["why"],
            tests=tuple(row["tests"]),
            edits=tuple(
                Edit(function=edit["function"], replace=edit.get("replace"), by=edit["with"]) for edit in row["edits"]
            ),
        )
        for row in rows
    ]


def apply(mutant: Mutant, root: Path) -> dict[Path, str]:
    """Return the changed source of each file that the mutant edits; no file is written.

    Raises:
        LookupError: A module or function does not exist, or the text to replace does not occur exactly once.
    """
    changed: dict[Path, str] = {}
    for edit in mutant.edits:
        path = file_of(edit.module, root)
        changed[path] = edited(changed.get(path) or path.read_text("utf-8"), edit)
    return changed


def file_of(module: str, root: Path) -> Path:
    """Return the source file of a module below `root`."""
    stem = root.joinpath(*module.split("."))
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.exists():
            return path
    raise LookupError(f"no module {module}")


def edited(source: str, edit: Edit) -> str:
    """Return the source after one edit, without comments and formatting."""
    tree = ast.parse(source)
    _replace(_definition(tree, edit.function), edit)
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _definition(tree: ast.Module, function: str) -> Named:
    """Return the function or constant of that qualified name; for a property, its getter."""
    scope: ast.AST = tree
    found: ast.AST = tree
    for name in function.partition(":")[2].split("."):
        inside = [node for node in ast.iter_child_nodes(scope) if name in _names(node)]
        if not inside:
            raise LookupError(f"no {function}")
        scope = found = inside[0]
    if not isinstance(found, Named):
        raise LookupError(f"{function} is neither a function nor a constant")
    return found


def _names(node: ast.AST) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Assign():
            return [target.id for target in node.targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case _:
            return []


def _replace(node: Named, edit: Edit) -> None:
    if edit.replace is None:
        _replace_body(node, edit.by)
        return
    places = [(place, new) for pattern, new in _readings(edit.replace, edit.by) for place in _places(node, pattern)]
    if len(places) != 1:
        raise LookupError(f"{len(places)} matches in {edit.function} instead of one: {edit.replace}")
    (place, new) = places[0]
    place.fill(new)


def _replace_body(node: Named, by: str) -> None:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        node.body = _statements(by)
    else:
        node.value = _expression(by)


def _readings(replace: str, by: str) -> Iterator[tuple[Nodes, Nodes]]:
    """A replacement: nodes to find, and nodes to put in their place."""
    if replace.startswith("case "):
        yield _cases(replace), _cases(by)
        return
    pattern, new = _statements(replace), _statements(by)
    if isinstance(pattern[0], ast.Expr) and isinstance(new[0], ast.Expr) and len(pattern) == len(new) == 1:
        yield [pattern[0].value], [new[0].value]
        return
    yield [*pattern], [*new]
    if (keyword := _keyword(pattern)) is not None:
        yield [keyword], [_keyword(new)]


def _statements(text: str) -> list[ast.stmt]:
    return ast.parse(textwrap.dedent(text)).body or [ast.Pass()]


def _expression(text: str) -> ast.expr:
    return ast.parse(f"({text})", mode="eval").body


def _cases(text: str) -> Nodes:
    match = ast.parse("match _:\n" + textwrap.indent(text, " ")).body[0]
    assert isinstance(match, ast.Match)
    return [*match.cases]


def _keyword(statements: list[ast.stmt]) -> ast.keyword | None:
    match statements:
        case [ast.Assign(targets=[ast.Name(id=name)], value=value)]:
            return ast.keyword(arg=name, value=value)
        case _:
            return None


@dataclass(frozen=True, slots=True)
class _Place:
    """Adjacent children of a node."""

    parent: ast.AST
    field: str
    span: slice | None
    """None when the field is one node, not a list."""

    def fill(self, new: Nodes) -> None:
        if self.span is None:
            setattr(self.parent, self.field, new[0])
        else:
            getattr(self.parent, self.field)[self.span] = new


def _places(within: ast.AST, pattern: Nodes) -> Iterator[_Place]:
    for parent in ast.walk(within):
        for field, value in ast.iter_fields(parent):
            if not isinstance(value, list):
                if _same(pattern, [value]):
                    yield _Place(parent, field, None)
                continue
            for start in range(len(value) - len(pattern) + 1):
                span = slice(start, start + len(pattern))
                if _same(pattern, value[span]):
                    yield _Place(parent, field, span)


def _same(pattern: Any, node: Any) -> bool:
    """Compare without positions and formatting; `...` in the pattern equals any expression or block."""
    match pattern:
        case ast.Constant(value=value) if value is ...:
            return isinstance(node, ast.expr)
        case [ast.Expr(value=ast.Constant(value=value))] if value is ...:
            return isinstance(node, list)
        case list():
            return isinstance(node, list) and len(pattern) == len(node) and all(map(_same, pattern, node))
        case ast.AST():
            return type(pattern) is type(node) and all(
                _same(value, getattr(node, field, None)) for field, value in ast.iter_fields(pattern)
            )
        case _:
            return type(pattern) is type(node) and pattern == node
