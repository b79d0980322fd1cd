from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from convbatch.dataset.formats.registry import FORMATS, detect
from convbatch.dataset.selection import convert, load_dialogues, scan
from convbatch.dialogue import Dialogue, Message, Settings, text_part
from convbatch.errors import InputError, Problem
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.wire import Ask, Endpoint
from tests.conftest import QUICKSTART, Command
from tests.support.tables import each


def written(folder: Path, *lines: Any, name: str = "d.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def imported(folder: Path, line: Any) -> Dialogue:
    [dialogue] = load_dialogues([written(folder, line)])
    return dialogue


def problems_in(folder: Path, line: Any) -> list[str]:
    found = [str(item) for item in scan([written(folder, line)]) if isinstance(item, Problem)]
    return [text.replace(f"{folder}/", "") for text in found]


def spoken(dialogue: Dialogue) -> list[tuple[str, str | None]]:
    return [(turn.user_text, turn.assistant) for turn in dialogue.turns]


def replayed(dialogue: Dialogue, protocol: str) -> Any:
    """Return the request body of `--history last`."""
    messages: list[Message] = []
    for turn in dialogue.turns:
        messages.append(Message(role="user", parts=turn.user))
        if turn is not dialogue.turns[-1]:
            messages.append(Message(role="assistant", parts=(text_part(turn.assistant or ""),)))
    ask = Ask(model="m", messages=tuple(messages), system=dialogue.system, settings=dialogue.settings)
    return PROTOCOLS[protocol].build_request(ask, Endpoint(base_url="https://example.com")).json


DMXAPI_SEED = {
    "contents": [
        {"role": "user", "parts": [{"text": "今天是几号"}]},
        {"role": "model", "parts": [{"text": "今天是2025年12月26日"}]},
        {"role": "user", "parts": [{"text": "明天是几号"}]},
    ]
}
GOOGLE_SEED = {
    "contents": [
        {"role": "user", "parts": [{"text": "Hello"}]},
        {"role": "model", "parts": [{"text": "Great to meet you. What would you like to know?"}]},
        {"role": "user", "parts": [{"text": "I have two dogs in my house. How many paws are in my house?"}]},
    ]
}
GEMINI_FULL = {
    **DMXAPI_SEED,
    "systemInstruction": {"parts": [{"text": "Answer briefly."}]},
    "generationConfig": {
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 40,
        "maxOutputTokens": 256,
        "stopSequences": ["END"],
        "seed": 7,
        "presencePenalty": 0.1,
        "thinkingConfig": {"thinkingBudget": 128, "includeThoughts": True},
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object"},
    },
    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
    "tools": [{"googleSearch": {}}],
    "serviceTier": "flex",
}
OPENAI_FULL = {
    "messages": [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "Two"}]},
    ],
    "temperature": 0,
    "top_p": 0.9,
    "stop": ["END"],
    "seed": 7,
    "reasoning_effort": "low",
    "presence_penalty": 0.5,
    "response_format": {"type": "json_object"},
}


@pytest.mark.parametrize("body", [DMXAPI_SEED, GOOGLE_SEED, GEMINI_FULL], ids=["dmxapi", "google", "every field"])
def test_a_recorded_gemini_body_is_replayed_as_the_same_json(tmp_path: Path, body: dict[str, Any]) -> None:
    assert replayed(imported(tmp_path, body), "gemini") == body


@pytest.mark.parametrize(
    "line",
    [OPENAI_FULL, {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": OPENAI_FULL}],
    ids=["body", "batch"],
)
def test_a_recorded_openai_body_is_replayed_as_the_same_json(tmp_path: Path, line: dict[str, Any]) -> None:
    body = replayed(imported(tmp_path, line), "openai")
    assert (body.pop("model"), body.pop("stream")) == ("m", False)
    assert body == OPENAI_FULL


def test_recorded_replies_become_scripted_replies_and_every_user_turn_is_requested(tmp_path: Path) -> None:
    dialogue = imported(tmp_path, DMXAPI_SEED)
    assert dialogue.id == "d:1"
    assert spoken(dialogue) == [("今天是几号", "今天是2025年12月26日"), ("明天是几号", None)]
    assert dialogue.asked("live") == (1, 2)
    assert dialogue.settings == Settings()


def test_a_trailing_recorded_reply_is_the_scripted_reply_of_the_last_turn(tmp_path: Path) -> None:
    line = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert spoken(imported(tmp_path, line)) == [("a", "b")]


USER_TEXT = {"role": "user", "parts": [{"text": "u"}]}
SAY_U = {"role": "user", "content": "u"}
CALL = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
GPT = {"from": "gpt", "value": "r"}

FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gemini batch line": (
        {"key": "r1", "request": {"contents": [USER_TEXT], "model": "models/x"}, "metadata": {"n": 1}},
        {"id": "r1", "turns": [{"user": "u"}], "meta": {"model": "models/x", "metadata": {"n": 1}}},
    ),
    "gemini snake case": (
        {
            "contents": [{"parts": [{"text": "u"}]}],
            "system_instruction": {"parts": {"text": "s"}},
            "generation_config": {"max_output_tokens": 9.0, "thinking_config": {"thinking_level": "low"}},
            "id": 5,
        },
        {
            "id": "5",
            "system": "s",
            "turns": [{"user": "u"}],
            "settings": {"max_output_tokens": 9, "thinking_level": "low"},
        },
    ),
    "gemini thoughts and signatures are left out": (
        {
            "contents": [
                USER_TEXT,
                {
                    "role": "model",
                    "parts": [
                        {"text": "hm", "thought": True},
                        {"text": "a"},
                        {"text": "b", "thoughtSignature": "eA=="},
                    ],
                },
            ]
        },
        {"turns": [{"user": "u", "assistant": "ab"}]},
    ),
    "gemini inline media": (
        {"contents": [{"parts": [{"text": "u"}, {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}]}]},
        {"turns": [{"user": [{"text": "u"}, {"data": "iVBORw0KGgo=", "mime_type": "image/png"}]}]},
    ),
    "gemini functions": (
        {
            "contents": [USER_TEXT],
            "tools": [{"function_declarations": [{"name": "f", "parametersJsonSchema": {"type": "object"}}]}],
        },
        {"turns": [{"user": "u"}], "tools": [{"name": "f", "parameters": {"type": "object"}}]},
    ),
    "gemini empty config": (
        {"contents": [USER_TEXT], "generationConfig": {"stopSequences": [], "temperature": None}, "safetySettings": []},
        {"turns": [{"user": "u"}]},
    ),
    "openai batch line": (
        {
            "custom_id": "c1",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "m",
                "messages": [SAY_U],
                "max_completion_tokens": 9,
                "stream": True,
                "enable_thinking": False,
            },
        },
        {
            "id": "c1",
            "turns": [{"user": "u"}],
            "meta": {"model": "m", "stream": True},
            "settings": {"max_output_tokens": 9, "extra": {"enable_thinking": False}},
        },
    ),
    "openai unknown keys outside a batch are no request": (
        {"messages": [SAY_U], "source": "web", "metadata": {"a": 1}, "tags": ["x"]},
        {"turns": [{"user": "u"}], "tags": ["x"], "meta": {"source": "web", "metadata": {"a": 1}}},
    ),
    "openai developer, refusal and stop text": (
        {
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "s"}]},
                SAY_U,
                {"role": "assistant", "content": None, "refusal": "no"},
            ],
            "stop": "END",
            "top_k": 5,
        },
        {
            "system": "s",
            "turns": [{"user": "u", "assistant": "no"}],
            "settings": {"stop": ["END"], "extra": {"top_k": 5}},
        },
    ),
    "openai parts": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "u"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                        {"type": "input_audio", "input_audio": {"data": "SUQz", "format": "mp3"}},
                        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0x"}},
                    ],
                }
            ]
        },
        {
            "turns": [
                {
                    "user": [
                        {"text": "u"},
                        {"data": "iVBORw0KGgo=", "mime_type": "image/png"},
                        {"data": "SUQz", "mime_type": "audio/mp3"},
                        {"data": "JVBERi0x", "mime_type": "application/pdf"},
                    ]
                }
            ]
        },
    ),
    "openai tools and schema": (
        {
            "messages": [SAY_U],
            "tools": [{"type": "function", "function": {"name": "f", "strict": True}}],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True},
            },
        },
        {
            "turns": [{"user": "u"}],
            "tools": [{"name": "f"}],
            "settings": {
                "response_schema": {"type": "object"},
            },
        },
    ),
    "anthropic-style system beside messages": (
        {"system": "s", "messages": [SAY_U]},
        {"system": "s", "turns": [{"user": "u"}]},
    ),
    "sharegpt names": (
        {
            "id": "s1",
            "system": "s",
            "tools": "[]",
            "conversations": [
                {"from": "human", "value": "1"},
                {"from": "bing", "value": "a"},
                {"from": "user", "value": "2"},
                {"from": "chatgpt", "value": "b"},
                {"from": "human", "value": "3"},
                {"from": "bard", "value": " "},
            ],
        },
        {
            "id": "s1",
            "system": "s",
            "turns": [{"user": "1", "assistant": "a"}, {"user": "2", "assistant": "b"}, {"user": "3"}],
        },
    ),
    "sharegpt system message": (
        {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "u"}, GPT]},
        {"system": "s", "turns": [{"user": "u", "assistant": "r"}]},
    ),
    "chat logs with roles": (
        {
            "conversation_id": "w1",
            "model": "m",
            "turn": 1,
            "conversation": [{"role": "user", "content": "u", "toxic": False}, {"role": "assistant", "content": "r"}],
        },
        {"id": "w1", "turns": [{"user": "u", "assistant": "r"}], "meta": {"model": "m", "turn": 1}},
    ),
    "system text beside a conversation": (
        {"systemPrompt": ["s", {"type": "text", "text": "t"}], "conversations": [{"from": "human", "value": "u"}]},
        {"system": "s\nt", "turns": [{"user": "u"}]},
    ),
    "the same system text twice": (
        {"instructions": "s", "messages": [{"role": "system", "content": "s"}, SAY_U]},
        {"system": "s", "turns": [{"user": "u"}]},
    ),
    "settings beside a conversation": (
        {
            "conversations": [{"from": "Human", "value": "u"}],
            "sampling_params": {"temperature": 0, "max_new_tokens": 5, "stopSequences": "END"},
            "params": {"epochs": 3},
            "seed": "alpaca-7",
        },
        {
            "turns": [{"user": "u"}],
            "settings": {"temperature": 0, "max_output_tokens": 5, "stop": ["END"]},
            "meta": {"params": {"epochs": 3}, "seed": "alpaca-7"},
        },
    ),
    "anthropic settings": (
        {"messages": [SAY_U], "stop_sequences": ["END"], "thinking": {"type": "enabled", "budget_tokens": 9}},
        {"turns": [{"user": "u"}], "settings": {"stop": ["END"], "thinking_budget": 9}},
    ),
    "thinking off, and an effort": (
        {"messages": [SAY_U], "thinking": {"type": "disabled"}, "reasoning": {"effort": "low"}},
        {"turns": [{"user": "u"}], "settings": {"thinking_budget": 0, "reasoning_effort": "low"}},
    ),
    "thinking without a setting goes to the body": (
        {"messages": [SAY_U], "thinking": {"type": "adaptive"}},
        {"turns": [{"user": "u"}], "settings": {"extra": {"thinking": {"type": "adaptive"}}}},
    ),
    "functions of 2023": (
        {"messages": [SAY_U], "functions": [{"name": "f", "parameters": {}}], "function_call": "auto"},
        {"turns": [{"user": "u"}], "tools": [{"name": "f", "parameters": {}}]},
    ),
    "checks and settings inside messages": (
        {
            "messages": [
                {**SAY_U, "checks": [{"contains": "r"}], "settings": {"seed": 1}},
                {"role": "assistant", "content": "r", "checks": [{"max_length": 9}]},
            ]
        },
        {
            "turns": [
                {
                    "user": "u",
                    "assistant": "r",
                    "checks": [{"contains": "r"}, {"max_length": 9}],
                    "settings": {"seed": 1},
                }
            ]
        },
    ),
    "thoughts of a recorded reply are left out": (
        {
            "messages": [
                SAY_U,
                {
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": "…"}, {"type": "text", "text": "r"}],
                },
            ]
        },
        {"turns": [{"user": "u", "assistant": "r"}]},
    ),
    "empty side keys change nothing": (
        {"messages": [SAY_U], "images": [], "documents": None, "functions": []},
        {"turns": [{"user": "u"}], "meta": {"images": [], "documents": None, "functions": []}},
    ),
    "mt-bench": (
        {"question_id": 81, "category": "writing", "turns": ["1", "2"], "reference": ["a", ""]},
        {"id": "81", "tags": ["writing"], "turns": [{"user": "1"}, {"user": "2"}], "meta": {"reference": ["a", ""]}},
    ),
}


@each(("line", "canonical"), FORMS.values())
def test_a_foreign_line_is_converted_to_a_canonical_dialogue(
    tmp_path: Path, line: dict[str, Any], canonical: dict[str, Any]
) -> None:
    assert imported(tmp_path, line).to_plain() == {"id": "d:1", **canonical}


# Each row: a line of another format, the first line of its only problem, a part of its hint.
FLAWS: dict[str, tuple[dict[str, Any], str, str]] = {
    "two users": ({"contents": [USER_TEXT, USER_TEXT]}, "d.jsonl:1: turn 2: two user turns in a row", "join them"),
    "two users, openai": ({"messages": [SAY_U, SAY_U]}, "d.jsonl:1: turn 2: two user turns in a row", "join them"),
    "reply first": ({"conversations": [GPT]}, "d.jsonl:1: turn 1: a reply before the first user turn", "starts with"),
    "two replies": (
        {"conversations": [{"from": "human", "value": "u"}, GPT, GPT]},
        "d.jsonl:1: turn 1: two replies in a row",
        "join them",
    ),
    "empty turn": (
        {"messages": [{"role": "user", "content": ""}]},
        'd.jsonl:1: turn 1: "user" must not be blank',
        "a user",
    ),
    "no content": (
        {"messages": [{"role": "user"}]},
        'd.jsonl:1: turn 1: "user" must be text or a list of parts',
        "null",
    ),
    "no parts": ({"contents": [{"role": "user"}]}, 'd.jsonl:1: turn 1: "user" must not be empty', "a user message"),
    "no messages": ({"messages": []}, "d.jsonl:1: no user turn", "at least one"),
    "only system": (
        {"messages": [{"role": "system", "content": "s"}]},
        "d.jsonl:1: no user turn",
        "at least one",
    ),
    "messages no list": ({"messages": "hello"}, 'd.jsonl:1: "messages" must be a list of messages', "["),
    "message no object": ({"contents": ["x"]}, "d.jsonl:1: turn 1: a message must be an object", "parts"),
    "late system": (
        {"messages": [SAY_U, {"role": "system", "content": "s"}]},
        "d.jsonl:1: turn 1: a system message after the first turn",
        "at its start",
    ),
    "two systems": (
        {"system": "a", "messages": [{"role": "system", "content": "b"}, SAY_U]},
        "d.jsonl:1: two system messages",
        "join them",
    ),
    "tool step": (
        {"conversations": [{"from": "human", "value": "u"}, {"from": "function_call", "value": "{}"}]},
        "d.jsonl:1: turn 1: a recorded call of an unknown form",
        '"arguments"',
    ),
    "tool calls": (
        {"messages": [SAY_U, {"role": "assistant", "tool_calls": [{"id": "1"}]}]},
        "d.jsonl:1: turn 1: a recorded call of an unknown form",
        '"arguments"',
    ),
    "gemini call without its result": (
        {"contents": [USER_TEXT, {"role": "model", "parts": [{"functionCall": {"name": "f"}}]}, USER_TEXT]},
        "d.jsonl:1: turn 1: a tool call without its result",
        "add the result",
    ),
    "a result without its call": (
        {"messages": [SAY_U, {"role": "tool", "tool_call_id": "1", "content": "x"}]},
        "d.jsonl:1: turn 1: a tool result without its call",
        "same id",
    ),
    "a result of another call": (
        {"messages": [SAY_U, CALL, {"role": "tool", "tool_call_id": "2", "content": "x"}]},
        "d.jsonl:1: turn 1: a tool result without its call",
        "same id",
    ),
    "arguments that are not JSON": (
        {"messages": [SAY_U, {"role": "assistant", "function_call": {"name": "f", "arguments": "{'a': 1}"}}]},
        'd.jsonl:1: turn 1: the arguments of a recorded call of "f" are no JSON object',
        "only objects",
    ),
    "a call of a tool that is not declared": (
        {"messages": [SAY_U, CALL, {"role": "tool", "tool_call_id": "1", "content": "x"}]},
        'd.jsonl:1: turn 1: tool_calls: a call of "f", which tools does not declare',
        '"tools"',
    ),
    "unknown role": (
        {"messages": [{"role": "usr", "content": "u"}]},
        'd.jsonl:1: turn 1: unknown role "usr"',
        "did you mean 'user'?",
    ),
    "remote image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://a.b/c.png"}}]}]},
        "d.jsonl:1: turn 1: a part that cannot be imported",
        "save remote files beside the dataset",
    ),
    "remote file": (
        {"contents": [{"parts": [{"text": "u"}, {"fileData": {"fileUri": "gs://x"}, "videoMetadata": {"fps": 2}}]}]},
        "d.jsonl:1: turn 1: a part that cannot be imported",
        "save remote files",
    ),
    "mixed tools": (
        {"contents": [USER_TEXT], "tools": [{"functionDeclarations": [{"name": "f"}], "googleSearch": {}}]},
        "d.jsonl:1: function declarations mixed with other tools",
        '"extra"',
    ),
    "bad setting": (
        {"contents": [USER_TEXT], "generationConfig": {"temperature": -1}},
        'd.jsonl:1: "settings.temperature" must be at least 0',
        "temperature",
    ),
    "bad config": (
        {"contents": [USER_TEXT], "generationConfig": 5},
        'd.jsonl:1: "generationConfig" must be an object',
        "temperature",
    ),
    "mixed turns": (
        {"turns": ["a", {"user": "b"}]},
        "d.jsonl:1: turn 2: a turn that is not text among turns of text",
        "all turns are strings",
    ),
    "checks in a foreign line": (
        {"messages": [SAY_U], "checks": [{"contains": "x"}]},
        'd.jsonl:1: "checks" in a line of the OpenAI ("messages") format',
        "convbatch convert",
    ),
    "sharegpt tools": (
        {"conversations": [{"from": "human", "value": "u"}], "tools": '[{"name": f}]'},
        'd.jsonl:1: "tools" is not JSON: a text without quotes at character 11',
        "a list like",
    ),
    **{
        f"media beside the messages: {key}": (
            {"messages": [SAY_U], key: value},
            f'd.jsonl:1: "{key}" beside the messages cannot be imported, and without it the model would be asked '
            "something else",
            hint,
        )
        for key, value, hint in (
            ("image", [["a.png"]], '{"image": "media/FILE"}'),
            ("videos", ["a sunset.", "v.mp4"], '{"video": "v.mp4"}'),
            ("audio", [{"array": [0]}], '{"audio": "media/FILE"}'),
            ("image_urls", ["ftp://a.b/c.png"], '{"image": "media/FILE"}'),
            ("files", [{"id": 1}], "remove the key"),
            ("attachments", ["a.pdf"], '{"document": "a.pdf"}'),
            ("documents", [{"text": "t"}], "into a user message"),
            ("function_call", {"id": "f"}, '"tool_results"'),
            ("thinking", True, '"thinking_budget"'),
            ("history", [["a", "b"]], "as messages"),
        )
    },
    "fewer files than placeholders": (
        {"image": "a.png", "conversations": [{"from": "human", "value": "<image>u<image>"}]},
        "d.jsonl:1: 2 placeholders <image> in the user messages, and 1 image files beside them",
        "as many <image> as files",
    ),
    "media of a reply": (
        {"contents": [USER_TEXT, {"role": "model", "parts": [{"text": "r"}], "images": ["a.png"]}]},
        'd.jsonl:1: turn 1: "images" inside a message cannot be imported, and without it the model would be asked '
        "something else",
        '{"image": "a.png"}',
    ),
    "a missing file": (
        {"custom_id": "c", "body": {"messages": [SAY_U], "images": ["a.png"]}},
        "d.jsonl:1: turn 1: image file does not exist",
        "relative to the dataset's folder",
    ),
    "two system texts": (
        {"instructions": "a", "system_prompt": "b", "messages": [SAY_U]},
        "d.jsonl:1: two system messages",
        "join them",
    ),
    "two temperatures": (
        {"messages": [SAY_U], "temperature": 1, "generation_config": {"temperature": 0}},
        'd.jsonl:1: two values of "temperature"',
        "keep one",
    ),
    "unknown setting in an object of settings": (
        {"messages": [SAY_U], "generation_config": {"temperature": 0, "num_beams": 4}},
        'd.jsonl:1: "generation_config" beside the messages cannot be imported, and without it the model would be '
        "asked something else",
        '"extra"',
    ),
    "checks in a system message": (
        {"messages": [{"role": "system", "content": "s", "checks": [{"contains": "x"}]}, SAY_U]},
        'd.jsonl:1: "checks" in a message before the first turn',
        "user message",
    ),
    "bad check in a message": (
        {"messages": [{**SAY_U, "checks": [{"contain": "x"}]}]},
        'd.jsonl:1: turn 1: check 1: unknown check "contain"',
        "contains",
    ),
    "gemini reply of another form": (
        {"contents": [USER_TEXT, {**USER_TEXT, "role": "Assistant"}, USER_TEXT]},
        'd.jsonl:1: turn 1: unknown role "Assistant"',
        'in this form: "model"',
    ),
    "gemini system message": (
        {"contents": [{**USER_TEXT, "role": "developer"}, USER_TEXT]},
        'd.jsonl:1: turn 1: unknown role "developer"',
        "systemInstruction",
    ),
    "a refused reply counts": (
        {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt"}, {"from": "human", "value": "v"}]},
        "d.jsonl:1: turn 1: a message without text",
        "value",
    ),
    "a refused message that is no object counts": (
        {"messages": [SAY_U, "r", SAY_U]},
        "d.jsonl:1: turn 1: a message must be an object",
        "role",
    ),
    "an unknown role counts": (
        {"messages": [SAY_U, {"role": "alien", "content": "r"}, SAY_U]},
        'd.jsonl:1: turn 1: unknown role "alien"',
        "assistant",
    ),
    "unknown format": ({"message": [SAY_U]}, "d.jsonl:1: no dialogue on this line", "did you mean 'messages'?"),
    "unknown batch": ({"custom_id": "x", "params": {}}, "d.jsonl:1: no dialogue on this line", '"messages"'),
}


@each(("line", "first", "hint"), FLAWS.values())
def test_a_foreign_line_that_would_lose_content_is_refused_with_its_place(
    tmp_path: Path, line: dict[str, Any], first: str, hint: str
) -> None:
    problems = problems_in(tmp_path, line)
    assert len(problems) == 1, problems
    assert problems[0].split("\n")[0] == first
    assert hint in problems[0].split("hint: ")[1]


def test_all_flaws_of_a_foreign_line_are_reported(tmp_path: Path) -> None:
    line = {"conversations": [GPT, {"from": "human", "value": "a"}, {"from": "human", "value": "b"}, {"from": "x"}]}
    assert [p.split("\n")[0] for p in problems_in(tmp_path, line)] == [
        "d.jsonl:1: turn 1: a reply before the first user turn",
        "d.jsonl:1: turn 2: two user turns in a row",
        'd.jsonl:1: turn 2: unknown role "x"',
    ]


def test_reference_answers_become_scripted_replies_only_on_request(tmp_path: Path) -> None:
    line = {"question_id": 1, "turns": ["a", "b"], "reference": ["x", ""]}
    source = written(tmp_path, line)
    convert(source, tmp_path / "without.jsonl")
    convert(source, tmp_path / "with.jsonl", reference=True)
    assert spoken(load_dialogues([tmp_path / "without.jsonl"])[0]) == [("a", None), ("b", None)]
    [dialogue] = load_dialogues([tmp_path / "with.jsonl"])
    assert spoken(dialogue) == [("a", "x"), ("b", None)]
    assert dialogue.meta == {}


@each(
    ("reference", "replies"),
    [([4, 1.5], ["4", "1.5"]), ([None, "x"], [None, "x"]), (4, ["4", None]), ("x", ["x", None])],
)
def test_reference_answers_of_one_word_or_number_are_answers(
    tmp_path_factory: pytest.TempPathFactory, reference: Any, replies: list[str | None]
) -> None:
    folder = tmp_path_factory.mktemp("reference")
    convert(written(folder, {"turns": ["a", "b"], "reference": reference}), folder / "with.jsonl", reference=True)
    assert [reply for _, reply in spoken(load_dialogues([folder / "with.jsonl"])[0])] == replies


def test_a_reference_answer_that_is_no_text_is_refused(tmp_path: Path) -> None:
    source = written(tmp_path, {"turns": ["a"], "reference": [{"text": "x"}]})
    with pytest.raises(InputError, match=r"d\.jsonl:1: turn 1: a reference answer that is not text"):
        convert(source, tmp_path / "with.jsonl", reference=True)


NOTED = {
    "source": "web",
    "score": 3,
    "empty": None,
    "messages": [{**SAY_U, "name": "Ann"}, {"role": "assistant", "content": "{{city}}", "weight": 0}],
}


def test_keys_that_are_not_sent_and_unfilled_placeholders_are_noted_once_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, {"messages": [SAY_U]}, NOTED, {**NOTED, "language": "en"})
    found = scan([path, written(tmp_path, {"turns": [{"user": "x^{{2}}"}]}, name="e.jsonl")])
    assert not [item for item in found if isinstance(item, Problem)]
    assert found.notes == [
        f'note: {path}: not sent, kept in "meta": source, score, language',
        f"note: {path}: not sent, left out of messages and tools: name, weight",
        f"note: {path}: {{{{city}}}} in line 2 is sent as it stands; `convbatch expand` fills it",
    ]


def test_validate_convert_and_run_show_the_notes(tmp_path: Path, convbatch: Command) -> None:
    written(tmp_path, NOTED)
    kept = 'd.jsonl: not sent, kept in "meta": source, score'
    for arguments in (("validate", "d.jsonl"), ("convert", "d.jsonl", "c.jsonl"), ("run", "d.jsonl")):
        done = convbatch(*arguments)
        assert (done.code, done.err.count(kept)) == (0, 1), done.err
    assert json.loads(convbatch("validate", "d.jsonl", "--json").out)["notes"][0] == f"note: {kept}"


@pytest.mark.parametrize("line", [line for line, _ in FORMS.values()], ids=FORMS.keys())
def test_a_converted_dataset_reads_as_the_original(tmp_path: Path, line: dict[str, Any]) -> None:
    source = written(tmp_path, line)
    assert convert(source, tmp_path / "out.jsonl") == 1
    assert load_dialogues([tmp_path / "out.jsonl"]) == load_dialogues([source])


# CrossWOZ (thu-coai/CrossWOZ, Apache-2.0) and MT-Bench (lm-sys/FastChat, Apache-2.0), one line each; the first is cut.
CROSSWOZ_LINE = {
    "id": "crosswoz-11290",
    "conversations": [
        {"from": "human", "value": "餐馆的地址是在哪啊？"},
        {"from": "gpt", "value": "地址是在小汤山镇讲礼村讲礼大队对面。"},
        {"from": "human", "value": "好的，谢谢你了啊。"},
        {"from": "gpt", "value": "不客气。"},
    ],
}
MT_BENCH_LINE = {
    "question_id": 84,
    "category": "writing",
    "turns": [
        "Write a persuasive email to convince your introverted friend, who dislikes public speaking, to volunteer as "
        "a guest speaker at a local event. Use compelling arguments and address potential objections. Please be "
        "concise.",
        "Can you rephrase your previous answer and incorporate a metaphor or simile in each sentence?",
    ],
}


def test_lines_of_public_datasets_are_read(tmp_path: Path) -> None:
    chinese, english = imported(tmp_path, CROSSWOZ_LINE), imported(tmp_path, MT_BENCH_LINE)
    assert spoken(chinese)[1] == ("好的，谢谢你了啊。", "不客气。")
    assert (english.id, english.tags, len(english.turns)) == ("84", ("writing",), 2)


@each(
    ("line", "form"),
    [
        ({"turns": [{"user": "x"}]}, "canonical"),
        ({"turns": []}, "canonical"),
        ({"turns": ["x"]}, "mtbench"),
        ({"contents": []}, "gemini"),
        ({"request": {"contents": []}}, "gemini"),
        ({"messages": []}, "openai"),
        ({"body": {"messages": []}}, "openai"),
        ({"conversations": []}, "sharegpt"),
        ({"request": {}}, None),
        ({}, None),
    ],
)
def test_a_format_is_recognised_by_its_keys(line: dict[str, Any], form: str | None) -> None:
    found = detect(line)
    assert (None if found is None else found.name) == form


def test_the_page_lists_every_format_with_its_keys() -> None:
    page = (QUICKSTART.parent.parent / "docs" / "dataset.md").read_text(encoding="utf-8")
    table = page.split("\n| format | detected by |", 1)[1].split("\n\n", 1)[0]
    rows = dict(re.findall(r"^\| ([\w -]+) \| (.*?) \|", table, re.MULTILINE))
    foreign = [form for form in FORMATS.values() if form.name != "canonical"]
    assert {form.label.split(" (")[0] for form in foreign} == set(rows) - {"---"}
    for form in foreign:
        assert [key for key in form.markers if key not in rows[form.label.split(" (")[0]]] == []
