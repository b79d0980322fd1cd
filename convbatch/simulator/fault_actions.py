"""What each action of a fault script does to an answer. `fault_script.py` decides which requests it applies to.

Pure: an action changes the model's reply (`spoil_reply`), the reply's usage (`spoil_usage`, `place_usage`), or the
bytes of the answer and how they are sent (`spoil_answer`), or replaces the answer with a refusal
(`replacement_answer`).
"""

from __future__ import annotations

import base64
import functools
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from convbatch.simulator.fault_script import LINE_ENDS, Rule
from convbatch.simulator.http import Answer, Piece
from convbatch.simulator.replies import Finish, SimulatedReply, count_tokens
from convbatch.simulator.wire import ErrorCause, Hint, Kind, Wire, encode, encode_oddly

_HTML = "<html>\n<head><title>{title}</title></head>\n<body>\n<center><h1>{title}</h1></center>\n</body>\n</html>\n"
_TITLES = {200: "Welcome", 502: "502 Bad Gateway", 504: "504 Gateway Time-out", 524: "524: A timeout occurred"}
_BLOCK = 64 * 1024


def is_refusal(rule: Rule) -> bool:
    """Return whether the action replaces the answer, so that limits and billing are never reached."""
    if rule.action in {"reset", "silence"}:
        return rule.options["when"] in {"arrival", "read"}
    return rule.action in {
        "rate-limit", "error", "no-channel", "revoke-key", "drain-balance", "redirect", "refuse", "body",
    }  # fmt: skip


def bills(rule: Rule) -> bool:
    """Return whether a refusal is billed nevertheless."""
    billed: bool | None = rule.options.get("billed")
    return billed if billed is not None else rule.action == "body" and rule.options["status"] == 200


def asks_no_model(rule: Rule) -> bool:
    """Return whether the answer is a page or text of a server that has no model; it is not billed."""
    return rule.action == "broken" and rule.options["kind"] in {"html", "text"}


def leaves_unmade(rule: Rule) -> bool:
    """Return whether a line of a job gets no reply, and is not billed."""
    return rule.action == "line" and rule.options["kind"] in {"expired", "cancelled"}


def error_cause(rule: Rule, model: str | None) -> ErrorCause | None:
    """Return the error that a refusing action reports in JSON; None for actions without an error object."""
    options = rule.options
    match rule.action:
        case "rate-limit":
            hint = Hint(seconds=options["seconds"], form=options["hint"])
            return ErrorCause(kind="rate_limit", model=model, hint=hint)
        case "error" if options["body"] == "json":
            return ErrorCause(kind=cast("Kind", options["kind"]), model=model, status=options["status"])
        case "no-channel":
            return ErrorCause(kind="no_channel", model=model)
        case "revoke-key":
            return ErrorCause(kind="bad_key")
        case "drain-balance":
            return ErrorCause(kind="no_balance")
        case _:
            return None


def replacement_answer(rule: Rule) -> Answer:
    """Return the answer of a refusing action that has no error object."""
    options = rule.options
    match rule.action:
        case "reset":
            return Answer(status=None, ending="reset", whole=False)
        case "silence":
            return Answer(status=None, ending="hang", ending_wait_s=options["seconds"], whole=False)
        case "refuse":
            return Answer(status=None, ending="reset", refuse_s=options["seconds"], whole=False)
        case "redirect":
            return Answer(status=options["status"], headers={"location": options["location"]}, pieces=[(0.0, b"")])
        case "body":
            return Answer(status=options["status"], headers=dict(options["headers"]), pieces=[(0.0, _verbatim(rule))])
        case _:
            return _plain_error(rule)


def _plain_error(rule: Rule) -> Answer:
    status = rule.options["status"] or 500
    headers = {} if rule.options["retry_after"] is None else {"retry-after": rule.options["retry_after"]}
    match rule.options["body"]:
        case "html":
            title = _TITLES.get(status, f"{status} Error")
            headers["content-type"] = "text/html"
            return Answer(status=status, headers=headers, pieces=[(0.0, _HTML.format(title=title).encode())])
        case "text":
            headers["content-type"] = "application/json"  # some gateways label a plain text body like this
            return Answer(status=status, headers=headers, pieces=[(0.0, b"upstream connect error or disconnect")])
        case _:
            return Answer(status=status, headers=headers, pieces=[(0.0, b"")])


def _verbatim(rule: Rule) -> bytes:
    options = rule.options
    if options["file"] is not None:
        return Path(options["file"]).read_bytes()
    return options["text"].encode() if options["text"] is not None else base64.b64decode(options["base64"])


def spoil_reply(rule: Rule, reply: SimulatedReply) -> SimulatedReply:
    """Apply the action `reply`: change the kind of reply, with matching token counts."""
    kind = rule.options["kind"]
    if kind == "length":
        text = reply.text[: len(reply.text) // 2]
        return replace(reply, text=text, calls=(), visible_tokens=count_tokens(text), finish="length")
    if kind == "unknown-finish":
        return replace(reply, finish="unknown")
    silent = replace(reply, text="", calls=(), visible_tokens=0, thought=None, signature=None)
    if kind == "thoughts-only":
        return replace(silent, thought="Let me think.", reasoning_tokens=max(8, reply.output_tokens), finish="length")
    finishes: dict[str, Finish] = {
        "no-candidates": "nothing",
        "prompt-blocked": "prompt_blocked",
        "output-blocked": "output_blocked",
        "empty": "stop",
        "malformed-call": "malformed",
    }
    return replace(silent, finish=finishes[kind])


def spoil_usage(rule: Rule, plain: dict[str, Any], wire: Wire) -> bytes:
    """Apply the action `usage`: encode a reply or stream event with broken token counts."""
    kind = rule.options["kind"]
    # an event of Responses contains the whole response, the first one of Messages the message
    holder: dict[str, Any] = plain.get("response") or plain.get("message") or plain
    usage: dict[str, Any] | None = holder.get(wire.usage_key)
    if usage:
        if kind == "missing":
            del holder[wire.usage_key]
        elif kind == "partial":
            for name in (
                *("candidatesTokenCount", "completion_tokens", "output_tokens"),
                *("totalTokenCount", "total_tokens"),
            ):
                usage.pop(name, None)
        elif kind == "inconsistent":
            for name in usage.keys() & {"totalTokenCount", "total_tokens"}:
                usage[name] += 7
        else:
            holder[wire.usage_key] = _counts(usage, _COUNTS[kind])
    return encode_oddly(plain)


_COUNTS: dict[str, Callable[[int], object]] = {
    "negative": lambda count: -count - 1,
    "huge": lambda count: (count + 1) * 10**25,
    "zero": lambda count: 0,
    "text": lambda count: f"{count} tokens",
    "nan": lambda count: float("nan"),
}


def _counts(value: Any, change: Callable[[int], object]) -> Any:
    if isinstance(value, dict):
        return {name: _counts(item, change) for name, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_counts(item, change) for item in cast("list[Any]", value)]
    return change(value) if isinstance(value, int) else value


def refuses_stream(rule: Rule) -> bool:
    """Return whether a stream that was asked for is answered with one whole reply."""
    return rule.action == "stream" and rule.options["form"] == "whole"


def place_usage(rule: Rule, events: list[dict[str, Any]], wire: Wire) -> list[dict[str, Any]]:
    """Apply the option `usage` of the action `stream`; events of Responses carry it in one place only."""
    where, key = rule.options["usage"], wire.usage_key
    if where is not None and any(name in events[0] for name in ("message", "response")):
        return _place_inside(where, events, key)
    usages = [event[key] for event in events if event.get(key)]
    bare = [{name: value for name, value in event.items() if name != key} for event in events]
    parts = [event for event in bare if event.get("choices") or event.get("candidates")]
    if where is None or not usages or not parts:
        return events
    usage = usages[-1]
    if where == "finish":
        parts[-1][key] = usage
    elif where == "running":
        for number, event in enumerate(parts, 1):
            event[key] = _counts(usage, lambda count, number=number: count * number // len(parts))
    elif where == "after":
        head = {name: value for name, value in parts[-1].items() if name not in ("choices", "candidates")}
        parts.append({**head, **({"choices": []} if "choices" in parts[-1] else {}), key: usage})
    return parts


def _place_inside(where: str, events: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Place the usage of Messages, whose first event contains the message; or remove that of a response."""
    bare = [
        {name: _without(value, key) if name in ("message", "response") else value
         for name, value in event.items() if name != key}
        for event in events
    ]  # fmt: skip
    if where == "missing":
        return bare
    at = next((at for at, event in enumerate(events) if key in event), None)
    if at is None or where == "running":
        return events
    usage = {**events[0]["message"][key], **events[at][key]}
    if where == "finish":
        bare[at][key] = usage
    else:
        bare.insert(at + 1, {"type": bare[at]["type"], "delta": {}, key: usage})
    return bare


def _without(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: item for name, item in value.items() if name != key}


def spoil_answer(rule: Rule, answer: Answer, wire: Wire) -> Answer:
    """Apply the actions that change how a complete answer is sent; other actions leave it unchanged."""
    spoiler = _SPOILERS.get(rule.action)
    return answer if spoiler is None else spoiler(rule, answer, wire)


def _reset(rule: Rule, answer: Answer, wire: Wire) -> Answer:
    if rule.options["when"] == "billed":
        return replace(answer, status=None, pieces=(), ending="reset", whole=False)
    return replace(_begun(answer, rule.options["bytes"]), ending="reset")


def _silence(rule: Rule, answer: Answer, wire: Wire) -> Answer:
    held = replace(answer, ending="hang", ending_wait_s=rule.options["seconds"], whole=False)
    if rule.options["when"] == "billed":
        return replace(held, status=None, pieces=())
    return _begun(held, rule.options["bytes"])


def _begun(answer: Answer, size: int) -> Answer:
    """Keep the first bytes of an answer, with a Content-Length that promises more."""
    content = answer.content
    promised = max(len(content), size + 1)
    return replace(answer, pieces=[(0.0, content[:size])], framing="length", promised=promised, whole=False)


def _truncate(rule: Rule, answer: Answer, wire: Wire) -> Answer:
    cut = _begun(answer, rule.options["bytes"])
    match rule.options["framing"]:
        case "length":
            return replace(cut, ending="cut")
        case "chunked":
            return replace(cut, promised=None, framing="chunked", ending="cut")
        case _:
            return replace(cut, promised=None, framing="close", ending="cut")


def _drip(rule: Rule, answer: Answer, wire: Wire) -> Answer:
    content, size = answer.content, rule.options["bytes"]
    pieces: list[Piece] = [(rule.options["seconds"], content[at : at + size]) for at in range(0, len(content), size)]
    return replace(answer, pieces=pieces, framing="length", promised=len(content))


def _delay(rule: Rule, answer: Answer, wire: Wire) -> Answer:
    return replace(answer, wait_s=answer.wait_s + rule.options["seconds"])


def _close_after(rule: Rule, answer: Answer, wire: Wire) -> Answer:
    return replace(answer, ending="close", ending_wait_s=rule.options["seconds"])


def _broken(rule: Rule, answer: Answer, wire: Wire) -> Answer:
    content = answer.content
    changed = _BROKEN[rule.options["kind"]](content, wire)
    headers = {**answer.headers, "content-type": "text/html"} if rule.options["kind"] == "html" else answer.headers
    return replace(answer, headers=headers, pieces=[(0.0, changed)], framing="length", promised=None)


def _deep(content: bytes, wire: Wire) -> bytes:
    return b'{"candidates":' + b"[" * 100_000 + b"]" * 100_000 + b',"choices":null}'


def _surrogates(content: bytes, wire: Wire) -> bytes:
    key = f'"{wire.text_key}":"'.encode()
    return content.replace(key, key + b"\\ud83d half \\udc00 ", 1)


_BROKEN: dict[str, Callable[[bytes, Wire], bytes]] = {
    "empty": lambda content, wire: b"",
    "empty-object": lambda content, wire: b"{}",
    "array": lambda content, wire: b"[]",
    "text": lambda content, wire: b"OK",
    "html": lambda content, wire: _HTML.format(title="Welcome").encode(),
    "cut-json": lambda content, wire: content[: len(content) * 2 // 3],
    "deep": _deep,
    "surrogates": _surrogates,
    "not-utf8": lambda content, wire: content.replace(f'"{wire.text_key}":"'.encode(), b'"x":"\xff\xfe', 1),
    "error-object": lambda content, wire: encode(wire.api_error(None, ErrorCause(kind="internal"), 0.0).body),
    "twice": lambda content, wire: content + content,
}


def _mid_error(rule: Rule, answer: Answer, wire: Wire) -> Answer:
    """Replace the rest of a stream with an error object; a whole reply becomes the error object."""
    cause = ErrorCause(kind="overloaded")
    if answer.framing != "chunked":
        return replace(answer, pieces=[(0.0, encode(wire.api_error(None, cause, 0.0).body))])
    begun: list[Piece] = list(answer.pieces)[: rule.options["events"]]
    return replace(answer, pieces=[*begun, (0.0, wire.stream_error(cause))])


def _stream(rule: Rule, answer: Answer, wire: Wire) -> Answer:
    """Send a stream as another server would: other line ends, comments, pieces, compression; same events."""
    if answer.framing != "chunked":
        return answer
    options = rule.options
    frames = [frame for _, frame in answer.pieces]
    if options["done"] is False:
        frames = [frame for frame in frames if b"[DONE]" not in frame]
    elif options["done"] and not any(b"[DONE]" in frame for frame in frames):
        frames.append(b"data: [DONE]\n\n")
    frames = [_framed(frame, options) for frame in frames]
    end = LINE_ENDS[options["lines"] or "lf"]
    frames = [b": keep-alive" + end + end] * options["keep_alive"] + frames
    if (size := options["bytes"]) is not None:
        content = b"".join(frames)
        frames = [content[at : at + size] for at in range(0, len(content), size)]
    headers = answer.headers
    if options["gzip"]:
        frames, headers = _packed(frames), {**headers, "content-encoding": "gzip"}
    pieces: list[Piece] = [(options["seconds"], frame) for frame in frames]
    sent = replace(answer, headers=headers, pieces=pieces)
    return sent if not options["linger"] else replace(sent, ending="hang", ending_wait_s=options["linger"])


def _framed(frame: bytes, options: Mapping[str, Any]) -> bytes:
    lines = frame.replace(b"\r\n", b"\n").split(b"\n")
    if not options["space"]:
        lines = [line.replace(b": ", b":", 1) if line.startswith((b"data: ", b"event: ")) else line for line in lines]
    if options["comments"]:
        lines = [b": keep-alive", *lines]
    end = LINE_ENDS[options["lines"]] if options["lines"] else b"\r\n" if b"\r\n" in frame else b"\n"
    return end.join(lines)


def _packed(frames: list[bytes]) -> list[bytes]:
    """Compress pieces as a server does that flushes after each."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    packed = [packer.compress(frame) + packer.flush(zlib.Z_SYNC_FLUSH) for frame in frames]
    return [*packed, packer.flush()]


def _gzip_bomb(rule: Rule, answer: Answer, wire: Wire) -> Answer:
    bomb = _bomb(rule.options["mebibytes"])
    return replace(
        answer,
        headers={**answer.headers, "content-encoding": "gzip"},
        pieces=[(0.0, bomb)],
        framing="length",
        promised=None,
    )


@functools.lru_cache(maxsize=4)
def _bomb(mebibytes: int) -> bytes:
    """Return an empty object after `mebibytes` MiB of spaces, compressed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = b" " * 2**20
    packed = b"".join(packer.compress(block) for _ in range(mebibytes))
    return packed + packer.compress(b"{}") + packer.flush()


def _endless_body(rule: Rule, answer: Answer, wire: Wire) -> Answer:
    pieces = itertools.chain([(0.0, b'{"candidates":"')], itertools.repeat((0.0, b"A" * _BLOCK)))
    return replace(answer, pieces=pieces, framing="chunked", promised=None, whole=False)


def _endless_headers(rule: Rule, answer: Answer, wire: Wire) -> Answer:
    def pieces() -> Iterator[Piece]:
        yield 0.0, b"HTTP/1.1 200 OK\r\n"
        for block in itertools.count():
            yield 0.0, b"".join(b"x-filler-%d-%d: %s\r\n" % (block, n, b"a" * 1000) for n in range(16))

    return replace(answer, pieces=pieces(), framing="raw", whole=False)


_SPOILERS: dict[str, Callable[[Rule, Answer, Wire], Answer]] = {
    "reset": _reset,
    "silence": _silence,
    "truncate": _truncate,
    "drip": _drip,
    "delay": _delay,
    "close-after": _close_after,
    "broken": _broken,
    "mid-error": _mid_error,
    "stream": _stream,
    "gzip-bomb": _gzip_bomb,
    "endless-body": _endless_body,
    "endless-headers": _endless_headers,
}
