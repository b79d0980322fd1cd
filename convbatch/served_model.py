"""Decide whether the model named in a reply is the model that was asked. Pure.

Names differ in case, vendor prefix, routing suffix, date and file name without meaning another model. A size or a
variant (`-mini`, `-lite`, `-32k`) means another model, and so does a shorter name: an undated reply to a dated request
may come from a newer snapshot. What follows from the answer (columns, notes, costs) is decided elsewhere.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from convbatch.lazy_regex import lazy_regex

Aliases: TypeAlias = Mapping[str, Sequence[str]]
"""Asked name → names under which a gateway may serve it; globs on both sides, case-insensitive."""
ServedMatch = Literal["same", "dated", "alias", "latest", "other"]
"""`dated`: the asked name with a date, revision or quantisation; `latest`: what a `-latest` name points to now."""

NO_ALIASES: Aliases = {}

_MONTH, _DAY = r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_DATE = (
    rf"(?:20\d\d-{_MONTH}-{_DAY}|20\d\d{_MONTH}{_DAY}|2\d{_MONTH}{_DAY}|{_MONTH}{_DAY}|2\d{_MONTH}|{_MONTH}-{_DAY}"
    rf"|{_MONTH}-20\d\d|20\d\d-{_MONTH})"
)
_DATED = lazy_regex(rf"-(?:{_DATE}|0\d\d)")
# Only Google names snapshots of a released model so; elsewhere (o1, o1-preview) a preview is another model.
_DATED_PREVIEW = lazy_regex(rf"-(?:preview|exp)-{_DATE}")
_QUANTISATION = lazy_regex(r"[-._](?:ud-)?(?:i?q\d\w*|b?f(?:p?\d+)\w*|mxfp\d\w*|int\d+)")

_VENDOR = lazy_regex(
    r"(?:(?:us|eu|apac|jp|au|ca|global|us-gov)\.)?(?:ai21|amazon|anthropic|cohere|meta|mistral|openai)\."
)
_REVISION = lazy_regex(r"-v\d+:\d+$")  # Bedrock: claude-3-5-sonnet-20241022-v2:0
_ROUTE = lazy_regex(r":(?:free|nitro|floor|online|extended|exacto|thinking|latest|beta|default)$")
_WEIGHTS = lazy_regex(r"(?:-\d{5}-of-\d{5})?\.(?:gguf|ggml|safetensors)$")
_CLAUDE = lazy_regex(r"claude-(\d+(?:-\d{1,2})?)-([a-z]+)(?![a-z])")
_VERSION = lazy_regex(r"v?\d+|preview|exp")


def served_as_asked(asked: str, served: str | None, aliases: Aliases = NO_ALIASES) -> bool | None:
    """Return whether a reply comes from the model that was asked; None if it names no model."""
    return None if not served else match_served(asked, served, aliases) != "other"


def match_served(asked: str, served: str, aliases: Aliases = NO_ALIASES) -> ServedMatch:
    """Compare the model name of a reply with the asked one.

    Args:
        asked: The model of the target, e.g. `openai/gpt-4o:free`.
        served: The name in the reply, e.g. `gpt-4o-2024-08-06`.
        aliases: The `aliases` of the gateway.
    """
    if asked == served:
        return "same"
    wanted, found = canonical_name(asked), canonical_name(served)
    if wanted == found:
        return "same"
    if _is_dated(wanted, found, is_file=_is_weights(served)):
        return "dated"
    if _is_alias(asked, served, aliases):
        return "alias"
    return "latest" if _is_latest(wanted, found) else "other"


@functools.lru_cache(maxsize=1024)  # a run has few names, and asks for every turn
def canonical_name(name: str) -> str:
    """Return a model name without what does not select a model: case, vendor, folders, route; dots as in `3-5`."""
    text = name.strip().casefold().partition("#")[0]  # Fireworks: model#deployment
    text = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    text = _REVISION.sub("", _VENDOR.sub("", _WEIGHTS.sub("", text), count=1))
    text, at, version = text.partition("@")
    if re.fullmatch(rf"{_DATE}|\d{{3}}", version):  # Vertex: claude-sonnet-4-5@20250929
        text = f"{text}-{version}"
    elif not text:
        text = at + version
    text = re.sub(r"(?<=\d)\.(?=\d)", "-", _ROUTE.sub("", text))
    text = re.sub(r"^gpt-35(?=-|$)", "gpt-3-5", text)  # Azure allows no dots
    text = _CLAUDE.sub(r"claude-\2-\1", text, count=1)  # claude-3-5-sonnet, claude-sonnet-4-5
    text = re.sub(r"^(claude-[a-z]+-\d)-0(?=-|$)", r"\1", text)  # claude-sonnet-4-0 is claude-sonnet-4-20250514
    return text or name.strip().casefold()


def _is_weights(name: str) -> bool:
    return _WEIGHTS.search(name.strip().casefold()) is not None


def _is_dated(wanted: str, found: str, *, is_file: bool = False) -> bool:
    if not found.startswith(wanted):
        return False
    forms = [_DATED]
    if wanted.startswith("gemini-"):
        forms.append(_DATED_PREVIEW)
    if is_file:
        forms.append(_QUANTISATION)
    return any(form.fullmatch(found, len(wanted)) for form in forms)


def _is_alias(asked: str, served: str, aliases: Aliases) -> bool:
    for glob, names in aliases.items():
        if _fits(glob, asked):
            for name in names:
                wanted, found = canonical_name(name), canonical_name(served)
                if _fits(name, served) or wanted == found or _is_dated(wanted, found):
                    return True
    return False


def _fits(glob: str, name: str) -> bool:
    return fnmatch.fnmatchcase(name.strip().casefold(), glob.strip().casefold())


def _is_latest(wanted: str, found: str) -> bool:
    """Return whether a name with the word `latest` may point to this model: same words, any version if it has none."""
    words = wanted.split("-")
    if "latest" not in words:
        return False
    words.remove("latest")
    if not words:
        return False
    if any(char.isdigit() for word in words for char in word):
        base = "-".join(words)
        return found == base or _is_dated(base, found)
    rest = _without(words, found.split("-"))
    return rest is not None and all(_VERSION.fullmatch(word) for word in rest)


def _without(words: Iterable[str], among: Sequence[str]) -> list[str] | None:
    """Return `among` without these words, which must occur in this order; None if they do not."""
    rest = list(among)
    place = 0
    for word in words:
        if word not in rest[place:]:
            return None
        place = rest.index(word, place)
        del rest[place]
    return rest
