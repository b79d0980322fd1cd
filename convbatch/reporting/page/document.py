"""A self-contained HTML page: its parts, the assets of this package, and data that the script unpacks.

The policy of the page allows one style, one script, both by their digest, and pictures and sound from the page's own
data; nothing is loaded. Data is JSON, compressed and in base64, so that no text from outside is part of the page's
markup.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from convbatch.console.html import Markup, element, joined

_SCRIPTS = ("data.js", "words.js", "filters.js", "transcript.js", "main.js")
"""Parts of the one script, which share its scope: a policy with digests allows no imports between scripts."""
_STYLES = ("page.css",)


def html_page(title: str, parts: Sequence[Markup], packed: bytes) -> bytes:
    """Return a page.

    Args:
        title: Of the window.
        parts: The content, in order.
        packed: JSON for the script, compressed with gzip.
    """
    style, script = _assets(_STYLES), _assets(_SCRIPTS)
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_digest(script)}'",
            f"style-src '{_digest(style)}'",
            "img-src data:",
            "media-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        # Not escaped: `'` is plain text within double quotes, and people read the policy.
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="generator", content="convbatch"),
        element("title", title),
        Markup(f"<style>{style}</style>"),
    )
    body = element(
        "body",
        *parts,
        element("script", Markup(base64.b64encode(packed).decode()), type="application/octet-stream", id="packed-data"),
        Markup(f'<script type="module">{script}</script>'),
    )
    return joined([Markup("<!DOCTYPE html>\n"), element("html", head, body, lang="en")]).encode()


@functools.cache
def _assets(names: Sequence[str]) -> str:
    folder = files("convbatch.reporting.page") / "assets"
    return "\n".join((folder / name).read_text("utf-8") for name in names)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
