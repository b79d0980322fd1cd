"""The registry of batch APIs, by the value of `protocol` in a gateway's table."""

from __future__ import annotations

from convbatch.protocols.batches.anthropic import AnthropicBatches
from convbatch.protocols.batches.background import BackgroundResponses
from convbatch.protocols.batches.gemini import GeminiBatches
from convbatch.protocols.batches.jobs import BatchApi
from convbatch.protocols.batches.openai import OpenAIBatches

BATCH_APIS: dict[str, BatchApi] = {
    "gemini": GeminiBatches(),
    "openai": OpenAIBatches("openai", "/v1/chat/completions"),
    "responses": OpenAIBatches("responses", "/v1/responses"),
    "anthropic": AnthropicBatches(),
}


def batch_api(protocol: str, window: str | None = None) -> BatchApi:
    """Return how a protocol is asked in batch jobs; within a window, by background responses."""
    return BackgroundResponses(window) if window in ("2h", "8h") else BATCH_APIS[protocol]  # pyright: ignore[reportArgumentType]  # not narrowed
