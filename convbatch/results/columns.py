"""The column contract: which columns each table has, with dtype, unit, and when they are null."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

CONTRACT = 5
"""Version of the columns below and of what stands in them; a table written under another one is rebuilt."""
Dtype = Literal["string", "Int64", "Float64", "boolean", "list[string]", "timestamp[us, UTC]"]
Row: TypeAlias = tuple[Any, ...]
"""One value a column; None = null, times as aware datetimes."""
STATUSES = ("ok", "blocked", "empty", "error", "skipped", "pending")
WORST_FIRST = ("pending", "error", "blocked", "empty", "skipped", "ok")
"""A conversation's status: `skipped` stands behind what caused it."""


class Column(NamedTuple):
    """One column of a table."""

    name: str
    dtype: Dtype
    meaning: str
    """With its unit, and when it is null."""
    is_long: bool = False
    """Texts of any length: they end a batch early, and get no statistics in the file's footer."""


TURNS: tuple[Column, ...] = (
    Column("run", "string", "name of the run"),
    Column("dialogue", "string", "id of the dialogue"),
    Column("dialogue_index", "Int64", "its position in the run's dataset, from 0"),
    Column("target", "string", "`model@gateway`"),
    Column("model", "string", "the model asked for"),
    Column("gateway", "string", "where it was asked; `simulator` on every simulated row"),
    Column("repeat", "Int64", "from 1"),
    Column("turn", "Int64", "from 1; turns that are only context count, but have no row"),
    Column("tags", "list[string]", "of the dialogue; never null"),
    Column("status", "string", "`pending`, `skipped`, `error`, `blocked`, `empty` or `ok`"),
    Column("user", "string", "text of the user message, without its media", True),
    Column(
        "reply", "string", 'visible text; `""` = empty content; null = no content at all, or no complete reply', True
    ),
    Column("thought", "string", "the model's reasoning as far as it was shown; null = none", True),
    Column("tool_calls", "string", "JSON list of `{id, name, arguments}`; null = no call", True),
    Column("steps", "Int64", "model calls this reply is made of; null without a complete reply"),
    Column(
        "finish_reason", "string", "`stop length content_filter tool_call error other`; null without a complete reply"
    ),
    Column("finish_reason_raw", "string", "the gateway's own word; null when it said none"),
    Column("blocked", "string", "`prompt` or `output`; null when nothing was blocked"),
    Column("input_tokens", "Int64", "including cached ones; null = not reported"),
    Column("cached_input_tokens", "Int64", "part of input; null = not reported"),
    Column("cache_write_input_tokens", "Int64", "part of input; null = not reported"),
    Column("output_tokens", "Int64", "including reasoning; null = not reported"),
    Column("reasoning_tokens", "Int64", "part of output; null = not reported"),
    Column("total_tokens", "Int64", "as reported; null = not reported"),
    Column("usage_source", "string", "`reported`, `partial` or `missing`; null without a complete reply"),
    Column("usage_consistent", "boolean", "is input + output the reported total? null when one of the three is"),
    Column("cost", "Float64", "of the reply that counts; null without a price, or when a count it needs is unknown"),
    Column("currency", "string", "of all three costs; null when all three are"),
    Column("price_source", "string", "whose price it is and of which day; null as `cost`"),
    Column("failed_cost", "Float64", "of attempts that reported usage and gave no reply that counts; null as `cost`"),
    Column(
        "possibly_paid_bound",
        "Float64",
        "the most that possibly paid attempts without a cost can have cost; null without one, or without a limit",
    ),
    Column("model_version", "string", "the model as the gateway named it in the reply; null when it did not"),
    Column("response_id", "string", "of the reply; null when there was none"),
    Column("request_id", "string", "of the last attempt; null when there was none"),
    Column("http_status", "Int64", "of the last attempt; null when no response came"),
    Column("attempts", "Int64", "tries of this turn over all sessions; 0 for a reused reply"),
    Column("possibly_paid", "Int64", "attempts that were sent and never fully answered"),
    Column("limiter_wait_s", "Float64", "seconds in our own gate, all attempts; null without a finished attempt"),
    Column("retry_wait_s", "Float64", "seconds of backoff, all attempts; null without a finished attempt"),
    Column("latency_s", "Float64", "seconds from send to last byte, last attempt; null without a finished attempt"),
    Column("ttft_s", "Float64", "seconds to the first text of a stream; null when not streamed"),
    Column("started_at", "timestamp[us, UTC]", "start of the last attempt; null without a finished attempt"),
    Column("error_kind", "string", "what the last attempt failed with; null for `ok`, `blocked`, `empty`, `skipped`"),
    Column("error_message", "string", "the failure in words, or why the turn was skipped; null otherwise", True),
    Column("reused_from", "string", "the run the reply was taken over from; null = asked in this run"),
    Column("checks_passed", "Int64", "of the turn; null when it has none, is pending, or none could be judged"),
    Column("checks_failed", "Int64", "null as `checks_passed`; all of them on an `error` or `skipped` row"),
    Column(
        "score", "Float64", "weighted mean of the checks' scores, 0 to 1; null as `checks_passed`, and without weight"
    ),
)

CONVERSATIONS: tuple[Column, ...] = (
    *(column for column in TURNS[:9] if column.name != "turn"),
    Column("history", "string", "`live`, `script` or `last`"),
    Column("status", "string", "the first of `pending error blocked empty skipped ok` that any turn has"),
    Column("turns", "Int64", "turns asked"),
    *(Column(name, "Int64", f"turns with status `{name}`") for name in STATUSES),
    Column("input_tokens", "Int64", "sum of the known counts; null when none is known"),
    Column("cached_input_tokens", "Int64", "sum of the known counts; null when none is known"),
    Column("output_tokens", "Int64", "sum of the known counts; null when none is known"),
    Column("reasoning_tokens", "Int64", "sum of the known counts; null when none is known"),
    Column("tokens_unknown", "Int64", "turns with a reply whose input or output count is unknown: not in the sums"),
    Column("attempts", "Int64", "tries, over all sessions"),
    Column("possibly_paid", "Int64", "attempts that were sent and never fully answered"),
    Column("reused", "Int64", "turns whose reply was taken over from another run"),
    Column("latency_s", "Float64", "seconds, sum over the turns; null when none is known"),
    Column("limiter_wait_s", "Float64", "seconds, sum over the turns; null when none is known"),
    Column("retry_wait_s", "Float64", "seconds, sum over the turns; null when none is known"),
    Column("response_ids", "list[string]", "ids of the replies in turn order, as far as there are any"),
    Column("checks_passed", "Int64", "of the checks on the whole dialogue; null without any, or when none was judged"),
    Column("checks_failed", "Int64", "null as `checks_passed`"),
    Column("score", "Float64", "weighted mean of these checks' scores; null as `checks_passed`, and without weight"),
    Column(
        "dialogue_pass", "boolean", "did all checks of the dialogue and its turns pass, with no turn `error` or "
        "`skipped`? null without checks, with a pending turn, and when only a check without a verdict could tell",
    ),
)  # fmt: skip

ATTEMPTS: tuple[Column, ...] = (
    *TURNS[:8],
    Column("attempt", "Int64", "from 1 within the turn, counting over all sessions"),
    Column("role", "string", "`model`, or `judge`: then `target`, `model` and `gateway` are the judge's"),
    Column("judged", "string", "of a judge: the target whose reply it was asked about; null for a model"),
    Column("class", "string", "`replied refused not_sent ambiguous timeout final abandoned`; null = lost in a kill"),
    Column("possibly_paid", "boolean", "sent and never fully answered"),
    Column("http_status", "Int64", "null when no response came"),
    Column("finish_reason", "string", "of a complete reply; null otherwise"),
    Column("error_kind", "string", "null for a complete reply and for a lost attempt"),
    Column("error_message", "string", "as `error_kind`", True),
    Column("partial_text", "string", "text of a reply that broke off; null = none", True),
    Column("input_tokens", "Int64", "null = not reported, or a running total of a reply that broke off"),
    Column("cached_input_tokens", "Int64", "null = not reported"),
    Column("cache_write_input_tokens", "Int64", "null = not reported"),
    Column("output_tokens", "Int64", "null = not reported"),
    Column("reasoning_tokens", "Int64", "null = not reported"),
    Column("total_tokens", "Int64", "null = not reported"),
    Column("cost", "Float64", "null without a price, or when a count it needs is unknown"),
    Column("cost_bound", "Float64", "the most a possibly paid attempt cost; null for others, and without a limit"),
    Column("currency", "string", "of both; null when both are"),
    Column("limiter_wait_s", "Float64", "seconds in our own gate before it; null for a lost attempt"),
    Column("retry_wait_s", "Float64", "seconds of backoff before it; null for a lost attempt"),
    Column("latency_s", "Float64", "seconds from send to last byte; null when unknown"),
    Column("ttft_s", "Float64", "seconds to the first text of a stream; null when not streamed"),
    Column("started_at", "timestamp[us, UTC]", "of a lost attempt: when it was about to leave"),
    Column("request_id", "string", "null when the gateway sent none"),
)  # fmt: skip

VERDICTS: tuple[Column, ...] = (
    *TURNS[:7],
    Column("turn", "Int64", "from 1; null: the check is on the whole dialogue"),
    Column("check", "string", "its `name`, else its kind"),
    Column("kind", "string", "with its `not_`"),
    Column("weight", "Float64", "1 unless the dataset says otherwise"),
    Column("passed", "boolean", "null: not judged, the turn is pending or no judge has answered"),
    Column("score", "Float64", "0 to 1; null as `passed`"),
    Column("reason", "string", "why, in words; never null", True),
    Column("error", "string", "why the check itself could not be carried out (it counts as failed); null otherwise"),
    Column("judge", "string", "of an `llm_rubric`: the target that was asked; null for other kinds, and when none was"),
    Column("judge_reply", "string", "its whole answer; null as `judge`, and without an answer", True),
)  # fmt: skip
WIDE: dict[str, Dtype] = {"reply": "string", "finish_reason": "string", "output_tokens": "Int64", "cost": "Float64"}
"""What `wide` can spread over the targets."""
WIDE_KEYS = ("dialogue", "repeat", "turn")
