"""The wire, the operation and the key of a request, from its method, path and headers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from convbatch.simulator.anthropic import ANTHROPIC
from convbatch.simulator.batches.paths import job_route
from convbatch.simulator.gemini import GEMINI
from convbatch.simulator.openai import OPENAI
from convbatch.simulator.responses import RESPONSES
from convbatch.simulator.wire import Form, Route, Wire

WIRES: Mapping[str, Wire] = {wire.name: wire for wire in (GEMINI, OPENAI, RESPONSES, ANTHROPIC)}
_GEMINI_PATH = re.compile(r"/(v1|v1beta)/models(?:/([^/:]+)(?::([A-Za-z]+))?)?")


def route(method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Route | None:
    """Return the wire and operation of a request; None for a path that is not served."""
    if path == "/v1/chat/completions":
        return Route(wire=OPENAI, operation="generate") if method == "POST" else None
    if path == "/v1/responses":
        return Route(wire=RESPONSES, operation="generate") if method == "POST" else None
    if path == "/v1/messages":
        version = headers.get("anthropic-version", "")
        return Route(wire=ANTHROPIC, operation="generate", version=version) if method == "POST" else None
    match = _GEMINI_PATH.fullmatch(path)
    if match is None or match[3] == "batchGenerateContent":
        return job_route(method, path, query, headers)
    version, model, verb = match.groups()
    if method == "GET" and verb is None:
        openai = version == "v1" and "x-goog-api-key" not in headers and "key" not in query
        wire = ANTHROPIC if openai and "anthropic-version" in headers else OPENAI if openai else GEMINI
        return Route(wire=wire, operation="model" if model else "models", model=model, version=version)
    forms: dict[str | None, Form] = {"generateContent": "whole", "streamGenerateContent": "array"}
    if method != "POST" or verb not in forms:
        return None
    form = "sse" if forms[verb] == "array" and query.get("alt") == "sse" else forms[verb]
    return Route(wire=GEMINI, operation="generate", model=model, form=form, version=version)


def likely_wire(path: str) -> Wire:
    """Return the wire whose error format refuses a path that is not served."""
    if path.endswith("/responses"):
        return RESPONSES
    if path.endswith("/messages") or "/messages/" in path:
        return ANTHROPIC
    return OPENAI if "/chat" in path or path.startswith("/openai") else GEMINI


def key_of(wire: Wire, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    """Return the key of a request; empty without one."""
    bare = headers.get("authorization", "")
    scheme, _, rest = bare.partition(" ")
    if scheme.lower() == "bearer":
        bare = rest.strip()
    if wire.name == "gemini":
        return headers.get("x-goog-api-key") or query.get("key") or bare
    return headers.get("x-api-key") or bare
