"""Keys of a gateway that say how a request is built."""

from __future__ import annotations

from typing import Any

import pytest

from convbatch.config.gateways import Gateway, Target
from convbatch.dialogue import Dialogue, Message, Part, Settings, Turn, text_part
from convbatch.engine.plan import TurnKeys
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.replay import as_configured, without_refused_signatures
from convbatch.protocols.tool_history import DUMMY_SIGNATURE
from convbatch.protocols.wire import Ask, CannotCarry, Endpoint, Replay
from convbatch.reply import ErrorKind, Failure
from tests.support.tables import each

GEMINI, OPENAI = PROTOCOLS["gemini"], PROTOCOLS["openai"]


def user(*texts: str) -> Message:
    return Message(role="user", parts=tuple(map(text_part, texts)))


ASSISTANT = Message(role="assistant", parts=(text_part("Hello."),), raw={"role": "assistant", "content": "Hello."})


def key_of(*, system: str | None = None, settings: Settings | None = None, **gateway: Any) -> str:
    target = Target(model="m", gateway=Gateway(name="g", protocol="openai", base_url="https://h/v1", **gateway))
    keys = TurnKeys(target, Dialogue(id="d", system=system, turns=(Turn(user=user("Hi").parts),)))
    keys.add(user("Hi"))
    return keys.key(settings or Settings())


# --- system_role


@each(
    ("role", "system", "sent"),
    [
        (None, "Be brief.", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]),
        ("system", "Be brief.", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]),
        ("developer", "Be brief.", [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]),
        ("user", "Be brief.", [{"role": "user", "content": "Be brief.\n\nHi"}]),
        ("user", None, [{"role": "user", "content": "Hi"}]),
    ],
)
def test_the_system_text_has_the_role_that_the_gateway_names(role: Any, system: str | None, sent: Any) -> None:
    ask = Ask(model="m", messages=(user("Hi"), ASSISTANT, user("And?")), system=system)
    body = OPENAI.build_request(ask, Endpoint(base_url="https://h/v1", system_role=role)).json
    assert body["messages"] == [*sent, ASSISTANT.raw, {"role": "user", "content": "And?"}]


def test_a_system_text_in_the_first_user_message_keeps_its_parts() -> None:
    ask = Ask(model="m", messages=(user("Hi", "there"),), system="Be brief.")
    endpoint = Endpoint(base_url="https://h", system_role="user")
    assert OPENAI.build_request(ask, endpoint).json["messages"][0]["content"] == [
        {"type": "text", "text": "Be brief.\n\nHi"}, {"type": "text", "text": "there"},
    ]  # fmt: skip
    assert GEMINI.build_request(ask, endpoint).json == {
        "contents": [{"role": "user", "parts": [{"text": "Be brief.\n\nHi"}, {"text": "there"}]}]
    }
    from convbatch.protocols.encoding import put_system_into_user

    picture = Part(kind="image", path="a.png")
    (merged,) = put_system_into_user((Message(role="user", parts=(picture,)),), "Be brief.")
    assert merged.parts == (text_part("Be brief."), picture)


def test_the_role_changes_a_turns_key_only_where_it_changes_the_request() -> None:
    assert key_of(system="S", system_role="user") != key_of(system="S")
    assert key_of(system="S", system_role="system") == key_of(system="S")
    assert key_of(system_role="user") == key_of()


# --- path and seed_field


@each(
    ("protocol", "base_url", "path", "model", "stream", "url"),
    [
        ("openai", "https://h/api/", "/v2/chat/completions", "m", False, "https://h/api/v2/chat/completions"),
        ("openai", "https://h", "openai/deployments/{model}/chat/completions", "gpt 9", True,
         "https://h/openai/deployments/gpt%209/chat/completions"),
        ("openai", "https://h", "ai/run/{model}", "@cf/meta/llama", False, "https://h/ai/run/@cf/meta/llama"),
        ("gemini", "https://h", "v1beta1/publishers/google/models/{model}:generateContent", "gemini-9", False,
         "https://h/v1beta1/publishers/google/models/gemini-9:generateContent"),
        ("gemini", "https://h", "v1/models/{model}:generateContent", "gemini-9", True,
         "https://h/v1/models/gemini-9:streamGenerateContent?alt=sse"),
    ],
)  # fmt: skip
def test_a_path_is_appended_to_the_base_url(
    protocol: str, base_url: str, path: str, model: str, stream: bool, url: str
) -> None:
    ask = Ask(model=model, messages=(user("Hi"),), stream=stream)
    assert PROTOCOLS[protocol].build_request(ask, Endpoint(base_url=base_url, path=path)).url == url


def test_the_seed_travels_in_the_field_that_the_gateway_names() -> None:
    ask = Ask(model="m", messages=(user("Hi"),), settings=Settings(seed=7))
    endpoint = Endpoint(base_url="https://h", seed_field="random_seed")
    openai, gemini = (wire.build_request(ask, endpoint).json for wire in (OPENAI, GEMINI))
    assert (openai["random_seed"], gemini["generationConfig"]) == (7, {"random_seed": 7})
    assert "seed" not in openai


@pytest.mark.parametrize("field", ["messages", "temperature", "max_tokens"])
def test_a_field_that_has_another_meaning_cannot_carry_the_seed(field: str) -> None:
    ask = Ask(model="m", messages=(user("Hi"),), settings=Settings(seed=7, temperature=1, max_output_tokens=9))
    with pytest.raises(CannotCarry, match=f"seed_field names '{field}'"):
        OPENAI.build_request(ask, Endpoint(base_url="https://h", seed_field=field))


def test_path_and_seed_field_change_a_turns_key_only_where_they_change_the_request() -> None:
    seeded = Settings(seed=7)
    assert key_of(path="v2/chat") != key_of()
    assert key_of(seed_field="random_seed") == key_of()
    assert key_of(seed_field="random_seed", settings=seeded) != key_of(settings=seeded)


def test_the_key_of_an_ordinary_turn_stays_the_same() -> None:
    assert key_of(system="S", settings=Settings(temperature=1)) == "cdff7db1b498fb147e1fe27856981dca"


# --- refused signatures


WORDS = [
    "Corrupted thought signature.",
    "Invalid thought signature",
    "Unable to submit request because Thought signature is not valid.. Learn more: https://h",
    'Provider returned error ({"error": {"message": "Corrupted thought signature."}})',
    "Invalid value at 'contents[1].parts[0].thought_signature' (TYPE_BYTES), Base64 decoding failed for \"x\"",
    "messages.1.content.0: Invalid `signature` in `thinking` block",
    "The encrypted content gAAA could not be verified.",
]
SIGNED = Message(role="assistant", parts=(), raw={"role": "model", "parts": [{"text": "a", "thoughtSignature": "x"}]})


def asked_again(
    message: str, kind: ErrorKind = "invalid_request", replay: Replay | None = None, turn: Message = SIGNED
) -> Ask | None:
    ask = Ask(model="m", messages=(user("Hi"), turn, user("And?")))
    endpoint = Endpoint(base_url="https://h", replay=replay)
    return without_refused_signatures(ask, Failure(kind=kind, message=message), GEMINI, endpoint)


@each("message", WORDS)
def test_a_question_whose_signatures_are_refused_is_asked_without_them(message: str) -> None:
    again = asked_again(message)
    assert again is not None
    assert again.messages[1].raw == {"role": "model", "parts": [{"text": "a"}]}
    assert again.messages[::2] == (user("Hi"), user("And?"))
    assert asked_again(message, turn=again.messages[1]) is None
    assert asked_again(message, "server_error") is None
    assert (asked_again(message, replay="exact"), asked_again(message, replay="content")) == (None, None)


@pytest.mark.parametrize(
    "message",
    [
        "Function call is missing a thought_signature in functionCall parts. This is invalid.",
        "Invalid value at 'contents[0].parts[0].text'",
        "temperature: invalid value",
    ],
)
def test_other_refusals_do_not_touch_the_history(message: str) -> None:
    assert asked_again(message) is None


@each(
    ("message", "replay", "hinted"),
    [
        ("Corrupted thought signature.", "exact", True),
        ("Extra inputs are not permitted: messages.1.assistant.reasoning_content", None, True),
        ("Extra inputs are not permitted: messages.1.assistant.reasoning_content", "content", False),
        ("temperature: invalid value", None, False),
    ],
)
def test_a_refused_history_is_reported_with_the_way_out(message: str, replay: Any, hinted: bool) -> None:
    failure = Failure(kind="invalid_request", message=message)
    read = as_configured(failure, OPENAI, Endpoint(base_url="https://h", replay=replay))
    assert isinstance(read, Failure)
    assert ('replay = "content"' in read.message) == hinted
    assert read.message.startswith(message)


@each(
    ("protocol", "signed", "bare"),
    [
        ("gemini",
         {"parts": [{"text": "a", "thought": True}, {"text": "b", "thoughtSignature": "x"},
                    {"functionCall": {"name": "f"}, "thought_signature": "x"}, {"text": "", "thoughtSignature": "x"}]},
         {"parts": [{"text": "a", "thought": True}, {"text": "b"},
                    {"functionCall": {"name": "f"}, "thoughtSignature": DUMMY_SIGNATURE}]}),
        ("gemini", {"parts": [{"functionCall": {"name": "f"}}]}, {"parts": [{"functionCall": {"name": "f"}}]}),
        ("gemini", {"parts": [{"text": "", "thoughtSignature": "x"}]}, {"parts": [{"text": ""}]}),
        ("openai", {"content": "a", "reasoning": "r", "reasoning_details": [{"data": "x"}]},
         {"content": "a", "reasoning": "r"}),
        ("openai",
         {"content": None, "tool_calls": [{"id": "c", "extra_content": {"google": {"thought_signature": "x"}}}]},
         {"content": None,
          "tool_calls": [{"id": "c", "extra_content": {"google": {"thought_signature": DUMMY_SIGNATURE}}}]}),
        ("openai",
         {"content": [{"type": "thinking", "thinking": "t", "signature": "x"}, {"type": "redacted_thinking"},
                      {"type": "thinking", "thinking": "t"}, {"type": "text", "text": "a", "signature": "x"}]},
         {"content": [{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "a"}]}),
        ("openai", {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "a"}),
        ("gemini", None, None), ("openai", None, None), ("gemini", {"parts": 3}, {"parts": 3}),
    ],
)  # fmt: skip
def test_signatures_are_left_out_and_everything_else_stays(protocol: str, signed: Any, bare: Any) -> None:
    assert PROTOCOLS[protocol].turns.without_signatures(signed) == bare
