"""Valid JSON documents with a few random changes, for tests that compare two readers of one format."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

Path = tuple[str | int, ...]

SCALARS = (
    None, True, False, 0, 1, -1, 2, 3.5, 1.0, 0.0, 1e13, 700, "", " ", "x", "\x1c", "\u3000", "2026-01-31", "10/10s",
    "5USD", "gemini", "openai", "none", "header:X", "https://example.com/v1", "NAME", "with space", "EUR", "object",
    "auto", "image/png", "aGk=", [], {}, ["x"], [1], [["x"]], {"x": 1}, {"x": "y"}, [{}], [{"x": "y"}],
)  # fmt: skip
"""Values that replace others, or come under another key."""


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every value in a document, its own first."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from places(item, (*path, number))


def _at(document: Any, path: Path) -> Any:
    for step in path:
        document = document[step]
    return document


@st.composite
def mutated(draw: st.DrawFn, documents: Sequence[Any], keys: Sequence[str]) -> Any:
    """Return one of these documents after one to three changes.

    Args:
        draw: From hypothesis.
        documents: Valid documents.
        keys: Names for keys that are added: those of the format, and some that are none.
    """
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([*places(document)]))
        value = copy.deepcopy(draw(st.sampled_from(SCALARS)))
        here = _at(document, path)
        match draw(st.sampled_from(("replace", "remove", "add", "copy"))):
            case "add" if isinstance(here, dict):
                here[draw(st.sampled_from(keys))] = value
            case "add" if isinstance(here, list):
                here.append(value)
            case "copy" if isinstance(here, list) and here:
                here.append(copy.deepcopy(here[0]))
            case "remove" if path:
                del _at(document, path[:-1])[path[-1]]
            case _ if path:
                _at(document, path[:-1])[path[-1]] = value
            case _:
                pass
    return document
