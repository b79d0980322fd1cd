"""A request whose history is encoded in pieces has the same bytes as one that is built anew."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.dialogue import NO_SETTINGS, Message, Part, Settings, ToolResult, text_part
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.history_pieces import HistoryPieces
from convbatch.protocols.replay import without_signatures
from convbatch.protocols.wire import Ask, Endpoint, encode_json
from convbatch.tools import ToolCall
from tests.conftest import examples

TEXTS = st.sampled_from(["", "hello", "今天", 'a "quote"\n', "\u2028", "half \ud83d"])
NUMBERS = st.sampled_from([0, 1, 2**63, 2**80, 1.0, 1e300])
ROLES = st.sampled_from(["model", "assistant", "user", ""])
MODELS = ("gemini-2.5-flash", "gpt-5", "claude-sonnet-4-5", "google/gemini-3-pro")


@st.composite
def raw_turns(draw: st.DrawFn, protocol: str) -> Any:
    text, role, more = draw(TEXTS), draw(ROLES), {"unknown": draw(NUMBERS)} if draw(st.booleans()) else {}
    if protocol == "gemini":
        signed = {"thoughtSignature": draw(st.sampled_from(["c2ln", "skip_thought_signature_validator"]))}
        part = {"text": text, **(signed if draw(st.booleans()) else {})}
        return {"parts": [part], **({"role": role} if role else {}), **more}
    if protocol == "anthropic":
        kinds = [{"type": "text", "text": text}, {"type": "tool_result", "content": text}]
        return {"role": role, "content": draw(st.sampled_from([text, kinds[:1], kinds[1:]])), **more}
    if protocol == "responses":
        reasoning = {"type": "reasoning", "id": "rs_1", "encrypted_content": draw(st.sampled_from(["", "x"]))}
        said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}], **more}
        return draw(st.sampled_from([[said], [reasoning, said], [reasoning], []]))
    return {"role": role, "content": text, **({"tool_calls": []} if draw(st.booleans()) else {}), **more}


@st.composite
def histories(draw: st.DrawFn, protocol: str) -> list[Message]:
    messages: list[Message] = []
    for number in range(draw(st.integers(1, 5))):
        parts = tuple(text_part(text) for text in draw(st.lists(TEXTS, min_size=1, max_size=2)))
        if draw(st.integers(0, 5)) == 0:
            parts = (*parts, Part(kind="image", data="aGk=", mime_type="image/png"))
        messages.append(Message(role="user", parts=parts))
        if draw(st.integers(0, 4)) == 0:
            call = ToolCall(draw(st.sampled_from([None, "c1", f"call_{number}"])), "look_up", {"n": draw(NUMBERS)})
            messages.append(Message(role="assistant", parts=(), calls=(call,)))
            result = ToolResult(call, draw(TEXTS), is_error=draw(st.booleans()))
            messages.append(Message(role="tool", parts=(), results=(result,)))
        raw = draw(st.none() | raw_turns(protocol))
        messages.append(Message(role="assistant", parts=(text_part(draw(TEXTS)),), raw=raw))
    return messages


SETTINGS = st.sampled_from(
    [
        NO_SETTINGS,
        Settings(temperature=0.5, stop=("END",)),
        Settings(max_output_tokens=64, extra={"metadata": {"user_id": "x"}}),
        Settings(cache="auto"),
    ]
)


def body_of(protocol: str, ask: Ask, endpoint: Endpoint) -> bytes | str:
    """Return the body as it is sent, or why there is none."""
    try:
        request = PROTOCOLS[protocol].build_request(ask, endpoint)
        return encode_json(request.json) + repr(request[:3] + request[4:]).encode()
    except Exception as error:  # noqa: BLE001  # whatever it is, both ways must have it
        return repr(error)


@settings(max_examples=examples(400), deadline=None)
@given(data=st.data())
def test_a_history_in_pieces_gives_the_bytes_of_a_history_that_is_built_anew(data: st.DataObject) -> None:
    protocol = data.draw(st.sampled_from(sorted(PROTOCOLS)))
    config = PROTOCOLS[protocol].config
    endpoint = Endpoint(
        base_url="https://host.test/v1",
        system_role=data.draw(st.sampled_from([None, *config.system_roles])),
        replay=data.draw(st.sampled_from([None, *config.replays])),
    )
    pieces = HistoryPieces()
    model, system = data.draw(st.sampled_from(MODELS)), data.draw(st.none() | TEXTS)
    history = data.draw(histories(protocol))
    for end in range(1, len(history) + 1):
        ask = Ask(
            model=model,
            messages=tuple(history[:end]),
            system=system,
            settings=data.draw(SETTINGS),
            stream=data.draw(st.booleans()),
        )
        if data.draw(st.integers(0, 6)) == 0:
            ask = without_signatures(ask, PROTOCOLS[protocol])
        anew = body_of(protocol, ask, endpoint)
        in_pieces = body_of(protocol, ask._replace(pieces=pieces), endpoint)
        if in_pieces != anew:  # the client builds a request anew if orjson cannot write all of it
            assert isinstance(in_pieces, str)
            assert "not JSON serializable" in in_pieces
