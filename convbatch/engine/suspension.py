"""Why a target is suspended, as text: what the gateway refuses, and what to change.

A refusal of the address names `base_url` and the path that was asked, one of the model its name, and one of a setting
the key of the config that avoids it. When a target is suspended is `retry.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from convbatch.lazy_regex import lazy_regex
from convbatch.protocols.error_bodies import protocol_of_error
from convbatch.protocols.wire import MalformedReply, decode_json
from convbatch.reply import ErrorKind, Failure

_EXCERPT_CHARS = 160
NEW_RUN = "start a new run"
"""In the reason of a suspension that `resume` cannot end: address and settings of a run cannot be changed."""
_NEW_RUN = f"then {NEW_RUN} with --reuse of this one"
_RESUME = "then resume"


class Address(NamedTuple):
    """Where the requests of a target go."""

    base_url: str
    path: str


def suspension(failure: Failure, http_status: int | None, address: Address | None, body: bytes | None = None) -> str:
    """Return the reason for suspending a target that gave this refusal, and the remedy.

    Args:
        failure: The refusal.
        http_status: Of the response; None without one.
        address: Where the target's requests go.
        body: Of the response, whose shape may be that of another protocol.
    """
    if (protocol := other_protocol(failure.message)) is not None:
        return _line(failure, "the model is served on another path", f"{protocol}, {_NEW_RUN}")
    if http_status == 407:
        return _line(failure, "the proxy refuses its user", f"correct it in HTTP_PROXY or `proxy`, {_RESUME}")
    if failure.no_model:
        is_path = failure.kind == "not_found"
        what = "the gateway has no such path" if is_path else "no model is asked at this address"
        return _line(failure, what, f"{correct_address(address, body)}, {_NEW_RUN}")
    if failure.kind == "not_found" and http_status in (404, 405) and not _NAMES_A_MODEL.search(failure.message):
        remedy = f"{correct_address(address, body)}, or the name of the model, {_NEW_RUN}"
        return _line(failure, "the gateway has no such path or no such model", remedy)
    if failure.kind in _REMEDY:
        return _line(failure, *_REMEDY[failure.kind])
    remedy = way_out(failure.message) or f"change what it names and {NEW_RUN}, or resume once it is accepted"
    return _line(failure, "the gateway refuses every request in the same way", remedy)


def untrusted(failure: Failure) -> str:
    """Return the reason for suspending a target whose certificate was refused, and the remedy."""
    remedy = f"set ca_file for an authority of your own, or correct the host of base_url, and {NEW_RUN}"
    what = "the certificate of the gateway cannot be trusted"
    return _line(failure, what, f"{remedy}; else resume once its certificate is renewed")


def other_protocol(message: str) -> str | None:
    """Return the protocol that a refusal names for the model, as a change of the config; None if it names none."""
    if _ONLY_RESPONSES.search(message):
        return 'use a gateway with protocol = "responses" (-g openai-responses, -g dmxapi-responses)'
    return (
        'use a gateway with protocol = "openai" (-g openai, -g dmxapi-openai)' if _ONLY_CHAT.search(message) else None
    )


def excerpt(failure: Failure) -> str:
    """Return the start of a failure's message as one line."""
    text = " ".join(failure.message.split())
    return text if len(text) <= _EXCERPT_CHARS else text[: _EXCERPT_CHARS - 1] + "…"


def _line(failure: Failure, what: str, remedy: str) -> str:
    return f"{what} ({excerpt(failure)}): {remedy}"


def correct_address(address: Address | None, body: bytes | None = None) -> str:
    """Return what to correct where no model is asked at an address: its end, or the protocol."""
    if address is None:
        return "correct base_url"
    end = _other_errors(address, body) or _usual_end(address)
    return f"correct base_url ({address.base_url}; {address.path} was asked{end})"


def _other_errors(address: Address, body: bytes | None) -> str:
    """Return the protocol that the form of an error names, where it is not the one that was asked."""
    try:
        found = protocol_of_error(decode_json(body or b""))
    except MalformedReply:
        return ""
    asked = next((name for name, path in _PATHS.items() if path.search(address.path)), None)
    if found == asked == "openai" and address.path.endswith("/v1/chat/completions"):
        return "" if _DOUBLED.search(address.path) else '; if it has Responses only: protocol = "responses"'
    if found is None or asked is None or found == asked:
        return ""
    also = ' or "responses"' if found == "openai" else ""
    return f'; the error has the form of another protocol: protocol = "{found}"{also}?'


_RESPONSES = r"[`'\"/]*(?:v1/)?responses\b|Responses API"
_CHAT = r"[`'\"/]*(?:v1/)?chat[/ ]completions?\b"
_ONLY_RESPONSES = lazy_regex(
    # OpenAI's own texts, and those of gateways; the last is older than Responses and still sent for its models
    rf"only (?:be )?(?:supported|available|used|accessible) (?:in|on|at|via|through|with) (?:the )?(?:{_RESPONSES})"
    rf"|(?:please )?use (?:the )?(?:{_RESPONSES})|did you mean to use (?:{_RESPONSES})"
    rf"|requires? (?:the )?(?:{_RESPONSES})|not a chat model and thus not supported in the {_CHAT}",
    re.IGNORECASE,
)
_ONLY_CHAT = lazy_regex(
    rf"only (?:be )?(?:supported|available|used|accessible) (?:in|on|at|via|through|with) (?:the )?{_CHAT}"
    rf"|(?:not supported|cannot be used|not available|unsupported) (?:in|on|at|by|with|via) (?:the )?(?:{_RESPONSES})",
    re.IGNORECASE,
)
_PATHS = {
    "anthropic": lazy_regex(r"/messages$"),
    "gemini": lazy_regex(r":(?:stream)?[gG]enerateContent$"),
    "openai": lazy_regex(r"/(?:chat/completions|responses)$"),  # both have the same errors
}
_OPENAI_PATH = lazy_regex(r"/(?:chat/completions|responses)$")
_DOUBLED = lazy_regex(r"(/v\d\w*|/openai|/messages|/chat/completions)(?=.*\1(?:/|$))")


def _usual_end(address: Address) -> str:
    """Return how the base URL of such a path usually ends, where this one does not."""
    doubled = _DOUBLED.search(address.path)
    if doubled is not None:
        return f", which has {doubled[1]} twice: end base_url before it"
    if address.path.endswith("/v1/messages"):
        return '; if it has chat completions only: protocol = "openai" and a base_url that ends in /v1'
    if not _OPENAI_PATH.search(address.path):
        return ""
    if not re.search(r"/v\d", address.path):
        return "; base_url usually ends in /v1"
    return '; if it has chat completions only: protocol = "openai"' if address.path.endswith("/responses") else ""


_REMEDY: Mapping[ErrorKind, tuple[str, str]] = {
    "quota": ("quota or balance is used up", "top up or wait for the reset, then resume"),
    "auth": ("the key is refused", f"check that the key belongs to this gateway, {_RESUME}"),
    "permission": ("permission is denied", f"check the permissions of the key, {_RESUME}"),
    "not_found": (
        "there is no such model, or no channel for it",
        f"compare the name with the gateway's list (`convbatch doctor -g`), {_RESUME}",
    ),
}
_NAMES_A_MODEL = lazy_regex(r"model|模型|channel|渠道|deployment|engine", re.IGNORECASE)
_SETTINGS = lazy_regex(
    r"(?P<temperature>temperature)|(?P<top_p>\btop_?p\b)|(?P<top_k>\btop_?k\b)|(?P<seed>\bseed\b)"
    r"|(?P<max_output_tokens>max_?(?:completion|output|new)?_?tokens)|(?P<stop>[\"'`]stop[\"'`]|stop_?sequences?)"
    r"|(?P<reasoning_effort>reasoning[._]effort)|(?P<thinking_budget>thinking_?budget)"
    r"|(?P<thinking_level>thinking_?level)|(?P<response_schema>response_?(?:format|schema)|json_schema)"
    r"|(?P<safety>safety_?settings?)",
    re.IGNORECASE,
)
_WAYS_OUT = tuple(
    (lazy_regex(pattern, re.IGNORECASE | re.DOTALL), change)
    for pattern, change in (
        (
            "enable_thinking",
            "use --stream if it thinks only in streams, or set enable_thinking in the settings "
            "(extra = {enable_thinking = false})",
        ),
        (
            r"(?:only|must|need).{0,30}\bstream|\bstream(?:ing)?\b.{0,30}(?:only|must|required)|enable the stream"
            r"|not support.{0,20}non-?stream|non-?stream.{0,40}not (?:be )?(?:support|allow)"
            r"|[仅只]支持流式|不支持非流式",
            "it answers only streamed requests: use --stream, or set stream = true for this model",
        ),
        (
            r"\bstream(?:ing|_options)?\b.{0,60}(?:not |un)(?:supported|allowed|permitted|available|enabled|recogni)"
            r"|(?:not support|unrecogni[sz]ed|unknown|unexpected).{0,60}\bstream(?:ing|_options)?\b|不支持流式",
            "it takes no streamed requests: leave out --stream, and stream = true in the config",
        ),
        (
            r"reasoning_content|reasoning_details|thought[ _]?signature|thinking block|encrypted_content",
            'set replay = "content" for this model',
        ),
        ("max_tokens.*max_completion_tokens", 'set max_output_tokens_field = "max_completion_tokens" for this model'),
    )
)
"""What a refusal says → the change of the config that avoids it; the first that fits."""
_ROLES = lazy_regex(
    r"\bsystem[ _-]?(?:role|message|instruction|prompt)|(?:role|['\"`])\W{0,3}(?:system|developer)\b"
    r"|developer (?:role|message|instruction)|roles? must alternate|only .{0,40}\broles? (?:are|is) supported|系统角色",
    re.IGNORECASE,
)


def way_out(message: str) -> str | None:
    """Return the change that avoids a refusal of a setting, a role or a replayed field; None if unknown."""
    for pattern, change in _WAYS_OUT:
        if pattern.search(message):
            return f"{change}, {_NEW_RUN}"
    setting = _SETTINGS.search(message)
    if setting is not None:
        name = setting.lastgroup
        return f'change {name}, or set unset = ["{name}"] for this model, {_NEW_RUN}'
    if _ROLES.search(message):
        return f'set system_role = "user" for this model, or remove the system text, {_NEW_RUN}'
    return None
