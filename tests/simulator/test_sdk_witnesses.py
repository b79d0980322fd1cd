"""Conversations of the providers' own SDKs with the simulator, as evidence that it implements their protocols."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import pytest

from convbatch.simulator import FaultScript, Provider, Script, Server, ServerLimits, serve_in_thread
from convbatch.simulator.replies import Actor

if TYPE_CHECKING:
    import anthropic
    import openai
    from anthropic.types import MessageParam
    from google import genai
    from google.genai import errors, types
    from google.genai.chats import Chat
    from openai.types.chat import ChatCompletionMessageParam
else:

    class Later:
        """A module that is imported at its first use: by the processes whose tests use it, not by all that collect."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or name == "obj":  # what pytest asks every value of a module for
                raise AttributeError(name)
            return getattr(import_module(self._name), name)

    anthropic, openai, genai = Later("anthropic"), Later("openai"), Later("google.genai")
    errors, types = Later("google.genai.errors"), Later("google.genai.types")

DATES = {
    "id": "dates",
    "system": "Answer briefly.",
    "turns": [
        {"user": "今天是2025年12月26日", "assistant": "好的,2025年12月26日。"},
        {"user": "明天是几号", "assistant": "明天是2025年12月27日。"},
        {"user": "And the day after?", "assistant": "That is December 28th, 2025."},
    ],
}
REPLIES = ["好的,2025年12月26日。", "明天是2025年12月27日。", "That is December 28th, 2025."]
GOOD, WRONG, LIMITED = "k-good-0001", "k-wrong-0001", "k-limited-0001"
PROMPTS = [str(turn["user"]) for turn in DATES["turns"] if isinstance(turn, dict)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    provider = Provider(script=Script.of([DATES]), keys={GOOD, LIMITED}, latency_s=0.0)
    with serve_in_thread(provider) as server:
        yield server


class Clients:
    """SDK clients, each created once: google-genai closes unreferenced clients and takes long to create one."""

    def __init__(self, server: Server) -> None:
        self._url = server.url
        self._google: dict[tuple[str, str], genai.Client] = {}
        self._openai: dict[str, openai.OpenAI] = {}
        self._anthropic: dict[tuple[str, str], anthropic.Anthropic] = {}

    def google(self, *, key: str = GOOD, version: str = "v1beta") -> genai.Client:
        if (key, version) not in self._google:
            options = types.HttpOptions(base_url=self._url, api_version=version)
            self._google[key, version] = genai.Client(api_key=key, http_options=options)
        return self._google[key, version]

    def chat(self, model: str = "sim-good", *, version: str = "v1beta", thoughts: bool | None = None) -> Chat:
        thinking = None if thoughts is None else types.ThinkingConfig(include_thoughts=thoughts)
        config = types.GenerateContentConfig(system_instruction="Answer briefly.", thinking_config=thinking)
        return self.google(version=version).chats.create(model=model, config=config)

    def openai(self, *, key: str = GOOD) -> openai.OpenAI:
        if key not in self._openai:
            self._openai[key] = openai.OpenAI(api_key=key, base_url=f"{self._url}/v1", max_retries=0)
        return self._openai[key]

    def anthropic(self, *, key: str = GOOD, version: str = "2023-06-01") -> anthropic.Anthropic:
        if (key, version) not in self._anthropic:
            self._anthropic[key, version] = anthropic.Anthropic(
                api_key=key, base_url=self._url, max_retries=0, default_headers={"anthropic-version": version}
            )
        return self._anthropic[key, version]

    def responses(self, *, key: str = GOOD) -> Any:
        """Return the Responses API without its types: unions of dozens of items, which each test would narrow."""
        return self.openai(key=key).responses

    def close(self) -> None:
        for client in (*self._google.values(), *self._openai.values(), *self._anthropic.values()):
            client.close()


@pytest.fixture(scope="module")
def clients(server: Server) -> Iterator[Clients]:
    clients = Clients(server)
    yield clients
    clients.close()


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_google_sdk_holds_a_chat(clients: Clients, version: str) -> None:
    chat = clients.chat(version=version)

    assert [chat.send_message(text).text for text in PROMPTS] == REPLIES
    assert [content.role for content in chat.get_history(curated=True)] == ["user", "model"] * 3


def test_google_sdk_holds_a_streamed_chat(clients: Clients) -> None:
    chat = clients.chat()

    replies = ["".join(chunk.text or "" for chunk in chat.send_message_stream(text)) for text in PROMPTS]

    assert replies == REPLIES
    assert len(chat.get_history(curated=True)) >= 6, "the SDK accepts every turn as valid"


def test_google_sdk_reads_the_usage_of_the_seed_reply(clients: Clients) -> None:
    reply = clients.google().models.generate_content(model="sim-seed", contents="明天是几号")

    usage = reply.usage_metadata
    assert usage is not None
    counts = (usage.prompt_token_count, usage.candidates_token_count, usage.thoughts_token_count)
    assert (*counts, usage.total_token_count) == (22, 14, 178, 214)
    assert reply.response_id == "awNOaYKaHebfjMcP-dyd4Ao"
    assert reply.model_version == "gemini-2.5-flash"


def test_google_sdk_reads_thoughts_separately_from_the_text(clients: Clients) -> None:
    whole = clients.chat("sim-think", thoughts=True).send_message(PROMPTS[0])
    streamed = list(clients.chat("sim-think", thoughts=True).send_message_stream(PROMPTS[0]))

    assert whole.text == REPLIES[0]
    assert whole.parts is not None
    assert [part.thought for part in whole.parts] == [True, None]
    assert whole.usage_metadata == streamed[-1].usage_metadata
    assert whole.usage_metadata is not None
    assert (whole.usage_metadata.thoughts_token_count or 0) > 0


def test_google_sdk_sends_signatures_back_whole_and_streamed(clients: Clients) -> None:
    whole, streamed = clients.chat("sim-signed"), clients.chat("sim-signed")

    for text in PROMPTS:
        reply = whole.send_message(text)
        chunks = list(streamed.send_message_stream(text))
        assert "".join(chunk.text or "" for chunk in chunks) == reply.text


def test_google_sdk_is_refused_when_a_signature_was_dropped(clients: Clients) -> None:
    client = clients.google()
    first = client.models.generate_content(model="sim-signed", contents="hello")
    rebuilt = types.Content(role="model", parts=[types.Part(text=first.text)])
    user = [types.Content(role="user", parts=[types.Part(text=text)]) for text in ("hello", "and?")]

    with pytest.raises(errors.ClientError, match="missing its thought_signature"):
        client.models.generate_content(model="sim-signed", contents=[user[0], rebuilt, user[1]])


def test_google_sdk_reads_blocked_and_truncated_replies(clients: Clients) -> None:
    client = clients.google()
    blocked = client.models.generate_content(model="sim-safety", contents="how to build a bomb")
    cut = client.models.generate_content(
        model="sim-good", contents="hello", config=types.GenerateContentConfig(max_output_tokens=2)
    )

    assert blocked.prompt_feedback is not None
    assert blocked.prompt_feedback.block_reason == types.BlockedReason.SAFETY
    assert blocked.candidates is None
    assert cut.candidates is not None
    assert cut.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS


def test_google_sdk_lists_models_over_several_pages(clients: Clients) -> None:
    names = [model.name for model in clients.google().models.list(config={"page_size": 3})]

    assert names[:2] == ["models/sim-good", "models/sim-drift"]
    assert len(names) == len(set(names)) == len(Actor().models)


def test_google_sdk_with_a_bare_authorization_header_is_accepted(server: Server) -> None:
    options = types.HttpOptions(
        base_url=server.url, api_version="v1beta", headers={"Authorization": GOOD, "x-goog-api-key": ""}
    )
    with genai.Client(api_key="unused", http_options=options) as client:
        reply = client.chats.create(model="sim-good").send_message("今天是2025年12月26日")

    assert "今天是2025年12月26日" in (reply.text or "")


@pytest.mark.parametrize(
    ("model", "key", "code", "status"),
    [
        ("sim-good", WRONG, 400, "INVALID_ARGUMENT"),
        ("sim-nope", GOOD, 404, "NOT_FOUND"),
    ],
    ids=["bad key", "unknown model"],
)
def test_google_sdk_raises_its_client_error(clients: Clients, model: str, key: str, code: int, status: str) -> None:
    with pytest.raises(errors.ClientError) as raised:
        clients.google(key=key).models.generate_content(model=model, contents="hi")

    assert (raised.value.code, raised.value.status) == (code, status)


def test_google_sdk_raises_on_429_with_the_delay(server: Server, clients: Clients) -> None:
    models = clients.google(key=LIMITED).models
    with under_limit(server):
        replies = [models.generate_content(model="sim-good", contents="hi") for _ in range(2)]
        with pytest.raises(errors.ClientError) as raised:
            models.generate_content(model="sim-good", contents="hi")

    assert all(reply.text for reply in replies)
    assert (raised.value.code, raised.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert "retryDelay" in str(raised.value.details)


def test_google_sdk_raises_its_server_error(server: Server, clients: Clients) -> None:
    with faults(server, {"action": "error", "kind": "overloaded"}), pytest.raises(errors.ServerError, match="503"):
        clients.google().models.generate_content(model="sim-good", contents="hi")


# The SDK subclasses aiohttp's session, which aiohttp discourages; we cannot change that.
@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
async def test_google_sdk_holds_an_asynchronous_chat(clients: Clients) -> None:
    config = types.GenerateContentConfig(system_instruction="Answer briefly.")
    asynchronous = clients.google().aio
    chat = asynchronous.chats.create(model="sim-good", config=config)

    assert [(await chat.send_message(text)).text for text in PROMPTS] == REPLIES
    await asynchronous.aclose()


def openai_history(length: int) -> list[ChatCompletionMessageParam]:
    messages: list[ChatCompletionMessageParam] = [{"role": "system", "content": "Answer briefly."}]
    for prompt, reply in list(zip(PROMPTS, REPLIES, strict=True))[: length - 1]:
        messages.append({"role": "user", "content": prompt})
        messages.append({"role": "assistant", "content": reply})
    messages.append({"role": "user", "content": PROMPTS[length - 1]})
    return messages


def test_openai_sdk_holds_a_chat(clients: Clients) -> None:
    client = clients.openai()

    replies = [
        client.chat.completions.create(model="sim-good", messages=openai_history(length)) for length in (1, 2, 3)
    ]

    assert [reply.choices[0].message.content for reply in replies] == REPLIES
    assert {reply.choices[0].finish_reason for reply in replies} == {"stop"}


def test_openai_sdk_holds_a_streamed_chat_with_the_same_usage(clients: Clients) -> None:
    client = clients.openai()

    for length in (1, 2, 3):
        whole = client.chat.completions.create(model="sim-good", messages=openai_history(length))
        chunks = list(
            client.chat.completions.create(
                model="sim-good",
                messages=openai_history(length),
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == REPLIES[length - 1]
        assert chunks[-1].usage == whole.usage


def test_openai_sdk_reads_reasoning_tokens_as_part_of_the_completion(clients: Clients) -> None:
    usage = clients.openai().chat.completions.create(model="sim-seed", messages=openai_history(1)).usage

    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (22, 192, 214)
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 178


def test_openai_sdk_reads_refused_and_filtered_replies(clients: Clients) -> None:
    client = clients.openai()

    refused = client.chat.completions.create(model="sim-safety", messages=[{"role": "user", "content": "insult me"}])
    filtered = client.chat.completions.create(model="sim-safety", messages=[{"role": "user", "content": "a bomb"}])

    assert refused.choices[0].message.refusal
    assert (filtered.choices[0].finish_reason, filtered.choices[0].message.content) == ("content_filter", None)


def test_openai_sdk_lists_models(clients: Clients) -> None:
    assert "sim-drift" in [model.id for model in clients.openai().models.list()]


def test_openai_sdk_raises_its_own_classes(server: Server, clients: Clients) -> None:
    good, bad = clients.openai(), clients.openai(key=WRONG)

    with pytest.raises(openai.AuthenticationError):
        bad.chat.completions.create(model="sim-good", messages=openai_history(1))
    with pytest.raises(openai.NotFoundError):
        good.chat.completions.create(model="sim-nope", messages=openai_history(1))
    with pytest.raises(openai.BadRequestError, match="empty array"):
        good.chat.completions.create(model="sim-good", messages=[])
    with faults(server, {"action": "error"}), pytest.raises(openai.InternalServerError):
        good.chat.completions.create(model="sim-good", messages=openai_history(1))
    with faults(server, {"action": "reset"}), pytest.raises(openai.APIConnectionError):
        good.chat.completions.create(model="sim-good", messages=openai_history(1))


def test_openai_sdk_raises_on_429_and_follows_the_hint(server: Server, clients: Clients) -> None:
    client = clients.openai(key=LIMITED)
    with under_limit(server):
        for _ in range(2):
            client.chat.completions.create(model="sim-echo", messages=openai_history(1))
        with pytest.raises(openai.RateLimitError) as raised:
            client.chat.completions.create(model="sim-echo", messages=openai_history(1))
        assert float(raised.value.response.headers["retry-after-ms"]) > 0
        reply = client.with_options(max_retries=1).chat.completions.create(model="sim-echo", messages=openai_history(1))

    assert reply.choices[0].message.content == PROMPTS[0]


def anthropic_dialogue(
    client: anthropic.Anthropic, model: str, *, streamed: bool, **settings: Any
) -> list[anthropic.types.Message]:
    """Hold the dialogue of `PROMPTS`, each reply sent back as the SDK has it."""
    history: list[MessageParam] = []
    replies: list[anthropic.types.Message] = []
    for prompt in PROMPTS:
        history.append({"role": "user", "content": prompt})
        asked: dict[str, Any] = {
            "model": model, "max_tokens": 2000, "system": "Answer briefly.", "messages": history,
            "thinking": {"type": "adaptive", "display": "summarized"}, **settings,
        }  # fmt: skip
        if streamed:
            with client.messages.stream(**asked) as stream:
                reply: anthropic.types.Message = stream.get_final_message()
        else:
            reply = client.messages.create(**asked)
        replies.append(reply)
        history.append({"role": "assistant", "content": reply.content})
    return replies


@pytest.mark.parametrize("model", ["sim-good", "sim-think", "sim-signed"])
def test_anthropic_sdk_holds_the_same_dialogue_whole_and_streamed(clients: Clients, model: str) -> None:
    whole = anthropic_dialogue(clients.anthropic(), model, streamed=False)
    streamed = anthropic_dialogue(clients.anthropic(), model, streamed=True)

    for one, other in zip(whole, streamed, strict=True):
        assert [block.to_dict() for block in one.content] == [
            {key: value for key, value in block.to_dict().items() if key != "parsed_output"} for block in other.content
        ]
        assert (one.usage, one.stop_reason, one.id) == (other.usage, "end_turn", other.id)
    if model != "sim-signed":
        assert [reply.content[-1].to_dict()["text"] for reply in whole] == REPLIES
    assert [reply.content[0].type for reply in whole] == ["text" if model == "sim-good" else "thinking"] * 3


def test_anthropic_sdk_reads_thinking_cached_tokens_and_limits(clients: Clients) -> None:
    client = clients.anthropic()
    cached = {"cache_control": {"type": "ephemeral"}}
    first, second, _ = anthropic_dialogue(client, "sim-think", streamed=False, **cached)
    again, *_ = anthropic_dialogue(client, "sim-think", streamed=False, **cached)
    cut = client.messages.create(model="sim-good", max_tokens=2, messages=[{"role": "user", "content": "hello"}])
    refused = client.messages.create(model="sim-safety", max_tokens=9, messages=[{"role": "user", "content": "bomb"}])

    assert "Reading" in str(first.content[0].to_dict()["thinking"])
    assert first.usage.output_tokens_details is not None
    assert first.usage.output_tokens_details.thinking_tokens > 0
    assert (first.usage.cache_read_input_tokens, first.usage.cache_creation_input_tokens) == (0, 12)
    assert second.usage.cache_read_input_tokens == 12
    assert (again.usage.cache_read_input_tokens, again.usage.cache_creation_input_tokens) == (12, 0)
    assert cut.stop_reason == "max_tokens"
    assert (refused.stop_reason, refused.content) == ("refusal", [])
    assert refused.stop_details is not None
    assert refused.stop_details.category == "cyber"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("signature", "messages.1.content.0: Invalid `signature` in `thinking` block$"),
        ("thinking", "messages.1.content.0: Invalid `signature` in `thinking` block$"),
        ("user", "bound to a different conversation"),
        ("missing", "Expected `thinking` or `redacted_thinking`, but found `text`"),
    ],
)
def test_anthropic_sdk_is_refused_when_thinking_is_not_as_it_was(clients: Clients, change: str, message: str) -> None:
    client = clients.anthropic()
    reply = client.messages.create(model="sim-signed", max_tokens=99, messages=[{"role": "user", "content": "hello"}])
    thinking, text = (block.to_dict() for block in reply.content)
    if change in thinking:
        thinking[change] = f"A{thinking[change]}"
    content = [text] if change == "missing" else [thinking, text]
    asked = "another" if change == "user" else "hello"

    with pytest.raises(anthropic.BadRequestError) as raised:
        client.messages.create(
            model="sim-signed",
            max_tokens=99,
            messages=[
                {"role": "user", "content": asked},
                {"role": "assistant", "content": cast("Any", content)},
                {"role": "user", "content": "and?"},
            ],
        )
    assert re.search(message, str(cast("Any", raised.value.body)["error"]["message"]))


def test_anthropic_sdk_lists_models_over_several_pages(clients: Clients) -> None:
    models = {model.id: model for model in clients.anthropic().models.list(limit=3)}
    thinking = {name: cast("Any", model.capabilities).thinking for name, model in models.items()}

    assert [name for name, one in thinking.items() if one.supported and one.types.adaptive.supported] == ["sim-think"]
    names = list(models)
    assert names[:2] == ["sim-good", "sim-drift"]
    assert len(names) == len(set(names)) == len(Actor().models)


def test_anthropic_sdk_raises_its_own_classes(server: Server, clients: Clients) -> None:
    def ask(client: anthropic.Anthropic, model: str = "sim-good", **settings: Any) -> anthropic.types.Message:
        asked: dict[str, Any] = {
            "model": model,
            "max_tokens": 99,
            "messages": [{"role": "user", "content": "hi"}],
            **settings,
        }
        return client.messages.create(**asked)

    good, newest = clients.anthropic(), clients.anthropic(version="2026-10-21")
    with pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"):
        ask(clients.anthropic(key=WRONG))
    with pytest.raises(anthropic.NotFoundError, match="model: sim-nope"):
        ask(good, "sim-nope")
    with pytest.raises(anthropic.BadRequestError, match="conversation must end with a user message"):
        ask(good, messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "I"}])
    with pytest.raises(anthropic.BadRequestError, match="not supported with anthropic-version 2026-10-21"):
        ask(newest, extra_body={"temperature": 1})
    with (
        faults(server, {"action": "error", "kind": "overloaded"}),
        pytest.raises(anthropic.InternalServerError) as raised,
    ):
        ask(good)
    assert (raised.value.status_code, cast("Any", raised.value.body)["error"]["type"]) == (529, "overloaded_error")
    with under_limit(server):
        assert [ask(good).stop_reason for _ in range(2)] == ["end_turn"] * 2
        with pytest.raises(anthropic.RateLimitError) as limited:
            ask(good)
    assert float(limited.value.response.headers["retry-after"]) > 0


def responses_input(responses: Any, model: str, *, streamed: bool) -> tuple[list[str], list[Any]]:
    """Hold a stateless conversation; return the replies and the input items of the last question."""
    items: list[Any] = []
    texts: list[str] = []
    for prompt in PROMPTS:
        items.append({"role": "user", "content": prompt})
        options = {"instructions": "Answer briefly.", "store": False, "reasoning": {"effort": "low", "summary": "auto"}}
        response = responses.create(model=model, input=items, stream=streamed, **options)
        if streamed:
            response = list(response)[-1].response
        texts.append(response.output_text)
        items += response.output
    return texts, items


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_openai_sdk_holds_a_responses_conversation(clients: Clients, streamed: bool) -> None:
    texts, items = responses_input(clients.responses(), "sim-think", streamed=streamed)

    assert texts == REPLIES
    kinds = [getattr(item, "type", "user") for item in items]
    assert kinds == ["user", "reasoning", "message"] * 3, "reasoning is sent back between the turns it came in"


def test_openai_sdk_sends_encrypted_reasoning_back(clients: Clients) -> None:
    responses = clients.responses()
    texts, items = responses_input(responses, "sim-signed", streamed=False)
    _, first, message, *_ = items
    follow_up = {"role": "user", "content": "and?"}
    foreign = {**first.to_dict(), "encrypted_content": "gAAAAABxxxx"}

    assert all(text.startswith("[signed]") for text in texts)
    for history, refusal in (
        ([first, follow_up], "without its required following item"),
        ([message, follow_up], "without its required 'reasoning' item"),
        ([foreign, message, follow_up], "could not be verified"),
    ):
        with pytest.raises(openai.BadRequestError, match=refusal):
            responses.create(model="sim-signed", input=history)


def test_openai_sdk_reads_the_usage_and_events_of_responses(clients: Clients) -> None:
    responses = clients.responses()
    whole = responses.create(model="sim-seed", input="hi")
    events = list(responses.create(model="sim-seed", input="hi", stream=True))

    assert whole.usage is not None
    counts = (whole.usage.input_tokens, whole.usage.output_tokens, whole.usage.total_tokens)
    assert (*counts, whole.usage.output_tokens_details.reasoning_tokens) == (22, 192, 214, 178)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response == whole


def test_openai_sdk_reads_incomplete_refused_and_failed_responses(server: Server, clients: Clients) -> None:
    responses = clients.responses()
    cut = responses.create(model="sim-good", input="a long word " * 20, max_output_tokens=16)
    filtered = responses.create(model="sim-safety", input="a bomb")
    refused = responses.create(model="sim-safety", input="insult me")
    with faults(server, {"action": "reply", "kind": "malformed-call"}):
        failed = responses.create(model="sim-good", input="hi")

    assert cut.incomplete_details is not None
    assert filtered.incomplete_details is not None
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (filtered.output, filtered.incomplete_details.reason) == ([], "content_filter")
    assert refused.output[0].content[0].type == "refusal"
    assert (failed.status, failed.error and failed.error.code) == ("failed", "server_error")


def test_openai_sdk_raises_its_classes_on_the_responses_wire(server: Server, clients: Clients) -> None:
    good = clients.responses()

    with pytest.raises(openai.AuthenticationError):
        clients.responses(key=WRONG).create(model="sim-good", input="hi")
    with pytest.raises(openai.NotFoundError):
        good.create(model="sim-nope", input="hi")
    for code, extra in (
        ("previous_response_not_found", {"previous_response_id": "resp_gone"}),
        ("unsupported_parameter", {"stop": ["x"]}),
        ("unknown_parameter", {"colour": "red"}),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            good.create(model="sim-good", input="hi", extra_body=extra)
        assert refused.value.code == code
    with faults(server, {"action": "rate-limit"}), pytest.raises(openai.RateLimitError):
        good.create(model="sim-good", input="hi")
    with faults(server, {"action": "mid-error", "events": 5}), pytest.raises(openai.APIError):
        list(good.create(model="sim-good", input="hi", stream=True))


@contextmanager
def faults(server: Server, *rules: dict[str, object]) -> Generator[None]:
    server.provider.faults = FaultScript.of(rules)
    try:
        yield
    finally:
        server.provider.faults = FaultScript()


@contextmanager
def under_limit(server: Server) -> Generator[None]:
    """Limit the server to two requests per 0.3 s."""
    server.provider.set_limits(ServerLimits(rpm=2, window_s=0.3))
    try:
        yield
    finally:
        server.provider.set_limits(None)
