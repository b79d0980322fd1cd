"""Keys beside the messages of a foreign line, or inside one message, that change what the model is asked.

Each is carried where the canonical format has a place for it (system text, settings, functions, checks) and otherwise
refused with its place. All other keys are the builder's: it keeps or leaves them out, and names them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

from convbatch.dataset.formats.builder import DialogueBuilder, role_of
from convbatch.dataset.jsonl import display_json
from convbatch.dataset.side_media import media_items
from convbatch.lazy_regex import lazy_regex
from convbatch.media import MediaKind

_SYSTEM = {
    "system",
    "meta_instruction",
    "preamble",
    "system_prompt",
    "system_prompts",
    "system_message",
    "system_instruction",
    "system_instructions",
    "system_text",
    "sys_prompt",
    "instructions",
    "developer_message",
    "developer_prompt",
    "developer_instructions",
}
SETTING_KEYS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_tokens": "max_output_tokens",
    "max_output_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "max_new_tokens": "max_output_tokens",
    "max_tokens_to_sample": "max_output_tokens",
    "num_predict": "max_output_tokens",
    "stop": "stop",
    "stop_sequences": "stop",
    "stop_words": "stop",
    "stop_strings": "stop",
    "seed": "seed",
    "random_seed": "seed",
    "reasoning_effort": "reasoning_effort",
    "thinking_budget": "thinking_budget",
    "thinking_level": "thinking_level",
    "response_schema": "response_schema",
    "response_json_schema": "response_schema",
}
"""Names of settings in other tools → the canonical ones."""
NUMERIC_SETTINGS = ("temperature", "top_p", "top_k", "max_output_tokens", "seed", "thinking_budget")
_EXTRA = {
    "chat_template_kwargs",
    "enable_search",
    "enable_thinking",
    "frequency_penalty",
    "guided_json",
    "guided_regex",
    "logit_bias",
    "mcp_servers",
    "min_p",
    "output_config",
    "parallel_tool_calls",
    "plugins",
    "presence_penalty",
    "repetition_penalty",
    "response_format",
    "search_parameters",
    "tool_choice",
    "verbosity",
    "web_search_options",
}
_CONTAINERS = {
    "config",
    "gen_kwargs",
    "generation_config",
    "generation_kwargs",
    "generation_settings",
    "generation_params",
    "inference_config",
    "inference_params",
    "model_parameters",
    "model_params",
    "model_settings",
    "optional_params",
    "options",
    "parameters",
    "params",
    "sampling_parameters",
    "sampling_params",
}
"""Objects of settings; one without any known setting is bookkeeping."""
_MEDIA_WORDS = r"(image|img|picture|photo|audio|sound|speech|video|media|attachment|document|pdf)"
_MEDIA = lazy_regex(
    rf"(?:input_|experimental_)?{_MEDIA_WORDS}s?(_(url|uri|path|file|file_?name|data|base64|b64|byte|list|input|content)s?)?|files|file_(ids|urls|paths|data)"
)
_FUNCTIONS = {"functions", "function_call", "tools", "tool_choice", "tool_config", "tool_calls"}
_MATERIAL = lazy_regex(
    r"contexts?|retriev(ed|al)_\w+|passages?|knowledge|background|story|personas?|personality|(few_?shot|icl)(_\w+)?"
    r"|(\w+_)?examples|demonstrations|choices|options|endings|(task_)?instruction"
)
"""Texts that belong to the question: what it is about, what to choose from, how to answer."""
_CHOICE = lazy_regex(r"(?:(?:option|choice|op|ending)_?)?([a-h]|[0-9])")
_CHOICES_HINT = "write them into the text of the question, or remove the keys"
_TURN_KEYS = ("checks", "settings", "ask")

_TOOLS_HINT = 'write the dialogue in the canonical format with "tools" and "tool_results", or remove the key'
_THINKING_HINT = 'write {"thinking_budget": 0} (off) or -1 (the model decides) into the "settings" of the dialogue'
_DOCUMENTS_HINT = "write their text into a user message or into the system text, or remove the key"
_MATERIAL_HINT = "write it into a user message or the system text, or remove the key"
_PREFIX_HINT = "a reply that the model is to continue is not replayed: remove the key to keep it as the scripted reply"
_PART_KINDS: Mapping[str, MediaKind] = {
    "image": "image",
    "img": "image",
    "picture": "image",
    "photo": "image",
    "audio": "audio",
    "sound": "audio",
    "speech": "audio",
    "video": "video",
}


def read_side_keys(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    """Read or refuse the keys of a line or request body that change the question, and remove them from it."""
    for key in list(rest):
        if _is_empty(rest[key]):
            continue
        if (media := _media_of(_snake(key), rest[key])) is not None:
            builder.media(*media)
            del rest[key]
        elif _carry(key, rest[key], builder):
            del rest[key]
        elif (hint := _refused(_snake(key), rest[key])) is not None:
            _refuse(key, rest.pop(key), hint, builder)
    choices = {key: rest[key] for key in rest if _CHOICE.fullmatch(_snake(key)) and isinstance(rest[key], str | list)}
    if len(choices) > 1 and not builder.issues:
        names = ", ".join(f'"{key}"' for key in choices)
        what = (
            f"{names} beside the question cannot be imported, and without them the model would be asked something else"
        )
        builder.issue(what, found=choices, hint=_CHOICES_HINT)


def _carry(key: str, value: Any, builder: DialogueBuilder) -> bool:
    """Move a key to its place in the canonical format; False when it has none."""
    name = _snake(key)
    if name in _SYSTEM:
        builder.side_system(key, value)
    elif name in SETTING_KEYS and not (name == "seed" and isinstance(value, str)):
        builder.setting(
            SETTING_KEYS[name], [value] if SETTING_KEYS[name] == "stop" and isinstance(value, str) else value
        )
    elif name in _EXTRA:
        builder.extra(name, value)
    elif name == "extra_body" and isinstance(value, dict):
        for field, content in value.items():
            builder.extra(field, content)
    elif name in ("functions", "tools") and isinstance(value, list | str):
        builder.declare(value)
    elif name == "function_call" and (value in ("auto", "none") or has_name(value)):
        forced = {"type": "function", "function": {"name": value["name"]}} if has_name(value) else value
        builder.extra("tool_choice", forced)
    elif name in ("thinking", "reasoning") and isinstance(value, dict):
        _read_thinking(name, value, builder)
    elif name in _CONTAINERS and _has_settings(value):
        _read_container(key, value, builder)
    else:
        return False
    return True


def has_name(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value is an object with a name only."""
    return isinstance(value, dict) and set(value) == {"name"} and isinstance(value["name"], str)


def read_message_keys(message: Mapping[str, Any], read: Collection[str], builder: DialogueBuilder) -> None:
    """Carry, refuse or name the keys of one message beside those in `read`; call it after the message was added."""
    for key, value in message.items():
        if key in read or _is_empty(value):
            continue
        if key in _TURN_KEYS:
            builder.turn_key(key, value)
        elif key in ("tools", "functions") and role_of(message.get("role", message.get("from"))) == "system":
            builder.declare(value)
        elif (media := _media_of(_snake(key), value)) is not None and builder.message_media(*media):
            continue
        elif key in ("prefix", "partial") and value is True:
            _refuse(key, value, _PREFIX_HINT, builder, place=builder.place)
        elif (hint := _refused(_snake(key), value)) is not None:
            _refuse(key, value, hint, builder, place=builder.place)
        else:
            builder.leave_out(key)


def _media_of(name: str, value: Any) -> tuple[MediaKind, list[dict[str, Any]]] | None:
    """Return the kind and the canonical parts of media under a key; None for anything else."""
    found = _MEDIA.fullmatch(name)
    kind = None if found is None else _PART_KINDS.get(found[1] or "")
    parts = None if kind is None else media_items(kind, value)
    return None if kind is None or parts is None else (kind, parts)


def _refuse(key: str, value: Any, hint: str, builder: DialogueBuilder, *, place: str | None = None) -> None:
    where = "beside the messages" if place is None else "inside a message"
    what = f'"{key}" {where} cannot be imported, and without it the model would be asked something else'
    builder.issue(what, found={key: value}, hint=hint, place=place)


def _refused(name: str, value: Any) -> str | None:
    """Return how to mend a key that changes the question and has no canonical place; None for any other key."""
    if name in _FUNCTIONS:
        return _TOOLS_HINT
    if name in ("thinking", "think", "reasoning") and isinstance(value, bool):
        return _THINKING_HINT
    if name == "continue_final_message" and value is True:
        return _PREFIX_HINT
    if name == "history" and isinstance(value, list):
        return "write the earlier exchanges as messages before the others, or remove the key"
    if _MATERIAL.fullmatch(name) and _is_material(value):
        return _MATERIAL_HINT
    path = _first_path(value)
    if name in ("document", "documents") and not path:
        return _DOCUMENTS_HINT
    if (media := _MEDIA.fullmatch(name)) is None or isinstance(value, bool | int | float):
        return None
    kind = _PART_KINDS.get(media[1] or "", "document")
    part = f'{{"user": [{{"text": "…"}}, {{"{kind}": {display_json(path or "media/FILE")}}}]}}'
    return f"in the canonical format it is a part of its user message: {part}; or remove the key"


def _is_material(value: Any) -> bool:
    """Whether a value is text to read: a text, a list, or an object of texts such as lettered choices."""
    if isinstance(value, dict):
        return all(isinstance(text, str) and len(key) == 1 for key, text in value.items())
    return isinstance(value, str | list)


_FILE_NAME = lazy_regex(r"(?!\w+://)\S.{0,200}\.\w{2,5}")


def _first_path(value: Any) -> str | None:
    """Return the first text of a value that looks like the name of a file."""
    items = value if isinstance(value, list) else [value]
    texts = (item for item in items if isinstance(item, str))
    return next((text for text in texts if _FILE_NAME.fullmatch(text)), None)


def _read_thinking(name: str, value: dict[str, Any], builder: DialogueBuilder) -> None:
    """Read `thinking` of Anthropic's API or `reasoning` of OpenAI's; what has no setting goes to the body unchanged."""
    left = dict(value)
    if name == "reasoning":
        builder.setting("reasoning_effort", left.pop("effort", None))
    elif left.get("type") == "disabled" and len(left) == 1:
        builder.setting("thinking_budget", 0)
        return
    elif left.get("type") == "enabled" and "budget_tokens" in left:
        builder.setting("thinking_budget", left.pop("budget_tokens"))
        del left["type"]
    builder.extra(name, left)


def _has_settings(value: Any) -> TypeGuard[dict[str, Any]]:
    known = {*SETTING_KEYS, *_EXTRA, "thinking"}
    return isinstance(value, dict) and any(_snake(name) in known for name in value)


def _read_container(key: str, settings: dict[str, Any], builder: DialogueBuilder) -> None:
    left = dict(settings)
    read_side_keys(left, builder)
    if left:
        hint = 'convert without it, then write it into "settings": {"extra": {…}} of the canonical dialogue'
        _refuse(key, left, hint, builder)


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", "[]", "{}", [], {})


def _snake(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key.strip()).replace("-", "_").lower()
