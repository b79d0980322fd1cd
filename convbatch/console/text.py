r"""Text from outside, made safe for a terminal: what it shows is what is there.

Replies, error messages and model names can hold escape sequences that recolour, retitle or rewrite a screen, and marks
that turn the direction of a line. They are shown as `\x1b`, `\u202e`; nothing else is changed, least of all for files.
And a terminal can be gone (closed, a full disk, `| head`): what is said to it never takes a paid run with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Generator
from typing import Any, TextIO

# C0 and C1 controls and DEL; marks and overrides of direction; line and paragraph separator; invisible operators and
# interlinear notes; byte order mark; soft hyphen; lone surrogates (they cannot be encoded); tag characters. Zero-width
# joiners stay: emoji and several scripts need them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_UNSAFE_LINES = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def printable(text: str) -> str:
    r"""One line, whatever the text: control and direction characters as escapes, line ends as `\n`."""
    return _UNSAFE.sub(_escape, text)


def printable_lines(text: str) -> str:
    """As `printable`, but line feeds and tabs stay."""
    return _UNSAFE_LINES.sub(_escape, text)


def printable_json(text: str) -> str:
    r"""JSON for stdout, which may be a terminal: the same values, and what `printable` escapes is written `\u..`."""
    return _UNSAFE_LINES.sub(lambda match: json.dumps(match[0])[1:-1], text)


_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    code = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def log_note(text: str) -> None:
    """A note on stderr, without secrets and safe for a terminal; lost when nobody can read it."""
    from convbatch.redaction import redact  # `--help` does not pay for it

    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]  # None where it was closed: `2>&-`
        with contextlib.suppress(OSError, ValueError):
            print(printable_lines(redact(text)), file=sys.stderr, flush=True)  # noqa: T201  # the one place for notes


class RedactingStream:
    """stderr without secrets, whoever writes to it: tracebacks of threads and of forgotten tasks, logging, warnings.

    Messages of ours come through `log_note`; this is for what Python itself prints when something of ours breaks.
    """

    def __init__(self, stream: TextIO) -> None:
        """Args: stream: The real one; everything but `write` is its own."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Pieces come as Python makes them: the text of an exception is always one of them."""
        from convbatch.redaction import redact

        self._stream.write(redact(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def drop_output() -> None:
    """Give up on stdout: what is still in its buffer has nowhere to go, and Python would complain of it at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def ignoring_broken_pipe() -> Generator[None]:
    """Print for somebody who may go before the end (`| head`): a verdict keeps its exit code all the same."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
