r"""Untrusted text made safe for a terminal.

Replies, error messages and model names can contain escape sequences that recolour, retitle or overwrite a screen, and
marks that change the direction of a line. They are shown as `\x1b`, `\u202e`; nothing else is changed, and files are
never changed. A terminal can be gone (closed, a full disk, `| head`): output to it never fails a paid run.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
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
    r"""Return a text as one line: control and direction characters as escapes, line ends as `\n`."""
    return _UNSAFE.sub(_escape, text)


def printable_lines(text: str) -> str:
    """Return a text as `printable` does, but keep line feeds and tabs."""
    return _UNSAFE_LINES.sub(_escape, text)


def printable_json(text: str) -> str:
    r"""Return JSON with the same values, in which the characters that `printable` escapes are written `\u..`."""
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


def shell_word(text: str) -> str:
    """Return a text as one word of a bash command that a terminal shows as it is and that can be pasted back."""
    if _UNSAFE.search(text) is None:
        return shlex.quote(text)
    return f"$'{re.sub(_UNSAFE.pattern + _BACKSLASH_OR_QUOTE, _escape_bytes, text)}'"


_BACKSLASH_OR_QUOTE = r"|[\\']"


def _escape_bytes(match: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in match[0].encode("utf-8", "surrogateescape"))


def shorten(text: str, most: int) -> str:
    """Return the beginning of a long text and its length: finish reasons and names from outside may have megabytes."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def log_note(text: str) -> None:
    """Print a note on stderr, without secrets and safe for a terminal; drop it if stderr cannot be written."""
    from convbatch.console.wrapping import wrapped
    from convbatch.redaction import redact  # imported late: `--help` does not need it

    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]  # None where it was closed: `2>&-`
        with contextlib.suppress(OSError, ValueError):
            line = wrapped(printable_lines(redact(text)), columns_of(sys.stderr))
            print(line, file=sys.stderr, flush=True)  # noqa: T201  # the one place for notes


def columns_of(stream: TextIO) -> int | None:
    """Return the columns of a terminal; None for a pipe, a file, or a terminal of unknown size."""
    with contextlib.suppress(OSError, ValueError):
        return (stream.isatty() and os.get_terminal_size(stream.fileno()).columns) or None
    return None


class RedactingStream:
    """A stderr that removes secrets from everything: tracebacks of threads and tasks, logging, warnings.

    Our own messages go through `log_note`; this is for what Python itself prints.
    """

    def __init__(self, stream: TextIO) -> None:
        """Args: stream: The real stream; everything but `write` is delegated to it."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write one piece; Python always writes the text of an exception as one piece."""
        from convbatch.redaction import redact

        self._stream.write(redact(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def drop_output() -> None:
    """Discard stdout: Python would report the rest of its buffer as an error at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def ignoring_broken_pipe() -> Generator[None]:
    """Print to a reader that may close early (`| head`), so that the command keeps its exit code."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
