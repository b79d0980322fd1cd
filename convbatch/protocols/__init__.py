"""The table of wire formats: name → protocol."""

from __future__ import annotations

from convbatch.protocols.gemini import Gemini
from convbatch.protocols.openai import OpenAI
from convbatch.protocols.wire import WireProtocol

PROTOCOLS: dict[str, WireProtocol] = {protocol.name: protocol for protocol in (Gemini(), OpenAI())}
