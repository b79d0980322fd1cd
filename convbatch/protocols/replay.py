"""What of a reply is judged, and what of it goes back into the history, as its gateway is configured.

Without a key a turn goes back exactly as received. `thinking_tags` takes thoughts out of the text, and out of the
history unless `replay = "exact"` is written; `replay = "content"` sends only what the model said. The body in the
journal stays as received, so that a turn can be read again in any of these ways.
"""

from __future__ import annotations

from convbatch.protocols.thinking_tags import parse_thinking_tags, split_thoughts
from convbatch.protocols.wire import Endpoint, WireProtocol
from convbatch.reply import Failure, Reply


def as_configured(outcome: Reply | Failure, protocol: WireProtocol, endpoint: Endpoint) -> Reply | Failure:
    """Return a reply with its thoughts apart from its text, and with the turn that goes back into the history."""
    if isinstance(outcome, Failure) or (endpoint.thinking_tags is None and endpoint.replay != "content"):
        return outcome
    reply, turn = outcome, outcome.raw_turn
    if endpoint.thinking_tags is not None and reply.text:
        split = split_thoughts(reply.text, parse_thinking_tags(endpoint.thinking_tags))
        if split.start:
            reply = _without_thoughts(reply, split.thought, reply.text[split.start :])
            if endpoint.replay != "exact" and turn is not None:
                turn = protocol.turns.skip_text(turn, split.start)
    if endpoint.replay == "content" and turn is not None:
        turn = protocol.turns.only_content(turn)
    return reply._replace(raw_turn=turn)


def _without_thoughts(reply: Reply, thought: str | None, text: str) -> Reply:
    known = reply.thought
    if thought is not None and known is not None and known.strip() != thought:
        thought = f"{known}\n\n{thought}"
    has_other = bool(reply.tool_calls) or reply.has_media
    return reply._replace(text=text or (None if has_other else ""), thought=known if thought is None else thought)
