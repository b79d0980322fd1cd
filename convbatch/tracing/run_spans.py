"""Rows of a run to spans: a trace for each dialogue at each target and repeat, in it a span for each turn.

Names are those of OpenTelemetry's conventions for generative AI as of November 2026, all still in development, and
`convbatch.…` for what they lack. The span of a turn covers all its attempts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from convbatch.dataset.snapshot import read_copy
from convbatch.dialogue import Dialogue, Settings, effective_settings
from convbatch.results.cache import read_with_verdicts
from convbatch.results.columns import ATTEMPTS, TURNS
from convbatch.tracing.messages import input_messages, output_messages, system_instructions
from convbatch.tracing.span import Event, Span, span_id, trace_id

if TYPE_CHECKING:
    from convbatch.journal.manifest import Manifest, ManifestTarget
    from convbatch.results.run import Run

_TURN_NAMES = tuple(column.name for column in TURNS)
_ATTEMPT_NAMES = tuple(column.name for column in ATTEMPTS)
_VERDICT_NAMES = ("turn", "check", "kind", "passed", "score", "reason")
_PROVIDERS = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.x.ai": "x_ai",
}
"""Hosts whose provider has a name in the conventions; others have the gateway's."""
_SETTINGS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_output_tokens": "max_tokens",
    "seed": "seed",
    "stop": "stop_sequences",
}
"""Our settings → what follows `gen_ai.request.`."""
Row = Mapping[str, Any]


class _Conversation(NamedTuple):
    """What the spans of one trace are made of."""

    run: str
    manifest: Manifest
    target: ManifestTarget
    dialogue: Dialogue
    turns: Sequence[Row]
    verdicts: Sequence[Row]
    attempts: Sequence[Row]
    """Of the turns, and of the judges that were asked about them."""


def spans_of(run: Run, *, with_text: bool) -> Iterator[Span]:
    """Yield the spans of a run, those of one trace together, with one conversation in memory at a time.

    Args:
        run: The run.
        with_text: Prompts, replies and reasons of verdicts, too.
    """
    for conversation in _conversations(run):
        yield from _trace(conversation, with_text=with_text)


def resource_of(run: Run) -> dict[str, Any]:
    """Return the attributes of the program that made the spans."""
    return {"service.name": "convbatch", "service.version": run.manifest.convbatch, "convbatch.run": run.name}


def _conversations(run: Run) -> Iterator[_Conversation]:
    targets = {target.name: target for target in run.manifest.targets}
    dialogues = read_copy(run.folder.dataset)
    index, dialogue = -1, None
    attempts = groupby(
        (dict(zip(_ATTEMPT_NAMES, row, strict=True)) for row in run.attempt_rows().rows),
        key=lambda row: (row["dialogue_index"], row["judged"] or row["target"], row["repeat"]),
    )
    due = next(attempts, None)
    for rows, found in read_with_verdicts(run.turns_path, _TURN_NAMES, _VERDICT_NAMES):
        turns = [dict(zip(_TURN_NAMES, row, strict=True)) for row in rows]
        first = turns[0]
        while index < first["dialogue_index"]:
            index, dialogue = next(dialogues)
        assert dialogue is not None
        made: list[Row] = []
        if due is not None and due[0] == (index, first["target"], first["repeat"]):
            made = list(due[1])
            due = next(attempts, None)
        verdicts: list[Row] = [dict(zip(_VERDICT_NAMES, verdict, strict=True)) for verdict in found]
        yield _Conversation(run.name, run.manifest, targets[first["target"]], dialogue, turns, verdicts, made)


def _trace(conversation: _Conversation, *, with_text: bool) -> Iterator[Span]:
    first = conversation.turns[0]
    names = (conversation.run, first["dialogue"], first["target"], first["repeat"])
    spans = [*_turn_spans(conversation, names, with_text=with_text), *_judge_spans(conversation, names)]
    if not spans:
        return  # nothing was asked, so nothing took any time
    dialogue_verdicts = [verdict for verdict in conversation.verdicts if verdict["turn"] is None]
    ends = max(span.ends for span in spans)
    yield Span(
        trace=trace_id(*names),
        id=span_id(*names),
        name=f"dialogue {first['dialogue']}",
        kind="internal",
        begins=min(span.begins for span in spans),
        ends=ends,
        attributes={**_identity({**first, "turn": None}), "convbatch.history": conversation.manifest.history},
        events=[_evaluation(verdict, ends, with_text=with_text) for verdict in dialogue_verdicts],
    )
    yield from spans


def _turn_spans(conversation: _Conversation, names: tuple[Any, ...], *, with_text: bool) -> Iterator[Span]:
    rows = {row["turn"]: row for row in conversation.turns}
    for number, row in rows.items():
        attempts = [
            one
            for one in conversation.attempts
            if one["role"] == "model" and one["turn"] == number and one["started_at"] is not None
        ]
        if not attempts:
            continue  # skipped, pending, or reused from another run
        begins, ends = _span_of(attempts)
        failed = row["status"] in ("error", "pending")
        texts: dict[str, Any] = {}
        if with_text:
            texts = {
                "gen_ai.system_instructions": system_instructions(conversation.dialogue),
                "gen_ai.input.messages": input_messages(
                    conversation.dialogue, conversation.manifest.history, rows, number
                ),
                "gen_ai.output.messages": output_messages(row) if row["finish_reason"] is not None else None,
            }
        yield Span(
            trace=trace_id(*names),
            id=span_id(*names, number),
            parent=span_id(*names),
            name=f"{_operation(conversation.target)} {row['model']}",
            kind="client",
            begins=begins,
            ends=ends,
            attributes={
                **_request(conversation.target, row, _settings(conversation, number)),
                **_response(row),
                **_identity(row),
                **_own(row),
                **texts,
            },
            events=[
                *_failed_attempts(attempts, with_text=with_text),
                *(
                    _evaluation(verdict, ends, with_text=with_text)
                    for verdict in conversation.verdicts
                    if verdict["turn"] == number
                ),
            ],
            error=(row["error_message"] if with_text else row["error_kind"]) or row["status"] if failed else None,
        )


def _judge_spans(conversation: _Conversation, names: tuple[Any, ...]) -> Iterator[Span]:
    """Yield a span for each call of a judge."""
    judges = {judge.name: judge for judge in conversation.manifest.judges}
    for number, row in enumerate(conversation.attempts):
        if row["role"] != "judge" or row["started_at"] is None:
            continue
        begins, ends = _span_of([row])
        yield Span(
            trace=trace_id(*names),
            id=span_id(*names, "judge", number),
            parent=span_id(*names) if row["turn"] is None else span_id(*names, row["turn"]),
            name=f"{_operation(judges[row['target']])} {row['model']}",
            kind="client",
            begins=begins,
            ends=ends,
            attributes={
                **_request(judges[row["target"]], row, Settings()),
                **_response(row),
                **_identity(row),
                "convbatch.role": "judge",
                "convbatch.cost": row["cost"],
                "convbatch.currency": row["currency"],
            },
            error=row["error_kind"],
        )


def _span_of(attempts: Sequence[Row]) -> tuple[float, float]:
    """Return begin and end of attempts, in Unix seconds; one without a known end took no time."""
    times = [(_seconds(one["started_at"]), one["latency_s"] or 0.0) for one in attempts]
    return min(at for at, _ in times), max(at + took for at, took in times)


def _seconds(moment: datetime) -> float:
    return moment.timestamp()


def _operation(target: ManifestTarget) -> str:
    return "generate_content" if target.gateway.protocol == "gemini" else "chat"


def _settings(conversation: _Conversation, number: int) -> Settings:
    return effective_settings(
        command_line=conversation.manifest.settings,
        turn=conversation.dialogue.turns[number - 1].settings,
        dialogue=conversation.dialogue.settings,
        target=conversation.target.gateway.settings,
        repeat=conversation.turns[0]["repeat"],
        unset=conversation.target.gateway.unset,
    )


def _request(target: ManifestTarget, row: Row, settings: Settings) -> dict[str, Any]:
    address = urlsplit(target.gateway.base_url)
    named = {f"gen_ai.request.{name}": getattr(settings, ours) for ours, name in _SETTINGS.items()}
    return {
        "gen_ai.operation.name": _operation(target),
        "gen_ai.provider.name": _PROVIDERS.get(address.hostname or "", target.gateway.name),
        "gen_ai.request.model": row["model"],
        **named,
        "gen_ai.request.stream": True if target.gateway.other.get("stream") else None,
        "gen_ai.output.type": "json" if settings.response_schema is not None else None,
        "gen_ai.conversation.id": row["dialogue"],
        "server.address": address.hostname,
        "server.port": address.port,
    }


def _response(row: Row) -> dict[str, Any]:
    finish = row["finish_reason"]
    return {
        "gen_ai.response.model": row.get("model_version"),
        "gen_ai.response.id": row.get("response_id"),
        "gen_ai.response.finish_reasons": None if finish is None else [finish],
        "gen_ai.response.time_to_first_chunk": row["ttft_s"],
        "gen_ai.usage.input_tokens": row["input_tokens"],
        "gen_ai.usage.output_tokens": row["output_tokens"],
        "gen_ai.usage.cache_read.input_tokens": row["cached_input_tokens"],
        "gen_ai.usage.cache_write.input_tokens": row["cache_write_input_tokens"],
        "gen_ai.usage.reasoning.output_tokens": row["reasoning_tokens"],
        "error.type": row["error_kind"],
    }


def _identity(row: Row) -> dict[str, Any]:
    names = ("run", "dialogue", "target", "gateway", "repeat", "turn")
    return {f"convbatch.{name}": row.get(name) for name in names}


def _own(row: Row) -> dict[str, Any]:
    names = ("status", "attempts", "possibly_paid", "cost", "currency", "limiter_wait_s", "retry_wait_s", "tags")
    return {f"convbatch.{name}": row[name] for name in names}


def _failed_attempts(attempts: Sequence[Row], *, with_text: bool) -> Iterator[Event]:
    for one in attempts:
        if one["class"] != "replied":
            yield Event(
                name="convbatch.failed_attempt",
                at=_span_of([one])[1],
                attributes={
                    "convbatch.attempt": one["attempt"],
                    "convbatch.class": one["class"] or "lost",
                    "convbatch.possibly_paid": one["possibly_paid"],
                    "error.type": one["error_kind"],
                    "http.response.status_code": one["http_status"],
                    "error.message": one["error_message"] if with_text else None,
                },
            )


def _evaluation(verdict: Row, at: float, *, with_text: bool) -> Event:
    """Return a verdict as the conventions have results of evaluations."""
    passed = verdict["passed"]
    return Event(
        name="gen_ai.evaluation.result",
        at=at,
        attributes={
            "gen_ai.evaluation.name": verdict["check"],
            "gen_ai.evaluation.score.value": verdict["score"],
            "gen_ai.evaluation.score.label": None if passed is None else "pass" if passed else "fail",
            "gen_ai.evaluation.explanation": verdict["reason"] if with_text else None,
        },
    )
