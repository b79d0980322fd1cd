"""Types and keys of a dialogue in the canonical format, as forms that pydantic validates.

Importing this module imports pydantic, which is slow: `schema.py` does so for a dialogue that `plain.py` does not
know.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
    with_config,
)
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict  # before Python 3.12 pydantic requires this one instead of typing.TypedDict

_STRICT = ConfigDict(extra="forbid", strict=True)


# A pattern is validated in pydantic's compiled code; a Python function here would take longer than all the rest.
Text = Annotated[str, StringConstraints(pattern=r"\S")]
Finite = Annotated[float, Field(allow_inf_nan=False)]


@with_config(_STRICT)
class PartForm(TypedDict, total=False):
    """One part of a user message; `_part_problem` checks which keys go together."""

    text: str
    image: Text
    audio: Text
    video: Text
    document: Text
    data: Text
    mime_type: Text
    uri: Text
    detail: Text


@with_config(_STRICT)
class SettingsForm(TypedDict, total=False):
    """Generation settings. Bounds refuse only values that no gateway accepts."""

    temperature: Annotated[Finite, Field(ge=0)]
    top_p: Annotated[Finite, Field(ge=0, le=1)]
    top_k: Annotated[int, Field(ge=-1)]
    max_output_tokens: Annotated[int, Field(ge=1)]
    stop: Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1)]
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    thinking_budget: Annotated[int, Field(ge=-1)]
    thinking_level: Text
    reasoning_effort: Text
    include_thoughts: bool
    response_schema: dict[str, Any]
    safety: dict[str, Text]
    logprobs: Annotated[int, Field(ge=0, le=20)]
    service_tier: Text
    cache: Literal["auto", "off", "1h"]
    extra: dict[str, Any]


def _user_kind(value: Any) -> str:
    return "text" if isinstance(value, str) else "parts"


UserForm = Annotated[
    Annotated[Text, Tag("text")] | Annotated[list[PartForm], Field(min_length=1), Tag("parts")],
    Discriminator(_user_kind),
]


@with_config(_STRICT)
class TurnForm(TypedDict):
    """One exchange."""

    user: UserForm
    assistant: NotRequired[Text]
    tool_calls: NotRequired[list[Any]]
    ask: NotRequired[bool]
    checks: NotRequired[list[dict[str, Any]]]
    settings: NotRequired[SettingsForm]


@with_config(_STRICT)
class ToolForm(TypedDict):
    """A function declaration."""

    name: Text
    description: NotRequired[str]
    parameters: NotRequired[dict[str, Any]]


@with_config(_STRICT)
class DialogueForm(TypedDict):
    """One line of a dataset in the canonical form."""

    turns: Annotated[list[TurnForm], Field(min_length=1)]
    id: NotRequired[Text]
    system: NotRequired[Text]
    tags: NotRequired[list[Text]]
    settings: NotRequired[SettingsForm]
    checks: NotRequired[list[dict[str, Any]]]
    tools: NotRequired[list[ToolForm]]
    tool_results: NotRequired[dict[str, Any]]
    max_steps: NotRequired[Annotated[int, Field(ge=1, le=100)]]
    meta: NotRequired[dict[str, Any]]


_ADAPTER: TypeAdapter[DialogueForm] = TypeAdapter(DialogueForm)
_KNOWN: tuple[tuple[type, str], ...] = (
    (DialogueForm, "dialogue"),
    (TurnForm, "turn"),
    (SettingsForm, "settings"),
    (PartForm, "part"),
    (ToolForm, "tool"),
)
KEYS = {name: tuple(form.__annotations__) for form, name in _KNOWN}


def form_schema() -> dict[str, Any]:
    """Return the types and keys of a dialogue as JSON Schema; what other rules add is in `json_schema.py`."""
    return _ADAPTER.json_schema()


def shape_errors(value: Any) -> list[ErrorDetails]:
    """Return all errors of types and keys in a canonical dialogue; empty when there is none."""
    try:
        _ADAPTER.validate_python(value)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []
