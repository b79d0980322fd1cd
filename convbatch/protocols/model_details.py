"""What a list of models says of each model: limits and capabilities, in any provider's form.

Fields of Gemini, Anthropic, OpenRouter, vLLM and LM Studio; OpenAI's list has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

from convbatch.protocols.decoding import word
from convbatch.protocols.wire import MalformedReply, decode_json

_LIMITS = (
    ("input", ("inputTokenLimit", "max_input_tokens", "context_length", "context_window", "max_model_len")),
    ("output", ("outputTokenLimit", "max_tokens", "max_output_tokens", "max_completion_tokens")),
)
_LISTS = ("supportedGenerationMethods", "supported_parameters", "modalities")
_FLAGS = ("thinking", "vision", "tools")
_ACTIVE = "active"


class ModelDetails(NamedTuple):
    """What a gateway says of one model."""

    limits: Mapping[str, int] = {}
    """Most tokens, `input` and `output`."""
    takes: tuple[str, ...] = ()
    """Capabilities, e.g. `effort (low, high)`, `image_input`."""
    lifecycle: str | None = None
    """None for a model that is simply available."""

    def __str__(self) -> str:
        limits = [f"{name} {count:,}" for name, count in self.limits.items()]
        return " · ".join([*limits, *filter(None, [", ".join(self.takes), self.lifecycle])])


def model_details(body: bytes) -> dict[str, ModelDetails]:
    """Return the details of a list of models by name; only of models that have any. Never raises."""
    try:
        value = decode_json(body)
    except MalformedReply:
        return {}
    listed = value.get("models") or value.get("data") if isinstance(value, dict) else value
    found: dict[str, ModelDetails] = {}
    for item in cast("list[Any]", listed) if isinstance(listed, list) else ():
        if not isinstance(item, dict):
            continue
        model = cast("dict[str, Any]", item)
        name = word(model.get("name")) if "supportedGenerationMethods" in model else word(model.get("id"))
        details = _details(model)
        if (name := name or word(model.get("name"))) is not None and str(details):
            found[name.removeprefix("models/")] = details
    return found


def next_page(body: bytes) -> tuple[str, str] | None:
    """Return the query parameter that asks for the page after this one, and its value; None for the last page."""
    try:
        value = decode_json(body)
    except MalformedReply:
        return None
    if not isinstance(value, dict):
        return None
    page = cast("dict[str, Any]", value)
    last, token = word(page.get("last_id")), word(page.get("nextPageToken"))
    if page.get("has_more") is True and last is not None:
        return "after_id", last
    return None if token is None else ("pageToken", token)


def _details(model: Mapping[str, Any]) -> ModelDetails:
    limits = {
        kind: count
        for kind, names in _LIMITS
        if (count := next((model[name] for name in names if type(model.get(name)) is int), None)) is not None
    }
    return ModelDetails(limits, tuple(_takes(model)), _lifecycle(model))


def _takes(model: Mapping[str, Any]) -> Iterator[str]:
    for name in _LISTS:
        value = model.get(name)
        if isinstance(value, list):
            yield from (item for item in cast("list[Any]", value) if isinstance(item, str))
    yield from (name for name in _FLAGS if model.get(name) is True)
    capabilities = model.get("capabilities")
    if isinstance(capabilities, dict):
        yield from _supported(cast("dict[str, Any]", capabilities))
    elif isinstance(capabilities, list):
        yield from (item for item in cast("list[Any]", capabilities) if isinstance(item, str))


def _supported(capabilities: Mapping[str, Any]) -> Iterator[str]:
    """Yield the capabilities that are supported, each with those of its parts in parentheses."""
    for name, value in capabilities.items():
        if value is True:
            yield name
        elif isinstance(value, dict) and value.get("supported") is not False:
            parts = [part for part in _supported(cast("dict[str, Any]", value)) if part != "supported"]
            if parts and value.get("supported") is None:
                yield from parts  # a group, such as `types`
            elif value.get("supported") is True:
                yield f"{name} ({', '.join(parts)})" if parts else name


def _lifecycle(model: Mapping[str, Any]) -> str | None:
    stage, retires = word(model.get("lifecycle")), word(model.get("retires_at"))
    if retires is not None:
        return f"{stage or 'available'} until {retires[:10]}"
    return None if stage == _ACTIVE else stage
