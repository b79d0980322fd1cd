"""The page of a run that goes on: fixed markup, one style, one script; all it shows is fetched and set as text."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib.resources import files

_MARKUP = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>convbatch</title>
<style>{style}</style>
</head>
<body>
<header><p id="source" class="source">convbatch</p><h1 id="run">…</h1><p id="state" role="status">…</p>
<p id="notice" class="warning" role="alert" hidden></p></header>
<main>
<section aria-labelledby="progress-title"><h2 id="progress-title">Progress</h2>
<progress id="bar" max="1" value="0" aria-labelledby="progress-title"></progress><dl id="totals"></dl></section>
<section aria-labelledby="targets-title"><h2 id="targets-title">Targets</h2>
<div class="wide" tabindex="0" role="region" aria-labelledby="targets-title"><table id="targets"></table></div>
<p id="passes" class="note"></p></section>
<section id="judges-section" aria-labelledby="judges-title" hidden><h2 id="judges-title">Judge</h2>
<div class="wide" tabindex="0" role="region" aria-labelledby="judges-title"><table id="judges"></table></div>
</section>
<section aria-labelledby="errors-title"><h2 id="errors-title">Latest errors</h2>
<p id="no-errors" class="note">none so far</p><ol id="errors"></ol></section>
<p><a id="report" href="report">Report so far</a></p>
</main>
<noscript><p>This page needs JavaScript. The report so far does not: <a href="report">report</a>.</p></noscript>
<script type="module">{script}</script>
</body>
</html>
"""


@functools.cache
def watch_page() -> bytes:
    """Return the page."""
    return _MARKUP.format(style=_style(), script=_asset("watch.js")).encode()


@functools.cache
def policy() -> str:
    """Return the content security policy of the page: its own style and script, and requests to its own server."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_digest(_asset('watch.js'))}'",
            f"style-src '{_digest(_style())}'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


@functools.cache
def _style() -> str:
    """Return the style of reports, and what this page has beside it."""
    of_reports = files("convbatch.reporting.page") / "assets" / "page.css"
    return f"{of_reports.read_text('utf-8')}\n{_asset('watch.css')}"


@functools.cache
def _asset(name: str) -> str:
    return (files("convbatch.watching") / "assets" / name).read_text("utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
