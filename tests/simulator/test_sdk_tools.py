"""Tools with the providers' own SDKs: each holds a conversation with the simulator, and sends the bodies that we send.

Slow: the SDKs take seconds to import.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import orjson
import pytest

from convbatch.dialogue import Message, Part, ToolResult
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.wire import Ask
from convbatch.simulator import Server, serve_in_thread
from convbatch.simulator.http import Answer
from convbatch.simulator.provider import Arrival, Provider
from convbatch.tools import ToolCall
from tests.support.tool_talk import TIME, TOOLS, WEATHER, Talk, scripted, user

pytestmark = pytest.mark.slow
KEY = "k-good-0001"
TEXT = 'aloud call get_weather {"city": "Oslo"} and call get_time, then call get_weather {"city": "Zürich"}'
RESULTS: dict[str, Any] = {"get_weather": {"celsius": 3}, "get_time": "noon"}
SCHEMA = WEATHER["parameters"]
NO_PARAMETERS = {"type": "object", "properties": {}}
PICTURE = Part(kind="image", data="AA==", mime_type="image/png")


class Recorder(Provider):
    """Provider that keeps the bodies of all requests."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[Any] = []

    def answer(self, arrival: Arrival, body: bytes, now: float) -> Answer:
        self.bodies.append(orjson.loads(body))
        return super().answer(arrival, body, now)

    def taken(self) -> list[Any]:
        bodies, self.bodies = self.bodies, []
        return bodies


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve_in_thread(Recorder()) as server:
        yield server


def text_of(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(result, separators=(",", ":"))


class GoogleSdk:
    """google-genai."""

    def __init__(self, url: str) -> None:
        genai, self.types = import_module("google.genai"), import_module("google.genai.types")
        options = self.types.HttpOptions(base_url=url, api_version="v1beta")
        self.client = genai.Client(api_key=KEY, http_options=options)  # kept: it closes when nothing refers to it
        self.models = self.client.models

    def config(self) -> Any:
        declare = self.types.FunctionDeclaration
        functions = [
            declare(name=WEATHER["name"], description=WEATHER["description"], parameters_json_schema=SCHEMA),
            declare(name=TIME["name"]),
        ]
        return self.types.GenerateContentConfig(tools=[self.types.Tool(function_declarations=functions)])

    def hold(self, model: str) -> str:
        contents = [self.types.Content(role="user", parts=[self.types.Part(text=TEXT)])]
        while True:
            reply = self.models.generate_content(model=model, contents=contents, config=self.config())
            content = reply.candidates[0].content
            calls = [part.function_call for part in content.parts if part.function_call]
            if not calls:
                return reply.text
            contents += [content, self.types.Content(role="user", parts=[self.result(call) for call in calls])]

    def result(self, call: Any, **media: Any) -> Any:
        value = RESULTS[call.name]
        response = value if isinstance(value, dict) else {"output": value}
        function = self.types.FunctionResponse(id=call.id, name=call.name, response=response, **media)
        return self.types.Part(function_response=function)

    def script(self, model: str) -> None:
        types = self.types
        call = {"functionCall": {"id": "a", "name": "get_time", "args": {}},
                "thoughtSignature": "skip_thought_signature_validator"}  # fmt: skip
        blob = types.FunctionResponseBlob(mime_type="image/png", data=b64decode("AA=="))
        response = types.FunctionResponse(
            id="a", name="get_time", response={"output": "late"}, parts=[types.FunctionResponsePart(inline_data=blob)]
        )
        contents = [
            types.Content(role="user", parts=[types.Part(text="When?")]),
            types.Content(role="model", parts=[types.Part.model_validate(call)]),
            types.Content(role="user", parts=[types.Part(function_response=response)]),
        ]
        self.models.generate_content(model=model, contents=contents, config=self.config())

    @staticmethod
    def normal(value: Any) -> Any:
        """Return a body in one spelling: the SDK mixes those of keys, and encodes bytes in another alphabet."""
        if isinstance(value, list):
            return [GoogleSdk.normal(item) for item in value]
        if not isinstance(value, dict):
            return value
        plain: dict[str, Any] = {}
        for key, item in value.items():
            name = re.sub(r"_([a-z])", lambda found: found[1].upper(), key)
            if name == "generationConfig" and not item:
                continue
            keeps = name in ("args", "response", "parametersJsonSchema")
            plain[name] = item if keeps else GoogleSdk.normal(item)
            if name in ("thoughtSignature", "data"):
                plain[name] = item.translate(str.maketrans("-_", "+/"))
        return plain


class ChatSdk:
    """The openai package, chat completions."""

    def __init__(self, url: str) -> None:
        openai = import_module("openai")
        self.client = openai.OpenAI(api_key=KEY, base_url=f"{url}/v1", max_retries=0)
        self.tools = [
            {"type": "function", "function": {key: value for key, value in tool.items()}} for tool in (WEATHER, TIME)
        ]

    def hold(self, model: str) -> str:
        messages: list[Any] = [{"role": "user", "content": TEXT}]
        while True:
            reply = self.client.chat.completions.create(model=model, messages=messages, tools=self.tools)
            message = reply.choices[0].message
            if not message.tool_calls:
                return message.content
            messages.append(message)
            for call in message.tool_calls:
                content = text_of(RESULTS[call.function.name])
                messages.append({"role": "tool", "tool_call_id": call.id, "content": content})

    def script(self, model: str) -> None:
        call = {"id": "a", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
        messages: list[Any] = [
            {"role": "user", "content": "When?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "a", "content": "late"},
        ]
        self.client.chat.completions.create(model=model, messages=messages, tools=self.tools)

    @staticmethod
    def normal(body: Any) -> Any:
        """Return a body without the field that we always send: some servers stream where it is missing."""
        return {key: value for key, value in body.items() if (key, value) != ("stream", False)}


class ResponsesSdk(ChatSdk):
    """The openai package, Responses."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked: dict[str, Any] = {
            "tools": [
                {"type": "function", **WEATHER, "strict": False},
                {"type": "function", **TIME, "parameters": NO_PARAMETERS, "strict": False},
            ],
            "store": False,
            "include": ["reasoning.encrypted_content"],
        }

    def hold(self, model: str) -> str:
        items: list[Any] = [{"role": "user", "content": TEXT}]
        while True:
            reply = self.client.responses.create(model=model, input=items, **self.asked)
            items += reply.output
            calls = [item for item in reply.output if item.type == "function_call"]
            if not calls:
                return reply.output_text
            for call in calls:
                output = text_of(RESULTS[call.name])
                items.append({"type": "function_call_output", "call_id": call.call_id, "output": output})

    def script(self, model: str) -> None:
        parts = [
            {"type": "input_text", "text": "late"},
            {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"},
        ]
        items: list[Any] = [
            {"role": "user", "content": "When?"},
            {"type": "function_call", "call_id": "a", "name": "get_time", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": parts},
        ]
        self.client.responses.create(model=model, input=items, **self.asked)


class AnthropicSdk:
    """The anthropic package."""

    def __init__(self, url: str) -> None:
        anthropic = import_module("anthropic")
        headers = {"anthropic-version": "2023-06-01"}
        self.client = anthropic.Anthropic(api_key=KEY, base_url=url, max_retries=0, default_headers=headers)
        self.asked: dict[str, Any] = {
            "max_tokens": 8192,
            "tools": [
                {"name": WEATHER["name"], "description": WEATHER["description"], "input_schema": SCHEMA},
                {"name": TIME["name"], "input_schema": NO_PARAMETERS},
            ],
        }

    def hold(self, model: str) -> str:
        messages: list[Any] = [{"role": "user", "content": TEXT}]
        while True:
            reply = self.client.messages.create(model=model, messages=messages, **self.asked)
            messages.append({"role": "assistant", "content": reply.content})
            calls = [block for block in reply.content if block.type == "tool_use"]
            if not calls:
                return reply.content[-1].text
            results = [
                {"type": "tool_result", "tool_use_id": call.id, "content": text_of(RESULTS[call.name])}
                for call in calls
            ]
            messages.append({"role": "user", "content": results})

    def script(self, model: str) -> None:
        source = {"type": "base64", "media_type": "image/png", "data": "AA=="}
        content = [{"type": "text", "text": "late"}, {"type": "image", "source": source}]
        messages: list[Any] = [
            {"role": "user", "content": "When?"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "get_time", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": content}]},
        ]
        self.client.messages.create(model=model, messages=messages, **self.asked)

    normal = staticmethod(ChatSdk.normal)


SDKS: dict[str, Callable[[str], Any]] = {
    "gemini": GoogleSdk,
    "openai": ChatSdk,
    "responses": ResponsesSdk,
    "anthropic": AnthropicSdk,
}


def same(sdk: Any, theirs: Sequence[Any], ours: Sequence[Any]) -> bool:
    return [sdk.normal(body) for body in theirs] == [sdk.normal(body) for body in ours]


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
@pytest.mark.parametrize("wire", SDKS)
def test_an_sdk_and_a_protocol_hold_the_same_conversation_with_tools(server: Server, wire: str) -> None:
    recorder, sdk = server.provider, SDKS[wire](server.url)
    assert isinstance(recorder, Recorder)
    for model in ("sim-good", "sim-think", "sim-signed"):
        text = sdk.hold(model)
        theirs = recorder.taken()
        replies = Talk(recorder, wire, model).hold(TEXT, RESULTS)
        ours = recorder.taken()

        assert replies[-1].text == text
        assert "celsius" in text
        assert len(ours) == 3
        assert same(sdk, theirs, ours)


@pytest.mark.parametrize("wire", SDKS)
def test_an_sdk_and_a_protocol_send_the_same_scripted_history(server: Server, wire: str) -> None:
    recorder, sdk = server.provider, SDKS[wire](server.url)
    assert isinstance(recorder, Recorder)
    sdk.script("sim-good")
    call = ToolCall("a", "get_time", {})
    media = () if wire == "openai" else (PICTURE,)
    calls, _ = scripted(call)
    results = Message(role="tool", parts=(), results=(ToolResult(call, "late", media=media),))
    ask = Ask(model="sim-good", messages=(user("When?"), calls, results), tools=TOOLS)

    assert same(sdk, recorder.taken(), [Talk(recorder, wire).body(ask)])


def test_every_wire_has_a_witness() -> None:
    assert set(SDKS) == set(PROTOCOLS)
