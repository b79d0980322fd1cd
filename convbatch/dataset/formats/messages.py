"""What several formats share: lists of messages under other names, pairs of question and reply, reference answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convbatch.dataset.formats import openai
from convbatch.dataset.formats.builder import ROLES, DialogueBuilder
from convbatch.dataset.side_keys import read_message_keys, read_side_keys

CONVERSATION_KEYS = (
    "history",
    "conversation",
    "conversations",
    "conv",
    "dialog",
    "dialogue",
    "dialogs",
    "dialogues",
)
"""Names, in any case, of a list of messages or of pairs."""
_ROLE_KEYS = ("role", "from", "speaker", "author")
_TEXT_KEYS = ("content", "value", "utterance", "text", "message")
_USER_KEYS = ("user", "human", "usr", "question", "query", "q", "prompt", "input", "instruction")
_REPLY_KEYS = ("bot", "assistant", "sys", "system", "answer", "response", "gpt", "model", "ai", "a", "output")
TARGETS = ("target", "ideal", "expected", "output")
"""Keys of the expected answer to `input`."""
_SPEAKERS = {"usr": "user", "customer": "user", "sys": "assistant", "bot": "assistant", "ai": "assistant"}


def find_key(line: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the first key that is one of the names in any case."""
    return next((key for key in line if key.casefold() in names), None)


def is_messages(value: Any) -> bool:
    """Whether a value is a list of messages with a role or speaker and a text."""
    return isinstance(value, list) and bool(value) and _key_of(value[0], _ROLE_KEYS) and _key_of(value[0], _TEXT_KEYS)


def is_pairs(value: Any) -> bool:
    """Whether a value is a list of pairs: objects of a question and a reply, or lists of two texts."""
    if not isinstance(value, list) or not value:
        return False
    first = value[0]
    if isinstance(first, list):
        return len(first) == 2 and all(isinstance(text, str) for text in first)
    return (
        not _key_of(first, _ROLE_KEYS)
        and _key_of(first, _USER_KEYS)
        and (len(first) == 1 or _key_of(first, _REPLY_KEYS))
    )


def has_question_turns(line: Mapping[str, Any]) -> bool:
    """Whether `turns` are pairs such as `{"question", "answer"}` instead of canonical turns."""
    turns: Any = line.get("turns")
    return is_pairs(turns) and _key_of(turns[0], ("question", "query", "human", "prompt")) and "user" not in turns[0]


def _key_of(value: Any, names: Sequence[str]) -> bool:
    return isinstance(value, dict) and find_key(value, names) is not None


def read_messages(messages: Any, builder: DialogueBuilder, **beside: Any) -> None:
    """Read messages as those of OpenAI; roles, speakers and texts may have other names, and any case.

    Args:
        messages: The list; anything else is an issue.
        builder: Receives the dialogue.
        **beside: Keys of an OpenAI request, such as `tools`; null ones are ignored.
    """
    if isinstance(messages, list):
        messages = [_renamed(message) if isinstance(message, dict) else message for message in messages]
    body = {"messages": messages, **{key: value for key, value in beside.items() if value is not None}}
    openai.read(body, builder)
    read_side_keys(body, builder)
    builder.keep(body)


def _renamed(message: Mapping[str, Any]) -> dict[str, Any]:
    plain = dict(message)
    speaker, text = find_key(message, _ROLE_KEYS), find_key(message, _TEXT_KEYS)
    if speaker is not None:
        name = plain.pop(speaker)
        plain["role"] = _role(name, is_speaker=speaker.casefold() in ("speaker", "author"))
    if text is not None and "content" not in plain:
        plain["content"] = plain.pop(text)
    return plain


def _role(name: Any, *, is_speaker: bool) -> Any:
    if not isinstance(name, str):
        return name
    small = name.strip().casefold()
    if is_speaker and small == "system":
        return "assistant"  # the system that the user speaks with
    return _SPEAKERS.get(small, small if small in ROLES else name)


def read_pairs(pairs: Any, builder: DialogueBuilder) -> None:
    """Read pairs of a question and its reply."""
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if isinstance(pair, list) and len(pair) == 2:
            read_exchange(pair[0], pair[1], builder)
        elif isinstance(pair, dict) and (asked := find_key(pair, _USER_KEYS)) is not None:
            replied = find_key(pair, _REPLY_KEYS)
            read_exchange(pair[asked], None if replied is None else pair[replied], builder)
            read_message_keys(pair, (asked, replied or asked), builder)
        else:
            builder.issue(
                "a pair of another form",
                place=builder.next_place,
                found=pair,
                hint='{"user": "…", "bot": "…"} or ["question", "reply"]',
            )


def read_exchange(question: Any, reply: Any, builder: DialogueBuilder) -> None:
    """Read a user message and its recorded reply; None: no reply."""
    builder.user(question)
    text = as_text(reply)
    if text is not None:
        builder.reply(text)
    elif reply is not None:
        builder.issue("a reply without text", place=builder.place, found=reply, hint='a string: "…"')
        builder.reply("")
    else:
        builder.reply("")


def as_text(value: Any) -> str | None:
    """Return a text or number as text; a list of one of them as that one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def tag_with(rest: dict[str, Any], names: Sequence[str], builder: DialogueBuilder) -> None:
    """Move the keys that group a benchmark's dialogues, such as `category`, to the tags."""
    for key in [key for key in rest if key.casefold() in names]:
        if isinstance(rest[key], str):
            builder.tag(rest.pop(key))
