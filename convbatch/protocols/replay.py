"""What of a reply is judged, and what of it goes back into the history, as its gateway is configured.

Without a key a turn goes back exactly as received. `thinking_tags` takes thoughts out of the text, and out of the
history unless `replay = "exact"` is written; `replay = "content"` sends only what the model said. The body in the
journal stays as received, so that a turn can be read again in any of these ways.

Where `replay` is not written, a signature that the gateway refuses is left out and the question asked once more: the
reply says so, because the model saw another history. `replay = "exact"` never does that.

`replay = "stored"`: a turn goes back as the id of a response that the provider keeps. An id that it no longer has is an
error with the way out; the history is never sent in its place, because the run would then be of two kinds.
"""

from __future__ import annotations

import re
from dataclasses import replace

from convbatch.protocols.thinking_tags import parse_thinking_tags, split_thoughts
from convbatch.protocols.wire import Ask, Endpoint, WireProtocol
from convbatch.reply import Failure, Reply

WITHOUT_SIGNATURES = "signatures in the history were refused and left out"
"""Note on replies to a question that was asked again without signatures."""
_SIGNATURE = re.compile(
    r"(?:thought|thinking|reasoning)[\s._-]*signature|signature`? in [`'\"]?thinking|encrypted[ _]content",
    re.IGNORECASE,
)
_WRONG = re.compile(
    r"corrupt|invalid|not valid|malformed|mismatch|expired|could not be|cannot be|can't be|failed to|decoding failed"
    r"|different conversation|field required",
    re.IGNORECASE,
)
_FIELD = re.compile(r"reasoning_content|reasoning_details", re.IGNORECASE)
STORED_ID, STORED_TURN = "previous_response_id", "output"
"""Keys of a turn that the provider keeps: the id of its response, and the turn as received."""
_STORED = re.compile(r"previous[ _]response", re.IGNORECASE)
_STORED_HINT = (
    "; the provider cannot go on from this response: it expired, was made under another account, or the server or "
    'organization does not store data. A new run asks its dialogues from their first turn; without replay = "stored", '
    "requests contain the whole history"
)
_HINT = '; replay = "content" for this gateway or model sends neither reasoning nor signatures back'


def as_configured(outcome: Reply | Failure, protocol: WireProtocol, endpoint: Endpoint) -> Reply | Failure:
    """Return a reply with its thoughts apart from its text, and with the turn that goes back into the history."""
    if isinstance(outcome, Failure):
        return _with_hint(outcome, endpoint)
    if endpoint.thinking_tags is None and endpoint.replay not in ("content", "stored"):
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
    if endpoint.replay == "stored" and reply.response_id:
        turn = {STORED_ID: reply.response_id, STORED_TURN: turn}
    return reply._replace(raw_turn=turn)


def _without_thoughts(reply: Reply, thought: str | None, text: str) -> Reply:
    known = reply.thought
    if thought is not None and known is not None and known.strip() != thought:
        thought = f"{known}\n\n{thought}"
    has_other = bool(reply.tool_calls) or reply.has_media
    return reply._replace(text=text or (None if has_other else ""), thought=known if thought is None else thought)


def without_refused_signatures(
    ask: Ask, outcome: Reply | Failure, protocol: WireProtocol, endpoint: Endpoint
) -> Ask | None:
    """Return the question without signatures in its history, if their refusal is why it was not answered.

    None where `replay` is written, and where the history has no signature: the refusal would be the same.
    """
    if isinstance(outcome, Reply) or endpoint.replay is not None or not _refuses_signatures(outcome):
        return None
    bare = without_signatures(ask, protocol)
    return None if bare.messages == ask.messages else bare


def without_signatures(ask: Ask, protocol: WireProtocol) -> Ask:
    """Return the question without signatures in its history."""
    messages = tuple(
        message if message.raw is None else message._replace(raw=protocol.turns.without_signatures(message.raw))
        for message in ask.messages
    )
    return ask._replace(messages=messages)


def _refuses_signatures(failure: Failure) -> bool:
    said = f"{failure.message} {failure.code or ''}"
    is_refusal = failure.kind == "invalid_request" and "missing" not in said
    return is_refusal and bool(_SIGNATURE.search(said)) and bool(_WRONG.search(said))


def _with_hint(failure: Failure, endpoint: Endpoint) -> Failure:
    """Return a refusal of what the history contains with the way out, unless that is taken already."""
    if endpoint.replay == "stored" and _STORED.search(f"{failure.message} {failure.code or ''}"):
        return replace(failure, message=failure.message + _STORED_HINT)
    refused = _refuses_signatures(failure) or (failure.kind == "invalid_request" and _FIELD.search(failure.message))
    return replace(failure, message=failure.message + _HINT) if refused and endpoint.replay != "content" else failure
