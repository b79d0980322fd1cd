"""`convbatch export-otel`: a run as OpenTelemetry spans, to a file in OTLP JSON or to an endpoint."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from convbatch.console.text import log_note
from convbatch.dataset.reader import count_of
from convbatch.errors import SetupError
from convbatch.exit_codes import ExitCode
from convbatch.redaction import redact
from convbatch.results.export import replacing
from convbatch.results.run import load
from convbatch.tracing.endpoint import Endpoint, Rejected
from convbatch.tracing.run_spans import resource_of, spans_of
from convbatch.tracing.span import request_of

if TYPE_CHECKING:
    from convbatch.results.run import Run

SPANS_PER_REQUEST = 256
ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
HEADERS_VARIABLE = "OTEL_EXPORTER_OTLP_HEADERS"


def run_export(name: str, out: Path | None, endpoint: str | None, *, with_text: bool) -> ExitCode:
    """Write the spans of a run to a file or stdout (`-`), or post them.

    Returns:
        0; 3 if the endpoint did not take all of them.

    Raises:
        SetupError: No such run, neither a file nor an endpoint, or both; the file cannot be written.
    """
    if out is not None and endpoint is not None:
        raise SetupError("-o and --endpoint are two ways to export", hint="keep one of them")
    run = load(name)
    if out is not None:
        return _write(run, out, with_text=with_text)
    url = endpoint or os.environ.get(ENDPOINT_VARIABLE, "").strip()
    if not url:
        raise SetupError(
            "nowhere to export to",
            hint=f"add -o spans.jsonl, or --endpoint http://127.0.0.1:4318 (or set {ENDPOINT_VARIABLE})",
        )
    return _post(run, Endpoint.of(url, os.environ.get(HEADERS_VARIABLE, "")), with_text=with_text)


def _write(run: Run, out: Path, *, with_text: bool) -> ExitCode:
    if str(out) == "-":
        _write_lines(run, sys.stdout.buffer, with_text=with_text)
        return ExitCode.OK
    if not out.parent.is_dir():
        raise SetupError(f"cannot write {out}: there is no folder {out.parent}", hint="make the folder first")
    if out.is_dir():
        raise SetupError(f"cannot write {out}: it is a folder", hint="name a file with -o")
    with replacing(out) as file:
        count = _write_lines(run, file, with_text=with_text)
    log_note(f"{count_of(count, 'span')} in {out}{_about_text(with_text=with_text)}")
    return ExitCode.OK


def _write_lines(run: Run, file: IO[bytes], *, with_text: bool) -> int:
    count = 0
    for request, spans in _requests(run, with_text=with_text):
        file.write(orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE))
        count += spans
    return count


def _post(run: Run, endpoint: Endpoint, *, with_text: bool) -> ExitCode:
    def waiting(why: str, wait_s: float) -> None:
        log_note(f"{endpoint.url}: {redact(why)}; asking again in {wait_s:g} s")

    sent = rejected = 0
    for request, spans in _requests(run, with_text=with_text):
        try:
            rejected += endpoint.post(request, waiting)
        except Rejected as why:
            log_note(f"{endpoint.url} takes no more spans: {redact(str(why))}")
            log_note(f"{count_of(sent, 'span')} sent before; the same command sends all again, with the same ids")
            return ExitCode.INCOMPLETE
        sent += spans
    lost = f", of which it rejected {rejected:,}" if rejected else ""
    log_note(f"{count_of(sent, 'span')} sent to {endpoint.url}{lost}{_about_text(with_text=with_text)}")
    return ExitCode.INCOMPLETE if rejected else ExitCode.OK


def _about_text(*, with_text: bool) -> str:
    return "" if with_text else "; without prompts and replies, which --text adds"


def _requests(run: Run, *, with_text: bool) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield export requests and their numbers of spans."""
    resource = resource_of(run)
    for spans in _batched(spans_of(run, with_text=with_text)):
        yield request_of(spans, resource), len(spans)


def _batched(spans: Iterable[Any]) -> Iterator[list[Any]]:
    source = iter(spans)
    while batch := list(islice(source, SPANS_PER_REQUEST)):
        yield batch
