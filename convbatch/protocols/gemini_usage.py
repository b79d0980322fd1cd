"""The token counts of a Gemini reply.

`candidatesTokenCount` excludes thoughts and `promptTokenCount` excludes results of server-side tools, so
input = prompt + toolUsePrompt and output = candidates + thoughts; the prompt includes cached tokens. An absent count
of candidates is 0 only when the reported total proves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.protocols.decoding import signed_count, usage_of
from convbatch.reply import NO_USAGE, Usage


def read_usage(counts: Any, *, was_read: bool = False, has_output: bool = False, has_media: bool = False) -> Usage:
    """Return the usage in a `usageMetadata`; see `decoding.usage_of` for the arguments."""
    if not isinstance(counts, dict) or not counts:
        return NO_USAGE
    if counts.keys() <= _USUAL_COUNTS and (sent := _usual_usage(counts, has_media)) is not None:
        return usage_of(sent, was_read=was_read, has_output=has_output)
    prompt = signed_count(counts.get("promptTokenCount"))
    total = signed_count(counts.get("totalTokenCount"))
    input_tokens = _sum(prompt, _addend(counts, "toolUsePromptTokenCount"))
    thoughts = _addend(counts, "thoughtsTokenCount")
    candidates = signed_count(counts.get("candidatesTokenCount"))
    if counts.get("candidatesTokenCount") is None and total is not None and total == _sum(input_tokens, thoughts):
        candidates = 0
    made = _by_modality(counts.get("candidatesTokensDetails"))
    given = _by_modality(counts.get("promptTokensDetails"), counts.get("toolUsePromptTokensDetails"))
    cached = _by_modality(counts.get("cacheTokensDetails"))
    images, audio = made.get("IMAGE"), made.get("AUDIO")
    others = bool(made) and any(n for modality, n in made.items() if modality not in ("TEXT", "IMAGE", "AUDIO"))
    sent = Usage(
        input_tokens=input_tokens,
        cached_input_tokens=signed_count(counts.get("cachedContentTokenCount")),
        output_tokens=_sum(candidates, thoughts),
        reasoning_tokens=signed_count(counts.get("thoughtsTokenCount")),
        total_tokens=total,
        input_audio_tokens=given.get("AUDIO"),
        cached_input_audio_tokens=cached.get("AUDIO", 0) if cached else None,
        output_image_tokens=images,
        output_audio_tokens=audio,
        has_uncounted_media=others or (has_media and not (images or audio)),
    )
    return usage_of(sent, was_read=was_read, has_output=has_output)


_TEXT_ONLY = ("promptTokensDetails", "candidatesTokensDetails")
_USUAL_COUNTS = frozenset(
    {"promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount", "serviceTier", *_TEXT_ONLY}
)


def _usual_usage(counts: Mapping[str, Any], has_media: bool) -> Usage | None:
    """Return what the counts of most replies say, which have no cached tokens and no details but text; else None."""
    prompt, made, total = (
        counts.get("promptTokenCount"),
        counts.get("candidatesTokenCount"),
        counts.get("totalTokenCount"),
    )
    thoughts = counts.get("thoughtsTokenCount")
    if type(prompt) is not int or type(made) is not int or type(total) is not int:
        return None
    if min(prompt, made, total) < 0 or max(prompt, made, total) > _LARGE_COUNT:
        return None
    if thoughts is not None and (type(thoughts) is not int or not 0 <= thoughts <= _LARGE_COUNT):
        return None
    for name in _TEXT_ONLY:
        details = counts.get(name)
        if details and not (type(details) is list and len(details) == 1 and _is_text_detail(details[0])):
            return None
    return Usage(prompt, None, None, made + (thoughts or 0), thoughts, total, has_uncounted_media=has_media)


_LARGE_COUNT = 2**40


def _is_text_detail(detail: Any) -> bool:
    return isinstance(detail, dict) and detail.get("modality") == "TEXT"


def _by_modality(*lists: Any) -> dict[str, int]:
    """Return the tokens of each modality in lists of details; empty where none is named."""
    tokens: dict[str, int] = {}
    for details in filter(None, lists):
        for item in details if isinstance(details, list) else ():
            if isinstance(item, dict) and (count := signed_count(item.get("tokenCount"))) is not None:
                modality = str(item.get("modality")).upper()
                tokens[modality] = tokens.get(modality, 0) + count
    return tokens


def _addend(counts: Mapping[str, Any], name: str) -> int | None:
    """Return a summand of a count: 0 when absent, None (which makes the sum unknown) when invalid."""
    value = counts.get(name)
    return 0 if value is None else signed_count(value)


def _sum(one: int | None, other: int | None) -> int | None:
    """Return a sum; None if a summand is unknown, and the negative summand if there is one, for `usage_of` to judge."""
    if one is None or other is None:
        return None
    return min(one, other) if min(one, other) < 0 else one + other
