"""Output of `prefer`: tables on the terminal, Markdown, JSON; layout and wording only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any

from convbatch.comparison.preferences import (
    SETTLED_WORDS,
    SIMILAR,
    Compared,
    PairPreference,
    Preferences,
    PreferredTarget,
    Share,
)
from convbatch.comparison.rank_render import GROUPS_NOTE, PAIRS_SHOWN
from convbatch.comparison.stats import Interval
from convbatch.console import tables
from convbatch.console.html import html_table
from convbatch.console.markdown import md, md_row
from convbatch.console.tables import NONE
from convbatch.console.text import printable
from convbatch.dataset.reader import count_of
from convbatch.pricing import display_amount
from convbatch.results.export import Content, Part, json_bytes

PREFERENCE_PARTS: tuple[Part, ...] = ("value", "markdown", "page")
"""What a result can be written as."""
TARGET_HEADINGS = ("target", "wins", "ties", "losses", "share", "interval", "not told apart")
PAIR_HEADINGS = ("target", "against", "wins", "ties", "losses", "share", "interval", "similar length", "result")
BIAS_HEADINGS = ("the judge", "share", "interval", "of")
SHARE_NOTE = (
    "share: the chance to win against another target, mean over all others (Bradley and Terry), a tie as half. A "
    "target wins where the judge names it in both orders; where the orders differ it is a tie."
)
SIMILAR_NOTE = (
    f"similar length: the share where the shorter reply has at least {100 * SIMILAR:.0f} % of the characters."
)


def preference_content(found: Preferences) -> Content:
    """Return what a result can be written as: one object, a Markdown page, or an HTML page."""

    def page() -> bytes:
        from convbatch.comparison.preference_page import preference_page

        return preference_page(found)

    return {"value": lambda: to_value(found), "markdown": lambda: to_markdown(found), "page": page}


def to_terminal(found: Preferences, *, file: IO[str] | None = None) -> None:
    """Print a result, the sentence first."""
    console = tables.console(file)
    tables.print_note(console, sentence(found), "bold")
    for line in facts(found):
        tables.print_note(console, line)
    console.print()
    _print(console, TARGET_HEADINGS, [target_cells(one) for one in found.targets], (0, 6))
    tables.print_note(console, SHARE_NOTE)
    tables.print_note(console, GROUPS_NOTE)
    console.print()
    tables.print_note(console, "Every pair", "bold underline")
    rows = [pair_cells(found, one) for one in _proven_first(found)]
    _print(console, PAIR_HEADINGS, rows[:PAIRS_SHOWN], (0, 1, 8))
    if len(rows) > PAIRS_SHOWN:
        tables.print_note(console, f"… and {len(rows) - PAIRS_SHOWN:,} more: -o FILE.md or .json")
    tables.print_note(console, SIMILAR_NOTE)
    console.print()
    tables.print_note(console, "Biases of the judge", "bold underline")
    _print(console, BIAS_HEADINGS, bias_rows(found), (0,))


def _print(console: Any, headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> None:
    grid = tables.make_table(*((name, "left" if n in left else "right") for n, name in enumerate(headings)))
    for row in rows:
        grid.add_row(*(tables.single_line_text(cell) for cell in row))
    console.print(grid)


def to_html_summary(found: Preferences) -> str:
    """Return a row per target as HTML, for a notebook."""
    return html_table(sentence(found), TARGET_HEADINGS, [target_cells(one) for one in found.targets])


def to_markdown(found: Preferences) -> str:
    """Return the result as Markdown."""
    pairs = [pair_cells(found, one) for one in _proven_first(found)]
    parts = [
        f"## {md(printable(sentence(found)))}",
        "\n".join(f"- {md(printable(line))}" for line in facts(found)),
        _md_table(TARGET_HEADINGS, [target_cells(one) for one in found.targets], (0, 6)),
        f"{md(SHARE_NOTE)} {md(GROUPS_NOTE)}",
        "### Every pair",
        _md_table(PAIR_HEADINGS, pairs, (0, 1, 8)),
        md(SIMILAR_NOTE),
        "### Biases of the judge",
        _md_table(BIAS_HEADINGS, bias_rows(found), (0,)),
    ]
    return "\n\n".join(parts) + "\n"


def _md_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    lines = [md_row(headings), md_row(["---" if n in left else "---:" for n in range(len(headings))])]
    return "\n".join([*lines, *(md_row([md(printable(cell)) for cell in row]) for row in rows)])


def to_json(found: Preferences) -> bytes:
    """Return the result as JSON."""
    return json_bytes(to_value(found))


def to_value(found: Preferences) -> dict[str, Any]:
    """Return the result as one JSON object; its keys are a contract."""
    return {
        "summary": sentence(found),
        "exit_code": found.exit_code,
        "gate": found.gate,
        "fail_if_beaten": found.rules.fail_if_beaten,
        "alpha": found.rules.alpha,
        "run": None if found.run is None else found.run.name,
        "judge": found.judge,
        "rubrics": list(found.rubrics),
        "questions": found.questions,
        "cost": _cost(found),
        "complete": found.is_complete,
        "targets": [target_record(one) for one in found.targets],
        "pairs": [pair_record(one) for one in found.pairs],
        "position": _share_record(found.position),
        "differing": _share_record(found.differing),
        "longer": _share_record(found.longer),
        "unasked": dict(found.unasked),
        "without_verdict": dict(found.without_verdict),
        "notes": list(found.notes),
    }


def target_record(one: PreferredTarget) -> dict[str, Any]:
    """Return a target with the keys of `--json`; `ci` is the simultaneous interval of `share`."""
    return {
        "name": one.name,
        "share": None if one.share is None else round(one.share, 9),
        "ci": _ends(one.ci),
        "strength": None if one.strength is None else round(one.strength, 9),
        "groups": one.groups.split(),
        "wins": one.wins,
        "ties": one.ties,
        "losses": one.losses,
        "better_than": list(one.better_than),
        "worse_than": list(one.worse_than),
    }


def pair_record(one: PairPreference) -> dict[str, Any]:
    """Return a pair with the keys of `--json`; wins, losses and `share` are of the first target."""
    return {
        "first": one.first,
        "second": one.second,
        "wins": one.wins,
        "ties": one.ties,
        "losses": one.losses,
        "left_out": one.left_out,
        "dialogues": one.dialogues,
        "share": None if one.share is None else round(one.share, 12),
        "ci": _ends(one.ci),
        "p_adjusted": one.p_adjusted,
        "similar": _share_record(one.similar),
        "better": one.better,
        "why_open": one.why_open or None,
    }


def comparison_record(one: Compared) -> dict[str, Any]:
    """Return one comparison of two replies."""
    lengths = one.lengths or (None, None)
    return {
        **{name: getattr(one, name) for name in ("dialogue", "turn", "repeat", "check", "first", "second", "score")},
        "first_in_front": one.choices[0],
        "second_in_front": one.choices[1],
        "first_length": lengths[0],
        "second_length": lengths[1],
        "reason": one.why or one.reasons[0],
    }


def _share_record(one: Share) -> dict[str, Any]:
    return {"share": None if one.value is None else round(one.value, 12), "ci": _ends(one.ci), "of": one.count}


def _ends(ci: Interval | None) -> list[float] | None:
    return None if ci is None else [round(end, 9) for end in ci]


# --- words -----------------------------------------------------------------------------------------------------------


def sentence(found: Preferences) -> str:
    """Return the result as one sentence."""
    count, proven = len(found.targets), len(found.proven)
    best = found.targets[0]
    who = "The judge" if found.judge is None else found.judge
    if not proven:
        return f"No preference between {count} targets is proven"
    some = f"{proven:,} of {count_of(len(found.pairs), 'preference')} {'is' if proven == 1 else 'are'} proven"
    if len(best.better_than) == count - 1:
        return f"{who} prefers {best.name} to {'the other' if count == 2 else 'each of the others'}; {some}"
    open_ones = [one.name for one in found.targets if not one.worse_than]
    return f"{some}; no other target is proven to be preferred to {', '.join(open_ones)}"


def facts(found: Preferences) -> Iterator[str]:
    """Yield what was asked and what limits the result."""
    for rubric in found.rubrics[:3]:
        yield f"rubric: {rubric}"
    if len(found.rubrics) > 3:
        yield f"and {len(found.rubrics) - 3:,} more rubrics"
    dialogues = len({one.dialogue for one in found.comparisons})
    pairs = f"{count_of(len(found.comparisons), 'comparison')} of two replies in {count_of(dialogues, 'dialogue')}"
    asked = f"{count_of(found.questions, 'question')} in both orders"
    cost = _cost(found)
    reused = 0 if found.run is None else found.run.summary()[0].reused
    if reused:
        asked += f", {reused:,} of them answered in an earlier run (--reuse)"
    yield f"{pairs}; {asked}{_tokens(found)}" + ("" if cost is None else f"; cost {cost}")
    for why, count in found.unasked.items():
        yield f"not asked: {count:,}: {SETTLED_WORDS.get(why, f'left out: {why}')}"
    for why, count in found.without_verdict.items():
        yield f"without a verdict: {count_of(count, 'question')}: {why}"
    share = f"{100 * found.rules.alpha:.4g} %"
    yield (
        f"dialogues are the unit; the intervals of pairs hold at once, and the chance of any false claim "
        f"({count_of(len(found.pairs), 'pair')}) is at most about {share}"
    )
    if found.rules.fail_if_beaten is not None:
        yield f"gate: {found.gate}, exit code {found.exit_code:d} (--fail-if-beaten {found.rules.fail_if_beaten})"
    yield from found.notes


def _cost(found: Preferences) -> str | None:
    """Return what the judge's answers in this run cost; None if that is unknown."""
    if found.run is None:
        return None
    total = found.run.summary()[0]
    if total.spent is None or total.currency is None or total.unpriced:
        return None
    return f"{display_amount(total.spent)} {total.currency}"


def _tokens(found: Preferences) -> str:
    if found.run is None:
        return ""
    total = found.run.summary()[0]
    if total.input_tokens is None or total.output_tokens is None:
        return ""
    return f"; {total.input_tokens:,} input and {total.output_tokens:,} output tokens"


def target_cells(one: PreferredTarget) -> list[str]:
    """Return a target as texts."""
    counts = [f"{n:,}" for n in (one.wins, one.ties, one.losses)]
    share = NONE if one.share is None else _percent(one.share)
    return [one.name, *counts, share, interval_text(one.ci), one.groups]


def pair_cells(found: Preferences, one: PairPreference) -> list[str]:
    """Return a pair as texts, from the target that stands higher to the lower one."""
    one = oriented(found, one)
    similar = NONE if one.similar.value is None else f"{_percent(one.similar.value)} of {one.similar.count:,}"
    share = NONE if one.share is None else _percent(one.share)
    counts = [f"{n:,}" for n in (one.wins, one.ties, one.losses)]
    return [one.first, one.second, *counts, share, interval_text(one.ci), similar, pair_result(one)]


def oriented(found: Preferences, one: PairPreference) -> PairPreference:
    """Return a pair with the target in front that stands higher."""
    order = [target.name for target in found.targets]
    return one if order.index(one.first) <= order.index(one.second) else swapped(one)


def swapped(one: PairPreference) -> PairPreference:
    """Return the same pair with the targets in the other order."""
    similar = one.similar
    return PairPreference(
        first=one.second,
        second=one.first,
        wins=one.losses,
        ties=one.ties,
        losses=one.wins,
        left_out=one.left_out,
        dialogues=one.dialogues,
        share=None if one.share is None else 1 - one.share,
        ci=_complement(one.ci),
        p_adjusted=one.p_adjusted,
        similar=Share(
            value=None if similar.value is None else 1 - similar.value,
            ci=_complement(similar.ci),
            count=similar.count,
        ),
        better=one.better,
        why_open=one.why_open,
    )


def _complement(ci: Interval | None) -> Interval | None:
    return None if ci is None else Interval(1 - ci.high, 1 - ci.low)


def pair_result(one: PairPreference) -> str:
    """Return what is known of a pair in words."""
    if one.why_open:
        return f"nothing concluded: {one.why_open}"
    return "not told apart" if one.better is None else f"proven: {one.better} is preferred"


def bias_rows(found: Preferences) -> list[list[str]]:
    """Return what is known of the judge's biases, as texts; 50 % of the first and the third is no bias."""
    rows = (
        (
            "names the reply in front (no bias: 50 %)",
            found.position,
            ("answer that names one", "answers that name one"),
        ),
        ("contradicts itself in the other order", found.differing, ("comparison", "comparisons")),
        ("prefers the longer reply (no preference: 50 %)", found.longer, ("decided comparison", "decided comparisons")),
    )
    return [
        [
            what,
            NONE if one.value is None else _percent(one.value),
            interval_text(one.ci),
            f"{one.count:,} {unit[one.count != 1]}",
        ]
        for what, one, unit in rows
    ]


def interval_text(ci: Interval | None) -> str:
    """Format an interval of a share."""
    return NONE if ci is None else f"{_percent(ci.low)} to {_percent(ci.high)}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _proven_first(found: Preferences) -> list[PairPreference]:
    return sorted(found.pairs, key=lambda one: one.better is None)
