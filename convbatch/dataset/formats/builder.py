"""What all dataset formats share: the row that describes a format, and the builder of a canonical dialogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeGuard

from convbatch.dataset.jsonl import display_json
from convbatch.dataset.recorded_calls import RecordedResult, RecordedSteps, read_calls, read_declarations
from convbatch.dataset.side_media import place_media
from convbatch.errors import Issue, did_you_mean
from convbatch.media import MediaKind


@dataclass(slots=True)
class Imported:
    """A dialogue in the canonical format, or the issues that prevent its conversion."""

    plain: dict[str, Any]
    issues: list[Issue] = field(default_factory=list)
    kept: tuple[str, ...] = ()
    """Keys that are in `meta` because they have no other place."""
    left_out: tuple[str, ...] = ()
    """Keys of single messages that are dropped."""


class DatasetFormat(NamedTuple):
    """A format of dataset lines; everything that detection, `--from` and the reader need to know about it."""

    name: str
    """The name for `--from`."""
    label: str
    """The name in messages, with the key that identifies the format."""
    markers: tuple[str, ...]
    """Keys that identify the format, the most common first; used for suggestions."""
    id_keys: tuple[str, ...]
    """Keys that may hold the id of a line, in order of precedence."""
    detect: Callable[[Mapping[str, Any]], bool]
    """Whether a line has this format."""
    read: Callable[[dict[str, Any], DialogueBuilder], None] | None
    """Moves a line into a builder and removes the keys it has read; the rest is kept in `meta`. None: the canonical
    format, which is used as it is."""
    rank: int = 100
    """When several formats match a line, the lowest rank applies."""


class DialogueBuilder:
    """Builds a canonical dialogue message by message and collects issues."""

    def __init__(self, *, reference: bool = False) -> None:
        self.reference = reference
        """Whether reference answers become scripted replies; otherwise they stay in `meta`."""
        self.plain: dict[str, Any] = {}
        self.issues: list[Issue] = []
        self._turns: list[dict[str, Any]] = []
        self._last: Literal["user", "assistant", "calls", "results", "unknown"] | None = None
        self._steps = RecordedSteps()
        self._left_out: dict[str, None] = {}
        self._settings: dict[str, Any] = {}
        self._extra: dict[str, Any] = {}
        self._meta: dict[str, Any] = {}
        self._media: dict[MediaKind, list[dict[str, Any]]] = {}

    @property
    def place(self) -> str:
        """The current turn, for messages."""
        return f"turn {max(1, len(self._turns))}"

    @property
    def next_place(self) -> str:
        """The turn that the next user message starts, for messages."""
        return f"turn {len(self._turns) + 1}"

    def issue(self, what: str, *, found: Any, hint: str, place: str | None = None) -> None:
        """Add an issue; `found` is printed as JSON."""
        self.issues.append(Issue(what=what, field=place, found=display_json(found), hint=hint))

    def system(self, text: Any) -> None:
        """Set the system text; allowed once, before the first turn."""
        if text is None or text == "":
            return
        read = plain_text(text)
        if read is None:
            self.issue("the system text is not text", found=text, hint=_SYSTEM_HINT)
        elif self._turns:
            self.issue(
                "a system message after the first turn",
                place=self.place,
                found=text,
                hint="a dialogue has one system text, at its start: move it there, or into a user message",
            )
        else:
            self._set_system(read)

    def side_system(self, key: str, value: Any) -> None:
        """Set the system text from a key beside the messages, at any time."""
        text = plain_text(value)
        if text is None:
            self.issue(f'"{key}" is no system text', found={key: value}, hint=_SYSTEM_HINT)
        else:
            self._set_system(text)

    def _set_system(self, text: str) -> None:
        if self.plain.get("system", text) != text:
            self.issue("two system messages", found=text, hint="join them into one")
        elif text.strip():
            self.plain["system"] = text

    def user(self, content: Any) -> None:
        """Add a user message: text, or canonical parts."""
        self._end_steps()
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
        """Add a recorded reply; a blank one is ignored."""
        self._require_results()
        if self._last is None:
            self.issue(
                "a reply before the first user turn",
                place="turn 1",
                found=text,
                hint="a dialogue starts with a user message: remove the reply, or put the missing message before it",
            )
        elif self._last == "assistant":
            self.issue("two replies in a row", place=self.place, found=text, hint="join them into one")
        elif text.strip() and self._turns:
            self._turns[-1]["assistant"] = text
        self._last = "assistant"

    def calls(self, value: Any) -> None:
        """Add the calls of one message of the model, in any form that `read_calls` takes."""
        calls = read_calls(value)
        if isinstance(calls, Issue):
            self.issues.append(replace(calls, field=self.place))
            self._last = "unknown"
        elif self._last is None:
            hint = "a dialogue starts with a user message: put the missing message before the call"
            self.issue("a tool call before the first user turn", place="turn 1", found=value, hint=hint)
            self._last = "unknown"
        elif calls and self._turns:
            if self._last == "calls":
                self._steps.add_parallel(calls)
            else:
                self._require_results()
                if self._turns[-1].pop("assistant", None) is not None:
                    self.leave_out("text beside tool calls")
                self._steps.add_step(calls)
            self._last = "calls"

    def call_result(self, result: RecordedResult) -> None:
        """Add the result of a call."""
        if self._last == "unknown":
            return  # its call was refused
        if self._last not in ("calls", "results") or not self._steps.answer(result):
            hint = "each result follows the call it answers, with the same id or the same name"
            self.issue("a tool result without its call", place=self.place, found=result.value, hint=hint)
            self._last = "unknown"
            return
        self._last = "results"

    @property
    def waiting_calls(self) -> int:
        """How many calls of the last step have no result."""
        return len(self._steps.waiting)

    def _require_results(self) -> None:
        for call in self._steps.waiting if self._last in ("calls", "results") else ():
            hint = "a model's call is sent back with its result: add the result, or remove the call"
            self.issue("a tool call without its result", place=self.place, found=call, hint=hint)

    def _end_steps(self) -> None:
        self._require_results()
        if self._turns and (steps := self._steps.take_turn()):
            self._turns[-1]["tool_calls"] = steps

    def declare(self, tools: Any) -> None:
        """Add function declarations in any form that `read_declarations` takes."""
        if tools in (None, "", "[]", [], {}):
            return
        read = read_declarations(tools)
        if isinstance(read, Issue):
            self.issues.append(read)
            return
        known = self.plain.setdefault("tools", [])
        known += [tool for tool in read.tools if tool not in known]
        for key in read.left_out:
            self.leave_out(key)

    def refused(self, role: Literal["user", "assistant", "unknown"]) -> None:
        """Count a message that was refused: it was there, so what follows it is not out of order."""
        self._last = "unknown" if role == "user" else role

    def turn_key(self, key: str, value: Any) -> None:
        """Set a key of the current turn, such as the checks in one of its messages."""
        if not self._turns:
            hint = "put it into a user message or a reply"
            self.issue(f'"{key}" in a message before the first turn', found={key: value}, hint=hint)
            return
        turn = self._turns[-1]
        if isinstance(turn.get(key), list) and isinstance(value, list):
            turn[key] = [*turn[key], *value]
        elif turn.get(key, value) == value:
            turn[key] = value
        else:
            hint = "write it once, in the user message"
            self.issue(f'"{key}" twice in one turn', place=self.place, found={key: value}, hint=hint)

    def media(self, kind: MediaKind, parts: Sequence[dict[str, Any]]) -> None:
        """Add media that stand beside the messages."""
        self._media.setdefault(kind, []).extend(parts)

    def message_media(self, kind: MediaKind, parts: Sequence[dict[str, Any]]) -> bool:
        """Add media that stand beside the text of the last message; False if it is not the user's."""
        if self._last != "user":
            return False
        self.issues += [replace(issue, field=self.place) for issue in place_media(self._turns[-1:], {kind: parts})]
        return True

    def leave_out(self, key: str) -> None:
        """Record a key of a message that is not imported."""
        self._left_out[key] = None

    def unsupported(self, role: str, message: Any, *, hint: str | None = None) -> None:
        """Report an unknown role; `hint` replaces the list of known roles."""
        self.refused("unknown")
        self.issue(
            f"unknown role {display_json(role)}",
            place=self.place,
            found=message,
            hint=hint or did_you_mean(str(role), [*ROLES, *CALL_ROLES, *RESULT_ROLES]),
        )

    def refuse_part(self, part: Any, place: str) -> None:
        """Report a part of a message that has no canonical form."""
        self.issue(
            "a part that cannot be imported",
            place=place,
            found=part,
            hint="text and inline base64 data can; save remote files beside the dataset and use the canonical format",
        )

    def setting(self, name: str, value: Any) -> None:
        """Set a generation setting by its canonical name; null means not set."""
        if value is None or value == []:
            return
        if name in _WHOLE and isinstance(value, float) and value.is_integer():
            value = int(value)
        known = self._settings.setdefault(name, value)
        if known != value:
            hint = f'the canonical setting "{name}" has one value: keep one of the keys'
            self.issue(f'two values of "{name}"', found=[known, value], hint=hint)

    def extra(self, name: str, value: Any) -> None:
        """Keep a field of a request body that has no equivalent setting."""
        if any(value == default and type(value) is type(default) for default in _DEFAULTS.get(name, ())):
            return
        if value is not None and (value != {} or name == "web_search_options"):  # empty, it turns the search on
            self._extra[name] = value

    def keep(self, rest: Mapping[str, Any]) -> None:
        """Keep the keys that were not read: tags as tags, the rest in `meta`."""
        for key, value in rest.items():
            if key == "tags" and isinstance(value, list) and all(isinstance(tag, str) for tag in value):
                self.tag(*value)
            elif key == "meta" and isinstance(value, dict):
                self._meta.update(value)
            else:
                self._meta[key] = value

    def tag(self, *tags: str) -> None:
        """Add tags, without duplicates and blank ones."""
        known = self.plain.setdefault("tags", [])
        known += [tag for tag in tags if tag not in known and tag.strip()]

    def result(self) -> Imported:
        """Return the dialogue and its issues."""
        if self._last == "calls" and (unanswered := self._steps.take_unanswered()):
            self._meta["tool_calls"] = unanswered  # the recorded answer of the last turn, as a last text would be
        self._end_steps()
        if results := self._steps.results(tool["name"] for tool in self.plain.get("tools", ())):
            self.plain["tool_results"] = results
        if self._extra:
            self._settings["extra"] = self._extra
        if self._media and self._turns:
            self.issues += place_media(self._turns, self._media)
        self.plain["turns"] = self._turns
        if not self._turns and not self.issues:
            self.issue("no user turn", found=[], hint="a dialogue has at least one user message")
        for key, value in (("settings", self._settings), ("meta", self._meta)):
            if value:
                self.plain[key] = value
        if not self.plain.get("tags", True):
            del self.plain["tags"]
        kept = tuple(key for key, value in self._meta.items() if value not in (None, "", [], {}))
        return Imported(self.plain, self.issues, kept, tuple(self._left_out))


_WHOLE = ("top_k", "max_output_tokens", "seed", "thinking_budget")
ROLES: Mapping[str, Literal["user", "assistant", "system"]] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}
CALL_ROLES = ("function_call", "tool_call", "tool_calls")
"""Roles of messages that hold one call, or a list of them, as JSON."""
RESULT_ROLES = ("tool", "function", "function_response", "observation", "tool_response", "tool_result", "ipython")
_DEFAULTS = {
    "tool_choice": ("auto", {"type": "auto"}),
    "parallel_tool_calls": (True,),
    "toolConfig": ({"functionCallingConfig": {"mode": "AUTO"}},),
}
"""Fields that are not sent with the value that every provider takes without them."""


_SYSTEM_HINT = 'text: a string, or a list of texts or {"type": "text", "text": "…"}'


def plain_text(value: Any) -> str | None:
    """Return a text that is written as a string, a text part, a message of them, or a list of these; else None."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = [plain_text(item) for item in value]
        return "\n".join(text for text in texts if text is not None) if texts and None not in texts else None
    if isinstance(value, dict) and value.get("type", "text") in ("text", "input_text", "message"):
        keys = [key for key in ("text", "content", "parts", "value") if key in value]
        return plain_text(value[keys[0]]) if len(keys) == 1 else None
    return None


def role_of(role: Any) -> Literal["user", "assistant", "system"] | None:
    """Return what a role or speaker of a message means; None when it is unknown or no text."""
    return ROLES.get(role.strip().lower()) if isinstance(role, str) else None


def has_key(value: Any, key: str) -> TypeGuard[dict[str, Any]]:
    """Whether a value is an object with this key."""
    return isinstance(value, dict) and key in value


def take_list(rest: dict[str, Any], key: str, builder: DialogueBuilder) -> list[Any]:
    """Remove a key from a line and return its list of messages; report any other value and return an empty list."""
    value = rest.pop(key)
    if isinstance(value, list):
        return value
    builder.issue(f'"{key}" must be a list of messages', found=value, hint=f'"{key}": [{{…}}, {{…}}]')
    return []


def recorded_schema(wanted: Mapping[str, Any]) -> Any:
    """Return the schema of a recorded request as `response_schema`; OpenAI is strict only where the request says so."""
    schema = wanted["schema"]
    return schema if wanted.get("strict") is True or not isinstance(schema, dict) else {**schema, "strict": False}
