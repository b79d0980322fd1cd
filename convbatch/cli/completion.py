"""Values that a shell offers after TAB: runs, targets, gateways, and the words of options.

It reads names only, with the standard library: a key pressed must be answered at once. A value that a shell would have
to quote is not offered, so that no name of a folder becomes part of a command.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

_RESULTS = Path("results")
_MOST_RUNS = 200
"""Of so many runs, the newest, `run.json` is read."""
_SAFE = re.compile(r"[\w@.:/+%,-]+")
_SIMULATED = ("sim-good@simulator", "sim-drift@simulator", "sim-judge@simulator")
WORDS: Mapping[str, tuple[str, ...]] = {
    "history": ("live", "script", "last"),
    "reasoning_effort": ("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "status": ("ok", "blocked", "empty", "error", "skipped", "pending"),
    "finish_reason": ("stop", "length", "content_filter", "tool_call", "error", "other"),
    "wide": ("reply", "finish_reason", "output_tokens", "cost", "passed", "score"),
    "by": ("model", "gateway", "variant", "target", "tag", "dialogue", "turn", "repeat"),
    "metric": ("dialogue_pass", "turn_pass", "score", "input_tokens", "output_tokens", "cost", "latency"),
    "fail_on": ("regression", "inconclusive"),
    "state": ("running", "finished", "interrupted", "incomplete", "unreadable"),
    "sort": ("time", "cost", "turns", "failures"),
    "schema": ("dataset", "config"),
    "language": ("en", "zh"),
    "limit_model": ("fixed", "sliding", "bucket", "quantised"),
    "server": ("new-api", "litellm", "openrouter"),
}
"""Words of options; a test compares them with what the options take."""


def values_of(kind: str, incomplete: str) -> list[str]:
    """Return what may stand where `incomplete` stands.

    Args:
        kind: A key of `WORDS`, or `runs`, `sides` (RUN:target), `models` or `gateways`.
        incomplete: What has been typed.
    """
    found = WORDS[kind] if kind in WORDS else _KINDS[kind](incomplete)
    fitting = dict.fromkeys(value for value in found if value.startswith(incomplete) and _SAFE.fullmatch(value))
    return [*fitting]


def _runs(incomplete: str) -> Iterator[str]:
    yield "latest"
    folders = _run_folders()
    for folder in folders:
        yield folder.name
    for folder in folders[:_MOST_RUNS]:
        name = _manifest(folder).get("name")
        if isinstance(name, str):
            yield name


def _sides(incomplete: str) -> Iterator[str]:
    """Yield runs; behind the colon of a run its targets."""
    yield from _runs(incomplete)
    run, colon, _ = incomplete.partition(":")
    for folder in _run_folders()[:_MOST_RUNS] if colon else ():
        if run in (folder.name, "latest", _manifest(folder).get("name")):
            yield from (f"{run}:{target}" for target in _targets(folder))
            return


def _models(incomplete: str) -> Iterator[str]:
    """Yield targets that are configured or were asked before; behind `model@` the gateways."""
    model, at, _ = incomplete.rpartition("@")
    configured = _table(_config(), "run").get("models")
    yield from (each for each in configured if isinstance(each, str)) if isinstance(configured, list) else ()
    for folder in _run_folders()[:20]:
        yield from _targets(folder)
    yield from _SIMULATED
    if at:
        yield from (f"{model}@{gateway}" for gateway in _gateways(""))


def _gateways(incomplete: str) -> Iterator[str]:
    yield from _table(_config(), "gateways")
    shipped = (files("convbatch.config") / "presets.toml").read_text("utf-8")
    yield from _table(tomllib.loads(shipped), "gateways")


_KINDS: Mapping[str, Callable[[str], Iterable[str]]] = {
    "runs": _runs,
    "sides": _sides,
    "models": _models,
    "gateways": _gateways,
}


def _run_folders() -> list[Path]:
    """Return the run folders in `results/`, those with the latest names first."""
    with contextlib.suppress(OSError):
        found = [path for path in _RESULTS.iterdir() if (path / "run.json").is_file()]
        return sorted(found, key=lambda path: path.name, reverse=True)
    return []


def _manifest(folder: Path) -> Mapping[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        plain = json.loads((folder / "run.json").read_bytes())
        return plain if isinstance(plain, dict) else {}
    return {}


def _targets(folder: Path) -> Iterator[str]:
    targets = _manifest(folder).get("targets")
    for target in targets if isinstance(targets, list) else ():
        name = target.get("name") if isinstance(target, dict) else None
        if isinstance(name, str):
            yield name


def _config() -> Mapping[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        return tomllib.loads(Path("convbatch.toml").read_text("utf-8-sig"))
    return {}


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = document.get(name)
    return table if isinstance(table, dict) else {}


# --- bash ------------------------------------------------------------------------------------------------------------

_BREAKS = re.compile(r"[@:=]+")


@contextlib.contextmanager
def whole_words_for_bash() -> Generator[None]:
    """Give the words of a line to the program as they are typed, and bash what it replaces of them.

    Bash breaks words at `@`, `:` and `=`, and replaces only what follows the last of them; a `@` is replaced too.
    """
    words = os.environ.get("COMP_WORDS", "").split("\n")
    number = os.environ.get("COMP_CWORD", "")
    if os.environ.get("_CONVBATCH_COMPLETE") != "complete_bash" or not number.isdigit() or int(number) >= len(words):
        yield
        return
    joined, place, typed = join_words(words, int(number))
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(joined), str(place)
    left_out = "" if typed.startswith("-") else typed.removesuffix("@")  # `--option=VALUE` comes without the option
    real, sys.stdout = sys.stdout, io.StringIO()
    try:
        yield
    finally:
        made, sys.stdout = sys.stdout, real
        for line in made.getvalue().splitlines():
            print(line.removeprefix(left_out))  # noqa: T201  # the answer to the shell


def join_words(words: list[str], place: int) -> tuple[list[str], int, str]:
    """Return the words as typed, the number of the word that is typed, and what of it bash keeps."""
    joined: list[str] = []
    typed, now = "", 0
    is_open = False
    for number, word in enumerate(words):
        is_break = _BREAKS.fullmatch(word) is not None
        if joined and number > 1 and (is_break or is_open):
            before = joined[-1]
            joined[-1] += word
        else:
            before = ""
            joined.append(word)
        if number == place:
            now = len(joined) - 1
            typed = before + word if is_break else before
        is_open = is_break
    return joined, now, typed
