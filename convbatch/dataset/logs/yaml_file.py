"""One YAML file as a JSON value: YAML 1.2 without tags, of bounded size also after its aliases."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

from convbatch.dataset.file_kinds import not_utf8
from convbatch.dataset.jsonl import RefusedValue, decompressed, excerpt, open_regular
from convbatch.errors import Issue, SetupError

MAX_BYTES = 4 * 2**20
_MOST_VALUES = 500_000
_MOST_DEPTH = 64
_INSTALL = "pip install 'convbatch[promptfoo]'"


def read_yaml(path: Path) -> dict[str, Any] | Issue:
    """Return the object in a YAML file, or what is wrong with it.

    Raises:
        SetupError: The reader of YAML is not installed.
    """
    try:
        with open_regular(path) as raw, decompressed(raw) as content:
            text = content.read(MAX_BYTES + 1)
    except RefusedValue as refusal:
        return refusal.issue
    except (OSError, EOFError) as error:
        return Issue(what="reading failed", found=excerpt(str(error)), hint="copy it again")
    if len(text) > MAX_BYTES:
        hint = "of results, the JSON form is read: promptfoo eval -o results.json"
        return Issue(what=f"a YAML file of more than {MAX_BYTES // 2**20} MiB", hint=hint)
    try:
        value = parse_yaml(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        start = text.rfind(b"\n", 0, error.start) + 1
        return not_utf8(text[start : error.start + 400].split(b"\n")[0], error.start - start)
    if isinstance(value, dict | Issue):
        return value
    return Issue(what="YAML that is no object", found=excerpt(repr(value)), hint="a config has prompts: and tests:")


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text, or an `Issue`.

    Raises:
        SetupError: The reader of YAML is not installed.
    """
    try:
        from ruamel.yaml import YAML  # the extra
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
    except ImportError:
        raise SetupError("reading YAML needs a library that is not installed", hint=_INSTALL) from None
    if not _is_shallow(text):
        return Issue(what="YAML nested too deeply", hint="no log needs that")
    reader = YAML(typ="safe", pure=True)
    try:
        value = reader.load(text)
        return _plain(value, _Budget())
    except RecursionError:
        return Issue(what="YAML nested too deeply", hint="no log needs that")
    except _TooMuch as error:
        return Issue(what=f"YAML {error}", hint="write it without aliases (&name, *name)")
    except (YAMLError, ValueError, TypeError, AttributeError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) if isinstance(error, MarkedYAMLError) else None
        line = None if mark is None else mark.line + 1
        hint = "tags such as !!python/object are not read"
        told = str(what or error).splitlines() or ["unreadable"]
        return Issue(what=f"not YAML: {excerpt(told[0])}", hint=hint, line=line)


def _is_shallow(text: str) -> bool:
    """Whether flow collections stay shallow: the reader recurses once or more for each level."""
    depth = deepest = 0
    for character in text:
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth = max(0, depth - 1)
    return deepest <= 4 * _MOST_DEPTH


class _TooMuch(Exception):  # caught where the file is known
    pass


class _Budget:
    def __init__(self) -> None:
        self.left = _MOST_VALUES

    def take(self, size: int) -> None:
        self.left -= 1 + size // 64
        if self.left < 0:
            raise _TooMuch("of too many values, counting each alias as what it stands for")


def _plain(value: Any, budget: _Budget, depth: int = 0) -> Any:
    """Return a value of JSON types; aliases become copies, within the budget."""
    budget.take(len(value) if isinstance(value, str | bytes) else 0)
    if depth > _MOST_DEPTH:
        raise _TooMuch("nested too deeply, or that contains itself")
    if isinstance(value, dict):
        return {_key(key): _plain(item, budget, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, budget, depth + 1) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return str(value) if abs(value) < 10**400 else "…"
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _key(key: Any) -> str:
    if isinstance(key, bool):
        return str(key).lower()
    return key if isinstance(key, str) else str(key)
