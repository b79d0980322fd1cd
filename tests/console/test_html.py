"""Tests of the tables that notebooks show: whatever the texts are, they stay texts."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

import convbatch as package
from convbatch.console.html import ROWS_SHOWN, SHOWN_OF_A_TEXT, html_table
from convbatch.console.text import printable, shorten
from tests.support.made_runs import SEED_REPLY, MadeRun, dialogue

HOSTILE = "<img src=x onerror=alert(1)></td><script>alert(2)</script>&lt;\u202e"
ALLOWED = {"div", "p", "table", "thead", "tbody", "tr", "th", "td"}
STYLES = {"text-align: left", "text-align: right"}  # no colours: they would be wrong in a dark notebook


class Reader(HTMLParser):
    """Collects the texts of a page, and refuses any markup but that of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED
        assert all(name == "style" and value in STYLES for name, value in attrs)
        if tag in ("p", "th", "td"):
            self.texts.append("")

    def handle_data(self, data: str) -> None:
        self.texts[-1] += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)


def texts_of(page: str) -> list[str]:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader.texts


@given(st.lists(st.text(st.characters(codec=None)), min_size=3, max_size=3))
@example([HOSTILE, "<!--", "x" * (SHOWN_OF_A_TEXT + 1)])
def test_the_texts_of_a_table_are_read_back_as_text(texts: list[str]) -> None:
    title, heading, cell = texts
    shown = [printable(shorten(text, SHOWN_OF_A_TEXT)) for text in texts]
    assert texts_of(html_table(title, [heading], [[cell]])) == shown


def test_a_long_table_is_cut_and_counted() -> None:
    texts = texts_of(html_table("t", ["n"], ([str(number)] for number in range(ROWS_SHOWN + 7))))
    assert texts[-2:] == [str(ROWS_SHOWN - 1), "… and 7 more"]


def test_runs_and_comparisons_of_hostile_targets_and_replies_stay_dead(tmp_path: Path) -> None:
    targets = (f"{HOSTILE}@google", f"{HOSTILE}2@google")
    made = MadeRun(tmp_path / HOSTILE.replace("/", "_"), [dialogue(HOSTILE, HOSTILE)], targets=targets)
    for target in targets:
        made.replied(made.ident(0, 1, target), SEED_REPLY._replace(text=HOSTILE, model_version=HOSTILE))
    run = package.load(made.write().path)
    of_run = texts_of(run._repr_html_())  # pyright: ignore[reportPrivateUsage]  # IPython's protocol
    assert printable(targets[0]) in of_run
    comparison = package.compare((run, targets[0]), (run, targets[1]), metric="output_tokens")
    assert "output_tokens" in texts_of(comparison._repr_html_())  # pyright: ignore[reportPrivateUsage]  # as above
