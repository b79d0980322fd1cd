"""The operations on batch jobs, files and background responses, by method and path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

from convbatch.simulator.anthropic import ANTHROPIC
from convbatch.simulator.gemini import GEMINI
from convbatch.simulator.openai import OPENAI
from convbatch.simulator.responses import RESPONSES
from convbatch.simulator.wire import JobOperation, Operation, Route, Wire

JOB_OPERATIONS: tuple[str, ...] = get_args(JobOperation)

_Table = tuple[tuple[Wire, str, str, Operation], ...]
_OPENAI: _Table = (
    (OPENAI, "POST", r"/v1/files", "upload"),
    (OPENAI, "GET", r"/v1/files", "list_files"),
    (OPENAI, "GET", r"/v1/files/(?P<item>[^/]+)", "get_file"),
    (OPENAI, "DELETE", r"/v1/files/(?P<item>[^/]+)", "delete_file"),
    (OPENAI, "GET", r"/v1/files/(?P<item>[^/]+)/content", "results"),
    (OPENAI, "POST", r"/v1/batches", "create"),
    (OPENAI, "GET", r"/v1/batches", "list"),
    (OPENAI, "GET", r"/v1/batches/(?P<item>[^/:]+)", "poll"),
    (OPENAI, "POST", r"/v1/batches/(?P<item>[^/]+)/cancel", "cancel"),
    (RESPONSES, "GET", r"/v1/responses/(?P<item>[^/]+)", "poll"),
    (RESPONSES, "POST", r"/v1/responses/(?P<item>[^/]+)/cancel", "cancel"),
    (RESPONSES, "DELETE", r"/v1/responses/(?P<item>[^/]+)", "delete"),
    (ANTHROPIC, "POST", r"/v1/messages/batches", "create"),
    (ANTHROPIC, "GET", r"/v1/messages/batches", "list"),
    (ANTHROPIC, "GET", r"/v1/messages/batches/(?P<item>[^/]+)", "poll"),
    (ANTHROPIC, "DELETE", r"/v1/messages/batches/(?P<item>[^/]+)", "delete"),
    (ANTHROPIC, "POST", r"/v1/messages/batches/(?P<item>[^/]+)/cancel", "cancel"),
    (ANTHROPIC, "GET", r"/v1/messages/batches/(?P<item>[^/]+)/results", "results"),
)
_GEMINI: _Table = (
    (GEMINI, "POST", r"/(?P<version>v1|v1beta)/models/(?P<model>[^/:]+):batchGenerateContent", "create"),
    (GEMINI, "GET", r"/(?P<version>v1|v1beta)/batches", "list"),
    (GEMINI, "GET", r"/(?P<version>v1|v1beta)/(?P<item>batches/[^/:]+)", "poll"),
    (GEMINI, "DELETE", r"/(?P<version>v1|v1beta)/(?P<item>batches/[^/:]+)", "delete"),
    (GEMINI, "POST", r"/(?P<version>v1|v1beta)/(?P<item>batches/[^/:]+):cancel", "cancel"),
    (GEMINI, "POST", r"/upload/(?P<version>v1|v1beta)/files", "upload"),
    (GEMINI, "GET", r"/(?P<version>v1|v1beta)/files", "list_files"),
    (GEMINI, "GET", r"/(?P<version>v1|v1beta)/(?P<item>files/[^/:]+)", "get_file"),
    (GEMINI, "DELETE", r"/(?P<version>v1|v1beta)/(?P<item>files/[^/:]+)", "delete_file"),
    (GEMINI, "GET", r"/(?P<version>v1|v1beta)/(?P<item>files/[^/:]+):download", "results"),
)


def job_route(method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Route | None:
    """Return the operation of a request; None for any other path.

    Google and OpenAI share paths under `/v1`: a request with Google's form of a key is Google's.
    """
    is_googles = "x-goog-api-key" in headers or "key" in query or not path.startswith("/v1/")
    for wire, verb, pattern, operation in _GEMINI if is_googles or ":" in path else _OPENAI:
        match = re.fullmatch(pattern, path) if verb == method else None
        if match is not None:
            found = Route(wire=wire, operation=operation, version=headers.get("anthropic-version", ""))
            parts = match.groupdict()
            item, model, version = parts.get("item"), parts.get("model"), parts.get("version", found.version)
            return replace(found, item=item, model=model, version=str(version))
    return None
