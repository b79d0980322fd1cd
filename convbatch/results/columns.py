"""The column contract: name, dtype, unit and null rule of every column, and the function that fills it.

Nothing else decides which columns there are. What a function gets, one source a row, is made by `rows.py`; how rows
become files and frames is `parquet.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Literal, NamedTuple, TypeAlias

from convbatch.results.rows import sum_known, to_datetime, to_float, to_json, waited_s, worst_status
from convbatch.results.wire_notes import join_notes

CONTRACT = 11
"""Version of the columns below and of their values; a table file of another version is rebuilt."""

Dtype = Literal["string", "Int64", "Float64", "boolean", "list[string]", "timestamp[us, UTC]"]
Row: TypeAlias = tuple[Any, ...]
"""One value a column; None = null, times as aware datetimes."""

Unit = Literal["money", "share", "seconds"]
_MONEY_ENDS = ("cost", "spent", "bound", "at_most", "billed", "difference", "saved", "saving")
_SHARES = ("share", "cached_share", "valid_calls")

STATUSES = ("ok", "blocked", "empty", "error", "skipped", "pending")


class Column(NamedTuple):
    """One column of a table."""

    name: str
    dtype: Dtype
    meaning: str
    """With its unit, and when it is null."""
    fill: Callable[[Any], Any] | None = None
    """Return the cell of a row from the row's source; None: the source's attribute of the column's name."""
    is_long: bool = False
    """Texts of any length: they end a batch early, and get no statistics in the file's footer."""
    unit: Unit | None = None
    """Where the name does not tell it, as in a wide table; see `unit_of`."""


def unit_of(column: Column) -> Unit | None:
    """Return what a column of numbers counts; None for anything else than money, shares and seconds."""
    if column.unit is not None or column.dtype != "Float64":
        return column.unit
    if column.name.endswith(_MONEY_ENDS):
        return "money"
    if column.name in _SHARES:
        return "share"
    return "seconds" if column.name.endswith("_s") and not column.name.endswith("_per_s") else None


def row_builder(columns: Sequence[Column]) -> Callable[[Any], Row]:
    """Return the function that makes a row of a table from its source."""
    fills = [column.fill or attrgetter(column.name) for column in columns]
    return lambda source: tuple([fill(source) for fill in fills])


def _media_paths(turn: Any) -> str | None:
    files = turn.reply.get("media")
    return to_json([one["path"] for one in files]) if files else None


def _count_of(status: str) -> Callable[[Any], int]:
    return lambda conversation: conversation.statuses[status]


def _sum_of(name: str) -> Callable[[Any], Any]:
    return lambda conversation: sum_known(conversation.cells[name])


_ID: tuple[Column, ...] = (
    Column("run", "string", "name of the run", lambda r: r.id.run),
    Column("dialogue", "string", "id of the dialogue", lambda r: r.id.dialogue),
    Column("dialogue_index", "Int64", "its position in the run's dataset, from 0", lambda r: r.id.dialogue_index),
    Column("target", "string", "`model@gateway`", lambda r: r.id.target),
    Column("model", "string", "the requested model", lambda r: r.id.model),
    Column("gateway", "string", "the gateway of the target; `simulator` on every simulated row",
        lambda r: r.id.gateway),
    Column("variant", "string", "the variant of the dialogues; null without one", lambda r: r.id.variant),
    Column("repeat", "Int64", "from 1", lambda r: r.id.repeat),
)  # fmt: skip
_TURN = Column("turn", "Int64", "from 1; turns that are only context count, but have no row", lambda r: r.turn)
_TAGS = Column("tags", "list[string]", "of the dialogue; never null", lambda r: list(r.tags))

TURNS: tuple[Column, ...] = (
    *_ID,
    _TURN,
    _TAGS,
    Column("status", "string", "`pending`, `skipped`, `error`, `blocked`, `empty` or `ok`",
        lambda t: t.past.status or "pending"),
    Column("user", "string", "text of the user message, without its media", lambda t: t.user, is_long=True),
    Column("reply", "string", 'visible text; `""` = empty content; null = no content at all, or no complete reply',
        lambda t: t.reply.get("text"), is_long=True),
    Column("thought", "string", "the visible part of the model's reasoning; null = none",
        lambda t: t.reply.get("thought"), is_long=True),
    Column("tool_calls", "string", "JSON list of `{id, name, arguments}`; null = no call",
        lambda t: to_json(t.reply["tool_calls"]) if t.reply.get("tool_calls") else None, is_long=True),
    Column("media", "string", "JSON list of the files of pictures and sound in the reply, relative to the run folder; "
        "null = none", _media_paths, is_long=True),
    Column("steps", "Int64", "model calls this reply is made of; null without a complete reply",
        lambda t: len(t.past.replied) or None),
    Column("finish_reason", "string", "`stop length content_filter tool_call error other`; null without a complete "
        "reply", lambda t: t.reply.get("finish_reason")),
    Column("finish_reason_raw", "string", "as sent by the gateway; null without one",
        lambda t: t.reply.get("finish_reason_raw")),
    Column("blocked", "string", "`prompt` or `output`; null when nothing was blocked",
        lambda t: t.reply.get("blocked")),
    Column("input_tokens", "Int64", "including cached ones; null = not reported",
        lambda t: t.usage.get("input_tokens")),
    Column("cached_input_tokens", "Int64", "part of input; null = not reported",
        lambda t: t.usage.get("cached_input_tokens")),
    Column("cache_write_input_tokens", "Int64", "part of input; null = not reported",
        lambda t: t.usage.get("cache_write_input_tokens")),
    Column("output_tokens", "Int64", "including reasoning; null = not reported",
        lambda t: t.usage.get("output_tokens")),
    Column("reasoning_tokens", "Int64", "part of output; null = not reported",
        lambda t: t.usage.get("reasoning_tokens")),
    Column("total_tokens", "Int64", "as reported; null = not reported", lambda t: t.usage.get("total_tokens")),
    Column("service_tier", "string", "the tier that served the reply, which decides its price; null without one",
        lambda t: t.reply.get("service_tier")),
    Column("mean_logprob", "Float64", "mean log probability of the reply's tokens; null unless `logprobs` is set",
        lambda t: t.reply.get("mean_logprob")),
    Column("usage_source", "string", "`reported`, `partial` or `missing`; null without a complete reply",
        lambda t: t.usage.get("source")),
    Column("usage_consistent", "boolean", "do the counts agree? false: one was impossible (and is null), or input + "
        "output is not the total; the reply then has no cost", lambda t: t.usage.get("consistent")),
    Column("cost", "Float64", "of the final reply; null without a price, or when a count it needs is unknown",
        lambda t: t.costs.cost),
    Column("currency", "string", "of all three costs; null when all three are", lambda t: t.costs.currency),
    Column("price_source", "string", "source and date of the price; null as `cost`",
        lambda t: t.costs.price_source),
    Column("cache_saving", "Float64", "cost of the input without prompt caching minus its cost, negative when writes "
        "cost more; null as `cost`, and without cached tokens", lambda t: t.costs.cache_saving),
    Column("failed_cost", "Float64", "of attempts that reported usage and gave no final reply; null as `cost`",
        lambda t: t.costs.failed_cost),
    Column("possibly_paid_bound", "Float64", "upper bound of the cost of possibly paid attempts without a known cost; "
        "null without one, or without a limit", lambda t: t.costs.possibly_paid_bound),
    Column("possibly_paid_unbounded", "Int64", "possibly paid attempts with neither a cost nor a bound",
        lambda t: t.costs.possibly_paid_unbounded),
    Column("model_version", "string", "the model name in the reply; null without one",
        lambda t: t.reply.get("model_version")),
    Column("served_as_asked", "boolean", "is it the requested model, its dated form or an alias? null without a name"),
    Column("response_id", "string", "of the reply; null when there was none", lambda t: t.reply.get("response_id")),
    Column("request_id", "string", "of the last attempt; null when there was none", lambda t: t.last.get("request_id")),
    Column("http_status", "Int64", "of the last attempt; null when no response came",
        lambda t: t.last.get("http_status")),
    Column("wire_note", "string", "what was odd about the answers of the reply's steps, or the last answer, which were "
        "read all the same; null when nothing was",
        lambda t: join_notes(t.past.replied or [t.last]), is_long=True),
    Column("attempts", "Int64", "attempts of this turn over all sessions; 0 for a reused reply",
        lambda t: t.past.attempts),
    Column("possibly_paid", "Int64", "attempts that were sent but got no complete answer",
        lambda t: t.past.possibly_paid),
    Column("limiter_wait_s", "Float64", "seconds in the rate limiter, all attempts; null without a finished attempt",
        lambda t: sum_known(waited_s(outcome, "limiter_wait_s") for outcome in t.past.outcomes)),
    Column("retry_wait_s", "Float64", "seconds of backoff, all attempts; null without a finished attempt",
        lambda t: sum_known(waited_s(outcome, "retry_wait_s") for outcome in t.past.outcomes)),
    Column("latency_s", "Float64", "seconds from send to last byte, last attempt; null without a finished one, or in "
        "a batch job",
        lambda t: t.last.get("latency_s")),
    Column("ttft_s", "Float64", "seconds from send to the first text or thought of a stream; null without",
        lambda t: t.last.get("ttft_s")),
    Column("chunks", "Int64", "events of a stream with text or thought; null when not streamed",
        lambda t: t.last.get("chunks")),
    Column("itl_p50_s", "Float64", "median of the seconds between two chunks; null with less than two",
        lambda t: t.last.get("itl_p50_s")),
    Column("itl_p95_s", "Float64", "as `itl_p50_s`, 95th percentile", lambda t: t.last.get("itl_p95_s")),
    Column("started_at", "timestamp[us, UTC]", "start of the last attempt; null without a finished attempt",
        lambda t: to_datetime(t.last.get("started_at"))),
    Column("error_kind", "string", "error of the last attempt; null for `ok`, `blocked`, `empty`, `skipped`",
        lambda t: t.error.kind),
    Column("error_message", "string", "error message, or why the turn was skipped, or ended in a tool call; null "
        "otherwise",
        lambda t: t.error.message, is_long=True),
    Column("reused_from", "string", "the run the reply was reused from; null = asked in this run",
        lambda t: t.past.reused_from),
    Column("checks_passed", "Int64", "of the turn; null when it has none, is pending, or none could be judged",
        lambda t: t.verdicts.passed),
    Column("checks_failed", "Int64", "null as `checks_passed`; all of them on an `error` or `skipped` row",
        lambda t: t.verdicts.failed),
    Column("checks_without_verdict", "Int64", "a pending turn, or a judge that was not asked or gave none; null when "
        "the turn has no checks", lambda t: t.verdicts.without_verdict),
    Column("score", "Float64", "weighted mean of the checks' scores, 0 to 1; null as `checks_passed`, without weight, "
        "and with a weighted check without a verdict", lambda t: t.verdicts.score),
)  # fmt: skip
"""Filled from `rows.AskedTurn`."""

CONVERSATIONS: tuple[Column, ...] = (
    *_ID,
    _TAGS,
    Column("history", "string", "`live`, `script` or `last`", lambda c: c.history),
    Column("status", "string", "the first of `pending error blocked empty skipped ok` that any turn has",
        lambda c: worst_status(c.statuses)),
    Column("turns", "Int64", "turns asked", lambda c: c.statuses.total()),
    *(Column(name, "Int64", f"turns with status `{name}`", _count_of(name)) for name in STATUSES),
    Column("input_tokens", "Int64", "sum of the known counts; null when none is known", _sum_of("input_tokens")),
    Column("cached_input_tokens", "Int64", "sum of the known counts; null when none is known",
        _sum_of("cached_input_tokens")),
    Column("output_tokens", "Int64", "sum of the known counts; null when none is known", _sum_of("output_tokens")),
    Column("reasoning_tokens", "Int64", "sum of the known counts; null when none is known",
        _sum_of("reasoning_tokens")),
    Column("tokens_unknown", "Int64", "turns with a reply whose input or output count is unknown: not in the sums",
        lambda c: c.tokens_unknown),
    Column("attempts", "Int64", "attempts, over all sessions", _sum_of("attempts")),
    Column("possibly_paid", "Int64", "attempts that were sent but got no complete answer", _sum_of("possibly_paid")),
    Column("reused", "Int64", "turns whose reply was reused from another run",
        lambda c: len(c.known("reused_from"))),
    Column("latency_s", "Float64", "seconds, sum over the turns; null when none is known", _sum_of("latency_s")),
    Column("limiter_wait_s", "Float64", "seconds, sum over the turns; null when none is known",
        _sum_of("limiter_wait_s")),
    Column("retry_wait_s", "Float64", "seconds, sum over the turns; null when none is known", _sum_of("retry_wait_s")),
    Column("response_ids", "list[string]", "ids of the replies in turn order, as far as there are any",
        lambda c: c.known("response_id")),
    Column("checks_passed", "Int64", "of the checks on the whole dialogue; null without any, or when none was judged",
        lambda c: c.verdicts.passed),
    Column("checks_failed", "Int64", "null as `checks_passed`", lambda c: c.verdicts.failed),
    Column("checks_without_verdict", "Int64", "null when the dialogue has no checks of its own",
        lambda c: c.verdicts.without_verdict),
    Column("score", "Float64", "weighted mean of these checks' scores; null as in `turns`", lambda c: c.verdicts.score),
    Column("dialogue_pass", "boolean", "did all checks of the dialogue and its turns pass, with no turn `error` or "
        "`skipped`? null without checks, with a pending turn, and when it depends on a check without a verdict",
        lambda c: c.dialogue_pass),
)  # fmt: skip
"""Filled from `rows.ConversationTurns`."""

ATTEMPTS: tuple[Column, ...] = (
    *_ID,
    _TURN,
    Column("attempt", "Int64", "from 1 within the turn, counting over all sessions", lambda a: a.record["attempt"]),
    Column("step", "Int64", "from 1: the model call within the turn that it tried; more than 1 only with tools or a "
        "paused turn", lambda a: a.record.get("step", 1)),
    Column("kept", "boolean", "is its answer, or a part of it, the turn's reply?", lambda a: a.is_kept),
    Column("role", "string", "`model`, or `judge`: then `target`, `model` and `gateway` are the judge's",
        lambda a: a.record.get("role", "model")),
    Column("judged", "string", "of a judge: the judged target; null for a model",
        lambda a: a.judged),
    Column("class", "string", "`replied refused not_sent ambiguous timeout final abandoned`; null = lost in a kill",
        lambda a: a.record.get("class")),
    Column("possibly_paid", "boolean", "sent but got no complete answer", lambda a: a.costs.is_possibly_paid),
    Column("http_status", "Int64", "null when no response came", lambda a: a.record.get("http_status")),
    Column("wire_note", "string", "what was odd about an answer that was read all the same; null when nothing was",
        lambda a: a.record.get("wire_note"), is_long=True),
    Column("finish_reason", "string", "of a complete reply; null otherwise", lambda a: a.reply.get("finish_reason")),
    Column("error_kind", "string", "null for a complete reply and for a lost attempt", lambda a: a.failure.get("kind")),
    Column("error_message", "string", "as `error_kind`", lambda a: a.failure.get("message"), is_long=True),
    Column("partial_text", "string", "text of an interrupted reply; null = none",
        lambda a: a.failure.get("text"), is_long=True),
    Column("input_tokens", "Int64", "null = not reported, or a running total of an interrupted reply",
        lambda a: a.usage.input_tokens),
    Column("cached_input_tokens", "Int64", "null = not reported", lambda a: a.usage.cached_input_tokens),
    Column("cache_write_input_tokens", "Int64", "null = not reported", lambda a: a.usage.cache_write_input_tokens),
    Column("output_tokens", "Int64", "null = not reported", lambda a: a.usage.output_tokens),
    Column("reasoning_tokens", "Int64", "null = not reported", lambda a: a.usage.reasoning_tokens),
    Column("total_tokens", "Int64", "null = not reported", lambda a: a.usage.total_tokens),
    Column("cost", "Float64", "null without a price, or when a count it needs is unknown",
        lambda a: to_float(a.costs.cost)),
    Column("cost_bound", "Float64", "upper bound of a possibly paid attempt's cost; null for others, and without a "
        "limit", lambda a: to_float(a.costs.bound)),
    Column("currency", "string", "of both; null when both are", lambda a: a.currency),
    Column("limiter_wait_s", "Float64", "seconds in the rate limiter before it; null for a lost attempt",
        lambda a: waited_s(a.record, "limiter_wait_s")),
    Column("retry_wait_s", "Float64", "seconds of backoff before it; null for a lost attempt",
        lambda a: waited_s(a.record, "retry_wait_s")),
    Column("latency_s", "Float64", "seconds from send to last byte; null when unknown, and in a batch job",
        lambda a: a.record.get("latency_s")),
    Column("ttft_s", "Float64", "seconds from send to the first text or thought of a stream; null without",
        lambda a: a.record.get("ttft_s")),
    Column("chunks", "Int64", "events of a stream with text or thought; null when not streamed",
        lambda a: a.record.get("chunks")),
    Column("itl_p50_s", "Float64", "median of the seconds between two chunks; null with less than two",
        lambda a: a.record.get("itl_p50_s")),
    Column("itl_p95_s", "Float64", "as `itl_p50_s`, 95th percentile", lambda a: a.record.get("itl_p95_s")),
    Column("started_at", "timestamp[us, UTC]", "of a lost attempt: time before sending",
        lambda a: to_datetime(a.started_at)),
    Column("job", "string", "name of the batch job that it was in; null if it was asked by itself",
        lambda a: a.record.get("job")),
    Column("job_s", "Float64", "seconds from the creation of its batch job to the reading of its result",
        lambda a: a.record.get("job_s")),
    Column("request_id", "string", "null without one", lambda a: a.record.get("request_id")),
)  # fmt: skip
"""Filled from `rows.AttemptRecord`."""

VERDICTS: tuple[Column, ...] = (
    *_ID,
    Column("turn", "Int64", "from 1; null: the check is on the whole dialogue", lambda v: v.outcome.turn),
    Column("check", "string", "its `name`, else its kind", lambda v: v.outcome.check.name),
    Column("kind", "string", "with its `not_`", lambda v: v.outcome.check.kind),
    Column("weight", "Float64", "1 unless the dataset says otherwise", lambda v: v.outcome.check.weight),
    Column("passed", "boolean", "null: no verdict; the turn is pending, or the judge was not asked or gave none",
        lambda v: v.outcome.verdict.passed),
    Column("score", "Float64", "0 to 1; null as `passed`", lambda v: v.outcome.verdict.score),
    Column("reason", "string", "why, in words; never null", lambda v: v.outcome.verdict.reason, is_long=True),
    Column("error", "string", "why the check could not be evaluated: it counts as failed, and with `passed` null a "
        "judge gave no verdict; null otherwise",
        lambda v: v.outcome.verdict.error),
    Column("judge", "string", "of an `llm_rubric`: the judge that was asked; null for other kinds, and when none was",
        lambda v: v.judge),
    Column("judge_reply", "string", "the judge's whole answer, the last one; null as `judge`, and without an answer",
        lambda v: v.judge_reply, is_long=True),
)  # fmt: skip
"""Filled from `rows.CheckVerdict`."""

WIDE: dict[str, Dtype] = {
    **{
        column.name: column.dtype
        for column in TURNS
        if column.name in ("reply", "finish_reason", "output_tokens", "cost", "score")
    },
    "passed": "boolean",
}
"""What `wide` can spread over the targets."""
WIDE_KEYS = ("dialogue", "repeat", "turn")
