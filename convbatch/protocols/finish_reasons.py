"""Map the finish reasons of all gateways to ours: one table for all protocols.

Gateways pass on the words of whatever serves the model, so any word may come over any protocol, in any case and
spelling: `MAX_TOKENS`, `max-tokens`, `maxTokens` and `FinishReason.MAX_TOKENS` are one word. A word that neither the
table nor a rule knows is `other`; it is never an error.

What a refusal or a broken generation means for the row is `reply.status_of`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from convbatch.lazy_regex import lazy_regex
from convbatch.reply import FinishReason

# All pages read 2026-11-26: https://platform.openai.com/docs/api-reference/chat/object,
# https://ai.google.dev/api/generate-content#FinishReason (and google-genai 3.6.1 types.py),
# https://docs.anthropic.com/en/api/handling-stop-reasons, https://openrouter.ai/docs/api-reference/overview,
# https://api-docs.deepseek.com/api/create-chat-completion, https://docs.mistral.ai/api,
# https://docs.cohere.com/reference/chat, https://docs.aws.amazon.com/bedrock/latest/APIReference (Converse, Titan),
# https://docs.bigmodel.cn/api-reference, https://platform.sensenova.cn/doc, https://cloud.baidu.com/doc/WENXINWORKSHOP,
# https://huggingface.co/docs/text-generation-inference, https://docs.x.ai/docs/grpc-reference,
# https://lmstudio.ai/docs/typescript/api-reference, and the sources of vLLM, SGLang, TensorRT-LLM and llama.cpp.
_WORDS: Mapping[FinishReason, str] = {
    "stop": """
        stop stopped stop_token stop_sequence stop_sequence_reached stop_criteria_met stop_condition stop_string_found
        stop_word stop_str word eos eos_token eos_found end end_turn end_of_turn end_of_text endoftext end_of_sequence
        natural_stop natural_end complete completed done finish finished normal success succeeded im_end eot_id eot s
    """,
    "length": """
        length length_limit length_capped max_tokens max_new_tokens max_completion_tokens max_output_tokens max_output
        max_length max_len max_token maximum_tokens maximum_length max_predicted_tokens_reached max_context model_length
        model_context_window_exceeded context context_length context_length_reached context_length_exceeded
        context_window_exceeded token_limit limit truncated truncation continuation error_limit
    """,
    "content_filter": """
        content_filter content_filtered filter filtered sensitive safety refusal refused blocked block blocklist
        prohibited prohibited_content spii recitation escalation model_armor jailbreak image_safety
        image_prohibited_content image_recitation guardrail_intervened guardrail moderation moderated flagged banned
        toxic error_toxic security_audit audit risk risk_control content_risk policy policy_violation
        content_policy_violation content_moderation unsafe copyright illegal
    """,
    "tool_call": """
        tool_call tool_calls tool_use tool function_call function_calls function plugin_call requires_action
    """,
    "error": """
        error errored fail failed failure exception abort aborted cancel canceled cancelled user_cancel user_stopped
        interrupted disconnected timeout timed_out time_limit deadline_exceeded network_error connection_error
        insufficient_system_resource insufficient_resources engine_error upstream_error server_error internal_error
        model_error overloaded unavailable rate_limit rate_limited model_unloaded unload malformed
        malformed_function_call malformed_response malformed_model_output malformed_tool_use malformed_tool_call
        unexpected_tool_call too_many_tool_calls missing_thought_signature pup_limited_disabled
    """,
    # Google's words without a better meaning, and a turn that its server interrupted to be continued.
    "other": "other language image_other no_image unspecified unknown pause_turn steered load",
}

# Words that are in no table, by a part that has one meaning everywhere; the first rule that matches applies.
_RULES: tuple[tuple[FinishReason, re.Pattern[str]], ...] = (
    (
        "content_filter",
        lazy_regex(
            r"content_?filter|safety|sensitive|moderat|guard_?rail|prohibited|refus|policy|toxic|blocklist|recitation"
            r"|(?:^|_)risk(?:_|$)|unsafe|^blocked_|(?:content|prompt|output|input|response)_(?:was_)?(?:blocked|filtered|rejected)"
        ),
    ),
    (
        "error",
        lazy_regex(r"malformed|(?:^|_)(?:error|exception|failed|failure|abort|aborted|timeout|cancell?ed)(?:_|$)"),
    ),
    ("length", lazy_regex(r"(?:^|_)max(?:imum)?_|(?:token|length|context|window)s?_(?:limit|exceeded|reached)")),
    ("tool_call", lazy_regex(r"(?:^|_)(?:tool|function)_(?:call|use)")),
    ("stop", lazy_regex(r"^(?:stop|eos|end_of)_")),
)

_LONGEST_KEPT = 80
"""Characters of a word whose meaning is remembered: all replies of a gateway use the same few."""
_PENDING = frozenset({"", "null", "none", "unspecified", "notfinished", "inprogress", "queued"})
"""Values that say that the generation has not finished, or say nothing."""
_PREFIX = lazy_regex(r"^(?:finish_?|stop_?)?reason_?(?=[a-z])")
_CAMEL = lazy_regex(r"(?<=[a-z0-9])(?=[A-Z])")
_NOT_A_WORD = lazy_regex(r"[^\w -]+")
_SEPARATORS = lazy_regex(r"[^a-z0-9]+")


def _bare(word: str) -> str:
    return word.replace("_", "")


_REASONS: Mapping[str, FinishReason] = {
    _bare(word): reason for reason, words in _WORDS.items() for word in words.split()
}


def finish_reason_of(raw: str | None) -> FinishReason:
    """Return our finish reason for a gateway's word; `other` for an unknown one and for None."""
    return _known_reason(raw) if raw is not None and len(raw) <= _LONGEST_KEPT else _reason_of(raw or "")


def _reason_of(raw: str) -> FinishReason:
    forms = list(_forms(raw))
    for form in forms:
        if (known := _REASONS.get(_bare(form))) is not None:
            return known
    for form in forms:
        for reason, pattern in _RULES:
            if pattern.search(form):
                return reason
    return "other"


_known_reason = functools.lru_cache(maxsize=256)(_reason_of)


def is_finish(value: Any) -> bool:
    """Whether a value says that a generation has finished; gateways send `"null"` or `""` until then."""
    raw = value if type(value) is str else finish_word(value)
    if raw is None:
        return False
    return _is_known_finish(raw) if len(raw) <= _LONGEST_KEPT else _ends(raw)


def _ends(raw: str) -> bool:
    return _bare(next(_forms(raw), "")) not in _PENDING


_is_known_finish = functools.lru_cache(maxsize=256)(_ends)


def finish_word(value: Any) -> str | None:
    """Return the gateway's own word as a string; of an object (SGLang's `{"type": "stop"}`) its type; else None."""
    if isinstance(value, dict):
        value = value.get("type")
    if value is None or isinstance(value, dict | list):
        return None
    return str(value)


def deciding_word(words: Iterable[Any]) -> str | None:
    """Return the word that decides, of a gateway's own and those it quotes from upstream, in this order.

    The first known word applies. A word that says why a generation went wrong takes precedence over one that says
    that it stopped: routers report `stop` where their upstream reported `SAFETY` or `MALFORMED_FUNCTION_CALL`.
    """
    given = [raw for raw in map(finish_word, words) if raw is not None]
    known = [raw for raw in given if finish_reason_of(raw) != "other"]
    if known and finish_reason_of(known[0]) == "stop":
        return next((raw for raw in known if finish_reason_of(raw) in ("content_filter", "error", "length")), known[0])
    return next(iter(known or given), None)


def _forms(raw: str) -> Iterator[str]:
    """Yield a word in lower case with underscores: the whole, then its pieces (`FinishReason.STOP`) from the last."""
    pieces = [raw, *reversed(_NOT_A_WORD.split(raw))]
    for piece in pieces:
        plain = _SEPARATORS.sub("_", _CAMEL.sub("_", piece).lower()).strip("_")
        form = _PREFIX.sub("", plain)
        if form or piece is raw:
            yield form
