"""Dialogues as values, their plain-JSON form, and the effective settings of a turn.

`dataset/` reads and validates files, `protocols/` encodes messages for a gateway. `from_plain` trusts its input: it
reads what `dataset/` has validated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from convbatch.media import kind_named
from convbatch.tools import DEFAULT_MAX_STEPS, ToolCall

Role = Literal["user", "assistant", "tool"]
"""`tool`: the results of the calls of the assistant message before it."""
PartKind = Literal["text", "image", "audio", "video", "document"]
HistoryMode = Literal["live", "script", "last"]
Cache = Literal["auto", "off", "1h"]
MAX_REPEATS = 10_000
"""Per dialogue: with more, a typing error (or a malicious run folder) would keep every reader busy for days."""
MEDIA_KINDS: tuple[PartKind, ...] = ("image", "audio", "video", "document")


class Part(NamedTuple):
    """Part of a message: text, or media by path or by value.

    >>> Part(kind="image", path="cat.png").path
    'cat.png'
    """

    kind: PartKind
    text: str | None = None
    path: str | None = None
    """Relative to the dataset's folder."""
    data: str | None = None
    """Base64, for media in the dataset line itself."""
    mime_type: str | None = None
    uri: str | None = None
    """Of media that the provider fetches itself."""
    size: int | None = None
    """Bytes of the content, where it is known; no part of the part's identity."""
    detail: str | None = None
    """How closely the model looks at a picture (`protocols/media_limits.py`); None: as the provider decides."""


class ToolResult(NamedTuple):
    """A tool call with its scripted result."""

    call: ToolCall
    value: Any
    """The result as JSON, or what went wrong."""
    is_error: bool = False
    media: tuple[Part, ...] = ()
    """Media beside the value."""


class Message(NamedTuple):
    """One message of a history, input of a protocol."""

    role: Role
    parts: tuple[Part, ...]
    raw: Any = None
    """The model's turn exactly as received (`Reply.raw_turn`); replayed instead of `parts` and `calls`."""
    calls: tuple[ToolCall, ...] = ()
    """Scripted tool calls of an assistant message, after its parts."""
    results: tuple[ToolResult, ...] = ()
    """Of a tool message: one for each call before it, in the order of the calls."""

    @property
    def text(self) -> str:
        """All text of the message, joined without a separator."""
        return "".join(part.text or "" for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Generation settings; None means that nothing is sent and the gateway's default applies.

    >>> Settings(temperature=0, max_output_tokens=50).to_plain()
    {'temperature': 0, 'max_output_tokens': 50}
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_output_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    seed: int | None = None
    thinking_budget: int | None = None
    thinking_level: str | None = None
    """How much the model thinks, in the provider's words; another name for `reasoning_effort`."""
    reasoning_effort: str | None = None
    include_thoughts: bool | None = None
    """Whether the reply contains thoughts, or a summary of them."""
    response_schema: Mapping[str, Any] | None = None
    """JSON Schema of the whole reply."""
    safety: Mapping[str, str] | None = None
    """Gemini only: harm category to threshold."""
    logprobs: int | None = None
    """Log probabilities of the reply's tokens, each with so many alternatives (0 to 20)."""
    service_tier: str | None = None
    """The price and speed class, in the provider's words."""
    cache: Cache | None = None
    """Prompt caching: `auto` switches it on, `1h` keeps entries for an hour, `off` switches it off."""
    extra: Mapping[str, Any] | None = None
    """Merged unchanged into the request body; overriding a field that convbatch builds is an error."""

    def under(self, stronger: Settings) -> Settings:
        """Return these settings, overridden by what `stronger` sets; `extra` is merged at every depth."""
        if self is NO_SETTINGS:
            return stronger
        changes = {name: value for name in SETTING_NAMES if (value := getattr(stronger, name)) is not None}
        if not changes:
            return self
        if self.extra and stronger.extra:
            changes["extra"] = _merge(self.extra, stronger.extra)
        return dataclasses.replace(self, **changes)

    def without(self, names: Collection[str]) -> Settings:
        """Return these settings with the named ones not set, also under the same name in `extra`."""
        changes: dict[str, Any] = {name: None for name in names if getattr(self, name) is not None}
        if self.extra and not self.extra.keys().isdisjoint(names):
            left = {key: value for key, value in self.extra.items() if key not in names}
            changes.setdefault("extra", left or None)
        return dataclasses.replace(self, **changes) if changes else self

    def to_plain(self) -> dict[str, Any]:
        """Return the settings that are set, in field order."""
        plain: dict[str, Any] = {}
        for name in SETTING_NAMES:
            value = getattr(self, name)
            if value is not None:
                plain[name] = list(value) if isinstance(value, tuple) else value
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Settings:
        """Build settings from the result of `to_plain`."""
        if not plain:
            return NO_SETTINGS
        values = dict(plain)
        if isinstance(values.get("stop"), list):
            values["stop"] = tuple(values["stop"])
        return cls(**values)


SETTING_NAMES: tuple[str, ...] = tuple(f.name for f in dataclasses.fields(Settings))
NO_SETTINGS = Settings()


def effective_settings(
    *,
    command_line: Settings = NO_SETTINGS,
    turn: Settings = NO_SETTINGS,
    dialogue: Settings = NO_SETTINGS,
    target: Settings = NO_SETTINGS,
    config: Settings = NO_SETTINGS,
    repeat: int = 1,
    unset: Collection[str] = (),
) -> Settings:
    """Return the settings of one turn: command line > turn > dialogue > gateway's model > `[run.settings]`.

    Repeat k sends the effective seed + k - 1, so that repeats differ and a run is reproducible. What is in `unset` is
    never sent, whatever sets it.
    """
    settings = config
    for stronger in (target, dialogue, turn, command_line):
        if stronger is not NO_SETTINGS:
            settings = settings.under(stronger)
    if settings.seed is not None and repeat > 1:
        settings = dataclasses.replace(settings, seed=settings.seed + repeat - 1)
    return settings.without(unset) if unset else settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One user message, with the scripted reply and the checks of the reply.

    >>> Turn(user=(Part(kind="text", text="What is 2 + 2?"),), checks=({"number": 4},)).user_text
    'What is 2 + 2?'
    """

    user: tuple[Part, ...]
    assistant: str | None = None
    """The scripted reply."""
    tool_calls: tuple[tuple[ToolResult, ...], ...] = ()
    """Scripted calls before the scripted reply, step by step, each with its result; calls of one step are parallel."""
    ask: bool = True
    """False: the turn is context only and never requested."""
    checks: tuple[Mapping[str, Any], ...] = ()
    settings: Settings = NO_SETTINGS

    @property
    def user_text(self) -> str:
        """All text of the user message, joined without a separator; media are omitted."""
        return "".join(part.text or "" for part in self.user)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """A script: an optional system text and the turns in order. Turn numbers in output start at 1.

    >>> Dialogue(id="sum", turns=(Turn(user=(Part(kind="text", text="What is 2 + 2?"),)),)).to_plain()
    {'id': 'sum', 'turns': [{'user': 'What is 2 + 2?'}]}
    """

    id: str
    turns: tuple[Turn, ...]
    system: str | None = None
    tags: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    settings: Settings = NO_SETTINGS
    checks: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_results: Mapping[str, Any] = field(default_factory=dict)
    """Function name → scripted result, in the form of the dataset contract."""
    max_steps: int = DEFAULT_MAX_STEPS
    """Most model calls in one turn."""

    def __repr__(self) -> str:
        return f"Dialogue.from_plain({self.to_plain()!r})"

    def asked(self, history: HistoryMode) -> tuple[int, ...]:
        """Return the numbers (from 1) of the turns requested in this history mode: all with `ask`, or only the last."""
        numbers = tuple(n for n, turn in enumerate(self.turns, 1) if turn.ask)
        return numbers[-1:] if history == "last" else numbers

    def to_plain(self) -> dict[str, Any]:
        """Return the canonical JSON form of the dataset contract; absent and default values are omitted."""
        plain: dict[str, Any] = {"id": self.id}
        if self.system is not None:
            plain["system"] = self.system
        if self.tags:
            plain["tags"] = list(self.tags)
        plain["turns"] = [_turn_to_plain(turn) for turn in self.turns]
        if settings := self.settings.to_plain():
            plain["settings"] = settings
        if self.checks:
            plain["checks"] = [dict(check) for check in self.checks]
        if self.tools:
            plain["tools"] = [dict(tool) for tool in self.tools]
        if self.tool_results:
            plain["tool_results"] = dict(self.tool_results)
        if self.max_steps != DEFAULT_MAX_STEPS:
            plain["max_steps"] = self.max_steps
        if self.meta:
            plain["meta"] = dict(self.meta)
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Dialogue:
        """Build a dialogue from the result of `to_plain`; trusts its input."""
        return cls(
            id=plain["id"],
            system=plain.get("system"),
            tags=tuple(plain.get("tags", ())),
            turns=tuple(_turn_from_plain(turn) for turn in plain["turns"]),
            settings=Settings.from_plain(plain.get("settings", {})),
            checks=tuple(plain.get("checks", ())),
            tools=tuple(plain.get("tools", ())),
            tool_results=plain.get("tool_results", {}),
            max_steps=plain.get("max_steps", DEFAULT_MAX_STEPS),
            meta=plain.get("meta", {}),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Another wording of every dialogue: a dimension of a run, beside model and gateway.

    >>> terse = Variant(name="terse", system="Answer in one word.")
    >>> convbatch.run(dataset, models="sim-good@simulator", variants=["none", terse]).targets
    ('sim-good@simulator', 'sim-good@simulator#terse')
    """

    name: str
    system: str | None = None
    """Replaces the system text; `""` removes it, None leaves it."""
    prefix: str = ""
    """Put before the text of every user message."""
    suffix: str = ""
    """Put after it."""
    settings: Settings = NO_SETTINGS
    """Override those of dialogues and turns."""

    def applied_to(self, dialogue: Dialogue) -> Dialogue:
        """Return the dialogue as it is asked in this variant; id, checks, scripts and tools stay."""
        names = [name for name in SETTING_NAMES if getattr(self.settings, name) is not None and name != "extra"]
        turns = tuple(
            dataclasses.replace(
                turn,
                user=self._worded(turn.user),
                settings=turn.settings.without(names).under(Settings(extra=self.settings.extra))
                if turn.settings is not NO_SETTINGS
                else turn.settings,
            )
            for turn in dialogue.turns
        )
        return dataclasses.replace(
            dialogue,
            turns=turns,
            system=dialogue.system if self.system is None else self.system or None,
            settings=dialogue.settings.under(self.settings),
        )

    def _worded(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        """Put prefix and suffix into the first and the last text, or around media."""
        if not self.prefix and not self.suffix:
            return parts
        texts = [place for place, part in enumerate(parts) if part.kind == "text"]
        if not texts:
            before, after = (tuple(text_part(text) for text in (one,) if text) for one in (self.prefix, self.suffix))
            return (*before, *parts, *after)
        worded = list(parts)
        worded[texts[0]] = text_part(self.prefix + (worded[texts[0]].text or ""))
        worded[texts[-1]] = text_part((worded[texts[-1]].text or "") + self.suffix)
        return tuple(worded)

    @property
    def changes(self) -> tuple[str, ...]:
        """Names of what it changes: `system`, `prefix`, `suffix`, and settings."""
        return tuple(key for key in self.to_plain() if key not in ("name", "settings")) + tuple(
            self.settings.to_plain()
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the JSON form; what the variant does not change is omitted."""
        plain: dict[str, Any] = {"name": self.name}
        if self.system is not None:
            plain["system"] = self.system
        plain |= {key: text for key in ("prefix", "suffix") if (text := getattr(self, key))}
        if settings := self.settings.to_plain():
            plain["settings"] = settings
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Variant:
        """Build a variant from the result of `to_plain`; trusts its input."""
        texts = {key: text for key, text in plain.items() if key != "settings"}
        return cls(**texts, settings=Settings.from_plain(plain.get("settings", {})))


NO_VARIANT = "none"
"""Names the dialogues as they are, where variants are listed."""


def _merge(weaker: Mapping[str, Any], stronger: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(weaker)
    for key, value in stronger.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = _merge(below, value)
        merged[key] = value
    return merged


def scripted_messages(turn: Turn, history: HistoryMode, *, is_asked: bool) -> tuple[list[Message], list[Message]]:
    """Return the scripted messages of a turn that go before its request, and those that go behind it.

    A recorded request can end in results of tools: `last` sends such a turn with them, and asks what comes next.
    """
    calls = [
        message
        for results in turn.tool_calls
        for message in (
            Message(role="assistant", parts=(), calls=tuple(result.call for result in results)),
            Message(role="tool", parts=(), results=results),
        )
    ]
    if turn.assistant is None:
        return (calls, []) if is_asked and history == "last" else ([], [])
    reply = Message(role="assistant", parts=(text_part(turn.assistant),))
    return [], [] if is_asked and history == "live" else [*calls, reply]


def text_part(text: str) -> Part:
    """Return a text part."""
    return Part(kind="text", text=text)


def _turn_to_plain(turn: Turn) -> dict[str, Any]:
    only_text = len(turn.user) == 1 and turn.user[0].kind == "text"
    plain: dict[str, Any] = {"user": turn.user[0].text if only_text else [part_to_plain(part) for part in turn.user]}
    if turn.assistant is not None:
        plain["assistant"] = turn.assistant
    if turn.tool_calls:
        plain["tool_calls"] = [[_result_to_plain(result) for result in step] for step in turn.tool_calls]
    if not turn.ask:
        plain["ask"] = False
    if turn.checks:
        plain["checks"] = [dict(check) for check in turn.checks]
    if settings := turn.settings.to_plain():
        plain["settings"] = settings
    return plain


def _turn_from_plain(plain: Mapping[str, Any]) -> Turn:
    user = plain["user"]
    if len(plain) == 1 and isinstance(user, str):
        return Turn(user=(text_part(user),))
    parts = (text_part(user),) if isinstance(user, str) else tuple(part_from_plain(part) for part in user)
    return Turn(
        user=parts,
        assistant=plain.get("assistant"),
        tool_calls=_steps_from_plain(plain.get("tool_calls", ())),
        ask=plain.get("ask", True),
        checks=tuple(plain.get("checks", ())),
        settings=Settings.from_plain(plain.get("settings", {})),
    )


def part_to_plain(part: Part) -> dict[str, Any]:
    """Return the form of the dataset contract."""
    if part.kind == "text":
        return {"text": part.text}
    detail = {} if part.detail is None else {"detail": part.detail}
    if part.data is not None:
        return {"data": part.data, "mime_type": part.mime_type, **detail}
    if part.uri is not None:
        return {"uri": part.uri, "mime_type": part.mime_type, **detail}
    return {part.kind: part.path, **detail}


def _result_to_plain(result: ToolResult) -> dict[str, Any]:
    call = result.call
    plain: dict[str, Any] = {} if call.id is None else {"id": call.id}
    plain |= {"name": call.name, "arguments": call.arguments, "error" if result.is_error else "result": result.value}
    if result.media:
        plain["media"] = [part_to_plain(part) for part in result.media]
    return plain


def _result_from_plain(plain: Mapping[str, Any]) -> ToolResult:
    return ToolResult(
        call=ToolCall(plain.get("id"), plain["name"], plain.get("arguments", {})),
        value=plain.get("error", plain.get("result")),
        is_error="error" in plain,
        media=media_from_plain(plain.get("media", ())),
    )


def _steps_from_plain(plain: Sequence[Any]) -> tuple[tuple[ToolResult, ...], ...]:
    """Read scripted tool calls: a list of steps, or the calls of the only step."""
    steps = plain if plain and isinstance(plain[0], list) else [plain]
    return tuple(tuple(_result_from_plain(call) for call in step) for step in steps if step)


def media_from_plain(plain: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    """Return the media of a tool result."""
    return tuple(part_from_plain(part) for part in plain)


def part_from_plain(plain: Mapping[str, Any]) -> Part:
    """Build a part from its form in a dataset; trusts its input."""
    if "text" in plain:
        return text_part(plain["text"])
    if "data" in plain or "uri" in plain:
        mime_type: str = plain["mime_type"]
        return Part(
            kind=kind_named(mime_type),
            data=plain.get("data"),
            mime_type=mime_type,
            uri=plain.get("uri"),
            detail=plain.get("detail"),
        )
    named: list[PartKind] = [kind for kind in MEDIA_KINDS if kind in plain]
    return Part(kind=named[0], path=plain[named[0]], detail=plain.get("detail"))
