"""The registry of protocols, by the value of `protocol` in a gateway's table."""

from __future__ import annotations

from convbatch.protocols.anthropic import Anthropic
from convbatch.protocols.gemini import Gemini
from convbatch.protocols.openai import OpenAI
from convbatch.protocols.responses import Responses
from convbatch.protocols.wire import WireProtocol

PROTOCOLS: dict[str, WireProtocol] = {
    protocol.name: protocol for protocol in (Gemini(), OpenAI(), Responses(), Anthropic())
}
