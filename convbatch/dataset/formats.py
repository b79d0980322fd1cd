"""Dialogues in other people's formats → the canonical form; plain values in, plain values out.

Recorded replies become `assistant`, every user turn is asked. What has no place in the canonical form is kept in
`meta`; what would change the dialogue when left out (tool steps, remote files, two user turns in a row) is a flaw.
Whether the result is a good dialogue is `schema.py`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard, get_args

from convbatch.dataset.jsonl import display_json
from convbatch.errors import Issue, did_you_mean, nearest

Format = Literal["canonical", "gemini", "openai", "sharegpt", "mtbench"]
FORMATS: tuple[Format, ...] = get_args(Format)
FORMAT_NAMES: Mapping[Format, str] = {
    "canonical": 'canonical ("turns" of objects)',
    "gemini": 'Gemini ("contents")',
    "openai": 'OpenAI ("messages")',
    "sharegpt": 'ShareGPT ("conversations")',
    "mtbench": 'MT-Bench ("turns" of strings)',
}

_MARKERS = ("turns", "contents", "request", "messages", "body", "conversations", "conversation")


@dataclass(slots=True)
class Imported:
    """A dialogue in the canonical form, or what stands in the way."""

    plain: dict[str, Any]
    issues: list[Issue] = field(default_factory=list)


def detect(line: Mapping[str, Any]) -> Format | None:
    """The format of one line by its keys; None when it holds no dialogue of a known kind."""
    if "turns" in line:
        turns = line["turns"]
        return "mtbench" if isinstance(turns, list) and turns and isinstance(turns[0], str) else "canonical"
    if "contents" in line or _has(line.get("request"), "contents"):
        return "gemini"
    if "messages" in line or _has(line.get("body"), "messages"):
        return "openai"
    if "conversations" in line or "conversation" in line:
        return "sharegpt"
    return None


def unknown_format(line: Mapping[str, Any]) -> Issue:
    """What to say of a line that `detect` does not know."""
    close = next((near for key in line if (near := nearest(key, _MARKERS)) is not None), None)
    known = ", ".join(f'"{key}"' for key in ("turns", "contents", "messages", "conversations"))
    hint = f"a dialogue has one of {known}; see docs/dataset.md"
    if close is not None:
        hint = f"did you mean {close!r}? {hint}"
    return Issue(what="no dialogue on this line", found="keys " + ", ".join(map(str, line)) or "{}", hint=hint)


def line_id(line: Mapping[str, Any], kind: Format) -> str | None:
    """The id a line gives itself, as text; None when it has none."""
    if kind == "canonical":
        named = line.get("id")
        return named if isinstance(named, str) else None
    for key in _ID_KEYS[kind]:
        named = line.get(key)
        if isinstance(named, str | int) and not isinstance(named, bool) and str(named).strip():
            return str(named)
    return None


def to_canonical(line: Mapping[str, Any], kind: Format, *, reference: bool = False) -> Imported:
    """One line of a known format in the canonical form, without an id when the line has none.

    Args:
        line: The parsed line.
        kind: Its format.
        reference: Take MT-Bench `reference` answers as scripted replies; otherwise they stay in `meta`.
    """
    if kind == "canonical":
        return Imported(dict(line))
    builder = _DialogueBuilder()
    for key in ("checks", "settings", "tool_results"):
        if key in line:
            builder.issue(
                f'"{key}" in a line of the {FORMAT_NAMES[kind]} form',
                found={key: line[key]},
                hint="only the canonical form has it: `convbatch convert IN OUT`, then add it there",
            )
    named = line_id(line, kind)
    if named is not None:
        builder.plain["id"] = named
    rest = {key: value for key, value in line.items() if key not in _ID_KEYS[kind] or str(value) != named}
    if kind == "mtbench":
        _read_mtbench(rest, builder, reference=reference)
    else:
        _READERS[kind](rest, builder)
    builder.keep(rest)
    return builder.result()


_ID_KEYS: Mapping[Format, tuple[str, ...]] = {
    "canonical": ("id",),
    "gemini": ("key", "id"),
    "openai": ("custom_id", "id", "prompt_id"),
    "sharegpt": ("id", "conversation_id", "conversation_hash"),
    "mtbench": ("question_id", "id"),
}


class _DialogueBuilder:
    """A dialogue being put together, message by message."""

    def __init__(self) -> None:
        self.plain: dict[str, Any] = {}
        self.issues: list[Issue] = []
        self._turns: list[dict[str, Any]] = []
        self._last: Literal["user", "assistant"] | None = None
        self._settings: dict[str, Any] = {}
        self._extra: dict[str, Any] = {}
        self._meta: dict[str, Any] = {}

    @property
    def place(self) -> str:
        """The turn that is being put together."""
        return f"turn {max(1, len(self._turns))}"

    @property
    def next_place(self) -> str:
        """The turn that the next user message opens."""
        return f"turn {len(self._turns) + 1}"

    def issue(self, what: str, *, found: Any, hint: str, place: str | None = None) -> None:
        self.issues.append(Issue(what=what, field=place, found=display_json(found), hint=hint))

    def system(self, text: Any) -> None:
        """System text; only before the first turn and only once."""
        if text is None or text == "":
            return
        if not isinstance(text, str):
            self.issue("the system text is not text", found=text, hint='a string, or parts of the form {"text": "…"}')
        elif self._turns:
            self.issue(
                "a system message after the first turn",
                place=self.place,
                found=text,
                hint="a dialogue has one system text, at its start: move it there, or into a user message",
            )
        elif "system" in self.plain:
            self.issue("two system messages", found=text, hint="join them into one")
        else:
            self.plain["system"] = text

    def user(self, content: Any) -> None:
        """A user message: text, or canonical parts."""
        self._turns.append({"user": content})
        if self._last == "user":
            self.issue(
                "two user turns in a row",
                place=self.place,
                found=content,
                hint="join them into one message, or put the reply between them",
            )
        self._last = "user"

    def reply(self, text: str) -> None:
        """A recorded reply; a blank one counts as none."""
        if self._last is None:
            self.issue(
                "a reply before the first user turn",
                place="turn 1",
                found=text,
                hint="a dialogue starts with a user message: remove the reply, or put the missing message before it",
            )
        elif self._last == "assistant":
            self.issue("two replies in a row", place=self.place, found=text, hint="join them into one")
        elif text.strip():
            self._turns[-1]["assistant"] = text
        self._last = "assistant"

    def unsupported(self, role: str, message: Any) -> None:
        """A step of a tool, or a role nobody knows."""
        if role in _TOOL_ROLES:
            self.issue(
                f"a {display_json(role)} message: recorded tool steps cannot be replayed",
                place=self.place,
                found=message,
                hint='write the dialogue in the canonical form with "tools" and "tool_results"',
            )
        else:
            self.issue(
                f"unknown role {display_json(role)}",
                place=self.place,
                found=message,
                hint=did_you_mean(str(role), [*_ROLES, *_TOOL_ROLES]),
            )

    def setting(self, name: str, value: Any) -> None:
        """A generation setting by its canonical name; null means not set."""
        if value is None or value == []:
            return
        if name in _WHOLE and isinstance(value, float) and value.is_integer():
            value = int(value)
        self._settings[name] = value

    def extra(self, name: str, value: Any) -> None:
        """A field of a request body that has no setting of its own."""
        if value is not None and value != {}:
            self._extra[name] = value

    def keep(self, rest: Mapping[str, Any]) -> None:
        """Keys nobody claimed: tags stay tags, the rest is kept in `meta`."""
        for key, value in rest.items():
            if key == "tags" and isinstance(value, list) and all(isinstance(tag, str) for tag in value):
                self.tag(*value)
            elif key == "meta" and isinstance(value, dict):
                self._meta.update(value)
            else:
                self._meta[key] = value

    def tag(self, *tags: str) -> None:
        known = self.plain.setdefault("tags", [])
        known += [tag for tag in tags if tag not in known and tag.strip()]

    def result(self) -> Imported:
        if self._extra:
            self._settings["extra"] = self._extra
        self.plain["turns"] = self._turns
        if not self._turns and not self.issues:
            self.issue("no user turn in it", found=[], hint="a dialogue has at least one user message")
        for key, value in (("settings", self._settings), ("meta", self._meta)):
            if value:
                self.plain[key] = value
        if not self.plain.get("tags", True):
            del self.plain["tags"]
        return Imported(self.plain, self.issues)


_WHOLE = ("top_k", "max_output_tokens", "seed", "thinking_budget")
_ROLES: Mapping[str, Literal["user", "assistant", "system"]] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}
_TOOL_ROLES = ("tool", "function", "function_call", "function_response", "observation", "tool_call", "tool_response")


def _has(value: Any, key: str) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict) and key in value


def _take_list(rest: dict[str, Any], key: str, builder: _DialogueBuilder) -> list[Any]:
    value = rest.pop(key)
    if isinstance(value, list):
        return value
    builder.issue(f'"{key}" must be a list of messages', found=value, hint=f'"{key}": [{{…}}, {{…}}]')
    return []


# MT-Bench


def _read_mtbench(rest: dict[str, Any], builder: _DialogueBuilder, *, reference: bool) -> None:
    answers: list[Any] = []
    turns = _take_list(rest, "turns", builder)
    if reference and rest.get("reference") is not None:
        answers = _take_list(rest, "reference", builder)
        if len(answers) > len(turns):
            builder.issue("more reference answers than turns", found=answers, hint="one answer a turn, in order")
    for number, text in enumerate(turns):
        if not isinstance(text, str):
            builder.issue(
                "a turn that is not text among turns of text",
                place=f"turn {number + 1}",
                found=text,
                hint='either all turns are strings (MT-Bench), or all are objects {"user": "…"}',
            )
            continue
        builder.user(text)
        answer = answers[number] if number < len(answers) else ""
        builder.reply(answer if isinstance(answer, str) else "")
    category = rest.get("category")
    if isinstance(category, str):
        builder.tag(rest.pop("category"))


# ShareGPT and its relatives


def _read_sharegpt(rest: dict[str, Any], builder: _DialogueBuilder) -> None:
    builder.system(rest.pop("system", None))
    if rest.get("tools") in (None, "", "[]", []):
        rest.pop("tools", None)
    else:
        builder.unsupported("tool", rest.pop("tools"))
    key = "conversations" if "conversations" in rest else "conversation"
    for message in _take_list(rest, key, builder):
        if not isinstance(message, dict):
            builder.issue("a message must be an object", place=builder.place, found=message, hint=_SHAREGPT_EXAMPLE)
            continue
        role = message.get("from", message.get("role"))
        text = message.get("value", message.get("content"))
        _add_message(builder, role, text, message)


_SHAREGPT_EXAMPLE = '{"from": "human", "value": "…"}'


def _add_message(builder: _DialogueBuilder, role: Any, text: Any, message: Mapping[str, Any]) -> None:
    kind = _ROLES.get(role) if isinstance(role, str) else None
    if kind is None:
        builder.unsupported("" if role is None else role, message)
    elif not isinstance(text, str):
        builder.issue("a message without text", place=builder.place, found=message, hint=_SHAREGPT_EXAMPLE)
    elif kind == "user":
        builder.user(text)
    elif kind == "assistant":
        builder.reply(text)
    else:
        builder.system(text)


# OpenAI chat


_OPENAI_SETTINGS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "seed": "seed",
    "reasoning_effort": "reasoning_effort",
}
_OPENAI_EXTRA = (
    "audio",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "modalities",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "response_format",
    "safety_identifier",
    "service_tier",
    "tool_choice",
    "top_k",
    "top_logprobs",
    "verbosity",
    "web_search_options",
)
"""Of a line beside `messages`; in a batch body everything unknown belongs to the request."""
_NOT_REPLAYED = ("model", "stream", "stream_options")


def _read_openai(rest: dict[str, Any], builder: _DialogueBuilder) -> None:
    body, is_request = rest, False
    if "messages" not in rest:
        body, is_request = dict(rest.pop("body")), True
        for key in ("method", "url"):
            rest.pop(key, None)
    builder.system(body.pop("system", None))
    for message in _take_list(body, "messages", builder):
        if isinstance(message, dict):
            _read_openai_message(message, builder)
        else:
            hint = '{"role": "user", "content": "…"}'
            builder.issue("a message must be an object", place=builder.place, found=message, hint=hint)
    _read_openai_tools(body.pop("tools", None), builder)
    _read_openai_settings(body, builder, is_request=is_request)
    if is_request:
        builder.keep(body)


def _read_openai_message(message: Mapping[str, Any], builder: _DialogueBuilder) -> None:
    role = message.get("role", message.get("from"))
    kind = _ROLES.get(role) if isinstance(role, str) else None
    if kind is None or message.get("tool_calls") or message.get("function_call"):
        builder.unsupported("tool_call" if kind is not None else role or "", message)
        return
    content = message.get("content", message.get("value"))
    if kind == "user":
        builder.user(_openai_parts(content, builder))
        return
    text = _openai_text(content if content is not None else message.get("refusal"))
    if text is None:
        hint = '"content" of a reply or system message is text'
        builder.issue("a message without text", place=builder.place, found=message, hint=hint)
    elif kind == "assistant":
        builder.reply(text)
    else:
        builder.system(text)


def _openai_text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        texts = [part.get("text", part.get("refusal")) for part in content]
        return "".join(texts) if all(isinstance(text, str) for text in texts) else None
    return None


def _openai_parts(content: Any, builder: _DialogueBuilder) -> Any:
    if not isinstance(content, list):
        return content
    parts = [_openai_part(part, builder) for part in content]
    return parts[0]["text"] if len(parts) == 1 and "text" in parts[0] else parts


def _openai_part(part: Any, builder: _DialogueBuilder) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return {"text": part.get("text")}
    if kind == "input_audio" and _has(part.get("input_audio"), "data"):
        audio = part["input_audio"]
        return {"data": audio["data"], "mime_type": f"audio/{audio.get('format', 'wav')}"}
    source: Any = None
    if kind == "image_url":
        source = part["image_url"].get("url") if _has(part.get("image_url"), "url") else part.get("image_url")
    elif kind == "file" and _has(part.get("file"), "file_data"):
        source = part["file"]["file_data"]
    if isinstance(source, str) and (inline := _DATA_URL.fullmatch(source)):
        return {"data": inline[2], "mime_type": inline[1]}
    _refuse_part(part, builder, builder.next_place)
    return {"text": "…"}


_DATA_URL = re.compile(r"data:([^;,]+);base64,(.*)", re.DOTALL)


def _refuse_part(part: Any, builder: _DialogueBuilder, place: str) -> None:
    builder.issue(
        "a part that cannot be imported",
        place=place,
        found=part,
        hint="text and inline base64 data can; save remote files beside the dataset and use the canonical form",
    )


def _read_openai_tools(tools: Any, builder: _DialogueBuilder) -> None:
    if not tools:
        return
    if not isinstance(tools, list) or not all(_has(tool, "function") for tool in tools):
        builder.issue("tools other than functions", found=tools, hint='{"type": "function", "function": {"name": "…"}}')
        return
    builder.plain["tools"] = [_declaration(tool["function"]) for tool in tools]


def _declaration(function: Any) -> Any:
    if not isinstance(function, dict):
        return function
    kept = {key: function[key] for key in ("name", "description", "parameters") if function.get(key) is not None}
    if "parameters" not in kept and "parametersJsonSchema" in function:
        kept["parameters"] = function["parametersJsonSchema"]
    return kept


def _read_openai_settings(body: dict[str, Any], builder: _DialogueBuilder, *, is_request: bool) -> None:
    for key, name in _OPENAI_SETTINGS.items():
        builder.setting(name, body.pop(key, None))
    stop = body.pop("stop", None)
    builder.setting("stop", [stop] if isinstance(stop, str) else stop)
    wanted = body.get("response_format")
    if _has(wanted, "json_schema") and _has(wanted["json_schema"], "schema"):
        builder.setting("response_schema", wanted["json_schema"]["schema"])
        strict = {key: value for key, value in wanted["json_schema"].items() if key == "strict"}
        body["response_format"] = {"json_schema": strict} if strict else None
    for key in list(body):
        if key in _OPENAI_EXTRA or (is_request and key not in _NOT_REPLAYED):
            builder.extra(key, body.pop(key))


# Gemini


_GEMINI_SETTINGS = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "maxOutputTokens": "max_output_tokens",
    "stopSequences": "stop",
    "seed": "seed",
}
_GEMINI_EXTRA = ("toolConfig", "cachedContent", "serviceTier", "store", "labels", "continuationToken")


def _camel(key: str) -> str:
    head, *tail = key.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in tail)


def _camel_keys(plain: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Google's SDKs write snake_case, its REST pages camelCase; both are sent and accepted."""
    return {(camel if (camel := _camel(key)) in known else key): value for key, value in plain.items()}


_GEMINI_BODY = ("contents", "systemInstruction", "generationConfig", "safetySettings", "tools", *_GEMINI_EXTRA)
_GEMINI_CONFIG = (*_GEMINI_SETTINGS, "thinkingConfig", "responseMimeType", "responseSchema", "responseJsonSchema")
_GEMINI_PART = ("text", "inlineData", "thought", "thoughtSignature")


def _read_gemini(rest: dict[str, Any], builder: _DialogueBuilder) -> None:
    if "contents" in rest:
        body = _camel_keys(rest, _GEMINI_BODY)
        rest.clear()
    else:
        body = _camel_keys(rest.pop("request"), _GEMINI_BODY)
    _read_gemini_system(body.pop("systemInstruction", None), builder)
    for content in _take_list(body, "contents", builder):
        if isinstance(content, dict):
            _read_gemini_content(content, builder)
        else:
            hint = '{"role": "user", "parts": [{"text": "…"}]}'
            builder.issue("a message must be an object", place=builder.place, found=content, hint=hint)
    _read_gemini_config(body.pop("generationConfig", None), builder)
    _read_gemini_safety(body.pop("safetySettings", None), builder)
    _read_gemini_tools(body.pop("tools", None), builder)
    for key in _GEMINI_EXTRA:
        builder.extra(key, body.pop(key, None))
    builder.keep(body)


def _read_gemini_system(instruction: Any, builder: _DialogueBuilder) -> None:
    if isinstance(instruction, dict):
        parts = instruction.get("parts")
        parts = parts if isinstance(parts, list) else [parts]
        said = [part.get("text") if isinstance(part, dict) else part for part in parts]
        texts = [text for text in said if isinstance(text, str)]
        builder.system("\n".join(texts) if len(texts) == len(said) else instruction)
    else:
        builder.system(instruction)


def _read_gemini_content(content: Mapping[str, Any], builder: _DialogueBuilder) -> None:
    role = content.get("role", "user")
    parts = content.get("parts", [])
    parts = parts if isinstance(parts, list) else [parts]
    read = [_camel_keys(part, _GEMINI_PART) for part in parts if isinstance(part, dict)]
    if len(read) != len(parts):
        hint = '"parts": [{"text": "…"}]'
        builder.issue("a part must be an object", place=builder.place, found=content, hint=hint)
    elif role == "model":
        builder.reply(_gemini_reply(read, builder))
    elif role == "user":
        builder.user(_gemini_user(read, builder))
    else:
        builder.unsupported(role, content)


def _gemini_reply(parts: list[dict[str, Any]], builder: _DialogueBuilder) -> str:
    # Thoughts and signatures belong to the model and the route that made them; replayed elsewhere they are refused.
    spoken = [part for part in parts if not part.get("thought")]
    for part in spoken:
        if not isinstance(part.get("text", ""), str) or set(part) - {"text", "thoughtSignature", "thought"}:
            _refuse_part(part, builder, builder.place)
    return "".join(part["text"] for part in spoken if isinstance(part.get("text"), str))


def _gemini_user(parts: list[dict[str, Any]], builder: _DialogueBuilder) -> Any:
    canonical: list[dict[str, Any]] = []
    for part in parts:
        if set(part) == {"text"}:
            canonical.append({"text": part["text"]})
        elif set(part) == {"inlineData"} and isinstance(part["inlineData"], dict):
            inline = _camel_keys(part["inlineData"], ("mimeType", "data"))
            canonical.append({"data": inline.get("data"), "mime_type": inline.get("mimeType")})
        else:
            _refuse_part(part, builder, builder.next_place)
    return canonical[0]["text"] if len(canonical) == 1 and "text" in canonical[0] else canonical


def _read_gemini_config(config: Any, builder: _DialogueBuilder) -> None:
    if config is None:
        return
    if not isinstance(config, dict):
        builder.issue('"generationConfig" must be an object', found=config, hint='e.g. {"temperature": 0}')
        return
    config = {key: value for key, value in _camel_keys(config, _GEMINI_CONFIG).items() if value is not None}
    for key, name in _GEMINI_SETTINGS.items():
        builder.setting(name, config.pop(key, None))
    thinking = config.get("thinkingConfig")
    if isinstance(thinking, dict):
        left = _camel_keys(thinking, ("thinkingBudget", "thinkingLevel"))
        builder.setting("thinking_budget", left.pop("thinkingBudget", None))
        builder.setting("thinking_level", left.pop("thinkingLevel", None))
        config["thinkingConfig"] = left
    if "responseJsonSchema" in config and config.get("responseMimeType") == "application/json":
        builder.setting("response_schema", config.pop("responseJsonSchema"))
        del config["responseMimeType"]
    builder.extra("generationConfig", {key: value for key, value in config.items() if value != {}})


def _read_gemini_safety(settings: Any, builder: _DialogueBuilder) -> None:
    if not settings:
        return
    rows: list[Any] = settings if isinstance(settings, list) else [settings]
    if not all(_has(row, "category") and set(row) == {"category", "threshold"} for row in rows):
        builder.issue("safetySettings not understood", found=settings, hint='[{"category": "…", "threshold": "…"}]')
        return
    builder.setting("safety", {row["category"]: row["threshold"] for row in rows})


def _read_gemini_tools(tools: Any, builder: _DialogueBuilder) -> None:
    if not tools:
        return
    rows = [_camel_keys(row, ("functionDeclarations",)) if isinstance(row, dict) else {} for row in tools]
    if not any("functionDeclarations" in row for row in rows):
        builder.extra("tools", tools)  # the server's own tools (search, code execution) go as they stand
        return
    if not all(set(row) == {"functionDeclarations"} and isinstance(row["functionDeclarations"], list) for row in rows):
        builder.issue(
            "function declarations mixed with other tools",
            found=tools,
            hint='put the functions into the canonical "tools" and the rest into "settings": {"extra": …}',
        )
        return
    builder.plain["tools"] = [_declaration(function) for row in rows for function in row["functionDeclarations"]]


_READERS: Mapping[str, Callable[[dict[str, Any], _DialogueBuilder], None]] = {
    "gemini": _read_gemini,
    "openai": _read_openai,
    "sharegpt": _read_sharegpt,
}
