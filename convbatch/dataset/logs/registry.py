"""The logs that `convert` reads: their names, and which one a file is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from convbatch.dataset.logs import evalscope, inspect_log, langfuse, litellm, newapi, promptfoo, spans
from convbatch.dataset.logs.call import Collector
from convbatch.dataset.logs.entries import LogFile
from convbatch.dataset.logs.span import is_export, read_spans


class LogForm(NamedTuple):
    """A kind of log."""

    name: str
    """For `--from`, and as tag `source:NAME`."""
    label: str
    """In messages."""
    detect: Callable[[Mapping[str, Any]], bool]
    """Whether the first record of a file is of this kind."""
    read: Callable[[Iterable[tuple[LogFile, Collector]]], None]
    """Reads files of this kind, all of one conversion together."""


def _is_phoenix(record: Mapping[str, Any]) -> bool:
    spans_of = [one for one in read_spans(dict(record)) if hasattr(one, "attributes")]
    return bool(spans_of) and "openinference.span.kind" in getattr(spans_of[0], "attributes", {})


_FORMS = (
    LogForm("inspect-log", "log of inspect_ai", inspect_log.detect, inspect_log.read),
    LogForm("promptfoo", "config or results of promptfoo", promptfoo.detect, promptfoo.read),
    LogForm("evalscope", "predictions or reviews of evalscope", evalscope.detect, evalscope.read),
    LogForm("litellm", "request log of LiteLLM", litellm.detect, litellm.read),
    LogForm("newapi", "request log of new-api", newapi.detect, newapi.read),
    LogForm("phoenix", "export of Phoenix (OpenInference spans)", _is_phoenix, spans.read_traces),
    LogForm("langfuse", "export of Langfuse", langfuse.detect, langfuse.read),
    LogForm("otel", "export of OpenTelemetry", is_export, spans.read_traces),
)
LOG_FORMS: Mapping[str, LogForm] = {form.name: form for form in _FORMS}
"""By name, in the order in which detection tries them."""


def detect(record: Mapping[str, Any]) -> LogForm | None:
    """Return the kind of log whose first record this is; None for anything else."""
    return next((form for form in LOG_FORMS.values() if form.detect(record)), None)
